"""Local training: one enterprise's epochs from the shared weights (McMahan et al. 2017, FedAvg).

The loss is that of a Wasserstein GAN with gradient penalty (Gulrajani et al. 2017). Both networks
are trained and averaged; conditions keep enterprises whose classes differ on one distribution
(:mod:`.class_conditions`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.generative.federated_ctgan.class_conditions import RealRows
from fgcif_flwr.generative.federated_ctgan.critic_gradient import CriticLoss, mean_gradient
from fgcif_flwr.generative.federated_ctgan.networks import SharedNetworks, to_vector
from fgcif_flwr.generative.federated_ctgan.settings import FederatedCtganSettings
from fgcif_flwr.generative.federated_ctgan.steps import (
    Adam,
    NetworkCritic,
    Pull,
    ReleasedShares,
    TableMoments,
    generator_gradient,
)
from fgcif_flwr.generative.federated_ctgan.task_input import VECTOR, Input, loaded_networks

_FEWEST_ROWS = 32  # in a step, drawn with replacement: fewer generated ones say too little


@dataclass(frozen=True)
class LocalDiagnostics:
    """What one enterprise's training was like; means over its steps, 0 without rows.

    They are the enterprise's own, and not for sending but in a secure sum.

    Attributes
    ----------
    rows : int
        Training rows.
    steps : int
        Of the generator.
    critic_gap : float
        Real rows' score less that of generated ones: the distance as the critic sees it.
    penalty : float
    gradient_norm : float
        Of the critic's loss.
    """

    rows: int
    steps: int
    critic_gap: float
    penalty: float
    gradient_norm: float


def train_locally(
    arrays: Input,
    layout: FeatureLayout,
    settings: FederatedCtganSettings,
    table: EncodedTable,
    seed: int,
) -> tuple[npt.NDArray[np.float64], LocalDiagnostics]:
    """Train both networks on one enterprise's rows, from the round's weights.

    Parameters
    ----------
    arrays
        The round's input, which has passed :func:`~.task_input.check_input`.
    layout
    settings
        ``local_epochs`` times the rows over ``batch``, rounded up, are the generator's steps.
    table
        Any number of rows of ``layout``; a single class is enough.
    seed
        Of this enterprise and round, from 0 to below 2^63. Decides all that is drawn.

    Returns
    -------
    update : float64 (parameter_count,)
        New weights less old; 0 where there are no rows, or training left the finite numbers.
    diagnostics : LocalDiagnostics
    """
    networks = loaded_networks(arrays, layout, settings)
    before = np.asarray(arrays[VECTOR], np.float64)
    if len(table) == 0:
        return np.zeros(len(before)), LocalDiagnostics(0, 0, 0.0, 0.0, 0.0)
    matrix = networks.transform.forward(table, np.random.default_rng(seed))
    real = RealRows(networks.conditions, torch.from_numpy(matrix))
    steps = settings.local_epochs * math.ceil(len(table) / settings.batch)
    diagnostics = _train(networks, real, steps, torch.Generator().manual_seed(seed))
    update = to_vector(networks).astype(np.float64) - before
    if not np.isfinite(update).all():
        # One enterprise's bad luck is not to end everybody's round.
        return np.zeros(len(before)), diagnostics
    return update, diagnostics


def _train(
    networks: SharedNetworks, real: RealRows, steps: int, random: torch.Generator
) -> LocalDiagnostics:
    settings, count = networks.settings, len(real.rows)
    rows = max(min(settings.batch, count), min(settings.batch, _FEWEST_ROWS))
    groups = math.ceil(rows / settings.pac)
    rows = groups * settings.pac
    critic_adam = Adam(networks.critic, settings.critic_learning_rate, settings.adam_epsilon)
    generator_adam = Adam(
        networks.generator, settings.generator_learning_rate, settings.adam_epsilon
    )
    pulls: list[Pull] = [NetworkCritic(networks.critic)]
    if settings.released_shares > 0:
        pulls.append(ReleasedShares(networks))
    if settings.moments > 0 and rows >= 2:
        pulls.append(TableMoments(settings.moments, real.rows, real.probabilities().float()))
    losses: list[CriticLoss] = []
    norms: list[float] = []
    for _ in range(steps):
        for _ in range(settings.critic_steps):
            own, wanted = real.draw(rows, random)
            with torch.no_grad():
                fake = networks.fakes(wanted, random)
            between = torch.rand(groups, 1, generator=random)
            gradient, loss = mean_gradient(
                networks.critic, own, fake, between, settings.gradient_penalty
            )
            critic_adam.step(gradient)
            losses.append(loss)
            norms.append(float(gradient.norm()))
        _, wanted = real.draw(rows, random)
        generator_adam.step(generator_gradient(networks, wanted, random, pulls))
    return LocalDiagnostics(
        count,
        steps,
        float(np.mean([loss.gap for loss in losses])),
        float(np.mean([loss.penalty for loss in losses])),
        float(np.mean(norms)),
    )
