"""The stage between statistics and training: what a shared generator learns from secure sums."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.errors import RunFailedError
from fgcif_flwr.federation.generator_releases import (
    GENERATOR,
    ROWS,
    UPDATE,
    ctgan_settings,
    generator_rounds,
    is_shared,
    marginal_settings,
)
from fgcif_flwr.federation.session import SecureSumSession
from fgcif_flwr.federation.task_input import ArrayMap
from fgcif_flwr.generative.generator import Generator
from fgcif_flwr.generative.marginals import measurements
from fgcif_flwr.generative.marginals.learning import Learner
from fgcif_flwr.models.network import MultiTaskNetwork
from fgcif_flwr.models.training import train_locally
from fgcif_flwr.privacy.plan import PrivacyPlan
from fgcif_flwr.seeds import seed_for
from server_app.sums import TaskSums, task_sums

logger = logging.getLogger(__name__)

# Under unit enterprise an enterprise counts as a whole; its mean counts are shown to the learner
# as those of this many rows, so that its own limits on counts of rows are met.
_ROWS_OF_AN_ENTERPRISE = 100.0


@dataclass(frozen=True)
class LearntGenerator:
    """A shared generator, and how it came about.

    Attributes
    ----------
    generator : Generator
    diagnostics : list of dict
        One a round of a federated CTGAN; empty for marginals.
    """

    generator: Generator
    diagnostics: list[dict[str, Any]] = field(default_factory=list)


def learn_generator(
    session: SecureSumSession,
    config: RunConfig,
    features: FeatureLayout,
    rows: float,
    plan: PrivacyPlan | None,
) -> LearntGenerator | None:
    """Learn the configured generator; None where there is none that is shared.

    Parameters
    ----------
    rows
        Training rows as released, exact or noisy; 0 under unit ``enterprise``.
    plan
        The run's; None without a privacy unit.

    Raises
    ------
    RunFailedError
        If a federated CTGAN has never been in a state from which rows can be drawn.
    """
    if not is_shared(config):
        return None
    stage = _Stage(session, config, features, plan)
    learner = Learner(features, marginal_settings(config))
    if config.generator.kind == "federated-ctgan":
        stage.count(measurements.ONE_WAY, learner)
        return stage.train_networks(learner.histograms(), rows)
    for measurement in measurements.MEASUREMENTS:
        stage.count(measurement, learner)
    return LearntGenerator(learner.generator())


def warm_start(network: MultiTaskNetwork, generator: Generator, config: RunConfig) -> None:
    """Train the first global model on synthetic rows, before any enterprise trains on its own."""
    section = config.generator
    random = np.random.default_rng(seed_for(config, "warm-start"))
    table = generator.sample(section.rows, random)
    training = config.training.model_copy(
        update={"local_epochs": section.epochs, "proximal_mu": 0.0}
    )
    summary = train_locally(network, table, training, seed_for(config, "warm-start-order"))
    logger.info("warm start on %d synthetic rows: loss %.4f", summary.rows, summary.loss)


@dataclass(frozen=True)
class _Stage:
    session: SecureSumSession
    config: RunConfig
    features: FeatureLayout
    plan: PrivacyPlan | None

    def count(self, measurement: str, learner: Learner) -> None:
        """Sum one measurement of counts, and let the learner have it."""
        sums = self._sum(measurement, learner.input(measurement))
        scale = _ROWS_OF_AN_ENTERPRISE if self.config.privacy.unit == "enterprise" else 1.0
        learner.add(
            measurement,
            {name: scale * counts for name, counts in sums.values.items()},
            {name: scale * deviation for name, deviation in sums.deviations.items()},
        )

    def train_networks(self, histograms: Mapping[str, np.ndarray], rows: float) -> LearntGenerator:
        """Train a federated CTGAN for its rounds; keep the last good one."""
        from fgcif_flwr.generative.federated_ctgan import Coordinator

        config, settings = self.config, ctgan_settings(self.config)
        coordinator = Coordinator(
            self.features, settings, histograms, seed_for(config, "generator")
        )
        norm = config.generator.clipping_norm
        for _ in range(generator_rounds(config)):
            arrays = dict(coordinator.input())
            if config.privacy.unit == "none":
                arrays[ROWS] = np.array([int(rows)], dtype=np.int64)
            sums = self._sum(GENERATOR, arrays)
            values, survivors = sums.values, sums.survivors
            if config.privacy.unit == "none":
                share = max(float(values[ROWS][0]), 1.0) / rows
                diagnosis = coordinator.add_update(values[UPDATE] / share)
            elif config.privacy.unit == "enterprise":
                diagnosis = coordinator.add_update(norm * values[UPDATE] / survivors)
            else:
                present = rows * survivors / len(self.session.epoch.holders)
                diagnosis = coordinator.add_gradient(
                    values[UPDATE] / present, norm, sums.deviations[UPDATE] / present
                )
            logger.info("generator, round %d: %s", diagnosis.round, diagnosis.as_dict())
        diagnostics = [diagnosis.as_dict() for diagnosis in coordinator.diagnoses]
        if not any(diagnosis.healthy for diagnosis in coordinator.diagnoses):
            raise RunFailedError(
                "the federated CTGAN was in no round in a state to draw rows from; raise "
                "generator.rounds, or use generator.kind = marginals"
            )
        return LearntGenerator(coordinator.generator(), diagnostics)

    def _sum(self, task: str, arrays: ArrayMap) -> TaskSums:
        return task_sums(self.session, self.config, self.features, self.plan, task, arrays)
