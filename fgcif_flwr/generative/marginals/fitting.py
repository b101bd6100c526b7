"""A mixture of independent columns that agrees with noisy counts of pairs.

Each class has ``components`` kinds of customers; within a kind columns are independent. What a
class does to a column is shared by its kinds, and what a kind is by the classes, so that few
parameters are fitted to all counts at once, each by its own noise. Fitting such a mixture to noisy
marginals in place of a tree is after Aydore et al. (ICML 2021) and Liu, Vietri and Wu (NeurIPS
2021); it takes part in every count, where a tree uses those of its edges only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PairCounts:
    """Counts of pairs of columns, all as one symmetric matrix for each class.

    Attributes
    ----------
    coarse : (bins, coarse bins), 0 or 1
        Which bin of the model is in which bin of the counts.
    counts : (classes, coarse bins, coarse bins)
    weights : the same shape
        One over the counts' variance; 0 where nothing was counted.
    """

    coarse: Reals
    counts: Reals
    weights: Reals


@dataclass(frozen=True)
class Mixture:
    """``weights`` (classes, components) sum to 1 for each class; ``tables`` (classes, components,
    bins) sum to 1 over each column's bins."""

    weights: Reals
    tables: Reals


def fit_mixture(
    sizes: Sequence[int],
    totals_of: Reals,
    start: Reals,
    class_spread: Reals,
    one_way: Reals,
    one_way_weights: Reals,
    pairs: Sequence[PairCounts],
    components: int,
    steps: int,
    seed: int,
    spread: tuple[float, float] = (1.0, 0.3),
) -> Mixture:
    """Fit by gradient steps the least squares of all counts, plus Gaussian priors of the effects.

    Parameters
    ----------
    sizes
        Bins of each column; their sum is ``bins``.
    one_way, one_way_weights
        (classes, bins): counts, and one over their variance.
    pairs
        Counts of pairs, on the same bins or coarser ones.
    """
    torch.set_num_threads(1)
    classes, bins = one_way.shape
    generator = torch.Generator().manual_seed(seed)
    column = torch.as_tensor(np.repeat(np.arange(len(sizes)), sizes))
    totals = torch.as_tensor(totals_of, dtype=torch.float32)
    own = torch.as_tensor(one_way, dtype=torch.float32)
    own_weights = torch.as_tensor(one_way_weights, dtype=torch.float32)
    class_deviation = torch.as_tensor(class_spread, dtype=torch.float32)
    initial = torch.log(torch.as_tensor(start, dtype=torch.float32))
    base = initial.mean(0).clone().requires_grad_()
    by_class = (initial - initial.mean(0)).requires_grad_()
    by_kind = (0.3 * torch.randn(components, bins, generator=generator)).requires_grad_()
    both = torch.zeros(classes, components, bins).requires_grad_()
    mixing = torch.zeros(classes, components).requires_grad_()
    parameters = [base, by_class, by_kind, both, mixing]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    measured = [
        tuple(torch.as_tensor(a, dtype=torch.float32) for a in (p.coarse, p.counts, p.weights))
        for p in pairs
    ]

    def tables() -> torch.Tensor:
        logits = base + by_class[:, None] + by_kind + both
        highest = torch.full((classes, components, len(sizes)), -torch.inf)
        index = column.expand(classes, components, bins)
        highest = highest.scatter_reduce(2, index, logits.detach(), "amax")
        raised = torch.exp(logits - highest[:, :, column])
        sums = torch.zeros(classes, components, len(sizes)).scatter_add(2, index, raised)
        return raised / sums[:, :, column]

    for _ in range(steps):
        optimizer.zero_grad()
        shares = torch.softmax(mixing, dim=1)
        now = tables()
        weighted = now * (shares * totals[:, None])[:, :, None]
        loss = (own_weights * (weighted.sum(1) - own) ** 2).sum() / 2
        for coarse, counts, weights in measured:
            expected = (weighted @ coarse).transpose(1, 2) @ (now @ coarse)
            loss = loss + (weights * (expected - counts) ** 2).sum() / 4
        for values, deviation in zip((by_kind, both, by_class), (*spread, class_deviation), strict=True):
            loss = loss + ((values / deviation) ** 2).sum() / 2
        loss = loss + (mixing**2).sum() / 2
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return Mixture(torch.softmax(mixing, dim=1).double().numpy(), tables().double().numpy())
