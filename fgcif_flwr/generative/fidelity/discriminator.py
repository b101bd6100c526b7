"""Whether a classifier can tell synthetic rows from real ones.

The classifier two-sample test (Lopez-Paz and Oquab 2017). A generator that it cannot tell from
real rows, AUC .5, may still have copied them; see :mod:`.closeness`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.generative.fidelity.designs import tree_matrix, without_empty_columns
from fgcif_flwr.generative.fidelity.intervals import Interval, auc_interval

_FOLDS = 5
_MOST_ROWS = 5000


@dataclass(frozen=True)
class Discriminator:
    """How well rows can be told apart.

    Attributes
    ----------
    auc : float
        Of out-of-fold scores, in [0, 1]; .5 where they cannot be told apart. NaN with fewer than
        10 rows of a kind. Clearly below .5 it says that rows were copied: a copy that is learnt
        from gives its twin away as the other kind.
    interval : (float, float)
        At 95 %; it takes the five folds' scores for one model's.
    rows : int
        Of each kind.
    """

    auc: float
    interval: Interval
    rows: int


def discriminate(
    layout: FeatureLayout,
    real: EncodedTable,
    synthetic: EncodedTable,
    random: np.random.Generator,
) -> Discriminator:
    """Cross-validate gradient boosting on all columns, targets too, at up to 5,000 rows a kind.

    ``real`` are best rows that the generator never saw: then copies of others are no help.
    """
    rows = min(len(real), len(synthetic), _MOST_ROWS)
    if rows < 2 * _FOLDS:
        return Discriminator(float("nan"), (float("nan"), float("nan")), rows)
    kinds = [
        table.take(random.choice(len(table), rows, replace=False)) for table in (real, synthetic)
    ]
    matrix, categories = tree_matrix(layout, EncodedTable.concatenate(kinds), targets=True)
    synthetic_row = np.repeat([0, 1], rows)
    seed = int(random.integers(2**31))
    scores = np.zeros(2 * rows)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(matrix, synthetic_row):
        model = HistGradientBoostingClassifier(
            categorical_features=categories, early_stopping=False, random_state=seed
        )
        seen, asked = without_empty_columns(matrix[train], matrix[test])
        model.fit(seen, synthetic_row[train])
        scores[test] = model.decision_function(asked)
    return Discriminator(*auc_interval(scores[rows:], scores[:rows]), rows)
