"""What the coordinator learns from the sums, measurement by measurement."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.generative.columns import columns_of
from fgcif_flwr.generative.marginals.binning import Bins
from fgcif_flwr.generative.marginals.fitting import PairCounts, fit_mixture
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
from fgcif_flwr.generative.marginals.model import MarginalGenerator, counted_column
from fgcif_flwr.generative.marginals.one_way import (
    ColumnCounts,
    class_counts,
    coarser_bins,
    column_counts,
    model_bins,
    within_bins,
)
from fgcif_flwr.generative.marginals.settings import MarginalSettings

LOW, HIGH = 0.05, 1.5
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

    def generator(self, total_rows: float | None = None) -> MarginalGenerator:
        """Return the model of all sums that were added.

        Parameters
        ----------
        total_rows
            Customers in the sums where that is public; None: by the sums themselves.

        Raises
        ------
        ValueError
            If ``marginals-one-way`` has not been added.
        """
        if ONE_WAY not in self._sums:
            raise ValueError(f"a generator wants {ONE_WAY}, which was not added")
        one_way = [
            np.stack([np.bincount(bins, own, self._sizes[i]) for own in counts.noisy])
            for i, (counts, bins) in enumerate(zip(self._counts, self._bins, strict=True))
        ]
        weights = []
        for i, (counts, bins) in enumerate(zip(self._counts, self._bins, strict=True)):
            held = np.bincount(bins, minlength=self._sizes[i])
            variance = counts.deviation**2 * held + np.maximum(one_way[i], 1.0)
            weights.append(1.0 / variance)
        start, spread = zip(*(self._class_effect(i) for i in range(len(self._sizes))), strict=True)
        mixture = fit_mixture(
            self._sizes,
            self._class_counts,
            np.concatenate(start, axis=1),
            np.repeat(spread, self._sizes),
            np.concatenate(one_way, axis=1),
            np.concatenate(weights, axis=1),
            self._pairs(),
            self._settings.components,
            self._settings.steps,
            self._settings.seed,
        )
        tables = np.split(mixture.tables, np.cumsum(self._sizes)[:-1], axis=2)
        counted = [
            counted_column(bins, tables[i], within_bins(counts, bins), counts.histogram)
            for i, (counts, bins) in enumerate(zip(self._counts, self._bins, strict=True))
        ]
        return MarginalGenerator(self._layout, self._class_counts, mixture.weights, counted)

    def _class_effect(self, i):
        """Return a first guess of one column's bins in each class (classes, bins), and how far
        classes differ (standard deviation of the logarithm)."""
        counts, bins, coarser = self._counts[i], self._bins[i], self._coarser[i]
        held = np.bincount(coarser[bins], minlength=coarser.max() + 1)
        small = np.stack([np.bincount(coarser[bins], own, len(held)) for own in counts.noisy])
        precision = np.full(small.shape, 1.0) / np.maximum(counts.deviation**2 * held, 1e-6)
        total = small * precision
        if PAIRS in self._sums:
            for a, b in all_pairs(self._layout):
                if a == b or i not in (a, b):
                    continue
                name = f"pair-{a}-{b}"
                sums = self._sums[PAIRS][name].reshape(self._classes, -1, self._side(b))
                sums = sums.transpose(0, 2, 1) if i == b else sums
                other = self._coarser[b if i == a else a].max() + 1
                sums = sums[:, : len(held), : other].sum(2)
                w = 1.0 / max(self._deviations[PAIRS][name] ** 2 * other, 1e-6)
                total += w * sums
                precision += w
        estimate = total / precision
        share = np.bincount(coarser[bins], counts.histogram, len(held)) / counts.histogram.sum()
        used = self._class_counts > 0
        expected = np.maximum(np.outer(self._class_counts, share), 1.0)
        variance = (1.0 / precision + expected) / expected**2
        effect = estimate / expected - 1.0
        effect, variance = effect[used], variance[used]
        spread = ((effect**2 / variance - 1.0).sum()) / (1 / variance).sum()
        spread = float(np.clip(np.sqrt(max(spread, 0.0)), LOW, HIGH))
        shrunk = np.zeros_like(estimate)
        shrunk[used] = np.maximum(effect * spread**2 / (spread**2 + variance), -0.9)
        fine = np.bincount(bins, counts.histogram, self._sizes[i]) + 0.5
        start = fine / fine.sum() * (1.0 + shrunk[:, coarser])
        return start, spread

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
        return [model_bins(counts, self._settings.clique_bins) for counts in self._counts]

    @cached_property
    def _sizes(self) -> list[int]:
        return [int(bins.max()) + 1 for bins in self._bins]

    @cached_property
    def _coarser(self) -> list[Bins]:
        return [
            coarser_bins(counts, bins, self._settings.pair_bins)
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
        scores = []
        for i, j in all_pairs(self._layout):
            name = f"pair-{i}-{j}"
            sums = self._sums[PAIRS][name].reshape(self._classes, -1, self._side(j))
            variance = self._deviations[PAIRS][name] ** 2
            score = 0.0
            for own, count in zip(sums, self._class_counts, strict=True):
                if count > 0:
                    alone = np.outer(own.sum(axis=1), own.sum(axis=0)) / count
                    score += ((own - alone) ** 2 - variance).sum() / count
            scores.append((-score, (i, j)))
        count = clique_count(self._layout, self._settings)
        return sorted(pair for _, pair in sorted(scores)[:count])

    def _side(self, i: int) -> int:
        return min(self._cells[i], self._settings.pair_bins)

    def _pairs(self) -> list[PairCounts]:
        """Return the counts of pairs that were added, as :func:`fit_mixture` takes them."""
        result = []
        if PAIRS in self._sums:
            sizes = [self._side(i) for i in range(len(self._cells))]
            places = {f"pair-{i}-{j}": (i, j) for i, j in all_pairs(self._layout)}
            sides = {name: (sizes[i], sizes[j]) for name, (i, j) in places.items()}
            result.append(self._as_matrix(PAIRS, sizes, self._coarser, places, sides))
        if CLIQUES in self._sums:
            side = min(self._settings.clique_bins, max(self._cells))
            chosen = self._inputs[CLIQUES]["pairs"].reshape(-1, 2)
            places = {f"clique-{k}": (int(i), int(j)) for k, (i, j) in enumerate(chosen)}
            same: list[Bins] = [np.arange(size) for size in self._sizes]
            sides = dict.fromkeys(places, (side, side))
            result.append(self._as_matrix(CLIQUES, self._sizes, same, places, sides))
        return result

    def _as_matrix(
        self,
        measurement: str,
        sizes: list[int],
        coarser: list[Bins],
        places: dict[str, tuple[int, int]],
        sides: dict[str, tuple[int, int]],
    ) -> PairCounts:
        """Return one measurement's counts; ``sizes`` are each column's bins in it."""
        first = np.concatenate([[0], np.cumsum(sizes)])
        coarse = np.zeros((sum(self._sizes), first[-1]))
        start = 0
        for i, own in enumerate(coarser):
            coarse[start + np.arange(len(own)), first[i] + own] = 1.0
            start += len(own)
        counts = np.zeros((self._classes, first[-1], first[-1]))
        weights = np.zeros_like(counts)
        for name, (i, j) in places.items():
            if i == j:
                continue
            rows, columns = slice(first[i], first[i + 1]), slice(first[j], first[j + 1])
            sums = self._sums[measurement][name].reshape(self._classes, *sides[name])
            sums = sums[:, : sizes[i], : sizes[j]]
            alone = np.einsum("yi,yj->yij", sums.sum(2), sums.sum(1))
            alone /= np.maximum(self._class_counts, 1.0)[:, None, None]
            variance = self._deviations[measurement][name] ** 2 + np.maximum(alone, 1.0)
            counts[:, rows, columns] = sums
            counts[:, columns, rows] = sums.transpose(0, 2, 1)
            weights[:, rows, columns] = 1.0 / variance
            weights[:, columns, rows] = 1.0 / variance.transpose(0, 2, 1)
        used = (self._class_counts > 0)[:, None, None]
        return PairCounts(coarse, counts, weights * used)

    def _in_turn(self, measurement: str) -> None:
        if measurement not in MEASUREMENTS:
            raise ValueError(f"{measurement} is none of {MEASUREMENTS}")
        before = MEASUREMENTS[: MEASUREMENTS.index(measurement)]
        missing = [one for one in before if one not in self._sums]
        if missing:
            raise ValueError(f"{measurement} comes after {missing[0]}, which was not added")
