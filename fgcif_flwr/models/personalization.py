"""Fine-tuning a joint model on one enterprise's own rows, kept only where it is really better.

The received model goes through a few epochs on the enterprise's training rows. When to stop is
decided on a part of the *training* rows, so that the validation rows have decided nothing when the
two models are compared on them. The comparison is paired, on the same customers
(:mod:`fgcif_flwr.models.paired_gain`), and the new model is kept where the gain's one-sided lower
bound, at 95 % confidence, is above 0: of fine-tunings that make nothing better, at most about one
in twenty passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from fgcif_flwr.config import TrainingSection
from fgcif_flwr.data.consortium import Splits
from fgcif_flwr.data.encoding import EncodedTable
from fgcif_flwr.errors import DataError
from fgcif_flwr.models.artifact import LoadedModel
from fgcif_flwr.models.metrics import metrics_from_counts
from fgcif_flwr.models.network import MultiTaskNetwork, build_network
from fgcif_flwr.models.paired_gain import PairedGain, auc_gain, loss_gain
from fgcif_flwr.models.parameters import load_arrays, named_arrays
from fgcif_flwr.models.training import Trainer, evaluate_counts, mean_loss, row_losses

Metrics = dict[str, dict[str, float]]

LEAST_ROWS = 20
"""Training rows, and validation rows, below which nothing can be shown."""
LEAST_OF_A_CLASS = 10
"""Validation rows that each class needs for AUCs to be compared."""


@dataclass(frozen=True)
class PersonalizationSettings:
    """How the fine-tuning goes.

    Attributes
    ----------
    epochs, patience
        Most epochs, and those without gain after which it stops; at least 1.
    learning_rate, batch_size, proximal_mu, optimizer
        As in :class:`fgcif_flwr.config.TrainingSection`; the proximal term pulls to the joint
        model.
    stopping_fraction
        Of the training rows, kept out to decide when to stop; in (0, 0.5].
    confidence
        One-sided, of the gain; in (0.5, 1).
    """

    epochs: int = 20
    patience: int = 3
    learning_rate: float = 5e-4
    batch_size: int = 32
    proximal_mu: float = 0.0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    stopping_fraction: float = 0.2
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.patience < 1:
            raise ValueError("epochs and patience are at least 1")
        if not (0 < self.stopping_fraction <= 0.5 and 0.5 < self.confidence < 1):
            raise ValueError("stopping_fraction is in (0, 0.5], confidence in (0.5, 1)")


@dataclass(frozen=True)
class Personalized:
    """The result of fine-tuning.

    Attributes
    ----------
    network
        The enterprise's own, or None where the joint model is to be used on.
    before, after
        Metrics by head on the validation rows, of the joint and of the fine-tuned model (kept or
        not).
    target
        The binary target whose AUC was compared; None where it was the loss over all targets.
    gain
        By which the fine-tuned model is better, with its lower bound.
    epochs
        That the fine-tuned model was trained for; 0 where none brought a gain.
    """

    network: MultiTaskNetwork | None
    before: Metrics
    after: Metrics
    target: str | None
    gain: PairedGain
    epochs: int

    @property
    def kept(self) -> bool:
        """Whether the fine-tuned model is better by more than chance reaches."""
        return self.network is not None


def personalize(
    loaded: LoadedModel,
    rows: Splits,
    settings: PersonalizationSettings | None = None,
    seed: int = 0,
) -> Personalized:
    """Fine-tune ``loaded`` on an enterprise's rows; ``loaded`` itself stays as it is.

    Parameters
    ----------
    rows
        ``train`` and ``validation`` with their targets (an ``EnterpriseRows`` is one); ``test`` is
        not looked at. A learned target's labels are those of the model's segments.
    settings
        Left out, the defaults.
    seed
        Decides which training rows tell when to stop, and the order of rows.

    Returns
    -------
    Personalized
        What is compared is the AUC of the first binary target with at least 10 validation rows of
        each class, or else the mean loss of a row over all heads.

    Raises
    ------
    DataError
        With fewer than 20 training or validation rows.
    """
    settings = settings or PersonalizationSettings()
    if min(len(rows.train), len(rows.validation)) < LEAST_ROWS:
        raise DataError(
            f"personalizing wants at least {LEAST_ROWS} training and {LEAST_ROWS} validation "
            "rows; use the joint model"
        )
    network = loaded.network
    tuned = build_network(network.layout, loaded.model, seed=0)
    load_arrays(tuned, named_arrays(network))
    train, validation = (labelled(loaded, part) for part in (rows.train, rows.validation))
    epochs = _fine_tune(tuned, train, settings, seed)
    target, gain = _gain(network, tuned, validation, settings.confidence)
    return Personalized(
        tuned if gain.lower > 0 else None,
        _metrics(network, validation),
        _metrics(tuned, validation),
        target,
        gain,
        epochs,
    )


def labelled(loaded: LoadedModel, rows: EncodedTable) -> EncodedTable:
    """Return rows with the labels of a learned target, as the model's segments put them."""
    if loaded.segments is None:
        return rows
    return loaded.segments.labelled(loaded.network.layout, rows)


def _fine_tune(
    network: MultiTaskNetwork, train: EncodedTable, settings: PersonalizationSettings, seed: int
) -> int:
    """Train in place, keep the best epoch's weights (or the first ones); return its number."""
    config = TrainingSection(
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        optimizer=settings.optimizer,
        proximal_mu=settings.proximal_mu,
    )
    division, order = (int(s.generate_state(1)[0]) for s in np.random.SeedSequence(seed).spawn(2))
    places = np.random.default_rng(division).permutation(len(train))
    kept_out = max(1, round(settings.stopping_fraction * len(train)))
    stopping = train.take(places[:kept_out])
    trainer = Trainer(network, train.take(places[kept_out:]), config, order)
    best_epoch, best_loss, best = 0, mean_loss(network, stopping), named_arrays(network)
    for epoch in range(1, settings.epochs + 1):
        trainer.epoch()
        loss = mean_loss(network, stopping)
        if loss < best_loss:
            best_epoch, best_loss, best = epoch, loss, named_arrays(network)
        elif epoch - best_epoch >= settings.patience:
            break
    load_arrays(network, best)
    return best_epoch


def _gain(
    joint: MultiTaskNetwork, tuned: MultiTaskNetwork, rows: EncodedTable, confidence: float
) -> tuple[str | None, PairedGain]:
    before, after = joint.outputs(rows), tuned.outputs(rows)
    for head, where in zip(joint.layout.heads, joint.head_slices, strict=True):
        labels = rows.targets[head.name]
        least = min(int((labels == 0).sum()), int((labels == 1).sum()))
        if head.kind == "binary" and least >= LEAST_OF_A_CLASS:
            scores = before[:, where.start], after[:, where.start]
            return head.name, auc_gain(*scores, labels, confidence)
    first, second = (
        row_losses(joint, torch.tensor(scores), rows).numpy() for scores in (before, after)
    )
    return None, loss_gain(first, second, confidence)


def _metrics(network: MultiTaskNetwork, rows: EncodedTable) -> Metrics:
    counts = evaluate_counts(network, rows)
    return {
        head.name: metrics_from_counts(head, counts[head.name]) for head in network.layout.heads
    }
