"""SecureFedAvg: federated averaging of updates that nobody sees but as their sum."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.errors import RunFailedError
from fgcif_flwr.federation.count_words import from_words, resolution
from fgcif_flwr.federation.records import arrays_from_record, arrays_to_record
from fgcif_flwr.federation.releases import (
    CLASS_WEIGHTS,
    EVALUATE,
    MODEL,
    TRAIN,
    TRAIN_EVALUATE,
    FederationRows,
    layout_of,
)
from fgcif_flwr.federation.server_optimizer import ServerOptimizer
from fgcif_flwr.federation.session import SecureSumSession, Sum, Task
from fgcif_flwr.federation.task_input import ArrayMap
from fgcif_flwr.models.metrics import metrics_from_counts
from fgcif_flwr.models.parameters import to_vector

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundReport:
    """What a round's release said.

    Attributes
    ----------
    round : int
        From 1.
    loss : float
        Mean training loss over the survivors' rows.
    survivors, dropped : int
        Enterprises whose values are in the sum, and the others of the cohort: lost, or unable to
        compute, so that zeros stand for them.
    slot : int
    received_model : mapping of head name to metrics
        On validation rows, of the model that the round started from; empty when not counted.
    """

    round: int
    loss: float
    survivors: int
    dropped: int
    slot: int
    received_model: Mapping[str, Mapping[str, float]]


class SecureFedAvg(FedAvg):
    """FedAvg (McMahan et al. 2017) over secure sums; ``Strategy.start()`` runs it unchanged.

    A round is two exchanges. ``configure_train`` opens a slot and returns its release messages,
    which ``start()`` sends; ``aggregate_train`` collects the masked vectors, runs the unmask
    exchange, and steps the model by the weighted mean of the survivors' updates. Evaluation of
    the received model rides in the same vector; only the last model costs a slot of its own.

    Parameters
    ----------
    session : SecureSumSession
        Joined.
    config : RunConfig
    features : FeatureLayout
    rows : FederationRows
        As released by the statistics task.
    class_weights : mapping
        Weights of the classes by head; empty where classes are not weighted.
    on_round : callable, optional
        Is shown every round's report.
    """

    def __init__(
        self,
        session: SecureSumSession,
        config: RunConfig,
        features: FeatureLayout,
        rows: FederationRows,
        class_weights: Mapping[str, np.ndarray],
        on_round: Callable[[RoundReport], None] | None = None,
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
        self.rows = rows
        self.class_weights = class_weights
        self.on_round = on_round
        self.optimizer = ServerOptimizer(config.training)
        self.metrics: dict[str, dict[str, dict[str, float]]] = {}
        """Metrics of the last model by split (``validation``, ``test``) and head."""
        self._task: Task | None = None
        self._arrays: dict[str, np.ndarray] = {}

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

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Open a slot for the round and return its release messages."""
        self._arrays = arrays_from_record(arrays)
        every = self.config.evaluation.every
        counts = every > 0 and server_round > 1 and (server_round - 1) % every == 0
        inputs: dict[str, np.ndarray] = {
            "rows": self.rows.as_array(),
            "round": np.array([server_round], dtype=np.int64),
            MODEL: to_vector(self._arrays),
            **{CLASS_WEIGHTS + name: array for name, array in self.class_weights.items()},
        }
        return self._open(TRAIN_EVALUATE if counts else TRAIN, inputs)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Open the sum of the updates and step the model."""
        total = self._collect(replies)
        rows = float(total.values["rows"][0])
        if rows <= 0:
            raise RunFailedError("the surviving enterprises have no training rows")
        # Updates are weighted by rows over all the federation's rows; survivors may be fewer.
        share = rows / self.rows.train
        loss = float(total.values["loss"][0]) / share
        if not math.isfinite(loss):
            raise RunFailedError("the training loss is not finite: lower training.learning_rate")
        self._arrays = self.optimizer.step(self._arrays, total.values["update"] / share)
        report = RoundReport(
            round=server_round,
            loss=loss,
            survivors=len(total.survivors) - total.failed,
            dropped=len(total.dropped) + total.failed,
            slot=total.slot,
            received_model=self._metrics(total, "validation"),
        )
        if self.on_round is not None:
            self.on_round(report)
        metrics = MetricRecord({"loss": loss, "survivors": report.survivors})
        return arrays_to_record(self._arrays), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Open a slot for the last model's evaluation; earlier models rode in the next round's."""
        if server_round < self.config.run.rounds:
            return []
        model = arrays_from_record(arrays)
        inputs: dict[str, np.ndarray] = {"rows": self.rows.as_array(), MODEL: to_vector(model)}
        return self._open(EVALUATE, inputs)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Open the last model's counts and return its metrics on test rows."""
        if server_round < self.config.run.rounds:
            return None
        total = self._collect(replies)
        self.metrics = {split: self._metrics(total, split) for split in ("validation", "test")}
        return MetricRecord(
            {
                f"test/{head}/{name}": value
                for head, metrics in self.metrics["test"].items()
                for name, value in metrics.items()
            }
        )

    def _open(self, name: str, arrays: ArrayMap) -> list[Message]:
        size = sum(array.size for array in self._arrays.values())
        layout = layout_of(name, self.config, self.features, size)
        self._task = Task(name, layout, arrays)
        return self.session.open(self._task)

    def _collect(self, replies: Iterable[Message]) -> Sum:
        """Open the slot's sum, or that of a new slot; the run fails when none succeeds."""
        task = self._task
        assert task is not None, "collected before opened"
        return self.session.collect_or_retry(task, replies)

    def _metrics(self, total: Sum, split: str) -> dict[str, dict[str, float]]:
        bits = self.config.secagg.value_bits
        return {
            head.name: metrics_from_counts(
                head,
                from_words(head, total.values[f"{split}/{head.name}"], bits),
                resolution(bits, len(total.survivors)),
            )
            for head in self.features.heads
            if f"{split}/{head.name}" in total.values
        }
