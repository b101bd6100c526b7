"""A network's parameters as named arrays, and as the one vector that a secure sum takes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from fgcif_flwr.errors import ConfigurationError

Arrays = dict[str, NDArray[np.float32]]


def named_arrays(network: nn.Module) -> Arrays:
    """Copy the parameters out, by name, in the order in which the network defines them."""
    return {
        name: parameter.detach().numpy().astype(np.float32, copy=True)
        for name, parameter in network.named_parameters()
    }


@torch.no_grad()
def load_arrays(network: nn.Module, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Copy ``arrays`` into the parameters.

    Raises
    ------
    ConfigurationError
        Where names or shapes are not those of the network; nothing is copied then.
    """
    parameters = dict(network.named_parameters())
    if set(parameters) != set(arrays):
        absent, extra = sorted(set(parameters) - set(arrays)), sorted(set(arrays) - set(parameters))
        raise ConfigurationError(
            f"the arrays are not of this network: absent {absent}, not known {extra}; "
            "both sides must have the same model section and schema"
        )
    for name, parameter in parameters.items():
        if tuple(parameter.shape) != arrays[name].shape:
            raise ConfigurationError(
                f"array {name} has shape {arrays[name].shape}, the network wants "
                f"{tuple(parameter.shape)}; both sides must have the same model section and schema"
            )
    for name, parameter in parameters.items():
        parameter.copy_(torch.tensor(arrays[name], dtype=torch.float32))


def to_vector(arrays: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Join the arrays, in their order, each in row-major order; float32 (d,)."""
    return np.concatenate([np.ravel(array) for array in arrays.values()]).astype(
        np.float32, copy=False
    )


def from_vector(vector: ArrayLike, like: Mapping[str, NDArray[np.float32]]) -> Arrays:
    """Cut a vector (d,) into float32 arrays with the names, order and shapes of ``like``.

    Raises
    ------
    ValueError
        Where the vector's length is not the number of values in ``like``.
    """
    values = np.asarray(vector)
    wanted = sum(array.size for array in like.values())
    if values.shape != (wanted,):
        raise ValueError(f"a vector of shape ({wanted},) is wanted, not {values.shape}")
    arrays: Arrays = {}
    start = 0
    for name, array in like.items():
        part = values[start : start + array.size]
        arrays[name] = part.astype(np.float32).reshape(array.shape)
        start += array.size
    return arrays
