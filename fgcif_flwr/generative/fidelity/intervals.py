"""Intervals at 95 % for the figures of a comparison."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Reals = npt.NDArray[np.float64]
Interval = tuple[float, float]

NORMAL = 1.959963984540054
"""The normal law's 97.5 % quantile."""


def auc_interval(positives: Reals, negatives: Reals) -> tuple[float, Interval]:
    """Return the area under the ROC curve of two samples of scores, and its interval.

    The area is the share of pairs in which the positive scores higher, ties half; NaN without a
    positive or a negative. The variance is DeLong, DeLong and Clarke-Pearson's (1988), the
    interval is built on the logit, which keeps it within [0, 1]; at areas of 0 and 1, where the
    variance is 0, it takes in the rule of three, 3 / (the smaller sample).
    """
    first, second = len(positives), len(negatives)
    if not first or not second:
        return math.nan, (math.nan, math.nan)
    ranks = rankdata(np.concatenate([positives, negatives]))
    # For each row the share of the other sample that it is rightly ordered to (its placement).
    above = (ranks[:first] - rankdata(positives)) / second
    below = 1 - (ranks[first:] - rankdata(negatives)) / first
    auc = float(above.mean())
    if auc in (0.0, 1.0) or first < 2 or second < 2:
        slack = min(1.0, 3 / min(first, second))
        return auc, (max(0.0, auc - slack), min(1.0, auc + slack))
    deviation = math.sqrt(above.var(ddof=1) / first + below.var(ddof=1) / second)
    logit, width = math.log(auc / (1 - auc)), NORMAL * deviation / (auc * (1 - auc))
    return auc, (_logistic(logit - width), _logistic(logit + width))


def share_interval(hits: float, trials: int) -> Interval:
    """Return Wilson's (1927) interval for a probability, ``hits`` of ``trials`` observed."""
    if trials == 0:
        return math.nan, math.nan
    share, square = hits / trials, NORMAL**2
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    root = math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    width = NORMAL * root / (1 + square / trials)
    return max(0.0, middle - width), min(1.0, middle + width)


def difference_interval(hits: float, trials: int, other_hits: float, other_trials: int) -> Interval:
    """Return an interval for the difference of two probabilities (Newcombe 1998, method 10)."""
    if not trials or not other_trials:
        return math.nan, math.nan
    share, other = hits / trials, other_hits / other_trials
    low, high = share_interval(hits, trials)
    other_low, other_high = share_interval(other_hits, other_trials)
    down = math.hypot(share - low, other_high - other)
    up = math.hypot(high - share, other - other_low)
    return share - other - down, share - other + up


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-min(max(value, -700.0), 700.0)))
