"""How far classes differ in one column, told from the noise."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]

_LEAST, _MOST = 0.02, 1.5  # of the spread: a class is never quite like all, nor unlike any other
_LOWEST = -0.95  # relative effect: no value is impossible in a class for noisy counts alone


def class_effects(
    counts: Reals, variance: Reals, classes: Reals, shares: Reals
) -> tuple[Reals, Reals]:
    """Return what each class does to the shares of values, and how much classes differ at all.

    The relative effects are taken as draws around 0, of a variance that is the smaller the more of
    all customers the class has: as what classes do adds up to nothing, it is (N - n) / n times one
    variance for n of N customers. That one is estimated by moments (DerSimonian and Laird,
    Controlled Clinical Trials 1986); each effect is its posterior mean. Of a column that does not
    depend on the class little more than nothing remains.

    Parameters
    ----------
    counts, variance
        (classes, values): unbiased counts, and the variance of their noise.
    classes
        (classes,): customers of each.
    shares
        (values,): of all customers, sum 1.

    Returns
    -------
    effects : (classes, values)
        Class y has ``shares * (1 + effects[y])`` before they are made to sum to 1; above -1.
    spread : (classes,)
        Standard deviation of the effects, from 0.02 to 1.5.
    """
    used = classes > 0
    effects, spread = np.zeros_like(counts), np.full(len(classes), _LEAST)
    own = classes[used]
    if len(own) < 2:
        return effects, spread
    scale = np.sqrt((own.sum() - own) / own)[:, None]
    expected = np.maximum(np.outer(own, shares), 1.0)
    observed = (counts[used] / expected - 1.0) / scale
    # a class's customers are themselves a sample
    noise = (variance[used] + expected) / (expected * scale) ** 2
    one = max((observed**2 / noise - 1.0).sum() / (1.0 / noise).sum(), 0.0)
    spread[used] = np.clip(math.sqrt(one) * scale[:, 0], _LEAST, _MOST)
    variances = (spread[used][:, None] / scale) ** 2
    effects[used] = np.maximum(scale * observed * variances / (variances + noise), _LOWEST)
    return effects, spread
