"""A participant's secrets between two messages, as bytes that a store can hold.

In a simulation the store is Flower's ``context.state`` (each message may meet another process);
an agent keeps the participant itself in memory and needs none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from fgcif_flwr.secagg import wire
from fgcif_flwr.secagg.epoch import Epoch
from fgcif_flwr.secagg.journal import MemoryJournal
from fgcif_flwr.secagg.keys import Entropy, KeyPair
from fgcif_flwr.secagg.participant import Participant
from fgcif_flwr.secagg.participant.advertising import Advertised
from fgcif_flwr.secagg.participant.joining import Channel, Joined, Joining
from fgcif_flwr.secagg.participant.party import Examine
from fgcif_flwr.secagg.participant.releasing import Masked

State = dict[str, int | str | bytes]
_Part = TypeVar("_Part")


@dataclass(frozen=True, repr=False)
class _Party:
    """What a participant is between two messages; a slot is never open between them."""

    name: str
    identity: KeyPair
    semi_honest: bool
    last_slot: int
    joining: Joining | None
    channels: tuple[Channel, ...]
    advertised: Advertised | None
    masked: Masked | None


def dump(participant: Participant) -> State:
    """Return everything that :func:`load` needs to go on; holds secrets.

    Raises
    ------
    TypeError
        If the participant's journal is not in memory: what is durable is not copied.
    """
    if not isinstance(participant.journal, MemoryJournal):
        raise TypeError("only a participant whose journal is in memory can be dumped")
    joined = participant.joined
    party = _Party(
        participant.name,
        participant.identity,
        participant.semi_honest,
        participant.last_slot,
        participant.joining,
        () if joined is None else joined.channels,
        participant.advertised,
        participant.masked,
    )
    state: State = {"party": wire.encode(party), "journal": participant.journal.to_bytes()}
    if joined is not None:
        state["epoch"] = wire.encode(joined.epoch)
    return state


def load(
    state: Mapping[str, object], entropy: Entropy = os.urandom, examine: Examine | None = None
) -> Participant:
    """Rebuild a participant from :func:`dump`; ``examine`` is no part of what was dumped."""
    party = wire.decode(_Party, _octets(state, "party"))
    participant = Participant(
        party.name,
        party.identity,
        journal=MemoryJournal.from_bytes(_octets(state, "journal")),
        semi_honest=party.semi_honest,
        entropy=entropy,
        examine=examine,
    )
    participant.joining = party.joining
    participant.last_slot = party.last_slot
    if "epoch" in state:
        participant.joined = Joined(_epoch(_octets(state, "epoch")), party.channels)
    participant.advertised, participant.masked = party.advertised, party.masked
    return participant


@lru_cache(maxsize=8)  # all enterprises of a process share one epoch and its graph
def _epoch(blob: bytes) -> Epoch:
    return wire.decode(Epoch, blob)


def _octets(state: Mapping[str, object], key: str) -> bytes:
    value = state[key]
    assert isinstance(value, bytes), key
    return value
