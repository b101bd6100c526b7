"""Rows from a generator network: draws from its cells' probabilities, many at once."""

from __future__ import annotations

import numpy as np
import torch

from fgcif_flwr.generative.ctgan.conditions import Floats, Integers
from fgcif_flwr.generative.ctgan.networks import GeneratorNetwork

_ROWS = 4096  # made at once: all that is between noise and cells stays in a core's cache
_LARGEST_LOGIT = 40.0
_BELOW_ONE = 1 - 1e-6


def sample_codes(
    network: GeneratorNetwork, vectors: Floats, random: np.random.Generator
) -> tuple[Floats, Integers]:
    """Make one row for each condition.

    Cells are drawn from their probabilities, which is what the limit of a Gumbel softmax at
    temperature 0 gives, with one uniform number for each span.

    Parameters
    ----------
    network
    vectors
        Conditions, float32 (rows, condition width).
    random
        Decides the rows entirely.

    Returns
    -------
    places, cells
        As from :meth:`~fgcif_flwr.generative.transform.TableTransform.codes`.
    """
    generator = torch.Generator().manual_seed(int(random.integers(2**63)))
    spans = network.activation.spans
    softmaxes = [span for span in spans if span.activation == "softmax"]
    tanhs = [span.start for span in spans if span.activation == "tanh"]
    places = np.empty((len(vectors), len(tanhs)), np.float32)
    cells = np.empty((len(vectors), len(softmaxes)), np.int64)
    forbidden = network.activation.penalty < 0
    with torch.no_grad():
        for start in range(0, len(vectors), _ROWS):
            condition = torch.from_numpy(vectors[start : start + _ROWS])
            rows = len(condition)
            stop = start + rows
            noise = torch.randn(rows, network.noise_dim, generator=generator)
            raw = network(noise, condition)
            places[start:stop] = torch.tanh(raw[:, tanhs]).numpy()
            weights = raw.clamp_(-_LARGEST_LOGIT, _LARGEST_LOGIT).exp_()
            weights[:, forbidden] = 0.0
            # Spans one under another: their sums run along memory.
            columns = weights.t().contiguous()
            drawn = torch.rand(len(softmaxes), rows, generator=generator)
            for index, span in enumerate(softmaxes):
                bounds = columns[span.start : span.stop].cumsum(0)
                # Strictly below the whole, so that no forbidden last cell is drawn.
                threshold = drawn[index] * (bounds[-1] * _BELOW_ONE)
                chosen = (bounds[:-1] <= threshold).sum(0)
                cells[start:stop, index] = chosen.numpy()
    return places, cells
