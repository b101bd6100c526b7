"""Counts of pairs of columns, each with the class: what the later releases tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.generative.marginals.binning import Bins

Reals = npt.NDArray[np.float64]
Pair = tuple[int, int]


@dataclass(frozen=True)
class PairMatrix:
    """Counts of pairs of columns as one symmetric matrix for each class.

    Attributes
    ----------
    coarse : (model bins, bins), 0 or 1
        Which bin of the model is in which bin of the counts, all columns' one after another.
    counts : (classes, bins, bins)
    weights : (classes, bins, bins)
        One over the counts' variance; 0 where nothing was counted.
    """

    coarse: Reals
    counts: Reals
    weights: Reals


@dataclass(frozen=True)
class PairSums:
    """One release of counts of pairs.

    Attributes
    ----------
    coarser : one array a column, (model bins,)
        Each of the model's bins' bin in these counts.
    tables : by pair of columns, (classes, bins of the first, bins of the second)
    deviations : by pair of columns
        Standard deviation of the noise in each count.
    """

    coarser: tuple[Bins, ...]
    tables: Mapping[Pair, Reals]
    deviations: Mapping[Pair, float]

    @classmethod
    def read(
        cls,
        coarser: tuple[Bins, ...],
        sums: Mapping[Pair, npt.NDArray[np.float64]],
        deviations: Mapping[Pair, float],
        sides: Mapping[Pair, Pair],
    ) -> PairSums:
        """Take the bins that are in use out of flat sums of (classes, *sides) numbers."""
        used = [int(bins.max()) + 1 for bins in coarser]
        tables = {
            (i, j): values.reshape(-1, *sides[i, j])[:, : used[i], : used[j]]
            for (i, j), values in sums.items()
            if i != j
        }
        return cls(coarser, tables, deviations)

    def margin(self, column: int) -> tuple[Reals, Reals] | None:
        """Return a column's own counts (classes, bins) and their precision, from all its pairs.

        None where it is in none.
        """
        total: Reals | float = 0.0
        precision = 0.0
        for (i, j), table in self.tables.items():
            if column in (i, j):
                axis = 2 if column == i else 1
                one = 1.0 / max(self.deviations[i, j] ** 2 * table.shape[axis], 1e-6)
                total = total + one * table.sum(axis=axis)
                precision += one
        if precision == 0.0:
            return None
        mean = np.asarray(total / precision)
        return mean, np.full(mean.shape, precision)

    def dependence(self, classes: Reals) -> dict[Pair, float]:
        """Return how much the columns of each pair depend on each other within the classes.

        The sum over cells of (count - count if independent)^2 over the class's customers, less
        what the noise alone adds to it: unbiased but for the noise in the column's own counts.
        """
        used = classes > 0
        scores = {}
        for pair, table in self.tables.items():
            own, variance = table[used], self.deviations[pair] ** 2
            excess = (own - _independent(own, classes[used])) ** 2 - variance
            scores[pair] = float((excess.sum(axis=(1, 2)) / classes[used]).sum())
        return scores

    def matrix(self, classes: Reals) -> PairMatrix:
        """Return the counts as one matrix; a sample's own variance is added to the noise's."""
        sizes = [int(bins.max()) + 1 for bins in self.coarser]
        first = np.concatenate([[0], np.cumsum(sizes)])
        coarse = np.zeros((sum(map(len, self.coarser)), first[-1]))
        start = 0
        for i, bins in enumerate(self.coarser):
            coarse[start + np.arange(len(bins)), first[i] + bins] = 1.0
            start += len(bins)
        counts = np.zeros((len(classes), first[-1], first[-1]))
        weights = np.zeros_like(counts)
        for (i, j), table in self.tables.items():
            rows, columns = slice(first[i], first[i + 1]), slice(first[j], first[j + 1])
            sampled = np.maximum(_independent(table, classes), 1.0)
            weight = (classes > 0)[:, None, None] / (self.deviations[i, j] ** 2 + sampled)
            counts[:, rows, columns] = table
            counts[:, columns, rows] = table.transpose(0, 2, 1)
            weights[:, rows, columns] = weight
            weights[:, columns, rows] = weight.transpose(0, 2, 1)
        return PairMatrix(coarse, counts, weights)


def _independent(table: Reals, classes: Reals) -> Reals:
    """Return the counts (classes, bins, bins) of columns with these sums that are independent."""
    alone = np.einsum("yi,yj->yij", table.sum(axis=2), table.sum(axis=1))
    return np.asarray(alone / np.maximum(classes, 1.0)[:, None, None])
