"""One categorical column as a cell: a frequent code has its own, the rare ones share one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CategoricalCoding:
    """Cells of one column.

    Attributes
    ----------
    kept : int64 (kept,), ascending
        The codes that have a cell of their own, missing (0) always.
    counts : float32 (codes,)
        Rows of each code: of a cell with none, no row is generated; within the cell of rare codes
        they are drawn in proportion.
    """

    kept: Integers
    counts: Floats

    @staticmethod
    def fit(counts: Reals, most_cells: int) -> CategoricalCoding:
        """Give each code a cell, or the most frequent ones where there are more than allowed.

        Parameters
        ----------
        counts
            (codes,), not negative: how often each code was seen.
        most_cells
            At least 3: missing, one code, and the rare ones.
        """
        kept = np.arange(len(counts))
        if len(counts) > most_cells:
            often = 1 + np.argsort(-counts[1:], kind="stable")[: most_cells - 2]
            kept = np.sort(np.append(often, 0))
        return CategoricalCoding(kept.astype(np.int64), counts.astype(np.float32))

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(self.kept) + (len(self.kept) < len(self.counts))

    @property
    def mass(self) -> Floats:
        """Rows in each cell, float32 (cells,)."""
        return np.bincount(self._cell_of_code(), weights=self.counts, minlength=self.cells).astype(
            np.float32
        )

    def is_whole(self, codes: int) -> bool:
        """Return whether the arrays fit one another and a column of so many codes."""
        kept = self.kept
        return (
            len(self.counts) == codes
            and bool((self.counts >= 0).all())
            and 0 < len(kept) <= codes
            and bool(kept[0] == 0 and kept[-1] < codes and (np.diff(kept) > 0).all())
        )

    def forward(self, codes: Integers) -> Integers:
        """Return each row's cell."""
        return self._cell_of_code()[codes]

    def inverse(self, cells: Integers, random: np.random.Generator) -> Integers:
        """Return each row's code; ``random`` decides among those that share a cell."""
        codes = np.append(self.kept, -1)[cells]
        shared = np.flatnonzero(codes < 0)
        if len(shared):
            rare = np.setdiff1d(np.arange(len(self.counts)), self.kept)
            bounds = self.counts[rare].astype(np.float64).cumsum()
            if bounds[-1] <= 0:
                bounds = np.arange(1.0, len(rare) + 1)
            drawn = random.random(len(shared)) * bounds[-1]
            codes[shared] = rare[np.searchsorted(bounds, drawn, side="right")]
        return codes

    def _cell_of_code(self) -> Integers:
        cells = np.full(len(self.counts), len(self.kept))
        cells[self.kept] = np.arange(len(self.kept))
        return cells
