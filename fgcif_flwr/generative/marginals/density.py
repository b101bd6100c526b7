"""Numbers within the cells of a histogram."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]

_SPIKE = 3.0  # times its fuller neighbour: a cell that is as much fuller holds one value


class CellDensity:
    """A density on [0, 1] of a histogram of equal cells: linear within each cell, or one value.

    A cell's slope is the smaller one of the differences to its neighbours, so that the density
    has no steps where the histogram rises or falls, and is nowhere negative. A cell that stands
    out above both neighbours is taken for a single value: 0 in the first cell, 1 in the last,
    else the middle.

    Parameters
    ----------
    histogram : (cells,), not negative
    """

    def __init__(self, histogram: Reals) -> None:
        cells = len(histogram)
        padded = np.concatenate([histogram[:1], histogram, histogram[-1:]])
        before, after = histogram - padded[:-2], padded[2:] - histogram
        least = np.where(np.abs(before) < np.abs(after), before, after)
        slope = np.where(before * after > 0, least, 0.0)
        level = np.where(histogram > 0, histogram, 1.0)
        # with density 1 + tilt * (u - 1/2) on u in [0, 1]; |tilt| <= 2 keeps it positive
        self._tilt = np.clip(slope / level, -2.0, 2.0)
        sides = np.concatenate([[0.0], histogram, [0.0]])
        neighbours = np.maximum(sides[:-2], sides[2:])
        self._single = (histogram > _SPIKE * neighbours) & (histogram > 0)
        self._value = (np.arange(cells) + 0.5) / cells
        self._value[0], self._value[-1] = 0.0, 1.0
        self._cells = cells

    def values(self, cells: npt.NDArray[np.int64], random: np.random.Generator) -> Reals:
        """Return a number in each cell, (rows,); NaN for the one after the last (missing)."""
        absent = cells >= self._cells
        held = np.where(absent, 0, cells)
        u = random.random(len(cells))
        tilt = self._tilt[held]
        # the inverse of u -> u + tilt * (u^2 - u) / 2, without cancellation at small tilts
        half = 1.0 - tilt / 2
        place = 2 * u / (half + np.sqrt(half * half + 2 * tilt * u) + 1e-300)
        inside = (held + np.minimum(place, 1.0)) / self._cells
        return np.where(absent, np.nan, np.where(self._single[held], self._value[held], inside))
