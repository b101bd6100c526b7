"""The coordinator's side: from sums over enterprises to the next round's weights.

No row is here, and none is needed: the generator learns from the critic, and whether it does well
is told by the released counts.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import torch

from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.generative.columns import columns_of
from fgcif_flwr.generative.ctgan.weights import load_weights, to_weights
from fgcif_flwr.generative.federated_ctgan.customers import round_seed
from fgcif_flwr.generative.federated_ctgan.diagnosis import Diagnosis, diagnose
from fgcif_flwr.generative.federated_ctgan.model import FederatedCtgan
from fgcif_flwr.generative.federated_ctgan.networks import (
    Histograms,
    critic_parameter_count,
    load_vector,
    networks_of,
    networks_on,
    parameter_count,
    to_vector,
)
from fgcif_flwr.generative.federated_ctgan.quadratic_critic import SecondMomentSums
from fgcif_flwr.generative.federated_ctgan.settings import FederatedCtganSettings
from fgcif_flwr.generative.federated_ctgan.steps import (
    Adam,
    NetworkCritic,
    Pull,
    ReleasedShares,
    generator_gradient,
    norm_of,
)
from fgcif_flwr.generative.federated_ctgan.task_input import (
    HISTOGRAM,
    LARGEST_WEIGHT,
    ROUND,
    SEED,
    VECTOR,
)

logger = logging.getLogger(__name__)

_BATCH = 512  # generated rows in a step of the generator
_PRIVATE_BETAS = (0.9, 0.99)  # noise in every gradient: longer means than without
_SERVER_EPSILON = 1e-8
_LONGEST_MEAN = 3.0  # of contributions of norm 1, whose number is known roughly


class Coordinator:
    """Rounds of federated training of both networks; keeps the last good generator.

    One of :meth:`add_update` and :meth:`add_gradient` ends each round. A round that breaks the
    networks (numbers that are not finite, an exploding sum, modes that are lost) is undone: the
    next one starts from the last good weights.

    Parameters
    ----------
    layout : FeatureLayout
    settings : FederatedCtganSettings
    histograms
        Released counts of every column: :data:`~.networks.Histograms`.
    seed : int
        From 0 to below 2^63; public. Decides the initial weights and all generated rows.

    Attributes
    ----------
    round : int
        Of the next input, from 1.
    diagnoses : list of Diagnosis
        One a round that has ended.

    Raises
    ------
    ConfigurationError
        If a histogram is absent or malformed.
    """

    def __init__(
        self,
        layout: FeatureLayout,
        settings: FederatedCtganSettings,
        histograms: Histograms,
        seed: int,
    ) -> None:
        self.layout, self.settings, self._seed = layout, settings, seed
        self._histograms = {
            column.name: np.asarray(histograms[column.name], np.float64).copy()
            for column in columns_of(layout)
            if column.name in histograms
        }
        self._networks = networks_of(layout, self._histograms, settings, seed)
        self._shares = ReleasedShares(self._networks)
        self._sums = SecondMomentSums(self._networks.transform)
        self.round = 1
        self.diagnoses: list[Diagnosis] = []
        self._velocity = np.zeros(parameter_count(layout, settings))
        self._average: npt.NDArray[np.float64] | None = None
        self._averaged = networks_on(self._networks.transform, settings, seed)
        self._good = to_vector(self._networks)
        self._good_average = to_weights(self._networks.generator)
        self._start_adam()

    @property
    def vector(self) -> npt.NDArray[np.float32]:
        """Both networks' weights, (parameter_count,)."""
        return to_vector(self._networks)

    def input(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the next round's public input; see :func:`~.task_input.input_shapes`."""
        return {
            VECTOR: self.vector.astype("<f4"),
            ROUND: np.array([self.round], "<i8"),
            SEED: np.array([self._seed], "<i8"),
            **{HISTOGRAM + name: counts.astype("<f8") for name, counts in self._histograms.items()},
        }

    def add_update(self, update: npt.NDArray[np.float64]) -> Diagnosis:
        """End a round of local training.

        Parameters
        ----------
        update
            Mean of the enterprises' updates, weighted by their rows; (parameter_count,).

        Raises
        ------
        ValueError
            If its shape is another.
        """
        if update.shape != self._velocity.shape:
            raise ValueError(f"an update has shape {self._velocity.shape}, not {update.shape}")
        norm = norm_of(update)
        if not np.isfinite(norm):
            return self._ended(norm, None)
        self._velocity = self.settings.server_momentum * self._velocity + update
        moved = self.vector + self.settings.server_learning_rate * self._velocity
        return self._ended(norm, moved)

    def add_gradient(
        self,
        gradient: npt.NDArray[np.float64],
        clipping_norm: float,
        deviation: float = 0.0,
    ) -> Diagnosis:
        """End a round of customers' gradients: a step of the critic, then of the generator.

        Parameters
        ----------
        gradient
            Noisy sum of the bounded gradients (norm at most 1 each) over the released number of
            customers, (critic_parameter_count,): in units of the clipping norm.
        clipping_norm
            What they were bounded by, above 0.
        deviation
            Standard deviation of the noise in each number of ``gradient``; 0 without. What noise
            alone adds to the norm is taken off in the diagnosis.

        Raises
        ------
        ValueError
            If its shape is another.
        """
        size = critic_parameter_count(self.layout, self.settings)
        if gradient.shape != (size,):
            raise ValueError(f"a gradient has shape {(size,)}, not {gradient.shape}")
        of_noise = size * deviation**2
        squared = norm_of(gradient) ** 2 - of_noise
        # A mean of contributions of norm 1 is no longer than 1, but for an error in their number
        # and for what noise varies by: its squared norm's deviation, six times.
        if not squared <= _LONGEST_MEAN**2 + 6 * of_noise * np.sqrt(2 / size):
            return self._ended(float("inf"), None)
        norm = float(np.sqrt(max(0.0, squared)))
        random = torch.Generator().manual_seed(round_seed(self.input()))
        pulls: list[Pull] = [self._shares]
        if self.settings.private_critic == "quadratic":
            self._sums.add(gradient * clipping_norm, deviation * clipping_norm)
            pulls.append(self._sums)
        else:
            self._critic_adam.step(torch.tensor(gradient * clipping_norm, dtype=torch.float32))
            pulls.append(NetworkCritic(self._networks.critic))
        for _ in range(self.settings.generator_steps):
            wanted = self._networks.conditions.draw(_BATCH * self.settings.pac, random)
            self._generator_adam.step(generator_gradient(self._networks, wanted, random, pulls))
        return self._ended(norm, self.vector.astype(np.float64))

    def generator(self) -> FederatedCtgan:
        """Return the last good generator: of averaged weights."""
        networks = networks_on(self._networks.transform, self.settings, seed=0)
        load_weights(networks.generator, self._good_average)
        return FederatedCtgan(networks)

    def _ended(self, norm: float, weights: npt.NDArray[np.float64] | None) -> Diagnosis:
        """Judge a round that ends with these weights; keep what is good, undo what is not."""
        size = float("inf")
        # Comparisons are false for numbers that are not finite.
        if weights is not None and (np.abs(weights) <= LARGEST_WEIGHT).all():
            load_vector(self._networks, weights.astype(np.float32))
            self._add_to_average()
            size = norm_of(to_weights(self._networks.generator).astype(np.float64))
        seed = np.random.SeedSequence([self._seed, self.round, 1]).generate_state(1)[0]
        diagnosis = diagnose(
            self._averaged, self._histograms, self.diagnoses, norm, size, int(seed)
        )
        self.diagnoses.append(diagnosis)
        if diagnosis.healthy:
            self._good = self.vector
            self._good_average = to_weights(self._averaged.generator)
        else:
            logger.warning("round %d of CTGAN is undone: %s", self.round, diagnosis.reason)
            load_vector(self._networks, self._good)
            self._average = self._good_average.astype(np.float64)
            load_weights(self._averaged.generator, self._good_average)
            self._velocity[:] = 0
            self._start_adam()
        self.round += 1
        return diagnosis

    def _add_to_average(self) -> None:
        weights = to_weights(self._networks.generator).astype(np.float64)
        if self._average is None:
            self._average = weights
        # Early weights are far from late ones: the mean forgets them faster at first.
        keep = min(self.settings.averaging, (self.round - 1) / (self.round + 1))
        self._average = keep * self._average + (1 - keep) * weights
        load_weights(self._averaged.generator, self._average.astype(np.float32))

    def _start_adam(self) -> None:
        settings = self.settings
        self._critic_adam = Adam(
            self._networks.critic,
            settings.server_critic_learning_rate,
            _SERVER_EPSILON,
            _PRIVATE_BETAS,
        )
        self._generator_adam = Adam(
            self._networks.generator,
            settings.server_generator_learning_rate,
            _SERVER_EPSILON,
        )
