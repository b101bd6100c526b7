"""The critic's loss and its gradients in closed form, of a batch or of each row.

A critic of leaky ReLUs is linear wherever no unit changes sign. With ``s_l`` the slopes of layer l,
``a_l`` its outputs and ``d_l = s_l * (W_(l+1)^T d_(l+1))`` what the score owes to it, the gradient
of a row's score is ``d_l a_(l-1)^T``, and its input gradient ``g = W_1^T d_1``. The slopes have no
derivative, so that any function of g has the gradient ``d_l t_(l-1)^T``, where ``t_0`` is its
derivative by g, carried forward as ``t_l = s_l * (W_l t_(l-1))``. So the gradient penalty of
Gulrajani et al. (*Improved training of Wasserstein GANs*, 2017) costs one more pass and no second
differentiation, and a row's own gradient is a sum of outer products (as in Goodfellow 2015,
"Efficient Per-Example Gradient Computations").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fgcif_flwr.generative.ctgan.networks import SLOPE, Critic

_LEAST_NORM = 1e-12  # of an input gradient that is divided by


@dataclass(frozen=True)
class Passes:
    """One row's passes through the critic, layer by layer.

    Attributes
    ----------
    scores : (rows,)
    inputs : of every layer (rows, its inputs)
        What the layer takes: the row, then the outputs of hidden layers.
    slopes : of every hidden layer (rows, its outputs)
    owed : of every layer (rows, its outputs)
        The score's derivative by what the layer puts out, before the activation.
    """

    scores: Tensor
    inputs: list[Tensor]
    slopes: list[Tensor]
    owed: list[Tensor]

    def input_gradient(self, critic: Critic) -> Tensor:
        """Return the score's derivative by the row, (rows, width)."""
        gradient: Tensor = self.owed[0] @ _linear(critic)[0].weight
        return gradient


@dataclass(frozen=True)
class CriticLoss:
    """Means over a batch: of the real rows' score less the generated ones', and of the penalty."""

    gap: float
    penalty: float


@torch.no_grad()
def passes(critic: Critic, rows: Tensor) -> Passes:
    """Carry rows forward and their scores back; groups of ``critic.pac`` count as rows."""
    values = rows.reshape(len(rows) // critic.pac, -1)
    layers = _linear(critic)
    inputs, slopes = [], []
    for layer in layers[:-1]:
        inputs.append(values)
        outputs = torch.addmm(layer.bias, values, layer.weight.T)
        slope = (outputs > 0).float().mul_(1 - SLOPE).add_(SLOPE)
        slopes.append(slope)
        values = outputs * slope
    inputs.append(values)
    last = layers[-1]
    scores = torch.addmm(last.bias, values, last.weight.T).squeeze(1)
    owed = [torch.ones(len(values), 1)]
    for layer, slope in zip(reversed(layers[1:]), reversed(slopes), strict=True):
        owed.append((owed[-1] @ layer.weight) * slope)
    return Passes(scores, inputs, slopes, owed[::-1])


@torch.no_grad()
def mean_gradient(
    critic: Critic, real: Tensor, fake: Tensor, between: Tensor, penalty: float
) -> tuple[Tensor, CriticLoss]:
    """Return the gradient of a batch's mean loss, (d,), in the order of the critic's parameters.

    The loss is the mean score of ``fake`` less that of ``real``, and the penalty's mean at the
    shares ``between`` of the way from a generated row to its real one.

    Parameters
    ----------
    critic
    real, fake
        (rows, width) each; a multiple of ``critic.pac`` rows.
    between
        (rows // pac, 1), in [0, 1].
    penalty
        Weight of ``(|g| - 1)^2`` with g the input gradient.
    """
    groups = len(real) // critic.pac
    # All three kinds of rows in one pass: these networks are small, and calls are what costs.
    found = passes(critic, torch.cat([fake, real, _mixed(critic, real, fake, between)]))
    penalties, tangents = _penalty(critic, found, slice(2 * groups, None), penalty)
    sign = torch.ones(3 * groups, 1)
    sign[groups : 2 * groups] = -1
    parts = []
    for owed, inputs, tangent in zip(found.owed, found.inputs, tangents, strict=True):
        signed = owed * sign
        parts.append((signed.T @ torch.cat([inputs[: 2 * groups], tangent])).reshape(-1))
        parts.append(signed[: 2 * groups].sum(dim=0))
    scores = found.scores
    gap = scores[groups : 2 * groups].mean() - scores[:groups].mean()
    return torch.cat(parts) / groups, CriticLoss(float(gap), float(penalties.mean()))


@torch.no_grad()
def score_gradient(critic: Critic, rows: Tensor) -> Tensor:
    """Return the gradient of the rows' mean score, (d,)."""
    found = passes(critic, rows)
    parts = []
    for owed, inputs in zip(found.owed, found.inputs, strict=True):
        parts += [(owed.T @ inputs).reshape(-1), owed.sum(dim=0)]
    return torch.cat(parts) / len(found.scores)


@torch.no_grad()
def row_gradients(
    critic: Critic, real: Tensor, fake: Tensor, between: Tensor, penalty: float
) -> Tensor:
    """Return, of each real row on its own, the gradient of its penalty less its score, (rows, d).

    Parameters are those of :func:`mean_gradient`; ``critic.pac`` is 1.
    """
    rows = len(real)
    found = passes(critic, torch.cat([real, _mixed(critic, real, fake, between)]))
    _, tangents = _penalty(critic, found, slice(rows, None), penalty)
    size = sum(parameter.numel() for parameter in critic.parameters())
    gradients = torch.empty(rows, size)
    start = 0
    for index, layer in enumerate(_linear(critic)):
        stop = start + layer.weight.numel()
        weight = gradients[:, start:stop].view(rows, *layer.weight.shape)
        owed, inputs = found.owed[index], found.inputs[index]
        left = torch.stack([-owed[:rows], owed[rows:]], dim=2)
        torch.bmm(left, torch.stack([inputs[:rows], tangents[index]], dim=1), out=weight)
        start = stop + layer.bias.numel()
        gradients[:, stop:start] = -owed[:rows]
    return gradients


def _penalty(
    critic: Critic, found: Passes, rows: slice, weight: float
) -> tuple[Tensor, list[Tensor]]:
    """Return some rows' penalties, and of every layer what its inputs are in their gradient."""
    layers = _linear(critic)
    gradient = found.owed[0][rows] @ layers[0].weight
    norm = gradient.norm(dim=1, keepdim=True)
    tangents = [gradient * (2 * weight * (norm - 1) / norm.clamp_min(_LEAST_NORM))]
    for layer, slope in zip(layers, found.slopes, strict=False):
        tangents.append((tangents[-1] @ layer.weight.T) * slope[rows])
    return weight * (norm.squeeze(1) - 1) ** 2, tangents


def _mixed(critic: Critic, real: Tensor, fake: Tensor, between: Tensor) -> Tensor:
    shares = between.repeat_interleave(critic.pac, dim=0)
    return shares * real + (1 - shares) * fake


def _linear(critic: Critic) -> list[nn.Linear]:
    return [layer for layer in critic.layers if isinstance(layer, nn.Linear)]
