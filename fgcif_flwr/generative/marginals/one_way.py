"""Columns on their own, each with the class: what the first release tells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.generative.columns import Column
from fgcif_flwr.generative.marginals.binning import Bins, ordered_bins, unordered_bins
from fgcif_flwr.generative.marginals.denoising import nonnegative, segmented
from fgcif_flwr.generative.marginals.effects import class_effects
from fgcif_flwr.generative.marginals.grid import GRID

Reals = npt.NDArray[np.float64]

_CERTAIN = 2.0  # standard deviations above which a count is taken to be more than noise


@dataclass(frozen=True)
class ColumnCounts:
    """One column's counts.

    Attributes
    ----------
    numeric : bool
    noisy : (classes, cells)
    deviation : float
        Standard deviation of the noise in each of :attr:`noisy`.
    histogram : (cells,)
        Of all classes, without noise as far as can be told; not negative, sum is the rows.
    by_class : (classes, cells)
        The same of each class.
    """

    numeric: bool
    noisy: Reals
    deviation: float
    histogram: Reals
    by_class: Reals


def class_counts(noisy: Sequence[Reals], deviations: Sequence[float]) -> Reals:
    """Return the customers of each class, (classes,), from all columns' counts (classes, cells).

    Means of the columns' sums, each by its precision; what is not above the noise is 0.
    """
    variances = np.array(
        [one.shape[1] * deviation**2 for one, deviation in zip(noisy, deviations, strict=True)]
    )
    precisions = 1.0 / np.maximum(variances, 1e-6)
    sums = np.array([one.sum(axis=1) for one in noisy])
    counts = precisions @ sums / precisions.sum()
    counts[counts < _CERTAIN / np.sqrt(precisions.sum())] = 0.0
    if counts.sum() <= 0:
        counts[:] = 1.0  # nothing stands out: what is drawn from it says nothing either
    return np.asarray(counts)


def column_counts(column: Column, noisy: Reals, deviation: float, classes: Reals) -> ColumnCounts:
    """Take the noise out of one column's counts.

    ``classes`` are the customers of each class, from :func:`class_counts`.
    """
    used = classes > 0
    total = float(classes.sum())
    pooled = _clean(column, noisy[used].sum(axis=0), deviation * math.sqrt(used.sum()), total)
    shares = pooled / total
    effects, _ = class_effects(noisy, np.full(noisy.shape, deviation**2), classes, shares)
    by_class = shares * (1.0 + effects)
    by_class *= (classes / by_class.sum(axis=1))[:, None]
    return ColumnCounts(column.numeric, noisy, deviation, pooled, by_class)


def within_bins(counts: ColumnCounts, bins: Bins) -> Reals:
    """Return each class's probability of a cell within its bin, (classes, cells)."""
    size = int(bins.max()) + 1
    # a class, or a bin, that has nobody takes the cells that all have, or any
    raised = counts.by_class + 1e-6 * counts.histogram + 1e-9
    sums = sum_bins(raised, bins, size)
    return np.asarray(raised / sums[:, bins])


def sum_bins(counts: Reals, bins: Bins, size: int) -> Reals:
    """Return the counts (classes, cells) summed over each bin's cells, (classes, size)."""
    return np.stack([np.bincount(bins, own, size) for own in counts])


def model_bins(counts: ColumnCounts, bins: int) -> Bins:
    """Put a column's cells into the bins of the model, (cells,) from 0 upwards.

    Missing numbers have the last bin, where there are more than noise; else the fullest one.
    """
    if not counts.numeric:
        return unordered_bins(counts.histogram, _rank(counts, counts.by_class), bins)
    missing = counts.histogram[GRID] > 0
    ordered = ordered_bins(counts.histogram[:GRID], bins - int(missing))
    held = np.bincount(ordered, counts.histogram[:GRID])
    last = len(held) if missing else int(np.argmax(held))
    return np.append(ordered, last)


def coarser_bins(counts: ColumnCounts, fine: Bins, bins: int) -> Bins:
    """Put a column's model bins together, (model bins,) from 0 upwards, at most ``bins``."""
    size = int(fine.max()) + 1
    held = np.asarray(np.bincount(fine, counts.histogram, size), np.float64)
    if size <= bins:
        return np.arange(size)
    if not counts.numeric:
        return unordered_bins(held, _rank(counts, sum_bins(counts.by_class, fine, size)), bins)
    apart = np.bincount(fine[:GRID], minlength=size)[-1] == 0  # the last one is missing alone
    if not apart:
        return ordered_bins(held, bins)
    if held[-1] * 2 * bins >= held.sum():
        return np.append(ordered_bins(held[:-1], bins - 1), bins - 1)
    ordered = ordered_bins(held[:-1], bins)
    return np.append(ordered, ordered[int(np.argmax(held[:-1]))])


def _clean(column: Column, noisy: Reals, deviation: float, total: float) -> Reals:
    if not column.numeric:
        return nonnegative(noisy, total)
    smooth = np.append(segmented(noisy[:GRID], deviation), noisy[GRID])
    if smooth[GRID] < _CERTAIN * deviation:
        smooth[GRID] = 0.0
    smooth[GRID] = min(smooth[GRID], total)
    smooth[:GRID] = nonnegative(smooth[:GRID], total - smooth[GRID])
    return smooth


def _rank(counts: ColumnCounts, by_class: Reals) -> Reals:
    """Return what values are ordered by, (values,): the mean class of each one's customers.

    Where that would be the order of the noise it is their number: bins by noise would seem to
    differ in class, and the noise that they were chosen by cannot tell that they do not.
    """
    sums, classes = by_class.sum(axis=0), by_class.sum(axis=1)
    rarest = classes[classes > 0].min(initial=np.inf) / np.count_nonzero(sums)
    if rarest < _CERTAIN * counts.deviation:
        return np.asarray(sums)
    return np.asarray(np.arange(len(by_class)) @ by_class / np.maximum(sums, 1e-9))
