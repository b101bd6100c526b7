"""Rows drawn from a mixture of kinds of customers within each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import ConfigurationError, DataError
from fgcif_flwr.generative.columns import Values, columns_of, from_columns
from fgcif_flwr.generative.generator import Proportions
from fgcif_flwr.generative.marginals.density import CellDensity
from fgcif_flwr.generative.marginals.grid import GRID, cells_of
from fgcif_flwr.generative.marginals.measurements import (
    class_codes,
    class_column,
    counted_columns,
)
from fgcif_flwr.generative.marginals.settings import MarginalSettings

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Counted:
    """A counted column: which bin each cell is in, the bins of each class's kinds, the cells of
    each class's bins, and the histogram of all."""

    bins: npt.NDArray[np.int64]
    tables: Reals
    within: Reals
    histogram: Reals

    def cells(self) -> Reals:
        """(classes * components, cells): each kind's probability of each cell."""
        classes, components, _ = self.tables.shape
        spread = self.tables[:, :, self.bins] * self.within[:, None, :]
        flat = spread.reshape(classes * components, -1)
        return flat / flat.sum(axis=1, keepdims=True)


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
        counted: list[_Counted],
    ) -> None:
        self.layout = layout
        self._class_shares = class_shares / class_shares.sum()
        self._mixing = mixing
        self._counted = counted
        self._cells = [column.cells() for column in counted]
        self._ladders = [_ladder(cells) for cells in self._cells]
        self._densities = [CellDensity(column.histogram[:GRID]) for column in counted]

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
    ) -> tuple[npt.NDArray[np.int64], dict[int, npt.NDArray[np.int64]]]:
        """Return each row's class and kind as one number, and the codes of a target that was
        asked for, by its column."""
        joint = self._class_shares[:, None] * self._mixing
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
            return cls._from_arrays(layout, arrays)
        except (KeyError, ValueError, IndexError) as error:
            raise DataError("these arrays are not a marginal generator of this layout") from error

    @classmethod
    def _from_arrays(
        cls, layout: FeatureLayout, arrays: Mapping[str, npt.NDArray[np.generic]]
    ) -> MarginalGenerator:
        classes, cells = class_codes(layout), cells_of(layout)
        own = {
            name: values.astype(np.int64 if values.dtype.kind == "i" else np.float64)
            for name, values in arrays.items()
        }
        for values in own.values():
            if not np.isfinite(values).all() or (values < 0).any():
                raise ValueError("negative or not finite")
        mixing = own["mixing"].reshape(classes, -1)
        counted = []
        for i, column in enumerate(counted_columns(layout)):
            bins = own[f"bins-{i}"].reshape(cells[column])
            tables = own[f"tables-{i}"].reshape(classes, mixing.shape[1], -1)
            within = own[f"within-{i}"].reshape(classes, cells[column])
            histogram = own[f"histogram-{i}"].reshape(cells[column])
            counted.append(_Counted(bins, tables, within, histogram))
        shares = own["class-shares"].reshape(classes)
        if shares.sum() <= 0:
            raise ValueError("no class")
        return cls(layout, shares, mixing, counted)


def counted_column(
    bins: npt.NDArray[np.int64], tables: Reals, within: Reals, histogram: Reals
) -> _Counted:
    """Return one counted column of a :class:`MarginalGenerator`.

    Parameters
    ----------
    bins
        (cells,): each cell's bin.
    tables
        (classes, components, bins): probabilities of the bins.
    within
        (classes, cells): probabilities of the cells of each bin.
    histogram
        (cells,): of all classes.
    """
    return _Counted(bins, tables, within, histogram)


def _ladder(tables: Reals) -> Reals:
    """Return rising numbers in which a group's place is found by one binary search.

    Group g's cumulative probabilities lie from g to g + 1.
    """
    rising = np.cumsum(tables, axis=1)
    rising /= rising[:, -1:]
    ladder: Reals = (rising + np.arange(len(tables))[:, None]).reshape(-1)
    return ladder


def _draw(
    ladder: Reals, groups: npt.NDArray[np.int64], random: np.random.Generator
) -> npt.NDArray[np.int64]:
    size = 0 if len(ladder) == 0 else len(ladder)
    found = np.searchsorted(ladder, groups + random.random(len(groups)), side="right")
    width = size // (round(float(ladder[-1])) if size else 1)
    return np.minimum(found - groups * width, width - 1)


def _choice(shares: Reals, rows: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    rising = np.cumsum(shares)
    found = np.searchsorted(rising, random.random(rows) * rising[-1], side="right")
    return np.minimum(found, len(shares) - 1).astype(np.int64)
