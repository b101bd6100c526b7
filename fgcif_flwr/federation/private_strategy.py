"""PrivateFedOpt: rounds whose every release is a noisy sum, charged to each enterprise."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.federation.private_plan import validation_rounds
from fgcif_flwr.federation.private_releases import (
    CLIPPING_NORM,
    ROWS,
    UNCLIPPED,
    UPDATE,
    VALIDATE,
    trained_layout,
    trains_locally,
)
from fgcif_flwr.federation.records import arrays_from_record, arrays_to_record
from fgcif_flwr.federation.releases import CLASS_WEIGHTS, EVALUATE, MODEL, TRAIN
from fgcif_flwr.federation.secure_strategy import RoundReport, SecureStrategy
from fgcif_flwr.federation.session import SecureSumSession, Task
from fgcif_flwr.federation.task_input import ArrayMap
from fgcif_flwr.generative.columns import balanced
from fgcif_flwr.generative.generator import Generator
from fgcif_flwr.models.customer_gradients import Clipping, mean_bounded
from fgcif_flwr.models.metrics import metrics_from_counts
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import load_arrays, to_vector
from fgcif_flwr.models.row_counts import counts_from_sum
from fgcif_flwr.privacy.plan import PrivacyPlan
from fgcif_flwr.secagg.encoding import VectorLayout
from fgcif_flwr.seeds import seed_for

logger = logging.getLogger(__name__)

_SYNTHETIC_ROWS = 4096  # a round; their mean is far less noisy than the customers' sum
_CLIPPING_RATE = 0.2  # eta of Andrew et al. 2021
# Chosen on validation rows of three tables at two epsilons (docs/privacy.md): from .15 to .3 serve.
_WEIGHT_NOISE = 0.25
# Largest rate with one binary head; heads add up, each by its loss' largest curvature over a binary
# one's (1/4 of a logit's square, 1/2 of a softmax's, a numeric head's as weighted).
_MOST_RATE = 6.0
_CURVATURE = {"binary": 1.0, "categorical": 2.0, "numeric": 1.3}


class PrivateFedOpt(SecureStrategy):
    """FedOpt (Reddi et al. 2021) on noisy sums; ``Strategy.start()`` runs it unchanged.

    * ``customer``, ``distributed`` (DP-FedSGD): the sum of all customers' clipped gradients, over
      the released noisy number of rows, is the gradient of one full-batch step.
    * ``customer``, ``local``: the mean of updates that each enterprise has made private.
    * ``enterprise`` (McMahan et al. 2018, Geyer et al. 2017): the mean of clipped updates.

    Nothing is divided by a private number: survivors are seen anyway, rows are released.

    Parameters
    ----------
    session, config, features, class_weights, on_round, generator
        As :class:`SecureStrategy`; the configuration's multipliers are numbers.
    plan : PrivacyPlan
        Of the run.
    rows : float
        Training rows of the federation as released; 0 under unit ``enterprise``.
    """

    def __init__(
        self,
        session: SecureSumSession,
        config: RunConfig,
        features: FeatureLayout,
        plan: PrivacyPlan,
        rows: float,
        class_weights: Mapping[str, np.ndarray],
        on_round: Callable[[RoundReport], None] | None = None,
        generator: Generator | None = None,
    ) -> None:
        self.plan = plan
        self.rows = rows
        super().__init__(session, config, features, class_weights, on_round, generator)
        self.clipping_norm = config.privacy.clipping_norm
        """Of gradients or updates; moves where clipping is adaptive."""
        self._validated = validation_rounds(config)
        self._counted: dict[str, dict[str, float]] = {}
        self._evaluated = np.zeros(0, np.float32)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Open a slot for the round and return its release messages."""
        self._arrays = arrays_from_record(arrays)
        inputs: dict[str, np.ndarray] = {
            "round": np.array([server_round], dtype=np.int64),
            MODEL: to_vector(self._arrays),
            **{CLASS_WEIGHTS + name: array for name, array in self.class_weights.items()},
            **self._generator_inputs(),
        }
        privacy = self.config.privacy
        if privacy.clipping == "adaptive":
            inputs[CLIPPING_NORM] = np.array([self.clipping_norm])
        if trains_locally(self.config):
            mean, most = self.rows / self.config.run.enterprises, privacy.rows_per_enterprise
            inputs[ROWS] = np.array([min(max(1.0, mean), float(most))])
        return self._open(self._task_of(TRAIN, inputs))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Open the noisy sum and step the model."""
        total = self._collect(replies)
        survivors = len(total.survivors)
        if trains_locally(self.config):
            update = total.values[UPDATE] / survivors
        else:
            values = self.plan.release(TRAIN).mechanism.sum.decode(total.values)
            contributions = self._contributions(survivors)
            update = values[UPDATE] * (self.clipping_norm / contributions)
            if self.config.privacy.unit == "customer":
                update = -update  # customers sum gradients; an enterprise's update is a step down
                update = self._beside_synthetic(server_round, update)
            if UNCLIPPED in values:
                self._adapt(float(values[UNCLIPPED][0]) / contributions)
        model = self._step(server_round, update)
        report = self._report(server_round, total, None, self._counted)
        return arrays_to_record(model), MetricRecord({"survivors": report.survivors})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Open a slot for validation rows where one is planned; after the last round, the test's
        follows it."""
        model = to_vector(arrays_from_record(arrays))
        self._evaluated = model
        if server_round in self._validated:
            return self._open(self._task_of(VALIDATE, {MODEL: model}))
        if server_round == self.config.run.rounds:
            return self._open(self._task_of(EVALUATE, {MODEL: model}))
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Open the counts; after the last round, those of test rows too."""
        last = server_round == self.config.run.rounds
        if server_round in self._validated:
            self._counted = self._metrics(VALIDATE, self._collect(replies).values)
            if not last:
                return None
            self.metrics["validation"] = self._counted
            task = self._task_of(EVALUATE, {MODEL: self._evaluated})
            self.metrics["test"] = self._metrics(EVALUATE, self.session.sum(task).values)
        elif last:
            self.metrics["test"] = self._metrics(EVALUATE, self._collect(replies).values)
        else:
            return None
        return MetricRecord(
            {
                f"test/{head}/{name}": value
                for head, metrics in self.metrics["test"].items()
                for name, value in metrics.items()
            }
        )

    def _learning_rate(self) -> float | None:
        """Choose the rate so that the noise in the weights is alike whatever budget and table.

        With s the standard deviation of one number of the mean contribution, noise of T rounds
        adds up to rate * s * sqrt(T) in a weight; that is held at :data:`_WEIGHT_NOISE`, by public
        and released numbers alone.
        """
        training = self.config.training
        if training.server_learning_rate != "auto":
            return None
        mechanism, roster = self.plan.release(TRAIN).mechanism, len(self.session.epoch.holders)
        noise = mechanism.sum.noise_deviation(UPDATE, roster, mechanism.sharers(self.plan.honest))
        deviation = noise / self._contributions(roster)
        most = _MOST_RATE / sum(_CURVATURE[head.kind] for head in self.features.heads)
        rate = min(most, _WEIGHT_NOISE / (deviation * math.sqrt(self.config.run.rounds)))
        logger.info("training.server_learning_rate: %.3g of the mean clipped direction", rate)
        return rate / self.config.privacy.clipping_norm  # updates are in the gradients' units

    def _contributions(self, survivors: int) -> float:
        """Return how many contributions a sum over so many survivors has, as far as is public."""
        if self.config.privacy.unit == "enterprise":
            return survivors
        present = survivors / len(self.session.epoch.holders)
        return max(1.0, self.rows * present * self.config.privacy.sampling_rate)

    def _beside_synthetic(self, server_round: int, update: np.ndarray) -> np.ndarray:
        """Weigh a step by customers' gradients with one by synthetic rows, as if both were rows.

        The synthetic rows' gradients are bounded like the customers', so that they pull alike.
        """
        section, privacy = self.config.generator, self.config.privacy
        if self.generator is None or section.use != "augment" or privacy.noise != "distributed":
            return update
        random = np.random.default_rng(seed_for(self.config, "augment", server_round))
        classes = balanced(self.features) if section.balance == "classes" else None
        rows = self.generator.sample(_SYNTHETIC_ROWS, random, classes)
        network = build_network(self.features, self.config.model, seed=0)
        load_arrays(network, self._arrays)
        how: Clipping = "automatic" if privacy.clipping == "automatic" else "fixed"
        weights = self.class_weights or None
        mean = mean_bounded(network, rows, self.clipping_norm, how, weights) * self.clipping_norm
        return (update - section.ratio * mean) / (1 + section.ratio)

    def _adapt(self, mean: float) -> None:
        """Move the norm towards the wanted quantile; ``mean`` is of +1 unclipped, -1 clipped."""
        unclipped = min(1.0, max(0.0, (mean + 1) / 2))
        target = self.config.privacy.target_unclipped
        self.clipping_norm *= math.exp(-_CLIPPING_RATE * (unclipped - target))
        logger.info("%.2f of contributions were unclipped (noisy)", unclipped)

    def _task_of(self, name: str, arrays: ArrayMap) -> Task:
        return Task(name, self._layout(name), arrays, counts_failures=False)

    def _layout(self, name: str) -> VectorLayout:
        if name == TRAIN and trains_locally(self.config):
            return trained_layout(self.config, sum(array.size for array in self._arrays.values()))
        return noisy_layout(self.session, self.plan, name)

    def _metrics(self, task: str, values: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
        sums = self.plan.release(task).mechanism.sum.decode(values)
        return {
            head.name: metrics_from_counts(head, counts_from_sum(head, sums[head.name]))
            for head in self.features.heads
        }


def noisy_layout(session: SecureSumSession, plan: PrivacyPlan, task: str) -> VectorLayout:
    """Return the layout of a task's noisy sum; it holds for any cohort of the roster."""
    mechanism = plan.release(task).mechanism
    roster = len(session.epoch.manifest.roster)
    return mechanism.sum.layout(roster, mechanism.sharers(plan.honest))
