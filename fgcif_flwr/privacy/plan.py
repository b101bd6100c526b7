"""What a run would release about each stretch of customers, how often, and what that costs.

A run's plan follows from its manifest alone, so coordinator and enterprises compute the same one
before anything is released. Every slot of it is charged, spare ones for retries included; what is
not in the plan is not released.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from fgcif_flwr.errors import PrivacyError
from fgcif_flwr.privacy import accounting
from fgcif_flwr.privacy.accounting import Curve
from fgcif_flwr.privacy.ledger import Charge
from fgcif_flwr.privacy.mechanisms import Mechanism, Unit

Stretch = tuple[float, float]
"""Customers whose keyed hash, in [0, 1), is at least the first and below the second."""

EVERYBODY: Stretch = (0.0, 1.0)


@dataclass(frozen=True)
class PlannedRelease:
    """One task of a run.

    Attributes
    ----------
    task : str
    slots : int
        How often it may be released, retries included.
    mechanism : Mechanism
    stretches : tuple of (lower, upper)
        Disjoint; whose rows it is about.
    """

    task: str
    slots: int
    mechanism: Mechanism
    stretches: tuple[Stretch, ...]


@dataclass(frozen=True)
class PrivacyPlan:
    """All releases of a run.

    Attributes
    ----------
    unit : "customer" or "enterprise"
    noise : "distributed" or "local"
    delta : float
    honest : int
        h_min: fewest honest enterprises that a sum covers by the manifest.
    releases : tuple of PlannedRelease
    """

    unit: Unit
    noise: str
    delta: float
    honest: int
    releases: tuple[PlannedRelease, ...]

    def release(self, task: str) -> PlannedRelease:
        """Return a task's part of the plan; PrivacyError if it has none."""
        for planned in self.releases:
            if planned.task == task:
                return planned
        raise PrivacyError(f"task {task} is not in the privacy plan of this run")

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """Whose rows are released about, in order."""
        return tuple(sorted({one for planned in self.releases for one in planned.stretches}))

    def epsilon_of(self, stretch: Stretch, delta: float | None = None) -> float:
        """Return the epsilon of the customers in a stretch once all slots are used."""
        curve: Curve = accounting.zero_curve()
        tail = 0.0
        for planned in self.releases:
            if any(low <= stretch[0] and stretch[1] <= high for low, high in planned.stretches):
                curve = curve + planned.slots * planned.mechanism.curve
                tail += planned.slots * planned.mechanism.tail
        left = (self.delta if delta is None else delta) - tail
        if left <= 0:
            raise PrivacyError(
                f"privacy.delta {self.delta:g} is taken up by the noise's tail of {tail:.1g}; "
                "raise it"
            )
        return accounting.epsilon_of(curve, left)

    @cached_property
    def epsilon(self) -> float:
        """The greatest epsilon of anybody: releases about disjoint rows compose in parallel."""
        return max(self.epsilon_of(stretch) for stretch in self.stretches)

    def charges(self, task: str, run: str, slot: int) -> tuple[Charge, ...]:
        """Return what one release of a task is charged to an enterprise's ledger."""
        planned = self.release(task)
        mechanism = planned.mechanism
        return tuple(
            Charge(
                run=run,
                task=task,
                slot=slot,
                unit=mechanism.unit,
                curve=tuple(mechanism.curve.tolist()),
                delta=mechanism.tail,
                lower=lower,
                upper=upper,
            )
            for lower, upper in planned.stretches
        )

    def remaining(self, used: Mapping[str, int], run: str) -> list[Charge]:
        """Return the charges of all slots that are left after ``used`` of each task."""
        left = Counter({planned.task: planned.slots for planned in self.releases})
        left.subtract(used)
        return [
            charge
            for task, slots in left.items()
            for charge in self.charges(task, run, 0) * max(0, slots)
        ]
