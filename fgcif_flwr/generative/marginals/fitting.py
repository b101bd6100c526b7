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

from fgcif_flwr.generative.marginals.pair_sums import PairMatrix
from fgcif_flwr.generative.marginals.settings import MarginalSettings

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CountedBins:
    """Counts of every column on its own.

    Attributes
    ----------
    classes : (classes,)
        Customers of each class.
    counts, weights : (classes, bins)
        Of all columns' bins, one column after another; one over the counts' variance.
    """

    classes: Reals
    counts: Reals
    weights: Reals


@dataclass(frozen=True)
class Prior:
    """What is taken for likely before the fit.

    Attributes
    ----------
    shares : (bins,)
        Of all customers, above 0; they and the effects are where the fit starts.
    effects : (classes, bins)
        What a class does to the shares, relatively; above -1.
    class_spread : (classes, bins)
        Standard deviation of what a class does to the logarithm of a share.
    kind_spread, both_spread : float
        The same of a kind of customer, and of a kind in one class beyond the two.
    """

    shares: Reals
    effects: Reals
    class_spread: Reals
    kind_spread: float = 1.0
    both_spread: float = 0.3


@dataclass(frozen=True)
class Mixture:
    """``weights`` (classes, components) sum to 1 for each class; ``tables`` (classes, components,
    bins) sum to 1 over each column's bins."""

    weights: Reals
    tables: Reals


def fit_mixture(
    sizes: Sequence[int],
    counted: CountedBins,
    pairs: Sequence[PairMatrix],
    prior: Prior,
    settings: MarginalSettings,
) -> Mixture:
    """Return the mixture of least squared error over all counts, each over its variance, with
    Gaussian priors of the effects on the logarithms (Adam, from ``settings.seed``).

    ``sizes`` are the bins of each column.
    """
    torch.set_num_threads(1)
    classes, bins = counted.counts.shape
    components = settings.components
    generator = torch.Generator().manual_seed(settings.seed)
    column = torch.as_tensor(np.repeat(np.arange(len(sizes)), sizes))
    totals, own, own_weights, base, by_class, class_spread = (
        torch.as_tensor(values, dtype=torch.float32)
        for values in (
            counted.classes,
            counted.counts,
            counted.weights,
            np.log(prior.shares),
            np.log1p(prior.effects),
            prior.class_spread,
        )
    )
    base, by_class = base.requires_grad_(), by_class.requires_grad_()
    by_kind = (0.3 * torch.randn(components, bins, generator=generator)).requires_grad_()
    both = torch.zeros(classes, components, bins).requires_grad_()
    mixing = torch.zeros(classes, components).requires_grad_()
    parameters = [base, by_class, by_kind, both, mixing]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
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

    for _ in range(settings.steps):
        optimizer.zero_grad()
        shares = torch.softmax(mixing, dim=1)
        now = tables()
        weighted = now * (shares * totals[:, None])[:, :, None]
        loss = (own_weights * (weighted.sum(1) - own) ** 2).sum() / 2
        for coarse, counts, weights in measured:
            expected = (weighted @ coarse).transpose(1, 2) @ (now @ coarse)
            loss = loss + (weights * (expected - counts) ** 2).sum() / 4
        for values, deviation in (
            (by_kind, prior.kind_spread),
            (both, prior.both_spread),
            (by_class, class_spread),
        ):
            loss = loss + ((values / deviation) ** 2).sum() / 2
        loss = loss + (mixing**2).sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return Mixture(torch.softmax(mixing, dim=1).double().numpy(), tables().double().numpy())
