"""A CTGAN learns a table, says how its training went, and keeps a generator that works."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import ConfigurationError, DataError
from fgcif_flwr.generative.columns import balanced
from fgcif_flwr.generative.ctgan import (
    Check,
    CriticPrivacy,
    Ctgan,
    CtganSettings,
    fit_ctgan,
    training,
)
from fgcif_flwr.generative.ctgan.conditions import Conditions
from fgcif_flwr.generative.ctgan.diagnostics import coverage_of, divergence_of
from fgcif_flwr.generative.transform import TableTransform
from fgcif_flwr.models.baselines import logistic_regression
from tests.learnable_tables import CHURN_ONLY, LAYOUT, learnable_table, with_targets

QUICK = CtganSettings(steps=30, batch_size=40, check_every=10, generator_hidden=(32,))


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def table() -> EncodedTable:
    return churn_only(learnable_table(1500))


@pytest.fixture(scope="module")
def learnt(table: EncodedTable) -> Ctgan:
    return fit_ctgan(CHURN_ONLY, table, CtganSettings(steps=400, generator_hidden=(64, 64)), 0)


def churn_only(table: EncodedTable) -> EncodedTable:
    return EncodedTable(
        table.numeric, table.missing, table.categorical, {"churn": table.targets["churn"]}
    )


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_same(one: EncodedTable, other: EncodedTable) -> None:
    np.testing.assert_array_equal(one.numeric, other.numeric)
    np.testing.assert_array_equal(one.missing, other.missing)
    np.testing.assert_array_equal(one.categorical, other.categorical)
    for name, values in one.targets.items():
        np.testing.assert_array_equal(values, other.targets[name])


# What is learnt


def test_a_model_of_sampled_rows_is_nearly_as_good_as_one_of_the_table(learnt, table):
    made = learnt.sample(1500, random())
    test = churn_only(learnable_table(1500, seed=1))
    of_table, of_made = (
        logistic_regression(rows, test, CHURN_ONLY)[1].metrics["churn"]["auc"]
        for rows in (table, made)
    )
    assert of_table > 0.95
    assert of_made > of_table - 0.05


def test_sampled_columns_look_like_the_tables(learnt, table):
    made = learnt.sample(4000, random())
    for column in range(2):
        known = made.numeric[made.missing[:, column] == 0, column]
        assert np.abs(np.quantile(known, [0.1, 0.5, 0.9]) - [0.1, 0.5, 0.9]).max() < 0.12
        assert made.missing[:, column].mean() == pytest.approx(0.1, abs=0.05)
        codes = np.arange(LAYOUT.cardinalities[column])
        share = (made.categorical[:, column, None] == codes).mean(axis=0)
        assert np.abs(share - 1 / len(codes)).max() < 0.08


def test_sampled_rows_are_not_copies(learnt, table):
    made = learnt.sample(1500, random())
    own = {row.tobytes() for row in table.numeric[table.missing.sum(axis=1) == 0]}
    assert not own & {row.tobytes() for row in made.numeric[made.missing.sum(axis=1) == 0]}


def test_healthy_training_covers_the_modes_and_keeps_its_last_generator(learnt):
    diagnostics = learnt.diagnostics
    assert diagnostics.divergence is None
    assert diagnostics.kept_step == 400
    assert [check.step for check in diagnostics.checks] == [100, 200, 300, 400]
    assert diagnostics.checks[-1].coverage == 1
    assert diagnostics.checks[-1].distance < 0.08
    assert diagnostics.epsilon is None


# Sampling


def test_classes_come_in_the_proportions_asked_for(learnt):
    for proportions, positives in (([0.5, 0.5], 500), ([0.25, 0.75], 750), ([3, 0], 0)):
        made = learnt.sample(1000, random(), {"churn": np.array(proportions, float)})
        assert made.targets["churn"].sum() == positives
    assert learnt.sample(7, random(), balanced(CHURN_ONLY)).targets["churn"].sum() in (3, 4)


def test_rows_of_a_class_look_like_that_class(learnt, table):
    made = learnt.sample(2000, random(), {"churn": np.array([0.5, 0.5])})
    positive = made.targets["churn"] == 1
    known = made.missing[:, 0] == 0
    own = table.missing[:, 0] == 0
    for wanted in (True, False):
        of_table = table.numeric[own & ((table.targets["churn"] == 1) == wanted), 0].mean()
        of_made = made.numeric[known & (positive == wanted), 0].mean()
        assert of_made == pytest.approx(of_table, abs=0.07)


def test_the_generator_decides_the_rows(learnt):
    assert_same(learnt.sample(300, random(3)), learnt.sample(300, random(3)))
    other = learnt.sample(300, random(4))
    assert (other.numeric != learnt.sample(300, random(3)).numeric).any()


def test_no_rows_can_be_asked_for(learnt):
    assert len(learnt.sample(0, random())) == 0
    assert len(learnt.sample(0, random(), balanced(CHURN_ONLY))) == 0
    with pytest.raises(ValueError, match="0 or more"):
        learnt.sample(-1, random())


@pytest.mark.parametrize(
    "classes",
    [
        {"value": [1.0]},
        {"churn": [1.0, 1, 1]},
        {"churn": [0.0, 0]},
        {"churn": [-1.0, 2]},
        {"churn": [np.nan, 1]},
        {"churn": [0.5, 0.5], "segment": [1, 0, 0]},
    ],
)
def test_proportions_that_cannot_be_are_refused(learnt, classes):
    with pytest.raises(ConfigurationError, match="proportions"):
        learnt.sample(10, random(), {name: np.array(given) for name, given in classes.items()})


def test_arrays_give_the_same_generator_back(learnt):
    stored = learnt.arrays()
    assert {array.dtype for array in stored.values()} <= {np.dtype("f4"), np.dtype("i8")}
    assert all(array.ndim == 1 for array in stored.values())
    again = Ctgan.from_arrays(CHURN_ONLY, stored)
    assert_same(again.sample(100, random()), learnt.sample(100, random()))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.pop("network.weights"),
        lambda a: a.update({"network.weights": a["network.weights"][1:]}),
        lambda a: a.update({"network.weights": a["network.weights"] * np.float32("nan")}),
        lambda a: a.update({"network.target_share": np.array([2], np.float32)}),
        lambda a: a.update({"network.widths": np.array([4, 0], np.int64)}),
        lambda a: a.update({"network.widths": np.array([4, 2**40], np.int64)}),
        lambda a: a.update({"network.widths": np.array([[4, 4]], np.int64)}),
        lambda a: a.pop("transform.0.mass"),
    ],
)
def test_arrays_of_no_generator_are_refused(learnt, change):
    stored = learnt.arrays()
    change(stored)
    with pytest.raises(DataError):
        Ctgan.from_arrays(CHURN_ONLY, stored)


@pytest.mark.parametrize("target_share", [0.0, 0.5, 1.0])
def test_a_generator_knows_which_conditions_it_was_trained_with(target_share):
    settings = replace(QUICK, target_share=target_share)
    learnt = fit_ctgan(LAYOUT, learnable_table(60), settings, 0)
    again = Ctgan.from_arrays(LAYOUT, learnt.arrays())
    assert_same(again.sample(40, random()), learnt.sample(40, random()))
    of_segment = {"segment": np.array([0.5, 0.25, 0.25])}
    made = again.sample(40, random(), of_segment).targets["segment"]
    np.testing.assert_array_equal(np.bincount(made), [20, 10, 10])


# Tables that are hard to learn from


def test_the_seed_decides_the_generator():
    table = learnable_table(60)
    one, same, other = (
        fit_ctgan(LAYOUT, table, QUICK, seed).arrays()["network.weights"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_training_leaves_the_global_generators_alone():
    states = torch.get_rng_state(), np.random.get_state()[1].tobytes()
    fit_ctgan(LAYOUT, learnable_table(30), replace(QUICK, steps=2), 0).sample(5, random())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tobytes() == states[1]


@pytest.mark.parametrize("pac", [1, 10])
@pytest.mark.parametrize("rows", [1, 2, 40])
def test_a_table_of_a_row_or_of_one_class_is_learnt(rows, pac):
    table = learnable_table(rows)
    table = with_targets(table, churn=np.ones(rows, np.float32))
    learnt = fit_ctgan(LAYOUT, table, replace(QUICK, pac=pac, dropout=0.5), 0)
    assert learnt.diagnostics.divergence is None
    made = learnt.sample(50, random())
    assert (made.targets["churn"] == 1).all()
    if rows == 1:
        np.testing.assert_array_equal(made.numeric, np.repeat(table.numeric, 50, axis=0))
    # A class that was never seen is given where it is asked for.
    assert learnt.sample(10, random(), balanced(LAYOUT)).targets["churn"].sum() == 5


def test_a_table_of_numbers_alone_is_learnt():
    layout = FeatureLayout(("age", "spend"), (), (), (LAYOUT.heads[2],))
    table = learnable_table(50)
    table = EncodedTable(
        table.numeric,
        table.missing,
        np.zeros((50, 0), np.int64),
        {"value": table.targets["value"]},
    )
    learnt = fit_ctgan(layout, table, QUICK, 0)
    assert learnt.sample(20, random()).categorical.shape == (20, 0)
    assert Conditions(learnt.transform).width == 0


def test_missing_labels_are_learnt_and_never_given_where_classes_are_asked_for():
    table = learnable_table(80)
    table = with_targets(table, churn=np.where(np.arange(80) % 2, np.nan, 1).astype(np.float32))
    learnt = fit_ctgan(LAYOUT, table, QUICK, 0)
    assert np.isnan(learnt.sample(200, random()).targets["churn"]).any()
    made = learnt.sample(50, random(), {"churn": np.array([0.0, 1])})
    assert (made.targets["churn"] == 1).all()


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="at least one row"):
        fit_ctgan(LAYOUT, learnable_table(0), QUICK, 0)


# Health


def test_training_that_explodes_is_stopped_and_gives_a_generator_that_works():
    wild = replace(
        QUICK, steps=200, critic_learning_rate=50.0, generator_learning_rate=1e-3, averaging=0.0
    )
    learnt = fit_ctgan(LAYOUT, learnable_table(100), wild, 0)
    diagnostics = learnt.diagnostics
    assert diagnostics.divergence in ("not finite", "critic exploded")
    assert diagnostics.checks[-1].step < 200
    assert diagnostics.kept_step < diagnostics.checks[-1].step
    assert np.isfinite(learnt.arrays()["network.weights"]).all()
    assert np.isfinite(learnt.sample(100, random()).numeric).all()


def test_a_training_that_diverges_gives_the_generator_of_its_last_healthy_step(monkeypatch):
    table = learnable_table(60)
    healthy = fit_ctgan(LAYOUT, table, replace(QUICK, steps=10), 0)
    monkeypatch.setattr(
        training, "divergence_of", lambda check, _: "collapsed" if check.step == 20 else None
    )
    diverged = fit_ctgan(LAYOUT, table, QUICK, 0)
    assert diverged.diagnostics.divergence == "collapsed"
    assert diverged.diagnostics.kept_step == 10
    one, other = (learnt.arrays()["network.weights"] for learnt in (healthy, diverged))
    np.testing.assert_array_equal(one, other)


def test_rows_are_of_the_averaged_generator():
    table = learnable_table(60)
    averaged, last = (
        fit_ctgan(LAYOUT, table, replace(QUICK, averaging=share), 0).arrays()["network.weights"]
        for share in (0.9, 0.0)
    )
    assert (averaged != last).any()


GOOD = Check(100, -0.3, 2.0, 5.0, 1.0, 0.02)


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (GOOD, None),
        (replace(GOOD, critic_loss=float("nan")), "not finite"),
        (replace(GOOD, generator_gradient_norm=float("inf")), "not finite"),
        (replace(GOOD, critic_loss=-1e5), "critic exploded"),
        (replace(GOOD, coverage=0.4), "coverage collapsed"),
    ],
)
def test_divergence_has_a_name(check, reason):
    assert divergence_of(check, [GOOD]) == reason


def test_low_coverage_at_the_start_is_no_collapse():
    assert divergence_of(replace(GOOD, coverage=0.2), []) is None
    assert divergence_of(replace(GOOD, coverage=0.2), [replace(GOOD, coverage=0.1)]) is None


def test_coverage_counts_the_common_cells_that_are_reached():
    table = learnable_table(400)
    transform = TableTransform.fit(LAYOUT, table, 0)
    _, cells = transform.codes(table, random())
    coverage, distance = coverage_of(transform, cells)
    assert coverage == 1
    assert distance < 0.05
    one_row = np.repeat(cells[:1], 400, axis=0)
    coverage, distance = coverage_of(transform, one_row)
    assert coverage < 0.4
    assert distance > 0.5


# Settings


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch_size": 25, "pac": 10},
        {"pac": 0},
        {"dropout": 1.0},
        {"averaging": 1.0},
        {"temperature": 0.0},
        {"critic_learning_rate": float("nan")},
        {"generator_hidden": ()},
        {"critic_hidden": (4, 0)},
        {"target_share": 1.5},
        {"max_categories": 2},
        {"privacy": CriticPrivacy(1.0), "pac": 10},
        {"privacy": CriticPrivacy(1.0), "dropout": 0.5},
    ],
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ConfigurationError, match="ctgan"):
        CtganSettings(**change)
