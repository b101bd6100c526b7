"""A rotation keeps a vector's norm and spreads it, so that few bits hold every coordinate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard

from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.secagg.encoding import Field, VectorLayout
from fgcif_flwr.secagg.rotation import coordinate_bound, rotate, unrotate

SEED = bytes(range(32))


@settings(deadline=None, max_examples=80, derandomize=True)
@given(st.integers(1, 3000), st.binary(min_size=32, max_size=32), st.integers(0, 2**32 - 1))
def test_a_rotation_keeps_the_norm_and_is_undone(size, seed, draw):
    x = np.random.default_rng(draw).normal(size=size)
    before = x.copy()
    y = rotate(x, seed)
    assert y.shape == x.shape
    assert np.linalg.norm(y) == pytest.approx(np.linalg.norm(x))
    assert np.allclose(unrotate(y, seed), x)
    assert np.array_equal(x, before)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 13, 31, 32, 33])
def test_a_rotation_is_an_orthonormal_matrix(size):
    matrix = np.stack([rotate(unit, SEED) for unit in np.eye(size)])
    assert np.allclose(matrix @ matrix.T, np.eye(size))
    x = np.arange(1.0, size + 1)
    assert np.allclose(x @ matrix, rotate(x, SEED))  # linear


def test_both_transforms_are_hadamards():
    # Of 12 coordinates the first 8 are transformed, then the last 8: signs apart, that is this.
    first, second = np.eye(12), np.eye(12)
    first[:8, :8] = second[4:, 4:] = hadamard(8) / np.sqrt(8)
    matrix = np.stack([rotate(unit, SEED) for unit in np.eye(12)]).T
    untouched = matrix[:4, :8] / first[:4, :8]  # rows that only the first one makes
    assert np.allclose(np.abs(untouched), 1)
    assert np.allclose(untouched, untouched[0])  # one sign a column
    assert np.allclose(matrix[:4, 8:], 0)
    undone = second @ matrix  # H is its own inverse: leaves signs times the first transform
    assert np.allclose(np.abs(undone), np.abs(first))


def test_of_one_coordinate_only_the_sign_can_change():
    turned = {float(rotate([3.0], bytes([i]) * 32)[0]) for i in range(16)}
    assert turned == {3.0, -3.0}


def test_no_coordinates_and_a_short_seed_are_refused():
    with pytest.raises(ValueError, match="at least one coordinate"):
        rotate([], SEED)
    with pytest.raises(SecureSumError, match="32 bytes long, not 31"):
        rotate([1.0], SEED[1:])


@pytest.mark.parametrize("size", [4096, 5000, 8191])
@pytest.mark.parametrize("place", [0, 2000, -1])
def test_a_spike_is_flattened(size, place):
    spike = np.zeros(size)
    spike[place] = 1.0
    # Each transform spreads it over 4096 coordinates; both reach some of them.
    assert np.abs(rotate(spike, SEED)).max() <= coordinate_bound(size, 1.0) < 0.11


def test_coordinates_keep_within_their_bound_and_come_near_it():
    # 2000 rotations; each exceeds with probability at most 2^-20: false alarm below 0.2 %.
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(2000):
        x = rng.standard_t(1.5, size=300)
        y = rotate(x / np.linalg.norm(x), rng.bytes(32))
        worst = max(worst, float(np.abs(y).max()) / coordinate_bound(300, 1.0))
    assert 0.5 < worst <= 1.0


def test_the_bound_of_a_coordinate_is_that_of_hoeffding_or_the_norm():
    kappa = np.sqrt(2 * np.log(2**21 * 5000))
    assert 2 * 5000 * np.exp(-(kappa**2) / 2) == pytest.approx(2**-20)
    assert coordinate_bound(5000, 3.0) == pytest.approx(3.0 * kappa / 64)
    assert coordinate_bound(1, 3.0) == coordinate_bound(20, 3.0) == 3.0


def rounding_error(values: np.ndarray, *, rotated: bool) -> float:
    """The error's norm at 12 bits where only the vector's norm, 1, is known."""
    layout = VectorLayout((Field("x", len(values), 1.0, rotated=rotated),), 12)
    form = layout.form(1)
    words = form.words(layout.encode({"x": values}, np.random.default_rng(1), SEED))
    return float(np.linalg.norm(layout.decode(words, form, SEED)["x"] - values))


@pytest.mark.parametrize("kind", ["spike", "heavy-tailed", "normal"])
def test_at_equal_bits_a_rotated_vector_is_rounded_far_better(kind):
    rng = np.random.default_rng(0)
    values = {
        "spike": rng.normal(size=20_000) + 1000 * (np.arange(20_000) == 7),
        "heavy-tailed": rng.standard_t(2, size=20_000),
        "normal": rng.normal(size=20_000),
    }[kind]
    values /= np.linalg.norm(values)
    assert rounding_error(values, rotated=True) < 0.1 * rounding_error(values, rotated=False)
