"""A sum of contributions changes by one customer's own integers, and carries its noise.

Tests of noise draw from fixed keys, with a false alarm of 10^-6 each (`tests/noise_checks.py`).
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fgcif_flwr.errors import CohortError, PrivacyError
from fgcif_flwr.privacy import accounting, noisy_sum
from fgcif_flwr.privacy.noise import LARGEST_VARIANCE, skellam, skellam_tail
from fgcif_flwr.privacy.noisy_sum import Block, NoisySum
from tests.noise_checks import draws, variance_is, variance_is_at_least

HONEST = 40
COHORT = 50


class Silent:
    """A generator whose Poisson variables are all their mean's floor, so that noise is zero."""

    def poisson(self, mean: float, size: int) -> np.ndarray:
        return np.full(size, int(mean), dtype=np.int64)


def simple(size: int, contributions: int = 100, noise_multiplier: float = 1.0) -> NoisySum:
    return NoisySum((Block("a", size),), contributions, noise_multiplier)


def silently(mechanism: NoisySum, *chunks: dict[str, np.ndarray]) -> np.ndarray:
    """The sum of the integers, without noise."""
    return mechanism.encode(chunks, HONEST, Silent())


def squared(integers: np.ndarray) -> int:
    return sum(int(one) ** 2 for one in integers)


def within_sensitivity(mechanism: NoisySum, integers: np.ndarray) -> bool:
    """Tell by whole numbers alone."""
    bound = Fraction(mechanism.resolution) ** 2 + Fraction(mechanism.size, 4)
    l1 = sum(abs(int(one)) for one in integers)
    return squared(integers) <= bound and l1 <= mechanism.l1


SPECIAL = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, 1 / 2048, 3 / 2048, 1e-3, 1e300, -1e300, 1.7976931348623157e308),
    *(3.4028234663852886e38, 1e-300, 5e-324, 1e-45, math.nan, math.inf, -math.inf),
)


@st.composite
def contributions(draw: st.DrawFn) -> tuple[NoisySum, dict[str, np.ndarray]]:
    """Draw one to three blocks and a few rows of them, numbers of every size among them."""
    rows = draw(st.integers(1, 5))
    blocks = []
    chunk = {}
    for name in "abc"[: draw(st.integers(1, 3))]:
        size = draw(st.integers(1, 12))
        dtype = np.dtype(draw(st.sampled_from(["f4", "f8"])))
        width = 8 * dtype.itemsize
        floats = st.floats(width=width, allow_nan=True, allow_infinity=True)
        with np.errstate(over="ignore"):
            special = st.sampled_from([float(dtype.type(one)) for one in SPECIAL])
        numbers = floats | special | st.floats(-1, 1, width=width)
        chunk[name] = draw(hnp.arrays(dtype, (rows, size), elements=numbers))
        blocks.append(Block(name, size, draw(st.sampled_from([1.0, 0.25, 3.0]))))
    return NoisySum(tuple(blocks), rows, 1.0), chunk


@given(contributions())
@settings(deadline=None, max_examples=300)
def test_taking_one_customer_out_changes_the_sum_by_that_customer_s_own_integers(drawn):
    mechanism, chunk = drawn
    whole = silently(mechanism, chunk)
    for row in range(len(chunk["a"])):
        without = {name: values.copy() for name, values in chunk.items()}
        for values in without.values():
            values[row] = 0
        alone = silently(mechanism, {name: values[row : row + 1] for name, values in chunk.items()})
        assert np.array_equal(whole - silently(mechanism, without), alone)
        assert within_sensitivity(mechanism, alone)


@given(contributions())
@settings(deadline=None, max_examples=100)
def test_the_sum_depends_neither_on_how_rows_are_divided_into_chunks_nor_on_their_order(drawn):
    mechanism, chunk = drawn
    whole = silently(mechanism, chunk)
    single = [{name: values[row : row + 1] for name, values in chunk.items()} for row in range(5)]
    assert np.array_equal(silently(mechanism, *single[::-1]), whole)


def test_rows_beyond_one_step_of_work_are_summed_alike(monkeypatch):
    mechanism = simple(7)
    rows = np.random.default_rng(0).normal(size=(100, 7))
    whole = silently(mechanism, {"a": rows})
    monkeypatch.setattr(noisy_sum, "_CHUNK", 22)
    assert np.array_equal(silently(mechanism, {"a": rows}), whole)


def test_a_row_that_rounding_makes_too_long_is_truncated():
    size = 4096
    mechanism = simple(size)
    row = np.full((1, size), 0.51 / mechanism.resolution)
    row[0, 0] = math.sqrt(1 - (np.square(row[0, 1:])).sum())
    assert squared(np.rint(row[0] * mechanism.resolution)) > mechanism.l2**2
    integers = silently(mechanism, {"a": row})
    assert within_sensitivity(mechanism, integers)
    assert not integers[1:].any()
    assert integers[0] == math.floor(row[0, 0] * mechanism.resolution)


@given(st.integers(0, 2**32 - 1), st.floats(0.4, 1.6))
@settings(deadline=None, max_examples=50)
def test_long_rows_of_small_numbers_stay_within_the_sensitivity(seed, centre):
    # About as many steps as `centre` everywhere: what rounding lengthens most.
    size = 1000
    mechanism = simple(size, contributions=1)
    rng = np.random.default_rng(seed)
    row = rng.normal(centre, 0.1, size) / mechanism.resolution
    row[0] = math.sqrt(max(0.0, 1 - np.square(row[1:]).sum()))
    assert within_sensitivity(mechanism, silently(mechanism, {"a": row[None]}))


def test_a_row_left_too_long_by_floating_point_is_shrunk_until_it_is_not(monkeypatch):
    clip = noisy_sum._clip

    def clumsy(values: np.ndarray, scale: float, out: np.ndarray) -> np.ndarray:
        return clip(values, scale * (1 + 2.0**-10), out)

    monkeypatch.setattr(noisy_sum, "_clip", clumsy)
    mechanism = simple(1)
    integers = silently(mechanism, {"a": np.array([[1.0]])})
    assert integers.tolist() == [mechanism.resolution]


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f8", "f2"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("factor", [0.25, 1.0, "largest"])
def test_a_contribution_is_clipped_to_norm_1_in_its_own_direction(dtype, sign, factor):
    direction = sign * np.array([3.0, -4.0, 0.0, 12.0]) / 13
    factor = float(np.finfo(dtype).max) if factor == "largest" else factor
    rows = (direction * factor)[None].astype(dtype)
    mechanism = simple(4)
    wanted = direction * min(factor, 1.0) * mechanism.resolution
    assert np.abs(silently(mechanism, {"a": rows}) - wanted).max() <= 0.5 + 0.3 * (dtype == "f2")


@pytest.mark.parametrize("largest", [-1e300, 1e300])
def test_one_huge_number_among_small_ones_is_all_that_is_left_of_a_contribution(largest):
    mechanism = simple(3)
    integers = silently(mechanism, {"a": np.array([[1.0, largest, -0.5]])})
    assert integers.tolist() == [0, math.copysign(mechanism.resolution, largest), 0]


@pytest.mark.parametrize("value", [np.True_, np.int8(1), np.uint64(2**63), np.int64(-1)])
def test_whole_numbers_are_contributions_too(value):
    mechanism = simple(1)
    integers = silently(mechanism, {"a": np.array([[value]])})
    assert integers.tolist() == [mechanism.resolution * (-1 if value < 0 else 1)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_customer_with_a_number_that_is_not_finite_contributes_nothing_at_all(bad):
    mechanism = NoisySum((Block("a", 2), Block("b", 3)), 3, 1.0)
    chunk = {"a": np.ones((3, 2)), "b": np.ones((3, 3), dtype=np.float32)}
    chunk["b"][1, 2] = bad
    good = {name: values[[0, 2]] for name, values in chunk.items()}
    assert np.array_equal(silently(mechanism, chunk), silently(mechanism, good))


def test_blocks_are_clipped_on_their_own_and_share_norm_1_by_their_weights():
    mechanism = NoisySum((Block("a", 1, weight=3.0), Block("b", 1, weight=4.0)), 1, 1.0)
    integers = silently(mechanism, {"a": np.array([[9.0]]), "b": np.array([[-0.5]])})
    assert integers.tolist() == [round(0.6 * 1024), -round(0.4 * 1024)]
    assert mechanism.scale("a") ** 2 + mechanism.scale("b") ** 2 == pytest.approx(1024**2)
    huge = NoisySum((Block("a", 1, weight=3e200), Block("b", 1, weight=4e200)), 1, 1.0)
    assert huge.scale("a") == pytest.approx(mechanism.scale("a"))


def test_no_more_rows_are_summed_than_the_cap_and_no_chunk_is_read_after_it():
    mechanism = simple(1, contributions=5)
    read = []

    def chunks():
        for number in range(9):
            read.append(number)
            yield {"a": np.ones((2, 1))}

    integers = mechanism.encode(chunks(), HONEST, Silent())
    assert integers.tolist() == [5 * mechanism.resolution]
    assert read == [0, 1, 2]


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [{"a": np.ones((0, 3))}],
        [{"a": np.full((4, 3), math.nan)}, {"a": np.full((4, 3), math.inf)}],
    ],
)
def test_noise_is_added_where_there_is_nothing_to_add_it_to(chunks):
    mechanism = simple(3)
    wanted = skellam(3, mechanism.variance / HONEST, draws(1))
    assert np.array_equal(mechanism.encode(chunks, HONEST, draws(1)), wanted)
    assert np.all(wanted != 0)


@pytest.mark.parametrize(
    "chunk",
    [
        {},
        {"a": np.ones((2, 3))},
        {"a": np.ones((2, 3)), "b": np.ones((2, 1)), "c": np.ones((2, 1))},
        {"a": np.ones((2, 4)), "b": np.ones((2, 1))},
        {"a": np.ones((2, 3)), "b": np.ones((3, 1))},
        {"a": np.ones((2, 3)), "b": np.ones(2)},
        {"a": np.array(1.0), "b": np.ones((2, 1))},
        {"a": np.ones((2, 3)), "b": np.ones((2, 1), dtype=object)},
        {"a": np.ones((2, 3)), "b": np.ones((2, 1), dtype=complex)},
    ],
)
def test_a_chunk_of_another_form_is_refused(chunk):
    mechanism = NoisySum((Block("a", 3), Block("b", 1)), 10, 1.0)
    good = {"a": np.ones((2, 3)), "b": np.ones((2, 1))}
    with pytest.raises(ValueError, match="block"):
        silently(mechanism, good, chunk)


@pytest.mark.parametrize(
    ("blocks", "contributions", "noise_multiplier"),
    [
        ((), 1, 1.0),
        ((Block("a", 1), Block("a", 2)), 1, 1.0),
        ((Block("a", 0),), 1, 1.0),
        ((Block("a", 1, weight=0.0),), 1, 1.0),
        ((Block("a", 1, weight=math.inf),), 1, 1.0),
        ((Block("a", 1),), 0, 1.0),
        ((Block("a", 1),), 1, 0.0),
        ((Block("a", 1),), 1, math.inf),
        ((Block("a", 1),), 2**43, 1.0),
    ],
)
def test_a_sum_that_makes_no_sense_is_refused(blocks, contributions, noise_multiplier):
    with pytest.raises(ValueError, match=r"block|contributions"):
        NoisySum(blocks, contributions, noise_multiplier)


@pytest.mark.parametrize(("size", "steps"), [(1, 1024), (4096, 1024), (4097, 2048), (10**6, 16384)])
def test_resolution_and_sensitivities_follow_from_the_size(size, steps):
    mechanism = simple(size, noise_multiplier=1.5)
    assert mechanism.resolution == steps
    assert mechanism.l2 == pytest.approx(math.sqrt(steps**2 + size / 4))
    assert mechanism.l2 <= steps * 1.0005
    assert mechanism.l1 == pytest.approx(min(math.sqrt(size) * mechanism.l2, mechanism.l2**2))
    assert mechanism.variance == (1.5 * steps) ** 2


def test_the_curve_is_that_of_skellam_noise_and_close_to_the_gaussian_one():
    mechanism = simple(5000, noise_multiplier=2.0)
    curve = mechanism.curve()
    wanted = accounting.skellam(mechanism.l2, mechanism.l1, mechanism.variance)
    assert np.array_equal(curve, wanted)
    gaussian = accounting.ORDERS[0] / (2 * 2.0**2)
    assert gaussian <= curve[0] <= 1.01 * gaussian


def test_the_decoded_sum_is_right_within_half_a_step_a_contribution():
    rng = np.random.default_rng(0)
    mechanism = NoisySum((Block("a", 20), Block("b", 5, weight=0.5)), 500, 1.0)
    chunk = {"a": rng.normal(0, 0.3, (500, 20)), "b": rng.normal(0, 0.1, (500, 5))}
    integers = silently(mechanism, chunk)
    decoded = mechanism.decode({"a": integers[:20] * 1.0, "b": integers[20:] * 1.0})
    for name, rows in chunk.items():
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        exact = (rows / np.maximum(norms, 1)).sum(axis=0)
        error = np.abs(decoded[name] - exact) * mechanism.scale(name)
        assert error.max() <= 500 / 2
        assert error.max() <= 6 * math.sqrt(500 / 12)  # it is not one-sided either


@pytest.mark.parametrize("size", [1, 64])
@pytest.mark.parametrize("cohort", [40, 50])
def test_no_word_wraps_where_all_rows_of_all_enterprises_are_at_their_most(size, cohort):
    mechanism = simple(size, contributions=300, noise_multiplier=0.7)
    layout = mechanism.layout(cohort, HONEST)
    form = layout.form(cohort)
    rows = np.zeros((300, size), dtype=np.float32)
    rows[:, 0] = np.finfo(np.float32).max
    for sign in (1, -1):
        own = silently(mechanism, {"a": sign * rows})
        assert own[0] == sign * 300 * mechanism.resolution
        most = cohort * own + sign * layout.noise
        summed = form.words(np.full(size, sign * layout.noise))
        for _ in range(cohort):
            summed = summed + form.words(own)
        assert np.array_equal(form.signed(form.reduce(summed)), most)
        assert np.array_equal(layout.decode(summed, form)["a"], most.astype(np.float64))
    assert form.bits <= 2 + int(np.abs(most).max()).bit_length()  # nor are they much too wide


def test_the_layout_s_noise_is_the_tail_of_the_whole_cohort_s():
    mechanism = NoisySum((Block("a", 2), Block("b", 3)), 10, 1.0)
    layout = mechanism.layout(COHORT, HONEST)
    assert layout.noise == skellam_tail(mechanism.variance * COHORT / HONEST, 5)
    assert [(field.name, field.size, field.exact) for field in layout.fields] == [
        ("a", 2, True),
        ("b", 3, True),
    ]


def test_a_layout_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="does not hold"):
        simple(1).layout(39, 40)
    with pytest.raises(ValueError, match="at least 1"):
        simple(1).layout(39, 0)
    with pytest.raises(PrivacyError, match="cannot be drawn"):
        simple(1, noise_multiplier=2 * math.sqrt(LARGEST_VARIANCE) / 1024).layout(1, 1)
    with pytest.raises(CohortError, match="63"):
        simple(1, contributions=2**42).layout(2**20, 2**20)


def noises(mechanism: NoisySum, count: int) -> list[np.ndarray]:
    """The noise of as many enterprises, each under a key of its own."""
    return [mechanism.encode((), HONEST, draws(100 + number)) for number in range(count)]


@pytest.fixture(scope="module")
def noise_of_a_cohort() -> tuple[NoisySum, list[np.ndarray]]:
    mechanism = simple(300_000, contributions=1, noise_multiplier=0.8)
    return mechanism, noises(mechanism, COHORT)


@pytest.mark.parametrize("lost", [0, 3, 5, 10])
def test_survivors_carry_at_least_the_noise_that_was_promised(noise_of_a_cohort, lost):
    # In 300,000 values one of forty shares missing would be seen.
    mechanism, noise = noise_of_a_cohort
    promised = (0.8 * mechanism.resolution) ** 2
    for survivors in (noise[lost:], noise[: COHORT - lost]):
        assert variance_is_at_least(np.sum(survivors, axis=0), promised)
    total = np.sum(survivors, axis=0)
    assert variance_is(total, promised * (COHORT - lost) / HONEST)
    decoded = mechanism.decode({"a": total.astype(np.float64)})["a"]
    assert variance_is(decoded * 1e6, (1e6 * mechanism.noise_deviation("a", 50 - lost, 40)) ** 2)


def test_the_same_check_sees_noise_that_is_halved_absent_or_one_share_short(noise_of_a_cohort):
    mechanism, noise = noise_of_a_cohort
    exactly = noise[:HONEST]
    assert variance_is_at_least(np.sum(exactly, axis=0), mechanism.variance)
    assert not variance_is_at_least(np.sum(exactly[1:], axis=0), mechanism.variance)
    assert not variance_is_at_least(np.sum(exactly[: HONEST // 2], axis=0), mechanism.variance)
    assert not variance_is_at_least(np.sum(exactly, axis=0) // 2, mechanism.variance)
    assert not variance_is_at_least(np.zeros(mechanism.size), mechanism.variance)


def test_a_block_of_half_the_weight_has_twice_the_noise():
    mechanism = NoisySum((Block("a", 10_000, weight=2.0), Block("b", 10_000)), 1, 1.0)
    for opened in (HONEST, COHORT):
        total = np.sum(noises(mechanism, opened), axis=0).astype(np.float64)
        decoded = mechanism.decode({"a": total[:10_000], "b": total[10_000:]})
        for name, share in (("a", 2 / math.sqrt(5)), ("b", 1 / math.sqrt(5))):
            deviation = mechanism.noise_deviation(name, opened, HONEST)
            assert deviation == pytest.approx(math.sqrt(opened / HONEST) / share)
            assert variance_is(decoded[name] * 1e6, (1e6 * deviation) ** 2)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 0.3, 2.0)], ids=["alike", "weighed"])
@pytest.mark.parametrize("cap", [7, 100])
def test_places_of_single_ones_give_the_very_integers_of_their_rows(weights, cap, monkeypatch):
    monkeypatch.setattr(noisy_sum, "skellam", lambda size, *_: np.zeros(size, np.int64))
    blocks = tuple(
        Block(f"block-{i}", size, weight)
        for i, (size, weight) in enumerate(zip((3, 40, 5), weights, strict=True))
    )
    summing = NoisySum(blocks, cap, 1.0)
    rng = np.random.default_rng(3)
    places = [
        {block.name: rng.integers(0, block.size, rows) for block in blocks} for rows in (4, 5, 0)
    ]
    rows = [
        {block.name: np.eye(block.size)[chunk[block.name]] for block in blocks} for chunk in places
    ]
    counted = summing.encode(places, 1, rng)
    np.testing.assert_array_equal(counted, summing.encode(rows, 1, rng))
    assert counted.sum() > 0


def test_no_place_adds_more_than_its_block_may_hold(monkeypatch):
    """Many equal blocks round upwards together; the bound on the norm must hold all the same."""
    monkeypatch.setattr(noisy_sum, "skellam", lambda size, *_: np.zeros(size, np.int64))
    for count in (3, 10, 190, 325):
        blocks = tuple(Block(f"block-{i}", 9) for i in range(count))
        summing = NoisySum(blocks, 10, 1.0)
        one = {block.name: np.array([4]) for block in blocks}
        encoded = summing.encode([one], 1, np.random.default_rng(0)).astype(np.float64)
        assert np.linalg.norm(encoded) <= summing.l2
        assert np.linalg.norm(encoded) > 0.98 * summing.resolution


def test_places_outside_their_block_add_nothing_and_other_forms_are_refused(monkeypatch):
    monkeypatch.setattr(noisy_sum, "skellam", lambda size, *_: np.zeros(size, np.int64))
    summing = NoisySum((Block("a", 3), Block("b", 2)), 10, 1.0)
    rng = np.random.default_rng(0)
    outside = {"a": np.array([-1, 3]), "b": np.array([2, -5])}
    assert not summing.encode([outside], 1, rng).any()
    for chunk in (
        {"a": np.array([0])},
        {"a": np.array([0, 1]), "b": np.array([0])},
        {"a": np.array([0.0]), "b": np.array([0.0])},
    ):
        with pytest.raises(ValueError, match=r"block|places"):
            summing.encode([chunk], 1, rng)
