"""Why a customer's score is what it is: integrated gradients, per feature.

Integrated gradients (Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks")
go along the straight line from a baseline to the customer, in the space that the trunk sees:
encoded numbers with their missing flags, and the categories' embeddings. What a feature's inputs
gather on the way is its attribution, in the head's own output (log odds for a binary target). The
attributions of a customer add up to their output less the baseline's (completeness), and equal the
terms of the sum where the network is linear.

The baseline of :func:`neutral_baseline` is public and wants no row: every number in the middle of
its bounds (on the log scale where it has one), nothing missing, and of every category the mean of
its words' embeddings, so that no word is favoured.

The path is cut into pieces, and each ReLU has on a piece the slope of its secant, instead of a
gradient at some points of it: then a piece's attributions add up to what the output changes on it,
and those of the path to the whole difference, without a sum that must converge (the rescale rule of
Shrikumar et al. 2017, "Learning Important Features Through Propagating Activation Differences",
piece by piece). With one hidden layer the secant's slope is the gradient's mean, and the result
integrated gradients themselves; with more it comes to them as the pieces get shorter. The first
layer is linear in the input, so that only what lies above it is evaluated along the path.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fgcif_flwr.data.encoding import FIRST, EncodedTable
from fgcif_flwr.errors import RunFailedError
from fgcif_flwr.models.network import InputTensors, MultiTaskNetwork

Reals = NDArray[np.float64]

PIECES = 16
"""Of the path from the baseline to a customer."""

_NODES_AT_ONCE = 1 << 15  # of all rows' paths; bounds the memory
_FLAT = 1e-9  # a change below which a secant is no better than the slope at one end


@dataclass(frozen=True)
class Attributions:
    """What each feature did to one output.

    Attributes
    ----------
    features
        Names, (features,): the layout's numeric, then its categorical ones.
    values
        float64 (rows, features), in the head's own output: log odds (binary), share of the
        target's range (numeric). Above 0 raises it.
    baseline
        The output of the baseline.
    outputs
        float64 (rows,): the customers' outputs.
    """

    features: tuple[str, ...]
    values: Reals
    baseline: float
    outputs: Reals

    @property
    def incompleteness(self) -> Reals:
        """Sum of a row's attributions less what they explain, (rows,)."""
        gap: Reals = self.values.sum(axis=1) - (self.outputs - self.baseline)
        return gap


def neutral_baseline(network: MultiTaskNetwork) -> Reals:
    """Return the public baseline as the trunk's input, float64 (inputs,)."""
    numbers, categories = len(network.layout.numeric), len(network.layout.categorical)
    inputs = network.encode_inputs(
        torch.full((1, numbers), 0.5),
        torch.zeros(1, numbers),
        torch.zeros(1, categories, dtype=torch.int64),
    )
    tables = torch.split(
        network.embedding.weight.detach().double(), list(network.layout.cardinalities)
    )
    words = [table[FIRST:].mean(dim=0) for table in tables]
    return torch.cat([inputs.dense[0].double(), *words]).numpy()


def mean_baseline(network: MultiTaskNetwork, rows: EncodedTable) -> Reals:
    """Return the mean input over ``rows`` (at least one) as a baseline, float64 (inputs,).

    It tells of these rows, and is for use where they lie.

    Raises
    ------
    ValueError
        Without rows.
    """
    if len(rows) == 0:
        raise ValueError("the mean of no rows is no baseline")
    baseline: Reals = _trunk_inputs(network, network.prepare(rows)).mean(dim=0).numpy()
    return baseline


def attribute(
    network: MultiTaskNetwork, data: EncodedTable, output: int, baseline: Reals | None = None
) -> Attributions:
    """Attribute one output of the network to the features, row by row.

    Parameters
    ----------
    data
        (rows,); may have none.
    output
        Column of the network's outputs (see ``head_slices``).
    baseline
        The trunk's input to compare with, (inputs,); left out, :func:`neutral_baseline`.

    Raises
    ------
    RunFailedError
        Where the outputs are not finite: the model has diverged.
    """
    start = torch.tensor(neutral_baseline(network) if baseline is None else baseline)
    layers = [_double(layer) for layer in network.trunk]
    weights, biases = _double(network.heads)
    tail = weights[output], biases[output]
    groups = torch.tensor(_groups(network), dtype=torch.int64)
    features = (*network.layout.numeric, *network.layout.categorical)
    inputs = network.prepare(data)
    values = torch.zeros(len(data), len(features), dtype=torch.float64)
    outputs = torch.zeros(len(data), dtype=torch.float64)
    at_baseline = float(_above(functional.linear(start[None], *layers[0]), layers[1:], tail)[0])
    at_once = _NODES_AT_ONCE // PIECES
    for first in range(0, len(data), at_once):
        rows = slice(first, min(first + at_once, len(data)))
        ends = _trunk_inputs(network, inputs.slice(rows.start, rows.stop))
        scored = _above(functional.linear(ends, *layers[0]), layers[1:], tail)
        slopes = _mean_slopes(start, ends, layers, tail)
        pulls = (slopes @ layers[0][0]) * (ends - start)
        values[rows] = torch.zeros(len(ends), len(features), dtype=torch.float64).index_add_(
            1, groups, pulls
        )
        outputs[rows] = scored
    if not torch.isfinite(values).all():
        raise RunFailedError("the model's outputs are not finite: it has diverged")
    return Attributions(features, values.numpy(), at_baseline, outputs.numpy())


def shares(attributions: Attributions) -> Reals:
    """Return each feature's share of all that moved the score, (rows, features), in [0, 1].

    By absolute values; a row that nothing moved has zeros.
    """
    moved = np.abs(attributions.values)
    total = moved.sum(axis=1, keepdims=True)
    parts: Reals = np.divide(moved, total, out=np.zeros_like(moved), where=total > 0)
    return parts


_Layer = tuple[Tensor, Tensor]


def _mean_slopes(start: Tensor, ends: Tensor, layers: list[_Layer], tail: _Layer) -> Tensor:
    """Return the mean slope of the output along the paths at the first layer, (rows, width)."""
    origin = functional.linear(start, *layers[0])
    moves = functional.linear(ends - start, layers[0][0])
    nodes = torch.linspace(0, 1, PIECES + 1, dtype=torch.float64)
    before = origin + nodes[:, None, None] * moves
    secants = [_secants(before)]
    for layer in layers[1:]:
        before = functional.linear(torch.relu(before), *layer)
        secants.append(_secants(before))
    slopes = tail[0] * secants[-1]
    for layer, secant in zip(layers[:0:-1], secants[-2::-1], strict=True):
        slopes = (slopes @ layer[0]) * secant
    return slopes.mean(dim=0)


def _secants(before: Tensor) -> Tensor:
    """Return a ReLU's slope on each piece, (pieces, rows, width), from its input at the nodes."""
    change = before.diff(dim=0)
    flat = change.abs() < _FLAT
    secants = torch.relu(before).diff(dim=0) / torch.where(flat, 1.0, change)
    return torch.where(flat, (before[1:] > 0).double(), secants)


def _above(first: Tensor, layers: list[_Layer], tail: _Layer) -> Tensor:
    """Return the output, (rows,), from the first layer's values before its ReLU."""
    hidden = torch.relu(first)
    for layer in layers:
        hidden = torch.relu(functional.linear(hidden, *layer))
    return hidden @ tail[0] + tail[1]


def _trunk_inputs(network: MultiTaskNetwork, inputs: InputTensors) -> Tensor:
    embedded = functional.embedding(inputs.codes, network.embedding.weight.detach()).flatten(1)
    return torch.cat([inputs.dense, embedded], dim=1).double()


def _groups(network: MultiTaskNetwork) -> NDArray[np.int64]:
    """Return the feature that each of the trunk's inputs belongs to, (inputs,)."""
    numbers, categories = len(network.layout.numeric), len(network.layout.categorical)
    config = network.config
    bins = config.numeric_bins if config.numeric_encoding == "piecewise-linear" else 1
    own = np.arange(numbers)
    embedded = np.repeat(np.arange(categories), config.embedding_dim) + numbers
    return np.concatenate([np.repeat(own, bins), own, embedded])


def _double(layer: nn.Module) -> _Layer:
    assert isinstance(layer, nn.Linear)
    return layer.weight.detach().double(), layer.bias.detach().double()
