"""A critic that learns from noisy sums of clipped gradients: differential privacy of each row.

DP-SGD (Abadi et al., Deep learning with differential privacy, CCS 2016) on the critic alone: the
generator sees no row, only the critic (Xie et al., Differentially private generative adversarial
network, 2018). What else would show rows, the transform and the conditions, is made from one noisy
sum of histograms. The noise is that of all private releases of this project:
:class:`~fgcif_flwr.privacy.noisy_sum.NoisySum`.

Adjacency: one row is replaced by nothing, with the number of rows public.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.generative.columns import columns_of
from fgcif_flwr.generative.ctgan.networks import Critic
from fgcif_flwr.generative.ctgan.settings import CriticPrivacy, CtganSettings
from fgcif_flwr.generative.marginals.grid import cells_of, grid_codes
from fgcif_flwr.privacy import accounting
from fgcif_flwr.privacy.noisy_sum import Block, NoisySum

_AT_ONCE = 128  # rows whose gradients are held together
_HONEST = 1  # the party that fits is the one that adds the noise
_LEAST_DEVIATIONS = 2.0  # of the noise, below which a count is taken as none


@dataclass(frozen=True, eq=False)
class PrivateCritic:
    """Noisy gradients of a critic, and what they cost.

    Attributes
    ----------
    critic : Critic
        Of pac 1.
    rows : int
        Of the table.
    settings : CtganSettings
        With privacy.
    noise : numpy.random.Generator
        Draws the noise and, what is as secret, which rows take part in a step.
    """

    critic: Critic
    rows: int
    settings: CtganSettings
    noise: np.random.Generator

    @property
    def rate(self) -> float:
        """Probability that a row takes part in a step."""
        return sampling_rate(self.settings, self.rows)

    def participants(self) -> npt.NDArray[np.int64]:
        """Draw the rows of a step, each independently with probability :attr:`rate`."""
        return np.flatnonzero(self.noise.random(self.rows) < self.rate)

    def gradient(self, real: Tensor, fake: Tensor, between: Tensor) -> list[Tensor]:
        """Return the noisy mean gradient of the critic's loss, in its parameters' order.

        Parameters
        ----------
        real, fake
            (participants, width) each, with their conditions; ``fake`` knows nothing of ``real``.
        between
            (participants, 1), in [0, 1]: where the gradient penalty is taken.
        """
        privacy = _privacy(self.settings)
        mechanism = critic_sum(self.critic, privacy, self.rows)
        chunks = (
            {"critic": part.numpy() / privacy.clipping_norm}
            for part in row_gradients(
                self.critic, real, fake, between, self.settings.gradient_penalty
            )
        )
        integers = mechanism.encode(chunks, _HONEST, self.noise)
        total = mechanism.decode({"critic": integers.astype(np.float64)})["critic"]
        mean = torch.tensor(total * (privacy.clipping_norm / (self.rate * self.rows)))
        parts = []
        for parameter in self.critic.parameters():
            parts.append(mean[: parameter.numel()].view_as(parameter).float())
            mean = mean[parameter.numel() :]
        return parts


def row_gradients(
    critic: Critic, real: Tensor, fake: Tensor, between: Tensor, penalty: float
) -> Iterator[Tensor]:
    """Yield each row's gradient of its own loss, (rows, parameters), some rows at a time.

    A row's loss is the critic's score of a fake row less that of the row, with its own gradient
    penalty: with a pac of 1 none of it depends on another row.
    """
    parameters = {name: value.detach() for name, value in critic.named_parameters()}

    def score(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        scored: Tensor = functional_call(critic, weights, (row.unsqueeze(0),))
        return scored.squeeze(0)

    def loss(weights: dict[str, Tensor], own: Tensor, made: Tensor, share: Tensor) -> Tensor:
        slope = grad(score, argnums=1)(weights, share * own + (1 - share) * made)
        # The root of 0 has no derivative.
        steepness = (slope.square().sum() + 1e-12).sqrt()
        distance = score(weights, made) - score(weights, own)
        whole: Tensor = distance + penalty * (steepness - 1) ** 2
        return whole

    each = vmap(grad(loss), in_dims=(None, 0, 0, 0))
    for start in range(0, len(real), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        gradients = each(parameters, real[part], fake[part], between[part])
        yield torch.cat([gradients[name].flatten(1) for name in parameters], dim=1)


def noisy_histograms(
    layout: FeatureLayout,
    table: EncodedTable,
    privacy: CriticPrivacy,
    noise: np.random.Generator,
) -> dict[str, npt.NDArray[np.float64]]:
    """Return every column's histogram, as :meth:`TableTransform.shared` takes them.

    Counts below two standard deviations of the noise are taken as none.
    """
    mechanism = histogram_sum(layout, privacy, len(table))
    codes, sizes = grid_codes(layout, table), cells_of(layout)
    chunks = (
        {
            str(index): np.eye(size, dtype=np.float32)[codes[start : start + _AT_ONCE, index]]
            for index, size in enumerate(sizes)
        }
        for start in range(0, len(table), _AT_ONCE)
    )
    integers = mechanism.encode(chunks, _HONEST, noise).astype(np.float64)
    starts = np.cumsum(sizes)[:-1]
    parts = {str(index): part for index, part in enumerate(np.split(integers, starts))}
    histograms = {}
    for index, column in enumerate(columns_of(layout)):
        counts = mechanism.decode(parts)[str(index)]
        least = _LEAST_DEVIATIONS * mechanism.noise_deviation(str(index), _HONEST, _HONEST)
        histograms[column.name] = np.where(counts < least, 0.0, counts)
    return histograms


def epsilon_of(layout: FeatureLayout, critic: Critic, settings: CtganSettings, rows: int) -> float:
    """Return the epsilon of a private training with all of its steps, at the settings' delta."""
    privacy = _privacy(settings)
    step = critic_sum(critic, privacy, rows).curve()
    sampled = accounting.poisson_sampled(step, sampling_rate(settings, rows))
    steps = accounting.times(sampled, settings.steps * settings.critic_steps)
    whole = accounting.compose(histogram_sum(layout, privacy, rows).curve(), steps)
    return accounting.epsilon_of(whole, privacy.delta)


def sampling_rate(settings: CtganSettings, rows: int) -> float:
    """Return the probability that one of ``rows`` rows takes part in a step."""
    return min(1.0, settings.batch_size / rows)


def critic_sum(critic: Critic, privacy: CriticPrivacy, rows: int) -> NoisySum:
    """Return the mechanism of one gradient of the critic."""
    size = sum(parameter.numel() for parameter in critic.parameters())
    return NoisySum((Block("critic", size),), rows, privacy.noise_multiplier)


def histogram_sum(layout: FeatureLayout, privacy: CriticPrivacy, rows: int) -> NoisySum:
    """Return the mechanism of all columns' histograms."""
    blocks = tuple(Block(str(index), size) for index, size in enumerate(cells_of(layout)))
    return NoisySum(blocks, rows, privacy.histogram_multiplier)


def _privacy(settings: CtganSettings) -> CriticPrivacy:
    if settings.privacy is None:
        raise ValueError("a private critic wants settings with privacy")
    return settings.privacy
