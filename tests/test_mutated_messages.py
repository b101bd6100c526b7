"""No message, however spoilt, crashes a party, holds it up, or makes it tell too much.

Whole messages of every kind, taken from a real round, are mutated with their structure in view
(bits flipped; fields, senders, slots and runs swapped; items of tuples repeated, reordered, left
out; pieces of blobs changed; lengths and whole numbers taken to their extremes; cut short and made
longer) and fed as bytes to a copy of a party in some phase, several in a row and among whole ones,
in the complete graph and in a k-regular one. Whatever comes,

* the party raises nothing but an FgcifError, within ``SECONDS``;
* an enterprise never tells a self-mask share and a round-key share of the same dealer and slot, no
  secret of its own, and no more than one masked vector a slot; in the k-regular graph never a
  self-mask share of a survivor that does not show that it masked for the same;
* what it accepts is a legal request in all that matters, by rules written here once more;
* a coordinator that got whole vectors opens their exact sum or none, and blames liars only.

50,000 mutated messages are fed by default, seeded; ``FGCIF_MUTATIONS`` sets another number (a
million, ``FGCIF_MUTATIONS=1000000``, takes some minutes), ``FGCIF_MUTATIONS_SEED`` another seed.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import hmac
import io
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fgcif_flwr.errors import FgcifError, MisbehaviourError
from fgcif_flwr.federation.records import (
    INPUT,
    REPLY,
    REQUEST,
    reply_from_records,
    request_from_records,
)
from fgcif_flwr.federation.requests import (
    MESSAGE_TYPES,
    Identify,
    Identity,
    Join,
    Refusal,
    Release,
    Reveal,
    message_type,
)
from fgcif_flwr.federation.task_input import input_hash
from fgcif_flwr.secagg import (
    Field,
    Participant,
    SlotCollection,
    SlotUnmasking,
    VectorLayout,
    fix_epoch,
    wire,
)
from fgcif_flwr.secagg.coordinator import valid_joins
from fgcif_flwr.secagg.epoch import COMMITMENT_BYTES, OPENED_BYTES, SEALED_BYTES
from fgcif_flwr.secagg.journal import MemoryJournal
from fgcif_flwr.secagg.keys import TAG_BYTES, sign
from fgcif_flwr.secagg.messages import (
    Advertisement,
    AdvertiseRequest,
    CohortMember,
    Consent,
    ConsentRequest,
    GraphNonce,
    JoinReply,
    Released,
    ReleaseRequest,
    UnmaskReply,
    UnmaskRequest,
)
from fgcif_flwr.secagg.participant.snapshot import dump, load
from fgcif_flwr.secagg.shamir import SHARE_BYTES
from tests.secure_sum_rig import INPUT_HASH, Consortium, as_integers
from tests.test_vectors_protocol import agreed, hashed, hkdf, said, sha, x25519_public

MUTATIONS = int(os.environ.get("FGCIF_MUTATIONS", "50000"))
SEED = os.environ.get("FGCIF_MUTATIONS_SEED", "0")
SECONDS = 10  # a message takes milliseconds; this is for a machine that does much else
MUTATIONS_OF = {  # how many of a thousand go to whom
    "enterprise": 520,
    "enterprise in a k-regular graph": 28,
    "collecting": 90,
    "unmasking": 160,
    "tags": 2,
    "joining": 80,
    "records": 120,
}
KINDS = ("plain", "consistency", "k-regular")

TARGET = "e001"
LAYOUT = VectorLayout((Field("update", 3, 100.0, exact=True),), 9)
REQUESTS = (Join, Reveal, AdvertiseRequest, ReleaseRequest, ConsentRequest, UnmaskRequest)
TOLD = (Released, Consent, UnmaskReply)
IDENTITY_KEYS = json.loads(
    (Path(__file__).parent / "vectors" / "identity_key.json").read_text(encoding="utf-8")
)

# --- a real run of two slots, and everything that was or could have been said in it ---------------


class Stream:
    """The rig's deterministic bytes, in a form that a party's copy can go on with."""

    def __init__(self, label: str, drawn: int = 0) -> None:
        self.label, self.drawn = label, drawn

    def __call__(self, count: int) -> bytes:
        self.drawn += 1
        return hashlib.shake_256(f"{self.label}/{self.drawn}".encode()).digest(count)


def copy_of(party: Participant) -> Participant:
    """A party that shares nothing that changes with the first; all else in it is frozen."""
    twin = copy.copy(party)
    twin.journal = MemoryJournal()
    twin.journal._marks = dict(party.journal._marks)
    twin._entropy = Stream(party._entropy.label, party._entropy.drawn)
    return twin


class Watch:
    """What one enterprise has told; fails as soon as it is too much."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.vectors: dict[tuple[bytes, int], bytes] = {}
        self.opened: dict[tuple[bytes, int, str], int] = {}
        self.unmasked: dict[tuple[bytes, int], bytes] = {}
        self.bindings: dict[tuple[bytes, int], bytes] = {}
        self.secrets: set[bytes] = set()

    def copy(self) -> Watch:
        twin = Watch(self.world)
        twin.vectors, twin.opened = dict(self.vectors), dict(self.opened)
        twin.unmasked, twin.secrets = dict(self.unmasked), set(self.secrets)
        twin.bindings = dict(self.bindings)
        return twin

    def knows(self, party: Participant) -> None:
        """Note the secrets that a party has now: nothing that it says later may hold them."""
        self.secrets.add(party.identity.private)
        if party.joining is not None:
            self.secrets.add(party.joining.channel_private)
        if party.advertised is not None:
            self.secrets |= {party.advertised.round_key.private, party.advertised.seed}

    def saw(self, request: Any, reply: Any, input_hash: bytes = INPUT_HASH) -> None:
        told = wire.encode(reply)
        for secret in self.secrets:
            assert secret not in told, "a secret was told in the clear"
        for share, (run_id, slot, dealer, kind) in self.world.shares.items():
            if share in told:
                known = self.opened.setdefault((run_id, slot, dealer), kind)
                assert known == kind, f"both kinds of shares of {dealer} were told in slot {slot}"
                assert isinstance(reply, UnmaskReply)
        if isinstance(reply, Released):
            key = request.run_id, request.slot
            assert self.vectors.setdefault(key, told) == told, "two masked vectors in one slot"
            binding = self.world.binding(request.slot, request.task, request.cohort, input_hash)
            self.bindings[key] = binding
        if isinstance(reply, UnmaskReply):
            key = request.run_id, request.slot
            assert self.unmasked.setdefault(key, told) == told, "two unmask replies in one slot"
            self.world.check_tags(self.bindings[key], request, reply)


class World:
    """A run in which nothing went wrong: who was in which phase, and all messages."""

    def __init__(self, kind: str) -> None:
        self.regular = kind == "k-regular"
        if self.regular:
            self.consortium = c = Consortium(104, dropouts=3, colluders=2)
        else:
            self.consortium = c = Consortium(5, consistency=kind == "consistency")
        self.names = tuple(c.participants)
        self.run_id = c.epoch.run_id
        self.parameters = c.epoch.parameters
        assert self.parameters.complete != self.regular
        rng = np.random.default_rng(5)
        self.encoded = {n: rng.integers(-100, 101, LAYOUT.size) for n in self.names}
        for name, party in c.participants.items():
            party._entropy = Stream(name, drawn=3)  # for the channel, the graph and the join
        near = [name for name in self.receivers[TARGET] if name != TARGET]
        far = [name for name in self.names if name not in self.receivers[TARGET]]
        self.losable = (near[0], near[-1], far[0]) if self.regular else tuple(near)
        self.known_names = (*near, *far[:3], TARGET)
        self.ads: dict[tuple[int, str], Advertisement] = {}
        self.shares: dict[bytes, tuple[bytes, int, str, int]] = {}
        self.phases: dict[str, tuple[Participant, Watch]] = {}
        self.messages: dict[type, list[Any]] = {kind: [] for kind in (*REQUESTS, *_REPLIES)}
        self.verdicts = {"given": 0, "withheld": 0}
        self._watch = Watch(self)
        self._play()

    # --- the rules of a k-regular graph and its tags, written once more

    @cached_property
    def receivers(self) -> dict[str, tuple[str, ...]]:
        """Who holds whose shares, by the description in tests/vectors/graph.json."""
        names = self.names
        if not self.regular:
            return dict.fromkeys(names, names)
        graph_seed, half = self.consortium.epoch.graph_seed, self.parameters.neighbours // 2
        ring = sorted(
            range(len(names)), key=lambda at: (sha(graph_seed + at.to_bytes(4, "big")), at)
        )
        return {
            names[at]: tuple(
                sorted(names[ring[(place + step) % len(ring)]] for step in range(-half, half + 1))
            )
            for place, at in enumerate(ring)
        }

    def binding(self, slot: int, task: str, cohort: tuple[str, ...], input_hash: bytes) -> bytes:
        """What the masks of a slot are bound to, by tests/vectors/transcript.json."""
        bound = self.consortium.epoch.slot_binding(slot)
        return hashed("masks", bound, task, hashed("names", *cohort), LAYOUT.hash(), input_hash)

    def tag(self, sender: str, receiver: str, binding: bytes) -> bytes:
        """By tests/vectors/tag.json; one of the two is the target."""
        key = self._tag_key(sender, receiver)
        return hmac.digest(key, binding, "sha256")[:TAG_BYTES]

    def _tag_key(self, sender: str, receiver: str) -> bytes:
        known = self._tag_keys.get((sender, receiver))
        if known is None:
            run_id, number = self.run_id, self.consortium.manifest.epoch
            private, public = Stream(sender)(32), x25519_public(Stream(receiver)(32))
            secret = agreed(private, public, said("channel", "pair", run_id, number, "", ""))
            known = hkdf(secret, said("channel", "tag", run_id, number, sender, receiver))
            self._tag_keys[sender, receiver] = known
        return known

    @cached_property
    def _tag_keys(self) -> dict[tuple[str, str], bytes]:
        return {}

    def surviving(self, request: UnmaskRequest) -> list[str]:
        """The target's neighbours among the survivors."""
        near = self.receivers[TARGET]
        return [name for name in request.survivors if name in near and name != TARGET]

    def check_tags(self, binding: bytes, request: UnmaskRequest, reply: UnmaskReply) -> None:
        """Fail unless shares are withheld from those, and only those, whose tag does not hold for
        what the target itself masked for."""
        unproven = []
        if self.regular:
            for index, name in enumerate(self.surviving(request)):
                shown = request.tags[TAG_BYTES * index : TAG_BYTES * (index + 1)]
                if shown != self.tag(name, TARGET, binding):
                    unproven.append(name)
        assert list(reply.withheld) == unproven
        for share, (_, slot, dealer, kind) in self.shares.items():
            if slot == request.slot and kind == 1 and dealer in request.survivors:
                told = share in reply.shares
                assert not (told and dealer in unproven), "a share was given without a tag"
                self.verdicts["given"] += told
        self.verdicts["withheld"] += len(unproven)

    # --- what was said

    def _snapshot(self, phase: str) -> None:
        party = self.consortium.participants[TARGET]
        self._watch.knows(party)
        self.phases[phase] = copy_of(party), self._watch.copy()

    def _say(self, *messages: Any) -> None:
        for message in messages:
            self.messages[type(message)].append(message)

    def _play(self) -> None:
        c, joins = self.consortium, self.consortium.joins
        parties = c.participants
        parties[TARGET] = Participant(TARGET, c.identities[TARGET], entropy=Stream(TARGET))
        self._snapshot("new")
        again = dataclasses.replace(c.manifest, epoch=2)
        another = dataclasses.replace(c.manifest, run=bytes(16))
        self._say(Join(c.manifest), Join(again), Join(another), Reveal(joins), *joins)
        assert parties[TARGET].join(c.manifest) in joins
        self._snapshot("joining")
        nonces = tuple(GraphNonce(name, Stream(name, drawn=1)(32)) for name in self.names)
        assert copy_of(parties[TARGET]).reveal(joins) in nonces
        if self.regular:
            drawn = hashed("graph", self.run_id, *(one.nonce for one in nonces))
            assert c.epoch.graph_seed == drawn
        self._say(*nonces, AdvertiseRequest(1, joins, nonces), AdvertiseRequest(1, joins))
        self._say(*(AdvertiseRequest(slot) for slot in (1, 2, 3)))
        parties[TARGET].begin(joins, nonces)
        self._snapshot("joined")
        ads = c.advertise()
        self._snapshot("advertised")
        self.asked: dict[int, SlotUnmasking] = {}
        self.whole: dict[tuple[int, str], CohortMember] = {}
        self.lists: dict[tuple[Any, ...], tuple[tuple[str, ...], bytes]] = {}
        self.legal: dict[type, dict[tuple[int, str], Any]] = {kind: {} for kind in TOLD}
        self.last = 1 if self.regular else 2
        for slot_number in range(1, self.last + 1):
            ads = self._slot(slot_number, ads)
        self._say(*ads)

    def _slot(self, number: int, ads: list[Advertisement]) -> list[Advertisement]:
        c, parties, names = self.consortium, self.consortium.participants, self.names
        self._say(*ads)
        self.ads.update({(number, ad.sender): ad for ad in ads})
        slot = c.collect(LAYOUT, ads)
        self.empty = copy_of_collection(slot)
        for lost in self.losable:  # smaller cohorts would be as legal
            smaller = c.collect(LAYOUT, [ad for ad in ads if ad.sender != lost])
            self._say(smaller.release_request(TARGET))
            self._lists(number, smaller.cohort)
        self._lists(number, names)
        members = slot.release_request(TARGET).members
        self.whole.update({(number, member.name): member for member in members})
        following = []
        for name in names:
            request = slot.release_request(name)
            if name == names[2]:
                self.half = copy_of_collection(slot)
            released = c.masked(slot, name, self.encoded[name])
            self._say(released)
            if name in self.receivers[TARGET]:
                self._say(*[request] * (4 if name == TARGET and self.regular else 1))
            self.legal[Released][number, name] = released
            slot.receive(released)
            following.append(released.next)
            if name == TARGET:
                self._watch.saw(request, released)
                self._remember(number, parties[TARGET])
        self._snapshot(f"masked {number}")
        self.masked_parties = {name: copy_of(party) for name, party in parties.items()}
        closed = slot.close()
        if closed.wants_consents:
            for name in names:
                said = parties[name].consent(closed.consent_request())
                self.legal[Consent][number, name] = said
                self._say(said)
            self._snapshot(f"consented {number}")
            self.consented_parties = {name: copy_of(party) for name, party in parties.items()}
            self.unasked = copy_of_unmasking(closed)
            for name in names:
                closed.consent(self.legal[Consent][number, name])
        self.asked[number] = copy_of_unmasking(closed)
        for name in names:
            request = closed.request(name)
            reply = parties[name].unmask(request)
            self.legal[UnmaskReply][number, name] = reply
            self._say(reply)
            closed.answer(reply)
            if name == TARGET:
                self._say(request)
                self._watch.saw(request, reply)
        self.sum = sum(self.encoded.values())
        assert np.array_equal(as_integers(closed.finish(), LAYOUT), self.sum)
        self._snapshot(f"unmasked {number}")
        return following

    def _remember(self, slot: int, party: Participant) -> None:
        """Note which shares the target holds, by their bytes."""
        held = party.masked.held
        for index, dealer in enumerate(party.masked.dealers):
            for kind in (0, 1):
                start = (2 * index + kind) * OPENED_BYTES
                share = held[start : start + SHARE_BYTES]
                self.shares[share] = self.run_id, slot, dealer, kind

    def _lists(self, slot: int, cohort: tuple[str, ...]) -> None:
        """Ask for every list that is legal in itself, signed by all others, as if in league; with
        the tags that are due, those of who masked for other cohorts, and with none."""
        c = self.consortium
        for lost in ((), *((name,) for name in self.losable if name in cohort)):
            survivors = tuple(name for name in cohort if name not in lost)
            signed = c.epoch.consent_bytes(slot, cohort, survivors, lost)
            consents = tuple(
                Consent(name, slot, sign(c.identities[name], signed)) for name in survivors
            )
            self._say(ConsentRequest(self.run_id, slot, survivors, lost), *consents[:5])
            self.lists[slot, survivors, lost] = cohort, signed
            for shown in ((), consents, consents[:-1]):
                request = UnmaskRequest(self.run_id, slot, survivors, lost, shown)
                self._say(request)
                if self.regular:
                    for masked_for in {cohort, self.names}:
                        self._say(
                            dataclasses.replace(request, tags=self._tags(request, masked_for))
                        )

    def _tags(self, request: UnmaskRequest, cohort: tuple[str, ...]) -> bytes:
        binding = self.binding(request.slot, "test", cohort, INPUT_HASH)
        return b"".join(self.tag(name, TARGET, binding) for name in self.surviving(request))


_REPLIES = (JoinReply, GraphNonce, Advertisement, Released, Consent, UnmaskReply)


def copy_of_collection(slot: SlotCollection) -> SlotCollection:
    twin = copy.copy(slot)
    twin._collected = copy_of_collected(slot._collected)
    return twin


def copy_of_unmasking(closed: SlotUnmasking) -> SlotUnmasking:
    twin = copy.copy(closed)
    twin._collected = copy_of_collected(closed._collected)
    twin._consents, twin._answers = dict(closed._consents), dict(closed._answers)
    return twin


def copy_of_collected(collected: Any) -> Any:
    return dataclasses.replace(
        collected,
        total=collected.total.copy(),
        tags=dict(collected.tags),
        survivors=set(collected.survivors),
        complaints={dealer: set(who) for dealer, who in collected.complaints.items()},
    )


@cache
def world_of(kind: str) -> World:
    return World(kind)


# --- mutation -------------------------------------------------------------------------------------


class Mutator:
    """Mutates messages with the values of all messages of two runs at hand."""

    def __init__(self, label: str, worlds: tuple[World, ...]) -> None:
        self.rng = random.Random(f"{SEED}/{label}")
        self.records: dict[type, list[Any]] = {}
        self.octets: dict[int, list[bytes]] = {}
        for world in worlds:
            for messages in world.messages.values():
                for message in messages:
                    for _, value in sites(message):
                        if dataclasses.is_dataclass(value):
                            self.records.setdefault(type(value), []).append(value)
                        elif isinstance(value, bytes):
                            self.octets.setdefault(len(value), []).append(value)
        self.octets[32] += [
            bytes.fromhex(key) for key in IDENTITY_KEYS["refused"] if len(key) == 64
        ]
        self.lengths = list(self.octets)
        self.names = [
            *worlds[0].known_names,
            "",
            "e005",
            "E001",
            "e001\0",
            "e001 ",
            "é" * 9,
            "x" * 999,
        ]

    def mutated(self, message: Any) -> bytes:
        """Bytes of the message after one to three mutations, of its fields or its bytes."""
        rng = self.rng
        spoilt = message
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if rng.random() < 0.75:
                if rng.random() < 0.5:  # small fields beside long lists come up too
                    name = rng.choice(dataclasses.fields(spoilt)).name
                    path, value = (name,), getattr(spoilt, name)
                else:
                    path, value = rng.choice([*sites(spoilt)])
                spoilt = replaced(spoilt, path, self._other(value, path))
        data = wire.encode(spoilt)
        if spoilt is message or rng.random() < 0.05:
            data = self.bent(data)
        return data

    def bent(self, data: bytes) -> bytes:
        """Other bytes than these, with no regard for what they mean."""
        rng = self.rng
        choice = rng.randrange(8)
        if choice == 0 or not data:
            return data + rng.randbytes(rng.choice((1, 4, 52, 1000)))
        at = rng.randrange(len(data))
        if choice == 1:
            return data[:at]
        if choice == 2:
            return data[:at] + data[at + rng.choice((1, 4, 8, 32)) :]
        if choice == 3:
            end = at + rng.choice((1, 4, 8, 32))
            return data[:end] + data[at:]
        if choice == 4:  # a length, a count or a number at its extremes
            extreme = rng.choice((b"\xff" * 4, b"\x7f" + b"\xff" * 7, b"\0" * 4, b"\x80\0\0\0"))
            return data[:at] + extreme + data[at + len(extreme) :]
        if choice == 5:
            return data[-at:] + data[:-at]
        bent = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 9))):
            bent[rng.randrange(len(bent))] ^= 1 << rng.randrange(8)
        return bytes(bent)

    def _other(self, value: Any, path: Place) -> Any:
        rng = self.rng
        if path and path[-1] == "consistency":
            return rng.choice((None, False, True))
        if value is None or isinstance(value, int):
            number = value or 0
            extremes = (0, 1, 2, 3, -1, 1 << 31, 1 << 32, (1 << 63) - 1, -(1 << 63))
            near = max(-(1 << 63), number - 1), min((1 << 63) - 1, number + 1)
            return rng.choice((*extremes, *near))
        if isinstance(value, str):
            return rng.choice(self.names)
        if isinstance(value, bytes):
            return self._other_bytes(value)
        if isinstance(value, tuple):
            return self._other_tuple(value, path)
        return rng.choice(self.records.get(type(value), [value]))

    def _other_bytes(self, value: bytes) -> bytes:
        rng = self.rng
        choice = rng.randrange(8)
        if choice == 0:
            return b""
        if choice == 1:
            return bytes(len(value))
        if choice == 7:
            return self._other_piece(value)
        if choice == 2:
            return rng.choice(self.octets[rng.choice(self.lengths)])
        if choice in (3, 4) and len(value) in self.octets:  # of another sender, slot or run
            return rng.choice(self.octets[len(value)])
        if choice == 5 and len(value) >= SEALED_BYTES:  # pieces change places
            cut = rng.randrange(len(value))
            return value[cut:] + value[:cut]
        return self.bent(value)

    def _other_piece(self, value: bytes) -> bytes:
        """One tag, commitment, opened or sealed share is another, or one is lacking."""
        rng = self.rng
        sizes = [size for size in _PIECES if len(value) % size == 0 and len(value) > size]
        if not sizes:
            return self.bent(value)
        size = rng.choice(sizes)
        of = rng.choice([value, *self.octets.get(len(value), [])[:50]])
        at, to = (size * rng.randrange(len(value) // size) for _ in range(2))
        piece = rng.choice((of[at : at + size], bytes(size), b""))
        return value[:to] + piece + value[to + size :]

    def _other_tuple(self, value: tuple[Any, ...], path: Place) -> tuple[Any, ...]:
        rng = self.rng
        items = list(value)
        if not items:
            if path[-1] == "roster":
                return ((rng.choice(self.names), bytes(32)),)
            kind = _ITEMS.get(path[-1])
            pool = self.records[kind] if kind else self.names
            return tuple(rng.choice(pool) for _ in range(rng.randint(1, 5)))
        if isinstance(items[0], str) and len(items) == 2 and isinstance(items[1], bytes):
            return (items[0], self._other_bytes(items[1]))  # a fixed pair stays one
        at, to = rng.randrange(len(items)), rng.randrange(len(items))
        choice = rng.randrange(8)
        if choice == 0:
            return ()
        if choice == 1:
            del items[at]
        elif choice == 2:
            items.insert(to, items[at])
        elif choice == 3:
            items[at], items[to] = items[to], items[at]
        elif choice == 4:
            rng.shuffle(items)
        elif choice == 5:
            items *= 2
        elif choice == 6:
            items = [items[at]]
        elif not isinstance(items[at], tuple):
            items[at] = self._other(items[at], path)
        return tuple(items)


_PIECES = (TAG_BYTES, COMMITMENT_BYTES, OPENED_BYTES, SEALED_BYTES)
Place = tuple[int | str, ...]
_ITEMS = {
    "joins": JoinReply,
    "graph_nonces": GraphNonce,
    "consents": Consent,
    "members": CohortMember,
}


def sites(value: Any, path: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every value within a message, and where it stands."""
    yield path, value
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from sites(item, (*path, index))
    elif dataclasses.is_dataclass(value):
        for one in dataclasses.fields(value):
            yield from sites(getattr(value, one.name), (*path, one.name))


def replaced(value: Any, path: Place, new: Any) -> Any:
    """The message with another value in one place, unchecked: no ``__post_init__`` runs."""
    if not path:
        return new
    head, rest = path[0], path[1:]
    if isinstance(value, tuple):
        items = list(value)
        items[head] = replaced(items[head], rest, new)
        return tuple(items)
    twin = object.__new__(type(value))
    for one in dataclasses.fields(value):
        twin.__dict__[one.name] = getattr(value, one.name)
    twin.__dict__[head] = replaced(twin.__dict__[head], rest, new)
    return twin


# --- feeding --------------------------------------------------------------------------------------


class TooLongError(Exception):
    """A message took longer than any may."""


def _too_long(*_: object) -> None:
    raise TooLongError(f"a message took more than {SECONDS} s")


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, _too_long)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def attempt(action: Callable[[], Any]) -> Any:
    """What an action gives, or the FgcifError that it raised; any other error is a failure."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return action()
    except FgcifError as refused:
        return refused
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def budget(subject: str) -> int:
    return max(1, MUTATIONS * MUTATIONS_OF[subject] // 1000)


def enough(subject: str, accepted: int, fed: int) -> None:
    """Mutants that are all refused, or all accepted, would have tested little."""
    print(f"{subject}: {fed} mutated messages, {accepted} of them accepted")
    if fed >= 1000:
        assert 0.001 * fed < accepted < 0.7 * fed


def _request_for(party: Participant, world: World, rng: random.Random) -> tuple[type, Any]:
    """Any request of the run, more often one that the party could be waiting for."""
    kinds: tuple[type, ...] = REQUESTS
    slots = {state.slot for state in (party.advertised, party.masked) if state is not None}
    if rng.random() < 0.7:
        if party.joined is None:
            kinds = (Join, Reveal, AdvertiseRequest)
        elif party.masked is not None and rng.random() < 0.7:
            kinds = (ConsentRequest, UnmaskRequest)
        else:
            kinds = (AdvertiseRequest, ReleaseRequest, ReleaseRequest)
    kind = rng.choice(kinds)
    known = world.messages[kind]
    if rng.random() < 0.8:
        known = [one for one in known if getattr(one, "slot", None) in slots] or known
    if kind in (ConsentRequest, UnmaskRequest) and party.masked is not None and rng.random() < 0.7:
        known = [one for one in known if _answers(party.masked, one, world)] or known
    return kind, rng.choice(known)


def _answers(masked: Any, request: ConsentRequest | UnmaskRequest, world: World) -> bool:
    """Whether a list is of the cohort that was masked for and is the one that was consented to."""
    cohort, signed = world.lists[request.slot, request.survivors, request.dropped]
    return cohort == masked.cohort and masked.agreed in (b"", signed)


def answer(party: Participant, kind: type, data: bytes, input_hash: bytes, world: World) -> Any:
    """Read a request and answer it, in the steps in which an enterprise does."""
    request = wire.decode(kind, data)
    if isinstance(request, Join):
        return party.join(request.manifest)
    if isinstance(request, Reveal):
        return party.reveal(request.joins)
    if isinstance(request, AdvertiseRequest):
        return party.advertise(request)
    if isinstance(request, ConsentRequest):
        return party.consent(request)
    if isinstance(request, UnmaskRequest):
        return party.unmask(request)
    stored = party.released_before(request, input_hash)
    if stored is not None:
        return stored
    party.open_release(request, input_hash)
    return party.mask(world.encoded[TARGET], LAYOUT)


def check_legal(
    world: World, before: Participant, request: Any, reply: Any, input_hash: bytes
) -> None:
    """Fail unless a request that was accepted for the first time is a legal one."""
    parameters, names = world.parameters, set(world.names)
    near = world.receivers[TARGET]
    least = parameters.threshold
    if world.regular:
        least = len(names) - parameters.tolerated_dropouts
    if isinstance(reply, JoinReply):
        _check_manifest(world, before, request.manifest)
    if isinstance(reply, Released) and request.slot not in _spent(before, "release"):
        cohort = request.cohort
        assert request.run_id == world.run_id
        assert request.slot == before.advertised.slot == reply.slot
        assert list(cohort) == sorted(set(cohort))
        assert TARGET in cohort
        assert set(cohort) <= names
        assert len(cohort) >= least
        dealers = tuple(member.name for member in request.members)
        assert dealers == tuple(name for name in cohort if name in near)
        binding = world.binding(request.slot, request.task, cohort, input_hash)
        tags = [world.tag(TARGET, name, binding) for name in dealers if name != TARGET]
        assert reply.tags == (b"".join(tags) if world.regular else b"")
        for member in request.members:
            ad = before.advertised.said
            if member.name != TARGET:
                ad = world.ads[request.slot, member.name]
                _check_shares(world, ad, member, reply)
            assert member.round_public == ad.round_public
    if isinstance(reply, Consent | UnmaskReply):
        phase = "consent" if isinstance(reply, Consent) else "unmask"
        if request.slot in _spent(before, phase):
            return
        survivors, dropped = request.survivors, request.dropped
        assert request.run_id == world.run_id
        assert request.slot == before.masked.slot == reply.slot
        assert tuple(sorted((*survivors, *dropped))) == before.masked.cohort
        assert TARGET in survivors
        assert len(dropped) <= parameters.tolerated_dropouts
        assert len(survivors) >= least
        for name in survivors if world.regular else ():
            assert len(set(world.receivers[name]) & set(survivors)) >= parameters.threshold
        if phase == "unmask" and parameters.consistency:
            slot = request.slot
            agreed = world.consortium.epoch.consent_bytes(
                slot, before.masked.cohort, survivors, dropped
            )
            signed = {
                (name, slot, sign(world.consortium.identities[name], agreed)) for name in survivors
            }
            given = {(one.sender, one.slot, one.signature) for one in request.consents}
            assert before.masked.agreed == agreed
            assert len(given & signed) >= parameters.quorum


def _check_manifest(world: World, before: Participant, manifest: Any) -> None:
    """Its roster is whole, and it is of a new run or a later epoch, or was accepted before."""
    names = [name for name, _ in manifest.roster]
    publics = [public for _, public in manifest.roster]
    assert manifest.identities[TARGET] == world.consortium.identities[TARGET].public
    assert names == sorted(set(names))
    assert all(1 <= len(name) <= 64 and name.isprintable() for name in names)
    assert len(set(publics)) == len(publics)
    assert {len(public) for public in publics} == {32}
    assert not {public.hex() for public in publics} & set(IDENTITY_KEYS["refused"])
    assert len(manifest.run) == 16
    assert 1 <= manifest.epoch < 1 << 32
    known = before.manifest
    if known is not None and known.run == manifest.run:
        repeated = before.joined is None and manifest == known
        assert repeated or manifest.epoch > known.epoch


def _spent(party: Participant, phase: str) -> set[int]:
    return {
        held.slot
        for (_, of), marks in party.journal._marks.items()
        if of == phase
        for held in marks.held
    }


def _check_shares(world: World, ad: Advertisement, member: Any, reply: Released) -> None:
    """What is not the dealer's own is complained of."""
    whole = world.whole[ad.slot, ad.sender]
    same = (member.commitments, member.sealed) == (whole.commitments, whole.sealed)
    assert same == (member.name not in reply.complaints)


# --- the tests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_enterprise_answers_legal_requests_only_and_never_tells_too_much(kind):
    world = world_of(kind)
    mutator = Mutator(f"enterprise/{kind}", (world, another_world(kind)))
    rng = mutator.rng
    phases = [one for phase, one in world.phases.items() for _ in range(_often(world, phase))]
    wanted = budget("enterprise") // 2
    if world.regular:
        wanted = budget("enterprise in a k-regular graph")
    world.verdicts = {"given": 0, "withheld": 0}
    fed = accepted = 0
    while fed < wanted:
        snapshot, watch = rng.choice(phases)
        party, watch = copy_of(snapshot), watch.copy()
        for _ in range(rng.randint(1, 8)):
            asked, message = _request_for(party, world, rng)
            mutant = rng.random() < 0.7
            data = mutator.mutated(message) if mutant else wire.encode(message)
            input_hash = bytes(31) + b"\1" if rng.random() < 0.05 else INPUT_HASH
            before = copy_of(party)
            if party.joined is not None and rng.random() < 0.05:
                party = load(dump(party), party._entropy)
            reply = attempt(partial(answer, party, asked, data, input_hash, world))
            fed += mutant
            if isinstance(reply, FgcifError):
                continue
            accepted += mutant
            request = wire.decode(asked, data)
            watch.knows(party)
            watch.saw(request, reply, input_hash)
            check_legal(world, before, request, reply, input_hash)
    enough(f"enterprise ({kind})", accepted, fed)
    if world.regular and fed >= 1000:
        print(f"self-mask shares: {world.verdicts}")
        assert min(world.verdicts.values()) > 0.1 * fed


def another_world(kind: str) -> World:
    return world_of("plain" if kind == "consistency" else "consistency")


def _often(world: World, phase: str) -> int:
    """Joins of a hundred are dear, and no tags are in them; these come with the unmask requests."""
    if not world.regular:
        return 1
    return {"new": 1, "joining": 1, "consented 1": 24}.get(phase, 6)


def test_a_coordinator_opens_the_exact_sum_of_whole_vectors_or_none():
    world = world_of("plain")
    mutator = Mutator("collecting", (world, world_of("consistency")))
    rng = mutator.rng
    start, number = world.half, 2
    fed = accepted = 0
    while fed < budget("collecting"):
        slot = copy_of_collection(start)
        spoilt = False
        for _ in range(rng.randint(1, 4)):
            data = mutator.mutated(rng.choice(world.messages[Released]))
            before = set(slot._collected.survivors)
            released = attempt(lambda data=data: wire.decode(Released, data))
            fed += 1
            if isinstance(released, FgcifError):
                continue
            got = attempt(partial(slot.receive, released))
            if got is None:
                accepted += 1
                whole = world.legal[Released].get((number, released.sender))
                assert released.sender not in before
                assert whole is not None
                spoilt |= whole.words != released.words
        for name in world.names:
            if name not in slot._collected.survivors and rng.random() < 0.9:
                slot.receive(world.legal[Released][number, name])
        closed = attempt(slot.close)
        if isinstance(closed, FgcifError) or spoilt or rng.random() < 0.5:
            continue
        for name in closed.survivors:
            closed.answer(copy_of(world.masked_parties[name]).unmask(closed.request(name)))
        total = attempt(closed.finish)
        if not isinstance(total, FgcifError):
            expected = sum(world.encoded[name] for name in closed.survivors)
            assert np.array_equal(as_integers(total, LAYOUT), expected)
    enough("collecting", accepted, fed)


@pytest.mark.parametrize("number", [1 << 40, (1 << 63) - 1])
def test_the_last_slots_that_a_message_can_name_are_refused_in_words_or_answered(number):
    consortium = Consortium(4)
    consortium.slot = number - 1
    ads = attempt(consortium.advertise)
    if not isinstance(ads, FgcifError):
        slot = consortium.collect(LAYOUT, ads)
        attempt(partial(consortium.masked, slot, TARGET, np.zeros(LAYOUT.size, np.int64)))


@pytest.mark.parametrize("world_kind", ["plain", "consistency"])
def test_mutated_answers_give_the_exact_sum_or_none_and_blame_liars_only(world_kind):
    world = world_of(world_kind)
    mutator = Mutator(f"unmasking/{world_kind}", (world, another_world(world_kind)))
    rng = mutator.rng
    fed = accepted = 0
    while fed < budget("unmasking") // 2:
        number = 2
        fresh = world_kind == "consistency" and rng.random() < 0.3
        liars, withheld = set(), []
        closed = copy_of_unmasking(world.unasked if fresh else world.asked[number])
        kinds = (Consent, UnmaskReply) if fresh else (UnmaskReply,)
        for _ in range(rng.randint(1, 4)):
            kind = rng.choice(kinds)
            data = mutator.mutated(rng.choice(world.messages[kind]))
            message = attempt(lambda kind=kind, data=data: wire.decode(kind, data))
            fed += 1
            if isinstance(message, FgcifError):
                continue
            take = closed.consent if kind is Consent else closed.answer
            if attempt(partial(take, message)) is not None:
                continue
            accepted += 1
            if kind is UnmaskReply and message != world.legal[UnmaskReply][number, message.sender]:
                liars.add(message.sender)
                withheld += {(message.sender, dealer) for dealer in message.withheld}
        for name, consent in closed._consents.items():
            assert consent == world.legal[Consent][number, name]  # signed, so not mutated
        attempt(partial(closed.request, TARGET))
        for name in world.names:
            if name not in closed._answers:
                closed.answer(world.legal[UnmaskReply][number, name])
        accused = {  # by more liars than are tolerated
            dealer
            for dealer in world.names
            if sum(one == dealer != who for who, one in withheld)
            > world.parameters.tolerated_colluders
        }
        total = attempt(closed.finish)
        if isinstance(total, FgcifError):
            assert isinstance(total, MisbehaviourError)
            assert len(liars) > len(world.names) - world.parameters.threshold
            assert (liars | accused) & set(total.names)
            assert set(total.names) <= liars | accused
        else:
            assert np.array_equal(as_integers(total, LAYOUT), world.sum)
            assert set(total.blamed) <= liars | accused
    enough("unmasking", accepted, fed)


def test_mutated_tags_give_the_exact_sum_or_none_and_blame_liars_only():
    world = world_of("k-regular")
    mutator = Mutator("tags", (world, world_of("consistency")))
    rng, number = mutator.rng, world.last
    fed = accepted = opened = 0
    while fed < budget("tags"):
        slot = copy_of_collection(world.empty)
        spoilt: dict[str, Released] = {}
        for name in rng.sample(world.names, rng.randint(1, 4)):
            released = world.legal[Released][number, name]
            if rng.random() < 0.7:
                tags = mutator._other_bytes(released.tags)
                data = wire.encode(dataclasses.replace(released, tags=tags))
            else:
                data = mutator.mutated(released)
            message = attempt(lambda data=data: wire.decode(Released, data))
            fed += 1
            if isinstance(message, FgcifError) or message.sender != name:
                continue
            if attempt(partial(slot.receive, message)) is None:
                accepted += 1
                spoilt[name] = message
        for name in world.names:
            if name not in spoilt:
                slot.receive(world.legal[Released][number, name])
        closed = slot.close()
        for name in world.names:
            closed.consent(world.legal[Consent][number, name])
        for name in world.names:
            reply = world.legal[UnmaskReply][number, name]
            if any(name in world.receivers[liar] for liar in spoilt):
                reply = copy_of(world.consented_parties[name]).unmask(closed.request(name))
            assert set(reply.withheld) == {
                liar
                for liar, message in spoilt.items()
                if _tag_for(world, message, name)
                != _tag_for(world, world.legal[Released][number, liar], name)
            }
            closed.answer(reply)
        total = attempt(closed.finish)
        if any(
            one.words != world.legal[Released][number, name].words for name, one in spoilt.items()
        ):
            continue  # it has changed its own vector, as it may
        if isinstance(total, FgcifError):
            assert isinstance(total, MisbehaviourError)
            assert set(total.names) <= set(spoilt)
        else:
            opened += 1
            assert np.array_equal(as_integers(total, LAYOUT), world.sum)
            assert set(total.blamed) <= set(spoilt)
    print(f"tags: {fed} mutated messages, {accepted} of them accepted, {opened} sums opened")
    assert fed < 50 or (accepted and opened)


def _tag_for(world: World, released: Released, name: str) -> bytes:
    """The tag for one neighbour; empty for who is none."""
    others = [one for one in world.receivers[released.sender] if one != released.sender]
    if name not in others:
        return b""
    start = TAG_BYTES * others.index(name)
    return released.tags[start : start + TAG_BYTES]


def test_joins_and_advertisements_hold_only_as_they_were_signed():
    world = world_of("consistency")
    mutator = Mutator("joining", (world, world_of("plain")))
    rng, c = mutator.rng, world.consortium
    fed = accepted = 0
    while fed < budget("joining"):
        kind = rng.choice((JoinReply, GraphNonce, Advertisement))
        data = mutator.mutated(rng.choice(world.messages[kind]))
        message = attempt(lambda kind=kind, data=data: wire.decode(kind, data))
        fed += 1
        if isinstance(message, FgcifError):
            continue
        if kind is Advertisement:
            if attempt(partial(c.epoch.check_advertisement, message)) is None:
                assert message in world.messages[Advertisement]
                accepted += 1
            continue
        joins = list(c.joins)
        if kind is JoinReply:
            joins[rng.randrange(len(joins))] = message
            good, wrong = valid_joins(c.manifest, joins)
            assert set(good) <= set(c.joins)
            assert len(good) + len(wrong) == len(joins)
        nonces = [one for one in world.messages[GraphNonce] if one.name != message.name]
        nonces.append(message if kind is GraphNonce else world.messages[GraphNonce][0])
        epoch = attempt(partial(fix_epoch, c.manifest, joins, nonces))
        if not isinstance(epoch, FgcifError):
            accepted += 1
            assert epoch == c.epoch or len(joins) != len(c.joins) or set(joins) == set(c.joins)
    enough("joining", accepted, fed)


def test_odd_records_are_read_as_a_message_or_refused():
    world = world_of("consistency")
    mutator = Mutator("records", (world, world_of("k-regular")))
    rng = mutator.rng
    requests = [one for kind in REQUESTS for one in world.messages[kind]] + [
        Identify("1", bytes(32))
    ]
    replies = [one for kind in _REPLIES for one in world.messages[kind]]
    replies += [Identity("e001", bytes(32), bytes(64)), Refusal(31, "no")]
    kinds = [*MESSAGE_TYPES, "query", "train", "", "query.nothing"]
    fed = accepted = 0
    while fed < budget("records"):
        asks = rng.random() < 0.6
        message = rng.choice(requests if asks else replies)
        whole = rng.random() < 0.3
        data = wire.encode(message) if whole else mutator.mutated(message)
        name = REQUEST if asks else REPLY
        records = _odd_records(mutator, name, data)
        if not asks:
            read = attempt(partial(reply_from_records, records))
        else:
            kind = rng.choice(kinds)
            if rng.random() < 0.8:
                sent = Release(message) if isinstance(message, ReleaseRequest) else message
                kind = message_type(sent)
            read = attempt(partial(request_from_records, kind, records))
            if isinstance(read, Release):
                attempt(partial(input_hash, read.arrays))
        fed += 1
        if not isinstance(read, FgcifError):
            accepted += 1
            said = read.request if isinstance(read, Release) else read
            assert wire.encode(said) == records[name]["message"]
    enough("records", accepted, fed)


def _odd_records(mutator: Mutator, name: str, data: bytes) -> RecordDict:
    rng = mutator.rng
    records: dict[str, Any] = {name: ConfigRecord({"message": data})}
    if rng.random() < 0.7:
        records[INPUT] = ArrayRecord({"model": _odd_array(mutator)})
    choice = rng.randrange(12)
    if choice == 0:
        records[name] = MetricRecord({"message": 1})
    elif choice == 1:
        records[name] = ArrayRecord({"message": Array(np.zeros(1))})
    elif choice == 2:
        records[name] = ConfigRecord({"message": rng.choice((1, 1.5, True, "text", [1], [b"x"]))})
    elif choice == 3:
        records[name] = ConfigRecord({"other": data})
    elif choice == 4:
        del records[name]
    elif choice == 5:
        records[INPUT] = rng.choice((ConfigRecord({"model": b"x"}), MetricRecord({"model": 1})))
    return RecordDict(records)


_HEADERS = (
    "{'descr':'<f4','fortran_order':False,'shape':(1125899906842624,)}",
    "{'descr':'<f4','fortran_order':False,'shape':(-1,)}",
    "{'descr':'<f4','fortran_order':False,'shape':(99999999999999999999999,)}",
    "{'descr':'S0','fortran_order':False,'shape':(9223372036854775807,)}",
    "{'descr':'|O','fortran_order':False,'shape':(1,)}",
    "{'descr':'<M8[foo]','fortran_order':False,'shape':()}",
    "{1:2,'a':3}",
    "[",
    "(" * 300 + ")" * 300,
    "-" * 5000 + "1",
)


def _odd_array(mutator: Mutator) -> Array:
    """An array whose bytes are NumPy's, or were; among them headers that ask for too much."""
    rng = mutator.rng
    choice = rng.randrange(6)
    stype = rng.choice(("numpy.ndarray",) * 9 + ("",))
    if choice == 0:
        header = rng.choice(_HEADERS).encode() + b"\n"
        length = len(header).to_bytes(4, "little")
        return Array("float32", (3,), stype, b"\x93NUMPY\x02\x00" + length + header)
    octets = io.BytesIO()
    if choice == 1:
        (np.savez if rng.random() < 0.5 else np.savez_compressed)(octets, np.zeros(3))
    else:
        np.save(octets, np.zeros((3,), rng.choice((np.float32, np.int8, np.bool_))))
    data = octets.getvalue()
    return Array("float32", (3,), stype, data if choice == 2 else mutator.bent(data))
