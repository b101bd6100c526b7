"""A whole consortium in one process, for tests of the secure sum."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fgcif_flwr.secagg import (
    Advertisement,
    AdvertiseRequest,
    Epoch,
    JoinReply,
    Manifest,
    Participant,
    Released,
    SlotCollection,
    SlotSum,
    SlotUnmasking,
    UnmaskRequest,
    VectorLayout,
    WordFormat,
    fix_epoch,
    keys,
)
from fgcif_flwr.secagg.keys import identity_from_seed

INPUT_HASH = bytes(32)
RUN = bytes(range(16))


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


def as_integers(total: SlotSum, layout: VectorLayout) -> np.ndarray:
    """The opened sum in units of the encoding."""
    largest = WordFormat(layout.value_bits, 1).largest
    return np.concatenate(
        [
            total.values[f.name] if f.exact else np.rint(total.values[f.name] * largest / f.bound)
            for f in layout.fields
        ]
    ).astype(np.int64)


class Consortium:
    """Participants that have joined and begun one epoch, and their coordinator's view."""

    def __init__(
        self,
        count: int,
        *,
        threshold: int | None = None,
        dropouts: int | None = None,
        colluders: int | None = None,
        consistency: bool | None = None,
        neighbours: int | None = None,
        semi_honest: bool = False,
        absent: Collection[str] = (),
    ) -> None:
        names = [f"e{i:03d}" for i in range(count)]
        self.identities = {n: identity_from_seed(stream(f"id/{n}")(32)) for n in names}
        roster = tuple((n, self.identities[n].public) for n in names)
        self.manifest = Manifest(
            RUN, 1, "{}", roster, threshold, dropouts, colluders, consistency, neighbours
        )
        self.participants = {
            n: Participant(n, self.identities[n], semi_honest=semi_honest, entropy=stream(n))
            for n in names
            if n not in absent
        }
        self.joins = tuple(p.join(self.manifest) for p in self.participants.values())
        self.graph_nonces = ()
        if not self.manifest.parameters(len(self.joins)).complete:
            self.graph_nonces = tuple(p.reveal(self.joins) for p in self.participants.values())
        self.epoch: Epoch = fix_epoch(self.manifest, self.joins, self.graph_nonces)
        for participant in self.participants.values():
            participant.begin(self.joins, self.graph_nonces)
        self.slot = 0

    def advertise(self, absent: Collection[str] = ()) -> list[Advertisement]:
        """Round keys of all but the absent for the next slot."""
        self.slot += 1
        request = AdvertiseRequest(self.slot)
        return [p.advertise(request) for n, p in self.participants.items() if n not in absent]

    def collect(
        self, layout: VectorLayout, ads: Sequence[Advertisement], task: str = "test"
    ) -> SlotCollection:
        """The coordinator's slot over checked advertisements."""
        for ad in ads:
            self.epoch.check_advertisement(ad)
        return SlotCollection(self.epoch, ads[0].slot, task, layout, INPUT_HASH, ads)

    def open_slot(self, layout: VectorLayout, absent: Collection[str] = ()) -> SlotCollection:
        return self.collect(layout, self.advertise(absent))

    def masked(
        self,
        slot: SlotCollection,
        name: str,
        encoded: np.ndarray,
        input_hash: bytes = INPUT_HASH,
    ) -> Released:
        """One member's masked vector, as the coordinator asks for it."""
        participant = self.participants[name]
        participant.open_release(slot.release_request(name), input_hash)
        return participant.mask(encoded, slot.layout)

    def release(
        self,
        slot: SlotCollection,
        encoded: Mapping[str, np.ndarray],
        lost: Collection[str] = (),
        lost_after: Collection[str] = (),
    ) -> None:
        """Send all vectors but those of ``lost``; ``lost_after`` mask but never arrive."""
        for name in slot.cohort:
            if name in lost:
                continue
            released = self.masked(slot, name, encoded[name])
            if name not in lost_after:
                slot.receive(released)

    def answered(self, closed: SlotUnmasking, silent: Collection[str] = ()) -> UnmaskRequest:
        """Run the exchanges after the release; the ``silent`` take no part in them."""
        if closed.wants_consents:
            for name in closed.survivors:
                if name not in silent:
                    closed.consent(self.participants[name].consent(closed.consent_request()))
        for name in closed.survivors:
            if name not in silent:
                request = closed.request(name)
                closed.answer(self.participants[name].unmask(request))
        return closed.request(closed.survivors[0])

    def unmask(self, slot: SlotCollection, silent: Collection[str] = ()) -> SlotSum:
        """Close the slot, let survivors answer, open the sum."""
        closed = slot.close()
        self.answered(closed, silent)
        return closed.finish()


def newcomer(consortium: Consortium, name: str = "e000") -> tuple[Participant, list[JoinReply]]:
    """A fresh enterprise that has joined the consortium's manifest, with all joins."""
    party = Participant(name, consortium.identities[name])
    said = party.join(consortium.manifest)
    return party, [said if one.name == name else one for one in consortium.joins]


def signed_join(consortium: Consortium, join: JoinReply, **changed: bytes) -> JoinReply:
    """A join changed and signed by the enterprise itself."""
    join = replace(join, **changed)
    message = join.signed_bytes(consortium.manifest.hash())
    return replace(join, signature=keys.sign(consortium.identities[join.name], message))
