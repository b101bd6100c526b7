"""Rows as matrices for the two families of models that judge tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, hstack

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.generative.columns import columns_of, to_columns

Reals = npt.NDArray[np.float64]

_MOST_CATEGORIES = 255  # scikit-learn's bound for categories in histogram gradient boosting


@dataclass(frozen=True)
class LinearDesign:
    """Features for a linear model: numbers standardised, missing ones flagged, one-hot categories.

    ``mean`` and ``spread``, (numeric features,), are those of the rows it was fitted to.
    """

    layout: FeatureLayout
    mean: Reals
    spread: Reals

    @classmethod
    def fit(cls, layout: FeatureLayout, table: EncodedTable) -> LinearDesign:
        """Standardise by the rows of ``table``, at least one."""
        spread = table.numeric.std(axis=0, dtype=np.float64)
        mean = table.numeric.mean(axis=0, dtype=np.float64)
        return cls(layout, mean, np.where(spread > 1e-9, spread, 1.0))

    def matrix(self, table: EncodedTable) -> csr_matrix:
        """Return a sparse matrix, (rows, width)."""
        rows = np.arange(len(table))
        numbers = np.hstack([(table.numeric - self.mean) / self.spread, table.missing])
        blocks = [csr_matrix(numbers)]
        for place, codes in enumerate(self.layout.cardinalities):
            hot = np.ones(len(table)), (rows, table.categorical[:, place])
            blocks.append(csr_matrix(hot, shape=(len(table), codes)))
        return hstack(blocks, format="csr")


def tree_matrix(
    layout: FeatureLayout, table: EncodedTable, targets: bool = False
) -> tuple[Reals, npt.NDArray[np.bool_]]:
    """Return columns for gradient-boosted trees, and which of them are categories.

    Returns
    -------
    tuple
        float64 (rows, columns), missing numbers NaN; bool (columns,). Features, with ``targets``
        these too. A category of more than 255 codes is given as a number.
    """
    kept = [column for column in columns_of(layout) if targets or not column.target]
    values = to_columns(layout, table)[: len(kept)]
    categories = [not column.numeric and column.codes <= _MOST_CATEGORIES for column in kept]
    return np.stack(values, axis=1).astype(np.float64), np.array(categories, dtype=bool)


def without_empty_columns(seen: Reals, asked: Reals) -> tuple[Reals, Reals]:
    """Return both matrices with 0 in the columns that have no value in ``seen``.

    Binning for trees wants a value in every column; a constant one is never split on.
    """
    empty = np.isnan(seen).all(axis=0)
    return np.where(empty, 0.0, seen), np.where(empty, 0.0, asked)
