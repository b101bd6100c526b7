"""SecureFedAvg: federated averaging of updates that nobody sees but as their sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

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
from fgcif_flwr.federation.secure_strategy import RoundReport, SecureStrategy
from fgcif_flwr.federation.session import SecureSumSession, Sum, Task
from fgcif_flwr.federation.task_input import ArrayMap
from fgcif_flwr.generative.generator import Generator
from fgcif_flwr.models.metrics import metrics_from_counts
from fgcif_flwr.models.parameters import to_vector


class SecureFedAvg(SecureStrategy):
    """FedAvg (McMahan et al. 2017) over secure sums; ``Strategy.start()`` runs it unchanged.

    A round is two exchanges. ``configure_train`` opens a slot and returns its release messages,
    which ``start()`` sends; ``aggregate_train`` collects the masked vectors, runs the unmask
    exchange, and steps the model by the weighted mean of the survivors' updates. Evaluation of
    the received model rides in the same vector; only the last model costs a slot of its own.

    With ``training.algorithm = fedsgd`` an enterprise's update is the negative gradient of its mean
    loss, and everything else is the same.

    Parameters
    ----------
    session, config, features, class_weights, on_round, generator
        As :class:`SecureStrategy`.
    rows : FederationRows
        As released by the statistics task.
    """

    def __init__(
        self,
        session: SecureSumSession,
        config: RunConfig,
        features: FeatureLayout,
        rows: FederationRows,
        class_weights: Mapping[str, np.ndarray],
        on_round: Callable[[RoundReport], None] | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(session, config, features, class_weights, on_round, generator)
        self.rows = rows

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Open a slot for the round and return its release messages."""
        self._arrays = arrays_from_record(arrays)
        every = 1 if self.config.evaluation.every == "auto" else self.config.evaluation.every
        counts = every > 0 and server_round > 1 and (server_round - 1) % every == 0
        inputs: dict[str, np.ndarray] = {
            "rows": self.rows.as_array(),
            "round": np.array([server_round], dtype=np.int64),
            MODEL: to_vector(self._arrays),
            **{CLASS_WEIGHTS + name: array for name, array in self.class_weights.items()},
            **self._generator_inputs(),
        }
        return self._open(self._of_model(TRAIN_EVALUATE if counts else TRAIN, inputs))

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
        model = self._step(server_round, total.values["update"] / share)
        report = self._report(server_round, total, loss, self._metrics(total, "validation"))
        metrics = MetricRecord({"loss": loss, "survivors": report.survivors})
        return arrays_to_record(model), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Open a slot for the last model's evaluation; earlier models rode in the next round's."""
        if server_round < self.config.run.rounds:
            return []
        model = arrays_from_record(arrays)
        inputs: dict[str, np.ndarray] = {"rows": self.rows.as_array(), MODEL: to_vector(model)}
        return self._open(self._of_model(EVALUATE, inputs))

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

    def _of_model(self, name: str, arrays: ArrayMap) -> Task:
        size = sum(array.size for array in self._arrays.values())
        return Task(name, layout_of(name, self.config, self.features, size), arrays)

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
