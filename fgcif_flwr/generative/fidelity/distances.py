"""Distances of rows of mixed kinds (Gower 1971), and each row's nearest one.

The distance is the mean over columns, features and targets, each in [0, 1]: 1 for another category,
and for numbers the difference over the range, at most 1. The range is that between the 1 % and 99 %
quantiles of the rows that the space is made of, so that one giant customer does not make all others
alike. Missing is a value of its own: as far as can be from any number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.generative.columns import columns_of, to_columns

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

SAME = 1e-6
"""Rows nearer than this are one row: float32 rounds numbers by less."""

_CELLS = 4_000_000  # of the matrix of distances at a time
_CACHED_CELLS = 250_000  # of these, what a processor's cache holds
_ONE_HOT = 256  # codes above which a category is compared row by row


class RowSpace:
    """The space of a table's rows.

    Parameters
    ----------
    layout
        Of all tables that are compared.
    table
        Gives the ranges of the numbers; at least one row.
    """

    def __init__(self, layout: FeatureLayout, table: EncodedTable) -> None:
        self._layout = layout
        self._columns = columns_of(layout)
        self._starts: list[float] = []
        self._widths: list[float] = []
        for column, values in zip(self._columns, to_columns(layout, table), strict=True):
            if column.numeric:
                start, width = _range(values[~np.isnan(values)].astype(np.float64))
                self._starts.append(start)
                self._widths.append(width)

    def nearest(self, rows: EncodedTable, among: EncodedTable) -> tuple[Floats, Places]:
        """Return how far the nearest row in ``among`` is from each of ``rows``, and which it is.

        Returns
        -------
        tuple
            float32 (rows,), in [0, 1], distances below :data:`SAME` as 0; int64 (rows,), places in
            ``among``, which has at least one row.
        """
        distances, places = np.zeros(len(rows), np.float32), np.zeros(len(rows), np.int64)
        ours, theirs = self._parts(rows), self._parts(among)
        step = max(1, _CELLS // len(among))
        for start in range(0, len(rows), step):
            chunk = slice(start, start + step)
            total = _categories(ours[1][chunk], theirs[1])
            _add_numbers(total, ours[0][chunk], theirs[0])
            for column in range(ours[2].shape[1]):
                total += ours[2][chunk, column, None] != theirs[2][None, :, column]
            places[chunk] = total.argmin(axis=1)
            distances[chunk] = total.min(axis=1) / len(self._columns)
        return np.where(distances < SAME, np.float32(0), distances), places

    def _parts(self, table: EncodedTable) -> tuple[Floats, Floats, Places]:
        """Return scaled numbers, one-hot codes, and codes too many for that."""
        values = list(zip(self._columns, to_columns(self._layout, table), strict=True))
        rows = len(table)
        numbers = np.zeros((rows, len(self._starts)), np.float32, order="F")
        numeric = [part for column, part in values if column.numeric]
        for place, part in enumerate(numeric):
            scaled = (part - self._starts[place]) / self._widths[place]
            # Below every number by more than the range, and at no distance from one another.
            least = -self._starts[place] / self._widths[place] - 2
            numbers[:, place] = np.where(np.isnan(part), least, scaled)
        hot = [
            np.eye(column.codes, dtype=np.float32)[part]
            for column, part in values
            if not column.numeric and column.codes <= _ONE_HOT
        ]
        many = [part for column, part in values if not column.numeric and column.codes > _ONE_HOT]
        return (
            numbers,
            np.hstack(hot) if hot else np.zeros((rows, 0), np.float32),
            np.stack(many, axis=1) if many else np.zeros((rows, 0), np.int64),
        )


def _categories(ours: Floats, theirs: Floats) -> Floats:
    """Return in how many one-hot columns rows differ, (rows, other rows)."""
    columns = ours[:1].sum() if len(ours) else np.float32(0)
    differing: Floats = columns - ours @ theirs.T
    return differing


def _add_numbers(total: Floats, ours: Floats, theirs: Floats) -> None:
    """Add to ``total``, (rows, other rows), the distances of every number, each at most 1."""
    step = max(1, _CACHED_CELLS // len(theirs))
    room = np.empty((step, len(theirs)), np.float32)
    for start in range(0, len(ours), step):
        part = total[start : start + step]
        gap = room[: len(part)]
        for column in range(ours.shape[1]):
            np.subtract(ours[start : start + step, column, None], theirs[None, :, column], out=gap)
            np.abs(gap, out=gap)
            np.minimum(gap, np.float32(1), out=gap)
            part += gap


def _range(known: npt.NDArray[np.float64]) -> tuple[float, float]:
    if not len(known):
        return 0.0, 1.0
    low, high = np.quantile(known, [0.01, 0.99])
    if high <= low:
        low, high = known.min(), known.max()
    return float(low), float(high - low) if high > low else 1.0
