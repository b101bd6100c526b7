"""Any threshold of shares rebuilds a secret; fewer say nothing of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.secagg.shamir import (
    LIMBS,
    PRIME,
    SHARE_BYTES,
    combine,
    combine_each,
    split,
    weights,
    well_formed,
)

ENDS = [bytes(32), b"\xff" * 32, b"\x01" + bytes(31), bytes(31) + b"\x80"]


def entropy(seed: int = 0):
    return np.random.default_rng(seed).bytes


def secrets_of(count: int, seed: int = 0) -> list[bytes]:
    draw = np.random.default_rng([1, seed])
    return [draw.bytes(32) for _ in range(count)]


@settings(deadline=None, max_examples=80, derandomize=True)
@given(data=st.data())
def test_any_threshold_of_shares_rebuilds_the_secrets(data):
    points = data.draw(st.lists(st.integers(1, PRIME - 1), min_size=1, max_size=12, unique=True))
    threshold = data.draw(st.integers(1, len(points)))
    secrets = data.draw(
        st.lists(st.binary(min_size=32, max_size=32) | st.sampled_from(ENDS), max_size=4)
    )
    shares = split(secrets, threshold, points, entropy())
    assert shares.shape == (len(points), len(secrets), LIMBS)
    assert shares.dtype == np.dtype("<u4")
    chosen = data.draw(st.permutations(range(len(points))))[:threshold]
    assert combine([points[i] for i in chosen], shares[chosen]) == secrets
    assert combine(points, shares) == secrets  # more than enough agree


def test_a_share_is_36_bytes_on_the_wire():
    shares = split(secrets_of(2), 3, range(1, 6), entropy())
    assert len(shares[4, 1].tobytes()) == SHARE_BYTES == 36
    assert shares.tobytes()[SHARE_BYTES : 2 * SHARE_BYTES] == shares[0, 1].tobytes()
    assert all(well_formed(share.tobytes()) for share in shares.reshape(-1, LIMBS))
    assert not well_formed(bytes(35))
    assert not well_formed(bytes(32) + PRIME.to_bytes(4, "little"))


def test_a_threshold_of_one_gives_every_holder_the_secret():
    shares = split(ENDS, 1, [5, 9], entropy())
    assert combine([5], shares[:1]) == combine([9], shares[1:]) == ENDS


def test_hundreds_of_holders_at_a_high_threshold():
    secrets, points = secrets_of(2), np.arange(1, 701)
    shares = split(secrets, 500, points, entropy())
    assert combine(points[200:], shares[200:]) == secrets


def test_fewer_shares_than_the_threshold_rebuild_nothing():
    for seed in range(20):
        shares = split(secrets_of(1, seed), 4, range(1, 8), entropy(seed))
        with pytest.raises(SecureSumError, match="do not belong together"):
            combine([1, 2, 3], shares[:3])


def test_a_share_of_one_fixed_secret_is_uniform():
    # Chi-square of the top four bits of 36,000 values; false alarm 1e-6.
    shares = split([bytes(32)] * 4000, 2, [3, 4], entropy())[0]
    assert chisquare(np.bincount(shares.reshape(-1) >> 27, minlength=16)).pvalue > 1e-6


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.integers(0, 8), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_secrets_with_holders_of_their_own_are_rebuilt_together(count, threshold, seed):
    rng = np.random.default_rng(seed)
    secrets = secrets_of(count, seed)
    points = np.zeros((count, threshold), dtype=np.int64)
    shares = np.zeros((count, threshold, LIMBS), dtype=np.uint32)
    for i, secret in enumerate(secrets):
        points[i] = rng.choice(np.arange(1, 40), threshold, replace=False)
        shares[i] = split([secret], threshold, points[i], rng.bytes)[:, 0]
    assert combine_each(points, shares) == secrets


def test_many_secrets_are_rebuilt_in_more_than_one_batch():
    # 2600 x 50 x 9 elements are more than the 2^20 of a batch.
    rng = np.random.default_rng(0)
    points = np.tile(np.arange(1, 51), (2600, 1))
    for row in points:
        rng.shuffle(row)
    secrets = secrets_of(2600)
    dealt = split(secrets, 50, np.arange(1, 51), rng.bytes)
    shares = np.stack([dealt[row - 1, i] for i, row in enumerate(points)])
    assert combine_each(points, shares) == secrets


@pytest.mark.parametrize("value", [12345, PRIME - 1, PRIME, 2**32 - 1])
def test_a_spoilt_share_spoils_its_own_secret_only(value):
    secrets = secrets_of(3)
    dealt = split(secrets, 4, [1, 2, 3, 4], entropy())
    shares = dealt.transpose(1, 0, 2).copy()
    shares[1, 2, 5] = value
    points = np.tile([1, 2, 3, 4], (3, 1))
    assert combine_each(points, shares) == [secrets[0], None, secrets[2]]
    with pytest.raises(SecureSumError):
        combine([1, 2, 3, 4], shares.transpose(1, 0, 2))


def test_shares_of_an_impossible_secret_are_noticed():
    # Limbs have 30 bits, the last 16; a single share of threshold 1 is its secret.
    for limb, beyond in ((0, 1 << 30), (7, PRIME - 1), (8, 1 << 16)):
        share = np.zeros((1, 1, LIMBS), dtype=np.uint32)
        share[0, 0, limb] = beyond
        with pytest.raises(SecureSumError, match="do not belong together"):
            combine([1], share)


@pytest.mark.parametrize(
    ("points", "word"),
    [([1, 2, 1], "different holders"), ([0, 1, 2], "of the field"), ([1, 2, PRIME], "field")],
)
def test_points_that_repeat_or_lie_outside_are_refused(points, word):
    shares = split(secrets_of(1), 3, [1, 2, 3], entropy())
    with pytest.raises(SecureSumError, match=word):
        combine(points, shares)
    with pytest.raises(SecureSumError, match=word):
        combine_each(np.array([points]), shares.transpose(1, 0, 2))
    with pytest.raises(ValueError, match="must differ and lie within"):
        split(secrets_of(1), 3, points, entropy())


def test_shares_of_other_shapes_are_refused():
    shares = split(secrets_of(2), 3, [1, 2, 3], entropy())
    with pytest.raises(SecureSumError, match="do not match the points"):
        combine([1, 2], shares)
    with pytest.raises(SecureSumError, match="9 limbs"):
        combine([1, 2, 3], shares[..., :8])
    with pytest.raises(SecureSumError, match="do not match the points"):
        combine_each(np.array([[1, 2, 3]]), shares.transpose(1, 0, 2))
    with pytest.raises(SecureSumError):
        combine([], shares[:0])


@pytest.mark.parametrize("threshold", [0, 4, -1])
def test_a_threshold_outside_the_holders_is_refused(threshold):
    with pytest.raises(ValueError, match=r"not within 1 \.\. 3 holders"):
        split(secrets_of(1), threshold, [1, 2, 3], entropy())


def test_a_secret_of_another_length_is_refused():
    with pytest.raises(ValueError, match="32 bytes long, not 31"):
        split([bytes(31)], 1, [1], entropy())


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.lists(
        st.integers(1, PRIME - 1) | st.sampled_from([1, 2, PRIME - 1, PRIME - 2]),
        min_size=1,
        max_size=9,
        unique=True,
    )
)
def test_weights_are_lagranges_at_zero(points):
    expected = []
    for x in points:
        numerator = denominator = 1
        for other in points:
            if other != x:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - x) % PRIME
        expected.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    assert weights(points).tolist() == expected
    assert weights(np.array([points, points[::-1]])).tolist() == [expected, expected[::-1]]
