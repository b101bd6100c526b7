"""Mechanisms as values: what is bounded, how much noise there is, and against whom it holds.

========== =========== ============================================ ===============================
unit       noise       what is summed                               holds against
========== =========== ============================================ ===============================
customer   distributed contributions of customers, clipped, as      the coordinator, c colluding
                       integers; each enterprise adds its share     enterprises, readers
customer   local       the same, inside one enterprise, which adds  everybody else
                       the whole noise itself
enterprise distributed an enterprise's whole clipped update; each   the coordinator, c colluding
                       adds its share                               enterprises, readers
none       none        updates and counts as they are               nobody: masks hide each alone
========== =========== ============================================ ===============================

Adjacency is one contribution replaced by zero: that an enterprise takes part can be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from fgcif_flwr.privacy import accounting
from fgcif_flwr.privacy.accounting import Curve
from fgcif_flwr.privacy.noise import LOG2_TAIL
from fgcif_flwr.privacy.noisy_sum import NoisySum

Unit = Literal["customer", "enterprise"]


@dataclass(frozen=True)
class Mechanism:
    """A sum of bounded contributions with Skellam noise, carried out once or in several steps.

    Attributes
    ----------
    unit : "customer" or "enterprise"
        Whose contribution is bounded.
    noise : "distributed" or "local"
        Whether the enterprises share the noise or each adds the whole.
    sum : NoisySum
        Bounds, integers and noise of one step.
    sampling_rate : float
        Probability with which a contribution is in a step, drawn in secret; in (0, 1].
    steps : int
        Noisy sums of one release: more than one only in local training.
    """

    unit: Unit
    noise: Literal["distributed", "local"]
    sum: NoisySum
    sampling_rate: float = 1.0
    steps: int = 1

    @property
    def sensitivity(self) -> float:
        """Most by which one contribution moves the integers of a step, in the L2 norm."""
        return self.sum.l2

    @cached_property
    def curve(self) -> Curve:
        """RDP of one release, at the accountant's orders."""
        once = accounting.poisson_sampled(self.sum.curve(), self.sampling_rate)
        return once * self.steps

    @property
    def tail(self) -> float:
        """Probability, added to delta, that the noise of a release leaves its words."""
        return float(self.steps * 2.0**LOG2_TAIL)

    def sharers(self, honest: int) -> int:
        """Return among how many the noise is divided, where any opened sum covers ``honest``."""
        return honest if self.noise == "distributed" else 1
