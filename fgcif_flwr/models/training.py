"""Training on one party's rows, and counting its predictions.

The loss of a row is the sum of its heads' losses; a head whose label is missing in a row adds
nothing. All randomness (order of rows, dropout) comes from the seed that is given, so the same
seed, weights and rows give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from fgcif_flwr.config import TrainingSection
from fgcif_flwr.data.encoding import EncodedTable, Head
from fgcif_flwr.errors import ClassAbsentError
from fgcif_flwr.models.metrics import count_predictions
from fgcif_flwr.models.network import InputTensors, MultiTaskNetwork

ClassWeights = Mapping[str, NDArray[np.float64]]

# Adam's state is new in every round and lives for a few steps only. With its usual epsilon of 1e-8
# such steps are of full size whatever the gradient's, so that each enterprise's noise enters the
# mean undiminished; with one near the gradients' own size (Reddi et al. 2021, "Adaptive Federated
# Optimization") small gradients stay small, and the mean over enterprises cancels noise.
_ADAM_EPSILON = 1e-3

# Where a numeric head's loss turns from squares to absolute errors, as a share of the target's
# range. Larger, and the shared trunk hardly hears the head beside a classification head; smaller,
# and the loss is so curved that plain SGD at the rates that suit logits does not settle.
_NUMERIC_BETA = 0.3


PRIVATE_NUMERIC_WEIGHT = 0.1
"""Weight of a numeric head's loss in a customer's own loss (:func:`row_losses`).

Steps of clipped gradients go down by one rate for all heads. A numeric head's loss is 13 times as
curved as a binary one's; unweighted it swings beyond its target at the rates that suit logits.
"""


@dataclass(frozen=True)
class TrainingSummary:
    """What local training did.

    Attributes
    ----------
    rows
        Training rows (not times epochs).
    steps
        Steps of the optimiser.
    loss
        Mean over all rows seen of the loss just before the step that used them, without the
        proximal term; 0 where there were no rows.
    """

    rows: int
    steps: int
    loss: float


class Trainer:
    """Epochs of minibatch steps over one table, with the optimiser's state kept between them.

    The network's parameters become views of one vector: a step then updates all of them by one
    fused call, which on networks of this size is a third of the time of a whole step.
    """

    def __init__(
        self,
        network: MultiTaskNetwork,
        data: EncodedTable,
        config: TrainingSection,
        seed: int,
        *,
        class_weights: ClassWeights | None = None,
        anchor: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        self._network = network
        self._batch_size = config.batch_size
        self._generator = torch.Generator().manual_seed(seed)
        self._inputs = network.prepare(data)
        self._labels = _all_labels(network.layout.heads, data, class_weights)
        self._vector = share_one_vector(network)
        self._optimizer = local_optimizer(self._vector, config)
        self._mu = config.proximal_mu
        if self._mu > 0:
            self._anchor = (
                self._vector.detach().clone()
                if anchor is None
                else torch.cat(
                    [
                        torch.tensor(anchor[name], dtype=torch.float32).reshape(-1)
                        for name, _ in network.named_parameters()
                    ]
                )
            )

    def epoch(self) -> tuple[int, float]:
        """Go once over all rows in a new order; return steps, and the sum of the rows' losses."""
        rows = len(self._inputs)
        order = torch.randperm(rows, generator=self._generator)
        # One gather for the epoch, slices after: cheaper than a gather in every step.
        inputs = self._inputs.take(order)
        labels = [label.cut(order) for label in self._labels]
        steps, total = 0, 0.0
        for start in range(0, rows, self._batch_size):
            stop = min(start + self._batch_size, rows)
            total += (stop - start) * self._step(
                inputs.slice(start, stop), [label.cut(slice(start, stop)) for label in labels]
            )
            steps += 1
        return steps, total

    def _step(self, inputs: InputTensors, labels: Sequence[_HeadLabels]) -> float:
        gradient = self._vector.grad
        assert gradient is not None
        gradient.zero_()
        scores = self._network.score(inputs, self._generator)
        loss = _loss(scores, self._network.head_slices, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._mu > 0:
            gradient.add_(self._vector.detach() - self._anchor, alpha=self._mu)
        self._optimizer.step()
        return loss.item()


def train_locally(
    network: MultiTaskNetwork,
    data: EncodedTable,
    config: TrainingSection,
    seed: int,
    *,
    class_weights: ClassWeights | None = None,
    anchor: Mapping[str, NDArray[np.float32]] | None = None,
) -> TrainingSummary:
    """Train ``network`` in place for ``config.local_epochs`` epochs; the optimiser starts fresh.

    Parameters
    ----------
    network
        Starts from the weights that it has.
    data
        Training rows; with none, nothing changes.
    config
        ``proximal_mu`` > 0 adds mu/2 ||w - anchor||² to the loss (FedProx, Li et al. 2020).
    seed
        Decides the order of rows and the dropout masks.
    class_weights
        For a binary or categorical target, the weight of a row of each class.
    anchor
        The weights that the proximal term pulls to; the starting weights where left out.
    """
    if len(data) == 0:
        return TrainingSummary(rows=0, steps=0, loss=0.0)
    trainer = Trainer(network, data, config, seed, class_weights=class_weights, anchor=anchor)
    steps, total = 0, 0.0
    for _ in range(config.local_epochs):
        epoch_steps, epoch_loss = trainer.epoch()
        steps += epoch_steps
        total += epoch_loss
    rows = len(data)
    return TrainingSummary(rows=rows, steps=steps, loss=total / (rows * config.local_epochs))


def mean_gradient(
    network: MultiTaskNetwork, data: EncodedTable, class_weights: ClassWeights | None = None
) -> tuple[NDArray[np.float64], float]:
    """Return the gradient of the mean loss over all rows, (d,), and that loss; no dropout.

    The gradient is in the order of ``to_vector(named_arrays(network))``; zeros without rows.
    """
    parameters = list(network.parameters())
    if len(data) == 0:
        return np.zeros(sum(p.numel() for p in parameters)), 0.0
    labels = _all_labels(network.layout.heads, data, class_weights)
    loss = _loss(network.score(network.prepare(data)), network.head_slices, labels)
    parts = torch.autograd.grad(loss, parameters)
    gradient = torch.cat([part.reshape(-1) for part in parts]).double().numpy()
    return gradient, loss.item()


def balanced_class_weights(counts: ArrayLike, *, cap: float = 10.0) -> NDArray[np.float64]:
    """Weight classes by n / (K n_k), so that each of the K classes weighs the same in all.

    Parameters
    ----------
    counts
        Rows of each class over the whole federation, (K,).
    cap
        Largest weight; without it one row of a rare class could carry a whole batch.

    Raises
    ------
    ClassAbsentError
        Where a class has no row anywhere.
    """
    rows = np.asarray(counts, np.float64)
    if (rows <= 0).any():
        raise ClassAbsentError(
            f"classes {np.flatnonzero(rows <= 0).tolist()} of {len(rows)} have no training row at "
            "any enterprise; set training.class_weighting = none, or leave them out of the schema"
        )
    weights: NDArray[np.float64] = np.minimum(rows.sum() / (len(rows) * rows), cap)
    return weights


def evaluate_counts(
    network: MultiTaskNetwork, data: EncodedTable
) -> dict[str, NDArray[np.float64]]:
    """Count the predictions on ``data`` for each head, by its name.

    The counts are sums over rows: those of several parties add up to those of their union.
    """
    outputs = network.outputs(data)
    heads = network.layout.heads
    return {
        head.name: count_predictions(head, outputs[:, columns], data.targets[head.name])
        for head, columns in zip(heads, network.head_slices, strict=True)
    }


@torch.no_grad()
def mean_loss(network: MultiTaskNetwork, data: EncodedTable) -> float:
    """Mean loss of a row of ``data``, without dropout or class weights; NaN without rows."""
    if len(data) == 0:
        return float("nan")
    labels = _all_labels(network.layout.heads, data, None)
    return _loss(network.score(network.prepare(data)), network.head_slices, labels).item()


def row_losses(
    network: MultiTaskNetwork,
    scores: Tensor,
    data: EncodedTable,
    class_weights: ClassWeights | None = None,
) -> Tensor:
    """Return each row's own loss, (rows,), given the rows' ``scores`` (rows, outputs).

    The sum over the heads that the row has a label of, times the weight of its class, a numeric
    head's times :data:`PRIVATE_NUMERIC_WEIGHT`; unlike in training steps nothing is divided by a
    number of rows.
    """
    total = torch.zeros(len(data))
    for head, columns in zip(network.layout.heads, network.head_slices, strict=True):
        labels = _head_labels(head, data.targets[head.name], class_weights)
        loss = _plain_loss(scores[:, columns], labels, "none")
        if head.kind == "numeric":
            loss = PRIVATE_NUMERIC_WEIGHT * loss
        total = total + (loss if labels.weights is None else loss * labels.weights)
    return total


def local_optimizer(vector: nn.Parameter, config: TrainingSection) -> torch.optim.Optimizer:
    """Make the optimiser that ``config`` names, over one vector of parameters."""
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            [vector],
            config.learning_rate,
            eps=_ADAM_EPSILON,
            weight_decay=config.weight_decay,
            fused=True,
        )
    return torch.optim.SGD(
        [vector], config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


def share_one_vector(network: nn.Module) -> nn.Parameter:
    """Turn parameters and gradients into views of one vector and one gradient; return it."""
    parameters = list(network.parameters())
    vector = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
    vector.grad = torch.zeros_like(vector)
    start = 0
    for parameter in parameters:
        stop = start + parameter.numel()
        parameter.data = vector.data[start:stop].view(parameter.shape)
        parameter.grad = vector.grad[start:stop].view(parameter.shape)
        start = stop
    return vector


@dataclass(frozen=True)
class _HeadLabels:
    """Labels of one head, (rows,), with 0 where missing.

    ``weights`` is None where every row has a label and weight 1; else 0 where the label is
    missing, and ``labelled`` is 1 where it is not.
    """

    kind: str
    labels: Tensor
    weights: Tensor | None
    labelled: Tensor | None

    def cut(self, rows: Tensor | slice) -> _HeadLabels:
        return _HeadLabels(
            self.kind,
            self.labels[rows],
            None if self.weights is None else self.weights[rows],
            None if self.labelled is None else self.labelled[rows],
        )


def _head_labels(
    head: Head, values: NDArray[np.float32] | NDArray[np.int64], class_weights: ClassWeights | None
) -> _HeadLabels:
    labelled = values >= 0 if head.kind == "categorical" else ~np.isnan(values)
    known = np.where(labelled, values, 0)
    by_class = None if class_weights is None else class_weights.get(head.name)
    integer = head.kind == "categorical"
    labels = torch.tensor(known, dtype=torch.int64 if integer else torch.float32)
    if by_class is None and labelled.all():
        return _HeadLabels(head.kind, labels, None, None)
    if by_class is None or head.kind == "numeric":
        weights = labelled.astype(np.float32)
    else:
        weights = np.asarray(by_class, np.float32)[known.astype(np.int64)] * labelled
    return _HeadLabels(
        head.kind,
        labels,
        torch.tensor(weights, dtype=torch.float32),
        torch.tensor(labelled, dtype=torch.float32),
    )


def _all_labels(
    heads: Sequence[Head], data: EncodedTable, class_weights: ClassWeights | None
) -> list[_HeadLabels]:
    return [_head_labels(head, data.targets[head.name], class_weights) for head in heads]


def _loss(scores: Tensor, columns: Sequence[slice], labels: Sequence[_HeadLabels]) -> Tensor:
    """Sum over heads of the mean over the rows that have the head's label."""
    losses = [
        _head_loss(scores[:, column], head) for column, head in zip(columns, labels, strict=True)
    ]
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def _head_loss(scores: Tensor, head: _HeadLabels) -> Tensor:
    loss = _plain_loss(scores, head, "mean" if head.weights is None else "none")
    if head.weights is None or head.labelled is None:
        return loss
    return (loss * head.weights).sum() / head.labelled.sum().clamp(min=1)


def _plain_loss(scores: Tensor, head: _HeadLabels, reduction: str) -> Tensor:
    """Return the head's loss without weights: of each row, or with "mean" their mean."""
    if head.kind == "binary":
        return functional.binary_cross_entropy_with_logits(
            scores[:, 0], head.labels, reduction=reduction
        )
    if head.kind == "categorical":
        return functional.cross_entropy(scores, head.labels, reduction=reduction)
    return functional.smooth_l1_loss(
        scores[:, 0], head.labels, reduction=reduction, beta=_NUMERIC_BETA
    )
