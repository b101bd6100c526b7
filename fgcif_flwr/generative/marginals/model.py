"""Rows drawn from a mixture of kinds of customers within each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import ConfigurationError, DataError
from fgcif_flwr.generative.columns import Values, columns_of, from_columns
from fgcif_flwr.generative.generator import Proportions
from fgcif_flwr.generative.marginals.density import CellDensity
from fgcif_flwr.generative.marginals.grid import GRID, Codes, cells_of
from fgcif_flwr.generative.marginals.measurements import (
    class_codes,
    class_column,
    counted_columns,
)
from fgcif_flwr.generative.marginals.settings import MarginalSettings

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CountedColumn:
    """What was learnt of a column other than the class.

    Attributes
    ----------
    bins : (cells,)
        Each cell's bin.
    tables : (classes, components, bins)
        Probabilities of the bins for each kind of customer.
    within : (classes, cells)
        Probabilities of the cells of each bin.
    histogram : (cells,)
        Of all customers.
    """

    bins: Codes
    tables: Reals
    within: Reals
    histogram: Reals

    def cells(self) -> Reals:
        """Return each kind's probability of each cell, (classes * components, cells)."""
        spread = self.tables[:, :, self.bins] * self.within[:, None, :]
        flat = spread.reshape(-1, len(self.bins))
        return np.asarray(_shares(flat))


class MarginalGenerator:
    """Samples rows: a class, a kind of that class, and each column on its own.

    Attributes
    ----------
    kind : str
        ``marginals``
    layout : FeatureLayout
    """

    kind = "marginals"

    def __init__(
        self,
        layout: FeatureLayout,
        class_shares: Reals,
        mixing: Reals,
        counted: Sequence[CountedColumn],
    ) -> None:
        self.layout = layout
        # as the arrays hold it, so that a generator that was read back draws the same rows
        self._class_shares, self._mixing = _single(class_shares), _single(mixing)
        self._counted = [
            CountedColumn(
                one.bins, _single(one.tables), _single(one.within), _single(one.histogram)
            )
            for one in counted
        ]
        self._cells = [column.cells() for column in self._counted]
        self._ladders = [_ladder(cells) for cells in self._cells]
        self._densities = [CellDensity(column.histogram[:GRID]) for column in self._counted]

    def sample(
        self, rows: int, random: np.random.Generator, classes: Proportions | None = None
    ) -> EncodedTable:
        """Return ``rows`` new rows, targets included.

        Raises
        ------
        ConfigurationError
            If ``classes`` names more than one target, one without classes, or are no proportions.
        """
        kinds, fixed = self._kinds(rows, random, classes)
        columns: list[Values] = []
        chosen = class_column(self.layout)
        places = {column: i for i, column in enumerate(counted_columns(self.layout))}
        for i, column in enumerate(columns_of(self.layout)):
            if i == chosen:
                columns.append(kinds // self._mixing.shape[1])
            elif i in fixed:
                columns.append(fixed[i])
            else:
                codes = _draw(self._ladders[places[i]], kinds, random)
                if column.numeric:
                    columns.append(self._densities[places[i]].values(codes, random))
                else:
                    columns.append(codes)
        return from_columns(self.layout, columns)

    def _kinds(
        self, rows: int, random: np.random.Generator, classes: Proportions | None
    ) -> tuple[Codes, dict[int, Codes]]:
        """Return each row's class and kind as one number, and the codes of a target that was
        asked for, by its column."""
        joint = _shares(self._class_shares)[:, None] * _shares(self._mixing)
        if not classes:
            return _choice(joint.reshape(-1), rows, random), {}
        target, wanted = self._wanted(classes)
        codes = _choice(wanted, rows, random) + 1
        if target == class_column(self.layout):
            return _draw(_ladder(self._mixing), codes, random) + codes * self._mixing.shape[1], {}
        place = counted_columns(self.layout).index(target)
        likely = self._cells[place].T[1:] * joint.reshape(-1)
        likely += 1e-300  # a class that was never seen is drawn from all kinds alike
        kinds = _draw(_ladder(likely / likely.sum(axis=1, keepdims=True)), codes - 1, random)
        return kinds, {target: codes}

    def _wanted(self, classes: Proportions) -> tuple[int, Reals]:
        if len(classes) != 1:
            raise ConfigurationError("proportions can be given for the classes of one target only")
        ((name, wanted),) = classes.items()
        for i, column in enumerate(columns_of(self.layout)):
            if column.target and not column.numeric and column.name == name:
                shares = np.asarray(wanted, np.float64)
                if shares.shape != (column.codes - 1,) or not np.isfinite(shares).all():
                    break
                if (shares < 0).any() or shares.sum() <= 0:
                    break
                return i, shares / shares.sum()
        raise ConfigurationError(
            f"{name}: proportions are one number, 0 or more, for each class of a target"
        )

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return all that was learnt: float32 or int64 arrays of one dimension, by name."""
        result: dict[str, npt.NDArray[np.generic]] = {
            "class-shares": self._class_shares.astype(np.float32),
            "mixing": self._mixing.reshape(-1).astype(np.float32),
        }
        for i, column in enumerate(self._counted):
            result[f"bins-{i}"] = column.bins
            result[f"tables-{i}"] = column.tables.reshape(-1).astype(np.float32)
            result[f"within-{i}"] = column.within.reshape(-1).astype(np.float32)
            result[f"histogram-{i}"] = column.histogram.astype(np.float32)
        return result

    @classmethod
    def from_arrays(
        cls,
        layout: FeatureLayout,
        settings: MarginalSettings,
        arrays: Mapping[str, npt.NDArray[np.generic]],
    ) -> MarginalGenerator:
        """Return the generator whose :meth:`arrays` these are.

        Raises
        ------
        DataError
            If they are not those of a generator of this layout.
        """
        try:
            return cls._from_arrays(layout, settings.components, arrays)
        except (KeyError, ValueError, IndexError) as error:
            raise DataError("these arrays are not a marginal generator of this layout") from error

    @classmethod
    def _from_arrays(
        cls,
        layout: FeatureLayout,
        components: int,
        arrays: Mapping[str, npt.NDArray[np.generic]],
    ) -> MarginalGenerator:
        classes, cells = class_codes(layout), cells_of(layout)
        own = {name: values.astype(np.float64) for name, values in arrays.items()}
        for values in own.values():
            if not np.isfinite(values).all() or (values < 0).any():
                raise ValueError("negative or not finite")
        mixing = own["mixing"].reshape(classes, components)
        counted = []
        for i, column in enumerate(counted_columns(layout)):
            bins = own[f"bins-{i}"].reshape(cells[column]).astype(np.int64)
            tables = own[f"tables-{i}"].reshape(classes, components, -1)
            within = own[f"within-{i}"].reshape(classes, cells[column])
            histogram = own[f"histogram-{i}"].reshape(cells[column])
            counted.append(CountedColumn(bins, tables, within, histogram))
        shares = own["class-shares"].reshape(classes)
        _shares(shares)
        _shares(mixing)
        return cls(layout, shares, mixing, counted)


def _single(values: Reals) -> Reals:
    with np.errstate(over="ignore"):
        single = values.astype(np.float32).astype(np.float64)
    if not np.isfinite(single).all():
        raise ValueError("a number is beyond float32")
    return single


def _shares(weights: Reals) -> Reals:
    sums = weights.sum(axis=-1, keepdims=True)
    if not (sums > 0).all():
        raise ValueError("weights whose sum is 0 are no shares")
    return np.asarray(weights / sums)


def _ladder(tables: Reals) -> Reals:
    """Return rising numbers in which a group's place is found by one binary search.

    Group g's cumulative probabilities lie from g to g + 1.
    """
    rising = np.cumsum(tables, axis=1)
    rising /= rising[:, -1:]
    ladder: Reals = (rising + np.arange(len(tables))[:, None]).reshape(-1)
    return ladder


def _draw(ladder: Reals, groups: Codes, random: np.random.Generator) -> Codes:
    """Return a place for each row from its group's probabilities, in the ladder of all groups."""
    width = len(ladder) // round(float(ladder[-1]))
    found = np.searchsorted(ladder, groups + random.random(len(groups)), side="right")
    return np.asarray(np.minimum(found - groups * width, width - 1))


def _choice(shares: Reals, rows: int, random: np.random.Generator) -> Codes:
    return _draw(_ladder(shares[None, :]), np.zeros(rows, np.int64), random)
