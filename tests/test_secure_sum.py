"""The secure sum opens the survivors' sum exactly, or nothing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fgcif_flwr.errors import CohortError, FgcifError, PhaseError, SecureSumError
from fgcif_flwr.secagg import (
    Advertisement,
    AdvertiseRequest,
    Field,
    SecureSumParameters,
    SlotCollection,
    SlotSum,
    VectorLayout,
)
from tests.first_slot import LAYOUT, encodings
from tests.secure_sum_rig import Consortium, as_integers, sum_of_encodings


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
    for name in closed.survivors:
        party = consortium.participants[name]
        request = closed.request(name)
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
