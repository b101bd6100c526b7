"""Values become integers without bias, and the sum of integers the sum of values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgcif_flwr.errors import OutOfRangeError, SecureSumError
from fgcif_flwr.secagg.encoding import Field, VectorLayout

SEED = bytes(range(32))
LONG = 40_000  # more than two of the pieces in which a field is encoded


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.integers(4, 40), st.floats(1e-6, 1e6), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_an_integer_is_one_of_the_two_beside_its_scaled_value(value_bits, bound, size, seed):
    layout = VectorLayout((Field("x", size, bound),), value_bits)
    largest = layout.form(1).largest
    values = generator(seed).uniform(-bound, bound, size)
    encoded = layout.encode({"x": values}, generator(seed))
    assert encoded.dtype == np.int64
    assert encoded.shape == (size,)
    assert np.all(np.abs(encoded) <= largest)
    assert np.all(np.abs(encoded - values * (largest / bound)) <= 1)


@pytest.mark.parametrize("value_bits", [8, 22, 32])
def test_the_bound_itself_and_zero_have_no_error(value_bits):
    layout = VectorLayout((Field("x", LONG, 0.3),), value_bits)
    largest = layout.form(1).largest
    values = np.tile([0.3, -0.3, 0.0, -0.0], LONG // 4)
    encoded = layout.encode({"x": values}, generator())
    assert np.array_equal(encoded, np.tile([largest, -largest, 0, 0], LONG // 4))


@pytest.mark.parametrize("fraction", [0.001, 0.25, 0.5, 0.9])
def test_rounding_is_unbiased(fraction):
    # Two-sided at five standard errors of a binomial: false alarm 6e-7 a case.
    size = 400_000
    layout = VectorLayout((Field("x", size, 127.0),), 8)  # a step is 1
    encoded = layout.encode({"x": np.full(size, -3 + fraction)}, generator())
    assert set(np.unique(encoded)) == {-3, -2}
    error = np.sqrt(fraction * (1 - fraction) / size)
    assert abs(np.mean(encoded == -2) - fraction) < 5 * error


def test_the_same_generator_gives_the_same_integers_and_another_one_others():
    layout = VectorLayout((Field("x", LONG, 1.0), Field("y", 7, 2.0)), 12)
    values = {"x": generator(1).uniform(-1, 1, LONG), "y": np.linspace(-2, 2, 7)}
    encoded = layout.encode(values, generator(2))
    assert np.array_equal(layout.encode(values, generator(2)), encoded)
    assert not np.array_equal(layout.encode(values, generator(3)), encoded)


def test_the_sum_of_a_cohort_is_decoded_field_by_field():
    layout = VectorLayout((Field("update", 100, 4.0), Field("rows", 2, 1000, exact=True)), 22)
    form = layout.form(50)
    values = [
        {"update": generator(i).uniform(-4, 4, 100), "rows": generator(i).integers(0, 1000, 2)}
        for i in range(50)
    ]
    total = np.zeros(layout.size, dtype=form.dtype)
    for i, one in enumerate(values):
        total += form.words(layout.encode(one, generator(100 + i)))
    for words in (total, form.reduce(total)):
        decoded = layout.decode(words, form)
        assert np.array_equal(decoded["rows"], sum(one["rows"] for one in values))
        step = 4.0 / form.largest
        assert np.abs(decoded["update"] - sum(one["update"] for one in values)).max() < 50 * step


def test_extreme_values_of_all_with_the_most_noise_do_not_wrap():
    layout = VectorLayout((Field("x", 2, 1.0),), 8, noise=5)
    form = layout.form(5)
    encoded = layout.encode({"x": [1.0, -1.0]}, generator())
    total = form.words(5 * encoded + np.array([5, -5]))
    assert form.signed(total).tolist() == [640, -640]
    assert layout.decode(total, form)["x"] == pytest.approx([640 / 127, -640 / 127])


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("place", [0, LONG // 2, LONG - 1])
@pytest.mark.parametrize("bad", [4.5, -5.0, 1e300, np.nan, np.inf, -np.inf])
def test_one_value_out_of_range_anywhere_is_an_error_without_the_value(bad, place, exact):
    layout = VectorLayout((Field("x", LONG, 4.0, exact=exact),), 22)
    values = np.zeros(LONG)
    values[place] = bad
    with pytest.raises(OutOfRangeError, match="x is beyond its bound of 4 or not finite") as caught:
        layout.encode({"x": values}, generator())
    assert f"{bad:g}" not in str(caught.value)


def test_a_count_that_is_not_whole_is_an_error_without_the_count():
    layout = VectorLayout((Field("rows", 2, 10, exact=True),), 22)
    with pytest.raises(OutOfRangeError, match="rows is not a whole number") as caught:
        layout.encode({"rows": [3, 2.5]}, generator())
    assert "2.5" not in str(caught.value)


def test_counts_are_sent_as_they_are():
    layout = VectorLayout((Field("rows", 4, 2**21 - 1, exact=True),), 22)
    counts = [0, 1, 2**21 - 1, -(2**21) + 1]
    assert layout.encode({"rows": counts}, generator()).tolist() == counts


def test_names_and_sizes_are_those_of_the_layout():
    layout = VectorLayout((Field("x", 2, 1.0),), 22)
    with pytest.raises(SecureSumError, match="names"):
        layout.encode({"y": [0, 0]}, generator())
    with pytest.raises(SecureSumError, match="field x has 3 values; its layout says 2"):
        layout.encode({"x": [0, 0, 0]}, generator())
    with pytest.raises(SecureSumError, match="a sum has 3 words; its layout says 2"):
        layout.decode(np.zeros(3, dtype=np.uint32), layout.form(3))


@pytest.mark.parametrize(
    ("field", "word"),
    [
        (Field("x", 0, 1.0), "positive"),
        (Field("x", 1, 0.0), "positive"),
        (Field("x", 1, np.nan), "positive"),
        (Field("x", 1, 300, exact=True), "raise it to at least 10"),
        (Field("x", 1, 3, exact=True, rotated=True), "cannot be rotated"),
    ],
)
def test_a_field_that_cannot_be_is_refused(field, word):
    with pytest.raises(SecureSumError, match=word):
        VectorLayout((field,), 9)


def test_the_hash_binds_all_that_changes_the_integers():
    field = Field("x", 2, 1.0)
    layout = VectorLayout((field,), 22)
    others = [
        VectorLayout((field,), 21),
        VectorLayout((field,), 22, noise=1),
        VectorLayout((field, field), 22),
        *(
            VectorLayout((dataclasses.replace(field, **change),), 22)
            for change in (
                {"name": "y"},
                {"size": 3},
                {"bound": np.nextafter(1.0, 2.0)},
                {"exact": True},
                {"rotated": True},
            )
        ),
    ]
    assert len({one.hash() for one in (layout, *others)}) == len(others) + 1
    assert VectorLayout((Field("x", 2, 1.0),), 22).hash() == layout.hash()


def rotated_sum(seeds: list[bytes], opened: bytes) -> float:
    """The relative error of a sum whose enterprises rotated by ``seeds``."""
    layout = VectorLayout((Field("x", 3000, 2.0, rotated=True),), 22)
    form = layout.form(len(seeds))
    total = np.zeros(layout.size, dtype=form.dtype)
    values = []
    for i, seed in enumerate(seeds):
        value = generator(i).normal(size=3000)
        value *= 2.0 / np.linalg.norm(value)
        values.append(value)
        total += form.words(layout.encode({"x": value}, generator(i), seed))
    error = layout.decode(total, form, opened)["x"] - sum(values)
    return float(np.linalg.norm(error) / np.linalg.norm(sum(values)))


def test_rotated_vectors_are_summed_as_themselves_under_one_seed_only():
    assert rotated_sum([SEED] * 4, SEED) < 1e-5
    assert rotated_sum([SEED] * 4, bytes(32)) > 0.5
    assert rotated_sum([SEED, SEED, SEED, bytes(32)], SEED) > 0.5


def test_a_rotated_field_without_a_seed_is_refused():
    layout = VectorLayout((Field("x", 8, 2.0, rotated=True),), 22)
    with pytest.raises(SecureSumError, match="seed is 32 bytes long, not 0"):
        layout.encode({"x": np.zeros(8)}, generator())
    with pytest.raises(SecureSumError, match="seed is 32 bytes long, not 0"):
        layout.decode(np.zeros(8, dtype=np.uint32), layout.form(3))


def test_two_rotated_fields_are_rotated_apart():
    fields = (Field("x", 64, 1.0, rotated=True), Field("y", 64, 1.0, rotated=True))
    layout = VectorLayout(fields, 22)
    spike = np.eye(64)[0]
    encoded = layout.encode({"x": spike, "y": spike}, generator(), SEED)
    assert np.abs(encoded[:64] - encoded[64:]).max() > 1000


@pytest.mark.parametrize(
    "bad", [np.full(100, 0.2001), np.full(100, np.nan), np.eye(100)[3] * 1e200]
)
def test_a_norm_beyond_its_bound_is_an_error_that_names_the_bound(bad):
    layout = VectorLayout((Field("x", 100, 2.0, rotated=True),), 22)
    with pytest.raises(OutOfRangeError, match="norm of x is beyond its bound of 2 or not finite"):
        layout.encode({"x": bad}, generator(), SEED)


def test_a_norm_at_its_bound_is_encoded_whatever_floating_point_makes_of_it():
    for seed in range(200):
        size = 1 + seed % 40
        layout = VectorLayout((Field("x", size, 0.7, rotated=True),), 12)
        value = generator(seed).normal(size=size)
        encoded = layout.encode({"x": value * (0.7 / np.linalg.norm(value))}, generator(), SEED)
        assert np.abs(encoded).max() <= layout.form(1).largest


def test_a_coordinate_beyond_its_own_bound_is_an_error(monkeypatch):
    layout = VectorLayout((Field("x", 4096, 2.0, rotated=True),), 22)
    monkeypatch.setattr("fgcif_flwr.secagg.encoding.rotate", lambda vector, seed: vector)
    with pytest.raises(OutOfRangeError, match=r"rotated coordinate of x .* bound of 2 does once"):
        layout.encode({"x": np.eye(4096)[9]}, generator(), SEED)
