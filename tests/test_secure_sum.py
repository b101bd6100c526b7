"""The secure sum opens the survivors' sum exactly, or nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fgcif_flwr.errors import (
    AuthenticationError,
    CohortError,
    OutOfRangeError,
    SecureSumError,
    SlotSpentError,
)
from fgcif_flwr.secagg import Field, SecureSumParameters, UnmaskRequest, VectorLayout, WordFormat
from tests.secure_sum_rig import INPUT_HASH, Consortium, sum_of_encodings

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


def opened(slot, layout=LAYOUT):
    """The sum as integers: what finish() decodes, scaled back."""
    parts = slot.finish()
    largest = WordFormat(layout.value_bits, 1).largest
    return np.concatenate(
        [
            parts[f.name] if f.exact else np.rint(parts[f.name] * largest / f.bound)
            for f in layout.fields
        ]
    ).astype(np.int64)


@pytest.mark.parametrize("lost", [0, 1, 16])
def test_fifty_enterprises_with_some_lost_before_upload_give_the_survivors_sum(lost):
    consortium = Consortium(50, dropouts=16)
    slot = consortium.open_slot(LAYOUT)
    encoded = encodings(consortium)
    gone = sorted(encoded)[5 : 5 + lost]
    consortium.release(slot, encoded, lost=gone)
    consortium.unmask(slot)
    expected = sum_of_encodings([v for n, v in encoded.items() if n not in gone])
    assert np.array_equal(opened(slot), expected)


def test_one_more_lost_than_tolerated_fails_the_slot_and_says_how_many_were_needed():
    consortium = Consortium(50, dropouts=16)
    slot = consortium.open_slot(LAYOUT)
    encoded = encodings(consortium)
    consortium.release(slot, encoded, lost=sorted(encoded)[:17])
    with pytest.raises(SecureSumError, match="33 of 50 vectors arrived; 34 are needed"):
        slot.close()


@settings(deadline=None, max_examples=25, derandomize=True)
@given(data=st.data())
def test_any_pattern_of_loss_gives_the_exact_sum_or_no_sum(data):
    count = data.draw(st.integers(3, 9))
    consortium = Consortium(count)
    parameters = consortium.epoch.parameters
    layout = VectorLayout(
        (Field("x", data.draw(st.integers(1, 70)), 2.0),), data.draw(st.integers(8, 32))
    )
    names = sorted(consortium.participants)
    before = data.draw(st.sets(st.sampled_from(names), max_size=2))
    during = data.draw(st.sets(st.sampled_from(names), max_size=1))
    silent = data.draw(st.sets(st.sampled_from(names), max_size=2))
    slot = consortium.open_slot(layout)
    encoded = encodings(consortium, layout)
    consortium.release(slot, encoded, lost=before, lost_after=during)
    gone = before | during
    survivors = [n for n in names if n not in gone]
    try:
        consortium.unmask(slot, silent)
        result = opened(slot, layout)
    except SecureSumError:
        answering = [n for n in survivors if n not in silent]
        assert len(answering) < parameters.threshold
        return
    assert np.array_equal(result, sum_of_encodings([encoded[n] for n in survivors]))


def test_extreme_values_of_all_enterprises_do_not_wrap():
    consortium = Consortium(5)
    layout = VectorLayout((Field("x", 3, 1.0),), 8)
    slot = consortium.open_slot(layout)
    rng = np.random.default_rng(0)
    encoded = {n: layout.encode({"x": [1.0, -1.0, 0.0]}, rng) for n in consortium.participants}
    consortium.release(slot, encoded)
    consortium.unmask(slot)
    assert slot.finish()["x"].tolist() == [5.0, -5.0, 0.0]


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


def test_a_slot_serves_one_vector_and_one_answer():
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    encoded = encodings(consortium)
    consortium.release(slot, encoded)
    victim = consortium.participants["e001"]
    request = slot.release_request("e001")
    with pytest.raises(SlotSpentError):
        victim.open_release(request)
    with pytest.raises(SlotSpentError):
        victim.mask(request, encoded["e001"], LAYOUT, INPUT_HASH)
    with pytest.raises(SlotSpentError):
        victim.advertise(slot.slot)
    unmask = slot.close()
    victim.unmask(unmask)
    with pytest.raises(SlotSpentError):
        victim.unmask(unmask)


def test_a_refused_release_still_spends_its_slot():
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    victim = consortium.participants["e001"]
    good = slot.release_request("e001")
    with pytest.raises(CohortError):
        victim.open_release(dataclasses.replace(good, cohort=good.cohort[1:2]))
    with pytest.raises(SlotSpentError):
        victim.open_release(good)


def test_a_coordinator_in_the_middle_of_round_keys_is_refused():
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    good = slot.release_request("e001")
    forged = list(good.cohort)
    forged[0] = dataclasses.replace(forged[0], round_public=bytes(range(32)))
    with pytest.raises(AuthenticationError, match="e000"):
        consortium.participants["e001"].open_release(
            dataclasses.replace(good, cohort=tuple(forged))
        )


def test_shares_meant_for_another_receiver_are_refused():
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    mine, other = slot.release_request("e001"), slot.release_request("e002")
    swapped = (other.cohort[0], *mine.cohort[1:])
    with pytest.raises(AuthenticationError, match="e000"):
        consortium.participants["e001"].open_release(dataclasses.replace(mine, cohort=swapped))


@pytest.mark.parametrize(
    ("survivors", "dropped"),
    [
        (("e000", "e001", "e002", "e003", "e004"), ("e004",)),  # both at once
        (("e000", "e001", "e002", "e003"), ("e004", "e004")),
        (("e000", "e001", "e002", "e003"), ()),  # one forgotten
        (("e000", "e002", "e003", "e004"), ("e001",)),  # itself called dropped
        (("e000", "e001", "e002"), ("e003", "e004")),  # more than tolerated
        (("e000", "e001", "e002", "e003", "e004", "e009"), ()),  # a stranger
    ],
)
def test_an_illegal_list_of_dropped_reveals_nothing(survivors, dropped):
    consortium = Consortium(5)
    slot = consortium.open_slot(LAYOUT)
    consortium.release(slot, encodings(consortium))
    with pytest.raises(CohortError):
        consortium.participants["e001"].unmask(UnmaskRequest(slot.slot, survivors, dropped))


def test_different_inputs_sent_to_different_enterprises_give_no_sum_of_use():
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    encoded = encodings(consortium)
    for name, participant in consortium.participants.items():
        request = slot.release_request(name)
        participant.open_release(request)
        seen = b"\x01" * 32 if name == "e002" else INPUT_HASH
        slot.receive(participant.mask(request, encoded[name], LAYOUT, seen))
    consortium.unmask(slot)
    expected = sum_of_encodings(list(encoded.values()))
    assert np.mean(opened(slot) == expected) < 0.1


def test_a_masked_vector_alone_looks_uniform():
    # 40,000 bytes of a vector of zeros: chi-square over byte values; false alarm 1e-6.
    consortium = Consortium(4)
    layout = VectorLayout((Field("x", 10_000, 1.0),), 30)  # b = 32: whole bytes
    slot = consortium.open_slot(layout)
    zeros = np.zeros(10_000, dtype=np.int64)
    request = slot.release_request("e000")
    participant = consortium.participants["e000"]
    participant.open_release(request)
    masked = participant.mask(request, zeros, layout, INPUT_HASH)
    assert slot.form.bits == 32
    counts = np.bincount(np.frombuffer(masked.words, np.uint8), minlength=256)
    assert chisquare(counts).pvalue > 1e-6


def test_a_wrong_share_is_noticed_and_no_sum_is_given():
    consortium = Consortium(4)
    slot = consortium.open_slot(LAYOUT)
    consortium.release(slot, encodings(consortium))
    request = slot.close()
    for name in request.survivors:
        reply = consortium.participants[name].unmask(request)
        if name == "e000":
            wrong = bytearray(reply.shares[2])
            wrong[0] ^= 1
            reply = dataclasses.replace(
                reply, shares=(*reply.shares[:2], bytes(wrong), *reply.shares[3:])
            )
        slot.answer(reply)
    with pytest.raises(SecureSumError):
        slot.finish()


def test_an_enterprise_outside_the_roster_or_with_another_key_does_not_join():
    consortium = Consortium(4)
    joins = list(consortium.joins)
    joins[2] = dataclasses.replace(joins[2], channel_public=joins[1].channel_public)
    fresh = Consortium(4).participants["e000"]
    fresh.epoch = None
    with pytest.raises(AuthenticationError):
        fresh.begin(joins)


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
    assert 2 * chosen.threshold > n + chosen.tolerated_colluders
    assert chosen.honest_in_any_sum >= 2


def test_honest_enterprises_in_any_sum_as_worked_out_for_fifty():
    # The coordinator's best cohort is one of 45, and those outside it are told of all 50.
    assert SecureSumParameters(50, 40, 5, 5).honest_in_any_sum == 34
    assert SecureSumParameters(50, 28, 22, 5).honest_in_any_sum == 2
    assert SecureSumParameters(50, 45, 5, 5).honest_in_any_sum == 40
