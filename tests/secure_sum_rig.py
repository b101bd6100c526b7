"""A whole consortium in one process, for tests of the secure sum."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence

import numpy as np

from fgcif_flwr.secagg import Manifest, Participant, SlotCoordinator, VectorLayout, verify_joins
from fgcif_flwr.secagg.epoch import Epoch
from fgcif_flwr.secagg.keys import identity_from_seed

INPUT_HASH = bytes(32)


def stream(label: str) -> Callable[[int], bytes]:
    """Deterministic bytes in place of the operating system's generator."""
    counter = 0

    def draw(count: int) -> bytes:
        nonlocal counter
        counter += 1
        return hashlib.shake_256(f"{label}/{counter}".encode()).digest(count)

    return draw


def sum_of_encodings(encodings: Sequence[np.ndarray]) -> np.ndarray:
    """Add encodings in the clear: what a secure sum is held against."""
    return np.sum(np.stack(encodings), axis=0, dtype=np.int64)


class Consortium:
    """Participants that have joined and begun one epoch, and their coordinator's view."""

    def __init__(
        self,
        count: int,
        *,
        threshold: int | None = None,
        dropouts: int | None = None,
        colluders: int | None = None,
    ) -> None:
        names = [f"e{i:03d}" for i in range(count)]
        identities = {n: identity_from_seed(stream(f"id/{n}")(32)) for n in names}
        roster = tuple((n, identities[n].public) for n in names)
        self.manifest = Manifest(1, "{}", roster, threshold, dropouts, colluders)
        self.participants = {n: Participant(n, identities[n], stream(n)) for n in names}
        self.joins = [p.join(self.manifest) for p in self.participants.values()]
        self.epoch: Epoch = verify_joins(self.manifest, self.joins)
        for participant in self.participants.values():
            participant.begin(self.joins)
        self.slot = 0

    def open_slot(self, layout: VectorLayout, task: str = "test") -> SlotCoordinator:
        self.slot += 1
        ads = [p.advertise(self.slot) for p in self.participants.values()]
        return SlotCoordinator(self.epoch, self.slot, task, layout, INPUT_HASH, ads)

    def release(
        self,
        slot: SlotCoordinator,
        encoded: dict[str, np.ndarray],
        lost: Collection[str] = (),
        lost_after: Collection[str] = (),
    ) -> None:
        """Send all vectors but those of ``lost``; ``lost_after`` mask but never arrive."""
        for name, participant in self.participants.items():
            if name in lost:
                continue
            request = slot.release_request(name)
            participant.open_release(request)
            vector = participant.mask(request, encoded[name], slot.layout, INPUT_HASH)
            if name not in lost_after:
                slot.receive(vector)

    def unmask(self, slot: SlotCoordinator, silent: Collection[str] = ()) -> None:
        request = slot.close()
        for name in request.survivors:
            if name not in silent:
                slot.answer(self.participants[name].unmask(request))
