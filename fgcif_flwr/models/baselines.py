"""What the federation is compared with: pooled rows, a linear model, and each enterprise alone.

All of them need rows that no coordinator of a real federation sees, so they exist in simulation
only. Their metrics are computed from the same counts as the federation's
(:mod:`fgcif_flwr.models.metrics`). Test rows decide nothing: the number of epochs is chosen on
validation rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from fgcif_flwr.config import ModelSection, TrainingSection
from fgcif_flwr.data.consortium import Splits
from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import ClassAbsentError, SchemaError
from fgcif_flwr.models.metrics import count_predictions, metrics_from_counts
from fgcif_flwr.models.network import MultiTaskNetwork, build_network
from fgcif_flwr.models.parameters import load_arrays, named_arrays
from fgcif_flwr.models.training import Trainer, balanced_class_weights, evaluate_counts, mean_loss

Metrics = dict[str, dict[str, float]]

_MOST_STEPS = 1000
_PATIENT_STEPS = 200


@dataclass(frozen=True)
class Baseline:
    """A baseline's result.

    Attributes
    ----------
    metrics
        By head, then by metric, on the test rows; of several enterprises the mean over them.
    epochs
        Epochs that the weights were trained for (mean over enterprises; 0 where none apply).
    enterprises
        How many models the metrics are the mean of.
    """

    metrics: Metrics
    epochs: float
    enterprises: int = 1


def pooled(parties: Sequence[Splits]) -> Splits:
    """Put the rows of all parties together, split by split."""
    return Splits(
        EncodedTable.concatenate([party.train for party in parties]),
        EncodedTable.concatenate([party.validation for party in parties]),
        EncodedTable.concatenate([party.test for party in parties]),
    )


def metrics_on(network: MultiTaskNetwork, test: EncodedTable) -> Metrics:
    """Return every head's metrics on ``test``."""
    counts = evaluate_counts(network, test)
    return {
        head.name: metrics_from_counts(head, counts[head.name]) for head in network.layout.heads
    }


def class_weights_of(
    layout: FeatureLayout, train: EncodedTable, training: TrainingSection
) -> dict[str, NDArray[np.float64]] | None:
    """Return the class weights that a party with these rows would use; None without weighting."""
    if training.class_weighting == "none":
        return None
    weights = {}
    for head in layout.heads:
        if head.kind != "numeric":
            labels = train.targets[head.name]
            known = labels[labels >= 0].astype(np.int64)  # NaN and -1 are missing labels
            counts = np.bincount(known, minlength=len(head.classes))
            # A class that this party has not at all carries no row, whatever its weight.
            weights[head.name] = balanced_class_weights(np.maximum(counts, 1))
    return weights


def fit(
    network: MultiTaskNetwork,
    data: Splits,
    config: TrainingSection,
    seed: int,
    *,
    epochs: int | None = None,
    patience: int | None = None,
) -> int:
    """Train in place for up to ``epochs`` epochs and keep the best epoch's weights.

    The best epoch is the one of least loss on the validation rows; training stops when
    ``patience`` epochs brought none better. Without validation rows the last epoch is kept.
    ``config.local_epochs`` is not used: the optimiser's state lives through all epochs. Epochs
    and patience left out are those of :func:`stopping`.

    Returns
    -------
    int
        The number of epochs that the kept weights were trained for.
    """
    if len(data.train) == 0:
        return 0
    longest, waiting = stopping(len(data.train), config.batch_size)
    epochs = longest if epochs is None else epochs
    patience = waiting if patience is None else patience
    weights = class_weights_of(network.layout, data.train, config)
    trainer = Trainer(network, data.train, config, seed, class_weights=weights)
    best_loss, best_epoch, best_arrays = math.inf, 0, named_arrays(network)
    for epoch in range(1, epochs + 1):
        trainer.epoch()
        if len(data.validation) == 0:
            best_epoch = epoch
            continue
        loss = mean_loss(network, data.validation)
        if loss < best_loss:
            best_loss, best_epoch, best_arrays = loss, epoch, named_arrays(network)
        elif epoch - best_epoch >= patience:
            break
    if len(data.validation) > 0:
        load_arrays(network, best_arrays)
    return best_epoch


def stopping(rows: int, batch_size: int) -> tuple[int, int]:
    """Return the most epochs, and the epochs without gain after which training stops.

    An epoch of a small enterprise is two or three steps: counted in epochs alone, its training
    would stop before it has learnt more than the share of positives, and an enterprise alone
    would look worse than it is.
    """
    steps = math.ceil(rows / batch_size)
    return max(100, math.ceil(_MOST_STEPS / steps)), max(10, math.ceil(_PATIENT_STEPS / steps))


def train_centralized(
    parties: Sequence[Splits],
    layout: FeatureLayout,
    model: ModelSection,
    training: TrainingSection,
    seed: int,
    *,
    epochs: int | None = None,
    patience: int | None = None,
) -> tuple[MultiTaskNetwork, Baseline]:
    """Train the federation's network on the pooled rows of all parties.

    ``seed`` is that of the federation's initial weights. There is nobody to stay near to, so
    ``training.proximal_mu`` is not used.
    """
    data = pooled(parties)
    network = build_network(layout, model, seed)
    best = fit(network, data, _on_its_own(training), seed, epochs=epochs, patience=patience)
    return network, Baseline(metrics_on(network, data.test), best)


def train_alone(
    parties: Sequence[Splits],
    layout: FeatureLayout,
    model: ModelSection,
    training: TrainingSection,
    seed: int,
    *,
    epochs: int | None = None,
    patience: int | None = None,
) -> Baseline:
    """Train one network per enterprise on its own rows; metrics are means over enterprises.

    Every network starts from the federation's initial weights (``seed``), weights classes by its
    own rows where classes are weighted, stops by its own validation rows, and is tested on the
    test rows of all. Enterprises without training rows are left out; a
    metric that is undefined for an enterprise is left out of that metric's mean.
    """
    test = EncodedTable.concatenate([party.test for party in parties])
    results: list[Metrics] = []
    used: list[int] = []
    for index, party in enumerate(parties):
        if len(party.train) == 0:
            continue
        network = build_network(layout, model, seed)
        order = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        own = _on_its_own(training)
        used.append(fit(network, party, own, order, epochs=epochs, patience=patience))
        results.append(metrics_on(network, test))
    return Baseline(_mean_metrics(results), float(np.mean(used or [0])), len(results))


def _on_its_own(training: TrainingSection) -> TrainingSection:
    return training.model_copy(update={"proximal_mu": 0.0})


def logistic_regression(
    train: EncodedTable, test: EncodedTable, layout: FeatureLayout
) -> tuple[NDArray[np.float64], Baseline]:
    """Fit a logistic regression for the first binary target and count it on ``test``.

    Numbers are standardised by the training rows and missing ones flagged; categories are
    one-hot. Regularisation is scikit-learn's default (L2, C = 1).

    Returns
    -------
    tuple
        The head's counts, and its metrics.

    Raises
    ------
    SchemaError
        Where the schema has no binary target.
    ClassAbsentError
        Where the training rows lack a class.
    """
    head = next((head for head in layout.heads if head.kind == "binary"), None)
    if head is None:
        raise SchemaError("the logistic regression baseline wants a binary target; there is none")
    labels = train.targets[head.name]
    labelled = ~np.isnan(labels)
    if len(np.unique(labels[labelled])) < 2:
        raise ClassAbsentError(f"target {head.name}: the training rows have fewer than 2 classes")
    mean, spread = train.numeric.mean(axis=0), train.numeric.std(axis=0)
    spread[spread == 0] = 1
    model = LogisticRegression(max_iter=5000)
    model.fit(_design(train, layout, mean, spread)[labelled], labels[labelled])
    logits = model.decision_function(_design(test, layout, mean, spread))
    counts = count_predictions(head, logits, test.targets[head.name])
    return counts, Baseline({head.name: metrics_from_counts(head, counts)}, 0)


def _design(
    data: EncodedTable,
    layout: FeatureLayout,
    mean: NDArray[np.float32],
    spread: NDArray[np.float32],
) -> NDArray[np.float32]:
    one_hot = [
        np.eye(cardinality, dtype=np.float32)[data.categorical[:, column]]
        for column, cardinality in enumerate(layout.cardinalities)
    ]
    return np.hstack([(data.numeric - mean) / spread, data.missing, *one_hot])


def _mean_metrics(results: Sequence[Metrics]) -> Metrics:
    means: Metrics = {}
    for head in results[0] if results else ():
        means[head] = {}
        for metric in results[0][head]:
            values = [result[head][metric] for result in results]
            known = [value for value in values if not math.isnan(value)]
            means[head][metric] = float(np.mean(known)) if known else math.nan
    return means
