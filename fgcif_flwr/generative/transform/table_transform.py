"""An encoded table as a matrix that a generative network can make, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import ConfigurationError, DataError
from fgcif_flwr.generative.columns import Column, Values, columns_of, from_columns, to_columns
from fgcif_flwr.generative.transform.categorical_coding import CategoricalCoding
from fgcif_flwr.generative.transform.histograms import checked_histogram
from fgcif_flwr.generative.transform.numeric_coding import SHARED_CELLS, NumericCoding
from fgcif_flwr.generative.transform.spans import Span

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Coding = NumericCoding | CategoricalCoding

MOST_CATEGORIES = 64
"""Cells of a categorical feature unless a caller says otherwise."""

_NUMERIC = ("atoms", "centres", "reaches", "weights", "mass")
_UNSEEDED = 0  # for the codes that share a cell, where a caller of `inverse` gives no generator


@dataclass(frozen=True, eq=False)
class TableTransform:
    """Columns as spans of a row: a place in [-1, 1] and one-hot cells, or one-hot cells alone.

    Missing is a cell of its own. ``inverse(forward(table, random), random)`` is the table, up to
    float32's rounding of numbers, but for categorical features of more codes than cells: their
    rare codes come back as one another, by their frequencies.

    Attributes
    ----------
    layout : FeatureLayout
    columns : tuple of Column
        Features, then targets, as :func:`~fgcif_flwr.generative.columns.columns_of` has them.
    codings : tuple of NumericCoding or CategoricalCoding
        One a column.
    spans : tuple of tuple of Span
        By column: a ``tanh`` and a ``softmax`` of a numeric one, a ``softmax`` of the others.
    """

    layout: FeatureLayout
    columns: tuple[Column, ...]
    codings: tuple[Coding, ...]
    spans: tuple[tuple[Span, ...], ...]

    @staticmethod
    def fit(
        layout: FeatureLayout,
        table: EncodedTable,
        seed: int,
        max_categories: int = MOST_CATEGORIES,
    ) -> TableTransform:
        """Fit to one party's rows; the result is that party's own, and shows single values.

        Parameters
        ----------
        layout
        table
            At least one row, of ``layout``.
        seed
            Decides where the mixtures of numeric columns start.
        max_categories
            Most cells of a categorical feature, at least 3. Targets always have one a class.

        Raises
        ------
        DataError
            If the table has no rows.
        ConfigurationError
            If ``max_categories`` is below 3.
        """
        if len(table) == 0:
            raise DataError("a generator wants at least one row to learn from; there is none")
        _check_cap(max_categories)
        codings: list[Coding] = []
        columns = columns_of(layout)
        for column, values in zip(columns, to_columns(layout, table), strict=True):
            if column.numeric:
                codings.append(NumericCoding.fit(values.astype(np.float64), seed))
            else:
                counts = np.bincount(values.astype(np.int64), minlength=column.codes)
                cap = _cap(column, max_categories)
                codings.append(CategoricalCoding.fit(counts.astype(np.float64), cap))
        return _transform(layout, codings)

    @staticmethod
    def shared(
        layout: FeatureLayout,
        histograms: Mapping[str, npt.NDArray[np.float64]],
        max_categories: int = MOST_CATEGORIES,
    ) -> TableTransform:
        """Fit to released counts alone; whoever has these has the same transform.

        Its width follows from the layout and ``max_categories`` (:func:`shared_spans`). A numeric
        column has no atoms: a value that many rows have becomes a mode as narrow as a cell.

        Parameters
        ----------
        layout
        histograms
            By column name (cells,), finite and not negative: counts in cells of [0, 1] of equal
            width, then of missing, for a numeric column; counts of codes for the others.
        max_categories
            As for :meth:`fit`.

        Raises
        ------
        ConfigurationError
            If a histogram is absent or malformed, or ``max_categories`` below 3.
        """
        _check_cap(max_categories)
        codings: list[Coding] = []
        for column in columns_of(layout):
            histogram = checked_histogram(column, histograms)
            if column.numeric:
                codings.append(NumericCoding.shared(histogram))
            else:
                cap = _cap(column, max_categories)
                codings.append(CategoricalCoding.fit(histogram, cap))
        return _transform(layout, codings)

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.spans[-1][-1].stop

    @property
    def allowed(self) -> npt.NDArray[np.bool_]:
        """Whether a cell may be generated, (width,): not where the fit saw no row in it."""
        allowed = np.ones(self.width, dtype=np.bool_)
        for coding, spans in zip(self.codings, self.spans, strict=True):
            cells = spans[-1]
            if coding.mass.any():
                allowed[cells.start : cells.stop] = coding.mass > 0
        return allowed

    def codes(self, table: EncodedTable, random: np.random.Generator) -> tuple[Floats, Integers]:
        """Return a table as places and cells, the form before one-hot.

        Returns
        -------
        places : float32 (rows, numeric columns), in [-1, 1]
        cells : int64 (rows, columns)
        """
        places: list[Floats] = []
        cells: list[Integers] = []
        values = to_columns(self.layout, table)
        for coding, column in zip(self.codings, values, strict=True):
            if isinstance(coding, NumericCoding):
                place, cell = coding.forward(column.astype(np.float64), random)
                places.append(place)
            else:
                cell = coding.forward(column.astype(np.int64))
            cells.append(cell)
        nowhere = np.zeros((len(table), 0), np.float32)
        return np.stack(places, axis=1) if places else nowhere, np.stack(cells, axis=1)

    def table(self, places: Floats, cells: Integers, random: np.random.Generator) -> EncodedTable:
        """Return the table whose :meth:`codes` these are.

        ``random`` decides among the rare codes that share a cell.
        """
        values: list[Values] = []
        numeric = 0
        for index, coding in enumerate(self.codings):
            if isinstance(coding, NumericCoding):
                values.append(coding.inverse(places[:, numeric], cells[:, index]))
                numeric += 1
            else:
                values.append(coding.inverse(cells[:, index], random))
        return from_columns(self.layout, values)

    def forward(self, table: EncodedTable, random: np.random.Generator) -> Floats:
        """Return a table as a matrix, float32 (rows, width).

        ``random`` decides the mode of a number that several reach, by their densities.
        """
        places, cells = self.codes(table, random)
        matrix = np.zeros((len(table), self.width), np.float32)
        every, numeric = np.arange(len(table)), 0
        for index, spans in enumerate(self.spans):
            if len(spans) == 2:
                matrix[:, spans[0].start] = places[:, numeric]
                numeric += 1
            matrix[every, spans[-1].start + cells[:, index]] = 1
        return matrix

    def inverse(self, matrix: Floats, random: np.random.Generator | None = None) -> EncodedTable:
        """Return the table of a matrix, float (rows, width): of each span the largest cell.

        Places beyond [-1, 1] are clipped. ``random`` decides among the rare codes that share a
        cell; left out, it is the same each time.
        """
        places = [matrix[:, spans[0].start] for spans in self.spans if len(spans) == 2]
        cells = [matrix[:, spans[-1].start : spans[-1].stop].argmax(axis=1) for spans in self.spans]
        return self.table(
            np.stack(places, axis=1) if places else np.zeros((len(matrix), 0), np.float32),
            np.stack(cells, axis=1),
            np.random.default_rng(_UNSEEDED) if random is None else random,
        )

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return all that was fitted: float32 or int64 arrays of one dimension, by name."""
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for index, coding in enumerate(self.codings):
            names = _NUMERIC if isinstance(coding, NumericCoding) else ("kept", "counts")
            arrays |= {f"transform.{index}.{name}": getattr(coding, name) for name in names}
        return arrays

    @staticmethod
    def from_arrays(
        layout: FeatureLayout, arrays: Mapping[str, npt.NDArray[np.generic]]
    ) -> TableTransform:
        """Return the transform whose :meth:`arrays` these are; others' names are not read.

        Raises
        ------
        DataError
            If an array is absent, or cannot be that of a transform of this layout.
        """
        codings: list[Coding] = []
        for index, column in enumerate(columns_of(layout)):
            names = _NUMERIC if column.numeric else ("kept", "counts")
            parts = {name: _array(arrays, f"transform.{index}.{name}") for name in names}
            coding = NumericCoding(**parts) if column.numeric else CategoricalCoding(**parts)
            if not coding.is_whole(column.codes):
                raise DataError(f"the arrays of column {column.name} are no transform of it")
            codings.append(coding)
        return _transform(layout, codings)


def shared_spans(
    layout: FeatureLayout, max_categories: int = MOST_CATEGORIES
) -> tuple[tuple[Span, ...], ...]:
    """Return the spans of every :meth:`TableTransform.shared` of a layout."""
    _check_cap(max_categories)
    sizes = [
        SHARED_CELLS if column.numeric else min(column.codes, _cap(column, max_categories))
        for column in columns_of(layout)
    ]
    return _spans(layout, sizes)


def _transform(layout: FeatureLayout, codings: Sequence[Coding]) -> TableTransform:
    spans = _spans(layout, [coding.cells for coding in codings])
    return TableTransform(layout, columns_of(layout), tuple(codings), spans)


def _spans(layout: FeatureLayout, cells: Sequence[int]) -> tuple[tuple[Span, ...], ...]:
    """Return the spans of columns of so many cells, one after another."""
    spans: list[tuple[Span, ...]] = []
    start = 0
    for column, size in zip(columns_of(layout), cells, strict=True):
        own: tuple[Span, ...] = (Span(start, 1, "tanh"),) if column.numeric else ()
        own += (Span(start + len(own), size, "softmax"),)
        spans.append(own)
        start = own[-1].stop
    return tuple(spans)


def _cap(column: Column, max_categories: int) -> int:
    """Return the most cells of a column; a class of a target never shares one."""
    return column.codes if column.target else max_categories


def _check_cap(max_categories: int) -> None:
    if max_categories < 3:
        raise ConfigurationError(
            f"a transform's max_categories is {max_categories}; it must be at least 3: missing, "
            "one code, and the rare ones"
        )


def _array(arrays: Mapping[str, npt.NDArray[np.generic]], name: str) -> npt.NDArray[Any]:
    if name not in arrays:
        raise DataError(f"there is no array {name} of a transform")
    array, kind = arrays[name], np.int64 if name.endswith(".kept") else np.float32
    if array.ndim != 1 or array.dtype != kind or not np.isfinite(array.astype(np.float64)).all():
        raise DataError(f"the array {name} must be finite {kind.__name__} of one dimension")
    return array
