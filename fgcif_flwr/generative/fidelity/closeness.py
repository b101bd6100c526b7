"""Whether synthetic rows lie nearer to the rows they were learnt from than chance has it.

Chance is told by rows held out, which come from the same customers' law and were not learnt from.
All of these can show that a generator copies; none can show that it protects, which only
differential privacy does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.encoding import EncodedTable
from fgcif_flwr.generative.fidelity.distances import RowSpace
from fgcif_flwr.generative.fidelity.intervals import NORMAL, Interval

_MOST_ROWS = 5000
_CLOSE = 0.05


@dataclass(frozen=True)
class Closeness:
    """Distances to the closest training record, in the space of :class:`RowSpace`.

    Attributes
    ----------
    median_synthetic, median_held_out : float
        Of the distances of synthetic and of held-out rows to their nearest training row; in [0, 1].
    threshold : float
        The 5 % quantile of the held-out rows' distances: nearer is suspiciously near.
    close_synthetic, close_held_out : float
        Shares of rows at most so far. The second is .05, more where many rows are alike; a first
        well above it says that training rows show.
    copies_synthetic, copies_held_out : float
        Shares of rows that equal a training row in every column. Tables of few categories have
        copies by chance, as the second shows.
    nearer : float
        Share of synthetic rows that are nearer to training than to held-out rows, ties half, both
        tables of one size (Platzer and Reutterer 2021); .5 where nothing was memorised.
    nearer_interval : (float, float)
        At 95 %.
    nearer_copied : float
        What ``nearer`` would be if all synthetic rows were copies of training rows: 1 only where as
        many rows are held out as were learnt from, since the others are left out of it.
    rows_synthetic, rows_held_out : int
        That the figures rest on.
    """

    median_synthetic: float
    median_held_out: float
    threshold: float
    close_synthetic: float
    close_held_out: float
    copies_synthetic: float
    copies_held_out: float
    nearer: float
    nearer_interval: Interval
    nearer_copied: float
    rows_synthetic: int
    rows_held_out: int


def closeness(
    space: RowSpace,
    train: EncodedTable,
    held_out: EncodedTable,
    synthetic: EncodedTable,
    random: np.random.Generator,
) -> Closeness:
    """Measure up to 5,000 rows of each table against all training rows, at least one of each."""
    made = _at_most(synthetic, _MOST_ROWS, random)
    other = _at_most(held_out, _MOST_ROWS, random)
    to_train, chance = (space.nearest(rows, train)[0] for rows in (made, other))
    threshold = float(np.quantile(chance, _CLOSE))
    size = min(len(train), len(held_out))
    nearer, interval = _nearer(
        space, made, _at_most(train, size, random), _at_most(held_out, size, random)
    )
    return Closeness(
        median_synthetic=float(np.median(to_train)),
        median_held_out=float(np.median(chance)),
        threshold=threshold,
        close_synthetic=_share(to_train <= threshold),
        close_held_out=_share(chance <= threshold),
        copies_synthetic=_share(to_train == 0),
        copies_held_out=_share(chance == 0),
        nearer=nearer,
        nearer_interval=interval,
        nearer_copied=0.5 + 0.5 * size / len(train),
        rows_synthetic=len(made),
        rows_held_out=len(other),
    )


def _nearer(
    space: RowSpace, made: EncodedTable, train: EncodedTable, held_out: EncodedTable
) -> tuple[float, Interval]:
    """Return the share of ``made`` nearer to ``train`` than to as many held-out rows.

    Rows that share their nearest real row stand or fall together by which table it was drawn into,
    so they count as one cluster for the variance.
    """
    (ours, our_places), (theirs, their_places) = (
        space.nearest(made, table) for table in (train, held_out)
    )
    wins = (ours < theirs) + 0.5 * (ours == theirs)
    share = float(wins.mean())
    winner = np.where(ours <= theirs, our_places, len(train) + their_places)
    clusters = np.bincount(winner, weights=wins - share)
    deviation = math.sqrt(float((clusters**2).sum())) / len(made)
    return share, (max(0.0, share - NORMAL * deviation), min(1.0, share + NORMAL * deviation))


def _at_most(table: EncodedTable, most: int, random: np.random.Generator) -> EncodedTable:
    """Return ``most`` rows drawn without replacement, or the whole table where it has no more."""
    if len(table) <= most:
        return table
    return table.take(random.choice(len(table), most, replace=False))


def _share(these: npt.NDArray[np.bool_]) -> float:
    return float(these.mean())
