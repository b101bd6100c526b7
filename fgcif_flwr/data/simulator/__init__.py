"""A multi-enterprise CRM with a known generating process, for tests and experiments.

Enterprises draw their profile from the dials (:mod:`.enterprises`), customers leave records
(:mod:`.records`), records become features (:mod:`.features`), and targets are drawn from the
features by a stated law (:mod:`.outcomes`), so the best reachable accuracy is known.
"""

from fgcif_flwr.data.simulator.consortium import (
    SimulatedConsortium,
    customer_table,
    simulate,
    simulate_customers,
)
from fgcif_flwr.data.simulator.outcomes import BayesCeiling

__all__ = [
    "BayesCeiling",
    "SimulatedConsortium",
    "customer_table",
    "simulate",
    "simulate_customers",
]
