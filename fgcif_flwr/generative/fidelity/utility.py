"""Whether models that learn from synthetic rows know as much of real ones.

Train on synthetic, test on real (Esteban, Hyland and Rätsch 2017), beside the same models trained
on real rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout, Head
from fgcif_flwr.generative.fidelity.designs import (
    LinearDesign,
    tree_matrix,
    without_empty_columns,
)
from fgcif_flwr.models.metrics import count_predictions, metrics_from_counts

Metrics = Mapping[str, float]
Reals = npt.NDArray[np.float64]

LINEAR, BOOSTING = "linear", "gradient boosting"
"""The two families: logistic regression (ridge for a number), and trees by histograms."""

MAIN_METRIC = {"binary": "auc", "categorical": "macro_f1", "numeric": "r2"}
"""By kind of target: the metric that gaps are told in."""

_COUNTS = ("rows", "positives")  # of the rows held out, whatever the model

_LEAST_SHARE = 1e-12  # keeps log odds finite


@dataclass(frozen=True)
class ModelUtility:
    """One target, one family of models, all on the same real rows held out.

    Attributes
    ----------
    target, kind, model : str
        ``kind`` is the head's; ``model`` is ``linear`` or ``gradient boosting``.
    real, synthetic : metrics by name
        Trained on real and on synthetic rows; see
        :func:`fgcif_flwr.models.metrics.metrics_from_counts`.
    """

    target: str
    kind: str
    model: str
    real: Metrics
    synthetic: Metrics

    @property
    def metric(self) -> str:
        """The metric of :data:`MAIN_METRIC`."""
        return MAIN_METRIC[self.kind]

    @property
    def gap(self) -> float:
        """What training on synthetic rows loses of that metric; below 0 where it gains."""
        return self.real[self.metric] - self.synthetic[self.metric]


def utility(
    layout: FeatureLayout,
    real: EncodedTable,
    synthetic: EncodedTable,
    test: EncodedTable,
    seed: int,
) -> tuple[ModelUtility, ...]:
    """Train each family for each target on each table, and count them on ``test``.

    Models see features only, rows without the label are left out. What a table does not teach
    (see :func:`teaches`) has NaN for every metric but the counts of rows.
    """
    return tuple(
        ModelUtility(
            head.name,
            head.kind,
            model,
            _train_and_count(layout, head, model, real, test, seed),
            _train_and_count(layout, head, model, synthetic, test, seed),
        )
        for head in layout.heads
        for model in (LINEAR, BOOSTING)
    )


def teaches(head: Head, table: EncodedTable) -> bool:
    """Return whether the rows have two classes of the target, or two values of a number."""
    labels = table.targets[head.name]
    return len(np.unique(labels[labels >= 0])) > 1  # NaN and -1 are missing


def _train_and_count(
    layout: FeatureLayout,
    head: Head,
    model: str,
    train: EncodedTable,
    test: EncodedTable,
    seed: int,
) -> dict[str, float]:
    truth = test.targets[head.name]
    if not teaches(head, train):
        untrained = np.zeros((len(test), head.outputs))
        counted = metrics_from_counts(head, count_predictions(head, untrained, truth))
        return {name: v if name in _COUNTS else float("nan") for name, v in counted.items()}
    train = train.take(np.flatnonzero(train.targets[head.name] >= 0))
    outputs = _outputs(layout, head, model, train, test, seed)
    return metrics_from_counts(head, count_predictions(head, outputs, truth))


def _outputs(
    layout: FeatureLayout,
    head: Head,
    model: str,
    train: EncodedTable,
    test: EncodedTable,
    seed: int,
) -> Reals:
    """Return logits, (rows, classes) or (rows,), or predictions of a number, (rows,)."""
    labels = train.targets[head.name]
    if model == LINEAR:
        design = LinearDesign.fit(layout, train)
        seen, asked = design.matrix(train), design.matrix(test)
        learner = Ridge(alpha=1.0) if head.kind == "numeric" else LogisticRegression(max_iter=5000)
    else:
        (seen, categories), (asked, _) = tree_matrix(layout, train), tree_matrix(layout, test)
        seen, asked = without_empty_columns(seen, asked)
        boosting = (
            HistGradientBoostingRegressor
            if head.kind == "numeric"
            else HistGradientBoostingClassifier
        )
        learner = boosting(categorical_features=categories, early_stopping=False, random_state=seed)
    learner.fit(seen, labels if head.kind == "numeric" else labels.astype(np.int64))
    if head.kind == "numeric":
        return np.asarray(learner.predict(asked), dtype=np.float64)
    shares = np.full((len(test), len(head.classes)), _LEAST_SHARE)
    shares[:, learner.classes_] = np.maximum(learner.predict_proba(asked), _LEAST_SHARE)
    logs: Reals = np.log(shares)
    return logs[:, 1] - logs[:, 0] if head.kind == "binary" else logs
