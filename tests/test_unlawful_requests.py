"""Cohorts, round keys, shares and lists that do not hold are refused, or cost nobody the sum."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fgcif_flwr.errors import AuthenticationError, CohortError
from fgcif_flwr.secagg import ReleaseRequest, SlotCollection, UnmaskRequest
from fgcif_flwr.secagg.epoch import OPENED_BYTES
from tests.first_slot import LAYOUT, WHO, encodings
from tests.secure_sum_rig import INPUT_HASH, Consortium, as_integers, sum_of_encodings


@pytest.mark.parametrize(
    "change",
    [
        lambda r: {"cohort": r.cohort[::-1]},
        lambda r: {"cohort": (*r.cohort, r.cohort[-1])},
        lambda r: {"cohort": (r.cohort[0], *r.cohort[2:])},
        lambda r: {"cohort": (*r.cohort, "e009")},
        lambda r: {"cohort": r.cohort[1:3], "members": r.members[1:3]},
        lambda r: {"members": r.members[:-1]},
        lambda r: {"members": r.members[::-1]},
        lambda r: {"members": ()},
    ],
    ids=["order", "twice", "itself", "stranger", "few", "one hidden", "members' order", "nobody"],
)
def test_a_cohort_that_does_not_hold_is_refused(change):
    consortium = Consortium(4)
    request = consortium.open_slot(LAYOUT).release_request(WHO)
    with pytest.raises(CohortError):
        consortium.participants[WHO].open_release(
            dataclasses.replace(request, **change(request)), INPUT_HASH
        )


@pytest.mark.parametrize("of", [0, 1], ids=["another's", "its own"])
def test_a_coordinator_in_the_middle_of_round_keys_is_refused(of):
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    good = slot.release_request(WHO)
    forged = list(good.members)
    forged[of] = dataclasses.replace(forged[of], round_public=bytes(range(32)))
    with pytest.raises(AuthenticationError, match=f"e00{of}"):
        consortium.participants[WHO].open_release(
            dataclasses.replace(good, members=tuple(forged)), INPUT_HASH
        )


def test_a_round_key_that_is_shown_for_two_members_is_refused():
    consortium = Consortium(4)
    good = consortium.open_slot(LAYOUT).release_request(WHO)
    twin = dataclasses.replace(good.members[2], name=good.members[3].name)
    with pytest.raises(AuthenticationError, match="the same round key"):
        consortium.participants[WHO].open_release(
            dataclasses.replace(good, members=(*good.members[:3], twin)), INPUT_HASH
        )


def meant_for_another(slot: SlotCollection, name: str, other: str) -> ReleaseRequest:
    """The request for one member, but with the first one's shares for another."""
    mine, theirs = slot.release_request(name), slot.release_request(other)
    return dataclasses.replace(mine, members=(theirs.members[0], *mine.members[1:]))


def test_shares_meant_for_another_receiver_are_complained_of_and_cost_nobody_the_sum():
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    encoded = encodings(consortium)
    victim = consortium.participants[WHO]
    victim.open_release(meant_for_another(slot, WHO, "e002"), INPUT_HASH)
    released = victim.mask(encoded[WHO], LAYOUT)
    assert released.complaints == ("e000",)
    slot.receive(released)
    consortium.release(slot, encoded, lost=[WHO])
    total = consortium.unmask(slot)
    assert np.array_equal(as_integers(total, LAYOUT), sum_of_encodings(list(encoded.values())))
    assert total.blamed == {}  # a single complaint proves nothing: either may lie


def test_shares_meant_for_another_receiver_are_never_opened_in_their_place():
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    victim = consortium.participants[WHO]
    victim.open_release(meant_for_another(slot, WHO, "e002"), INPUT_HASH)
    encoded = encodings(consortium)
    slot.receive(victim.mask(encoded[WHO], LAYOUT))
    consortium.release(slot, encoded, lost=[WHO])
    reply = victim.unmask(slot.close().request(WHO))
    assert reply.shares[:OPENED_BYTES] == bytes(OPENED_BYTES)  # of e000: nothing to open


def test_shares_meant_for_another_receiver_with_a_changed_round_key_are_refused():
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    request = meant_for_another(slot, WHO, "e002")
    first = dataclasses.replace(request.members[0], round_public=bytes(range(32)))
    with pytest.raises(AuthenticationError, match="e000"):
        consortium.participants[WHO].open_release(
            dataclasses.replace(request, members=(first, *request.members[1:])), INPUT_HASH
        )


@pytest.mark.parametrize(
    ("survivors", "dropped"),
    [
        (("e000", "e001", "e002", "e003", "e004"), ("e004",)),  # both at once
        (("e000", "e001", "e002", "e003"), ("e004", "e004")),
        (("e000", "e001", "e002", "e003"), ()),  # one forgotten
        (("e000", "e002", "e003", "e004"), ("e001",)),  # itself called dropped
        (("e000", "e001", "e002"), ("e003", "e004")),  # more than tolerated
        (("e000", "e001", "e002", "e003", "e004", "e009"), ()),  # a stranger
        (("e001", "e000", "e002", "e003", "e004"), ()),  # out of order
    ],
)
def test_an_illegal_list_of_dropped_reveals_nothing_and_the_legal_one_is_answered(
    survivors, dropped
):
    consortium = Consortium(5)
    slot = consortium.open_slot(LAYOUT)
    consortium.release(slot, encodings(consortium))
    party = consortium.participants[WHO]
    run_id = consortium.epoch.run_id
    with pytest.raises(CohortError):
        party.unmask(UnmaskRequest(run_id, slot.slot, survivors, dropped))
    assert party.unmask(slot.close().request(WHO)).sender == WHO
