"""The measures of closeness find copies and near-copies, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.generative.fidelity import compare_tables
from fgcif_flwr.generative.fidelity.closeness import closeness
from fgcif_flwr.generative.fidelity.distances import RowSpace
from fgcif_flwr.generative.fidelity.intervals import (
    auc_interval,
    difference_interval,
    share_interval,
)
from fgcif_flwr.generative.fidelity.membership import (
    attack,
    membership_attacks,
    true_positive_rate,
)
from fgcif_flwr.generative.smote import Smote
from tests.simulated_crowds import LAYOUT, crowd, shuffled

TRAIN, HELD_OUT = crowd(600, 1), crowd(300, 2)


def measured(synthetic: EncodedTable):
    space, random = RowSpace(LAYOUT, TRAIN), np.random.default_rng(0)
    near = closeness(space, TRAIN, HELD_OUT, synthetic, random)
    return near, membership_attacks(space, TRAIN, HELD_OUT, synthetic, random)


def test_distances_are_gowers() -> None:
    layout = FeatureLayout(("x", "y"), ("p", "wide"), (4, 1000), ())

    def row(x: float | None, y: float, p: int, wide: int) -> EncodedTable:
        return EncodedTable(
            np.array([[x or 0, y]], np.float32),
            np.array([[x is None, 0]], np.float32),
            np.array([[p, wide]]),
            {},
        )

    grid = [row(0.5 * k / 100, 0.2, 0, 0) for k in range(101)]
    space = RowSpace(layout, EncodedTable.concatenate(grid))
    base = row(0.25, 0.2, 2, 700)
    # x ranges from .005 to .495 between its 1 % and 99 % quantiles; y is constant, so as it is
    cases = [
        (row(0.25, 0.2, 2, 700), 0),
        (row(0.348, 0.2, 2, 700), 0.098 / 0.49),
        (row(0.99, 0.2, 2, 700), 1),
        (row(None, 0.2, 2, 700), 1),
        (row(0.25, 0.2, 3, 700), 1),
        (row(0.25, 0.3, 3, 701), 2.1),
    ]
    for other, expected in cases:
        assert space.nearest(other, base)[0][0] == pytest.approx(expected / 4, abs=1e-6)
        assert space.nearest(base, other)[0][0] == pytest.approx(expected / 4, abs=1e-6)
    missing = row(None, 0.2, 2, 700)
    assert space.nearest(missing, missing)[0][0] == 0


def test_the_nearest_row_is_found_whatever_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    space = RowSpace(LAYOUT, TRAIN)
    distances, places = space.nearest(HELD_OUT, TRAIN)
    monkeypatch.setattr("fgcif_flwr.generative.fidelity.distances._CELLS", 1500)
    monkeypatch.setattr("fgcif_flwr.generative.fidelity.distances._CACHED_CELLS", 700)
    again, same_places = space.nearest(HELD_OUT, TRAIN)
    assert np.array_equal(places, same_places)
    assert np.allclose(distances, again)
    for row in range(5):
        one = TRAIN.take([places[row]])
        assert space.nearest(HELD_OUT.take([row]), one)[0][0] == pytest.approx(distances[row])


def test_copies_are_found_by_every_measure() -> None:
    near, attacks = measured(TRAIN.take(np.random.default_rng(3).permutation(600)))
    assert near.copies_synthetic == 1
    assert near.copies_held_out == 0
    assert near.close_synthetic == 1
    assert near.close_held_out == pytest.approx(0.05, abs=0.01)
    # half as many rows are held out as were learnt from: half of the copies can be seen
    assert near.nearer_copied == 0.75
    assert near.nearer == pytest.approx(0.75, abs=0.05)
    for one in attacks:
        assert one.auc > 0.95
        assert one.advantage > 0.9
        assert one.tpr > 0.85


def test_fresh_rows_show_nobody() -> None:
    near, attacks = measured(crowd(600, 3))
    assert near.copies_synthetic == 0
    assert near.close_synthetic < 0.1
    assert near.nearer_interval[0] < 0.5 < near.nearer_interval[1]
    for one in attacks:
        assert one.auc_interval[0] < 0.5 < one.auc_interval[1]
        assert one.advantage_interval[0] < 0 < one.advantage_interval[1]
        assert one.tpr < 0.06


def test_shuffled_columns_show_nobodys_row_though_everybodys_values() -> None:
    near, attacks = measured(shuffled(TRAIN, 4))
    assert near.copies_synthetic == 0
    assert near.close_synthetic < 0.1
    assert all(one.advantage < 0.1 for one in attacks)


def test_smote_is_useful_and_shows_its_training_rows() -> None:
    synthetic = Smote(LAYOUT, TRAIN).sample(600, np.random.default_rng(5))
    found = compare_tables(LAYOUT, TRAIN, synthetic, HELD_OUT, seed=0)
    assert found.shape_similarity > 0.9
    assert all(task.gap < 0.03 for task in found.utility)
    assert set(found.signs_of_memorisation) == {"nearer", "attack-nearest", "attack-calibrated"}
    assert found.closeness.close_synthetic > 4 * found.closeness.close_held_out
    calibrated = found.membership[1]
    assert calibrated.auc > 0.65
    assert calibrated.tpr_interval[0] > 0.01


def test_one_copied_customer_in_twenty_is_seen_at_a_low_false_positive_rate() -> None:
    exposed = EncodedTable.concatenate([TRAIN.take(np.arange(30)), crowd(570, 7)])
    near, attacks = measured(exposed)
    assert near.copies_synthetic == pytest.approx(0.05)
    assert attacks[0].auc < 0.6  # the mean hides them
    assert attacks[0].tpr > 0.03


def test_attacks_on_rows_that_tell_nothing_give_alarms_at_their_stated_rate() -> None:
    # 40 worlds, two attackers and the nearer share: in each, more than 7 intervals that miss have
    # a probability of .06 % at 5 %, and of 1 % at 8 %.
    missed = {"nearest": 0, "calibrated": 0, "nearer": 0}
    for seed in range(40):
        train, other, made = (crowd(120, 1000 + 3 * seed + k) for k in range(3))
        space, random = RowSpace(LAYOUT, train), np.random.default_rng(seed)
        for one in membership_attacks(space, train, other, made, random):
            missed[one.attacker] += not one.advantage_interval[0] <= 0 <= one.advantage_interval[1]
        low, high = closeness(space, train, other, made, random).nearer_interval
        missed["nearer"] += not low <= 0.5 <= high
    assert max(missed.values()) <= 7


def test_auc_counts_ties_half_and_its_interval_covers() -> None:
    assert auc_interval(np.array([1.0, 2.0]), np.array([0.0, 1.0]))[0] == 0.875
    perfect, (low, high) = auc_interval(np.ones(50), np.zeros(50))
    assert (perfect, high) == (1.0, 1.0)
    assert 0.9 < low < 1
    assert np.isnan(auc_interval(np.zeros(0), np.ones(3))[0])
    # scores of unit normals .5 apart: the true area is Phi(.5 / sqrt 2) = .6382; 200 intervals of
    # 95 % miss more than 20 times with a probability of .1 %
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(200):
        low, high = auc_interval(rng.normal(0.5, 1, 80), rng.normal(0, 1, 60))[1]
        missed += not low < 0.6382 < high
    assert 1 <= missed <= 20


def test_intervals_of_shares_are_the_published_ones() -> None:
    # Newcombe 1998, table II, method 10: 56/70 against 48/80
    assert difference_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    # Wilson's for 81 of 263, Newcombe 1998 (single proportion), method 3
    assert share_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert share_interval(0, 20)[0] == 0


def test_the_rate_at_few_false_alarms_splits_ties_in_proportion() -> None:
    others = np.concatenate([np.zeros(98), np.ones(2)])
    assert true_positive_rate(np.ones(10), others) == pytest.approx(0.5)
    assert true_positive_rate(np.zeros(10), np.zeros(100)) == pytest.approx(0.01)
    assert true_positive_rate(np.full(10, 2.0), others) == 1


def test_the_threshold_of_an_advantage_is_not_chosen_on_the_rows_it_is_judged_on() -> None:
    # Chosen on the same rows, 20 guesses a side would show an advantage of about .2.
    rng = np.random.default_rng(2)
    found = [attack("nearest", rng.random(20), rng.random(20), rng).advantage for _ in range(30)]
    # the mean of 30 has a standard deviation below .035
    assert abs(np.mean(found)) < 0.12
