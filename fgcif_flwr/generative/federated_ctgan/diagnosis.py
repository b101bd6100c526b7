"""Whether training goes well, as far as released counts can tell: no row is needed.

A generator that has lost modes makes rows whose columns miss cells that the released counts have;
one that has diverged makes numbers that are not finite, or gradients many times those before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.generative.columns import columns_of
from fgcif_flwr.generative.federated_ctgan.model import FederatedCtgan
from fgcif_flwr.generative.federated_ctgan.networks import Histograms, SharedNetworks
from fgcif_flwr.generative.marginals.grid import cells_of, grid_codes

_ROWS = 2000
_BINS = 8  # that a numeric column's cells are joined to: as many as these rows can fill
_EXPECTED = 0.02  # cells of a smaller share are not looked for
_COVERED = 0.2  # of its share that a cell must have to be covered
_LARGEST_JUMP = 20.0  # of a norm over the median of those before
_FEWEST_NORMS = 5  # before which a jump is not judged
_LOST_COVERAGE = 0.5  # of the best coverage so far: a generator below it has collapsed


@dataclass(frozen=True)
class Diagnosis:
    """One round's state.

    Attributes
    ----------
    round : int
    coverage : float
        Share of the cells with at least 2 % of a column's released counts that get at least a
        fifth of it in 2,000 sampled rows; numeric columns in 8 bins. 1 is best, 0 worst.
    total_variation : float
        Mean over columns of the distance between sampled and released shares, 0 to 1.
    gradient_norm : float
        Of what the enterprises sent: the mean update, or the mean gradient.
    generator_norm : float
        Of the generator's weights.
    healthy : bool
        Whether the round's generator is worth keeping.
    reason : str
        Why it is not; empty where it is.
    """

    round: int
    coverage: float
    total_variation: float
    gradient_norm: float
    generator_norm: float
    healthy: bool
    reason: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return plain values, as a log holds them."""
        return asdict(self)


def fit_to_counts(
    networks: SharedNetworks, histograms: Histograms, seed: int
) -> tuple[float, float]:
    """Return coverage and total variation of the generator; see :class:`Diagnosis`.

    Rows are sampled by ``seed``. Columns without released counts are left out; both numbers are
    NaN where all are.
    """
    layout = networks.transform.layout
    table = FederatedCtgan(networks).sample(_ROWS, np.random.default_rng(seed))
    codes = grid_codes(layout, table)
    covered: list[npt.NDArray[np.bool_]] = []
    distances: list[float] = []
    for index, (column, cells) in enumerate(zip(columns_of(layout), cells_of(layout), strict=True)):
        released = np.asarray(histograms[column.name], np.float64)
        if released.sum() <= 0:
            continue
        sampled = np.bincount(codes[:, index], minlength=cells).astype(np.float64)
        if column.numeric:
            released, sampled = _joined(released), _joined(sampled)
        wanted, got = released / released.sum(), sampled / _ROWS
        covered.append(got[wanted >= _EXPECTED] >= _COVERED * wanted[wanted >= _EXPECTED])
        distances.append(float(np.abs(wanted - got).sum() / 2))
    if not distances:
        return float("nan"), float("nan")
    return float(np.concatenate(covered).mean()), float(np.mean(distances))


def diagnose(
    networks: SharedNetworks,
    histograms: Histograms,
    history: Sequence[Diagnosis],
    gradient_norm: float,
    generator_norm: float,
    seed: int,
) -> Diagnosis:
    """Judge a round's generator by released counts and by the rounds before.

    Parameters
    ----------
    networks
        Whose generator rows would be sampled from.
    histograms
    history
        Of all rounds before, in their order.
    gradient_norm, generator_norm
        See :class:`Diagnosis`; infinite where not finite.
    seed
        Of the rows that are sampled.
    """
    number = len(history) + 1
    if not math.isfinite(gradient_norm):
        reason = "the sum over the enterprises is not finite, or larger than such a sum can be"
        return Diagnosis(number, 0.0, 1.0, gradient_norm, generator_norm, False, reason)
    if not math.isfinite(generator_norm):
        reason = "the weights have diverged"
        return Diagnosis(number, 0.0, 1.0, gradient_norm, generator_norm, False, reason)
    coverage, distance = fit_to_counts(networks, histograms, seed)
    healthy = [one for one in history if one.healthy]
    reason = ""
    usual = float(np.median([one.gradient_norm for one in healthy])) if healthy else 0.0
    if len(healthy) >= _FEWEST_NORMS and gradient_norm > _LARGEST_JUMP * usual > 0:
        reason = f"the sum's norm is {gradient_norm:.3g}, and was {usual:.3g}"
    best = max((one.coverage for one in healthy), default=0.0)
    if coverage < _LOST_COVERAGE * best:
        reason = f"coverage of the released counts fell from {best:.2f} to {coverage:.2f}"
    return Diagnosis(number, coverage, distance, gradient_norm, generator_norm, not reason, reason)


def _joined(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Join a numeric column's cells to bins; missing stays."""
    bins: npt.NDArray[np.float64] = counts[:-1].reshape(_BINS, -1).sum(axis=1)
    return np.append(bins, counts[-1])
