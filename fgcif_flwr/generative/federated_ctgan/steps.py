"""Steps of either network: the generator's gradient, and Adam over one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fgcif_flwr.generative.ctgan.moments import LEAST_DEVIATION, SecondMoments
from fgcif_flwr.generative.ctgan.networks import Critic
from fgcif_flwr.generative.federated_ctgan.class_conditions import Wanted
from fgcif_flwr.generative.federated_ctgan.critic_gradient import passes
from fgcif_flwr.generative.federated_ctgan.networks import SharedNetworks
from fgcif_flwr.models.training import share_one_vector

BETAS = (0.5, 0.9)
"""Of Adam, as in Xu et al. 2019; Gulrajani et al. 2017 have 0 and 0.9."""


class Adam:
    """Adam (Kingma and Ba 2015) over one network's weights, which become views of one vector."""

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float,
        epsilon: float,
        betas: tuple[float, float] = BETAS,
    ) -> None:
        self._vector = share_one_vector(network)
        self._optimizer = torch.optim.Adam(
            [self._vector], learning_rate, betas=betas, eps=epsilon, fused=True
        )

    def step(self, gradient: Tensor) -> None:
        """Step down a gradient (d,)."""
        self._vector.grad = gradient
        self._optimizer.step()


class Pull(Protocol):
    """A term of the generator's loss, by its gradient in generated rows."""

    def pull(self, rows: Tensor) -> Tensor:
        """Return the gradient of the loss by ``rows``, (rows, width) as they are."""
        ...


class NetworkCritic:
    """Less the critic's mean score."""

    def __init__(self, critic: Critic) -> None:
        self._critic = critic

    def pull(self, rows: Tensor) -> Tensor:
        """Return the gradient; the critic is not differentiated by its weights."""
        found = passes(self._critic, rows)
        return -found.input_gradient(self._critic).reshape(rows.shape) / len(found.scores)


class TableMoments:
    """The squared distance of second moments from one enterprise's own rows'.

    Federated averaging makes it the distance from all enterprises' rows, as far as a round's
    steps stay near their start: its gradient is linear in the moments.

    Parameters
    ----------
    weight
    rows
        (rows, width), as the transform makes them.
    probabilities
        How often each is drawn, (rows,), adding up to 1.
    """

    def __init__(self, weight: float, rows: Tensor, probabilities: Tensor) -> None:
        self._weight = weight
        self._moments = SecondMoments(rows, probabilities)

    def pull(self, rows: Tensor) -> Tensor:
        """Return the gradient."""
        seen = rows.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self._weight * self._moments.distance(seen), seen)
        return gradient


class ReleasedShares:
    """The squared distance from the released shares of each column's cells.

    A term for them leaves the critic to what counts of single columns do not tell. It needs no row,
    and is the same at every party however its own rows are spread.
    """

    def __init__(self, networks: SharedNetworks) -> None:
        transform = networks.transform
        shares = np.zeros(transform.width, np.float32)
        known = np.zeros(transform.width, np.float32)
        for coding, spans in zip(transform.codings, transform.spans, strict=True):
            cells, total = spans[-1], float(coding.mass.sum())
            if total > 0:
                shares[cells.start : cells.stop] = coding.mass / total
                known[cells.start : cells.stop] = 1
        self._shares = torch.from_numpy(shares)
        scale = np.maximum(shares * (1 - shares), LEAST_DEVIATION**2)
        weight = networks.settings.released_shares / transform.width
        self._weights = torch.from_numpy(known / scale) * weight

    def pull(self, rows: Tensor) -> Tensor:
        """Return the gradient, over draws of the rows in the mean.

        Each half is pulled by what the other one lacks: what chance gives to a batch pulls nothing.
        """
        half = len(rows) // 2
        pull = torch.zeros_like(rows)
        if half:
            first, second = rows[:half].mean(dim=0), rows[half:].mean(dim=0)
            pull[:half] = self._weights * (second - self._shares) / half
            pull[half:] = self._weights * (first - self._shares) / (len(rows) - half)
        return pull


def generator_gradient(
    networks: SharedNetworks, wanted: Wanted, random: torch.Generator, pulls: Sequence[Pull]
) -> Tensor:
    """Return the gradient, (d,), of the sum of some terms at newly generated rows."""
    fake = networks.fakes(wanted, random)
    seen = fake.detach()
    pull = torch.stack([one.pull(seen) for one in pulls]).sum(dim=0)
    parts = torch.autograd.grad(fake, list(networks.generator.parameters()), pull)
    return torch.cat([part.reshape(-1) for part in parts])


def norm_of(vector: npt.NDArray[np.float64]) -> float:
    """Return the L2 norm; infinite where it is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        norm = float(np.linalg.norm(vector))
    return norm if np.isfinite(norm) else float("inf")
