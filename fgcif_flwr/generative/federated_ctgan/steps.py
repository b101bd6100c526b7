"""Steps of either network: the generator's gradient, and Adam over one vector."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fgcif_flwr.generative.ctgan.moments import SecondMoments
from fgcif_flwr.generative.federated_ctgan.class_conditions import Wanted
from fgcif_flwr.generative.federated_ctgan.critic_gradient import passes
from fgcif_flwr.generative.federated_ctgan.networks import SharedNetworks
from fgcif_flwr.models.training import share_one_vector

BETAS = (0.5, 0.9)
"""Of Adam, as in Gulrajani et al. 2017 (there 0 and 0.9) and Xu et al. 2019."""


_LEAST_VARIANCE = 0.05**2  # of a cell: rarer ones weigh no more than this


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


class ReleasedShares:
    """How often each cell of each column is to be generated: the released shares of its column.

    A term for them in the generator's loss leaves the critic to what counts of single columns do
    not tell. It needs no row, and is the same at every party however its own rows are spread.
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
        scale = np.maximum(shares * (1 - shares), _LEAST_VARIANCE)
        self._weights = torch.from_numpy(known / scale) / transform.width

    def pull(self, rows: Tensor) -> Tensor:
        """Return the gradient by generated rows, (rows, width), of the squared distance.

        Each half is pulled by what the other one lacks: the mean over draws is that of the true
        distance, and what chance gives to a batch pulls nothing.
        """
        half = len(rows) // 2
        pull = torch.zeros_like(rows)
        if half:
            first, second = rows[:half].mean(dim=0), rows[half:].mean(dim=0)
            pull[:half] = self._weights * (second - self._shares) / half
            pull[half:] = self._weights * (first - self._shares) / (len(rows) - half)
        return pull


def generator_gradient(
    networks: SharedNetworks,
    wanted: Wanted,
    random: torch.Generator,
    shares: ReleasedShares,
    moments: SecondMoments | None = None,
) -> Tensor:
    """Return the gradient, (d,), of less the critic's mean score of newly generated rows.

    The distances from released shares and from ``moments`` are added with the weights of the
    settings. The critic is not differentiated by its weights; no real row takes part but by
    ``moments``.
    """
    settings = networks.settings
    weights = list(networks.generator.parameters())
    fake = networks.fakes(wanted, random)
    seen = fake.detach()
    found = passes(networks.critic, seen)
    pull = -found.input_gradient(networks.critic).reshape(fake.shape) / len(found.scores)
    if settings.released_shares > 0:
        pull = pull + settings.released_shares * shares.pull(seen)
    if moments is not None and settings.moments > 0 and len(fake) >= 2:
        seen.requires_grad_()
        (apart,) = torch.autograd.grad(moments.distance(seen), seen)
        pull = pull + settings.moments * apart
    parts = torch.autograd.grad(fake, weights, pull)
    return torch.cat([part.reshape(-1) for part in parts])


def norm_of(vector: npt.NDArray[np.float64]) -> float:
    """Return the L2 norm; infinite where it is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        norm = float(np.linalg.norm(vector))
    return norm if np.isfinite(norm) else float("inf")
