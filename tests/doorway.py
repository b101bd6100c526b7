"""One enterprise's door in a consortium of four, for tests of what leaves by it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fgcif_flwr.privacy.door import Door
from fgcif_flwr.privacy.outcomes import with_outcome
from fgcif_flwr.privacy.policy import Policy
from fgcif_flwr.privacy.release_log import MemoryLog
from fgcif_flwr.secagg import (
    Field,
    Released,
    ReleaseRequest,
    SlotCollection,
    VectorLayout,
    WordFormat,
)
from tests.secure_sum_rig import INPUT_HASH, Consortium

LAYOUT = VectorLayout((Field("update", 5, 4.0), Field("rows", 1, 1000, exact=True)), 22)
WHOLE = with_outcome(LAYOUT)
FORM = WordFormat(22, 4)
VALUES = {"update": np.array([0.5, -1.0, 3.25, 0.0, 2.0]), "rows": np.array([31.0])}
WHO = "e001"


class Compute:
    """What the door may call, once: counts the calls."""

    def __init__(self, values: Mapping[str, np.ndarray] | Exception | None = VALUES) -> None:
        self.values = values
        self.calls = 0

    def __call__(self) -> Mapping[str, np.ndarray] | None:
        self.calls += 1
        if isinstance(self.values, Exception):
            raise self.values
        return self.values


class Doorway:
    """One enterprise's door in a consortium of four, and the slots that are asked of it."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.consortium = Consortium(4)
        self.log = MemoryLog()
        self.party = self.consortium.participants[WHO]
        policy = policy or Policy()
        if "units" not in policy.model_fields_set:
            policy = policy.model_copy(update={"units": frozenset({"none"})})
        self.door = Door(self.party, policy, self.log)

    def open(self) -> tuple[SlotCollection, ReleaseRequest]:
        self.ads = self.consortium.advertise()
        slot = self.consortium.collect(WHOLE, self.ads)
        return slot, slot.release_request(WHO)

    def release(self, request: ReleaseRequest, compute: Compute) -> Released:
        return self.door.release(request, LAYOUT, INPUT_HASH, compute, np.random.default_rng(0))


def sum_with(doorway: Doorway, slot: SlotCollection, vector: Released) -> Mapping[str, np.ndarray]:
    """The sum of this vector and three of zeros."""
    encoded = {name: np.zeros(WHOLE.size, np.int64) for name in doorway.consortium.participants}
    doorway.consortium.release(slot, encoded, lost=[WHO])
    slot.receive(vector)
    return doorway.consortium.unmask(slot).values
