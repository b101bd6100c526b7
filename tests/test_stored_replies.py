"""A request that was answered gets the stored reply byte for byte; any other of its slot none."""

from __future__ import annotations

import dataclasses

import pytest

from fgcif_flwr.errors import (
    AuthenticationError,
    CohortError,
    FgcifError,
    PhaseError,
    SlotSpentError,
)
from fgcif_flwr.secagg import UnmaskRequest, wire
from tests.first_slot import PHASES, STEPS, WHO, other_lists, other_releases, script
from tests.secure_sum_rig import INPUT_HASH


@pytest.mark.parametrize(
    ("method", "last"),
    [
        ("join", "joining"),
        ("advertise", "advertised"),
        ("consent", "answered"),
        ("unmask", "answered"),
    ],
)
def test_an_identical_request_gets_the_stored_reply_byte_for_byte(method, last):
    told = script()
    first = PHASES.index(next(p for p in PHASES if STEPS[: PHASES.index(p)][-1:] == (method,)))
    for phase in PHASES[first : PHASES.index(last) + 1]:
        party = told.party_at(phase)
        for _ in range(2):
            assert told.ask(party, method) == told.answers[method]


@pytest.mark.parametrize("phase", ["masked", "consented", "answered"])
def test_an_identical_release_gets_the_stored_vector_byte_for_byte(phase):
    told = script()
    party = told.party_at(phase)
    for _ in range(2):
        stored = party.released_before(told.release, INPUT_HASH)
        assert stored is not None
        assert wire.encode(stored) == told.answers["mask"]


def test_a_release_that_is_new_has_no_stored_reply():
    told = script()
    assert told.party_at("advertised").released_before(told.release, INPUT_HASH) is None


def test_a_join_of_the_same_epoch_on_other_terms_is_refused():
    told = script()
    for phase in PHASES[1:]:
        party = told.party_at(phase)
        with pytest.raises(SlotSpentError, match="epochs only grow"):
            party.join(dataclasses.replace(told.manifest, terms='{"other": 1}'))


@pytest.mark.parametrize("phase", ["masked", "answered"])
def test_any_other_release_of_the_slot_is_refused(phase):
    told = script()
    party = told.party_at(phase)
    for request, input_hash in other_releases(told):
        with pytest.raises(SlotSpentError, match="by another request"):
            party.released_before(request, input_hash)
        with pytest.raises(SlotSpentError):
            party.open_release(request, input_hash)
    told.run(party, STEPS[PHASES.index(phase) :])


def test_any_other_list_to_consent_to_is_refused():
    told = script()
    for phase in ("consented", "answered"):
        party = told.party_at(phase)
        for lists in other_lists(told):
            with pytest.raises(SlotSpentError, match="by another request"):
                party.consent(dataclasses.replace(told.consent, **lists))
        assert told.ask(party, "consent") == told.answers["consent"]


def test_any_other_unmask_request_of_an_answered_slot_is_refused():
    told = script()
    party = told.party_at("answered")
    others = [dataclasses.replace(told.unmask, **lists) for lists in other_lists(told)]
    others.append(dataclasses.replace(told.unmask, consents=told.unmask.consents[1:]))
    for request in others:
        with pytest.raises(SlotSpentError, match="by another request"):
            party.unmask(request)
    assert told.ask(party, "unmask") == told.answers["unmask"]


def test_a_list_that_was_not_consented_to_gets_no_shares_and_the_agreed_one_does():
    told = script()
    party = told.party_at("consented")
    for lists in other_lists(told):
        if WHO in lists["survivors"]:
            with pytest.raises(PhaseError, match="not consented to this list"):
                party.unmask(dataclasses.replace(told.unmask, **lists))
    told.run(party, ["unmask"])


def forgeries(request: UnmaskRequest) -> dict[str, tuple[UnmaskRequest, type[FgcifError]]]:
    first, *rest = request.consents
    forged = dataclasses.replace(first, signature=bytes(64))
    late = dataclasses.replace(first, slot=2)
    stranger = dataclasses.replace(first, sender="e009")
    return {
        name: (dataclasses.replace(request, consents=consents), error)
        for name, (consents, error) in {
            "none": ((), CohortError),
            "too few": (tuple(rest), CohortError),
            "twice": ((first, first, *rest), CohortError),
            "a stranger's": ((stranger, *rest), CohortError),
            "forged": ((forged, *rest), AuthenticationError),
            "another slot's": ((late, *rest), AuthenticationError),
        }.items()
    }


@pytest.mark.parametrize(
    "kind", ["none", "too few", "twice", "a stranger's", "forged", "another slot's"]
)
def test_without_a_quorum_of_true_consents_there_are_no_shares_nor_a_second_try(kind):
    # A party that checks but a sample of the signatures must not be asked until it draws well.
    told = script()
    party = told.party_at("consented")
    request, error = forgeries(told.unmask)[kind]
    with pytest.raises(error):
        party.unmask(request)
    assert party.masked is None
    for again in (request, told.unmask):
        with pytest.raises(SlotSpentError):
            party.unmask(again)
