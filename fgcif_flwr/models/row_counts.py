"""What one row adds to a model's counts, bounded: for sums under a privacy unit.

The flat vectors of :mod:`fgcif_flwr.models.metrics` have a cell for every score; under noise few
cells are better. Here a row's part of a head's counts has Euclidean norm at most 1:

``binary``       (2, 20) one cell: its class and its score's bin, 0.8 wide in the logit
``categorical``  (K, K) one cell: true class and predicted class; with more than three classes then
                 half of whether the true one is among the three likeliest, all over sqrt(1.25)
``numeric``      1, |e|, e^2, y, y^2; (16,) prediction less target, in the prediction's bin; (16, 8)
                 one cell: bins of prediction and target; all over sqrt(7)

A row whose target is missing adds nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fgcif_flwr.models.metrics import SCORE_BINS, has_top, in_top, score_bins
from fgcif_flwr.models.numeric_counts import (
    FRACTIONS,
    PREDICTED_BINS,
    SUMS,
    TRUE_BINS,
    bins_of,
)

if TYPE_CHECKING:
    from fgcif_flwr.data.encoding import Head

COARSE_BINS = 20
COARSE_PREDICTED, COARSE_TRUE = 16, 8

_MERGED = SCORE_BINS // COARSE_BINS
_MERGED_PREDICTED, _MERGED_TRUE = PREDICTED_BINS // COARSE_PREDICTED, TRUE_BINS // COARSE_TRUE
# The hit is one number, the accuracy's noise that of K cells: it needs less of the bound.
_TOP_WEIGHT = 0.5
_CATEGORICAL_NORM = math.sqrt(1 + _TOP_WEIGHT**2)
# Five sums, a difference and a cell, each at most 1.
_NUMERIC_NORM = math.sqrt(SUMS + 2)
_JOINT = SUMS + COARSE_PREDICTED

Floats = npt.NDArray[np.float64]


def row_count_size(head: Head) -> int:
    """Return the length of a head's vector."""
    if head.kind == "binary":
        return 2 * COARSE_BINS
    if head.kind == "categorical":
        return head.outputs**2 + has_top(head)
    return _JOINT + COARSE_PREDICTED * COARSE_TRUE


def row_counts(head: Head, outputs: npt.ArrayLike, targets: npt.ArrayLike) -> Floats:
    """Return each row's part, float64 (rows, ``row_count_size(head)``), of norm at most 1.

    Parameters are those of :func:`fgcif_flwr.models.metrics.count_predictions`. An output that is
    not finite counts as a score of 0, or as class 0.
    """
    values = np.nan_to_num(np.asarray(outputs, np.float64), nan=0.0)
    truth = np.asarray(targets)
    rows = len(truth)
    parts = np.zeros((rows, row_count_size(head)))
    if head.kind == "categorical":
        known = np.flatnonzero((truth >= 0) & (truth < head.outputs))
        logits, classes = values.reshape(rows, head.outputs)[known], truth[known].astype(np.int64)
        parts[known, classes * head.outputs + logits.argmax(axis=1)] = 1.0
        if has_top(head):
            parts[known, -1] = _TOP_WEIGHT * in_top(logits, classes)
            parts /= _CATEGORICAL_NORM
        return parts
    known = np.flatnonzero(~np.isnan(truth))
    values, true = values.reshape(rows)[known], truth[known].astype(np.float64)
    if head.kind == "binary":
        parts[known, (true > 0.5) * COARSE_BINS + score_bins(values) // _MERGED] = 1.0
        return parts
    true, predicted = np.clip(true, 0.0, 1.0), np.clip(values, 0.0, 1.0)
    error = np.abs(predicted - true)
    parts[known, :SUMS] = np.stack([np.ones_like(true), error, error**2, true, true**2], axis=1)
    row, column = bins_of(predicted, COARSE_PREDICTED), bins_of(true, COARSE_TRUE)
    parts[known, SUMS + row] = predicted - true
    parts[known, _JOINT + row * COARSE_TRUE + column] = 1.0
    return parts / _NUMERIC_NORM


def counts_from_sum(head: Head, total: npt.ArrayLike) -> Floats:
    """Return the flat vector of :mod:`fgcif_flwr.models.metrics` that a noisy sum stands for.

    Negative cells of a binary or categorical head are noise and become zero. A numeric head's
    sums, which have no such cells, become NaN where noise has made them 0 or less, but for the
    number of rows. Its histogram's margins become the nearest ones without negative cells that have
    that number of rows, and its cells the nearest that have these margins, zero in empty rows and
    columns (cutting cells at zero would dilute the correlation). Scores of one merged bin count as
    ties, and a prediction as the middle of its bin.
    """
    sums = np.asarray(total, np.float64)
    if head.kind == "numeric":
        return _numeric_counts(sums * _NUMERIC_NORM)
    sums = np.maximum(sums, 0.0)
    if head.kind == "binary":
        fine = np.zeros((2, COARSE_BINS, _MERGED))
        fine[:, :, _MERGED // 2] = sums.reshape(2, COARSE_BINS)
        return fine.reshape(-1)
    if not has_top(head):
        return sums
    sums = sums * _CATEGORICAL_NORM
    sums[-1] = min(sums[-1] / _TOP_WEIGHT, sums[:-1].sum())
    return sums


def _numeric_counts(sums: Floats) -> Floats:
    rows = max(sums[0], 0.0)
    moments = np.where(sums[1:SUMS] > 0, sums[1:SUMS], np.nan)
    joint = _joint(sums[_JOINT:].reshape(COARSE_PREDICTED, COARSE_TRUE), rows)
    inside = joint.sum(axis=1)
    middles = (np.arange(COARSE_PREDICTED) + 0.5) / COARSE_PREDICTED
    predicted = inside * middles
    true = np.clip(predicted - sums[SUMS:_JOINT], 0.0, inside)
    fine = np.zeros((COARSE_PREDICTED, _MERGED_PREDICTED, COARSE_TRUE, _MERGED_TRUE))
    place = _MERGED_PREDICTED // 2
    fine[:, place, :, _MERGED_TRUE // 2] = joint
    counts = np.zeros(FRACTIONS + fine.size)
    counts[:SUMS] = rows, *moments
    by_bin = counts[SUMS:FRACTIONS].reshape(2, COARSE_PREDICTED, _MERGED_PREDICTED)
    by_bin[:, :, place] = predicted, true
    counts[FRACTIONS:] = fine.reshape(-1)
    return counts


def _joint(cells: Floats, total: float) -> Floats:
    rows, columns = (nearest_histogram(cells.sum(axis=axis), total) for axis in (1, 0))
    joint = np.zeros_like(cells)
    if not total > 0:
        return joint
    occupied = np.ix_(rows > 0, columns > 0)
    inner = cells[occupied]
    by_row = (rows[rows > 0] - inner.sum(axis=1)) / inner.shape[1]
    by_column = (columns[columns > 0] - inner.sum(axis=0)) / inner.shape[0]
    joint[occupied] = inner + by_row[:, None] + by_column - (total - inner.sum()) / inner.size
    return joint


def nearest_histogram(cells: Floats, total: float) -> Floats:
    """Return the cells nearest to ``cells`` that are not negative and add up to ``total``.

    All cells are lowered (or raised) by one amount and cut at zero (Duchi et al. 2008, "Efficient
    projections onto the l1-ball"). Cutting alone would add up half of the empty cells' noise.
    """
    if not total > 0:
        return np.zeros_like(cells)
    largest = np.sort(cells)[::-1]
    lowered = (np.cumsum(largest) - total) / np.arange(1, len(cells) + 1)
    amount = lowered[np.flatnonzero(largest >= lowered)[-1]]
    nearest: Floats = np.maximum(cells - amount, 0.0)
    return nearest
