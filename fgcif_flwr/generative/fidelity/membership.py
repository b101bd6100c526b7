"""Membership inference: can one tell who was in the training rows from the synthetic ones?

The attacker holds a customer's whole row and the synthetic table, and guesses by how near the
nearest synthetic row is. Two attackers:

``nearest``
    scores by the distance alone (Hayes et al. 2019; Chen et al. 2020, "GAN-Leaks").
``calibrated``
    holds rows of other customers too, and sets the distance against that to the nearest of these: a
    row in a crowd is near to everything (after van Breugel et al. 2023, "DOMIAS").

Members are training rows, non-members rows held out. What these do not find, others may. Intervals
are for the given synthetic rows; those of ``calibrated`` are a little too narrow, since rows held
out serve as one another's reference (in simulations they miss about 7 % of the time, not 5 %).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.encoding import EncodedTable
from fgcif_flwr.generative.fidelity.distances import SAME, RowSpace
from fgcif_flwr.generative.fidelity.intervals import (
    Interval,
    auc_interval,
    difference_interval,
)

Reals = npt.NDArray[np.float64]

FALSE_ALARMS = 0.01

_MOST_ROWS = 5000
_REPETITIONS = 400


@dataclass(frozen=True)
class MembershipAttack:
    """How well one attacker does.

    Attributes
    ----------
    attacker : str
        ``nearest`` or ``calibrated``.
    auc : float
        In [0, 1]; .5 is guessing.
    auc_interval : (float, float)
        At 95 %, as the other intervals.
    advantage : float
        True less false positive rate (Yeom et al. 2018), in [-1, 1]; 0 is guessing. The threshold
        is chosen on one half of the rows and judged on the other, and the other way round.
    advantage_interval : (float, float)
    tpr : float
        True positive rate where 1 % of the non-members are taken for members (Carlini et al.
        2022), ties in proportion; .01 is guessing. It shows the few who are exposed, whom means
        hide.
    tpr_interval : (float, float)
        By the bootstrap.
    members, non_members : int
        That the figures rest on.
    """

    attacker: str
    auc: float
    auc_interval: Interval
    advantage: float
    advantage_interval: Interval
    tpr: float
    tpr_interval: Interval
    members: int
    non_members: int


def membership_attacks(
    space: RowSpace,
    train: EncodedTable,
    held_out: EncodedTable,
    synthetic: EncodedTable,
    random: np.random.Generator,
) -> tuple[MembershipAttack, ...]:
    """Play both attackers on as many members as non-members; tables of at least four rows."""
    size = min(len(train), len(held_out), _MOST_ROWS)
    members, others = (
        table.take(random.choice(len(table), size, replace=False)) for table in (train, held_out)
    )
    near = [space.nearest(rows, synthetic)[0].astype(np.float64) for rows in (members, others)]
    # Each half of the held-out rows is the other half's reference, and that of half the members.
    halves = np.arange(size) % 2 == 0
    usual = [np.zeros(size), np.zeros(size)]
    for half in (halves, ~halves):
        reference = others.take(~half)
        for place, rows in enumerate((members, others)):
            usual[place][half] = space.nearest(rows.take(half), reference)[0]
    calibrated = [
        np.log(there + SAME) - np.log(here + SAME) for here, there in zip(near, usual, strict=True)
    ]
    return (
        attack("nearest", -near[0], -near[1], random),
        attack("calibrated", calibrated[0], calibrated[1], random),
    )


def attack(
    attacker: str, members: Reals, others: Reals, random: np.random.Generator
) -> MembershipAttack:
    """Judge an attacker by its scores of members and of others: higher says member."""
    auc, interval = auc_interval(members, others)
    advantage, hits, alarms = _advantage(members, others, random)
    drawn = [
        true_positive_rate(
            members[random.integers(len(members), size=len(members))],
            others[random.integers(len(others), size=len(others))],
        )
        for _ in range(_REPETITIONS)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return MembershipAttack(
        attacker,
        auc,
        interval,
        advantage,
        difference_interval(hits, len(members), alarms, len(others)),
        true_positive_rate(members, others),
        (float(low), float(high)),
        len(members),
        len(others),
    )


def true_positive_rate(members: Reals, others: Reals, alarms: float = FALSE_ALARMS) -> float:
    """Return the share of members taken for such where ``alarms`` of the others are, too.

    Among rows of one score as many are taken as it needs, as if by lot.
    """
    false, true = _curve(members, others)[1:]
    return float(np.interp(alarms, false, true))


def _curve(members: Reals, others: Reals) -> tuple[Reals, Reals, Reals]:
    """Return thresholds, falling, and the rates of others and of members at or above each."""
    levels, at = np.unique(np.concatenate([members, others]), return_inverse=True)
    true, false = (
        np.cumsum(np.bincount(part, minlength=len(levels))[::-1]) / len(part)
        for part in (at[: len(members)], at[len(members) :])
    )
    start = np.zeros(1)
    return (
        np.concatenate([[np.inf], levels[::-1]]),
        np.concatenate([start, false]),
        np.concatenate([start, true]),
    )


def _advantage(
    members: Reals, others: Reals, random: np.random.Generator
) -> tuple[float, int, int]:
    """Return the advantage, and how many members and others were taken for members."""
    sides = [random.permutation(len(part)) % 2 == 0 for part in (members, others)]
    hits = alarms = 0
    for half in (True, False):
        chosen = [side == half for side in sides]
        judged = [~these for these in chosen]
        thresholds, false, true = _curve(members[chosen[0]], others[chosen[1]])
        threshold = thresholds[np.argmax(true - false)]
        hits += int((members[judged[0]] >= threshold).sum())
        alarms += int((others[judged[1]] >= threshold).sum())
    return hits / len(members) - alarms / len(others), hits, alarms
