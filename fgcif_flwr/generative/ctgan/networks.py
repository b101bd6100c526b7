"""The two networks: one makes rows from noise and a condition, one says how real rows look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fgcif_flwr.generative.transform import Span

SLOPE = 0.2
"""Of the critic's leaky ReLU below 0."""

_FORBIDDEN = -1e4  # added to the logit of a cell that is not to be generated
_LEAST_UNIFORM = 1e-20


class SpanActivation(nn.Module):
    """What makes a row of a network's outputs: tanh and softmax, each over its spans.

    All softmaxes are computed together: a sum over the neighbours in a span is a product with a
    matrix of zeros and ones.

    Parameters
    ----------
    spans
        Of all columns, one after another, covering a row.
    allowed
        bool (width,): cells that may be generated; at least one of each softmax.
    """

    same: Tensor
    is_tanh: Tensor
    padded: Tensor
    span_of: Tensor
    penalty: Tensor

    def __init__(self, spans: Sequence[Span], allowed: npt.NDArray[np.bool_]) -> None:
        super().__init__()
        self.spans = tuple(spans)
        width = self.spans[-1].stop
        longest = max(span.size for span in self.spans)
        span_of = np.repeat(np.arange(len(self.spans)), [span.size for span in self.spans])
        padded = np.array([[min(s.start + i, s.stop - 1) for i in range(longest)] for s in spans])
        is_tanh = np.array([span.activation == "tanh" for span in self.spans])[span_of]
        penalty = np.where(allowed | is_tanh, 0.0, _FORBIDDEN).astype(np.float32)
        # None of these is learnt: they follow from the transform.
        for name, values in {
            "same": torch.tensor((span_of[:, None] == span_of[None, :]).astype(np.float32)),
            "is_tanh": torch.tensor(is_tanh),
            "padded": torch.tensor(padded.reshape(-1)),
            "span_of": torch.tensor(span_of),
            "penalty": torch.tensor(penalty),
        }.items():
            self.register_buffer(name, values, persistent=False)
        self.width = width

    def log_probabilities(self, raw: Tensor) -> Tensor:
        """Return the logarithm of each cell's probability within its span, (rows, width).

        Where a span is ``tanh`` the number has no meaning.
        """
        shifted = self._shifted(raw + self.penalty)
        return shifted - torch.log(torch.exp(shifted) @ self.same)

    def soft(self, raw: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
        """Return rows as a critic sees them, (rows, width): differentiable in ``raw``.

        Cells are a Gumbel softmax (Jang et al. 2017; Maddison et al. 2017): near one-hot draws
        from the cells' probabilities.

        Parameters
        ----------
        raw
            The network's outputs, (rows, width).
        temperature
            Above 0; the lower the nearer to one-hot.
        generator
            Decides the draws.
        """
        uniform = torch.rand(raw.shape, generator=generator).clamp_min_(_LEAST_UNIFORM)
        gumbel = uniform.log_().neg_().log_().neg_()
        # No noise where tanh: its numbers pass through the softmax unused.
        exponentials = torch.exp(self._shifted((raw + self.penalty + gumbel) / temperature))
        cells = exponentials / (exponentials @ self.same)
        return torch.where(self.is_tanh, torch.tanh(raw), cells)

    def _shifted(self, raw: Tensor) -> Tensor:
        """Return logits less the largest of their span: the same softmax, and no overflow."""
        rows = raw.detach()[:, self.padded].view(len(raw), len(self.spans), -1)
        return raw - rows.amax(dim=2)[:, self.span_of]


class GeneratorNetwork(nn.Module):
    """Rows from noise and a condition; layers of layer normalisation and ReLU.

    Every hidden layer also sees what the first one does (as in CTGAN). Layer normalisation stands
    where CTGAN has batch normalisation: a row depends on no other row, sampled rows are made as
    trained ones are, and there are no statistics beside the weights to average or to protect.

    Parameters
    ----------
    spans
        Of the transform's columns, flat.
    allowed
        :attr:`~fgcif_flwr.generative.transform.TableTransform.allowed`.
    condition_width
        0 or more.
    noise_dim, hidden
        Widths of the noise and of the hidden layers; at least one of them.
    seed
        Decides the initial weights: uniform in ±1/sqrt(inputs), PyTorch's own start.
    """

    def __init__(
        self,
        spans: Sequence[Span],
        allowed: npt.NDArray[np.bool_],
        condition_width: int,
        noise_dim: int,
        hidden: Sequence[int],
        seed: int,
    ) -> None:
        super().__init__()
        self.noise_dim, self.condition_width = noise_dim, condition_width
        self.activation = SpanActivation(spans, allowed)
        first = noise_dim + condition_width
        inputs = [first, *(size + first for size in hidden)]
        # Made without storage first, so that PyTorch's own initialisation leaves the global
        # random state alone.
        self.layers = nn.ModuleList(
            nn.Linear(before, after, device="meta")
            for before, after in zip(inputs, [*hidden, self.activation.width], strict=True)
        )
        self.hidden = tuple(hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(size, device="meta") for size in hidden)
        _initialise(self.layers, self.norms, seed)

    def forward(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Return outputs before their activation, (rows, width).

        Parameters
        ----------
        noise
            (rows, noise_dim), standard normal.
        condition
            (rows, condition_width).
        """
        first = torch.cat([noise, condition], dim=1)
        inputs = first
        for layer, norm in zip(self.layers, self.norms, strict=False):
            inputs = torch.cat([torch.relu(norm(layer(inputs))), first], dim=1)
        raw: Tensor = self.layers[-1](inputs)
        return raw


class Critic(nn.Module):
    """How real groups of rows look: one number a group; leaky ReLU, dropout, no normalisation.

    Parameters
    ----------
    width
        Of a row with its condition.
    hidden
        Widths of the hidden layers; at least one.
    pac
        Rows judged together (PacGAN, Lin et al. 2018), at least 1: more show a lack of variety.
    seed
        Decides the initial weights, as for :class:`GeneratorNetwork`.
    """

    def __init__(self, width: int, hidden: Sequence[int], pac: int, seed: int) -> None:
        super().__init__()
        self.pac, self.hidden = pac, tuple(hidden)
        widths = [width * pac, *hidden, 1]
        self.layers = nn.ModuleList(
            nn.Linear(before, after, device="meta") for before, after in pairwise(widths)
        )
        _initialise(self.layers, nn.ModuleList(), seed)

    def forward(self, rows: Tensor, keep: Sequence[Tensor] = ()) -> Tensor:
        """Return scores, (rows // pac,).

        Parameters
        ----------
        rows
            (rows, width); their number is a multiple of ``pac``.
        keep
            For dropout: a factor for each hidden layer's outputs, from :meth:`dropout`; none
            without.
        """
        values = rows.reshape(len(rows) // self.pac, -1)
        for index, layer in enumerate(self.layers[:-1]):
            values = nn.functional.leaky_relu(layer(values), SLOPE)
            if keep:
                values = values * keep[index]
        scores: Tensor = self.layers[-1](values)
        return scores.squeeze(1)

    def dropout(self, rows: int, share: float, generator: torch.Generator) -> list[Tensor]:
        """Draw the factors of dropout for so many rows: 0 for a ``share`` of the outputs."""
        if share == 0:
            return []
        return [
            torch.empty(rows // self.pac, size).bernoulli_(1 - share, generator=generator)
            / (1 - share)
            for size in self.hidden
        ]


def _initialise(layers: nn.ModuleList, norms: nn.ModuleList, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layers.to_empty(device="cpu")
    norms.to_empty(device="cpu")
    with torch.no_grad():
        for layer in layers:
            assert isinstance(layer, nn.Linear)
            bound = 1 / math.sqrt(max(layer.in_features, 1))
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)
        for norm in norms:
            assert isinstance(norm, nn.LayerNorm)
            norm.weight.fill_(1)
            norm.bias.zero_()
