"""Tables of one population, drawn anew by every seed, for measures that compare tables."""

from __future__ import annotations

import numpy as np

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout, Head
from fgcif_flwr.generative.columns import from_columns, to_columns

LAYOUT = FeatureLayout(
    numeric=("a", "b", "c", "d", "e"),
    categorical=("plan", "city"),
    cardinalities=(5, 4),
    heads=(Head("churn", "binary", 1, ("no", "yes")),),
)


def crowd(rows: int, seed: int) -> EncodedTable:
    """Rows of one law: numbers that go together, a tenth of one missing, and a learnable churn."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(rows)
    numbers = 1 / (1 + np.exp(-(rng.standard_normal((rows, 5)) + common[:, None])))
    missing = np.zeros_like(numbers)
    missing[:, 0] = rng.random(rows) < 0.1
    churn = common + 0.5 * rng.standard_normal(rows) > 0.4
    return EncodedTable(
        (numbers * (1 - missing)).astype(np.float32),
        missing.astype(np.float32),
        np.stack([rng.integers(2, 5, rows), 2 + (common > 0)], axis=1).astype(np.int64),
        {"churn": churn.astype(np.float32)},
    )


def shuffled(table: EncodedTable, seed: int) -> EncodedTable:
    """Return the table with every column shuffled on its own: its shapes without its trends."""
    rng = np.random.default_rng(seed)
    columns = to_columns(LAYOUT, table)
    return from_columns(LAYOUT, [values[rng.permutation(len(table))] for values in columns])
