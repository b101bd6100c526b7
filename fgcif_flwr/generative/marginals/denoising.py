"""Histograms from noisy counts, by what is known of the noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]


def nonnegative(counts: Reals, total: float) -> Reals:
    """Return the nearest counts (least squares) that are not negative and sum to ``total``.

    The projection to a simplex (Held, Wolfe and Crowder, 1974): one constant is taken off all
    counts, and what falls below 0 becomes 0. Noise in empty cells goes with it.
    """
    if total <= 0:
        return np.zeros_like(counts)
    falling = np.sort(counts)[::-1]
    excess = (np.cumsum(falling) - total) / np.arange(1, len(counts) + 1)
    last = int(np.flatnonzero(falling > excess)[-1])
    projected: Reals = np.maximum(counts - excess[last], 0.0)
    return projected


def segmented(counts: Reals, deviation: float) -> Reals:
    """Return the counts of ordered cells, averaged over stretches that noise cannot tell apart.

    The stretches are those of least squared error plus a price for each (penalised least squares
    over all partitions by dynamic programming; Boysen et al., Annals of Statistics 2009): a
    density's shape stays where it stands out of the noise, single high cells too.

    Parameters
    ----------
    counts
        (cells,), noise of one standard deviation in each.
    deviation
        Its standard deviation; at 0 the counts are returned.
    """
    cells = len(counts)
    if deviation <= 0 or cells < 2:
        return counts.copy()
    price = _PRICE * deviation**2 * np.log(cells)
    sums, squares = np.zeros(cells + 1), np.zeros(cells + 1)
    np.cumsum(counts, out=sums[1:])
    np.cumsum(counts**2, out=squares[1:])
    best, start = np.zeros(cells + 1), np.zeros(cells + 1, np.int64)
    for end in range(1, cells + 1):
        first = np.arange(end)
        error = squares[end] - squares[:end] - (sums[end] - sums[:end]) ** 2 / (end - first)
        costs = best[:end] + error + price
        start[end] = int(np.argmin(costs))
        best[end] = costs[start[end]]
    smooth = np.empty(cells)
    end = cells
    while end:
        smooth[start[end] : end] = (sums[end] - sums[start[end]]) / (end - start[end])
        end = int(start[end])
    return smooth


_PRICE = 1.5  # of a stretch, in variances of the noise times the logarithm of the cells
