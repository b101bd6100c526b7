"""Each customer's own gradient of the critic's loss: what a private release bounds and sums.

With the quadratic critic it is the products of the customer's own row (:mod:`.quadratic_critic`).
With the network a customer's loss is the mean score of generated rows of its class, less its own
score, and the gradient penalty between itself and one of those rows. Given what is drawn for a row,
nothing in it depends on another customer: the generated rows follow from the round's public input.
Their mean score's gradient is the same for all customers of a class and computed once. The critic
alone touches rows, so it alone needs noise (Xie et al. 2018, "Differentially Private Generative
Adversarial Network").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.generative.federated_ctgan.class_conditions import Wanted
from fgcif_flwr.generative.federated_ctgan.critic_gradient import row_gradients, score_gradient
from fgcif_flwr.generative.federated_ctgan.networks import (
    SharedNetworks,
    critic_parameter_count,
)
from fgcif_flwr.generative.federated_ctgan.quadratic_critic import SecondMomentSums
from fgcif_flwr.generative.federated_ctgan.settings import FederatedCtganSettings
from fgcif_flwr.generative.federated_ctgan.task_input import ROUND, SEED, Input, loaded_networks

Gradients = Callable[[Tensor, np.random.Generator], Tensor]

_LARGEST_PART = 1 << 25  # 128 MiB of gradients at once, whatever the network


def critic_gradients(
    arrays: Input,
    layout: FeatureLayout,
    settings: FederatedCtganSettings,
    table: EncodedTable,
    secret: np.random.Generator,
    rows_at_once: int = 256,
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the gradient of each customer's own loss by the critic's weights.

    Parameters
    ----------
    arrays
        The round's input, which has passed :func:`~.task_input.check_input`.
    layout
    settings
        With ``pac`` 1 for the critic ``network``: rows that are judged together have no gradients
        of their own.
    table
        One row per customer; nothing is yielded without rows.
    secret
        Draws each row's modes. It must be nobody else's: drawn from the public input, by the rows'
        places, the others' gradients would tell whether a row before them is there.
    rows_at_once
        At least 1; fewer where their gradients would have more than 128 MiB.

    Yields
    ------
    float32 (rows, critic_parameter_count), not clipped
        See :func:`fgcif_flwr.models.customer_gradients.bounded`.

    Raises
    ------
    ConfigurationError
        If ``pac`` is not 1 and the critic is the network.
    """
    size = critic_parameter_count(layout, settings)
    step = max(1, min(rows_at_once, _LARGEST_PART // size))
    networks = loaded_networks(arrays, layout, settings)
    gradients = (
        _of_quadratic(networks)
        if settings.private_critic == "quadratic"
        else _of_network(networks, round_seed(arrays))
    )
    for start in range(0, len(table), step):
        part = table.take(np.arange(start, min(start + step, len(table))))
        real = torch.from_numpy(networks.transform.forward(part, secret))
        yield gradients(real, secret).numpy()


def _of_quadratic(networks: SharedNetworks) -> Gradients:
    sums = SecondMomentSums(networks.transform)
    return lambda real, _: sums.contributions(real)


def _of_network(networks: SharedNetworks, seed: int) -> Gradients:
    settings = networks.settings
    if settings.pac != 1:
        raise ConfigurationError(f"pac is {settings.pac}; customers' own gradients want pac = 1")
    fakes = class_fakes(networks, torch.Generator().manual_seed(seed))
    common = torch.stack([score_gradient(networks.critic, rows) for rows in fakes])

    def gradients(real: Tensor, draws: np.random.Generator) -> Tensor:
        own = _classes(networks, real)
        which = torch.from_numpy(draws.integers(0, settings.fakes, len(real)))
        between = torch.from_numpy(draws.random((len(real), 1), np.float32))
        found = row_gradients(
            networks.critic, real, fakes[own, which], between, settings.gradient_penalty
        )
        return found.add_(common[own])

    return gradients


def class_fakes(networks: SharedNetworks, random: torch.Generator) -> Tensor:
    """Return generated rows of each cell of the first target with classes, (cells, fakes, width).

    Without such a target there is one cell, of rows of any kind.
    """
    conditions, count = networks.conditions, networks.settings.fakes
    cells = len(conditions.shares(0)) if conditions.targets else 1
    with torch.no_grad():
        return torch.stack(
            [
                networks.fakes(
                    Wanted(
                        torch.zeros(count, dtype=torch.int64),
                        torch.full((count,), cell, dtype=torch.int64),
                    ),
                    random,
                )
                for cell in range(cells)
            ]
        )


def round_seed(arrays: Input) -> int:
    """Return what decides a round's generated rows: the same at all parties, and public."""
    words = np.random.SeedSequence([int(arrays[SEED][0]), int(arrays[ROUND][0])])
    return int(words.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _classes(networks: SharedNetworks, real: Tensor) -> Tensor:
    if not networks.conditions.targets:
        return torch.zeros(len(real), dtype=torch.int64)
    return networks.conditions.cells_of(real)[:, 0]
