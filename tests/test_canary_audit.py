"""An adversary who knows all but one contribution learns no more of it than is charged.

All draws are from fixed keys. Each bound fails for at most a share `FALSE_ALARM` of all keys
(`tests/noise_checks.py`); the faults are found under the same bounds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, norm

from fgcif_flwr.audit.canary import AuditResult, audit_release
from fgcif_flwr.audit.rates import Scores, deviation_bound, epsilon_bound, gaussian_epsilon
from fgcif_flwr.errors import PrivacyError
from fgcif_flwr.privacy import noisy_sum
from fgcif_flwr.privacy.noisy_sum import Block, NoisySum
from tests.noise_checks import FALSE_ALARM, draws

CONFIDENCE = 1 - FALSE_ALARM
CANARIES = 128
DELTA = 1e-5


def keys(start: int = 0) -> Callable[[], np.random.Generator]:
    """Generators under keys that all differ."""
    numbers = itertools.count(start)
    return lambda: draws(next(numbers))


def audit(noise_multiplier: float, repetitions: int = 30_000, **how) -> AuditResult:
    """Audit a sum that holds many canaries at once, over two enterprises."""
    mechanism = NoisySum((Block("a", 2 * CANARIES),), CANARIES, noise_multiplier)
    asked = {"delta": DELTA, "honest": 2, "canaries": CANARIES, "generators": keys(), **how}
    return audit_release(mechanism, repetitions=repetitions, confidence=CONFIDENCE, **asked)


def audited(mechanism: NoisySum, repetitions: int, **how) -> AuditResult:
    """Audit with one canary in each sum, if not asked otherwise: that presumes nothing of noise."""
    asked = {"canaries": 1, "delta": DELTA, "honest": 2, "generators": keys(), **how}
    return audit_release(mechanism, repetitions=repetitions, confidence=CONFIDENCE, **asked)


Wrong = Callable[[Callable[..., np.ndarray], int, float, np.random.Generator], np.ndarray]


@pytest.fixture
def noise_is(monkeypatch) -> Callable[[Wrong], None]:
    """Replace the noise of every enterprise by one that is made from the right one."""
    right = noisy_sum.skellam

    def put(wrong: Wrong) -> None:
        monkeypatch.setattr(noisy_sum, "skellam", lambda *drawn: wrong(right, *drawn))

    return put


@pytest.mark.parametrize("noise_multiplier", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("releases", [1, 3])
@pytest.mark.parametrize("delta", [DELTA, 0.01])
def test_no_audit_shows_more_than_is_charged(noise_multiplier, releases, delta):
    found = audit(noise_multiplier, 10_000, releases=releases, delta=delta)
    assert found.lower_bound <= found.charged
    assert not found.fault
    assert found.gaussian_bound <= found.charged


def test_the_audit_of_a_right_mechanism_comes_near_to_what_is_charged():
    # Otherwise its silence would say little: a canary clipped too short, a share of noise too many.
    once, composed, by_rates = audit(1.0), audit(2.0, 10_000, releases=4), audit(1.0, delta=0.05)
    assert once.gaussian_bound > 0.75 * once.charged
    assert composed.gaussian_bound > 0.7 * composed.charged
    assert by_rates.lower_bound > 0.5 * by_rates.charged


def test_a_canary_over_blocks_of_different_weights_shows_all_that_is_charged_and_no_more():
    mechanism = NoisySum((Block("a", 3 * 64, weight=2.0), Block("b", 4 * 64)), 64, 1.0)
    found = audited(mechanism, 10_000, honest=3, canaries=64)
    assert 0.7 * found.charged < found.gaussian_bound <= found.charged
    assert found.lower_bound <= found.charged


def half(right, size, variance, generator):
    return right(size, variance / 4, generator)


def none(right, size, variance, generator):
    return np.zeros(size, dtype=np.int64)


class OneOfTwo:
    """Every second enterprise forgets its share."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, right, size, variance, generator):
        self.calls += 1
        return right(size, variance, generator) * (self.calls % 2)


@pytest.mark.parametrize(
    ("noise_multiplier", "releases"), [(1.0, 1), (2.0, 1), (5.0, 1), (2.0, 3), (5.0, 3)]
)
def test_noise_of_half_the_deviation_is_found(noise_is, noise_multiplier, releases):
    noise_is(half)
    repetitions = 60_000 if noise_multiplier * releases == 5.0 else 20_000
    found = audit(noise_multiplier, repetitions, releases=releases, delta=0.01)
    assert found.fault
    assert found.gaussian_bound > found.charged


@pytest.mark.parametrize("noise_multiplier", [1.0, 2.0, 5.0])
def test_noise_of_half_the_deviation_is_found_at_a_plans_own_delta_if_it_is_normal(
    noise_is, noise_multiplier
):
    noise_is(half)
    found = audit(noise_multiplier)
    assert found.gaussian_bound > found.charged


@pytest.mark.parametrize("noise_multiplier", [1.0, 2.0, 5.0])
def test_noise_that_is_absent_is_found(noise_is, noise_multiplier):
    noise_is(none)
    found = audit(noise_multiplier, 10_000)
    assert found.fault
    assert (found.tpr, found.fpr) == (1.0, 0.0)


def test_noise_that_is_absent_is_found_with_one_canary_a_sum(noise_is):
    mechanism = NoisySum((Block("a", 2),), 1, 2.0)
    assert not audited(mechanism, 300, delta=0.01).fault
    noise_is(none)
    assert audited(mechanism, 300, delta=0.01).fault


def test_one_share_of_two_that_is_missing_is_found(noise_is):
    noise_is(OneOfTwo())
    assert audit(1.0, 60_000, delta=0.05).fault
    found = audit(1.0)
    assert found.gaussian_bound > found.charged


def test_a_contribution_that_is_not_clipped_is_found(monkeypatch):
    def unclipped(self: NoisySum, chunk: dict[str, np.ndarray]) -> np.ndarray:
        return np.rint(np.hstack(list(chunk.values())) * self.resolution)

    monkeypatch.setattr(NoisySum, "_integers", unclipped)
    for noise_multiplier in (1.0, 2.0, 5.0):
        found = audit(noise_multiplier, 10_000, delta=0.01)
        assert found.fault
        assert found.gaussian_bound > found.charged


def test_noise_that_all_numbers_have_in_common_is_found(noise_is):
    noise_is(lambda right, size, *drawn: np.repeat(right(1, *drawn), size))
    assert audited(NoisySum((Block("a", 4),), 1, 2.0), 300, delta=0.01).fault


def test_noise_that_two_releases_have_in_common_is_found():
    mechanism = NoisySum((Block("a", 1),), 1, 2.0)
    how = {"repetitions": 300, "releases": 2, "delta": 0.01}
    assert audited(mechanism, **how, generators=lambda: draws(1)).fault
    assert not audited(mechanism, **how).fault


@pytest.mark.parametrize(
    "wrong",
    [
        {"honest": 0},
        {"releases": 0},
        {"canaries": 0},
        {"canaries": CANARIES + 1},
        {"repetitions": 2 * CANARIES - 1},
    ],
)
def test_an_audit_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        audit(1.0, **wrong)


def test_an_audit_at_a_delta_that_is_none_is_refused():
    with pytest.raises(PrivacyError, match="delta"):
        audit(1.0, delta=0.0)


def test_repetitions_are_rounded_up_and_half_of_them_tested():
    assert audit(1.0, 2 * CANARIES).repetitions == CANARIES
    assert audit(1.0, 2 * CANARIES + 1).repetitions == 2 * CANARIES
    assert audited(NoisySum((Block("a", 1),), 1, 1.0), 7).repetitions == 4


def test_rates_are_bounded_as_by_the_binomial_law():
    scores = Scores(np.arange(50) + 0.5, np.arange(50) - 29.5)
    rates = scores.above(np.array([10.0]), 0.9)
    assert (rates.tpr[0], rates.fpr[0]) == (40 / 50, 10 / 50)
    # at the bounds, what was seen or more of it has a probability of exactly 5 %
    assert binom.sf(39, 50, rates.least_tpr[0]) == pytest.approx(0.05)
    assert binom.cdf(10, 50, rates.most_fpr[0]) == pytest.approx(0.05)
    extreme = scores.above(np.array([-100.0, 100.0]), 0.9)
    assert extreme.most_fpr[0] == 1.0
    assert extreme.least_tpr[1] == 0.0
    assert extreme.least_tpr[0] == pytest.approx(0.05 ** (1 / 50))
    assert extreme.most_fpr[1] == pytest.approx(1 - 0.05 ** (1 / 50))


def test_bounds_hold_as_often_as_they_say_where_the_truth_is_known():
    # Randomised response is the tightest there is: rates p and 1 - p for p = e / (1 + e).
    rng = np.random.default_rng(1)
    truth, confidence, audits = 1.0, 0.8, 1000
    p = math.e / (1 + math.e)
    exceeded = 0
    for _ in range(audits):
        first, second = (
            Scores((rng.random(200) < p) * 1.0, (rng.random(200) < 1 - p) * 1.0) for _ in range(2)
        )
        chosen = first.best(lambda rates: epsilon_bound(rates, 0.0), confidence)
        exceeded += epsilon_bound(second.above(chosen, confidence), 0.0)[0] > truth
    assert exceeded > 0
    assert binom.sf(exceeded - 1, audits, 1 - confidence) > FALSE_ALARM


def test_delta_is_taken_off_what_is_seen():
    rates = Scores(np.ones(1000), np.zeros(1000)).above(np.array([0.5]), 0.95)
    least, most = rates.least_tpr[0], rates.most_fpr[0]
    assert epsilon_bound(rates, 0.1)[0] == pytest.approx(math.log((least - 0.1) / most))
    assert epsilon_bound(rates, 1 - 1e-9)[0] == -math.inf


@pytest.mark.parametrize("deviation", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("delta", [1e-5, 0.01])
def test_epsilon_of_two_normal_laws_is_where_their_divergence_is_delta(deviation, delta):
    epsilon = gaussian_epsilon(deviation, delta)

    def excess(x: float) -> float:
        return max(0.0, norm.pdf(x - deviation) - math.exp(epsilon) * norm.pdf(x))

    where = epsilon / deviation + deviation / 2
    assert quad(excess, where, where + 20)[0] == pytest.approx(delta, rel=1e-4)
    assert gaussian_epsilon(-1.0, delta) == 0.0
    assert gaussian_epsilon(delta, delta) == 0.0


def test_the_distance_of_two_normal_laws_is_found_from_any_threshold():
    rng = np.random.default_rng(2)
    scores = Scores(rng.normal(1.5, 1, 100_000), rng.normal(0, 1, 100_000))
    found = deviation_bound(scores.above(np.array([-0.5, 0.0, 0.7, 1.5, 2.0]), CONFIDENCE))
    assert np.all((found > 1.35) & (found <= 1.5))
