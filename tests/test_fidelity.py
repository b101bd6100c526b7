"""The measures of likeness and usefulness tell tables apart as they should."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import DataError
from fgcif_flwr.generative.fidelity import Fidelity, compare_tables
from fgcif_flwr.generative.fidelity.discriminator import discriminate
from fgcif_flwr.generative.fidelity.overlap import shared_ids, shared_rows
from fgcif_flwr.generative.fidelity.pairs import pair_trends
from fgcif_flwr.generative.fidelity.shapes import column_shapes
from fgcif_flwr.generative.fidelity.utility import BOOSTING, LINEAR, utility
from fgcif_flwr.models.baselines import logistic_regression
from fgcif_flwr.reporting.run_directory import dumps
from tests import learnable_tables
from tests.learnable_tables import learnable_table, with_targets
from tests.simulated_crowds import LAYOUT, crowd, shuffled


@pytest.fixture(scope="module")
def fresh() -> Fidelity:
    """Rows of the same law, as a perfect generator would give them."""
    return compare_tables(LAYOUT, crowd(800, 1), crowd(800, 3), crowd(300, 2), seed=0)


@pytest.fixture(scope="module")
def independent() -> Fidelity:
    train = crowd(800, 1)
    return compare_tables(LAYOUT, train, shuffled(train, 5), crowd(300, 2), seed=0)


def test_rows_of_the_same_law_are_as_like_as_rows_held_out(fresh: Fidelity) -> None:
    assert fresh.rows == {"real": 800, "synthetic": 800, "held_out": 300}
    assert fresh.shape_similarity > 0.95
    assert fresh.pair_similarity > 0.95
    # 800 fresh rows are a better picture of the law than 300 held out.
    assert fresh.shape_similarity > fresh.shape_similarity_held_out > 0.9
    assert fresh.pair_similarity > fresh.pair_similarity_held_out > 0.9
    assert fresh.discriminator.interval[0] < 0.5 < fresh.discriminator.interval[1]
    assert all(abs(task.gap) < 0.03 for task in fresh.utility)


def test_shuffled_columns_keep_shapes_and_lose_trends_and_usefulness(
    fresh: Fidelity, independent: Fidelity
) -> None:
    assert independent.shape_similarity > 0.999
    assert independent.pair_similarity < fresh.pair_similarity - 0.05
    assert independent.discriminator.auc > 0.7
    assert all(task.gap > 0.2 for task in independent.utility)


def test_a_result_is_decided_by_its_seed_and_is_plain_json(fresh: Fidelity) -> None:
    again = compare_tables(LAYOUT, crowd(800, 1), crowd(800, 3), crowd(300, 2), seed=0)
    assert again == fresh
    told = json.loads(dumps(fresh.as_dict()))
    assert {"rows", "shapes", "pairs", "utility", "closeness", "membership"} <= set(told)
    assert {"similarity", "distance"} <= set(told["shapes"][0])
    assert {"metric", "gap", "real", "synthetic"} <= set(told["utility"][0])
    assert told["signs_of_memorisation"] == []


def test_a_shifted_number_and_a_lost_category_are_found_in_their_columns() -> None:
    real = crowd(1000, 1)
    numeric, codes = real.numeric.copy(), real.categorical.copy()
    numeric[:, 2] **= 2
    codes[codes[:, 0] == 4, 0] = 3
    other = EncodedTable(numeric, real.missing, codes, real.targets)
    shapes = {shape.name: shape for shape in column_shapes(LAYOUT, real, other)}
    moved = {name for name, shape in shapes.items() if shape.distance > 0}
    assert moved == {"c", "plan"}
    lost = (real.categorical[:, 0] == 4).mean()
    assert shapes["plan"].distance == pytest.approx(lost)
    # KS of U and U squared by the definition: the greatest gap of the two distribution functions
    grid = np.concatenate([real.numeric[:, 2], numeric[:, 2]])
    gaps = [(real.numeric[:, 2] <= x).mean() - (numeric[:, 2] <= x).mean() for x in grid]
    assert shapes["c"].distance == pytest.approx(np.abs(gaps).max())


def test_missing_rates_count_against_a_column_of_numbers() -> None:
    real = crowd(1000, 1)
    nothing_missing = EncodedTable(
        real.numeric, np.zeros_like(real.missing), real.categorical, real.targets
    )
    shape = column_shapes(LAYOUT, real, nothing_missing)[0]
    assert shape.missing_real == pytest.approx(0.1, abs=0.03)
    assert shape.missing_synthetic == 0
    assert shape.similarity <= 1 - shape.missing_real


def test_trends_are_spearmans_correlation_and_cramers_v() -> None:
    rng = np.random.default_rng(0)
    layout = FeatureLayout(("x", "y"), ("p", "q"), (6, 6), ())
    number = rng.random(2000)
    code = rng.integers(2, 6, 2000)

    def table(y: np.ndarray, q: np.ndarray) -> EncodedTable:
        numeric = np.stack([number, y], axis=1).astype(np.float32)
        return EncodedTable(numeric, np.zeros_like(numeric), np.stack([code, q], axis=1), {})

    tied = table(number**3, code)
    loose = table(rng.random(2000), rng.integers(2, 6, 2000))
    trends = {(t.first, t.second): t for t in pair_trends(layout, tied, loose)}
    numbers, words = trends["x", "y"], trends["p", "q"]
    assert numbers.real == pytest.approx(1.0)  # monotone, whatever the curve
    assert abs(numbers.synthetic) < 0.08
    assert numbers.similarity == pytest.approx(1 - (1 - numbers.synthetic) / 2)
    assert words.real == pytest.approx(1.0)
    assert words.synthetic < 0.08
    # all mass on 4 cells against 16 alike ones: 3 quarters of it must move
    assert words.similarity == pytest.approx(0.25, abs=0.05)
    assert (trends["x", "p"].measure, numbers.measure) == ("association", "correlation")


def test_every_target_is_learnt_by_both_families_and_counted_on_held_out_rows() -> None:
    train, test = learnable_table(600, 0), learnable_table(300, 1)
    tasks = utility(learnable_tables.LAYOUT, train, train, test, 0)
    assert [(task.target, task.model) for task in tasks] == [
        (name, model) for name in ("churn", "segment", "value") for model in (LINEAR, BOOSTING)
    ]
    assert all(task.gap == 0 for task in tasks)
    main = {(task.target, task.model): task.real[task.metric] for task in tasks}
    assert main["churn", LINEAR] > 0.95
    assert main["segment", BOOSTING] > 0.9
    assert main["value", BOOSTING] > 0.9
    # the same model as the baseline of simulations
    _, baseline = logistic_regression(train, test, learnable_tables.LAYOUT)
    assert main["churn", LINEAR] == pytest.approx(baseline.metrics["churn"]["auc"], abs=0.005)


def test_a_table_of_one_class_teaches_nothing() -> None:
    train, test = learnable_table(300, 0), learnable_table(200, 1)
    one = with_targets(
        train,
        churn=np.where(np.arange(300) < 150, np.nan, 1).astype(np.float32),
        segment=np.full(300, 2),
        value=np.full(300, np.nan, np.float32),
    )
    for real, synthetic in ((train, one), (one, train)):
        for task in utility(learnable_tables.LAYOUT, real, synthetic, test, 0):
            ours, theirs = (
                (task.real, task.synthetic) if real is train else (task.synthetic, task.real)
            )
            assert ours[task.metric] > 0.7
            assert theirs["rows"] == ours["rows"]
            assert np.isnan([theirs[task.metric], task.gap]).all()


def test_columns_without_any_value_are_measured() -> None:
    def emptied(table: EncodedTable, places: list[int]) -> EncodedTable:
        numeric, missing = table.numeric.copy(), table.missing.copy()
        numeric[:, places], missing[:, places] = 0, 1
        return EncodedTable(numeric, missing, table.categorical, table.targets)

    real, made, test = crowd(100, 1), crowd(100, 3), crowd(40, 2)
    for tables in (
        (emptied(real, [1]), made, test),
        (real, emptied(made, [1]), test),
        tuple(emptied(table, [0, 1, 2, 3, 4]) for table in (real, made, test)),
    ):
        found = compare_tables(LAYOUT, *tables, seed=0)
        assert all(np.isfinite(task.gap) for task in found.utility)
        assert np.isfinite(found.discriminator.auc)


def test_rows_held_out_that_were_learnt_from_are_counted_and_twins_by_chance_are_not() -> None:
    train, other = crowd(200, 1), crowd(60, 2)
    assert shared_rows(LAYOUT, train, other) == 0
    assert shared_rows(LAYOUT, train, train.take(np.arange(60))) == 60
    half = EncodedTable.concatenate([train.take(np.arange(30)), other.take(np.arange(30))])
    assert shared_rows(LAYOUT, train, half) == 30
    # few columns of few values: nearly every customer has a twin
    words = FeatureLayout((), LAYOUT.categorical, LAYOUT.cardinalities, LAYOUT.heads)
    coarse = [
        EncodedTable(t.numeric[:, :0], t.missing[:, :0], t.categorical, t.targets)
        for t in (train, other)
    ]
    assert shared_rows(words, *coarse) == 0
    assert shared_ids(["a", None, "b"], ["b", None, "c", "b"]) == 2


def test_the_discriminator_is_right_about_rows_of_one_law_at_its_stated_rate() -> None:
    # 8 pairs of tables: more than 2 intervals of 95 % that miss have a probability of .6 %.
    missed = 0
    for seed in range(8):
        found = discriminate(
            LAYOUT, crowd(80, 2 * seed), crowd(80, 2 * seed + 1), np.random.default_rng(seed)
        )
        missed += not found.interval[0] <= 0.5 <= found.interval[1]
    assert missed <= 2


def test_without_rows_held_out_only_likeness_is_measured() -> None:
    found = compare_tables(LAYOUT, crowd(200, 1), crowd(200, 3), None, seed=0)
    assert (found.utility, found.closeness, found.membership) == ((), None, ())
    assert found.shape_similarity_held_out is None
    assert found.rows["held_out"] == 0


def test_tables_that_tell_nothing_are_refused() -> None:
    train, empty = crowd(100, 1), crowd(100, 1).take([])
    for tables in ((empty, train, None), (train, empty, None), (train, train, crowd(19, 2))):
        with pytest.raises(DataError):
            compare_tables(LAYOUT, *tables, seed=0)


def test_a_few_synthetic_rows_and_constant_columns_are_measured_without_a_word_of_warning() -> None:
    few = crowd(3, 4)
    flat = EncodedTable(
        np.zeros_like(few.numeric),
        np.ones_like(few.missing),
        np.zeros_like(few.categorical),
        {"churn": np.full(3, np.nan, np.float32)},
    )
    for synthetic in (few, flat):
        found = compare_tables(LAYOUT, crowd(60, 1), synthetic, crowd(40, 2), seed=0)
        assert np.isnan(found.discriminator.auc)
        assert found.closeness.rows_synthetic == 3
