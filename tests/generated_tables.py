"""Released counts and small federations, for tests of generators that a federation trains."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.generative.columns import columns_of
from fgcif_flwr.generative.federated_ctgan import FederatedCtganSettings
from fgcif_flwr.generative.marginals.grid import cells_of, grid_codes
from tests.learnable_tables import learnable_table

SMALL = FederatedCtganSettings(
    hidden=(32, 32), critic_hidden=(32,), noise_dim=8, batch=64, local_epochs=20, fakes=16
)


def exact_counts(layout: FeatureLayout, table: EncodedTable) -> dict[str, np.ndarray]:
    """Histograms of every column, as a release without noise gives them."""
    codes = grid_codes(layout, table)
    return {
        column.name: np.bincount(codes[:, place], minlength=cells).astype(np.float64)
        for place, (column, cells) in enumerate(
            zip(columns_of(layout), cells_of(layout), strict=True)
        )
    }


def learnt_auc(rows: EncodedTable, seed: int = 99) -> float:
    """Area under the curve, on fresh rows, of a logistic regression of churn on ``rows``."""
    test = learnable_table(2000, seed)
    model = LogisticRegression(max_iter=1000).fit(_inputs(rows), rows.targets["churn"])
    return float(roc_auc_score(test.targets["churn"], model.decision_function(_inputs(test))))


def _inputs(table: EncodedTable) -> np.ndarray:
    plans = np.eye(4)[table.categorical[:, 0]]
    return np.concatenate([table.numeric, table.missing, plans], axis=1)
