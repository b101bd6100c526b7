"""By how much one model is better than another on the same rows, and what of that is chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PairedGain:
    """A gain on the same rows; above 0 the second model is better.

    Attributes
    ----------
    figure
        What is compared.
    gain
        Of the second model over the first.
    lower
        One-sided lower confidence bound of the gain; NaN where the rows do not give one.
    rows
        That were compared.
    """

    figure: str
    gain: float
    lower: float
    rows: int


def auc_gain(
    before: npt.ArrayLike, after: npt.ArrayLike, labels: npt.ArrayLike, confidence: float
) -> PairedGain:
    """Compare the areas under the ROC curve of two models' scores of the same rows.

    The gain's variance is that of DeLong, DeLong and Clarke-Pearson (1988), "Comparing the areas
    under two or more correlated receiver operating characteristic curves"; ties count half.

    Parameters
    ----------
    before, after
        Scores, (rows,), of which only the order counts.
    labels
        (rows,): 0, 1, or NaN where missing; at least two of each class.
    confidence
        Of the bound, in (0.5, 1).

    Raises
    ------
    ValueError
        With fewer than two rows of a class.
    """
    truth = np.asarray(labels, np.float64)
    positive, negative = truth == 1, truth == 0
    if min(positive.sum(), negative.sum()) < 2:
        raise ValueError("two AUCs are compared on at least two rows of each class")
    parts = [
        _placements(np.asarray(scores, np.float64), positive, negative)
        for scores in (before, after)
    ]
    positives, negatives = parts[1][0] - parts[0][0], parts[1][1] - parts[0][1]
    variance = positives.var(ddof=1) / len(positives) + negatives.var(ddof=1) / len(negatives)
    gain = float(positives.mean())
    bound = gain - float(stats.norm.ppf(confidence)) * math.sqrt(variance)
    return PairedGain("auc", gain, bound, len(positives) + len(negatives))


def loss_gain(before: npt.ArrayLike, after: npt.ArrayLike, confidence: float) -> PairedGain:
    """Compare the mean of two models' losses of the same rows, (rows,), by a paired t bound."""
    saved = np.asarray(before, np.float64) - np.asarray(after, np.float64)
    rows = len(saved)
    if rows < 2:
        raise ValueError("two losses are compared on at least two rows")
    gain = float(saved.mean())
    error = float(saved.std(ddof=1)) / math.sqrt(rows)
    return PairedGain("loss", gain, gain - float(stats.t.ppf(confidence, rows - 1)) * error, rows)


def _placements(
    scores: Reals, positive: npt.NDArray[np.bool_], negative: npt.NDArray[np.bool_]
) -> tuple[Reals, Reals]:
    """Return the share of the other class that each positive and each negative is right of."""
    high, low = scores[positive], scores[negative]
    among_all = stats.rankdata(np.concatenate([high, low]))
    of_positives = (among_all[: len(high)] - stats.rankdata(high)) / len(low)
    of_negatives = 1 - (among_all[len(high) :] - stats.rankdata(low)) / len(high)
    return of_positives, of_negatives
