"""The public input of a round: the networks' weights, and the counts that shape them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.generative.columns import columns_of
from fgcif_flwr.generative.federated_ctgan.networks import (
    SharedNetworks,
    load_vector,
    networks_on,
    parameter_count,
    shared_transform,
)
from fgcif_flwr.generative.federated_ctgan.settings import FederatedCtganSettings
from fgcif_flwr.generative.marginals.grid import cells_of

Input = Mapping[str, npt.NDArray[np.generic]]

VECTOR, ROUND, SEED, HISTOGRAM = "vector", "round", "seed", "histogram/"

LARGEST_WEIGHT = 1e6
"""Of the vector: networks of larger weights have diverged, and their rows would not be finite."""


def input_shapes(
    layout: FeatureLayout, settings: FederatedCtganSettings
) -> dict[str, tuple[str, int]]:
    """Return the type and size of each array, by its name.

    ``vector`` has the weights, ``round`` the number of the round, ``seed`` what decides its
    generated rows, and ``histogram/NAME`` a column's released counts.
    """
    return {
        VECTOR: ("<f4", parameter_count(layout, settings)),
        ROUND: ("<i8", 1),
        SEED: ("<i8", 1),
        **{
            HISTOGRAM + column.name: ("<f8", cells)
            for column, cells in zip(columns_of(layout), cells_of(layout), strict=True)
        },
    }


def check_input(arrays: Input, layout: FeatureLayout, settings: FederatedCtganSettings) -> None:
    """Raise SecureSumError unless ``arrays`` can be a round's public input."""
    shapes = input_shapes(layout, settings)
    if set(arrays) != set(shapes):
        raise SecureSumError(f"the input of a round of CTGAN wants exactly {sorted(shapes)}")
    for name, (kind, size) in shapes.items():
        if arrays[name].dtype != np.dtype(kind) or arrays[name].shape != (size,):
            raise SecureSumError(f"{name} in the input of CTGAN must be {size} of {kind}")
    for name in shapes:
        values = np.asarray(arrays[name])
        if name.startswith(HISTOGRAM):
            # Their sums are taken; float32 must hold them.
            if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1e12):
                raise SecureSumError(f"{name} in the input of CTGAN must be counts, 0 to 1e12")
        elif name == VECTOR:
            if not (np.abs(values) <= LARGEST_WEIGHT).all():
                raise SecureSumError(
                    f"{name} in the input of CTGAN must be finite and at most {LARGEST_WEIGHT:g}"
                )
        elif values[0] < 0:
            raise SecureSumError(f"{name} in the input of CTGAN must not be negative")


def loaded_networks(
    arrays: Input, layout: FeatureLayout, settings: FederatedCtganSettings
) -> SharedNetworks:
    """Return new networks with the weights of an input that has passed :func:`check_input`."""
    histograms = {
        column.name: np.asarray(arrays[HISTOGRAM + column.name], np.float64)
        for column in columns_of(layout)
    }
    networks = networks_on(shared_transform(layout, histograms, settings), settings, seed=0)
    load_vector(networks, np.asarray(arrays[VECTOR], np.float32))
    return networks
