"""Words are as narrow as the sum allows, and travel without gaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgcif_flwr.errors import CohortError, SecureSumError
from fgcif_flwr.secagg.words import Packer, WordFormat

CHUNK = 1 << 15  # words that are packed at a time

# Cohort of one: b = value_bits, so every width from 2 to 63 occurs.
EVERY_WIDTH = [WordFormat(bits, 1) for bits in range(2, 64)]


def packed_bit_by_bit(form: WordFormat, words: np.ndarray) -> bytes:
    """The definition: b bits of each word, lowest first."""
    octets = words.astype(form.dtype).view(np.uint8).reshape(len(words), form.dtype.itemsize)
    bits = np.unpackbits(octets, axis=1, bitorder="little")
    return np.packbits(bits[:, : form.bits], bitorder="little").tobytes()


def random_words(form: WordFormat, size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, form.mask, size, np.uint64, endpoint=True).astype(form.dtype)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.sampled_from(EVERY_WIDTH), st.integers(0, 300), st.integers(0, 2**32 - 1), st.booleans())
def test_packing_is_that_of_the_definition_and_is_undone(form, size, seed, full):
    words = random_words(form, size, seed)
    if full:
        words[:] = form.mask
    packed = form.pack(words)
    assert packed == packed_bit_by_bit(form, words)
    assert len(packed) == form.packed_bytes(size) == -(-size * form.bits // 8)
    unpacked = form.unpack(packed, size)
    assert unpacked.dtype == form.dtype
    assert np.array_equal(unpacked, words)


@pytest.mark.parametrize("bits", [3, 8, 9, 28, 31, 32, 33, 57, 58, 61, 63])
@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 12])
def test_vectors_longer_than_a_chunk_are_packed_as_one_stream(bits, size):
    form = WordFormat(bits, 1)
    words = random_words(form, size)
    packed = form.pack(words)
    assert packed == packed_bit_by_bit(form, words)
    assert np.array_equal(form.unpack(packed, size), words)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_unpacking_takes_any_buffer_and_changes_none(kind):
    form = WordFormat(22, 50)
    words = random_words(form, 1001)
    packed = form.pack(words)
    given_buffer = kind(packed)
    assert np.array_equal(form.unpack(given_buffer, 1001), words)
    assert bytes(given_buffer) == packed


@pytest.mark.parametrize("bits", [5, 28, 32, 40, 63])
def test_adding_packed_vectors_wraps_at_the_machine_word_and_so_keeps_the_sum(bits):
    form, size = WordFormat(bits, 1), CHUNK + 77
    vectors = [random_words(form, size, seed) for seed in range(9)]
    total = np.zeros(size, dtype=form.dtype)
    for vector in vectors:
        form.add_packed(total, form.pack(vector))
    assert np.array_equal(total, np.sum(vectors, axis=0, dtype=form.dtype))


@pytest.mark.parametrize("change", [-1, 1])
def test_a_vector_of_another_length_is_refused_and_nothing_is_added(change):
    form = WordFormat(22, 50)
    data = form.pack(random_words(form, 2 * CHUNK))
    data = data[:-1] if change < 0 else data + b"\0"
    total = np.zeros(2 * CHUNK, dtype=form.dtype)
    with pytest.raises(SecureSumError, match="65536 words of 28 bits is 229376 bytes long"):
        form.add_packed(total, data)
    assert not total.any()
    with pytest.raises(SecureSumError):
        form.unpack(data, 2 * CHUNK)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.integers(2, 32), st.integers(1, 10_000), st.integers(0, 2**40))
def test_words_are_the_narrowest_that_do_not_wrap(value_bits, cohort, noise):
    form = WordFormat(value_bits, cohort, noise)
    extreme = cohort * form.largest + noise
    assert extreme <= 2 ** (form.bits - 1) - 1
    assert extreme > 2 ** (form.bits - 2) - 1
    assert form.dtype.itemsize == (4 if form.bits <= 32 else 8)
    ends = np.array([extreme, -extreme, 0, 1, -1])
    words = form.words(ends)
    assert words.dtype == form.dtype
    assert np.array_equal(form.signed(words), ends)
    assert np.array_equal(form.signed(form.reduce(words)), ends)


def test_noise_widens_words_only_where_it_must():
    # 2^21 - 1 is the largest value of 22 bits: four of them leave room for 3 more.
    assert WordFormat(22, 4).bits == WordFormat(22, 4, noise=3).bits == 24
    assert WordFormat(22, 4, noise=4).bits == 25


def test_words_of_more_than_63_bits_are_refused():
    assert WordFormat(63, 1).bits == 63
    with pytest.raises(CohortError, match="needs words of 64 bits; at most 63"):
        WordFormat(63, 2)
    with pytest.raises(CohortError):
        WordFormat(22, 50, noise=1 << 62)


@pytest.mark.parametrize("wrong", [(1, 3, 0), (22, 0, 0), (22, 3, -1)])
def test_a_format_without_values_or_enterprises_is_refused(wrong):
    with pytest.raises(ValueError, match="at least"):
        WordFormat(*wrong)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.sampled_from(EVERY_WIDTH), st.integers(1, 5), st.integers(1, 64), st.randoms())
def test_pieces_are_packed_in_any_order_as_the_whole(form, pieces, last, shuffler):
    size = 64 * (pieces - 1) + last
    words = random_words(form, size)
    packer = Packer(form, size)
    starts = list(range(0, size, 64))
    shuffler.shuffle(starts)
    for start in starts:
        packer.put(start, words[start : start + 64])
    assert packer.packed() == form.pack(words)
