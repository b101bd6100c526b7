"""What an attacker's decisions in two worlds say of epsilon, with a stated confidence.

A mechanism is (epsilon, delta)-private only if every test of which world it is in has
``tpr <= e^epsilon fpr + delta`` and ``1 - fpr <= e^epsilon (1 - tpr) + delta``. The rates are known
within Clopper and Pearson's intervals (Jagielski, Ullman and Oprea, "Auditing Differentially
Private Machine Learning: How Private is Private SGD?", 2020). A test's threshold must be chosen on
other repetitions than those that its rates are counted on, where the best of many would be lucky.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import beta, norm

Reals = npt.NDArray[np.float64]

_CANDIDATES = 100  # thresholds that are tried from each end of the scores


@dataclass(frozen=True)
class Rates:
    """Of several thresholds: what was observed, and Clopper and Pearson's bounds, jointly."""

    tpr: Reals
    fpr: Reals
    least_tpr: Reals
    most_fpr: Reals


@dataclass(frozen=True)
class Scores:
    """An attacker's scores of some repetitions, as many in each world: higher says present."""

    present: Reals
    absent: Reals

    def above(self, thresholds: Reals, confidence: float) -> Rates:
        """Return the rates of scores above each threshold."""
        count = len(self.present)
        hits = count - np.searchsorted(np.sort(self.present), thresholds, side="right")
        alarms = count - np.searchsorted(np.sort(self.absent), thresholds, side="right")
        each = (1 - confidence) / 2  # two bounds, which are both to hold
        # at no hit, and at nothing but alarms, one parameter is 0: the bounds are then 0 and 1
        least = beta.ppf(each, np.maximum(hits, 1), count - hits + 1)
        most = beta.isf(each, alarms + 1, np.maximum(count - alarms, 1))
        return Rates(
            tpr=hits / count,
            fpr=alarms / count,
            least_tpr=np.where(hits > 0, least, 0.0),
            most_fpr=np.where(alarms < count, most, 1.0),
        )

    def best(self, bound: Callable[[Rates], Reals], confidence: float) -> Reals:
        """Return the threshold, (1,), at which a bound is the greatest."""
        # from the ends inwards: thick where few scores are beyond, which is where epsilon shows
        count = len(self.present)
        ranks = np.unique(np.geomspace(1, count, _CANDIDATES).astype(np.int64)) - 1
        ends = np.sort(self.absent)[::-1][ranks], np.sort(self.present)[ranks]
        thresholds = np.concatenate(ends)
        # Where all thresholds' bounds hold at once: the best of many is else one of few scores
        # that were lucky here, and will not be on the other repetitions.
        strictly = 1 - (1 - confidence) / len(thresholds)
        values = bound(self.above(thresholds, strictly))
        return thresholds[[int(np.argmax(values))]]


def epsilon_bound(rates: Rates, delta: float) -> Reals:
    """Return the least epsilon at delta that the rates allow, at each threshold; -inf for none."""
    with np.errstate(divide="ignore"):
        positives = np.log(np.maximum(rates.least_tpr - delta, 0)) - np.log(rates.most_fpr)
        negatives = np.log(np.maximum(1 - rates.most_fpr - delta, 0)) - np.log1p(-rates.least_tpr)
    epsilon: Reals = np.maximum(positives, negatives)
    return epsilon


def deviation_bound(rates: Rates) -> Reals:
    """Return the least distance of two normal laws, in standard deviations, with such rates.

    A test of them has ``ppf(tpr) - ppf(fpr)`` at most that (Dong, Roth and Su, "Gaussian
    Differential Privacy", 2022; used for audits by Nasr et al., "Tight Auditing of Differentially
    Private Machine Learning", 2023).
    """
    least: Reals = norm.ppf(rates.least_tpr) + norm.isf(rates.most_fpr)
    return least


def gaussian_epsilon(deviation: float, delta: float) -> float:
    """Return epsilon at delta, >= 0, of two normal laws so far apart (the same, corollary 1)."""

    def excess(epsilon: float) -> float:
        middle = epsilon / deviation
        far = norm.logcdf(-middle - deviation / 2)
        return float(norm.cdf(deviation / 2 - middle) - math.exp(epsilon + far) - delta)

    if deviation <= 0 or excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high))
