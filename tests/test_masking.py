"""Masks hide a vector, cancel in the sum, and are noticed where they do not."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from scipy.stats import chisquare

from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.secagg.masking import CHECK_WORDS, MaskAdder, masked_words, open_total
from fgcif_flwr.secagg.words import WordFormat

NARROW, WIDE = WordFormat(22, 50), WordFormat(32, 50)  # in machine words of 32 and 64 bits
STEP = 1 << 15  # words of 32 bits that are masked at a time

# Vectors that end, with their check words, before, at, between and after a chunk's end.
SIZES = [1, 1000, STEP - 3, STEP - 2, STEP - 1, STEP, STEP + 1, 2 * STEP + 5]


def key(label: str) -> bytes:
    return hashlib.sha256(label.encode()).digest()


def encoded(form: WordFormat, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-form.largest, form.largest, size, endpoint=True)


@pytest.mark.parametrize("form", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("size", SIZES)
def test_what_enterprises_add_chunk_by_chunk_the_coordinator_removes_key_by_key(form, size):
    values = encoded(form, size)
    above, below = [key("a"), key("b"), key("c")], [key("d"), key("e")]
    packed = masked_words(values, form, above, below)
    assert len(packed) == form.packed_bytes(size + CHECK_WORDS)
    total = form.unpack(packed, size + CHECK_WORDS)
    adder = MaskAdder(total)
    for one in above:
        adder.subtract(one)
    for one in below:
        adder.add(one)
    assert np.array_equal(form.signed(open_total(total, form, 1)), values)


def cohort_total(
    form: WordFormat, size: int, *, odd: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The sum of five masked vectors with pairwise masks; ``odd``: one used another key."""
    total = np.zeros(size + CHECK_WORDS, dtype=form.dtype)
    for i in range(5):
        above = [key(f"{i}-{j}") for j in range(i + 1, 5)]
        below = [key(f"{j}-{i}") for j in range(i)]
        if odd and i == 2:
            above[0] = key("of another input")
        form.add_packed(total, masked_words(encoded(form, size, i), form, above, below))
    return total, np.sum([encoded(form, size, i) for i in range(5)], axis=0)


@pytest.mark.parametrize("form", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("size", SIZES)
def test_pairwise_masks_cancel_in_the_sum(form, size):
    total, expected = cohort_total(form, size)
    words = open_total(total, form, 5)
    assert words.shape == (size,)
    assert np.array_equal(form.signed(words), expected)


def test_masks_that_do_not_cancel_open_nothing():
    total, _ = cohort_total(NARROW, 100, odd=True)
    with pytest.raises(SecureSumError, match="masks of 5 enterprises did not cancel") as caught:
        open_total(total, NARROW, 5)
    assert "\n" not in str(caught.value)


def test_a_sum_of_fewer_or_more_than_it_says_is_not_opened():
    total, _ = cohort_total(NARROW, 100)
    for wrong in (4, 6):
        with pytest.raises(SecureSumError, match="did not cancel"):
            open_total(total, NARROW, wrong)


@pytest.mark.parametrize("place", [-1, -2])
def test_either_check_word_suffices_to_refuse(place):
    total, _ = cohort_total(NARROW, 100)
    total[place] += 1
    with pytest.raises(SecureSumError, match="did not cancel"):
        open_total(total, NARROW, 5)


def test_a_sum_of_check_words_alone_is_refused():
    with pytest.raises(SecureSumError, match="more than its 2 check words"):
        open_total(np.ones(CHECK_WORDS, dtype=np.uint32), NARROW, 1)


def test_a_masked_vector_alone_looks_uniform():
    # 40,000 bytes of a vector of zeros: chi-square over byte values; false alarm 1e-6.
    form = WordFormat(30, 4)
    assert form.bits == 32  # whole bytes
    packed = masked_words(np.zeros(10_000, dtype=np.int64), form, [key("a")], [])
    counts = np.bincount(np.frombuffer(packed, np.uint8), minlength=256)
    assert chisquare(counts).pvalue > 1e-6


def test_masking_does_not_change_the_vector_and_repeats_itself():
    values = encoded(NARROW, 1000)
    before = values.copy()
    first = masked_words(values, NARROW, [key("a")], [key("b")])
    assert np.array_equal(values, before)
    assert masked_words(values, NARROW, [key("a")], [key("b")]) == first
    assert masked_words(values, NARROW, [key("b")], [key("a")]) != first


def test_without_keys_the_vector_is_packed_with_its_check_words():
    values = encoded(NARROW, 10)
    packed = masked_words(values, NARROW, [], [])
    assert packed == NARROW.pack(NARROW.words(np.append(values, [1, 1])))


def test_a_key_of_another_length_is_refused():
    with pytest.raises(ValueError, match="key"):
        masked_words(encoded(NARROW, 10), NARROW, [bytes(16)], [])
