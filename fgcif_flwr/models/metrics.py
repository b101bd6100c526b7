"""Metrics of a model as functions of counts that are plain sums over rows.

An enterprise counts (:func:`count_predictions`), the secure sum adds, and whoever receives the
sum computes the metrics (:func:`metrics_from_counts`): no enterprise's own metric is ever sent.

The flat vector of a head, float64, whose entries are sums over the rows with a known target:

``binary``       (2, 200) histogram of the scores, first of the negatives, then of the positives
``categorical``  (K, K) confusion matrix, rows the true class, columns the predicted one; with more
                 than three classes then the rows whose true class is among the three likeliest
``numeric``      sums of errors, and a joint histogram of predictions and targets
                 (:mod:`fgcif_flwr.models.numeric_counts`), with the target scaled to [0, 1] and
                 the prediction clipped to it

The entries of binary and categorical heads, and of a histogram, are whole numbers and exact in
float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import RunFailedError
from fgcif_flwr.models.numeric_counts import (
    FRACTIONS,
    NUMERIC_SIZE,
    numeric_counts,
    numeric_metrics,
)

if TYPE_CHECKING:
    from fgcif_flwr.data.encoding import Head

SCORE_BINS = 200
SCORE_LOGIT_BOUND = 8.0
TOP = 3
"""Likeliest classes among which the true one is looked for, where there are more."""

_BINS_PER_LOGIT = SCORE_BINS / (2 * SCORE_LOGIT_BOUND)

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def score_bins(logits: npt.ArrayLike) -> Indices:
    """Return the bin, 0 to 199, of each logit.

    The bins are uniform in the logit, 0.08 wide, between -8 and 8; logits beyond fall into the
    outer bins. Bins from 100 on are exactly the logits of at least 0, probability .5.
    """
    bound = SCORE_LOGIT_BOUND
    scaled = np.floor(np.clip(np.asarray(logits, np.float64), -bound, bound) * _BINS_PER_LOGIT)
    half = SCORE_BINS // 2
    return np.minimum(scaled, half - 1).astype(np.int64) + half


def count_size(head: Head) -> int:
    """Return the length of the flat vector of ``head``."""
    if head.kind == "binary":
        return 2 * SCORE_BINS
    if head.kind == "categorical":
        return head.outputs**2 + has_top(head)
    return NUMERIC_SIZE


def fractional_size(head: Head) -> int:
    """Return how many leading entries of the flat vector are no whole numbers."""
    return FRACTIONS if head.kind == "numeric" else 0


def has_top(head: Head) -> bool:
    """Whether the head's vector ends in the rows whose true class is among the likeliest."""
    return head.kind == "categorical" and head.outputs > TOP


def count_predictions(head: Head, outputs: npt.ArrayLike, targets: npt.ArrayLike) -> Floats:
    """Return the flat vector of ``head`` over these rows; rows with missing target add nothing.

    Parameters
    ----------
    outputs
        The network's outputs of this head, (rows, ``head.outputs``); (rows,) will do where there
        is one. Logits for binary and categorical heads, a prediction on the target's scale of
        [0, 1] for numeric ones.
    targets
        (rows,) as encoded: 0 or 1 and NaN where missing (binary), class and -1 where missing
        (categorical), in [0, 1] and NaN where missing (numeric).

    Returns
    -------
    float64 (``count_size(head)``,), each entry in [0, rows].

    Raises
    ------
    RunFailedError
        If an output is not finite: the model has diverged.
    ValueError
        If the shapes do not fit the head.
    """
    values = np.asarray(outputs, dtype=np.float64)
    truth = np.asarray(targets)
    rows = len(truth)
    if values.shape != (rows, head.outputs) and not (head.outputs == 1 and values.shape == (rows,)):
        raise ValueError(
            f"head {head.name} wants outputs of shape ({rows}, {head.outputs}), not {values.shape}"
        )
    if not np.isfinite(values).all():
        raise RunFailedError("the model's outputs are not finite: lower training.learning_rate")
    if head.kind == "categorical":
        return _categorical_counts(head, values, truth.astype(np.int64))
    known = ~np.isnan(truth)
    values, truth = values.reshape(rows)[known], truth[known].astype(np.float64)
    if head.kind == "binary":
        cells = (truth > 0.5) * SCORE_BINS + score_bins(values)
        return np.bincount(cells, minlength=2 * SCORE_BINS).astype(np.float64)
    return numeric_counts(np.clip(values, 0.0, 1.0), np.clip(truth, 0.0, 1.0))


def in_top(logits: Floats, truth: Indices) -> npt.NDArray[np.bool_]:
    """Return whether each row's class, (rows,), is among the three of the largest logits.

    Of equal logits the earlier class comes first.
    """
    likeliest = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    found: npt.NDArray[np.bool_] = (likeliest == truth[:, np.newaxis]).any(axis=1)
    return found


def metrics_from_counts(
    head: Head, counts: npt.ArrayLike, resolution: float = 0.0
) -> dict[str, float]:
    """Return the metrics of ``head`` from its flat vector, or from a sum of such vectors.

    ``resolution`` is the largest error of an entry that was rounded on its way; a numeric head's
    r2 is NaN where the targets' spread drowns in it.

    ``binary``: rows, positives, accuracy, precision, recall, f1 (at probability .5) and auc,
    where scores of one bin count as ties. That is within .002 of the exact auc while the logits'
    standard deviation is above about .35 and few lie beyond -8 and 8; scores that all lie within
    a bin or two, as an untrained network's, are mostly ties and pull it towards .5.
    ``categorical``: rows, accuracy, macro_f1 (the mean over classes that occur, as truth or as
    prediction), and with more than three classes top3_hit_rate. ``numeric``: rows, mae and rmse (as
    shares of the target's public range), r2, spearman (at the histogram's bins),
    decile_1_predicted, decile_1_true, ... (means by decile of the prediction, as such shares) and
    calibration_gap, the largest difference of the two.

    precision, recall and f1 are 0 where undefined, all others NaN.

    Raises
    ------
    ValueError
        If the vector has another length than ``count_size(head)``.
    """
    vector = np.asarray(counts, dtype=np.float64)
    if vector.shape != (count_size(head),):
        raise ValueError(
            f"head {head.name} wants counts of shape ({count_size(head)},), not {vector.shape}"
        )
    if head.kind == "binary":
        return _binary(vector.reshape(2, SCORE_BINS))
    if head.kind == "categorical":
        return _categorical(head, vector)
    return numeric_metrics(vector, resolution)


def _categorical_counts(head: Head, logits: Floats, truth: Indices) -> Floats:
    known = truth >= 0
    logits, truth = logits[known], truth[known]
    cells = truth * head.outputs + logits.argmax(axis=1)
    confusion = np.bincount(cells, minlength=head.outputs**2).astype(np.float64)
    return np.append(confusion, in_top(logits, truth).sum()) if has_top(head) else confusion


def _binary(histogram: Floats) -> dict[str, float]:
    negatives, positives = histogram
    half = SCORE_BINS // 2
    true_positives, false_positives = positives[half:].sum(), negatives[half:].sum()
    precision = _ratio(true_positives, true_positives + false_positives, 0.0)
    recall = _ratio(true_positives, positives.sum(), 0.0)
    correct = true_positives + negatives[:half].sum()
    return {
        "rows": round(histogram.sum()),
        "positives": round(positives.sum()),
        "accuracy": _ratio(correct, histogram.sum(), np.nan),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * precision * recall, precision + recall, 0.0),
        "auc": _area_under_curve(negatives, positives),
    }


def _area_under_curve(negatives: Floats, positives: Floats) -> float:
    # The trapezoid under the curve: pairs of different bins as ordered, pairs of one bin half.
    below = np.cumsum(negatives) - negatives / 2
    return _ratio((positives * below).sum(), negatives.sum() * positives.sum(), np.nan)


def _categorical(head: Head, counts: Floats) -> dict[str, float]:
    confusion = counts[: head.outputs**2].reshape(head.outputs, head.outputs)
    correct = np.diagonal(confusion)
    occurrences = confusion.sum(axis=0) + confusion.sum(axis=1)
    occurring = occurrences > 0
    f1 = 2 * correct[occurring] / occurrences[occurring]
    rows = confusion.sum()
    metrics = {
        "rows": round(rows),
        "accuracy": _ratio(correct.sum(), rows, np.nan),
        "macro_f1": float(f1.mean()) if occurring.any() else 0.0,
    }
    if has_top(head):
        metrics["top3_hit_rate"] = _ratio(counts[-1], rows, np.nan)
    return metrics


def _ratio(numerator: float, denominator: float, undefined: float) -> float:
    return float(numerator / denominator) if denominator > 0 else undefined
