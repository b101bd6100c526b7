"""Each customer's own gradient of the critic's loss: what a private release bounds and sums.

A customer's loss is the mean score of generated rows of its class, less its own score, and the
gradient penalty between itself and one of those rows. Nothing in it depends on another customer:
the generated rows follow from the round's public input. Their mean score's gradient is the same
for all customers of a class and computed once. The discriminator alone touches rows, so it alone
needs noise (Xie et al. 2018, "Differentially Private Generative Adversarial Network").
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.generative.federated_ctgan.class_conditions import Wanted
from fgcif_flwr.generative.federated_ctgan.critic_gradient import row_gradients, score_gradient
from fgcif_flwr.generative.federated_ctgan.networks import SharedNetworks
from fgcif_flwr.generative.federated_ctgan.settings import FederatedCtganSettings
from fgcif_flwr.generative.federated_ctgan.task_input import ROUND, SEED, Input, loaded_networks

_LARGEST_PART = 1 << 25  # 128 MiB of gradients at once, whatever the network


def critic_gradients(
    arrays: Input,
    layout: FeatureLayout,
    settings: FederatedCtganSettings,
    table: EncodedTable,
    rows_at_once: int = 256,
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the gradient of each customer's own loss by the critic's weights.

    Parameters
    ----------
    arrays
        The round's input, which has passed :func:`~.task_input.check_input`.
    layout
    settings
        With ``pac`` 1: rows that are judged together have no gradients of their own.
    table
        One row per customer; nothing is yielded without rows.
    rows_at_once
        At least 1; fewer where their gradients would have more than 128 MiB.

    Yields
    ------
    float32 (rows, critic_parameter_count), not clipped
        See :func:`fgcif_flwr.models.customer_gradients.bounded`.

    Raises
    ------
    ConfigurationError
        If ``pac`` is not 1.
    """
    if settings.pac != 1:
        raise ConfigurationError(f"pac is {settings.pac}; customers' own gradients want pac = 1")
    networks = loaded_networks(arrays, layout, settings)
    random = torch.Generator().manual_seed(round_seed(arrays))
    # Draws by place in the table: a row's number is all that is known of it here.
    draws = np.random.default_rng(round_seed(arrays))
    fakes = class_fakes(networks, random)
    common = torch.stack([score_gradient(networks.critic, rows) for rows in fakes])
    parameters = common.shape[1]
    step = max(1, min(rows_at_once, _LARGEST_PART // parameters))
    for start in range(0, len(table), step):
        part = table.take(np.arange(start, min(start + step, len(table))))
        real = torch.from_numpy(networks.transform.forward(part, draws))
        own = _classes(networks, real)
        which = torch.from_numpy(draws.integers(0, settings.fakes, len(part)))
        between = torch.from_numpy(draws.random((len(part), 1), np.float32))
        gradients = row_gradients(
            networks.critic, real, fakes[own, which], between, settings.gradient_penalty
        )
        yield gradients.add_(common[own]).numpy()


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
