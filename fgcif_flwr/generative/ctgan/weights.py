"""All weights of a network as one vector, in the order of its parameters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn


def to_weights(network: nn.Module) -> npt.NDArray[np.float32]:
    """Return a network's weights, float32 (d,), a copy."""
    parts = [parameter.detach().reshape(-1) for parameter in network.parameters()]
    weights: npt.NDArray[np.float32] = torch.cat(parts).numpy().astype(np.float32)
    return weights


def load_weights(network: nn.Module, weights: npt.NDArray[np.float32]) -> None:
    """Copy weights of :func:`to_weights`, (d,), into a network of the same form.

    Raises
    ------
    ValueError
        If the weights are not of the network's size, or one of them is not finite.
    """
    parameters = list(network.parameters())
    if weights.shape != (sum(parameter.numel() for parameter in parameters),):
        raise ValueError(f"a vector of shape {weights.shape} is not that of the network's weights")
    if not np.isfinite(weights).all():
        raise ValueError("a vector of weights has numbers that are not finite")
    values = torch.tensor(weights, dtype=torch.float32)
    start = 0
    with torch.no_grad():
        for parameter in parameters:
            stop = start + parameter.numel()
            parameter.copy_(values[start:stop].view_as(parameter))
            start = stop
