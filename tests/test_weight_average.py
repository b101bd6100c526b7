"""The mean of late weights."""

from __future__ import annotations

import numpy as np
import pytest

from fgcif_flwr.models.weight_average import WeightAverage


def test_the_mean_is_of_the_rounds_from_the_first_on():
    weights = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
    average = WeightAverage(first_round=4)
    for number, one in enumerate(weights):
        average.add(number, one)
    assert average.count == 5
    mean = average.mean()
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, weights[4:].mean(0), rtol=1e-6)


def test_no_round_that_counts_gives_no_mean():
    average = WeightAverage(first_round=3)
    average.add(2, np.ones(2, np.float32))
    assert (average.count, average.mean()) == (0, None)


def test_rounds_may_be_left_out_and_the_mean_is_a_copy():
    average = WeightAverage(first_round=1)
    average.add(1, np.array([1.0], np.float32))
    held = average.mean()
    held[:] = 9
    average.add(5, np.array([3.0], np.float32))
    assert average.mean().tolist() == [2.0]


def test_small_changes_are_not_lost_over_many_rounds():
    average = WeightAverage(first_round=0)
    for number in range(2000):
        average.add(number, np.array([1000 + 0.25 * (number % 2)], np.float32))
    assert average.mean()[0] == pytest.approx(1000.125, rel=1e-7)


def test_a_round_twice_and_another_length_are_refused():
    average = WeightAverage(first_round=0)
    average.add(3, np.ones(2, np.float32))
    with pytest.raises(ValueError, match="round 3 is not later than round 3"):
        average.add(3, np.ones(2, np.float32))
    with pytest.raises(ValueError, match="are wanted, not"):
        average.add(4, np.ones(1, np.float32))
