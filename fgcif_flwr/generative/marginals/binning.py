"""A column's cells in few bins that hold similar numbers of customers."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fgcif_flwr.generative.marginals.grid import GRID

Reals = npt.NDArray[np.float64]
Bins = npt.NDArray[np.int64]

_FEWEST, _FEWEST_OF_PAIRS = 6, 3
_STAND_OUT, _PAIRS_STAND_OUT = 3.0, 2.0  # standard deviations of the noise


def useful_bins(classes: Reals, deviation: float, most: int) -> int:
    """Return how many bins of a column the noise of its cells allows, 6 to ``most``.

    A bin holds the customers of a class who stand out of the noise of the cells in it.

    Parameters
    ----------
    classes
        (classes,): customers of each.
    deviation
        Standard deviation of the noise in each of ``GRID`` cells.
    """
    noise = _STAND_OUT * deviation * math.sqrt(GRID)
    wanted = (_per_class(classes) / noise) ** 2 if noise > 0 else math.inf
    return min(math.floor(min(max(wanted, _FEWEST), most)), most)


def useful_pair_bins(classes: Reals, deviation: float, most: int) -> int:
    """Return how many bins of each column of a pair the noise in each cell of two bins allows, 3 to
    ``most``."""
    noise = _PAIRS_STAND_OUT * deviation
    wanted = math.sqrt(_per_class(classes) / noise) if noise > 0 else math.inf
    return min(math.floor(min(max(wanted, _FEWEST_OF_PAIRS), most)), most)


def _per_class(classes: Reals) -> float:
    return float(classes.sum()) / max(int((classes > 0).sum()), 1)


def ordered_bins(histogram: Reals, bins: int) -> Bins:
    """Put neighbouring cells together, (cells,) of bins from 0 upwards, at most ``bins``.

    A cell that holds more than its share is a bin of its own; the others are divided so that the
    fullest bin holds least (linear partition, by dynamic programming over squared counts).
    """
    cells = len(histogram)
    sums = np.concatenate([[0.0], np.cumsum(histogram)])
    if sums[-1] <= 0:
        return (np.arange(cells) * bins // cells).astype(np.int64)
    best = np.full((bins + 1, cells + 1), np.inf)
    start = np.zeros((bins + 1, cells + 1), np.int64)
    best[0, 0] = 0.0
    for used in range(1, bins + 1):
        for end in range(1, cells + 1):
            costs = best[used - 1, :end] + (sums[end] - sums[:end]) ** 2
            start[used, end] = int(np.argmin(costs))
            best[used, end] = costs[start[used, end]]
    used = min(bins, cells)
    result = np.zeros(cells, np.int64)
    end = cells
    while used:
        first = int(start[used, end])
        result[first:end] = used - 1
        end, used = first, used - 1
    return result


def unordered_bins(histogram: Reals, rank: Reals, bins: int) -> Bins:
    """Put codes together, (codes,) of bins from 0 upwards, at most ``bins``.

    Codes are ordered by ``rank`` (such as the share of a class) and divided as ordered cells are;
    with no more codes in use than bins every code keeps a bin, and those not in use share the
    fullest one's.
    """
    used = np.flatnonzero(histogram > 0)
    result = np.zeros(len(histogram), np.int64)
    if len(used) == 0:
        return result
    order = used[np.argsort(rank[used], kind="stable")]
    if len(used) <= bins:
        result[used] = np.arange(len(used))
    else:
        result[order] = ordered_bins(histogram[order], bins)
    empty = np.setdiff1d(np.arange(len(histogram)), used)
    result[empty] = result[int(np.argmax(histogram))]
    return result
