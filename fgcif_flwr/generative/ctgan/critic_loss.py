"""The loss of a critic: Wasserstein distance with a gradient penalty."""

from __future__ import annotations

import torch
from torch import Tensor

from fgcif_flwr.generative.ctgan.networks import Critic


def critic_loss(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    penalty: float,
    dropout: float,
    generator: torch.Generator,
) -> Tensor:
    """Return the mean loss of groups of rows (Gulrajani et al., NeurIPS 2017, algorithm 1).

    Parameters
    ----------
    critic
    real, fake
        (rows, width) each, with their conditions; rows is a multiple of ``critic.pac``.
    penalty
        Weight of the squared distance of the gradient's norm from 1.
    dropout
        Share of hidden outputs that are left out.
    generator
        Decides the dropout and where between real and fake the gradient is taken.
    """
    rows = len(real)
    groups = rows // critic.pac
    keep = critic.dropout(2 * rows, dropout, generator)
    scores = critic(torch.cat([fake, real]), keep)
    # One place between real and fake for all rows that are judged together.
    share = torch.rand(groups, 1, generator=generator).repeat_interleave(critic.pac, dim=0)
    between = (share * real + (1 - share) * fake).requires_grad_()
    there = critic(between, critic.dropout(rows, dropout, generator)).sum()
    (gradient,) = torch.autograd.grad(there, between, create_graph=True)
    steepness = gradient.reshape(groups, -1).norm(dim=1)
    distance = scores[:groups].mean() - scores[groups:].mean()
    loss: Tensor = distance + penalty * ((steepness - 1) ** 2).mean()
    return loss
