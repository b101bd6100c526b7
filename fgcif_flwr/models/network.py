"""The multi-task network: one trunk for all targets, one head per target.

Numbers arrive in [0, 1] of their public bounds and are either standardised to [-1, 1] or encoded
piecewise-linearly over equal-width bins (Gorishniy et al. 2022, "On Embeddings for Numerical
Features in Tabular Deep Learning"). Categories share one embedding table, each feature with its
own range of rows in it. The heads are the columns of one last linear layer.

Encoding the numbers does not depend on a weight, so :meth:`MultiTaskNetwork.prepare` does it once
per table, and training steps only gather rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fgcif_flwr.config import ModelSection
from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout, Head

# Rows scored at once where no gradient is wanted; bounds the memory of large tables.
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class InputTensors:
    """Rows as the trunk takes them.

    Attributes
    ----------
    dense
        float32 (rows, dense width): encoded numbers, then one missing flag per number.
    codes
        int64 (rows, categorical features): rows of the shared embedding table.
    """

    dense: Tensor
    codes: Tensor

    def __len__(self) -> int:
        return len(self.dense)

    def take(self, rows: Tensor) -> InputTensors:
        """Return the rows numbered in ``rows`` (int64), copied."""
        return InputTensors(self.dense[rows], self.codes[rows])

    def slice(self, start: int, stop: int) -> InputTensors:
        """Return the rows from ``start`` to ``stop``, not copied."""
        return InputTensors(self.dense[start:stop], self.codes[start:stop])


class MultiTaskNetwork(nn.Module):
    """Embeddings and encoded numbers, a trunk of ReLU layers, and the heads.

    The output has a column for each output of each head, in the order of ``layout.heads``:
    a logit for a binary target, a logit per class for a categorical one, and for a numeric
    target its value on the [0, 1] scale of its bounds. :attr:`head_slices` says which columns
    are whose.
    """

    def __init__(self, layout: FeatureLayout, config: ModelSection, seed: int) -> None:
        super().__init__()
        self.layout = layout
        self.config = config
        self.head_slices = head_slices(layout.heads)
        self._bins = config.numeric_bins if config.numeric_encoding == "piecewise-linear" else 0
        self._offsets = torch.tensor(
            np.cumsum((0, *layout.cardinalities))[:-1].astype(np.int64).reshape(1, -1)
        )
        widths = _widths(layout, config)
        # Made without storage first, so that PyTorch's own initialisation leaves the global
        # random state alone; _initialise has a generator of its own.
        self.embedding = nn.Embedding(
            sum(layout.cardinalities), config.embedding_dim, device="meta"
        )
        self.trunk = nn.ModuleList(
            nn.Linear(before, after, device="meta") for before, after in pairwise(widths)
        )
        self.heads = nn.Linear(widths[-1], self.head_slices[-1].stop, device="meta")
        self.to_empty(device="cpu")
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        """Uniform in ±1/sqrt(inputs), which is what PyTorch's own layers start from."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            bound = 1 / math.sqrt(self.config.embedding_dim)
            self.embedding.weight.uniform_(-bound, bound, generator=generator)
            for layer in (*self.trunk, self.heads):
                assert isinstance(layer, nn.Linear)
                bound = 1 / math.sqrt(max(layer.in_features, 1))
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)

    def forward(self, numeric: Tensor, missing: Tensor, categorical: Tensor) -> Tensor:
        """Score rows given as in :class:`EncodedTable`; float32 (rows, outputs), no dropout."""
        return self.score(self.encode_inputs(numeric, missing, categorical))

    def encode_inputs(self, numeric: Tensor, missing: Tensor, categorical: Tensor) -> InputTensors:
        """Encode numbers (in [0, 1], 0 where missing) and shift codes into the shared table."""
        if self._bins:
            steps = torch.arange(self._bins, dtype=numeric.dtype)
            encoded = (numeric.unsqueeze(-1) * self._bins - steps).clamp(0, 1).flatten(1)
        else:
            # A missing number is the middle of the range: the flag alone speaks for it.
            encoded = (2 * numeric - 1) * (1 - missing)
        return InputTensors(torch.cat([encoded, missing], dim=1), categorical + self._offsets)

    def prepare(self, data: EncodedTable) -> InputTensors:
        """Encode all rows of ``data`` once."""
        # torch.tensor copies into memory that torch has aligned: kernels may sum in another
        # order on other alignments, and a run must give the same bits in every process.
        return self.encode_inputs(
            torch.tensor(data.numeric, dtype=torch.float32),
            torch.tensor(data.missing, dtype=torch.float32),
            torch.tensor(data.categorical, dtype=torch.int64),
        )

    def score(self, inputs: InputTensors, dropout_from: torch.Generator | None = None) -> Tensor:
        """Score prepared rows.

        Parameters
        ----------
        inputs
            Rows from :meth:`prepare`.
        dropout_from
            Where dropout masks are drawn from; None (scoring, not training) is no dropout.

        Returns
        -------
        Tensor
            float32 (rows, outputs).
        """
        embedded = functional.embedding(inputs.codes, self.embedding.weight).flatten(1)
        hidden = torch.cat([inputs.dense, embedded], dim=1)
        for layer in self.trunk:
            hidden = torch.relu(layer(hidden))
            if dropout_from is not None and self.config.dropout > 0:
                kept = 1 - self.config.dropout
                mask = torch.empty_like(hidden).bernoulli_(kept, generator=dropout_from)
                hidden = hidden * mask.div_(kept)
        scores: Tensor = self.heads(hidden)
        return scores

    @torch.no_grad()
    def outputs(self, data: EncodedTable) -> NDArray[np.float32]:
        """Score a whole table without gradients; float32 (rows, outputs)."""
        inputs = self.prepare(data)
        parts = [
            self.score(inputs.slice(start, start + _ROWS_AT_ONCE)).numpy()
            for start in range(0, len(inputs), _ROWS_AT_ONCE)
        ]
        if not parts:
            return np.zeros((0, self.head_slices[-1].stop), np.float32)
        return np.concatenate(parts)


def build_network(layout: FeatureLayout, config: ModelSection, seed: int) -> MultiTaskNetwork:
    """Build the network for a schema's layout; the same seed gives the same weights.

    Torch's global random state is neither read nor changed.
    """
    return MultiTaskNetwork(layout, config, seed)


def head_slices(heads: Sequence[Head]) -> tuple[slice, ...]:
    """Return each head's columns in the network's output."""
    ends = np.cumsum([head.outputs for head in heads]).tolist()
    return tuple(slice(end - head.outputs, end) for head, end in zip(heads, ends, strict=True))


def parameter_count(layout: FeatureLayout, config: ModelSection) -> int:
    """Return the number of parameters (d) that the network would have, without building it."""
    widths = _widths(layout, config)
    outputs = sum(head.outputs for head in layout.heads)
    linear = sum((before + 1) * after for before, after in pairwise([*widths, outputs]))
    return sum(layout.cardinalities) * config.embedding_dim + linear


def _widths(layout: FeatureLayout, config: ModelSection) -> list[int]:
    """Return the widths of the trunk's input and layers."""
    bins = config.numeric_bins if config.numeric_encoding == "piecewise-linear" else 1
    numbers, categories = len(layout.numeric), len(layout.categorical)
    return [numbers * (bins + 1) + categories * config.embedding_dim, *config.hidden]
