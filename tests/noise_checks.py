"""How the tests judge noise: is its variance what was promised? And how much that can see."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import scipy.stats

from fgcif_flwr.privacy.noise import cryptographic_generator

FALSE_ALARM = 1e-6
"""Share of all keys for which a check of right noise fails."""


def draws(number: int) -> np.random.Generator:
    """Return the cryptographic generator under a key that is the same at every call."""
    return cryptographic_generator(lambda size: hashlib.sha256(b"%d" % number).digest()[:size])


def excess(values: np.ndarray, variance: float) -> float:
    """Return how many standard deviations the mean of squares is from ``variance``.

    A Skellam variable X of variance v has E X^4 = 3 v^2 + v, so that X^2 has variance
    2 v^2 + v; the mean over thousands is normal to the tails used here.
    """
    relative = float(np.mean(np.square(values, dtype=np.float64))) / variance - 1
    return relative / math.sqrt((2 + 1 / variance) / len(values))


def variance_is(values: np.ndarray, variance: float) -> bool:
    """Tell whether noise of mean 0 has this variance."""
    return abs(excess(values, variance)) < scipy.stats.norm.isf(FALSE_ALARM / 2)


def variance_is_at_least(values: np.ndarray, variance: float) -> bool:
    """Tell whether noise of mean 0 has this variance or more.

    A share f of the variance missing goes unseen, as often as there is a false alarm, where
    there are fewer than about 2 (2 * 4.75 / f)^2 values (:func:`values_needed`): 282,000 for
    f = 1/40, 700 for f = 1/2.
    """
    return excess(values, variance) > -scipy.stats.norm.isf(FALSE_ALARM)


def values_needed(missing: float, variance: float) -> int:
    """Return the values that :func:`variance_is_at_least` needs to see a share missing.

    It then fails to see it with probability :data:`FALSE_ALARM`.
    """
    quantile = scipy.stats.norm.isf(FALSE_ALARM)
    one = math.sqrt(2 + 1 / variance)
    return math.ceil((quantile * one * (1 + (1 - missing)) / missing) ** 2)
