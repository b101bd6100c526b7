"""Conditions: which cell of one categorical column a generated row is to be in.

The conditional vector and training by sampling of Xu et al., Modeling tabular data using
conditional GAN, NeurIPS 2019. A critic sees the condition beside the row; real rows must therefore
be such that their condition holds of them. With a table they are drawn so (training by sampling);
where only released counts are known they are not, and :meth:`Conditions.of_rows` gives
rows conditions instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.generative.transform import TableTransform
from fgcif_flwr.generative.transform.categorical_coding import CategoricalCoding

Floats = npt.NDArray[np.float32]
Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


TARGET_SHARE = 1.0
"""How often a condition is on a target unless a caller says otherwise: always."""


@dataclass(frozen=True)
class Condition:
    """What a batch of rows is to be.

    Attributes
    ----------
    vectors : float32 (rows, width)
        One 1 a row, or none where a row is free.
    columns : int64 (rows,)
        Place of the column among :attr:`Conditions.columns`; -1 where a row is free.
    cells : int64 (rows,)
        Its cell; -1 where a row is free.
    """

    vectors: Floats
    columns: Integers
    cells: Integers


class Conditions:
    """Draws conditions on a transform's categorical columns, targets among them.

    How often a cell is asked for follows from the counts that the transform was fitted to: a
    table's, or released ones. The counts are all that is used; no row is.

    Parameters
    ----------
    transform
    target_share
        In [0, 1]: how often a condition is on a target; the features share the rest equally, and
        have all of it where no target has classes. (CTGAN treats all columns alike; then a
        class's rows are learnt as well as any other category's, which on 20 columns is badly.)

    Attributes
    ----------
    columns : tuple of int
        Places, among the transform's, of the categorical columns that are asked for at all.
    width : int
        Numbers in a condition: all cells of these columns.
    positions : int64 (width,)
        Where in a transform's row each of them stands.
    evenly : float64 (columns, most cells)
        Probabilities of all columns' cells in training by sampling, adding up to 1 in all.
    """

    def __init__(self, transform: TableTransform, target_share: float = TARGET_SHARE) -> None:
        categorical = [
            index
            for index, coding in enumerate(transform.codings)
            if isinstance(coding, CategoricalCoding)
        ]
        targets = np.array([transform.columns[index].target for index in categorical], np.bool_)
        shares = _column_shares(targets, target_share)
        asked = np.flatnonzero(shares)
        self._shares: Reals = shares[asked]
        self.columns = tuple(categorical[index] for index in asked)
        masses = [transform.codings[index].mass.astype(np.float64) for index in self.columns]
        sizes = [len(mass) for mass in masses]
        self.width = sum(sizes)
        self._starts = np.cumsum([0, *sizes])[:-1].astype(np.int64)
        spans = [transform.spans[index][-1] for index in self.columns]
        self.positions: Integers = np.concatenate(
            [np.zeros(0, np.int64), *(np.arange(span.start, span.stop) for span in spans)]
        )
        self._often = _probabilities(masses)
        # With logarithms of the counts rare cells are asked for, and learnt, more often.
        self._evenly = _probabilities([np.log1p(mass) for mass in masses])
        self.evenly: Reals = self._shares[:, np.newaxis] * self._evenly

    def draw(self, rows: int, random: np.random.Generator, evenly: bool) -> Condition:
        """Draw conditions: a column, then one of its cells.

        Parameters
        ----------
        rows
        random
        evenly
            Whether cells go by the logarithm of their count (in training by sampling) or by their
            count (where rows are to be as learnt).
        """
        if not self.columns:
            return self.free(rows)
        bounds = _bounds(self._evenly if evenly else self._often)
        columns = random.choice(len(self.columns), rows, p=self._shares)
        drawn = random.random(rows)
        cells = (drawn[:, np.newaxis] >= bounds[columns]).sum(axis=1)
        return self._condition(columns, cells)

    def wanted(self, column: int, cells: Integers) -> Condition:
        """Return the condition that rows are in these cells, (rows,), of one column.

        Parameters
        ----------
        column
            Its place among the transform's columns; one of :attr:`columns`.
        cells
            For a target: the class and one more, missing being cell 0.
        """
        return self._condition(np.full(len(cells), self.columns.index(column)), cells)

    def free(self, rows: int) -> Condition:
        """Return no condition for so many rows."""
        none = np.full(rows, -1, np.int64)
        return Condition(np.zeros((rows, self.width), np.float32), none, none.copy())

    def of_rows(self, cells: Integers, random: np.random.Generator) -> Condition:
        """Give each row a condition that holds of it: its own cell in a random column.

        Parameters
        ----------
        cells
            int64 (rows, all columns), from :meth:`TableTransform.codes`.
        random
        """
        if not self.columns:
            return self.free(len(cells))
        columns = random.choice(len(self.columns), len(cells), p=self._shares)
        own = cells[np.arange(len(cells)), np.array(self.columns)[columns]]
        return self._condition(columns, own)

    def _condition(self, columns: Integers, cells: Integers) -> Condition:
        vectors = np.zeros((len(cells), self.width), np.float32)
        vectors[np.arange(len(cells)), self._starts[columns] + cells] = 1
        return Condition(vectors, columns.astype(np.int64), cells.astype(np.int64))


class RowsByCell:
    """A table's rows by the cells that they are in: real rows of which a condition holds.

    Parameters
    ----------
    conditions
    cells
        int64 (rows, all columns), from :meth:`TableTransform.codes`; at least one row.
    """

    def __init__(self, conditions: Conditions, cells: Integers) -> None:
        self._rows, self._conditions = len(cells), conditions
        own = cells[:, list(conditions.columns)]
        longest = int(own.max(initial=0)) + 1
        self._order = np.argsort(own, axis=0, kind="stable")
        self._counts = (
            np.stack([np.bincount(column, minlength=longest) for column in own.T])
            if own.shape[1]
            else np.zeros((0, 1), np.int64)
        )
        self._starts = self._counts.cumsum(axis=1) - self._counts

    def weights(self) -> Reals:
        """Return how often each row is drawn in training by sampling, (rows,), adding up to 1."""
        evenly = self._conditions.evenly
        if len(evenly) == 0:
            return np.full(self._rows, 1 / self._rows)
        weights = np.zeros(self._rows)
        for column, counts in enumerate(self._counts):
            probability = evenly[column, : len(counts)]
            counted = counts[: len(probability)]
            each = np.repeat(probability / np.maximum(counted, 1), counted)
            weights[self._order[:, column]] += each
        whole: Reals = weights / weights.sum()
        return whole

    def draw(self, condition: Condition, random: np.random.Generator) -> Integers:
        """Draw, for each condition, one of the rows of which it holds; int64 (rows,).

        Any row where there is no condition, or none of which it holds.
        """
        drawn = random.random(len(condition.cells))
        rows: Integers = (drawn * self._rows).astype(np.int64)
        asked = np.flatnonzero((condition.columns >= 0) & (condition.cells < self._counts.shape[1]))
        columns, cells = condition.columns[asked], condition.cells[asked]
        counts = self._counts[columns, cells]
        held = counts > 0
        asked, columns, cells = asked[held], columns[held], cells[held]
        places = self._starts[columns, cells] + (drawn[asked] * counts[held]).astype(np.int64)
        rows[asked] = self._order[places, columns]
        return rows


def _column_shares(targets: npt.NDArray[np.bool_], target_share: float) -> Reals:
    """Return how often each column is drawn, (columns,), adding up to 1."""
    shares = np.zeros(len(targets))
    for chosen, share in ((targets, target_share), (~targets, 1 - target_share)):
        shares[chosen] = share / max(int(chosen.sum()), 1)
    # Where there are targets alone, or features alone, they have all of it.
    if len(shares) and shares.sum() == 0:
        shares[:] = 1
    return shares / max(float(shares.sum()), 1e-300)


def _probabilities(weights: list[Reals]) -> Reals:
    """Return each column's weights over their sum, (columns, most cells); equal if all are 0."""
    probabilities = np.zeros((len(weights), max((len(weight) for weight in weights), default=0)))
    for row, weight in zip(probabilities, weights, strict=True):
        known = weight if weight.sum() > 0 else np.ones(len(weight))
        row[: len(weight)] = known / known.sum()
    return probabilities


def _bounds(probabilities: Reals) -> Reals:
    """Return cumulated probabilities: a uniform number below 1 is drawn to the first above it.

    From a column's last cell of any probability on they are infinite, whatever rounding gave.
    """
    bounds = probabilities.cumsum(axis=1)
    any_from = np.flip(np.maximum.accumulate(np.flip(probabilities > 0, axis=1), axis=1), axis=1)
    any_after = np.append(any_from[:, 1:], np.zeros((len(any_from), 1), np.bool_), axis=1)
    return np.where(any_after, bounds, np.inf)
