"""What one row adds to a model's counts, bounded: for sums under a privacy unit.

The flat vectors of :mod:`fgcif_flwr.models.metrics` have a cell for every score; under noise few
cells are better. Here a row's part of a head's counts has Euclidean norm at most 1:

``binary``       (2, 20) one cell: its class and its score's bin, 0.8 wide in the logit
``categorical``  (K, K) one cell: true class and predicted class
``numeric``      1, |e|, e^2, y, y^2, over sqrt(5)

A row whose target is missing adds nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fgcif_flwr.models.metrics import SCORE_BINS, count_size, score_bins

if TYPE_CHECKING:
    from fgcif_flwr.data.encoding import Head

COARSE_BINS = 20
_MERGED = SCORE_BINS // COARSE_BINS
_NUMERIC_SUMS = 5

Floats = npt.NDArray[np.float64]


def row_count_size(head: Head) -> int:
    """Return the length of a head's vector."""
    return 2 * COARSE_BINS if head.kind == "binary" else count_size(head)


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
        predicted = values.reshape(rows, head.outputs)[known].argmax(axis=1)
        parts[known, truth[known].astype(np.int64) * head.outputs + predicted] = 1.0
        return parts
    known = np.flatnonzero(~np.isnan(truth))
    values, true = values.reshape(rows)[known], truth[known].astype(np.float64)
    if head.kind == "binary":
        parts[known, (true > 0.5) * COARSE_BINS + score_bins(values) // _MERGED] = 1.0
        return parts
    true = np.clip(true, 0.0, 1.0)
    error = np.abs(np.clip(values, 0.0, 1.0) - true)
    sums = np.stack([np.ones_like(true), error, error**2, true, true**2], axis=1)
    parts[known] = sums / math.sqrt(_NUMERIC_SUMS)
    return parts


def counts_from_sum(head: Head, total: npt.ArrayLike) -> Floats:
    """Return the flat vector of :mod:`fgcif_flwr.models.metrics` that a noisy sum stands for.

    Negative cells are noise and become zero; a numeric head's sums, which have no such cells,
    become NaN where noise has made them 0 or less, but for the number of rows. Scores of one merged
    bin count as ties.
    """
    sums = np.maximum(np.asarray(total, np.float64), 0.0)
    if head.kind == "numeric":
        sums = np.concatenate([sums[:1], np.where(sums[1:] > 0, sums[1:], np.nan)])
    if head.kind == "binary":
        fine = np.zeros((2, COARSE_BINS, _MERGED))
        fine[:, :, _MERGED // 2] = sums.reshape(2, COARSE_BINS)
        return fine.reshape(-1)
    return sums * math.sqrt(_NUMERIC_SUMS) if head.kind == "numeric" else sums
