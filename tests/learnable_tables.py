"""Encoded tables with something to learn, for tests of models (no file, no schema)."""

from __future__ import annotations

import numpy as np

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout, Head

CHURN = Head("churn", "binary", 1, ("no", "yes"))
SEGMENT = Head("segment", "categorical", 3, ("low", "middle", "high"))
VALUE = Head("value", "numeric", 1, ())

LAYOUT = FeatureLayout(
    numeric=("age", "spend"),
    categorical=("plan", "city"),
    cardinalities=(4, 6),
    heads=(CHURN, SEGMENT, VALUE),
)
CHURN_ONLY = FeatureLayout(LAYOUT.numeric, LAYOUT.categorical, LAYOUT.cardinalities, (CHURN,))


def learnable_table(rows: int, seed: int = 0) -> EncodedTable:
    """Rows whose targets depend on a number and a category, with noise in churn alone."""
    rng = np.random.default_rng(seed)
    numeric = rng.random((rows, 2)).astype(np.float32)
    missing = (rng.random((rows, 2)) < 0.1).astype(np.float32)
    categorical = np.stack([rng.integers(0, 4, rows), rng.integers(0, 6, rows)], axis=1)
    signal = numeric[:, 0] + 0.3 * (categorical[:, 0] == 2) - 0.5
    return EncodedTable(
        numeric=numeric * (1 - missing),
        missing=missing,
        categorical=categorical.astype(np.int64),
        targets={
            "churn": (signal + 0.1 * rng.standard_normal(rows) > 0).astype(np.float32),
            "segment": np.clip((signal * 3 + 1).astype(np.int64), 0, 2),
            "value": np.clip(0.5 + signal / 2, 0, 1).astype(np.float32),
        },
    )


def with_targets(table: EncodedTable, **targets: np.ndarray) -> EncodedTable:
    """Return ``table`` with some targets replaced."""
    return EncodedTable(
        table.numeric, table.missing, table.categorical, {**table.targets, **targets}
    )
