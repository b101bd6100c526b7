"""The networks that all parties share: built from released counts, settings and a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.generative.ctgan.generator import network_of
from fgcif_flwr.generative.ctgan.networks import Critic, GeneratorNetwork
from fgcif_flwr.generative.ctgan.weights import load_weights, to_weights
from fgcif_flwr.generative.federated_ctgan.class_conditions import (
    ClassConditions,
    Wanted,
    condition_width,
)
from fgcif_flwr.generative.federated_ctgan.quadratic_critic import moment_count
from fgcif_flwr.generative.federated_ctgan.settings import FederatedCtganSettings
from fgcif_flwr.generative.transform import TableTransform
from fgcif_flwr.generative.transform.table_transform import shared_spans

Histograms = Mapping[str, npt.NDArray[np.float64]]
"""By column name (cells,): see :func:`fgcif_flwr.generative.marginals.grid.cells_of`. Finite, not
negative, and the same numbers at every party."""


@dataclass(frozen=True, eq=False)
class SharedNetworks:
    """Two networks, and what rows are to them.

    Attributes
    ----------
    settings : FederatedCtganSettings
    transform : TableTransform
    conditions : ClassConditions
    generator : GeneratorNetwork
    critic : Critic
        Sees rows alone, of width ``transform.width``: their class is in them.
    """

    settings: FederatedCtganSettings
    transform: TableTransform
    conditions: ClassConditions
    generator: GeneratorNetwork
    critic: Critic

    def fakes(self, wanted: Wanted, random: torch.Generator) -> Tensor:
        """Return generated rows as the critic sees them, (rows, width); differentiable."""
        conditions = self.conditions.vectors(wanted)
        noise = torch.randn(len(conditions), self.generator.noise_dim, generator=random)
        raw = self.generator(noise, conditions)
        rows = self.generator.activation.soft(raw, self.settings.temperature, random)
        return self.conditions.imposed(rows, wanted)


def networks_of(
    layout: FeatureLayout, histograms: Histograms, settings: FederatedCtganSettings, seed: int
) -> SharedNetworks:
    """Build the networks with their initial weights.

    Parameters
    ----------
    layout
    histograms
        Released counts of every column, targets included.
    settings
    seed
        From 0 to below 2^63. Decides the initial weights; nothing else does.

    Raises
    ------
    ConfigurationError
        If a histogram is absent or malformed.
    """
    return networks_on(shared_transform(layout, histograms, settings), settings, seed)


def networks_on(
    transform: TableTransform, settings: FederatedCtganSettings, seed: int
) -> SharedNetworks:
    """Build the networks for a transform that is there already."""
    conditions = ClassConditions(transform)
    first, second = np.random.SeedSequence(seed).generate_state(2).tolist()
    generator = network_of(transform, conditions.width, settings.noise_dim, settings.hidden, first)
    critic = Critic(transform.width, settings.critic_hidden, settings.pac, second)
    return SharedNetworks(settings, transform, conditions, generator, critic)


def shared_transform(
    layout: FeatureLayout, histograms: Histograms, settings: FederatedCtganSettings
) -> TableTransform:
    """Return the transform of released counts; a process computes it once for the same ones."""
    parts = tuple(
        (name, np.ascontiguousarray(counts, dtype="<f8").tobytes())
        for name, counts in sorted(histograms.items())
    )
    return _transform(layout, parts, settings.max_categories)


@lru_cache(maxsize=4)
def _transform(
    layout: FeatureLayout, parts: tuple[tuple[str, bytes], ...], max_categories: int
) -> TableTransform:
    histograms = {name: np.frombuffer(counts, dtype="<f8") for name, counts in parts}
    return TableTransform.shared(layout, histograms, max_categories)


def generator_parameter_count(layout: FeatureLayout, settings: FederatedCtganSettings) -> int:
    """Return the size of the generator's part of the vector, the first one."""
    spans = shared_spans(layout, settings.max_categories)
    first = settings.noise_dim + condition_width(layout, spans)
    inputs = [first, *(width + first for width in settings.hidden)]
    outputs = [*settings.hidden, spans[-1][-1].stop]
    layers = sum((before + 1) * after for before, after in zip(inputs, outputs, strict=True))
    return layers + 2 * sum(settings.hidden)  # layer normalisation: a factor and a shift each


def critic_parameter_count(layout: FeatureLayout, settings: FederatedCtganSettings) -> int:
    """Return the size of a customer's gradient of the critic that ``private_critic`` names."""
    if settings.private_critic == "quadratic":
        return moment_count(shared_spans(layout, settings.max_categories)[-1][-1].stop)
    return _critic_network_count(layout, settings)


def parameter_count(layout: FeatureLayout, settings: FederatedCtganSettings) -> int:
    """Return the size of the vector of both networks; the layout and the settings decide it."""
    return generator_parameter_count(layout, settings) + _critic_network_count(layout, settings)


def _critic_network_count(layout: FeatureLayout, settings: FederatedCtganSettings) -> int:
    width = shared_spans(layout, settings.max_categories)[-1][-1].stop
    widths = [width * settings.pac, *settings.critic_hidden, 1]
    return sum((before + 1) * after for before, after in pairwise(widths))


def to_vector(networks: SharedNetworks) -> npt.NDArray[np.float32]:
    """Return the weights of the generator, then of the critic, in one vector (parameters,)."""
    return np.concatenate([to_weights(networks.generator), to_weights(networks.critic)])


def load_vector(networks: SharedNetworks, vector: npt.NDArray[np.float32]) -> None:
    """Copy a vector of :func:`to_vector` into the networks.

    Raises
    ------
    ValueError
        If the vector is not of the networks' size, or holds a number that is not finite.
    """
    size = len(to_weights(networks.generator))
    load_weights(networks.generator, vector[:size])
    load_weights(networks.critic, vector[size:])
