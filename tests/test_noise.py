"""The noise is Skellam noise of the variance that was promised, under an unpredictable key.

Every statistical test draws from fixed keys, and would fail for a share of 10^-6 or less of all
keys although nothing is wrong; the check of variances that the enterprises' sums use is
`tests/noise_checks.py`'s and is itself tested here.
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import scipy.stats
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from fgcif_flwr.errors import PrivacyError
from fgcif_flwr.privacy import noise
from fgcif_flwr.privacy.noise import (
    LARGEST_VARIANCE,
    check_variance,
    cryptographic_generator,
    skellam,
    skellam_tail,
)
from tests.noise_checks import FALSE_ALARM, draws, values_needed, variance_is, variance_is_at_least


def key_stream(key: bytes, octets: int) -> bytes:
    """ChaCha20 by OpenSSL, block counter and nonce zero."""
    return Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(octets))


@pytest.mark.parametrize("key", [bytes(32), bytes(range(224, 256)), b"\xff" * 32])
def test_the_generator_s_stream_is_chacha20_under_the_whole_key_as_it_is(key):
    asked: list[int] = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return key

    words = cryptographic_generator(entropy).bit_generator.random_raw(1000)
    assert words.astype("<u8").tobytes() == key_stream(key, 8000)
    assert asked == [32]


def test_a_key_stream_of_chacha20_begins_as_published():
    # draft-strombergson-chacha-test-vectors: key and nonce zero, 20 rounds
    words = cryptographic_generator(bytes).bit_generator.random_raw(2)
    assert words.astype("<u8").tobytes().hex() == "76b8e0ada0f13d90405d6ae55386bd28"


def test_two_generators_have_keys_of_their_own_from_the_operating_system(monkeypatch):
    first, second = (cryptographic_generator().bit_generator.random_raw(4) for _ in range(2))
    assert not np.array_equal(first, second)
    assert cryptographic_generator.__defaults__ == (os.urandom,)


@pytest.mark.parametrize("octets", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(octets):
    with pytest.raises(ValueError, match="32 bytes"):
        cryptographic_generator(lambda _: bytes(octets))


@pytest.mark.parametrize("variance", [0.05, 1.0, 19.0, 21.0, 300.0])
def test_small_noise_has_the_probabilities_of_the_skellam_law(variance):
    # Below and above a mean of 10 numpy draws Poisson variables in different ways.
    values = skellam(200_000, variance, draws(1))
    seen, counts = np.unique(values, return_counts=True)
    expected = len(values) * scipy.stats.skellam.pmf(seen, variance / 2, variance / 2)
    common = expected >= 20
    counts = np.append(counts[common], counts[~common].sum())
    expected = np.append(expected[common], len(values) - expected[common].sum())
    assert scipy.stats.chisquare(counts, expected).pvalue > FALSE_ALARM


@pytest.mark.parametrize("variance", [1e6, 2.0**30, LARGEST_VARIANCE])
def test_large_noise_has_the_quantiles_of_the_normal_law(variance):
    values = skellam(200_000, variance, draws(2))
    deviation = math.sqrt(variance)
    edges = np.floor(scipy.stats.norm.ppf(np.arange(1, 64) / 64) * deviation) + 0.5
    counts = np.bincount(np.searchsorted(edges, values), minlength=64)
    below = np.concatenate([[0.0], scipy.stats.norm.cdf(edges / deviation), [1.0]])
    assert scipy.stats.chisquare(counts, len(values) * np.diff(below)).pvalue > FALSE_ALARM


@pytest.mark.parametrize("variance", [0.5, 18.0, 1e3, 1e7])
def test_noise_has_the_variance_that_was_asked_for(variance):
    values = skellam(300_000, variance, draws(3))
    assert variance_is(values, variance)
    assert not variance_is(values, variance * 40 / 39)
    assert not variance_is(values, variance * 39 / 40)
    deviations = values.mean() / math.sqrt(variance / len(values))
    assert abs(deviations) < scipy.stats.norm.isf(FALSE_ALARM / 2)


def independent(first: np.ndarray, second: np.ndarray) -> bool:
    """Tell whether neither values nor their squares are correlated, at a false alarm of 10^-6."""
    most = scipy.stats.norm.isf(FALSE_ALARM / 4) / math.sqrt(len(first))
    pairs = ((first, second), (first.astype(float) ** 2, second.astype(float) ** 2))
    return all(abs(np.corrcoef(one, other)[0, 1]) < most for one, other in pairs)


@pytest.mark.parametrize("lag", [1, 2, 16, noise._CHUNK])
def test_the_values_of_one_draw_are_independent(lag):
    values = skellam(200_000, 500.0, draws(4))
    assert independent(values[:-lag], values[lag:])


def test_two_enterprises_draws_are_independent_and_the_same_key_would_be_seen():
    first, second = (skellam(200_000, 500.0, draws(one)) for one in (5, 6))
    assert independent(first, second)
    assert not independent(first, skellam(200_000, 500.0, draws(5)))
    assert not independent(first, -first)


@pytest.mark.parametrize("size", [0, 1, noise._CHUNK - 1, noise._CHUNK + 1])
def test_noise_is_of_as_many_whole_numbers_as_asked(size):
    values = skellam(size, LARGEST_VARIANCE, draws(7))
    assert values.dtype == np.int64
    assert values.shape == (size,)
    assert np.all(values[-1:] != 0)  # the last chunk is filled to its end


@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan, math.inf, 2 * LARGEST_VARIANCE])
def test_noise_that_cannot_be_drawn_faithfully_is_refused(variance):
    with pytest.raises(ValueError, match="variance above 0"):
        skellam(1, variance, draws(8))
    with pytest.raises(PrivacyError, match="lower noise multiplier"):
        check_variance(variance)


@pytest.mark.parametrize("variance", [0.1, 4.0, 1000.0])
@pytest.mark.parametrize("size", [1, 1000])
def test_the_tail_is_a_bound_and_not_far_from_the_law_s_own(variance, size):
    half = variance / 2
    bound = skellam_tail(variance, size, log2_failure=-20)
    assert 2 * size * scipy.stats.skellam.sf(bound, half, half) <= 2**-20
    exact = 0
    while 2 * size * scipy.stats.skellam.sf(exact, half, half) > 2**-20:
        exact += 1
    assert bound <= 1.12 * exact + 2


def test_the_tail_of_large_noise_is_that_of_the_normal_law():
    bound = skellam_tail(1e12, 10**6)
    assert bound == pytest.approx(1e6 * math.sqrt(2 * math.log(2e6 * 2**64)), rel=1e-3)


def test_the_tail_grows_with_variance_size_and_certainty():
    tail = skellam_tail(1e4, 100)
    assert skellam_tail(1.1e4, 100) > tail
    assert skellam_tail(1e4, 1000) > tail
    assert skellam_tail(1e4, 100, log2_failure=-80) > tail


@pytest.mark.parametrize("asked", [(0.0, 1, -64.0), (1.0, 0, -64.0), (1.0, 1, 0.0)])
def test_a_tail_of_nothing_is_refused(asked):
    with pytest.raises(ValueError, match="above 0"):
        skellam_tail(*asked)


def test_the_check_of_variances_sees_a_fortieth_missing_in_as_many_values_as_it_says():
    needed = values_needed(1 / 40, variance=1e6)
    assert 280_000 < needed < 285_000
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert variance_is_at_least(rng.normal(0, 1e3, needed), 1e6)
        assert not variance_is_at_least(rng.normal(0, 1e3 * math.sqrt(39 / 40), needed), 1e6)
