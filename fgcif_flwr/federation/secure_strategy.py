"""What the strategies share: Flower's loop over slots of a secure sum."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Message
from flwr.serverapp.strategy import FedAvg

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.federation.generator_releases import generator_inputs, sends_generator
from fgcif_flwr.federation.server_optimizer import ServerOptimizer
from fgcif_flwr.federation.session import SecureSumSession, Sum, Task
from fgcif_flwr.generative.generator import Generator
from fgcif_flwr.models.parameters import from_vector, to_vector
from fgcif_flwr.models.weight_average import WeightAverage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundReport:
    """What a round's release said.

    Attributes
    ----------
    round : int
        From 1.
    loss : float or None
        Mean training loss over the survivors' rows; None under a privacy unit, where it would be
        a release of its own.
    survivors, dropped : int
        Enterprises whose values are in the sum, and the others of the cohort: lost, or unable to
        compute, so that zeros stand for them.
    slot : int
    received_model : mapping of head name to metrics
        On validation rows, of the model that the round started from; empty when not counted.
        Under a privacy unit they are noisy, and of the last model that was counted.
    """

    round: int
    loss: float | None
    survivors: int
    dropped: int
    slot: int
    received_model: Mapping[str, Mapping[str, float]]


class SecureStrategy(FedAvg):
    """A strategy whose every round is a slot; ``Strategy.start()`` runs it unchanged.

    ``configure_train`` of a subclass opens a slot and returns its release messages, which
    ``start()`` sends; ``aggregate_train`` collects the masked vectors, runs the unmask exchange,
    and steps the model.

    Parameters
    ----------
    session : SecureSumSession
        Joined.
    config : RunConfig
    features : FeatureLayout
    class_weights : mapping
        Weights of the classes by head; empty where classes are not weighted.
    on_round : callable, optional
        Is shown every round's report.
    generator : Generator, optional
        Shared, where synthetic rows are beside the customers' own.
    """

    def __init__(
        self,
        session: SecureSumSession,
        config: RunConfig,
        features: FeatureLayout,
        class_weights: Mapping[str, np.ndarray],
        on_round: Callable[[RoundReport], None] | None = None,
        generator: Generator | None = None,
    ) -> None:
        enterprises = len(session.epoch.holders)
        super().__init__(
            min_train_nodes=enterprises,
            min_evaluate_nodes=enterprises,
            min_available_nodes=enterprises,
        )
        self.session = session
        self.config = config
        self.features = features
        self.class_weights = class_weights
        self.on_round = on_round
        self.generator = generator
        self.optimizer = ServerOptimizer(config.training, self._learning_rate())
        averaged = math.ceil(config.training.average_last * config.run.rounds)
        self._average = WeightAverage(config.run.rounds - averaged + 1)
        self.metrics: dict[str, dict[str, dict[str, float]]] = {}
        """Metrics of the last model by split (``validation``, ``test``) and head."""
        self._task: Task | None = None
        self._arrays: dict[str, np.ndarray] = {}

    def _learning_rate(self) -> float | None:
        """Return the server's learning rate where the configuration leaves it to the strategy."""
        return None

    def summary(self) -> None:
        """Log what protects a round."""
        parameters = self.session.epoch.parameters
        logger.info(
            "secure sum over %d enterprises, each with %d neighbours: threshold %d, tolerated "
            "dropouts %d, tolerated colluders %d, consistency exchange %s; at least %d honest "
            "enterprises in any sum against a %s",
            parameters.holders,
            parameters.neighbours,
            parameters.threshold,
            parameters.tolerated_dropouts,
            parameters.tolerated_colluders,
            "on" if parameters.consistency else "off",
            parameters.honest_in_any_sum,
            parameters.withstands,
        )

    def _generator_inputs(self) -> dict[str, np.ndarray]:
        """Return what a training task's input has of the generator."""
        if self.generator is None or not sends_generator(self.config):
            return {}
        return generator_inputs(self.generator)

    def _open(self, task: Task) -> list[Message]:
        self._task = task
        return self.session.open(task)

    def _collect(self, replies: Iterable[Message]) -> Sum:
        """Open the slot's sum, or that of a new slot; the run fails when none succeeds."""
        task = self._task
        assert task is not None, "collected before opened"
        return self.session.collect_or_retry(task, replies)

    def _step(self, server_round: int, update: np.ndarray) -> dict[str, np.ndarray]:
        """Step the model by a mean update and return it; after the last round, the average."""
        self._arrays = dict(self.optimizer.step(self._arrays, update))
        self._average.add(server_round, to_vector(self._arrays))
        mean = self._average.mean()
        if mean is None or server_round < self.config.run.rounds:
            return self._arrays
        return dict(from_vector(mean, self._arrays))

    def _report(
        self,
        server_round: int,
        total: Sum,
        loss: float | None,
        received_model: Mapping[str, Mapping[str, float]],
    ) -> RoundReport:
        report = RoundReport(
            round=server_round,
            loss=loss,
            survivors=len(total.survivors) - total.failed,
            dropped=len(total.dropped) + total.failed,
            slot=total.slot,
            received_model=received_model,
        )
        if self.on_round is not None:
            self.on_round(report)
        return report
