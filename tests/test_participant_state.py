"""A participant that is written down and read back goes on as if nothing had happened."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fgcif_flwr.enterprise.participant_state import dump, load
from fgcif_flwr.errors import CohortError, SecureSumError, SlotSpentError
from fgcif_flwr.secagg import (
    Field,
    Manifest,
    Participant,
    SlotCoordinator,
    VectorLayout,
    verify_joins,
)
from fgcif_flwr.secagg.keys import identity_from_seed
from fgcif_flwr.secagg.messages import CohortMember, ReleaseRequest
from tests.secure_sum_rig import INPUT_HASH, stream

LAYOUT = VectorLayout((Field("update", 40, 4.0), Field("rows", 1, 1000, exact=True)), 22)
ENCODED = np.arange(-20, 21)
NAME = "e001"
PHASES = ("new", "joined", "begun", "advertised", "opened", "released", "unmasked", "next slot")


class Draws:
    """Deterministic bytes that can be continued from where another stopped."""

    def __init__(self, drawn: int = 0) -> None:
        self.drawn = drawn

    def __call__(self, count: int) -> bytes:
        self.drawn += 1
        return hashlib.shake_256(f"{NAME}/{self.drawn}".encode()).digest(count)

    def copy(self) -> Draws:
        return Draws(self.drawn)


class Run:
    """Four enterprises and two slots; one participant is handed to ``at`` after every phase.

    ``at`` returns the participant to go on with. ``answers`` collects all that it said.
    """

    def __init__(self, at: Callable[[str, Participant, Draws], tuple[Participant, Draws]]) -> None:
        names = [f"e{i:03d}" for i in range(4)]
        identities = {name: identity_from_seed(stream(f"id/{name}")(32)) for name in names}
        self.manifest = Manifest(1, "{}", tuple((n, identities[n].public) for n in names))
        draws = Draws()
        subject = Participant(NAME, identities[NAME], draws)
        others = {n: Participant(n, identities[n], stream(n)) for n in names if n != NAME}
        self.answers: list[object] = []

        def phase(name: str) -> Participant:
            nonlocal subject, draws
            subject, draws = at(name, subject, draws)
            return subject

        phase("new")
        joins = [party.join(self.manifest) for party in others.values()]
        joins.append(subject.join(self.manifest))
        self.answers.append(joins[-1])
        phase("joined")
        epoch = verify_joins(self.manifest, joins)
        for party in (*others.values(), subject):
            party.begin(joins)
        phase("begun")
        for slot_number in (1, 2):
            ads = [party.advertise(slot_number) for party in (*others.values(), subject)]
            self.answers.append(ads[-1])
            phase("advertised" if slot_number == 1 else "next slot")
            slot = SlotCoordinator(epoch, slot_number, "test", LAYOUT, INPUT_HASH, ads)
            for name, party in others.items():
                request = slot.release_request(name)
                party.open_release(request)
                slot.receive(party.mask(request, ENCODED, LAYOUT, INPUT_HASH))
            request = slot.release_request(NAME)
            subject.open_release(request)
            phase("opened")
            vector = subject.mask(request, ENCODED, LAYOUT, INPUT_HASH)
            slot.receive(vector)
            phase("released")
            unmask = slot.close()
            for party in others.values():
                slot.answer(party.unmask(unmask))
            answer = subject.unmask(unmask)
            slot.answer(answer)
            phase("unmasked")
            self.answers += [vector, answer, subject.run_id]
            self.sum = slot.finish()


def as_it_is(name: str, party: Participant, draws: Draws) -> tuple[Participant, Draws]:
    return party, draws


def written_down(party: Participant, draws: Draws) -> tuple[Participant, Draws]:
    onward = draws.copy()
    return load(dump(party), onward), onward


@pytest.mark.parametrize("when", PHASES)
def test_a_participant_read_back_at_any_phase_gives_exactly_the_same_answers(when):
    def at(name: str, party: Participant, draws: Draws) -> tuple[Participant, Draws]:
        return written_down(party, draws) if name == when else (party, draws)

    assert Run(at).answers == Run(as_it_is).answers


def test_a_participant_read_back_after_every_message_gives_exactly_the_same_answers():
    run = Run(lambda name, party, draws: written_down(party, draws))
    assert run.answers == Run(as_it_is).answers
    assert run.sum["rows"].tolist() == [80.0]


@pytest.mark.parametrize("when", PHASES)
def test_the_state_holds_whole_numbers_texts_and_octets_only(when):
    states = []

    def at(name: str, party: Participant, draws: Draws) -> tuple[Participant, Draws]:
        if name == when:
            states.append(dump(party))
        return party, draws

    Run(at)
    assert states
    for state in states:
        assert all(type(key) is str for key in state)
        assert all(type(value) in (int, str, bytes) for value in state.values())


@pytest.mark.parametrize("when", PHASES)
def test_writing_down_what_was_read_back_gives_the_same_state(when):
    def at(name: str, party: Participant, draws: Draws) -> tuple[Participant, Draws]:
        if name == when:
            assert dump(load(dump(party))) == dump(party)
        return party, draws

    Run(at)


def at_phase(when: str) -> tuple[Participant, Run]:
    """The participant as it was read back at a phase of the first slot."""
    kept: list[Participant] = []

    def at(name: str, party: Participant, draws: Draws) -> tuple[Participant, Draws]:
        if name == when and not kept:
            kept.append(written_down(party, draws)[0])
        return party, draws

    run = Run(at)
    return kept[0], run


def test_a_slot_that_was_spent_stays_spent_when_read_back():
    party, _ = at_phase("released")
    with pytest.raises(SlotSpentError):
        party.advertise(1)
    party, _ = at_phase("unmasked")
    with pytest.raises(SlotSpentError):
        party.advertise(1)


def test_a_release_that_was_refused_stays_spent_when_read_back():
    party, run = at_phase("advertised")
    request = request_of(run, party)
    # A cohort that leaves this enterprise out is refused, and costs the slot.
    with pytest.raises(CohortError):
        party.open_release(replace(request, cohort=request.cohort[2:]))
    again = load(dump(party))
    with pytest.raises(SlotSpentError):
        again.open_release(request)


def test_a_release_that_was_refused_leaves_no_secret_of_its_slot_in_the_state():
    party, run = at_phase("advertised")
    assert party.advertised is not None
    opened = party.advertised
    request = request_of(run, party)
    with pytest.raises(CohortError):
        party.open_release(replace(request, cohort=request.cohort[2:]))
    state = dump(party)
    assert {"open_slot", "open_secrets", "open_sealed"}.isdisjoint(state)
    blob = b"".join(value for value in state.values() if isinstance(value, bytes))
    for secret in (opened.round_key.private, opened.seed, opened.own_shares):
        assert secret not in blob


def request_of(run: Run, party: Participant) -> ReleaseRequest:
    """A release request with the participant's own round key and nobody else's."""
    assert party.advertised is not None
    members = tuple(
        CohortMember(name, party.advertised.round_key.public if name == NAME else bytes(32), b"")
        for name, _ in run.manifest.roster
    )
    return ReleaseRequest(1, "test", members)


def test_an_epoch_that_was_joined_is_not_joined_again_when_read_back():
    party, run = at_phase("joined")
    with pytest.raises(SlotSpentError, match="joined already"):
        party.join(run.manifest)


def test_a_later_epoch_leaves_nothing_of_the_earlier_one_in_the_state():
    party, run = at_phase("released")
    party.join(replace(run.manifest, epoch=2))
    state = dump(party)
    assert {"channels", "open_slot", "released_slot", "run_id"}.isdisjoint(state)
    with pytest.raises(SecureSumError, match="not told who joined"):
        load(state).advertise(1)


def test_a_masked_vector_leaves_no_key_or_seed_of_its_slot_in_the_state():
    opened, _ = at_phase("opened")
    assert opened.advertised is not None
    secrets = (opened.advertised.round_key.private, opened.advertised.seed)
    released, _ = at_phase("released")
    blob = b"".join(value for value in dump(released).values() if isinstance(value, bytes))
    assert all(secret not in blob for secret in secrets)


def test_an_answer_leaves_no_share_of_its_slot_in_the_state():
    released, _ = at_phase("released")
    assert released.released is not None
    shares = list(released.released.shares)
    answered, _ = at_phase("unmasked")
    blob = b"".join(value for value in dump(answered).values() if isinstance(value, bytes))
    assert shares
    assert all(share not in blob for share in shares)
    assert dump(answered)["released_shares"] == b""


def test_a_printed_participant_shows_no_secret():
    party, _ = at_phase("advertised")
    printed = " ".join(repr(part) for part in (*vars(party).values(), party))
    assert party.identity.private.hex() not in printed
    assert repr(party.identity.private) not in printed
    assert party.advertised is not None
    assert repr(party.advertised.seed) not in printed
    assert repr(party.advertised.round_key.private) not in printed
