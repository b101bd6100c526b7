"""Cohorts told otherwise on a k-regular graph: tags show each neighbour what a vector is for.

In the complete graph the threshold keeps a coordinator from having one enterprise's self mask
opened by others that are in no cohort of its. On a k-regular graph the tags do: without their
check the same attack succeeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fgcif_flwr.errors import MisbehaviourError, SecureSumError
from fgcif_flwr.secagg import SlotUnmasking, UnmaskReply, UnmaskRequest
from fgcif_flwr.secagg.epoch import OPENED_BYTES
from fgcif_flwr.secagg.keys import TAG_BYTES
from fgcif_flwr.secagg.participant import unmasking
from tests.lying_coordinator import LAYOUT, LyingCoordinator, NotOpenedError, exactly, vectors
from tests.secure_sum_rig import INPUT_HASH, Consortium, as_integers, sum_of_encodings

LIAR = "e007"


# One vector of 180, with the consistency exchange and no colluder at all.


@pytest.fixture(scope="module")
def many() -> Consortium:
    return Consortium(180, dropouts=21, colluders=1)


def bared(consortium: Consortium) -> tuple[LyingCoordinator, dict[str, np.ndarray], str]:
    """A victim is told a cohort without as many of its neighbours as may be lost; the others are
    told of all, and then that the rest of its neighbours were lost. All sign that one list, and
    each list is legal: so the round keys of the rest open, and the victim's self mask if those
    whom it does not know of give their shares."""
    epoch, encoded = consortium.epoch, vectors(consortium)
    victim, lost = epoch.holders[0], epoch.parameters.tolerated_dropouts
    near = [name for name in epoch.receivers(victim) if name != victim]
    unseen, dropped = near[:lost], near[lost:]
    assert 0 < len(dropped) <= lost
    attacker = LyingCoordinator(consortium, [], LAYOUT)
    attacker.advertise()
    full = attacker.slot_for(epoch.holders)
    own = attacker.slot_for([name for name in epoch.holders if name not in unseen])
    for name in epoch.holders:
        attacker.ask_release(name, own if name == victim else full, encoded[name])
    signers = [name for name in epoch.holders if name not in (victim, *dropped)]
    consents = [attacker.ask_consent(name, dropped) for name in signers]
    for name in signers:
        attacker.ask_unmask(name, dropped, consents[: epoch.parameters.consents])
    return attacker, encoded, victim


def test_a_victim_that_is_told_of_few_neighbours_is_not_opened_by_those_it_is_not_told_of(many):
    attacker, _, victim = bared(many)
    for name in near(many, victim):
        with pytest.raises(NotOpenedError):
            attacker.open([name])
    with pytest.raises(NotOpenedError, match=f"self mask of {victim}: no share"):
        attacker.open([victim])


def test_without_the_check_of_tags_the_same_cohorts_open_its_vector(many, monkeypatch):
    monkeypatch.setattr(unmasking, "_unproven", lambda *_: set())
    attacker, encoded, victim = bared(many)
    assert exactly(attacker.open([victim]), encoded, (victim,))


# What a tag holds for: a sender, a receiver, a slot and all that its masks are bound to.


def few(**changed: int) -> Consortium:
    """Twelve enterprises, 8 neighbours each; 7 of 9 shares open a secret, 1 may collude."""
    return Consortium(12, neighbours=8, **changed)


def asked(attacker: LyingCoordinator, name: str) -> UnmaskRequest:
    """The unmask request to one enterprise, after all consented to a list of nobody lost."""
    holders = attacker.epoch.holders
    consents = tuple(attacker.ask_consent(one, ()) for one in holders)
    slot = attacker.told[name].slot.slot
    tags = attacker.tags_for(name, holders)
    return UnmaskRequest(attacker.epoch.run_id, slot, holders, (), consents, tags)


def told_alike(consortium: Consortium) -> LyingCoordinator:
    attacker, encoded = LyingCoordinator(consortium, [], LAYOUT), vectors(consortium)
    attacker.advertise()
    slot = attacker.slot_for(attacker.epoch.holders)
    for name in attacker.epoch.holders:
        attacker.ask_release(name, slot, encoded[name])
    return attacker


def near(consortium: Consortium, name: str) -> list[str]:
    return [one for one in consortium.epoch.receivers(name) if one != name]


def share_of(consortium: Consortium, reply: UnmaskReply, dealer: str) -> bytes:
    at = consortium.epoch.receivers(reply.sender).index(dealer)
    return reply.shares[OPENED_BYTES * at :][:OPENED_BYTES]


def held_against(
    consortium: Consortium, who: str, request: UnmaskRequest, withheld: list[str]
) -> None:
    """One answers with the shares of all but these, whose places are zeros."""
    reply = consortium.participants[who].unmask(request)
    assert reply.withheld == tuple(withheld)
    for dealer in consortium.epoch.receivers(who):
        nothing = share_of(consortium, reply, dealer) == bytes(OPENED_BYTES)
        assert nothing == (dealer in withheld)


def put(tags: bytes, index: int, tag: bytes) -> bytes:
    return tags[: TAG_BYTES * index] + tag + tags[TAG_BYTES * (index + 1) :]


def at(tags: bytes, index: int) -> bytes:
    return tags[TAG_BYTES * index :][:TAG_BYTES]


def test_tags_of_all_neighbours_for_the_same_cohort_open_all_shares():
    consortium = few()
    held_against(consortium, "e000", asked(told_alike(consortium), "e000"), [])


FORGED: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda tag: bytes(TAG_BYTES),
    "random": lambda tag: os.urandom(TAG_BYTES),
    "a bit": lambda tag: bytes([tag[0] ^ 1]) + tag[1:],
    "the last bit": lambda tag: tag[:-1] + bytes([tag[-1] ^ 0x80]),
}


@pytest.mark.parametrize("how", sorted(FORGED))
def test_a_forged_tag_gets_no_share_of_its_sender_and_those_of_all_others(how):
    consortium = few()
    request = asked(told_alike(consortium), "e000")
    forged = put(request.tags, 2, FORGED[how](at(request.tags, 2)))
    sender = near(consortium, "e000")[2]
    held_against(consortium, "e000", replace(request, tags=forged), [sender])


def test_a_tag_of_an_earlier_slot_gets_no_share():
    consortium = few()
    early = asked(told_alike(consortium), "e000").tags
    request = asked(told_alike(consortium), "e000")
    replayed = put(request.tags, 3, at(early, 3))
    sender = near(consortium, "e000")[3]
    held_against(consortium, "e000", replace(request, tags=replayed), [sender])


def test_the_tags_of_two_senders_are_not_each_others():
    consortium = few()
    request = asked(told_alike(consortium), "e000")
    tags = request.tags
    swapped = put(put(tags, 0, at(tags, 1)), 1, at(tags, 0))
    senders = near(consortium, "e000")[:2]
    held_against(consortium, "e000", replace(request, tags=swapped), senders)


def test_a_tag_for_another_receiver_or_of_the_receivers_own_gets_no_share():
    consortium = few()
    attacker = told_alike(consortium)
    request = asked(attacker, "e000")
    sender, other = near(consortium, "e000")[:2]
    if other not in consortium.epoch.receivers(sender):
        other = near(consortium, sender)[-1]
    elsewhere = attacker._tag(sender, other)
    mirrored = attacker._tag("e000", sender)  # what the receiver itself sent to that neighbour
    for index, tag in ((0, elsewhere), (0, mirrored)):
        again = few()  # each answers once a slot: the very same consortium anew
        assert asked(told_alike(again), "e000") == request
        held_against(again, "e000", replace(request, tags=put(request.tags, index, tag)), [sender])


@pytest.mark.parametrize("tags", ["none", "one missing", "half a tag missing"])
def test_whom_no_tag_is_shown_for_gets_no_share(tags):
    consortium = few()
    request = asked(told_alike(consortium), "e000")
    shown = {
        "none": b"",
        "one missing": request.tags[:-TAG_BYTES],
        "half a tag missing": request.tags[: -TAG_BYTES // 2],
    }[tags]
    senders = near(consortium, "e000")
    without = senders if tags == "none" else senders[-1:]
    held_against(consortium, "e000", replace(request, tags=shown), without)


def told_otherwise(what: str) -> tuple[Consortium, str]:
    """A slot in which one neighbour of e000 masks for something else than all others."""
    consortium = few()
    attacker, encoded = LyingCoordinator(consortium, [], LAYOUT), vectors(consortium)
    attacker.advertise()
    holders = attacker.epoch.holders
    sender = near(consortium, "e000")[0]
    spared = next(one for one in reversed(holders) if one not in ("e000", sender))
    slot = attacker.slot_for(holders)
    own = {
        "cohort": lambda: attacker.slot_for([one for one in holders if one != spared]),
        "task": lambda: attacker.slot_for(holders, task="other"),
        "input": lambda: slot,
    }[what]()
    for name in holders:
        differs = name == sender
        hashed = b"\x01" * 32 if differs and what == "input" else INPUT_HASH
        attacker.ask_release(name, own if differs else slot, encoded[name], hashed)
    consents = tuple(attacker.ask_consent(one, ()) for one in holders if one != sender)
    tags = attacker.tags_for("e000", holders)
    request = UnmaskRequest(attacker.epoch.run_id, 1, holders, (), consents, tags)
    held_against(consortium, "e000", request, [sender])
    return consortium, sender


@pytest.mark.parametrize("what", ["cohort", "task", "input"])
def test_a_neighbour_that_masked_for_another_cohort_task_or_input_gets_no_share(what):
    told_otherwise(what)


def test_in_a_complete_graph_there_are_no_tags_and_nothing_is_withheld():
    consortium = Consortium(6)
    slot, encoded = consortium.open_slot(LAYOUT), vectors(consortium)
    assert consortium.masked(slot, "e000", encoded["e000"]).tags == b""
    slot = consortium.open_slot(LAYOUT)
    consortium.release(slot, encoded)
    closed = slot.close()
    assert closed.request("e000").tags == b""
    shown = replace(closed.request("e000"), tags=bytes(TAG_BYTES))
    assert consortium.participants["e000"].unmask(shown).withheld == ()


# Enterprises that lie with tags, to an honest coordinator.


def with_wrong_tags(consortium: Consortium, receivers: int) -> SlotUnmasking:
    """A closed slot in which the liar's tags for so many of its neighbours are wrong."""
    slot, encoded = consortium.open_slot(LAYOUT), vectors(consortium)
    for name in slot.cohort:
        released = consortium.masked(slot, name, encoded[name])
        if name == LIAR:
            tags = os.urandom(TAG_BYTES * receivers) + released.tags[TAG_BYTES * receivers :]
            released = replace(released, tags=tags)
        slot.receive(released)
    closed = slot.close()
    consortium.answered(closed)
    return closed


@pytest.mark.parametrize("receivers", [1, 2])
def test_wrong_tags_to_as_many_as_can_be_spared_are_disputed_and_cost_nobody_the_sum(receivers):
    consortium = few()
    closed = with_wrong_tags(consortium, receivers)
    disputing = near(consortium, LIAR)[:receivers]
    assert closed.complaints == {LIAR: frozenset(disputing)}
    total = closed.finish()
    expected = sum_of_encodings(list(vectors(consortium).values()))
    assert np.array_equal(as_integers(total, LAYOUT), expected)
    # One of them may lie itself; two are more than may be in league.
    assert list(total.blamed) == ([LIAR] if receivers > 1 else [])


@pytest.mark.parametrize("receivers", [3, 8])
def test_wrong_tags_to_many_fail_the_slot_and_are_disputed_by_more_than_may_collude(receivers):
    consortium = few()
    closed = with_wrong_tags(consortium, receivers)
    disputing = closed.complaints[LIAR]
    assert disputing == frozenset(near(consortium, LIAR)[:receivers])
    assert len(disputing) > consortium.epoch.parameters.tolerated_colluders
    with pytest.raises(MisbehaviourError, match=f"{receivers} enterprises say") as caught:
        closed.finish()
    assert caught.value.names == (LIAR,)


@pytest.mark.parametrize("change", [lambda tags: tags[:-1], lambda tags: b"", lambda t: t + t])
def test_a_vector_that_is_not_tagged_for_every_neighbour_is_not_added(change):
    consortium = few()
    slot, encoded = consortium.open_slot(LAYOUT), vectors(consortium)
    released = consortium.masked(slot, LIAR, encoded[LIAR])
    with pytest.raises(SecureSumError, match=f"{LIAR} did not tag its vector"):
        slot.receive(replace(released, tags=change(released.tags)))
    assert LIAR not in slot.arrived
    slot.receive(released)
    assert LIAR in slot.arrived


def answered_withholding(
    consortium: Consortium, names: tuple[str, ...], zeros: bool
) -> SlotUnmasking:
    """A closed slot in which the liar says of these that their tags do not hold."""
    slot = consortium.open_slot(LAYOUT)
    consortium.release(slot, vectors(consortium))
    closed = slot.close()
    for name in closed.survivors:
        closed.consent(consortium.participants[name].consent(closed.consent_request()))
    for name in closed.survivors:
        reply = consortium.participants[name].unmask(closed.request(name))
        assert reply.withheld == ()
        if name == LIAR:
            shares = bytes(len(reply.shares)) if zeros else reply.shares
            reply = replace(reply, withheld=names, shares=shares)
        closed.answer(reply)
    return closed


@pytest.mark.parametrize("zeros", [True, False])
def test_a_holder_that_withholds_without_reason_costs_nobody_anything_and_blames_nobody(zeros):
    consortium = few()
    near_it = near(consortium, LIAR)
    closed = answered_withholding(consortium, tuple(near_it), zeros)
    assert closed.complaints == {name: frozenset([LIAR]) for name in near_it}
    total = closed.finish()
    expected = sum_of_encodings(list(vectors(consortium).values()))
    assert np.array_equal(as_integers(total, LAYOUT), expected)
    assert not set(total.blamed) - {LIAR}


def test_what_is_withheld_of_oneself_of_strangers_and_of_no_neighbours_counts_for_nothing():
    consortium = few()
    others = [n for n in consortium.epoch.holders if n not in consortium.epoch.receivers(LIAR)]
    closed = answered_withholding(consortium, (LIAR, "nobody", *others), False)
    assert closed.complaints == {}
    assert closed.finish().blamed == {}
