"""Sampling makes curves smaller, and never smaller than the truth."""

from __future__ import annotations

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest

from fgcif_flwr.errors import PrivacyError
from fgcif_flwr.privacy.accounting import ORDERS, poisson_sampled, skellam, zero_curve
from tests.integer_noise import divergence, shifted, skellam_log

RATES = [0.001, 0.05, 0.3, 0.9]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("variance", "shift"), [(1, 1), (4, 3), (30, 2)])
def test_a_sampled_curve_is_at_least_the_exact_divergence_in_both_directions(rate, variance, shift):
    known = 33
    present, absent = shifted(skellam_log(variance, 60 + 8 * known), shift)
    # The exact curve, so that the noise's own bound leaves no room; nothing known above.
    exact = np.full(len(ORDERS), np.inf)
    for place, order in enumerate(ORDERS[: known - 1]):
        exact[place] = divergence(present, absent, order)
    sampled = poisson_sampled(exact, rate)
    mixed = np.logaddexp(math.log1p(-rate) + absent, math.log(rate) + present)
    for place, order in enumerate(ORDERS[: known - 1]):
        # At order 2 the bound is the truth itself, hence the room for rounding.
        assert sampled[place] >= divergence(mixed, absent, order) * (1 - 1e-9)
        assert sampled[place] >= divergence(absent, mixed, order) * (1 - 1e-9)
    assert np.all(np.isinf(sampled[known - 1 :]))


def published(divergences: dict[int, float], rate: float, order: int) -> float:
    """The upper bound of Zhu and Wang, term by term, with many digits."""
    with mpmath.workdps(80):
        q = mpmath.mpf(rate)
        total = (1 - q) ** (order - 1) * (order * q - q + 1)
        for k in range(2, order + 1):
            factor = mpmath.binomial(order, k) * (1 if k == 2 else 3)
            moment = mpmath.exp((k - 1) * mpmath.mpf(divergences[k]))
            total += factor * (1 - q) ** (order - k) * q**k * moment
        return float(mpmath.log(total) / (order - 1))


@pytest.mark.parametrize("rate", [1e-12, 1e-4, *RATES])
@pytest.mark.parametrize("deviation", [0.7, 3.0, 40.0])
def test_a_sampled_curve_is_the_published_bound(rate, deviation):
    whole = np.array(ORDERS) / (2 * deviation**2)
    sampled = poisson_sampled(whole, rate)
    every = {order: order / (2 * deviation**2) for order in range(2, 1025)}
    for order in (2, 3, 5, 17, 64, 128, 208, 512, 1024):
        expected = min(published(every, rate, order), every[order])
        found = sampled[ORDERS.index(order)]
        assert found >= expected * (1 - 1e-12)
        assert found <= expected * (1 + 1e-8 if order <= 128 else 1.01)


@pytest.mark.parametrize("rate", RATES)
def test_sampling_never_costs_more_than_taking_part_always(rate):
    huge = [np.full(len(ORDERS), value) for value in (1e308, np.inf)]
    for whole in (skellam(1, 1, 0.5), skellam(1000, 30_000, 1e8), *huge):
        sampled = poisson_sampled(whole, rate)
        assert np.all(sampled <= whole)
        assert not np.isnan(sampled).any()
    assert np.array_equal(poisson_sampled(zero_curve(), rate), zero_curve())


def test_a_rate_of_one_leaves_the_curve_as_it_is():
    whole = skellam(3, 5, 40)
    sampled = poisson_sampled(whole, 1)
    assert np.array_equal(sampled, whole)
    assert sampled is not whole


def test_a_curve_rises_with_the_rate():
    whole = skellam(1, 1, 9)
    rates = (1e-300, 1e-9, *RATES, 1 - 1e-15, 1)
    curves = [poisson_sampled(whole, rate) for rate in rates]
    for less, more in pairwise(curves):
        assert np.all(less <= more * (1 + 1e-8))


@pytest.mark.parametrize("rate", [0, -0.1, 1.0001, math.inf, math.nan])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(PrivacyError, match="sampling rate"):
        poisson_sampled(skellam(1, 1, 9), rate)
