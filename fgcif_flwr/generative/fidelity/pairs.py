"""Whether pairs of columns depend on one another alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.generative.columns import Values, columns_of, to_columns

Codes = npt.NDArray[np.int64]

_BINS = 5


@dataclass(frozen=True)
class PairTrend:
    """How two columns depend on one another in each of two tables.

    Attributes
    ----------
    first, second : str
        Columns, in the layout's order.
    measure : str
        ``correlation`` of two numbers (Spearman's, in [-1, 1], over rows where both are there), or
        ``association`` where one is a category (Cramér's V, bias-corrected, in [0, 1]).
    real, synthetic : float
        The measure; 0 where a column is constant.
    similarity : float
        In [0, 1]. Two numbers: 1 - |real - synthetic| / 2. Else one less the total variation
        distance of the two contingency tables, in which missing is a category and numbers are cut
        at the real rows' quintiles.
    """

    first: str
    second: str
    measure: Literal["correlation", "association"]
    real: float
    synthetic: float
    similarity: float


def pair_trends(
    layout: FeatureLayout, real: EncodedTable, synthetic: EncodedTable
) -> tuple[PairTrend, ...]:
    """Compare every pair of columns, features and targets; both tables have at least one row."""
    columns = columns_of(layout)
    values = list(zip(to_columns(layout, real), to_columns(layout, synthetic), strict=True))
    binned = [
        _binned(*pair) if column.numeric else pair
        for column, pair in zip(columns, values, strict=True)
    ]
    trends = []
    for i, first in enumerate(columns):
        for j, second in enumerate(columns[i + 1 :], i + 1):
            if first.numeric and second.numeric:
                ours, theirs = (_spearman(values[i][k], values[j][k]) for k in (0, 1))
                similarity = 1 - abs(ours - theirs) / 2
            else:
                tables = _contingency(binned[i], binned[j])
                ours, theirs = (_cramers_v(counts) for counts in tables)
                shares = [counts / counts.sum() for counts in tables]
                similarity = 1 - float(np.abs(shares[0] - shares[1]).sum()) / 2
            measure: Literal["correlation", "association"] = (
                "correlation" if first.numeric and second.numeric else "association"
            )
            trends.append(PairTrend(first.name, second.name, measure, ours, theirs, similarity))
    return tuple(trends)


def mean_similarity(trends: Sequence[PairTrend]) -> float:
    """Return the mean over pairs, in [0, 1]; 1 where there is none."""
    return float(np.mean([trend.similarity for trend in trends])) if trends else 1.0


def _spearman(first: Values, second: Values) -> float:
    both = ~(np.isnan(first) | np.isnan(second))
    if both.sum() < 2:
        return 0.0
    ranks = [rankdata(values[both]) for values in (first, second)]
    centred = [values - values.mean() for values in ranks]
    scale = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum() / scale) if scale > 0 else 0.0


def _binned(real: Values, synthetic: Values) -> tuple[Codes, Codes]:
    """Return codes of the real rows' quintiles, from 1; missing is 0."""
    known = real[~np.isnan(real)]
    edges = np.unique(np.quantile(known, np.arange(1, _BINS) / _BINS)) if len(known) else known
    # A value at an edge falls below it: an atom at 0 is then a bin of its own.
    codes = [
        np.where(np.isnan(values), 0, np.searchsorted(edges, values, side="left") + 1)
        for values in (real, synthetic)
    ]
    return codes[0], codes[1]


def _contingency(
    first: tuple[Values, Values], second: tuple[Values, Values]
) -> tuple[Codes, Codes]:
    """Return both tables' counts over the codes that occur in either."""
    rows, columns = (
        np.unique(np.concatenate(pair), return_inverse=True) for pair in (first, second)
    )
    shape = len(rows[0]), len(columns[0])
    cells = rows[1] * shape[1] + columns[1]
    ours = len(first[0])
    counts = [
        np.bincount(part, minlength=shape[0] * shape[1]).reshape(shape)
        for part in (cells[:ours], cells[ours:])
    ]
    return counts[0], counts[1]


def _cramers_v(counts: Codes) -> float:
    """Return Cramér's V less its bias in small samples (Bergsma 2013), in [0, 1]."""
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    total = float(counts.sum())
    rows, columns = counts.shape
    if min(rows, columns) < 2 or total < 2:
        return 0.0
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True) / total
    squared = float(((counts - expected) ** 2 / expected).sum()) / total
    unbiased = max(0.0, squared - (rows - 1) * (columns - 1) / (total - 1))
    least = min(size - (size - 1) ** 2 / (total - 1) for size in (rows, columns)) - 1
    return min(1.0, float(np.sqrt(unbiased / least))) if least > 0 else 0.0
