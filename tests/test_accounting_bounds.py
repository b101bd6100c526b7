"""Curves of integer noise are never below the exact divergence, and no looser than published."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from fgcif_flwr.errors import PrivacyError
from fgcif_flwr.privacy.accounting import (
    ORDERS,
    checked_curve,
    compose,
    discrete_gaussian_sum,
    skellam,
    times,
    zero_curve,
)
from tests.integer_noise import discrete_gaussian_sum_log, divergence, shifted, skellam_log

SMALL = [order for order in ORDERS if order <= 64]


def test_the_orders_are_those_that_ledgers_hold_curves_at():
    assert list(ORDERS) == sorted(set(ORDERS))
    assert ORDERS[:127] == tuple(range(2, 129))
    assert ORDERS[-1] == 2048
    digest = hashlib.sha256(",".join(map(str, ORDERS)).encode()).hexdigest()
    assert digest == "c0b04f4b5378a5a85ae1ce6d92a12b5c920091461946a60d203efa4360e13c9b"


@pytest.mark.parametrize("variance", [1, 3, 10, 100])
@pytest.mark.parametrize("shift", [1, 2, 3])
def test_a_skellam_curve_is_at_least_the_exact_divergence(variance, shift):
    p, q = shifted(skellam_log(variance, 60 + 8 * 64), shift)
    curve = skellam(shift, shift, variance)
    for place, order in enumerate(SMALL):
        assert curve[place] >= divergence(p, q, order)
        assert curve[place] >= divergence(q, p, order)


def test_a_skellam_curve_holds_for_a_vector_with_its_two_norms():
    # Coordinates are independent, so their divergences add up.
    noise = skellam_log(20, 600)
    vector = (1, 1, 1, 1, 3)
    curve = skellam(math.sqrt(13), 7, 20)
    for place, order in enumerate(SMALL):
        exact = sum(divergence(*shifted(noise, one), order) for one in vector)
        assert curve[place] >= exact


@pytest.mark.parametrize(
    ("l2_squared", "l1", "variance"),
    [(1, 1, 1), (9, 3, 7), (25, 25, 4), (2**20 + 250, 32_385, 2**24), (1, 1, Fraction(1, 100))],
)
def test_a_skellam_curve_is_the_published_bound(l2_squared, l1, variance):
    def published(a: int) -> Fraction:
        fine = Fraction((2 * a - 1) * l2_squared + 6 * l1) / (4 * variance * variance)
        return Fraction(a * l2_squared) / (2 * variance) + min(
            fine, Fraction(3 * l1) / (2 * variance)
        )

    expected = [float(published(order)) for order in ORDERS]
    assert skellam(math.sqrt(l2_squared), l1, float(variance)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("one", "terms"), [(0.25, 2), (0.25, 5), (0.3, 3), (0.5, 10), (2.0, 4)])
@pytest.mark.parametrize("shift", [1, 2, 3])
def test_a_curve_of_discrete_gaussians_is_at_least_the_exact_divergence(one, terms, shift):
    # At a quarter, a Gaussian's own curve is up to 6 % below the exact divergence.
    p, q = shifted(discrete_gaussian_sum_log(one * terms, terms, 80), shift)
    curve = discrete_gaussian_sum(shift, None, 1, one * terms, terms)
    for place, order in enumerate(ORDERS[:7]):
        # A single discrete Gaussian's bound is sharp, hence the room for rounding.
        assert curve[place] >= divergence(p, q, order) * (1 - 1e-12)
        assert curve[place] >= divergence(q, p, order) * (1 - 1e-12)


@pytest.mark.parametrize("l1", [None, 12.0])
@pytest.mark.parametrize(
    ("dimensions", "variance", "terms"),
    [(1, 1.0, 1), (100, 2.0, 4), (100, 4.0, 4), (10_000, 3.0, 10), (3, 0.6, 2)],
)
def test_a_curve_of_discrete_gaussians_is_the_published_bound(l1, dimensions, variance, terms):
    d2 = 6.0
    d1 = d2 * math.sqrt(dimensions) if l1 is None else l1
    v = mpmath.mpf(variance)
    t = 10 * mpmath.fsum(
        mpmath.exp(-2 * mpmath.pi**2 * v / terms * k / (k + 1)) for k in range(1, terms)
    )
    expected = [
        float(
            min(
                a * d2**2 / (2 * v) + t * dimensions,
                a / 2 * (d2**2 / v + 2 * d1 * t / mpmath.sqrt(v) + t**2 * dimensions),
                a / 2 * (d2 / mpmath.sqrt(v) + t * mpmath.sqrt(dimensions)) ** 2,
            )
        )
        for a in map(mpmath.mpf, ORDERS)
    ]
    found = discrete_gaussian_sum(d2, l1, dimensions, variance, terms)
    assert found == pytest.approx(expected, rel=1e-9)


def test_nothing_is_claimed_for_discrete_gaussians_too_narrow_for_the_proof():
    assert np.all(np.isinf(discrete_gaussian_sum(1, None, 1, 0.9, 4)))
    assert np.all(np.isfinite(discrete_gaussian_sum(1, None, 1, 0.9, 1)))


@pytest.mark.parametrize(
    ("l2", "l1", "variance"),
    [
        (2, 1, 1),  # the norms exchanged
        (-1, 1, 1),
        (1, math.inf, 1),
        (math.nan, 1, 1),
        (1, math.nan, 1),
        (1, 1, 0),
        (1, 1, -1),
        (1, 1, math.inf),
        (1, 1, math.nan),
    ],
)
def test_impossible_norms_and_variances_are_refused(l2, l1, variance):
    with pytest.raises(PrivacyError, match=r"norm|variance") as caught:
        skellam(l2, l1, variance)
    assert "\n" not in str(caught.value)
    with pytest.raises(PrivacyError, match=r"norm|variance"):
        discrete_gaussian_sum(l2, l1, 1, variance, 2)


@pytest.mark.parametrize(("dimensions", "terms"), [(0, 1), (1, 0)])
def test_noise_of_no_terms_or_no_dimensions_is_refused(dimensions, terms):
    with pytest.raises(PrivacyError, match="at least 1"):
        discrete_gaussian_sum(1, None, dimensions, 1, terms)


def test_a_contribution_of_nothing_costs_nothing():
    assert np.array_equal(skellam(0, 0, 1), zero_curve())
    assert np.array_equal(discrete_gaussian_sum(0, 0, 5, 0.1, 2), zero_curve())


def test_noise_too_small_for_floats_costs_everything_and_is_never_no_number():
    for tiny in (5e-324, 1e-300, 1e-160):
        assert np.all(skellam(1000, 30_000, tiny) > 1e150)
        assert not np.isnan(discrete_gaussian_sum(1000, None, 1, tiny, 1)).any()


def test_curves_of_releases_add_up():
    one, other = skellam(1, 1, 50), skellam(2, 4, 90)
    assert compose(one, other, one) == pytest.approx(2 * one + other)
    assert np.array_equal(compose(), zero_curve())
    assert np.array_equal(times(one, 7), one * 7)
    never = np.full(len(ORDERS), np.inf)
    assert np.array_equal(times(never, 0), zero_curve())
    assert np.array_equal(times(np.full(len(ORDERS), 1e308), 100), never)
    before = one.copy()
    compose(one, other)
    assert np.array_equal(one, before)


def test_a_curve_that_would_cost_too_little_is_refused():
    good = zero_curve()
    for wrong in (-1e-300, math.nan, -math.inf):
        bad = good.copy()
        bad[3] = wrong
        with pytest.raises(PrivacyError, match="at least 0"):
            compose(good, bad)
    with pytest.raises(PrivacyError, match="shape"):
        checked_curve(good[:-1])
    with pytest.raises(PrivacyError, match="count of releases"):
        times(good, -1)
