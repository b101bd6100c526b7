"""Rank correlation and calibration of a numeric head, from sums over rows.

Predictions and targets lie in [0, 1] of the target's public range. The flat vector, float64:

``sums``       n, sum |e|, sum e^2, sum y, sum y^2
``predicted``  (64,) for each bin of the prediction the sum of the predictions in it
``true``       (64,) and of their targets
``joint``      (64, 32) histogram: bin of the prediction, bin of the target

Bins are of equal width. The histogram's entries are whole numbers, the others are fractions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PREDICTED_BINS, TRUE_BINS = 64, 32
DECILES = 10

SUMS = 5
FRACTIONS = SUMS + 2 * PREDICTED_BINS
"""Leading entries of the vector that are no whole numbers."""
NUMERIC_SIZE = FRACTIONS + PREDICTED_BINS * TRUE_BINS

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def bins_of(scaled: Floats, bins: int) -> Indices:
    """Return the bin, 0 to ``bins`` - 1, of numbers in [0, 1]; 1 is in the last."""
    return np.minimum((scaled * bins).astype(np.int64), bins - 1)


def numeric_counts(predicted: Floats, true: Floats) -> Floats:
    """Return the vector, (NUMERIC_SIZE,), of predictions and targets, (rows,) each, in [0, 1]."""
    error = np.abs(predicted - true)
    sums = [float(len(true)), error.sum(), (error**2).sum(), true.sum(), (true**2).sum()]
    row, column = bins_of(predicted, PREDICTED_BINS), bins_of(true, TRUE_BINS)
    return np.concatenate(
        [
            np.array(sums, dtype=np.float64),
            np.bincount(row, weights=predicted, minlength=PREDICTED_BINS),
            np.bincount(row, weights=true, minlength=PREDICTED_BINS),
            np.bincount(row * TRUE_BINS + column, minlength=PREDICTED_BINS * TRUE_BINS),
        ]
    )


def spearman(joint: Floats) -> float:
    """Return Spearman's rank correlation of a joint histogram; ties by mid-ranks.

    It is that of the rows with both numbers rounded to their bins; NaN where all are in one bin.
    """
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    total = joint.sum()
    if not total > 0:
        return float("nan")
    first, second = _centred_ranks(rows), _centred_ranks(columns)
    spread = (rows @ first**2) * (columns @ second**2)
    if not spread > 0:
        return float("nan")
    # A histogram with noise can go beyond what counts of rows can.
    return float(np.clip(first @ joint @ second / np.sqrt(spread), -1.0, 1.0))


def decile_calibration(counts: Floats) -> Floats:
    """Return mean prediction and mean target by decile of the prediction, (10, 2).

    Deciles hold a tenth of the rows each. A bin that one of their limits runs through is divided
    as if its rows were alike. NaN without rows.

    Parameters
    ----------
    counts
        (NUMERIC_SIZE,), or a sum of such vectors.
    """
    predicted, true = counts[SUMS:FRACTIONS].reshape(2, PREDICTED_BINS)
    rows = counts[FRACTIONS:].reshape(PREDICTED_BINS, TRUE_BINS).sum(axis=1)
    total = rows.sum()
    if not total > 0:
        return np.full((DECILES, 2), np.nan)
    occupied = rows > 0
    rows = rows[occupied]
    means = np.stack([predicted[occupied] / rows, true[occupied] / rows], axis=1)
    ends = np.cumsum(rows)
    limits = np.linspace(0, total, DECILES + 1)
    inside = np.minimum(limits[1:, None], ends) - np.maximum(limits[:-1, None], ends - rows)
    weights = np.maximum(inside, 0)
    calibration: Floats = weights @ means / weights.sum(axis=1, keepdims=True)
    return calibration


def numeric_metrics(counts: Floats, resolution: float) -> dict[str, float]:
    """Return the metrics of a numeric head; see ``metrics_from_counts``."""
    rows, absolute, squared, total, total_squared = counts[:SUMS]
    spread = total_squared - total**2 / rows if rows > 0 else 0.0
    has_spread = spread > max(1e-9 * rows, 10 * resolution)
    calibration = decile_calibration(counts)
    gaps = np.abs(calibration[:, 0] - calibration[:, 1])
    metrics = {
        "rows": round(rows),
        "mae": float(absolute / rows) if rows > 0 else np.nan,
        "rmse": float(np.sqrt(np.maximum(squared / rows, 0.0))) if rows > 0 else np.nan,
        "r2": float(1 - squared / spread) if has_spread else np.nan,
        "spearman": spearman(counts[FRACTIONS:].reshape(PREDICTED_BINS, TRUE_BINS)),
        "calibration_gap": float(gaps.max()),
    }
    for place, (predicted, true) in enumerate(calibration.tolist(), 1):
        metrics[f"{DECILE}{place}_predicted"] = predicted
        metrics[f"{DECILE}{place}_true"] = true
    return metrics


DECILE = "decile_"
"""Prefix of the metrics that hold a decile's means."""


def _centred_ranks(counts: Floats) -> Floats:
    """Return the mid-rank of each bin less the mean rank."""
    ranks: Floats = np.cumsum(counts) - counts / 2 - counts.sum() / 2
    return ranks
