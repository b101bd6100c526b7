"""A participant that is written down and read back goes on as if nothing had happened."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest

from fgcif_flwr.errors import (
    CohortError,
    NotJoinedError,
    PhaseError,
    SlotSpentError,
)
from fgcif_flwr.secagg import (
    AdvertiseRequest,
    ConsentRequest,
    Field,
    Manifest,
    Participant,
    ReleaseRequest,
    SlotCollection,
    SqliteJournal,
    UnmaskRequest,
    VectorLayout,
    fix_epoch,
    wire,
)
from fgcif_flwr.secagg.epoch import OPENED_BYTES
from fgcif_flwr.secagg.keys import identity_from_seed
from fgcif_flwr.secagg.participant.snapshot import dump, load
from fgcif_flwr.secagg.shamir import SHARE_BYTES
from tests.secure_sum_rig import INPUT_HASH, RUN, stream

LAYOUT = VectorLayout((Field("update", 40, 4.0), Field("rows", 1, 1000, exact=True)), 22)
ENCODED = np.arange(-20, 21)
NAME = "e001"
PHASES = (
    "new",
    "joined",
    "revealed",
    "begun",
    "advertised",
    "released",
    "consented",
    "unmasked",
    "next slot",
    "last answer",
)
"""Between two messages: no slot is open there."""


class Draws:
    """Deterministic bytes that can be continued from where another stopped."""

    def __init__(self, drawn: int = 0) -> None:
        self.drawn = drawn

    def __call__(self, count: int) -> bytes:
        self.drawn += 1
        return hashlib.shake_256(f"{NAME}/{self.drawn}".encode()).digest(count)

    def copy(self) -> Draws:
        return Draws(self.drawn)


At = Callable[[str, Participant, Draws], tuple[Participant, Draws]]


class Run:
    """Some enterprises and two slots; one participant is handed to ``at`` after every phase.

    ``at`` returns the participant to go on with. ``answers`` collects all that it said; what it
    was asked is kept by slot. With ``neighbours`` the graph is k-regular.
    """

    def __init__(self, at: At, count: int = 4, neighbours: int | None = None) -> None:
        names = [f"e{i:03d}" for i in range(count)]
        identities = {name: identity_from_seed(stream(f"id/{name}")(32)) for name in names}
        roster = tuple((n, identities[n].public) for n in names)
        self.manifest = Manifest(RUN, 1, "{}", roster, consistency=True, neighbours=neighbours)
        draws = Draws()
        subject = Participant(NAME, identities[NAME], entropy=draws)
        others = {n: Participant(n, identities[n], entropy=stream(n)) for n in names if n != NAME}
        self.answers: list[object] = []
        self.releases: dict[int, ReleaseRequest] = {}
        self.consents: dict[int, ConsentRequest] = {}
        self.unmasks: dict[int, UnmaskRequest] = {}

        def phase(name: str) -> None:
            nonlocal subject, draws
            subject, draws = at(name, subject, draws)

        phase("new")
        joins = [party.join(self.manifest) for party in others.values()]
        joins.append(subject.join(self.manifest, b"attested"))
        phase("joined")
        nonces = [party.reveal(joins) for party in (*others.values(), subject)]
        self.answers += [joins[-1], nonces[-1]]
        phase("revealed")
        epoch = fix_epoch(self.manifest, joins, nonces)
        for party in (*others.values(), subject):
            party.begin(joins, nonces)
        phase("begun")
        ads = [party.advertise(AdvertiseRequest(1)) for party in (*others.values(), subject)]
        self.answers.append(ads[-1])
        phase("advertised")
        for number, after in ((1, PHASES[5:8]), (2, ("next slot", "next slot", "last answer"))):
            slot = SlotCollection(epoch, number, "test", LAYOUT, INPUT_HASH, ads)
            ads = []
            for name, party in others.items():
                party.open_release(slot.release_request(name), INPUT_HASH)
                released = party.mask(ENCODED, LAYOUT)
                slot.receive(released)
                ads.append(released.next)
            self.releases[number] = slot.release_request(NAME)
            subject.open_release(self.releases[number], INPUT_HASH)
            vector = subject.mask(ENCODED, LAYOUT)
            slot.receive(vector)
            ads.append(vector.next)
            phase(after[0])
            closed = slot.close()
            self.consents[number] = closed.consent_request()
            for party in others.values():
                closed.consent(party.consent(self.consents[number]))
            signed = subject.consent(self.consents[number])
            closed.consent(signed)
            phase(after[1])
            self.unmasks[number] = closed.request(NAME)
            for name, party in others.items():
                closed.answer(party.unmask(closed.request(name)))
            answer = subject.unmask(self.unmasks[number])
            closed.answer(answer)
            phase(after[2])
            self.answers += [vector, signed, answer, subject.run_id]
            self.sum = closed.finish().values


def as_it_is(name: str, party: Participant, draws: Draws) -> tuple[Participant, Draws]:
    return party, draws


def written_down(party: Participant, draws: Draws) -> tuple[Participant, Draws]:
    onward = draws.copy()
    return load(dump(party), onward), onward


def at_phase(when: str) -> tuple[Participant, Run]:
    """The participant as it was read back at a phase of the run."""
    kept: list[Participant] = []

    def at(name: str, party: Participant, draws: Draws) -> tuple[Participant, Draws]:
        if name == when and not kept:
            kept.append(written_down(party, draws)[0])
        return party, draws

    run = Run(at)
    return kept[0], run


def octets(party: Participant) -> bytes:
    """All that is written of a participant, keys and journal alike."""
    return b"".join(value for value in dump(party).values() if isinstance(value, bytes))


@pytest.mark.parametrize("when", PHASES)
def test_a_participant_read_back_at_any_phase_gives_exactly_the_same_answers(when):
    def at(name: str, party: Participant, draws: Draws) -> tuple[Participant, Draws]:
        return written_down(party, draws) if name == when else (party, draws)

    assert Run(at).answers == Run(as_it_is).answers


@pytest.mark.parametrize(("count", "neighbours"), [(4, None), (12, 8)], ids=["complete", "regular"])
def test_a_participant_read_back_after_every_message_gives_exactly_the_same_answers(
    count, neighbours
):
    run = Run(lambda name, party, draws: written_down(party, draws), count, neighbours)
    assert run.manifest.parameters(count).complete == (neighbours is None)
    assert run.answers == Run(as_it_is, count, neighbours).answers
    assert run.sum["rows"].tolist() == [20.0 * count]


@pytest.mark.parametrize("when", PHASES)
def test_the_state_holds_whole_numbers_texts_and_octets_only(when):
    state = dump(at_phase(when)[0])
    assert state
    assert all(type(key) is str for key in state)
    assert all(type(value) in (int, str, bytes) for value in state.values())


@pytest.mark.parametrize("when", PHASES)
def test_writing_down_what_was_read_back_gives_the_same_state(when):
    def at(name: str, party: Participant, draws: Draws) -> tuple[Participant, Draws]:
        if name == when:
            assert dump(load(dump(party))) == dump(party)
        return party, draws

    Run(at)


@pytest.mark.parametrize("semi_honest", [False, True])
def test_whether_a_semi_honest_coordinator_is_accepted_is_kept(semi_honest):
    party = Participant(NAME, identity_from_seed(bytes(32)), semi_honest=semi_honest)
    assert load(dump(party)).semi_honest is semi_honest


def test_a_journal_that_is_durable_is_not_copied(tmp_path):
    with SqliteJournal(tmp_path / "journal") as journal:
        party = Participant(NAME, identity_from_seed(bytes(32)), journal=journal)
        with pytest.raises(TypeError, match="journal is in memory"):
            dump(party)


@pytest.mark.parametrize("when", ["released", "consented", "unmasked", "last answer"])
def test_a_slot_that_was_spent_stays_spent_when_read_back(when):
    party, run = at_phase(when)
    with pytest.raises(SlotSpentError):
        party.advertise(AdvertiseRequest(1))
    with pytest.raises(SlotSpentError):
        party.open_release(run.releases[1], INPUT_HASH)
    with pytest.raises(SlotSpentError):
        party.released_before(run.releases[1], b"\1" * 32)


@pytest.mark.parametrize("when", ["unmasked", "last answer"])
def test_replies_that_were_given_are_given_again_byte_for_byte_when_read_back(when):
    party, run = at_phase(when)
    vector, signed, answer, _ = run.answers[3:7]
    stored = party.released_before(run.releases[1], INPUT_HASH)
    assert stored is not None
    assert wire.encode(stored) == wire.encode(vector)
    assert wire.encode(party.consent(run.consents[1])) == wire.encode(signed)
    assert wire.encode(party.unmask(run.unmasks[1])) == wire.encode(answer)
    with pytest.raises(SlotSpentError):
        party.unmask(replace(run.unmasks[1], consents=run.unmasks[1].consents[1:]))


def test_a_slot_that_was_open_is_lost_when_read_back():
    party, run = at_phase("advertised")
    party.open_release(run.releases[1], INPUT_HASH)
    again = load(dump(party))
    with pytest.raises(PhaseError):
        again.mask(ENCODED, LAYOUT)
    with pytest.raises(SlotSpentError):
        again.open_release(run.releases[1], INPUT_HASH)
    with pytest.raises(SlotSpentError, match="its reply was lost"):
        again.released_before(run.releases[1], INPUT_HASH)
    assert again.advertise(AdvertiseRequest(2)).slot == 2


def without_itself(request: ReleaseRequest) -> ReleaseRequest:
    """A cohort that leaves this enterprise out: refused, at the cost of the slot."""
    return replace(request, cohort=request.cohort[2:])


def test_a_release_that_was_refused_stays_spent_when_read_back():
    party, run = at_phase("advertised")
    with pytest.raises(CohortError):
        party.open_release(without_itself(run.releases[1]), INPUT_HASH)
    again = load(dump(party))
    with pytest.raises(SlotSpentError):
        again.open_release(run.releases[1], INPUT_HASH)


def secrets_of_next_slot(party: Participant) -> tuple[bytes, ...]:
    """Round key, self-mask seed, and both own shares with their salts."""
    assert party.advertised is not None
    own = party.advertised.own
    return (
        party.advertised.round_key.private,
        party.advertised.seed,
        own[:OPENED_BYTES],
        own[OPENED_BYTES:],
    )


def test_a_release_that_was_refused_leaves_no_secret_of_its_slot_in_the_state():
    party, run = at_phase("advertised")
    secrets = secrets_of_next_slot(party)
    assert all(secret in octets(party) for secret in secrets)
    with pytest.raises(CohortError):
        party.open_release(without_itself(run.releases[1]), INPUT_HASH)
    assert all(secret not in octets(party) for secret in secrets)


def test_an_open_slot_leaves_no_secret_of_its_own_in_the_state():
    party, run = at_phase("advertised")
    secrets = secrets_of_next_slot(party)
    party.open_release(run.releases[1], INPUT_HASH)
    assert all(secret not in octets(party) for secret in secrets)


def test_an_epoch_that_was_joined_is_not_joined_again_when_read_back():
    party, run = at_phase("joined")
    assert party.join(run.manifest) == run.answers[0]  # before it began: the same again
    with pytest.raises(SlotSpentError, match="joined already"):
        party.join(replace(run.manifest, terms="[]"))
    party, run = at_phase("begun")
    with pytest.raises(SlotSpentError, match="joined already"):
        party.join(run.manifest)


def test_a_graph_nonce_is_told_for_one_list_of_joins_only_when_read_back():
    party, run = at_phase("revealed")
    assert party.joining is not None
    others = [
        Participant(n, identity_from_seed(stream(f"id/{n}")(32))) for n, _ in run.manifest.roster
    ]
    joins = [one.join(run.manifest) for one in others if one.name != NAME]
    with pytest.raises(PhaseError, match="one list of joins only"):
        party.reveal([*joins, party.joining.said])


def test_a_later_epoch_leaves_nothing_of_the_earlier_one_in_the_state():
    party, run = at_phase("released")
    assert party.joined is not None
    assert party.masked is not None
    held = party.masked.held
    secrets = [held[at : at + SHARE_BYTES] for at in range(0, len(held), OPENED_BYTES)]
    secrets += secrets_of_next_slot(party)
    for channel in party.joined.channels:
        secrets += [getattr(channel, f.name) for f in fields(channel) if f.name != "peer"]
    assert all(secret in octets(party) for secret in secrets)
    party.join(replace(run.manifest, epoch=2))
    assert all(secret not in octets(party) for secret in secrets)
    assert "epoch" not in dump(party)
    with pytest.raises(NotJoinedError, match="not told who joined"):
        load(dump(party)).advertise(AdvertiseRequest(1))


def test_an_epoch_that_has_begun_leaves_no_secret_of_its_joining_in_the_state():
    party, _ = at_phase("revealed")
    assert party.joining is not None
    private = party.joining.channel_private
    assert private in octets(party)
    assert private not in octets(at_phase("begun")[0])


def test_a_masked_vector_leaves_no_key_or_seed_of_its_slot_in_the_state():
    private, seed, *_ = secrets_of_next_slot(at_phase("advertised")[0])
    released = octets(at_phase("released")[0])
    assert private not in released
    assert seed not in released


def test_an_answer_leaves_no_share_of_its_slot_in_the_state_but_those_that_it_told():
    released, run = at_phase("released")
    assert released.masked is not None
    held = released.masked.held
    pieces = [held[at : at + OPENED_BYTES] for at in range(0, len(held), OPENED_BYTES)]
    of_round_keys, of_seeds = pieces[::2], pieces[1::2]
    answered, _ = at_phase("unmasked")
    answer = run.answers[5]
    assert b"".join(of_seeds) == answer.shares  # nobody was lost: no round key is opened
    assert all(piece[:SHARE_BYTES] not in octets(answered) for piece in of_round_keys)
    assert answered.masked is None


@pytest.mark.parametrize("when", PHASES)
def test_a_printed_participant_shows_no_secret(when):
    party, _ = at_phase(when)
    printed = " ".join(repr(part) for part in (*vars(party).values(), party))
    secrets = [party.identity.private]
    if party.joining is not None:
        secrets += [party.joining.channel_private, party.joining.graph_nonce]
    if party.joined is not None:
        secrets += [channel.seal_to for channel in party.joined.channels]
    if party.advertised is not None:
        secrets += secrets_of_next_slot(party)
    if party.masked is not None:
        secrets.append(party.masked.held)
    for secret in secrets:
        assert secret.hex() not in printed
        assert repr(secret) not in printed
