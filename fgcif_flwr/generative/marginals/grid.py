"""Every column as a finite number of cells, by the layout alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.generative.columns import Column, columns_of, to_columns

GRID = 64
"""Cells of equal width that a numeric column's [0, 1] is divided into; one more is for missing."""

Codes = npt.NDArray[np.int64]


def cells_of(layout: FeatureLayout) -> tuple[int, ...]:
    """Return every column's number of cells, in the order of
    :func:`~fgcif_flwr.generative.columns.columns_of`: ``GRID + 1`` of a numeric column, else its
    codes.
    """
    return tuple(_cells(column) for column in columns_of(layout))


def grid_codes(layout: FeatureLayout, table: EncodedTable) -> Codes:
    """Return every row's cells, int64 (rows, columns), each at least 0 and below its column's.

    Cell k of a numeric column, k < ``GRID``, is [k, k + 1) / GRID, the last with 1; cell ``GRID``
    is missing. Numbers beyond [0, 1] count to the nearest cell, and codes beyond a column's to its
    last.
    """
    codes = np.zeros((len(table), len(columns_of(layout))), np.int64)
    for i, (column, values) in enumerate(
        zip(columns_of(layout), to_columns(layout, table), strict=True)
    ):
        if column.numeric:
            absent = np.isnan(values)
            cells = np.floor(np.where(absent, 0.0, np.clip(values, 0.0, 1.0)) * GRID)
            codes[:, i] = np.where(absent, GRID, np.minimum(cells, GRID - 1))
        else:
            codes[:, i] = np.clip(values, 0, column.codes - 1)
    return codes


def _cells(column: Column) -> int:
    return GRID + 1 if column.numeric else column.codes
