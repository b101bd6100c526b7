"""An enterprise answers in the right phase, and in a wrong one with a named error."""

from __future__ import annotations

import dataclasses

import pytest

from fgcif_flwr.errors import (
    CohortError,
    FgcifError,
    NotJoinedError,
    PhaseError,
    SecureSumError,
    SlotSpentError,
)
from fgcif_flwr.secagg import AdvertiseRequest, GraphNonce, wire
from tests.first_slot import LAYOUT, METHODS, PHASES, STEPS, WHO, encodings, script
from tests.secure_sum_rig import INPUT_HASH, Consortium

_NJ, _PE, _SS, OK = NotJoinedError, PhaseError, SlotSpentError, None
TRANSITIONS: dict[str, tuple[type[FgcifError] | None, ...]] = {
    #              join reveal begin advertise open mask consent unmask
    "new":        (OK,  _NJ,   _NJ,  _NJ,      _NJ, _NJ, _NJ,    _NJ),
    "joining":    (OK,  OK,    OK,   _NJ,      _NJ, _NJ, _NJ,    _NJ),
    "joined":     (_SS, _PE,   _PE,  OK,       _PE, _PE, _PE,    _PE),
    "advertised": (_SS, _PE,   _PE,  OK,       OK,  _PE, _PE,    _PE),
    "open":       (_SS, _PE,   _PE,  _SS,      _SS, OK,  _PE,    _PE),
    "masked":     (_SS, _PE,   _PE,  _SS,      _SS, _PE, OK,     _PE),
    "consented":  (_SS, _PE,   _PE,  _SS,      _SS, _PE, OK,     OK),
    "answered":   (_SS, _PE,   _PE,  _SS,      _SS, _PE, OK,     OK),
}  # fmt: skip
CASES = [
    (phase, method, error)
    for phase, errors in TRANSITIONS.items()
    for method, error in zip(METHODS, errors, strict=True)
]


@pytest.mark.parametrize(("phase", "method", "error"), [case for case in CASES if case[2]])
def test_a_method_in_a_wrong_phase_is_its_named_error_and_changes_nothing(phase, method, error):
    told = script()
    party = told.party_at(phase)
    with pytest.raises(SecureSumError) as caught:
        told.ask(party, method)
    assert type(caught.value) is error
    told.run(party, STEPS[PHASES.index(phase) :])


@pytest.mark.parametrize(("phase", "method"), [case[:2] for case in CASES if not case[2]])
def test_a_method_in_its_phase_answers_and_changes_nothing_but_the_phase(phase, method):
    told = script()
    party = told.party_at(phase)
    answer = told.ask(party, method)
    if method == "reveal":
        assert wire.decode(GraphNonce, answer).name == WHO
    else:
        assert answer == told.answers[method]
    rest = STEPS[PHASES.index(phase) :]
    told.run(party, rest[1:] if rest[:1] == (method,) else rest)


def test_before_it_was_told_who_joined_an_enterprise_has_no_run():
    for phase in ("new", "joining"):
        party = script().party_at(phase)
        with pytest.raises(NotJoinedError):
            _ = party.run_id
        with pytest.raises(NotJoinedError):
            party.rotation_seed(1, INPUT_HASH)


@pytest.mark.parametrize("method", ["open", "consent", "unmask"])
@pytest.mark.parametrize("phase", ["joined", "advertised", "masked", "consented", "answered"])
def test_a_request_of_another_epoch_asks_to_join_again(method, phase):
    told = script()
    other = bytes(32)
    foreign = dataclasses.replace(
        told,
        release=dataclasses.replace(told.release, run_id=other),
        consent=dataclasses.replace(told.consent, run_id=other),
        unmask=dataclasses.replace(told.unmask, run_id=other),
    )
    party = told.party_at(phase)
    with pytest.raises(NotJoinedError):
        foreign.ask(party, method)
    told.run(party, STEPS[PHASES.index(phase) :])


def test_a_release_of_a_slot_to_come_is_refused_and_costs_nothing():
    told = script()
    party = told.party_at("advertised")
    with pytest.raises(PhaseError, match="slot 9 was not advertised"):
        party.open_release(dataclasses.replace(told.release, slot=9), INPUT_HASH)
    told.run(party, STEPS[PHASES.index("advertised") :])


def test_who_joined_is_heard_with_the_request_for_a_round_key_by_those_who_have_not_yet():
    told = script()
    request = AdvertiseRequest(1, told.joins)
    party = told.party_at("joining")
    assert wire.encode(party.advertise(request)) == told.answers["advertise"]
    assert wire.encode(party.advertise(request)) == told.answers["advertise"]
    told.run(party, STEPS[PHASES.index("advertised") :])
    with pytest.raises(NotJoinedError):
        told.party_at("new").advertise(request)


def test_without_the_consistency_exchange_there_is_nothing_to_consent_to():
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    consortium.release(slot, encodings(consortium))
    closed = slot.close()
    with pytest.raises(PhaseError, match=r"secagg\.consistency is off"):
        consortium.participants[WHO].consent(closed.consent_request())
    assert consortium.participants[WHO].unmask(closed.request(WHO)).sender == WHO


def test_a_round_key_that_came_with_a_vector_is_the_one_that_is_advertised():
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    released = consortium.masked(slot, "e001", encodings(consortium)["e001"])
    party = consortium.participants["e001"]
    assert released.next.slot == slot.slot + 1
    assert party.advertise(AdvertiseRequest(released.next.slot)) == released.next


def test_an_advertisement_for_an_earlier_slot_is_refused_and_a_later_one_gives_the_slot_up():
    told = script()
    party = told.party_at("advertised")
    later = party.advertise(AdvertiseRequest(3))
    assert party.advertise(AdvertiseRequest(3)) == later
    for slot in (1, 2):
        with pytest.raises(SlotSpentError):
            party.advertise(AdvertiseRequest(slot))
    with pytest.raises(SlotSpentError, match="given up"):
        party.open_release(told.release, INPUT_HASH)


def test_a_slot_serves_one_vector_and_one_answer():
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    encoded = encodings(consortium)
    consortium.release(slot, encoded)
    victim = consortium.participants[WHO]
    request = slot.release_request(WHO)
    with pytest.raises(SlotSpentError):
        victim.open_release(request, INPUT_HASH)
    with pytest.raises(PhaseError):
        victim.mask(encoded[WHO], LAYOUT)
    with pytest.raises(SlotSpentError):
        victim.advertise(AdvertiseRequest(slot.slot))
    unmask = slot.close().request(WHO)
    answer = victim.unmask(unmask)
    assert victim.unmask(unmask) == answer
    other = dataclasses.replace(
        unmask, survivors=unmask.survivors[:3], dropped=unmask.survivors[3:]
    )
    with pytest.raises(SlotSpentError):
        victim.unmask(other)


def test_a_refused_release_still_spends_its_slot_and_erases_its_secrets():
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    victim = consortium.participants[WHO]
    good = slot.release_request(WHO)
    with pytest.raises(CohortError):
        victim.open_release(dataclasses.replace(good, cohort=good.cohort[1:2]), INPUT_HASH)
    with pytest.raises(SlotSpentError):
        victim.open_release(good, INPUT_HASH)
    assert (victim.advertised, victim.opened, victim.masked) == (None, None, None)
    assert victim.advertise(AdvertiseRequest(2)).slot == 2
