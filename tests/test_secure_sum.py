"""The secure sum opens the survivors' sum exactly, or nothing."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fgcif_flwr.errors import (
    AuthenticationError,
    CohortError,
    FgcifError,
    MisbehaviourError,
    NotJoinedError,
    OutOfRangeError,
    PhaseError,
    SecureSumError,
    SlotSpentError,
)
from fgcif_flwr.secagg import (
    Advertisement,
    AdvertiseRequest,
    ConsentRequest,
    Field,
    GraphNonce,
    JoinReply,
    Journal,
    Manifest,
    Participant,
    Released,
    ReleaseRequest,
    SecureSumParameters,
    SlotCollection,
    SlotSum,
    SqliteJournal,
    UnmaskReply,
    UnmaskRequest,
    VectorLayout,
    WordFormat,
    wire,
)
from fgcif_flwr.secagg.epoch import OPENED_BYTES
from fgcif_flwr.secagg.keys import KeyPair, identity_from_seed
from tests.secure_sum_rig import INPUT_HASH, Consortium, as_integers, stream, sum_of_encodings

LAYOUT = VectorLayout((Field("update", 37, 4.0), Field("rows", 2, 1000, exact=True)), 22)


def encodings(consortium: Consortium, layout: VectorLayout = LAYOUT) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        name: layout.encode(
            {
                f.name: rng.integers(0, int(f.bound), f.size)
                if f.exact
                else rng.uniform(-f.bound, f.bound, f.size)
                for f in layout.fields
            },
            rng,
        )
        for name in consortium.participants
    }


@pytest.mark.parametrize("lost", [0, 1, 16])
def test_fifty_enterprises_with_some_lost_before_upload_give_the_survivors_sum(lost):
    consortium = Consortium(50, dropouts=16)
    slot = consortium.open_slot(LAYOUT)
    encoded = encodings(consortium)
    gone = sorted(encoded)[5 : 5 + lost]
    consortium.release(slot, encoded, lost=gone)
    total = consortium.unmask(slot)
    expected = sum_of_encodings([v for n, v in encoded.items() if n not in gone])
    assert np.array_equal(as_integers(total, LAYOUT), expected)
    assert (total.dropped, total.blamed) == (tuple(gone), {})


def test_one_more_lost_than_tolerated_fails_the_slot_and_says_how_many_were_needed():
    consortium = Consortium(50, dropouts=16)
    slot = consortium.open_slot(LAYOUT)
    encoded = encodings(consortium)
    consortium.release(slot, encoded, lost=sorted(encoded)[:17])
    with pytest.raises(SecureSumError, match="33 of 50 vectors arrived; 34 are needed"):
        slot.close()


# --- Any loss at any phase: the exact sum, or a clean failure ------------------------------------

FINE = "fine"
NOT_JOINED = "absent at join"
ABSENT = "absent at advertise"
LOST = "lost before release"
LOST_AFTER = "lost after masking"
NO_CONSENT = "silent at consent"
NO_ANSWER = "silent at unmask"
FATES = (ABSENT, LOST, LOST_AFTER, NO_CONSENT, NO_ANSWER)
HOW_MANY = re.compile(r"\d+\s+are\s+needed|allows \d+")


def suffering(fates: Mapping[str, str], *kinds: str) -> set[str]:
    return {name for name, fate in fates.items() if fate in kinds}


def played(
    consortium: Consortium,
    slot: SlotCollection,
    encoded: Mapping[str, np.ndarray],
    fates: Mapping[str, str],
) -> tuple[SlotSum, list[Advertisement]]:
    """Run a slot in which each enterprise has its fate; the next slot's keys as they arrived."""
    following = []
    for name in slot.cohort:
        if fates[name] == LOST:
            continue
        released = consortium.masked(slot, name, encoded[name])
        if fates[name] != LOST_AFTER:
            slot.receive(released)
            following.append(released.next)
    closed = slot.close()
    if closed.wants_consents:
        for name in closed.survivors:
            if fates[name] != NO_CONSENT:
                party = consortium.participants[name]
                closed.consent(party.consent(closed.consent_request()))
    request = closed.request()
    for name in closed.survivors:
        party = consortium.participants[name]
        if fates[name] == NO_CONSENT and closed.wants_consents:
            with pytest.raises(PhaseError, match="has not consented"):
                party.unmask(request)
        elif fates[name] != NO_ANSWER:
            closed.answer(party.unmask(request))
    return closed.finish(), following


def can_open(consortium: Consortium, fates: Mapping[str, str]) -> bool:
    """Whether the protocol promises the sum: enough of everybody at every phase."""
    epoch = consortium.epoch
    parameters = epoch.parameters
    cohort = [name for name in epoch.holders if fates[name] != ABSENT]
    survivors = [name for name in cohort if fates[name] not in (LOST, LOST_AFTER)]
    mute = (NO_CONSENT, NO_ANSWER) if parameters.consistency else (NO_ANSWER,)
    answering = [name for name in survivors if fates[name] not in mute]
    consenting = [name for name in survivors if fates[name] != NO_CONSENT]
    return (
        len(survivors) >= parameters.smallest_cohort
        and len(cohort) - len(survivors) <= parameters.tolerated_dropouts
        and (not parameters.consistency or len(consenting) >= parameters.consents)
        and all(len(epoch.neighbours(n, answering)) >= parameters.threshold for n in cohort)
    )


def any_words(
    names: Sequence[str], layout: VectorLayout, rng: np.random.Generator, extreme: bool
) -> dict[str, np.ndarray]:
    """Encodings over the whole range of the words, or all of them at one end of it."""
    largest = layout.form(1).largest
    if extreme:
        end = largest * int(rng.choice([-1, 1]))
        return {name: np.full(layout.size, end, np.int64) for name in names}
    return {
        name: rng.integers(-largest, largest, layout.size, np.int64, endpoint=True)
        for name in names
    }


def the_exact_sum_or_a_clean_failure(
    consortium: Consortium,
    layout: VectorLayout,
    ads: Sequence[Advertisement],
    encoded: Mapping[str, np.ndarray],
    fates: Mapping[str, str],
) -> list[Advertisement]:
    """Run a slot; nothing but the promised outcome passes. Return the next slot's keys."""
    failure = ""
    try:
        total, following = played(consortium, consortium.collect(layout, ads), encoded, fates)
    except FgcifError as error:
        failure = str(error)
    assert can_open(consortium, fates) == (failure == ""), failure
    if failure:
        assert HOW_MANY.search(failure), failure
        return []
    gone = suffering(fates, ABSENT, LOST, LOST_AFTER, NOT_JOINED)
    survivors = [name for name in sorted(fates) if name not in gone]
    assert total.survivors == tuple(survivors)
    assert total.dropped == tuple(sorted(suffering(fates, LOST, LOST_AFTER)))
    assert total.blamed == {}
    expected = sum_of_encodings([encoded[name] for name in survivors])
    assert np.array_equal(as_integers(total, layout), expected)
    return following


@cache
def lawful(n: int) -> list[SecureSumParameters]:
    """All parameters that the rule allows in a complete graph of n."""
    found = []
    for t, d, c in itertools.product(range(2, n + 1), range(n - 1), range(1, n)):
        for consistency in (False, True):
            with suppress(CohortError):
                found.append(SecureSumParameters(n, t, d, c, consistency))
    return found


@st.composite
def any_fates(draw: st.DrawFn, names: Sequence[str], most: int, kinds: Sequence[str] = FATES):
    """What befalls each; up to ``most`` of them suffer something."""
    most = min(most, len(names))
    struck = draw(
        st.sets(st.sampled_from(names), min_size=draw(st.integers(0, most)), max_size=most)
    )
    return {name: draw(st.sampled_from(kinds)) if name in struck else FINE for name in names}


def consortium_with(chosen: SecureSumParameters, absent: Collection[str] = ()) -> Consortium:
    return Consortium(
        chosen.holders,
        threshold=chosen.threshold,
        dropouts=chosen.tolerated_dropouts,
        colluders=chosen.tolerated_colluders,
        consistency=chosen.consistency,
        absent=absent,
    )


layouts = st.builds(
    lambda size, counts, bound, bits: VectorLayout(
        (Field("x", size, bound), *([Field("n", counts, 1, exact=True)] if counts else [])), bits
    ),
    st.integers(1, 70),
    st.integers(0, 3),
    st.sampled_from([1e-3, 0.37, 1.0, 4.0, 1e6]),
    st.integers(2, 32),
)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(data=st.data())
def test_any_pattern_of_loss_gives_the_exact_sum_or_a_clean_failure(data):
    count = data.draw(st.integers(3, 12))
    chosen = data.draw(st.sampled_from(lawful(count)))
    layout = data.draw(layouts)
    names = [f"e{i:03d}" for i in range(count)]
    fates = data.draw(any_fates(names, chosen.tolerated_dropouts + 2, (NOT_JOINED, *FATES)))
    away = suffering(fates, NOT_JOINED)
    if len(away) > chosen.tolerated_dropouts:
        with pytest.raises(CohortError, match=r"joined; secagg.tolerated_dropouts allows \d"):
            consortium_with(chosen, away)
        return
    consortium = consortium_with(chosen, away)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    encoded = any_words(names, layout, rng, data.draw(st.booleans()))
    ads = consortium.advertise(suffering(fates, ABSENT))
    assume(ads)
    the_exact_sum_or_a_clean_failure(consortium, layout, ads, encoded, fates)


@settings(deadline=None, max_examples=4, derandomize=True)
@given(data=st.data(), semi_honest=st.booleans())
def test_any_pattern_of_loss_in_a_regular_graph_over_two_slots_in_a_row(data, semi_honest):
    count = data.draw(st.integers(110, 130))
    away = data.draw(st.sets(st.sampled_from([f"e{i:03d}" for i in range(110)]), max_size=2))
    consortium = Consortium(
        count,
        semi_honest=semi_honest,
        consistency=False if semi_honest else None,
        absent=away,
    )
    parameters = consortium.epoch.parameters
    assert not parameters.complete
    assert parameters.consistency is not semi_honest
    names = sorted(consortium.participants)
    layout = data.draw(layouts)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    ads = None
    for _ in range(2):
        fates = data.draw(any_fates(names, parameters.tolerated_dropouts + 1))
        gone = suffering(fates, ABSENT)
        if ads is None:
            ads = consortium.advertise(gone)
        else:
            # Those who were lost are asked anew; the others' keys came with their vectors.
            known = {ad.sender for ad in ads}
            back = AdvertiseRequest(ads[0].slot)
            ads = [ad for ad in ads if ad.sender not in gone]
            ads += [
                consortium.participants[name].advertise(back)
                for name in names
                if name not in known | gone
            ]
        encoded = any_words(names, layout, rng, data.draw(st.booleans()))
        ads = the_exact_sum_or_a_clean_failure(consortium, layout, ads, encoded, fates)
        if not ads:
            return


@pytest.mark.parametrize("semi_honest", [False, True])
def test_a_regular_graph_opens_the_sum_with_as_many_lost_as_tolerated(semi_honest):
    consortium = Consortium(
        110, semi_honest=semi_honest, consistency=False if semi_honest else None
    )
    names = sorted(consortium.participants)
    fates = dict.fromkeys(names, FINE)
    for i in range(consortium.epoch.parameters.tolerated_dropouts):
        fates[names[7 * i]] = FATES[i % 3]
    encoded = any_words(names, LAYOUT, np.random.default_rng(3), False)
    assert can_open(consortium, fates)
    ads = consortium.advertise(suffering(fates, ABSENT))
    assert the_exact_sum_or_a_clean_failure(consortium, LAYOUT, ads, encoded, fates)


@pytest.mark.parametrize("fate", [ABSENT, LOST_AFTER, NO_CONSENT])
def test_a_regular_graph_with_one_more_lost_than_tolerated_says_how_many_were_needed(fate):
    consortium = Consortium(110)
    names = sorted(consortium.participants)
    struck = names[: consortium.epoch.parameters.tolerated_dropouts + 1]
    fates = dict.fromkeys(names, FINE) | dict.fromkeys(struck, fate)
    encoded = any_words(names, LAYOUT, np.random.default_rng(3), False)
    ads = consortium.advertise(suffering(fates, ABSENT))
    assert not can_open(consortium, fates)
    assert the_exact_sum_or_a_clean_failure(consortium, LAYOUT, ads, encoded, fates) == []


def test_a_regular_graph_whose_neighbours_of_one_are_silent_gives_no_sum():
    consortium = Consortium(110, semi_honest=True, consistency=False)
    epoch = consortium.epoch
    slot = consortium.open_slot(LAYOUT)
    consortium.release(slot, encodings(consortium))
    around = epoch.receivers("e042")
    silent = around[epoch.parameters.threshold - 1 :]  # one fewer answer than open its secret
    least = epoch.parameters.threshold
    with pytest.raises(SecureSumError, match=rf"{least}\s+are needed to open the sum"):
        consortium.unmask(slot, silent=silent)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(data=st.data())
def test_two_slots_in_a_row_use_the_round_keys_that_came_with_the_vectors(data):
    count = data.draw(st.integers(3, 8))
    chosen = data.draw(st.sampled_from(lawful(count)))
    consortium = consortium_with(chosen)
    names = sorted(consortium.participants)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    ads = consortium.advertise()
    for slot_number in (1, 2, 3):
        assert {ad.slot for ad in ads} == {slot_number}
        fates = data.draw(any_fates(names, chosen.tolerated_dropouts, FATES[1:]))
        fates = {ad.sender: fates[ad.sender] for ad in ads} | {
            name: ABSENT for name in names if name not in {ad.sender for ad in ads}
        }
        encoded = any_words(names, LAYOUT, rng, False)
        ads = the_exact_sum_or_a_clean_failure(consortium, LAYOUT, ads, encoded, fates)
        if not ads:
            return


def test_a_round_key_that_came_with_a_vector_is_the_one_that_is_advertised():
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    released = consortium.masked(slot, "e001", encodings(consortium)["e001"])
    party = consortium.participants["e001"]
    assert released.next.slot == slot.slot + 1
    assert party.advertise(AdvertiseRequest(released.next.slot)) == released.next


def test_a_slot_that_failed_leaves_the_next_one_as_good_as_any():
    consortium = Consortium(4, threshold=3, dropouts=1)
    slot = consortium.open_slot(LAYOUT)
    encoded = encodings(consortium)
    consortium.release(slot, encoded, lost=["e000", "e001"])
    with pytest.raises(SecureSumError, match="2 of 4 vectors arrived; 3 are needed"):
        slot.close()
    slot = consortium.open_slot(LAYOUT)  # given by those who released, asked of the others
    consortium.release(slot, encoded)
    expected = sum_of_encodings(list(encoded.values()))
    assert np.array_equal(as_integers(consortium.unmask(slot), LAYOUT), expected)


def test_extreme_values_of_all_enterprises_do_not_wrap():
    consortium = Consortium(5)
    layout = VectorLayout((Field("x", 3, 1.0),), 8)
    slot = consortium.open_slot(layout)
    rng = np.random.default_rng(0)
    encoded = {n: layout.encode({"x": [1.0, -1.0, 0.0]}, rng) for n in consortium.participants}
    consortium.release(slot, encoded)
    assert consortium.unmask(slot).values["x"].tolist() == [5.0, -5.0, 0.0]


@pytest.mark.parametrize("bad", [4.1, -4.1, np.nan, np.inf])
def test_a_value_beyond_its_bound_is_an_error_that_names_the_bound_and_not_the_value(bad):
    layout = VectorLayout((Field("update", 1, 4.0),), 22)
    with pytest.raises(OutOfRangeError, match="bound of 4") as caught:
        layout.encode({"update": [bad]}, np.random.default_rng(0))
    assert str(bad) not in str(caught.value)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.integers(8, 32), st.integers(3, 2000), st.integers(0, 2**32 - 1), st.integers(1, 50))
def test_packing_is_undone_by_unpacking_at_every_width(value_bits, cohort, seed, size):
    form = WordFormat(value_bits, cohort)
    words = np.random.default_rng(seed).integers(0, form.mask, size, np.uint64, endpoint=True)
    words = words.astype(form.dtype)
    packed = form.pack(words)
    assert len(packed) == -(-size * form.bits // 8)
    assert np.array_equal(form.unpack(packed, size), words)
    assert 2 * cohort * form.largest < 2**form.bits <= 4 * cohort * form.largest + 2


# --- One enterprise's phases ---------------------------------------------------------------------

WHO = "e001"
PHASES = (
    "new", "joining", "joined", "advertised", "open", "masked", "consented", "answered",
)  # fmt: skip
METHODS = ("join", "reveal", "begin", "advertise", "open", "mask", "consent", "unmask")
_STEPS = ("join", "begin", "advertise", "open", "mask", "consent", "unmask")


@dataclasses.dataclass(frozen=True)
class Script:
    """What is asked of one enterprise in its first slot, and what it answers.

    The rig's randomness is drawn from names, so that the same enterprise anywhere else gives the
    very same answers.
    """

    identity: KeyPair
    manifest: Manifest
    joins: tuple[JoinReply, ...]
    release: ReleaseRequest
    encoded: np.ndarray
    consent: ConsentRequest
    unmask: UnmaskRequest
    answers: Mapping[str, bytes]

    def party(self, journal: Journal | None = None) -> Participant:
        return Participant(WHO, self.identity, journal=journal, entropy=stream(WHO))

    def ask(self, party: Participant, method: str) -> bytes:
        """Ask as in the first slot; the bytes of the answer, if it gives one."""
        asked: dict[str, Callable[[], object]] = {
            "join": lambda: party.join(self.manifest),
            "reveal": lambda: party.reveal(self.joins),
            "begin": lambda: party.begin(self.joins),
            "advertise": lambda: party.advertise(AdvertiseRequest(1)),
            "open": lambda: party.open_release(self.release, INPUT_HASH),
            "mask": lambda: party.mask(self.encoded, LAYOUT),
            "consent": lambda: party.consent(self.consent),
            "unmask": lambda: party.unmask(self.unmask),
        }
        reply = asked[method]()
        return b"" if reply is None else wire.encode(reply)

    def party_at(self, phase: str, journal: Journal | None = None) -> Participant:
        party = self.party(journal)
        self.run(party, _STEPS[: PHASES.index(phase)])
        return party

    def run(self, party: Participant, steps: Sequence[str]) -> None:
        """Take steps; each must give the very bytes of the first time."""
        for step in steps:
            assert self.ask(party, step) == self.answers[step], step


@cache
def script() -> Script:
    consortium = Consortium(4, consistency=True)
    ads = consortium.advertise()
    slot = consortium.collect(LAYOUT, ads)
    encoded = encodings(consortium)
    answers: dict[str, object] = {
        "join": next(join for join in consortium.joins if join.name == WHO),
        "advertise": next(ad for ad in ads if ad.sender == WHO),
    }
    for name in slot.cohort:
        released = consortium.masked(slot, name, encoded[name])
        slot.receive(released)
        if name == WHO:
            answers["mask"] = released
    closed = slot.close()
    consent = closed.consent_request()
    for name in slot.cohort:
        said = consortium.participants[name].consent(consent)
        closed.consent(said)
        if name == WHO:
            answers["consent"] = said
    request = closed.request()
    answers["unmask"] = consortium.participants[WHO].unmask(request)
    given = {step: wire.encode(reply) for step, reply in answers.items()}
    return Script(
        consortium.identities[WHO],
        consortium.manifest,
        consortium.joins,
        slot.release_request(WHO),
        encoded[WHO],
        consent,
        request,
        {**given, "begin": b"", "open": b""},
    )


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
    told.run(party, _STEPS[PHASES.index(phase) :])


@pytest.mark.parametrize(("phase", "method"), [case[:2] for case in CASES if not case[2]])
def test_a_method_in_its_phase_answers_and_changes_nothing_but_the_phase(phase, method):
    told = script()
    party = told.party_at(phase)
    answer = told.ask(party, method)
    if method == "reveal":
        assert wire.decode(GraphNonce, answer).name == WHO
    else:
        assert answer == told.answers[method]
    rest = _STEPS[PHASES.index(phase) :]
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
    told.run(party, _STEPS[PHASES.index(phase) :])


def test_a_release_of_a_slot_to_come_is_refused_and_costs_nothing():
    told = script()
    party = told.party_at("advertised")
    with pytest.raises(PhaseError, match="slot 9 was not advertised"):
        party.open_release(dataclasses.replace(told.release, slot=9), INPUT_HASH)
    told.run(party, _STEPS[PHASES.index("advertised") :])


def test_who_joined_is_heard_with_the_request_for_a_round_key_by_those_who_have_not_yet():
    told = script()
    request = AdvertiseRequest(1, told.joins)
    party = told.party_at("joining")
    assert wire.encode(party.advertise(request)) == told.answers["advertise"]
    assert wire.encode(party.advertise(request)) == told.answers["advertise"]
    told.run(party, _STEPS[PHASES.index("advertised") :])
    with pytest.raises(NotJoinedError):
        told.party_at("new").advertise(request)


def test_without_the_consistency_exchange_there_is_nothing_to_consent_to():
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    consortium.release(slot, encodings(consortium))
    closed = slot.close()
    with pytest.raises(PhaseError, match=r"secagg\.consistency is off"):
        consortium.participants[WHO].consent(closed.consent_request())
    assert consortium.participants[WHO].unmask(closed.request()).sender == WHO


# --- The coordinator's phases --------------------------------------------------------------------


def test_what_comes_to_a_coordinator_out_of_its_phase_is_a_named_error():
    consortium = Consortium(5, consistency=True)
    slot = consortium.open_slot(LAYOUT)
    encoded = encodings(consortium)
    late = consortium.masked(slot, "e004", encoded["e004"])
    consortium.release(slot, encoded, lost=["e004"])
    vector = Released("e000", 1, late.words, (), late.next)
    with pytest.raises(SecureSumError, match="sent two vectors"):
        slot.receive(vector)
    with pytest.raises(SecureSumError, match="does not belong to slot 1"):
        slot.receive(dataclasses.replace(late, sender="e009"))
    with pytest.raises(SecureSumError, match="does not belong to slot 1"):
        slot.receive(dataclasses.replace(late, slot=2))
    closed = slot.close()
    with pytest.raises(PhaseError, match="the vector of e004 is late"):
        slot.receive(late)
    with pytest.raises(PhaseError, match="closed already"):
        slot.close()
    quorum = consortium.epoch.parameters.consents
    with pytest.raises(SecureSumError, match=f"0 enterprises consented.*; {quorum} are needed"):
        closed.request()
    said = consortium.participants["e000"].consent(closed.consent_request())
    with pytest.raises(AuthenticationError, match="e001"):
        closed.consent(dataclasses.replace(said, sender="e001"))
    with pytest.raises(SecureSumError, match="does not belong to slot 1"):
        closed.consent(dataclasses.replace(said, sender="e004"))
    closed.consent(said)
    with pytest.raises(SecureSumError, match="answered twice"):
        closed.consent(said)
    for name in ("e001", "e002", "e003"):
        closed.consent(consortium.participants[name].consent(closed.consent_request()))
    request = closed.request()
    least = consortium.epoch.parameters.threshold
    with pytest.raises(SecureSumError, match=rf"0 enterprises answered.*; {least}\s+are needed"):
        closed.finish()
    reply = consortium.participants["e000"].unmask(request)
    with pytest.raises(SecureSumError, match="did not answer for every neighbour"):
        closed.answer(dataclasses.replace(reply, shares=reply.shares[:-OPENED_BYTES]))
    with pytest.raises(SecureSumError, match="does not belong to slot 1"):
        closed.answer(dataclasses.replace(reply, slot=2))
    with pytest.raises(SecureSumError, match="does not belong to slot 1"):
        closed.answer(dataclasses.replace(reply, sender="e004"))
    closed.answer(reply)
    with pytest.raises(SecureSumError, match="answered twice"):
        closed.answer(reply)
    for name in ("e001", "e002", "e003"):
        closed.answer(consortium.participants[name].unmask(request))
    expected = sum_of_encodings([v for n, v in encoded.items() if n != "e004"])
    assert np.array_equal(as_integers(closed.finish(), LAYOUT), expected)


def test_a_slot_wants_advertisements_of_its_own_once_from_enough():
    consortium = Consortium(4, threshold=3, dropouts=1)
    ads = consortium.advertise()
    with pytest.raises(SecureSumError, match="2 of 4 enterprises advertised; 3 are needed"):
        consortium.collect(LAYOUT, ads[:2])
    with pytest.raises(SecureSumError, match="e000 advertised twice"):
        consortium.collect(LAYOUT, [*ads, ads[0]])
    with pytest.raises(SecureSumError, match="is for slot 1"):
        SlotCollection(consortium.epoch, 2, "test", LAYOUT, INPUT_HASH, ads)


# --- Stored replies ------------------------------------------------------------------------------


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
    first = PHASES.index(next(p for p in PHASES if _STEPS[: PHASES.index(p)][-1:] == (method,)))
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


def other_releases(told: Script) -> list[tuple[ReleaseRequest, bytes]]:
    request = told.release
    members = (dataclasses.replace(request.members[0], sealed=b""), *request.members[1:])
    return [
        (request, b"\1" * 32),
        (dataclasses.replace(request, task="another"), INPUT_HASH),
        (dataclasses.replace(request, members=members), INPUT_HASH),
        (dataclasses.replace(request, cohort=request.cohort[:3]), INPUT_HASH),
    ]


@pytest.mark.parametrize("phase", ["masked", "answered"])
def test_any_other_release_of_the_slot_is_refused(phase):
    told = script()
    party = told.party_at(phase)
    for request, input_hash in other_releases(told):
        with pytest.raises(SlotSpentError, match="by another request"):
            party.released_before(request, input_hash)
        with pytest.raises(SlotSpentError):
            party.open_release(request, input_hash)
    told.run(party, _STEPS[PHASES.index(phase) :])


def other_lists(told: Script) -> list[dict[str, tuple[str, ...]]]:
    cohort = told.release.cohort
    return [
        {"survivors": tuple(n for n in cohort if n != gone), "dropped": (gone,)} for gone in cohort
    ]


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


# --- After a restart, from what was durable ------------------------------------------------------


@dataclasses.dataclass
class Restarts:
    """One enterprise whose process ends between messages: only its journal's file stays."""

    path: Path
    journal: SqliteJournal | None = None

    def again(self) -> Participant:
        return script().party(self._reopened())

    def at(self, phase: str) -> Participant:
        return script().party_at(phase, self._reopened())

    def _reopened(self) -> SqliteJournal:
        self.close()
        self.journal = SqliteJournal(self.path)
        return self.journal

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()


@pytest.fixture
def restarts(tmp_path):
    one = Restarts(tmp_path / "journal")
    yield one
    one.close()


def test_after_a_restart_the_identical_release_gets_the_stored_bytes_and_no_other(restarts):
    told = script()
    restarts.at("masked")
    party = restarts.again()
    stored = party.released_before(told.release, INPUT_HASH)
    assert stored is not None
    assert wire.encode(stored) == told.answers["mask"]
    for request, input_hash in other_releases(told):
        with pytest.raises(SlotSpentError):
            party.released_before(request, input_hash)


def test_after_a_restart_a_slot_that_was_masked_is_lost_and_gets_no_shares(restarts):
    told = script()
    restarts.at("consented")
    party = restarts.again()
    with pytest.raises(NotJoinedError):
        party.unmask(told.unmask)
    assert told.ask(party, "consent") == told.answers["consent"]
    party.join(dataclasses.replace(told.manifest, epoch=2))
    with pytest.raises(NotJoinedError):
        party.unmask(told.unmask)


def test_after_a_restart_the_identical_unmask_gets_the_stored_bytes_and_no_other(restarts):
    told = script()
    restarts.at("answered")
    party = restarts.again()
    assert told.ask(party, "unmask") == told.answers["unmask"]
    for lists in other_lists(told):
        with pytest.raises(SlotSpentError):
            party.unmask(dataclasses.replace(told.unmask, **lists))


def test_a_restart_between_opening_and_masking_costs_the_slot(restarts):
    told = script()
    restarts.at("open")
    with pytest.raises(SlotSpentError, match="its reply was lost"):
        restarts.again().released_before(told.release, INPUT_HASH)


def test_a_process_that_was_set_back_with_its_randomness_does_not_spend_a_slot_again(restarts):
    # A machine restored from an image draws the same keys; the journal knows better.
    told = script()
    restarts.at("answered")
    party = restarts.at("advertised")
    assert party.run_id == told.release.run_id
    with pytest.raises(SlotSpentError):
        party.open_release(told.release, b"\1" * 32)
    with pytest.raises(SlotSpentError):
        party.consent(dataclasses.replace(told.consent, **other_lists(told)[0]))


def test_an_enterprise_that_was_restarted_takes_part_again_in_the_next_epoch(restarts):
    told = script()
    restarts.at("masked")
    consortium = Consortium(4)
    manifest = dataclasses.replace(consortium.manifest, epoch=2)
    party = restarts.again()
    consortium.participants[WHO] = party
    joins = [one.join(manifest) for one in consortium.participants.values()]
    for one in consortium.participants.values():
        one.begin(joins)
    assert party.run_id != told.release.run_id
    assert party.advertise(AdvertiseRequest(1)).slot == 1


# --- Lies ----------------------------------------------------------------------------------------


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
    unmask = slot.close().request()
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
    reply = victim.unmask(slot.close().request())
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
    assert party.unmask(slot.close().request()).sender == WHO


def test_different_inputs_sent_to_different_enterprises_give_no_sum():
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    encoded = encodings(consortium)
    for name in consortium.participants:
        seen = b"\x01" * 32 if name == "e002" else INPUT_HASH
        slot.receive(consortium.masked(slot, name, encoded[name], seen))
    with pytest.raises(SecureSumError, match="masks of 4 enterprises did not cancel"):
        consortium.unmask(slot)


def test_a_masked_vector_alone_looks_uniform():
    # 40,008 bytes of a vector of zeros: chi-square over byte values; false alarm 1e-6.
    consortium = Consortium(4)
    layout = VectorLayout((Field("x", 10_000, 1.0),), 30)  # b = 32: whole bytes
    slot = consortium.open_slot(layout)
    masked = consortium.masked(slot, "e000", np.zeros(10_000, dtype=np.int64))
    assert slot.form.bits == 32
    counts = np.bincount(np.frombuffer(masked.words, np.uint8), minlength=256)
    assert chisquare(counts).pvalue > 1e-6


def with_a_wrong_share(reply: UnmaskReply, index: int) -> UnmaskReply:
    wrong = bytearray(reply.shares)
    wrong[OPENED_BYTES * index] ^= 1
    return dataclasses.replace(reply, shares=bytes(wrong))


def answered_wrongly(consortium: Consortium, liars: Mapping[str, int]):
    """A closed slot in which each liar opens a wrong share of the dealer at an index."""
    slot = consortium.open_slot(LAYOUT)
    encoded = encodings(consortium)
    consortium.release(slot, encoded)
    closed = slot.close()
    request = closed.request()
    for name in closed.survivors:
        reply = consortium.participants[name].unmask(request)
        closed.answer(with_a_wrong_share(reply, liars[name]) if name in liars else reply)
    return closed, sum_of_encodings(list(encoded.values()))


def test_a_wrong_share_is_noticed_and_its_holder_named_and_the_sum_opened_without_it():
    closed, expected = answered_wrongly(Consortium(4, threshold=3), {"e000": 2})
    total = closed.finish()
    assert np.array_equal(as_integers(total, LAYOUT), expected)
    assert list(total.blamed) == ["e000"]


def test_a_wrong_share_that_cannot_be_spared_gives_no_sum_and_names_its_holder():
    closed, _ = answered_wrongly(Consortium(4, threshold=4, dropouts=0), {"e000": 2})
    with pytest.raises(MisbehaviourError) as caught:
        closed.finish()
    assert "e000" in caught.value.names


def test_an_enterprise_outside_the_roster_or_with_another_key_does_not_join():
    told = script()
    stranger = identity_from_seed(bytes(32))
    with pytest.raises(AuthenticationError, match="does not hold the identity key of e001"):
        Participant(WHO, stranger).join(told.manifest)
    with pytest.raises(AuthenticationError, match="does not hold the identity key of e009"):
        Participant("e009", stranger).join(told.manifest)


@pytest.mark.parametrize(
    "change",
    [
        lambda joins: [joins[0], joins[1], *[dataclasses.replace(
            joins[2], channel_public=joins[0].channel_public)], joins[3]],
        lambda joins: [joins[0], dataclasses.replace(joins[1], nonce=bytes(32)), *joins[2:]],
        lambda joins: [*joins[:1], *joins[2:]],
        lambda joins: [*joins, joins[0]],
        lambda joins: [*joins[:3], dataclasses.replace(joins[3], name="e009")],
    ],
    ids=["another's key", "its own changed", "its own missing", "twice", "stranger"],
)  # fmt: skip
def test_joins_that_were_changed_on_the_way_are_refused(change):
    told = script()
    party = told.party_at("joining")
    with pytest.raises(AuthenticationError):
        party.begin(change(list(told.joins)))
    told.run(party, _STEPS[1:])


@pytest.mark.parametrize(
    ("n", "t", "d", "c", "word"),
    [
        (2, None, None, None, "at least 3"),
        (10, 5, 1, 1, "2 x threshold must exceed 11"),
        (10, 9, 3, 1, "lower one of the two"),
        (10, None, None, 0, "at least 1"),
        (10, 11, 0, 1, "at most the 10"),
        (3, 3, 0, 2, "a single honest enterprise"),
        (9, 9, 0, 8, "a single honest enterprise"),
    ],
)
def test_parameters_that_break_the_rule_are_refused_with_the_rule(n, t, d, c, word):
    with pytest.raises(CohortError, match=word):
        SecureSumParameters.choose(n, t, d, c)


@pytest.mark.parametrize("n", [3, 4, 5, 10, 50, 100, 1000])
def test_parameters_chosen_by_default_obey_the_rule_and_leave_honest_enterprises(n):
    chosen = SecureSumParameters.choose(n)
    assert chosen.complete == (n <= 100)
    assert chosen.withstands == "lying coordinator"
    assert chosen.honest_in_any_sum >= 2
    if chosen.complete:
        assert 2 * chosen.threshold > n + chosen.tolerated_colluders
    else:  # the same but for 2^-40, the draw of the graph
        assert chosen.consistency
        assert chosen.log2_insecure <= -40


def test_honest_enterprises_in_any_sum_as_worked_out_for_fifty():
    # The coordinator's best cohort is one of 45, and those outside it are told of all 50.
    assert SecureSumParameters(50, 40, 5, 5).honest_in_any_sum == 34
    with pytest.raises(CohortError, match="a single honest enterprise"):
        SecureSumParameters(50, 28, 22, 5)
    assert SecureSumParameters(50, 28, 22, 5, consistency=True).honest_in_any_sum == 23
    assert SecureSumParameters(50, 45, 5, 5).honest_in_any_sum == 40
