"""SMOTE makes rows between neighbours of one class, and says no where it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout, Head
from fgcif_flwr.errors import ClassAbsentError, ConfigurationError, DataError
from fgcif_flwr.generative.columns import balanced
from fgcif_flwr.generative.smote import Smote
from tests import learnable_tables
from tests.learnable_tables import learnable_table, with_targets
from tests.simulated_crowds import LAYOUT, crowd


def sampled(table: EncodedTable, rows: int, layout: FeatureLayout = LAYOUT, **others):
    return Smote(layout, table).sample(rows, np.random.default_rng(1), **others)


def test_rows_lie_between_two_rows_of_one_class() -> None:
    # Two classes, each a line of its own: what is made lies on its class's line.
    layout = FeatureLayout(("x", "y"), (), (), (Head("churn", "binary", 1, ("no", "yes")),))
    steps = np.linspace(0.1, 0.9, 40)
    churn = np.repeat([0.0, 1.0], 20).astype(np.float32)
    numbers = np.stack([steps, np.where(churn > 0, 1 - steps, steps)], axis=1).astype(np.float32)
    table = EncodedTable(numbers, np.zeros_like(numbers), np.zeros((40, 0), int), {"churn": churn})
    made = sampled(table, 500, layout)
    line = np.where(made.targets["churn"] > 0, 1 - made.numeric[:, 0], made.numeric[:, 0])
    assert np.allclose(made.numeric[:, 1], line, atol=1e-6)
    assert made.numeric[:, 0].min() >= 0.1
    assert made.numeric[:, 0].max() <= 0.9
    # new values, not the 40 that are there
    assert len(np.unique(made.numeric[:, 0])) > 400


def test_categories_are_those_of_most_neighbours() -> None:
    layout = FeatureLayout(("x",), ("p",), (4,), ())
    numbers = np.array([[0.1], [0.11], [0.12], [0.13], [0.14], [0.15]], np.float32)
    codes = np.array([[3], [2], [2], [2], [2], [2]])
    table = EncodedTable(numbers, np.zeros_like(numbers), codes, {})
    assert set(sampled(table, 100, layout).categorical[:, 0]) == {2}
    tied = EncodedTable(numbers[:2], np.zeros((2, 1), np.float32), codes[:2], {})
    # one neighbour each, of the other code
    assert set(sampled(tied, 100, layout).categorical[:, 0]) == {2, 3}


def test_classes_are_as_learnt_or_as_asked() -> None:
    table = crowd(400, 1)
    share = float(table.targets["churn"].mean())
    # 4,000 draws: .04 is more than 5 standard deviations
    assert sampled(table, 4000).targets["churn"].mean() == pytest.approx(share, abs=0.04)
    equal = sampled(table, 4000, classes=balanced(LAYOUT))
    assert equal.targets["churn"].mean() == pytest.approx(0.5, abs=0.04)
    only = sampled(table, 50, classes={"churn": np.array([0.0, 3.0])})
    assert set(only.targets["churn"]) == {1.0}


def test_any_target_with_classes_can_be_asked_for() -> None:
    layout, table = learnable_tables.LAYOUT, learnable_table(300)
    made = sampled(table, 60, layout, classes={"segment": np.array([0, 1, 0.0])})
    assert set(made.targets["segment"]) == {1}
    assert set(np.unique(made.targets["churn"])) <= {0.0, 1.0}
    assert made.targets["value"].min() >= 0


def test_the_same_generator_makes_the_same_rows() -> None:
    one, other = sampled(crowd(200, 1), 50), sampled(crowd(200, 1), 50)
    assert np.array_equal(one.numeric, other.numeric)
    assert np.array_equal(one.categorical, other.categorical)


def test_missing_numbers_stay_missing_and_are_not_interpolated() -> None:
    made = sampled(crowd(500, 1), 2000)
    assert made.missing[:, 0].mean() == pytest.approx(0.1, abs=0.05)
    assert (made.numeric[made.missing > 0] == 0).all()
    assert not np.isnan(made.numeric).any()


def test_missing_labels_are_a_class_of_their_own() -> None:
    table = learnable_table(100)
    churn = table.targets["churn"].copy()
    churn[:40] = np.nan
    made = sampled(with_targets(table, churn=churn), 1000, learnable_tables.LAYOUT)
    assert np.isnan(made.targets["churn"]).mean() == pytest.approx(0.4, abs=0.08)


def test_a_lone_row_of_a_class_can_only_be_copied_and_no_rows_can_be_asked_for() -> None:
    table = crowd(50, 1).take([0])
    made = sampled(table, 5)
    assert np.array_equal(made.numeric, np.repeat(table.numeric, 5, axis=0))
    assert len(sampled(table, 0)) == 0


def test_what_cannot_be_made_is_refused() -> None:
    table = crowd(50, 1)
    with pytest.raises(DataError, match="at least one row"):
        Smote(LAYOUT, table.take([]))
    with pytest.raises(ConfigurationError, match="neighbour"):
        Smote(LAYOUT, table, neighbours=0)
    for shares in ([1.0], [0.0, 0.0], [-1.0, 2.0], [np.nan, 1.0]):
        with pytest.raises(ConfigurationError, match="proportions"):
            sampled(table, 5, classes={"churn": np.array(shares)})
    with pytest.raises(ConfigurationError, match="value"):
        sampled(table, 5, classes={"value": np.array([1.0, 1.0])})
    one_class = table.take(table.targets["churn"] == 0)
    with pytest.raises(ClassAbsentError):
        sampled(one_class, 5, classes={"churn": np.array([0.5, 0.5])})
