"""Training of a CTGAN: Wasserstein critic with gradient penalty, Gumbel softmax, PacGAN.

Xu et al., Modeling tabular data using conditional GAN, NeurIPS 2019; the critic is that of
Gulrajani et al., Improved training of Wasserstein GANs, NeurIPS 2017.

Three things are not as in CTGAN. Conditions are on targets alone unless asked otherwise
(:class:`~fgcif_flwr.generative.ctgan.conditions.Conditions`). Sampling uses an average of the
generator over its last steps (Yazıcı et al., The unusual effectiveness of averaging in GAN
training, ICLR 2019). And the generator is told how far the second moments of its rows, correlations
of all columns with all others, are from the table's (moment matching: Li, Swersky and Zemel, ICML
2015), with which it needs half of the steps.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import DataError
from fgcif_flwr.generative.ctgan.conditions import Conditions, Floats, RowsByCell
from fgcif_flwr.generative.ctgan.critic_loss import critic_loss
from fgcif_flwr.generative.ctgan.diagnostics import Check, Diagnostics, coverage_of, divergence_of
from fgcif_flwr.generative.ctgan.generator import Ctgan, network_of
from fgcif_flwr.generative.ctgan.moments import SecondMoments
from fgcif_flwr.generative.ctgan.networks import Critic, GeneratorNetwork
from fgcif_flwr.generative.ctgan.private_critic import PrivateCritic, epsilon_of, noisy_histograms
from fgcif_flwr.generative.ctgan.sampling import sample_codes
from fgcif_flwr.generative.ctgan.settings import CtganSettings
from fgcif_flwr.generative.ctgan.weights import load_weights, to_weights
from fgcif_flwr.generative.transform import TableTransform
from fgcif_flwr.privacy.noise import cryptographic_generator

_HEALTH_ROWS = 1000  # sampled for a look at the generator's health
_BETAS = (0.5, 0.9)


def fit_ctgan(
    layout: FeatureLayout,
    table: EncodedTable,
    settings: CtganSettings,
    seed: int,
    noise: np.random.Generator | None = None,
) -> Ctgan:
    """Train a generator on one party's rows.

    With ``settings.privacy`` the generator, its transform and its diagnostics are differentially
    private in each row; without, they are that party's own.

    Parameters
    ----------
    layout
    table
        At least one row, of ``layout``. A table of one class, or of one row, trains as well.
    settings
    seed
        Decides all but the noise: initial weights, batches, conditions.
    noise
        With privacy alone: where the noise and who takes part in a step come from. A
        cryptographic generator unless a test gives another.

    Returns
    -------
    Ctgan
        The last healthy generator, with ``diagnostics`` of the whole training.

    Raises
    ------
    DataError
        If the table has no rows.
    PrivacyError
        If noise as asked cannot be drawn.
    """
    if len(table) == 0:
        raise DataError("a generator wants at least one row to learn from; there is none")
    training: _Training
    if settings.privacy is None:
        training = _OpenTraining(layout, table, settings, seed)
    else:
        secret = cryptographic_generator() if noise is None else noise
        training = _PrivateTraining(layout, table, settings, secret)
    return training.run()


class _Training(ABC):
    """Networks in training; what a step learns of real rows is the subclass's."""

    def __init__(self, transform: TableTransform, settings: CtganSettings, seed: int) -> None:
        self.transform, self.settings = transform, settings
        self.conditions = Conditions(transform, settings.target_share)
        seeds = np.random.SeedSequence(seed).generate_state(4, np.uint64) >> np.uint64(1)
        self.random = np.random.default_rng(int(seeds[0]))
        self.torch_random = torch.Generator().manual_seed(int(seeds[1]))
        self.network = network_of(
            transform,
            self.conditions.width,
            settings.noise_dim,
            settings.generator_hidden,
            int(seeds[2]),
        )
        self.average = copy.deepcopy(self.network)
        width = transform.width + self.conditions.width
        self.critic = Critic(width, settings.critic_hidden, settings.pac, int(seeds[3]))
        self._generator_adam = torch.optim.Adam(
            self.network.parameters(),
            lr=settings.generator_learning_rate,
            betas=_BETAS,
            weight_decay=settings.weight_decay,
        )
        self._critic_adam = torch.optim.Adam(
            self.critic.parameters(), lr=settings.critic_learning_rate, betas=_BETAS
        )
        self._positions = torch.from_numpy(self.conditions.positions)
        # Whether rare cells are asked for more often than they are: where real rows are too.
        self.evenly = settings.privacy is None

    @abstractmethod
    def teach_critic(self) -> tuple[float, float]:
        """Update the critic once; return its loss and the norm of the gradient."""

    def moments_loss(self, rows: Tensor) -> Tensor:
        """Return what the generator is told beside the critic's score."""
        return torch.zeros(())

    def epsilon(self) -> float | None:
        """Return what training costs."""
        return None

    def run(self) -> Ctgan:
        """Train, look at the generator every so often, and keep the last healthy one."""
        checks: list[Check] = []
        kept, kept_step = to_weights(self.average), 0
        divergence = None
        losses, critic_norms, norms = [], [], []
        for step in range(1, self.settings.steps + 1):
            for _ in range(self.settings.critic_steps):
                loss, norm = self.teach_critic()
                losses.append(loss)
                critic_norms.append(norm)
            norms.append(self._teach_generator(step))
            if step % self.settings.check_every and step != self.settings.steps:
                continue
            coverage, distance = self._compare()
            check = Check(
                step,
                float(np.mean(losses)),
                float(np.max(critic_norms)),
                float(np.max(norms)),
                coverage,
                distance,
            )
            losses, critic_norms, norms = [], [], []
            divergence = divergence_of(check, checks)
            checks.append(check)
            if divergence is not None:
                break
            kept, kept_step = to_weights(self.average), step
        load_weights(self.average, kept)
        diagnostics = Diagnostics(tuple(checks), kept_step, divergence, self.epsilon())
        share = self.settings.target_share
        return Ctgan(self.transform, self.average, share, diagnostics)

    def fakes(self, vectors: Floats) -> tuple[Tensor, Tensor]:
        """Return generated rows with their conditions, and the outputs they are made of."""
        condition = torch.from_numpy(vectors)
        noise = torch.randn(len(vectors), self.settings.noise_dim, generator=self.torch_random)
        raw = self.network(noise, condition)
        rows = self.network.activation.soft(raw, self.settings.temperature, self.torch_random)
        return torch.cat([rows, condition], dim=1), raw

    def _teach_generator(self, step: int) -> float:
        vectors = self.conditions.draw(self.settings.batch_size, self.random, self.evenly).vectors
        rows, raw = self.fakes(vectors)
        keep = self.critic.dropout(len(rows), self.settings.dropout, self.torch_random)
        # Cross entropy of the cell that the condition asks for.
        logs = self.network.activation.log_probabilities(raw)[:, self._positions]
        asked = -(torch.from_numpy(vectors) * logs).sum(dim=1).mean()
        loss = asked - self.critic(rows, keep).mean()
        loss = loss + self.moments_loss(rows[:, : self.transform.width])
        self._generator_adam.zero_grad()
        loss.backward()
        norm = _norm(self.network)
        self._generator_adam.step()
        # A young average forgets its start sooner.
        share = min(self.settings.averaging, (1 + step) / (10 + step))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
            for averaged, current in pairs:
                averaged.lerp_(current, 1 - share)
        return norm

    def _compare(self) -> tuple[float, float]:
        vectors = self.conditions.draw(_HEALTH_ROWS, self.random, evenly=False).vectors
        _, cells = sample_codes(self.average, vectors, self.random)
        return coverage_of(self.transform, cells)


class _OpenTraining(_Training):
    """Training by sampling on rows as they are."""

    def __init__(
        self, layout: FeatureLayout, table: EncodedTable, settings: CtganSettings, seed: int
    ) -> None:
        transform = TableTransform.fit(layout, table, seed, settings.max_categories)
        super().__init__(transform, settings, seed)
        _, cells = transform.codes(table, np.random.default_rng(seed))
        # The same modes as the cells': the same draws.
        self._matrix = torch.from_numpy(transform.forward(table, np.random.default_rng(seed)))
        self._rows = RowsByCell(self.conditions, cells)
        weights = torch.from_numpy(self._rows.weights().astype(np.float32))
        self._moments = SecondMoments(self._matrix, weights)

    def teach_critic(self) -> tuple[float, float]:
        condition = self.conditions.draw(self.settings.batch_size, self.random, evenly=True)
        chosen = torch.from_numpy(self._rows.draw(condition, self.random))
        real = torch.cat([self._matrix[chosen], torch.from_numpy(condition.vectors)], dim=1)
        with torch.no_grad():
            fake, _ = self.fakes(condition.vectors)
        settings = self.settings
        loss = critic_loss(
            self.critic, real, fake, settings.gradient_penalty, settings.dropout, self.torch_random
        )
        self._critic_adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = _norm(self.critic)
        self._critic_adam.step()
        return loss.item(), norm

    def moments_loss(self, rows: Tensor) -> Tensor:
        if self.settings.moments == 0 or len(rows) < 2:
            return torch.zeros(())
        return self.settings.moments * self._moments.distance(rows)


class _PrivateTraining(_Training):
    """Noisy sums of clipped gradients; conditions and transform from noisy histograms."""

    def __init__(
        self,
        layout: FeatureLayout,
        table: EncodedTable,
        settings: CtganSettings,
        noise: np.random.Generator,
    ) -> None:
        assert settings.privacy is not None
        histograms = noisy_histograms(layout, table, settings.privacy, noise)
        transform = TableTransform.shared(layout, histograms, settings.max_categories)
        # What is drawn for a row goes by its place among those that take part. From a secret
        # seed it is as if drawn for each row anew, so that who takes part moves no other's part:
        # amplification by sampling rests on that.
        super().__init__(transform, settings, int(noise.integers(2**63)))
        _, self._cells = transform.codes(table, noise)
        self._matrix = torch.from_numpy(transform.forward(table, noise))
        self._private = PrivateCritic(self.critic, len(table), settings, noise)

    def teach_critic(self) -> tuple[float, float]:
        chosen = self._private.participants()
        own = self.conditions.of_rows(self._cells[chosen], self.random).vectors
        real = torch.cat([self._matrix[chosen], torch.from_numpy(own)], dim=1)
        vectors = self.conditions.draw(len(chosen), self.random, evenly=False).vectors
        with torch.no_grad():
            fake, _ = self.fakes(vectors)
        between = torch.rand(len(chosen), 1, generator=self.torch_random)
        gradient = self._private.gradient(real, fake, between)
        for parameter, noisy in zip(self.critic.parameters(), gradient, strict=True):
            parameter.grad = noisy
        norm = _norm(self.critic)
        self._critic_adam.step()
        # The loss on real rows would show them; the score of generated ones shows no row.
        with torch.no_grad():
            score = float(self.critic(fake).mean()) if len(fake) else 0.0
        return score, norm

    def epsilon(self) -> float | None:
        return epsilon_of(self.transform.layout, self.critic, self.settings, len(self._matrix))


def _norm(network: GeneratorNetwork | Critic) -> float:
    """Return the L2 norm of a network's gradient."""
    squared = [float((p.grad**2).sum()) for p in network.parameters() if p.grad is not None]
    return math.sqrt(sum(squared))
