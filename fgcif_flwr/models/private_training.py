"""DP-SGD inside one enterprise (Abadi et al. 2016, "Deep Learning with Differential Privacy").

Opacus' optimiser leads through a step: clip each row's gradient, sum, add noise, divide by the
expected number of rows, step. Two of these are replaced. Rows' gradients come from
:mod:`fgcif_flwr.models.customer_gradients` (Opacus' own hooks give the same in more time, and see
layers only that are called as modules), some rows at a time, so that a large sample needs no memory
of its own. Clipped contributions go to ``noisy_sum``, which sums integers and adds integer noise
from a cryptographic generator; Opacus' floating-point normal noise is never drawn.

Importing this module imports Opacus, which takes about a second: import it where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer

from fgcif_flwr.config import TrainingSection
from fgcif_flwr.data.encoding import EncodedTable
from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.models.customer_gradients import (
    Clipping,
    bounded,
    customer_gradients,
    mean_bounded,
)
from fgcif_flwr.models.network import MultiTaskNetwork
from fgcif_flwr.models.training import ClassWeights, local_optimizer, share_one_vector

NoisySumOfRows = Callable[[Iterable[NDArray[np.float32]]], NDArray[np.float64]]


def train_privately(
    network: MultiTaskNetwork,
    data: EncodedTable,
    config: TrainingSection,
    *,
    steps: int,
    expected_batch: float,
    clipping_norm: float,
    how: Clipping,
    noisy_sum: NoisySumOfRows,
    sample: Callable[[int], NDArray[np.bool_]],
    class_weights: ClassWeights | None = None,
    public: EncodedTable | None = None,
    public_weight: float = 1.0,
) -> int:
    """Train ``network`` in place by DP-SGD with Poisson sampling; return the steps made.

    Each step moves by ``clipping_norm * noisy_sum(contributions) / expected_batch``, where the
    contributions are those of the sampled rows. A step whose sample is empty is made as well, of
    pure noise: whether anybody was drawn must not show. There is no dropout.

    Parameters
    ----------
    network
        Starts from the weights that it has. Its parameters become views of one vector.
    data
        One row per customer; may be empty.
    config
        ``learning_rate``, ``optimizer``, ``weight_decay`` and ``proximal_mu`` are read (the
        proximal term pulls to the starting weights). The optimiser starts fresh. ``batch_size``
        and ``local_epochs`` are not: ``steps`` and ``sample`` say what they would.
    steps
        Number of steps, and of calls of ``noisy_sum``; 0 changes nothing.
    expected_batch
        What the sum is divided by, > 0: the sampling rate times a public or released number of
        rows, never the number that was sampled.
    clipping_norm, how
        See :func:`~fgcif_flwr.models.customer_gradients.bounded`.
    noisy_sum
        Takes the sampled rows' contributions, parts of (rows, d) float32 with norm at most 1, once
        and in order, and returns their sum with noise, (d,). It must enforce the bound itself.
    sample
        Takes the number of rows and returns which are in the step's sample, each with the same
        probability and independently of all others. It must draw from a secret generator: drawn
        from the run's seed, which others know, the sample is known too, and sampling then
        protects nobody (no amplification).
    class_weights
        As in :func:`~fgcif_flwr.models.training.train_locally`; public or released numbers.
    public, public_weight
        Rows that are no customer's (synthetic ones), and what they weigh beside the customers' 1:
        the mean of their bounded gradients joins each step after the noise. They cost nothing.

    Raises
    ------
    ConfigurationError
        For ``expected_batch`` or ``clipping_norm`` not positive and finite.
    """
    for name, value in (("expected_batch", expected_batch), ("clipping_norm", clipping_norm)):
        if not 0 < value < np.inf:
            raise ConfigurationError(f"{name} must be positive and finite, not {value}")
    vector = share_one_vector(network)

    def one_noisy_sum() -> NDArray[np.float64]:
        drawn = sample(len(data))
        if drawn.shape != (len(data),) or drawn.dtype != np.bool_:
            raise ValueError("sample must return one bool for each row")
        rows = data.take(np.flatnonzero(drawn))
        gradients = customer_gradients(network, rows, class_weights)
        return noisy_sum(bounded(part, clipping_norm, how)[0] for part in gradients)

    optimizer = _NoisySumOptimizer(
        local_optimizer(vector, config),
        clipping_norm=clipping_norm,
        expected_batch=expected_batch,
        noisy_sum=one_noisy_sum,
    )
    start = vector.detach().clone()

    def between_noise_and_step(_: object) -> None:
        assert vector.grad is not None
        if public is not None and len(public) > 0:
            mean = mean_bounded(network, public, clipping_norm, how, class_weights)
            joining = torch.tensor(public_weight * clipping_norm * mean, dtype=vector.dtype)
            vector.grad.add_(joining).div_(1 + public_weight)
        if config.proximal_mu > 0:
            vector.grad.add_(vector.detach() - start, alpha=config.proximal_mu)

    # After the noise: neither the synthetic rows nor the pull depend on a customer's row.
    optimizer.attach_step_hook(between_noise_and_step)
    for _ in range(steps):
        optimizer.zero_grad()
        optimizer.step()
    return steps


# Opacus has no type annotations that it vouches for (py.typed).
class _NoisySumOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimiser over one vector, whose clipped and noisy sum comes from a callable."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        clipping_norm: float,
        expected_batch: float,
        noisy_sum: Callable[[], NDArray[np.float64]],
    ) -> None:
        super().__init__(
            optimizer,
            # Read by Opacus' own noise alone, which add_noise replaces.
            noise_multiplier=0.0,
            max_grad_norm=clipping_norm,
            expected_batch_size=expected_batch,
            loss_reduction="mean",
        )
        self._noisy_sum = noisy_sum

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Clear the gradient; an empty batch stands where Opacus looks for rows' gradients."""
        super().zero_grad(set_to_none)
        for vector in self.params:
            vector.grad_sample = torch.zeros(0, *vector.shape)

    def clip_and_accumulate(self) -> None:
        """Take the sum of the contributions, in which the noise is already."""
        (vector,) = self.params
        total = self._noisy_sum()
        if total.shape != tuple(vector.shape):
            raise ValueError(f"noisy_sum must return {tuple(vector.shape)}, not {total.shape}")
        # The contributions are in units of the clipping norm.
        vector.summed_grad = torch.tensor(total * self.max_grad_norm, dtype=vector.dtype)

    def add_noise(self) -> None:
        """Add none: Opacus would draw normal noise here."""
        (vector,) = self.params
        vector.grad.copy_(vector.summed_grad)
