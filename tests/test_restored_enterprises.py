"""Enterprises set back to an older state, and what is left in memory of what is over."""

from __future__ import annotations

import copy
import gc
import os
from dataclasses import replace
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fgcif_flwr.errors import CohortError, NotJoinedError, SlotSpentError
from fgcif_flwr.secagg import (
    AdvertiseRequest,
    ConsentRequest,
    Field,
    MemoryJournal,
    Participant,
    SqliteJournal,
    UnmaskRequest,
    VectorLayout,
)
from fgcif_flwr.secagg.epoch import OPENED_BYTES
from fgcif_flwr.secagg.shamir import SHARE_BYTES
from tests.lying_coordinator import LyingCoordinator, NotOpenedError
from tests.secure_sum_rig import INPUT_HASH, Consortium, sum_of_encodings

LAYOUT = VectorLayout((Field("update", 24, 4.0),), 16)


def vectors(parties: Consortium) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {name: rng.integers(-9000, 9000, LAYOUT.size) for name in parties.participants}


def after_setting_back(count: int) -> tuple[LyingCoordinator, dict[str, np.ndarray]]:
    """Seven enterprises, threshold 5, all answered; so many of them twice, before and after they
    were set back, journal and all. The coordinator wants both secrets of e000."""
    parties = Consortium(7, threshold=5, dropouts=2, colluders=1)
    attacker, encoded = LyingCoordinator(parties, [], LAYOUT), vectors(parties)
    attacker.advertise()
    slot = attacker.slot_for(attacker.epoch.holders)
    for name in attacker.honest:
        attacker.ask_release(name, slot, encoded[name])
    attacker.ask_unmask("e000", ())
    for index, name in enumerate(attacker.honest[1:]):
        before = copy.deepcopy(parties.participants[name])
        attacker.ask_unmask(name, ("e000",) if index < 5 else ())
        if index < count:
            parties.participants[name] = before
            attacker.ask_unmask(name, ())
    return attacker, encoded


@pytest.mark.parametrize("count", [1, 2])
def test_a_few_enterprises_set_back_whole_count_as_colluders_and_open_no_single_vector(count):
    attacker, _ = after_setting_back(count)
    with pytest.raises(NotOpenedError, match=f"self mask of e000: {2 + count} shares"):
        attacker.open(["e000"])


def test_more_of_them_than_the_threshold_allows_colluders_would_open_one():
    attacker, encoded = after_setting_back(3)
    assert np.array_equal(attacker.open(["e000"]), encoded["e000"])


def test_a_victim_set_back_whole_never_masks_two_requests_alike():
    # Masks are bound to task, cohort and input: of what it sends for different requests, nothing
    # cancels. The same request does mask alike: so an enterprise's memory is never written down
    # with its keys, and what is written down has spent the slot.
    parties = Consortium(6)
    attacker, encoded = LyingCoordinator(parties, [], LAYOUT), vectors(parties)
    attacker.advertise()
    form = attacker.slot_for(attacker.epoch.holders).form
    size = LAYOUT.size + 2

    def words(task: str, cohort: tuple[str, ...], vector: np.ndarray) -> np.ndarray:
        party = copy.deepcopy(parties.participants["e000"])
        request = attacker.slot_for(cohort, task).release_request("e000")
        party.open_release(request, INPUT_HASH)
        return form.unpack(party.mask(vector, LAYOUT).words, size)

    holders = attacker.epoch.holders
    first = words("test", holders, encoded["e000"])
    for task, cohort in (("other", holders), ("test", holders[:-1])):
        difference = form.signed(first - words(task, cohort, encoded["e001"]))[:-2]
        assert not np.any(difference == encoded["e000"] - encoded["e001"])
    difference = form.signed(first - words("test", holders, encoded["e001"]))[:-2]
    assert np.array_equal(difference, encoded["e000"] - encoded["e001"])


def test_memory_set_back_beside_a_journal_that_was_not_gives_nothing_twice(tmp_path: Path):
    parties = Consortium(6, consistency=True)
    encoded = vectors(parties)
    with SqliteJournal(tmp_path / "journal") as journal:
        party = parties.participants["e000"]
        party.journal = journal

        def back(state: dict[str, object]) -> Participant:
            restored = Participant("e000", party.identity, journal=journal)
            restored.__dict__.update(state)
            return restored

        slot = parties.open_slot(LAYOUT)
        advertised = dict(party.__dict__)
        request = slot.release_request("e000")
        parties.release(slot, encoded)
        masked = dict(party.__dict__)
        again = back(advertised)
        for hashed in (INPUT_HASH, b"\x01" * 32):
            with pytest.raises(SlotSpentError):
                again.open_release(request, hashed)
        closed = slot.close()
        parties.answered(closed)
        dropped = ("e001",)
        alive = tuple(name for name in slot.cohort if name not in dropped)
        again = back(masked)
        with pytest.raises(SlotSpentError):
            again.consent(ConsentRequest(parties.epoch.run_id, 1, alive, dropped))
        with pytest.raises(SlotSpentError):
            again.unmask(UnmaskRequest(parties.epoch.run_id, 1, alive, dropped))


def test_an_enterprise_with_only_an_older_journal_has_no_keys_and_joins_under_a_new_run_id():
    parties = Consortium(6)
    slot = parties.open_slot(LAYOUT)
    old = parties.participants["e000"]
    older = MemoryJournal.from_bytes(old.journal.to_bytes())
    request = slot.release_request("e000")
    parties.release(slot, vectors(parties))
    unmask = slot.close().request("e000")
    restored = Participant("e000", old.identity, journal=older)
    for ask in (
        lambda: restored.open_release(request, INPUT_HASH),
        lambda: restored.unmask(unmask),
        lambda: restored.advertise(AdvertiseRequest(2)),
    ):
        with pytest.raises(NotJoinedError):
            ask()
    joined = restored.join(parties.manifest)
    mine = next(one for one in parties.joins if one.name == "e000")
    assert joined.nonce != mine.nonce
    assert joined.channel_public != mine.channel_public
    restored.begin([joined if one.name == "e000" else one for one in parties.joins])
    assert restored.run_id != parties.epoch.run_id
    with pytest.raises(NotJoinedError):
        restored.open_release(request, INPUT_HASH)


# What is left in memory.


def reachable(root: object) -> tuple[set[bytes], list[object]]:
    """All bytes, and all objects, that can be reached from an object's state."""
    seen: dict[int, object] = {}
    todo = [root]
    while todo:
        one = todo.pop()
        shut = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
        if id(one) in seen or isinstance(one, shut):
            continue
        seen[id(one)] = one
        todo += gc.get_referents(one)
        todo += list(getattr(one, "__dict__", {}).values())
        todo += [getattr(one, slot, None) for slot in getattr(type(one), "__slots__", ())]
        if isinstance(one, np.ndarray):
            todo += [one.base, one.tobytes()]
        elif isinstance(one, bytearray | memoryview):
            todo.append(bytes(one))
    texts = {one for one in seen.values() if isinstance(one, bytes)}
    return texts, list(seen.values())


def holds(root: object, secret: bytes) -> bool:
    return any(secret in text for text in reachable(root)[0])


def test_the_walk_through_memory_finds_what_is_there():
    parties = Consortium(5)
    party = parties.participants["e000"]
    parties.advertise()
    assert holds(party, party.advertised.round_key.private)
    assert holds(party, party.advertised.seed)
    assert holds(party, party.identity.private)


@pytest.mark.parametrize("consistency", [False, True])
@pytest.mark.parametrize("lost", [[], ["e004"]])
def test_after_the_answer_no_secret_of_the_slot_is_left_in_an_enterprise(consistency, lost):
    parties = Consortium(6, consistency=consistency)
    for party in parties.participants.values():
        party._entropy = os.urandom  # the tests' own source is not the enterprise's state
    slot = parties.open_slot(LAYOUT)
    party = parties.participants["e000"]
    private, seed = party.advertised.round_key.private, party.advertised.seed
    encoded = vectors(parties)
    parties.release(slot, encoded, lost=lost)
    held = party.masked.held
    assert not holds(party, private)
    assert not holds(party, seed)
    parties.unmask(slot)
    texts, objects = reachable(party)
    assert not any(isinstance(one, X25519PrivateKey) for one in objects)
    assert not any(private in text or seed in text for text in texts)
    assert not any(encoded["e000"].tobytes() in text for text in texts)
    shares = [held[i : i + SHARE_BYTES] for i in range(0, len(held), OPENED_BYTES)]
    left = {share for share in shares if any(share in text for text in texts)}
    # Only those that it told are left, in the journal's copy of its answer.
    told = set()
    for index, dealer in enumerate(slot.cohort):
        told.add(shares[2 * index + (0 if dealer in lost else 1)])
    assert left == told
    party.journal.forget(party.run_id)
    texts, _ = reachable(party)
    assert not any(share in text for share in shares for text in texts)


def test_a_refused_or_abandoned_slot_leaves_no_secret_either():
    parties = Consortium(6)
    for party in parties.participants.values():
        party._entropy = os.urandom
    slot = parties.open_slot(LAYOUT)
    party = parties.participants["e000"]
    first = party.advertised
    secrets = (first.round_key.private, first.seed, first.own[:SHARE_BYTES])
    del first
    request = slot.release_request("e000")
    with pytest.raises(CohortError):
        party.open_release(replace(request, cohort=request.cohort[1:]), INPUT_HASH)
    assert not any(holds(party, secret) for secret in secrets)
    slot = parties.open_slot(LAYOUT)
    second = (party.advertised.round_key.private, party.advertised.seed)
    parties.release(slot, vectors(parties))
    held = party.masked.held[:SHARE_BYTES]
    slot = parties.open_slot(LAYOUT)  # the sum of the second was never opened
    parties.release(slot, vectors(parties))
    assert not any(holds(party, secret) for secret in (*second, held))


def test_once_the_epoch_began_the_private_channel_key_and_the_graph_nonce_are_forgotten():
    parties = Consortium(5)
    party = Participant("e000", parties.identities["e000"])
    said = party.join(parties.manifest)
    private, nonce = party.joining.channel_private, party.joining.graph_nonce
    assert holds(party, private)
    party.begin([said if one.name == "e000" else one for one in parties.joins])
    assert not holds(party, private)
    assert not holds(party, nonce)
    channels = [channel.seal_to for channel in party.joined.channels]
    party.join(replace(parties.manifest, epoch=2))
    assert not any(holds(party, key) for key in channels)


def test_the_coordinator_keeps_the_running_total_and_no_single_vector():
    parties = Consortium(6)
    slot, encoded = parties.open_slot(LAYOUT), vectors(parties)
    sent = [parties.masked(slot, name, encoded[name]) for name in slot.cohort]
    slot.receive(sent[0])
    plain = [slot.form.unpack(one.words, LAYOUT.size + 2).tobytes() for one in sent]
    packed = [one.words for one in sent]
    for one in sent[1:]:
        slot.receive(one)
    del sent, one
    texts, _ = reachable(slot)
    assert not any(vector in text for vector in (*plain, *packed) for text in texts)
    closed = slot.close()
    texts, _ = reachable(closed)
    assert not any(vector in text for vector in (*plain, *packed) for text in texts)
    parties.answered(closed)
    opened = closed.finish()
    assert np.array_equal(
        np.rint(opened.values["update"] * ((1 << 15) - 1) / 4.0).astype(np.int64),
        sum_of_encodings(list(encoded.values())),
    )
