"""SMOTE: rows between a real row and one of its neighbours.

Chawla et al., "SMOTE: Synthetic Minority Over-sampling Technique", 2002, with its section 6.1 for
tables that have categories too (SMOTE-NC). It is a baseline to set generators beside, not one to
share rows by: every row that it makes lies next to a customer's, and often is that customer's in
all categories. So it has no arrays to be stored or sent by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import ClassAbsentError, ConfigurationError, DataError
from fgcif_flwr.generative.columns import (
    columns_of,
    from_columns,
    to_columns,
    wanted_proportions,
)
from fgcif_flwr.generative.generator import Proportions

Codes = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

_CODES_AT_A_TIME = 4_000_000


@dataclass(frozen=True)
class _Class:
    """Rows of one class: their places in the table, and each one's neighbours among them."""

    rows: Codes
    neighbours: Codes
    """(rows, neighbours), places in the table; no columns where the class has one row."""


class Smote:
    """Samples between the rows of a table.

    Parameters
    ----------
    layout
        Of ``table``.
    table
        At least one row.
    neighbours
        Of a row, within its class; at least 1. Fewer where the class has no more rows.

    Attributes
    ----------
    kind : str
        ``smote``.
    layout : FeatureLayout

    Raises
    ------
    DataError
        If the table has no rows.
    ConfigurationError
        If ``neighbours`` is below 1.
    """

    kind = "smote"

    def __init__(self, layout: FeatureLayout, table: EncodedTable, neighbours: int = 5) -> None:
        if not len(table):
            raise DataError("SMOTE wants at least one row")
        if neighbours < 1:
            raise ConfigurationError(f"SMOTE wants at least 1 neighbour, not {neighbours}")
        self.layout = layout
        self._size = neighbours
        self._columns = columns_of(layout)
        self._values = to_columns(layout, table)
        self._classes: dict[str | None, dict[int, _Class]] = {}

    def sample(
        self, rows: int, random: np.random.Generator, classes: Proportions | None = None
    ) -> EncodedTable:
        """Return ``rows`` new rows.

        Each is drawn between a row and one of its nearest neighbours of the same class: numbers at
        one random place of the line between them, categories as most of the neighbours have them
        (the row's own where that is among the most frequent). A number that either of the two
        lacks is the row's own, or lacking. The class is that of the target that ``classes`` names,
        else of the first target with classes; without one all rows are one class.

        Raises
        ------
        ClassAbsentError
            If a class is wanted that the table has not.
        ConfigurationError
            As :func:`~fgcif_flwr.generative.columns.wanted_proportions`.
        """
        target, groups, shares = self._wanted(classes)
        codes = random.choice(list(groups), size=rows, p=shares)
        bases, others = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        near = np.zeros((rows, self._size), np.int64)
        for code, group in groups.items():
            here = np.flatnonzero(codes == code)
            places = random.integers(len(group.rows), size=len(here))
            bases[here] = group.rows[places]
            neighbours = (
                group.neighbours[places] if group.neighbours.shape[1] else bases[here, None]
            )
            others[here] = neighbours[
                np.arange(len(here)), random.integers(neighbours.shape[1], size=len(here))
            ]
            # Of too few neighbours each counts about as often.
            near[here] = neighbours[:, np.arange(self._size) % neighbours.shape[1]]
        along = random.random(rows)
        made = []
        for column, values in zip(self._columns, self._values, strict=True):
            if column.numeric:
                reached = values[bases] + along * (values[others] - values[bases])
                made.append(np.where(np.isnan(reached), values[bases], reached))
            elif column.name == target:
                made.append(values[bases])
            else:
                made.append(_most_frequent(values.astype(np.int64), near, bases, column.codes))
        return from_columns(self.layout, made)

    def _wanted(self, classes: Proportions | None) -> tuple[str | None, dict[int, _Class], Reals]:
        """Return the target, the classes to draw from, by code, and with what probability each."""
        if not classes:
            named = (head.name for head in self.layout.heads if head.kind != "numeric")
            target = next(named, None)
            groups = self._groups(target)
            sizes = np.array([len(group.rows) for group in groups.values()])
            return target, groups, sizes / sizes.sum()
        target, shares = wanted_proportions(self.layout, classes)
        groups = self._groups(target)
        wanted = [int(code) for code in np.flatnonzero(shares) + 1]
        if any(code not in groups for code in wanted):
            raise ClassAbsentError(f"target {target}: a class is wanted that no row here has")
        chosen = shares[np.array(wanted) - 1]
        return target, {code: groups[code] for code in wanted}, chosen / chosen.sum()

    def _groups(self, target: str | None) -> dict[int, _Class]:
        if target not in self._classes:
            rows = len(self._values[0])
            place = next((i for i, c in enumerate(self._columns) if c.name == target), None)
            codes = np.zeros(rows, np.int64) if place is None else self._values[place]
            space = self._space(target)
            self._classes[target] = {
                int(code): _neighbours(np.flatnonzero(codes == code), space, self._size)
                for code in np.unique(codes)
            }
        return self._classes[target]

    def _space(self, target: str | None) -> Reals:
        """Return rows as points whose Euclidean distances are those of SMOTE-NC.

        A category that differs adds the median of the numbers' standard deviations; so does a
        number that one of the two rows lacks.
        """
        numbers = [
            values
            for column, values in zip(self._columns, self._values, strict=True)
            if column.numeric
        ]
        spreads = [float(np.nanstd(v)) if not np.isnan(v).all() else 0.0 for v in numbers]
        penalty = float(np.median(spreads)) if numbers and np.median(spreads) > 0 else 1.0
        # Two one-hot rows that differ are the square root of two apart.
        unit = penalty / np.sqrt(2)
        points = []
        for column, values in zip(self._columns, self._values, strict=True):
            if column.numeric:
                gone = np.isnan(values)
                middle = 0.0 if gone.all() else float(np.nanmean(values))
                points += [np.where(gone, middle, values)[:, None], gone[:, None] * penalty]
            elif column.name != target:
                met, codes = np.unique(values, return_inverse=True)
                points.append(np.eye(len(met))[codes] * unit)
        return np.hstack(points)


def _neighbours(rows: Codes, space: Reals, size: int) -> _Class:
    if len(rows) < 2:
        return _Class(rows, np.zeros((len(rows), 0), np.int64))
    tree = NearestNeighbors(n_neighbors=min(size, len(rows) - 1)).fit(space[rows])
    return _Class(rows, rows[tree.kneighbors(return_distance=False)])


def _most_frequent(values: Codes, near: Codes, bases: Codes, codes: int) -> Codes:
    """Return each row's neighbours' most frequent code, its own where that is among these."""
    step = max(1, _CODES_AT_A_TIME // codes)
    chosen = values[bases]
    for start in range(0, len(near), step):
        chunk = slice(start, start + step)
        own, others = chosen[chunk], values[near[chunk]]
        rows = np.arange(len(own))
        counts = np.zeros((len(rows), codes), np.int64)
        np.add.at(counts, (rows[:, None], others), 1)
        most = counts.argmax(axis=1)
        behind = counts[rows, own] < counts[rows, most]
        chosen[chunk] = np.where(behind, most, own)
    return chosen
