"""Epsilons and deltas hold by exact computation, and noise is calibrated to them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant

from fgcif_flwr.errors import PrivacyError
from fgcif_flwr.privacy.accounting import (
    ORDERS,
    calibrate,
    delta_of,
    epsilon_of,
    poisson_sampled,
    skellam,
    times,
    zero_curve,
)
from tests.integer_noise import exact_delta, shifted, skellam_log

RESOLUTION, SIZE = 1024, 1000
L2 = math.sqrt(RESOLUTION**2 + SIZE / 4)


def release(multiplier: float) -> np.ndarray:
    """The curve of one release of 1000 numbers at a fine resolution."""
    return skellam(L2, math.sqrt(SIZE) * L2, (multiplier * RESOLUTION) ** 2)


@pytest.mark.parametrize("releases", [1, 2])
@pytest.mark.parametrize(("variance", "shift"), [(2, 1), (20, 1), (9, 3)])
def test_the_exact_delta_is_within_the_one_that_is_stated(releases, variance, shift):
    p, q = shifted(skellam_log(variance, 150), shift)
    if releases == 2:
        p, q = (np.add.outer(one, one) for one in (p, q))
    curve = times(skellam(shift, shift, variance), releases)
    for epsilon in (0.05, 0.3, 1.0, 2.0, 5.0):
        assert delta_of(curve, epsilon) >= exact_delta(p, q, epsilon)
    for delta in (1e-2, 1e-5, 1e-9):
        assert exact_delta(p, q, epsilon_of(curve, delta)) <= delta


@pytest.mark.parametrize("delta", [1e-5, 1e-9])
@pytest.mark.parametrize(("multiplier", "releases"), [(1.0, 1), (4.0, 1), (8.0, 10), (50.0, 200)])
def test_fine_skellam_noise_costs_what_a_gaussian_does(multiplier, releases, delta):
    accountant = RdpAccountant(orders=ORDERS)
    accountant.compose(dp_accounting.GaussianDpEvent(multiplier), releases)
    gaussian = accountant.get_epsilon(delta)
    assert epsilon_of(times(release(multiplier), releases), delta) == pytest.approx(
        gaussian, rel=1e-3
    )


def test_epsilon_and_delta_undo_each_other():
    curve = times(release(5.0), 3)
    for delta in (1e-3, 1e-6, 1e-9):
        assert delta_of(curve, epsilon_of(curve, delta)) == pytest.approx(delta, rel=1e-6)


def test_nothing_released_costs_nothing_and_nothing_known_costs_everything():
    assert epsilon_of(zero_curve(), 1e-9) == 0
    assert delta_of(zero_curve(), 1e-3) == 0
    never = np.full(len(ORDERS), np.inf)
    assert epsilon_of(never, 1e-9) == math.inf
    assert delta_of(never, 100.0) == 1
    some = never.copy()
    some[5] = 0.1
    assert 0 < epsilon_of(some, 1e-5) < math.inf


def test_divergences_below_the_spacing_of_floats_are_converted():
    for least in (5e-324, 1e-18, 1e-15):
        assert 0 < delta_of(np.full(len(ORDERS), least), 1e-6) < 1e-6
        assert epsilon_of(np.full(len(ORDERS), least), 1e-5) == 0


@pytest.mark.parametrize("delta", [0, 1, -1e-5, 1.5, math.nan, math.inf])
def test_a_delta_that_is_no_probability_is_refused(delta):
    with pytest.raises(PrivacyError, match="delta is"):
        epsilon_of(zero_curve(), delta)
    with pytest.raises(PrivacyError, match="delta is"):
        calibrate(release, 1.0, delta)


@pytest.mark.parametrize("epsilon", [0, -1, math.nan, math.inf])
def test_an_epsilon_that_is_no_guarantee_is_refused(epsilon):
    with pytest.raises(PrivacyError, match="epsilon is"):
        delta_of(zero_curve(), epsilon)
    with pytest.raises(PrivacyError, match="epsilon is"):
        calibrate(release, epsilon, 1e-5)


@pytest.mark.parametrize("bad", [np.full(len(ORDERS), np.nan), np.full(len(ORDERS), -1.0), [0.0]])
def test_a_curve_that_is_none_is_not_converted(bad):
    with pytest.raises(PrivacyError, match="privacy curve"):
        epsilon_of(bad, 1e-5)
    with pytest.raises(PrivacyError, match="privacy curve"):
        delta_of(bad, 1.0)


@pytest.mark.parametrize("epsilon", [0.05, 1.0, 10.0])
@pytest.mark.parametrize("rate", [1.0, 0.02])
def test_calibrated_noise_is_the_least_of_four_digits_that_holds(epsilon, rate):
    def of(multiplier: float) -> np.ndarray:
        return times(poisson_sampled(release(multiplier), rate), 20)

    found = calibrate(of, epsilon, 1e-6)
    assert found == float(f"{found:.3e}")
    assert epsilon_of(of(found), 1e-6) <= epsilon
    step = 10.0 ** (math.floor(math.log10(found)) - 3)
    assert epsilon_of(of(found - step), 1e-6) > epsilon


def test_a_hundred_releases_at_epsilon_one_need_the_known_noise():
    # A Gaussian of multiplier z has the divergence a / 2z² at order a.
    def gaussian(multiplier: float) -> np.ndarray:
        return 100 * np.array(ORDERS) / (2 * multiplier**2)

    assert calibrate(gaussian, 1.0, 1e-5) == 40.46
    assert calibrate(lambda z: times(release(z), 100), 1.0, 1e-5) == 40.46


def test_what_is_calibrated_holds_even_where_more_noise_costs_more():
    def odd(multiplier: float) -> np.ndarray:
        cheap = 3 < multiplier < 5 or multiplier > 300
        return np.full(len(ORDERS), 0.01 if cheap else 50.0)

    found = calibrate(odd, 1.0, 1e-5)
    assert epsilon_of(odd(found), 1e-5) <= 1.0


def test_what_no_noise_can_give_is_refused():
    with pytest.raises(PrivacyError, match="no noise multiplier up to 9999000") as caught:
        calibrate(lambda multiplier: np.full(len(ORDERS), 3.0), 1.0, 1e-5)
    assert "\n" not in str(caught.value)


def test_accounting_is_imported_without_scipy():
    # In a deployment a process starts for every message, and few of them account.
    script = "import fgcif_flwr.privacy.accounting, sys; print('scipy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
