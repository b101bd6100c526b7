"""Slots told otherwise, mixed, cut short or tried again: no key ever serves a second vector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fgcif_flwr.errors import (
    AuthenticationError,
    CohortError,
    PhaseError,
    SecureSumError,
    SlotSpentError,
)
from fgcif_flwr.secagg import AdvertiseRequest, Field, VectorLayout, keys
from fgcif_flwr.secagg.epoch import OPENED_BYTES, ROUND_KEY, SEALED_BYTES, SELF_MASK
from tests.lying_coordinator import (
    LAYOUT,
    NotOpenedError,
    adversary,
    exactly,
    release_all,
    vectors,
)
from tests.secure_sum_rig import INPUT_HASH, Consortium, sum_of_encodings

OTHER_INPUT = b"\x01" * 32


# Other inputs, other cohorts, other keys.


@pytest.mark.parametrize("bound", [True, False])
def test_a_crafted_model_sent_to_all_but_the_victim_opens_no_sum(bound):
    # Under the crafted model the others' updates are what the coordinator knows beforehand; the
    # sum less those is the victim's. Without the input bound into the masks, it is.
    consortium = Consortium(6)
    attacker, encoded = adversary(consortium), vectors(consortium)
    known = dict.fromkeys(attacker.honest, np.arange(LAYOUT.size)) | {"e000": encoded["e000"]}
    slot = attacker.slot_for(attacker.epoch.holders)
    for name in attacker.honest:
        crafted = bound and name != "e000"
        attacker.ask_release(name, slot, known[name], OTHER_INPUT if crafted else INPUT_HASH)
    for name in attacker.honest:
        attacker.ask_unmask(name, ())
    if not bound:
        others = sum_of_encodings([known[name] for name in attacker.honest[1:]])
        assert exactly(attacker.open(attacker.honest) - others, encoded, ("e000",))
        return
    for names in (attacker.honest, ["e000"], attacker.honest[1:]):
        with pytest.raises(NotOpenedError):
            attacker.open(names)


def test_another_task_cohort_or_layout_told_to_the_victim_opens_nothing_of_it():
    consortium = Consortium(8, dropouts=2)
    for what in ("task", "cohort", "layout"):
        attacker, encoded = adversary(consortium), vectors(consortium)
        holders = attacker.epoch.holders
        slot = attacker.slot_for(holders)
        own = {
            "task": lambda a=attacker: a.slot_for(a.epoch.holders, task="other"),
            "cohort": lambda a=attacker: a.slot_for(a.epoch.holders[:-2]),
            "layout": lambda a=attacker: replace(
                a, layout=VectorLayout((Field("other", 24, 4.0),), 16), told=a.told
            ).slot_for(a.epoch.holders),
        }[what]()
        for name in attacker.honest:
            attacker.ask_release(name, own if name == "e000" else slot, encoded[name])
        for name in attacker.honest:
            attacker.ask_unmask(name, ())
        for names in (["e000"], attacker.honest):
            with pytest.raises(NotOpenedError):
                attacker.open(names)


def test_a_cohort_shrunk_below_the_least_or_without_the_receiver_is_refused():
    consortium = Consortium(8, dropouts=2)
    least = consortium.epoch.parameters.smallest_cohort
    for cohort, word in (
        (sorted(consortium.participants)[: least - 1], "below the least"),
        (sorted(consortium.participants)[1:], "leaves out e000"),
    ):
        attacker = adversary(consortium)
        full = attacker.slot_for(attacker.epoch.holders).release_request("e000")
        shrunk = replace(
            full,
            cohort=tuple(cohort),
            members=tuple(one for one in full.members if one.name in cohort),
        )
        with pytest.raises(CohortError, match=word):
            consortium.participants["e000"].open_release(shrunk, INPUT_HASH)


def test_a_neighbour_withheld_from_the_members_shown_is_refused():
    attacker = adversary(Consortium(6))
    request = attacker.slot_for(attacker.epoch.holders).release_request("e000")
    with pytest.raises(CohortError, match="not its neighbours"):
        attacker.consortium.participants["e000"].open_release(
            replace(request, members=request.members[:-1]), INPUT_HASH
        )


def test_advertisements_of_an_earlier_slot_or_epoch_are_refused():
    consortium = Consortium(6)
    early = adversary(consortium).slot_for(consortium.epoch.holders).release_request("e000")
    attacker = adversary(consortium)
    now = attacker.slot_for(attacker.epoch.holders).release_request("e000")
    replayed = (now.members[0], early.members[1], *now.members[2:])
    party = consortium.participants["e000"]
    with pytest.raises(AuthenticationError, match="e001"):
        party.open_release(replace(now, members=replayed), INPUT_HASH)

    elsewhere = Consortium(6, dropouts=0, threshold=6)  # the same names and keys, another manifest
    other = adversary(elsewhere).slot_for(elsewhere.epoch.holders).release_request("e000")
    attacker = adversary(consortium)
    now = attacker.slot_for(attacker.epoch.holders).release_request("e000")
    replayed = (now.members[0], other.members[1], *now.members[2:])
    with pytest.raises(AuthenticationError, match="e001"):
        party.open_release(replace(now, members=replayed), INPUT_HASH)


def test_where_advertisements_are_withheld_the_slot_is_not_open():
    consortium = Consortium(6)
    attacker = adversary(consortium)
    request = attacker.slot_for(attacker.epoch.holders).release_request("e000")
    party = consortium.participants["e000"]
    with pytest.raises(PhaseError, match="not advertised"):
        party.open_release(replace(request, slot=request.slot + 1), INPUT_HASH)
    party.advertise(AdvertiseRequest(request.slot + 1))  # gives the earlier slot up
    with pytest.raises(SlotSpentError, match="given up"):
        party.open_release(request, INPUT_HASH)


def test_a_round_key_beside_the_shares_of_another_gets_no_share_and_no_mask():
    consortium = Consortium(6)
    attacker = adversary(consortium)
    request = attacker.slot_for(attacker.epoch.holders).release_request("e000")
    key, shares = request.members[1], request.members[2]
    mixed = replace(key, sealed=shares.sealed, commitments=shares.commitments)
    party = consortium.participants["e000"]
    party.open_release(
        replace(request, members=(request.members[0], mixed, *request.members[2:])), INPUT_HASH
    )
    assert party.opened.complaints == ("e001",)
    assert party.opened.held[2 * OPENED_BYTES :][: 2 * OPENED_BYTES] == bytes(2 * OPENED_BYTES)

    attacker = adversary(consortium)
    request = attacker.slot_for(attacker.epoch.holders).release_request("e000")
    mine = replace(request.members[1], round_public=keys.agreement_from_seed(bytes(32)).public)
    with pytest.raises(AuthenticationError, match="e001"):
        party.open_release(
            replace(request, members=(request.members[0], mine, *request.members[2:])), INPUT_HASH
        )


def test_shares_that_the_coordinator_spoils_on_the_way_only_leave_it_with_fewer():
    consortium = Consortium(6)
    attacker, encoded = adversary(consortium), vectors(consortium)
    slot = attacker.slot_for(attacker.epoch.holders)
    for name in attacker.honest:
        request = slot.release_request(name)
        spoilt = tuple(
            one if one.name == name else replace(one, sealed=bytes(SEALED_BYTES))
            for one in request.members
        )
        party = consortium.participants[name]
        party.open_release(replace(request, members=spoilt), INPUT_HASH)
        assert len(party.mask(encoded[name], LAYOUT).complaints) == 5
    for name in attacker.honest:
        assert len(attacker.shares[name, SELF_MASK]) == len(attacker.shares[name, ROUND_KEY]) == 1


# A slot tried again.


@pytest.mark.parametrize("what", ["cohort", "task", "input", "members"])
def test_a_slot_is_never_tried_again_with_the_same_keys(what):
    consortium = Consortium(8, dropouts=2)
    attacker, encoded = adversary(consortium), vectors(consortium)
    party, slot = consortium.participants["e000"], attacker.slot_for(attacker.epoch.holders)
    request = slot.release_request("e000")
    party.open_release(request, INPUT_HASH)
    said = party.mask(encoded["e000"], LAYOUT)
    other = {
        "cohort": attacker.slot_for(attacker.epoch.holders[:-1]).release_request("e000"),
        "task": replace(request, task="other"),
        "input": request,
        "members": replace(
            request, members=(*request.members[:-1], replace(request.members[-1], rest=bytes(32)))
        ),
    }[what]
    hashed = OTHER_INPUT if what == "input" else INPUT_HASH
    assert party.released_before(request, INPUT_HASH) == said
    with pytest.raises(SlotSpentError):
        party.released_before(other, hashed)
    for again in (other, request):
        with pytest.raises(SlotSpentError):
            party.open_release(again, hashed)
    with pytest.raises(PhaseError):
        party.mask(encoded["e001"], LAYOUT)


def test_a_release_refused_or_left_undone_gives_its_keys_to_no_other():
    consortium = Consortium(6)
    attacker, encoded = adversary(consortium), vectors(consortium)
    party, slot = consortium.participants["e000"], attacker.slot_for(attacker.epoch.holders)
    good = slot.release_request("e000")
    with pytest.raises(CohortError):
        party.open_release(replace(good, cohort=good.cohort[1:]), INPUT_HASH)
    with pytest.raises(SlotSpentError):
        party.open_release(good, INPUT_HASH)
    with pytest.raises(PhaseError):
        party.mask(encoded["e000"], LAYOUT)

    attacker = adversary(consortium)
    good = attacker.slot_for(attacker.epoch.holders).release_request("e000")
    party.open_release(good, INPUT_HASH)
    with pytest.raises(SecureSumError, match="does not fit its layout"):
        party.mask(np.full(LAYOUT.size, 1 << 40), LAYOUT)
    with pytest.raises(PhaseError):
        party.mask(encoded["e000"], LAYOUT)


def test_the_lists_of_an_earlier_slot_are_not_answered_with_the_shares_of_a_later_one():
    consortium = Consortium(6)
    first, encoded = adversary(consortium), vectors(consortium)
    release_all(first, encoded)
    second = adversary(consortium)
    release_all(second, encoded)
    with pytest.raises(PhaseError, match="no vector for slot 1"):
        first.ask_unmask("e000", ())
    second.ask_unmask("e000", ())
