"""What the coordinator learns from the sums, measurement by measurement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.generative.columns import columns_of
from fgcif_flwr.generative.marginals.binning import Bins, useful_bins, useful_pair_bins
from fgcif_flwr.generative.marginals.effects import class_effects
from fgcif_flwr.generative.marginals.fitting import CountedBins, Prior, fit_mixture
from fgcif_flwr.generative.marginals.grid import cells_of
from fgcif_flwr.generative.marginals.measurements import (
    CLIQUES,
    MEASUREMENTS,
    ONE_WAY,
    PAIRS,
    all_pairs,
    blocks,
    class_codes,
    class_column,
    clique_count,
    counted_columns,
)
from fgcif_flwr.generative.marginals.model import CountedColumn, MarginalGenerator
from fgcif_flwr.generative.marginals.one_way import (
    ColumnCounts,
    class_counts,
    coarser_bins,
    column_counts,
    model_bins,
    sum_bins,
    within_bins,
)
from fgcif_flwr.generative.marginals.pair_sums import PairSums
from fgcif_flwr.generative.marginals.settings import MarginalSettings

Reals = npt.NDArray[np.float64]


class Learner:
    """Takes the sums of :data:`MEASUREMENTS` in their order, and gives the model of them.

    A generator can be asked for once the first has been added; later ones make it better. All is
    post-processing of the sums: it costs no privacy.
    """

    def __init__(self, layout: FeatureLayout, settings: MarginalSettings) -> None:
        self._layout = layout
        self._settings = settings
        self._sums: dict[str, dict[str, Reals]] = {}
        self._deviations: dict[str, dict[str, float]] = {}
        self._inputs: dict[str, dict[str, npt.NDArray[np.generic]]] = {}
        self._classes = class_codes(layout)
        columns = columns_of(layout)
        self._columns = [columns[i] for i in counted_columns(layout)]
        self._cells = [cells_of(layout)[i] for i in counted_columns(layout)]

    def input(self, measurement: str) -> dict[str, npt.NDArray[np.generic]]:
        """Return the public input of a measurement; those before it must have been added.

        Raises
        ------
        ValueError
            If they have not been, or there is no such measurement.
        """
        if measurement not in self._inputs:
            self._in_turn(measurement)
            self._inputs[measurement] = self._input(measurement)
        return self._inputs[measurement]

    def add(
        self,
        measurement: str,
        sums: Mapping[str, npt.NDArray[np.float64]],
        deviations: Mapping[str, float],
    ) -> None:
        """Take a measurement's sums.

        Parameters
        ----------
        sums
            By block, (size,), in customers; with noise they may be negative.
        deviations
            Standard deviation of the noise in each number of a block; 0 without noise.

        Raises
        ------
        ValueError
            If it is not this measurement's turn, or the blocks are not the measurement's.
        """
        self.input(measurement)
        if measurement in self._sums:
            raise ValueError(f"{measurement} was added before")
        wanted = {name: size for name, size, _ in blocks(measurement, self._layout, self._settings)}
        if set(sums) != set(wanted) or set(deviations) != set(wanted):
            raise ValueError(f"the blocks are not those of {measurement}")
        for name, size in wanted.items():
            if np.shape(sums[name]) != (size,) or not np.isfinite(sums[name]).all():
                raise ValueError(f"block {name} must have {size} finite numbers")
            if not 0 <= deviations[name] < np.inf:
                raise ValueError(f"block {name}: a standard deviation is 0 or more, and finite")
        self._sums[measurement] = {name: np.asarray(sums[name], np.float64) for name in wanted}
        self._deviations[measurement] = {name: float(deviations[name]) for name in wanted}

    def histograms(self) -> dict[str, Reals]:
        """Return every column's counts without the noise, float64 (cells,) by the column's name.

        Raises
        ------
        ValueError
            If ``marginals-one-way`` has not been added.
        """
        result = {
            column.name: own.histogram
            for column, own in zip(self._columns, self._counts, strict=True)
        }
        chosen = class_column(self._layout)
        columns = columns_of(self._layout)
        if chosen is not None:
            result[columns[chosen].name] = self._class_counts
        return {column.name: result[column.name] for column in columns}

    def generator(self) -> MarginalGenerator:
        """Return the model of all sums that were added; the same for the same sums.

        Raises
        ------
        ValueError
            If ``marginals-one-way`` has not been added.
        """
        if ONE_WAY not in self._sums:
            raise ValueError(f"a generator wants {ONE_WAY}, which was not added")
        one_way, weights, shares, start, spread = [], [], [], [], []
        for i, bins in enumerate(self._bins):
            own, precision = self._alone(i, bins)
            one_way.append(own)
            weights.append(1.0 / (1.0 / precision + np.maximum(own, 1.0)))
            guess, effects, deviation = self._class_effect(i)
            shares.append(guess)
            start.append(effects)
            spread.append(np.tile(deviation[:, None], self._sizes[i]))
        counted = CountedBins(
            self._class_counts, np.concatenate(one_way, axis=1), np.concatenate(weights, axis=1)
        )
        prior = Prior(
            np.concatenate(shares), np.concatenate(start, axis=1), np.concatenate(spread, axis=1)
        )
        pairs = [sums.matrix(self._class_counts) for sums in self._pair_sums.values()]
        mixture = fit_mixture(self._sizes, counted, pairs, prior, self._settings)
        tables = np.split(mixture.tables, np.cumsum(self._sizes)[:-1], axis=2)
        columns = [
            CountedColumn(bins, tables[i], within_bins(counts, bins), counts.histogram)
            for i, (counts, bins) in enumerate(zip(self._counts, self._bins, strict=True))
        ]
        return MarginalGenerator(self._layout, self._class_counts, mixture.weights, columns)

    def _class_effect(self, i: int) -> tuple[Reals, Reals, Reals]:
        """Return one column's shares (bins,), what classes do to them (classes, bins), and how far
        each class differs (classes,); by all counts that the column is in."""
        counts, bins, coarser = self._counts[i], self._bins[i], self._coarser[i]
        size = int(coarser.max()) + 1
        total, precision = self._alone(i, coarser[bins])
        margin = self._pair_sums[PAIRS].margin(i) if PAIRS in self._sums else None
        if margin is not None:
            total = (precision * total + margin[1] * margin[0]) / (precision + margin[1])
            precision = precision + margin[1]
        shares = np.bincount(bins, counts.histogram, self._sizes[i]) + 0.5 / self._sizes[i]
        shares /= shares.sum()
        # By these counts themselves: an error of the histogram's is not what a class does.
        pooled = total[self._class_counts > 0].sum(axis=0)
        together = np.maximum(pooled, 1e-3 * np.abs(pooled).sum() + 1e-9)
        together /= together.sum()
        shares *= (together / np.bincount(coarser, shares, size))[coarser]
        effects, spread = class_effects(total, 1.0 / precision, self._class_counts, together)
        return np.asarray(shares), effects[:, coarser], spread

    def _alone(self, i: int, bins: Bins) -> tuple[Reals, Reals]:
        """Return the first release's counts of one column's bins, (classes, bins), and their
        precision; ``bins`` are each cell's, the model's or coarser ones."""
        counts, size = self._counts[i], int(bins.max()) + 1
        held = np.bincount(bins, minlength=size)
        total = sum_bins(counts.noisy, bins, size)
        precision = np.tile(1.0 / np.maximum(counts.deviation**2 * held, 1e-6), (len(total), 1))
        return total, precision

    @cached_property
    def _noisy(self) -> tuple[list[Reals], list[float]]:
        """The first release's counts, (classes, cells) a column, and their deviations."""
        if ONE_WAY not in self._sums:
            raise ValueError(f"{ONE_WAY} was not added")
        sums, deviations = self._sums[ONE_WAY], self._deviations[ONE_WAY]
        return [one.reshape(self._classes, -1) for one in sums.values()], [*deviations.values()]

    @cached_property
    def _class_counts(self) -> Reals:
        return class_counts(*self._noisy)

    @cached_property
    def _counts(self) -> list[ColumnCounts]:
        return [
            column_counts(column, noisy, deviation, self._class_counts)
            for column, noisy, deviation in zip(self._columns, *self._noisy, strict=True)
        ]

    @cached_property
    def _bins(self) -> list[Bins]:
        noise = max(self._noisy[1])
        most = useful_bins(self._class_counts, noise, self._settings.clique_bins)
        return [model_bins(counts, most) for counts in self._counts]

    @cached_property
    def _sizes(self) -> list[int]:
        return [int(bins.max()) + 1 for bins in self._bins]

    @cached_property
    def _coarser(self) -> list[Bins]:
        # What the noise of the next release will be follows from the first one's.
        first, second, _ = self._settings.shares
        growth = len(all_pairs(self._layout)) / len(self._cells) * first / second
        noise = max(self._noisy[1]) * math.sqrt(growth)
        most = useful_pair_bins(self._class_counts, noise, self._settings.pair_bins)
        return [
            coarser_bins(counts, bins, most)
            for counts, bins in zip(self._counts, self._bins, strict=True)
        ]

    def _input(self, measurement: str) -> dict[str, npt.NDArray[np.generic]]:
        if measurement == ONE_WAY:
            return {}
        if measurement == PAIRS:
            maps = [own[bins] for own, bins in zip(self._coarser, self._bins, strict=True)]
            return {"bins": np.concatenate(maps).astype("<i8")}
        pairs = np.array(self._chosen(), "<i8").reshape(-1)
        return {"bins": np.concatenate(self._bins).astype("<i8"), "pairs": pairs}

    def _chosen(self) -> list[tuple[int, int]]:
        """Return the pairs of columns that depend most on each other within the classes."""
        scores = dict.fromkeys(all_pairs(self._layout), -math.inf)
        scores |= self._pair_sums[PAIRS].dependence(self._class_counts)
        count = clique_count(self._layout, self._settings)
        return sorted(sorted(scores, key=lambda pair: -scores[pair])[:count])

    @property
    def _pair_sums(self) -> dict[str, PairSums]:
        """The counts of pairs that were added."""
        result = {}
        if PAIRS in self._sums:
            places = {f"pair-{i}-{j}": (i, j) for i, j in all_pairs(self._layout)}
            side = [min(cells, self._settings.pair_bins) for cells in self._cells]
            sides = {(i, j): (side[i], side[j]) for i, j in places.values()}
            result[PAIRS] = self._read(PAIRS, tuple(self._coarser), places, sides)
        if CLIQUES in self._sums:
            whole = min(self._settings.clique_bins, max(self._cells))
            chosen = self._inputs[CLIQUES]["pairs"].reshape(-1, 2)
            places = {f"clique-{k}": (int(i), int(j)) for k, (i, j) in enumerate(chosen)}
            same = tuple(np.arange(size) for size in self._sizes)
            sides = dict.fromkeys(places.values(), (whole, whole))
            result[CLIQUES] = self._read(CLIQUES, same, places, sides)
        return result

    def _read(
        self,
        measurement: str,
        coarser: tuple[Bins, ...],
        places: Mapping[str, tuple[int, int]],
        sides: Mapping[tuple[int, int], tuple[int, int]],
    ) -> PairSums:
        sums, deviations = self._sums[measurement], self._deviations[measurement]
        return PairSums.read(
            coarser,
            {pair: sums[name] for name, pair in places.items()},
            {pair: deviations[name] for name, pair in places.items()},
            sides,
        )

    def _in_turn(self, measurement: str) -> None:
        if measurement not in MEASUREMENTS:
            raise ValueError(f"{measurement} is none of {MEASUREMENTS}")
        before = MEASUREMENTS[: MEASUREMENTS.index(measurement)]
        missing = [one for one in before if one not in self._sums]
        if missing:
            raise ValueError(f"{measurement} comes after {missing[0]}, which was not added")
