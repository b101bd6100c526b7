"""A CTGAN learns a table, says how its training went, and keeps a generator that works."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import ConfigurationError, DataError
from fgcif_flwr.generative.columns import balanced
from fgcif_flwr.generative.ctgan import Check, CriticPrivacy, Ctgan, CtganSettings, fit_ctgan
from fgcif_flwr.generative.ctgan.conditions import Conditions, RowsByCell
from fgcif_flwr.generative.ctgan.critic_loss import critic_loss
from fgcif_flwr.generative.ctgan.diagnostics import coverage_of, divergence_of
from fgcif_flwr.generative.ctgan.moments import SecondMoments
from fgcif_flwr.generative.ctgan.networks import Critic, SpanActivation
from fgcif_flwr.generative.ctgan.private_critic import noisy_histograms, row_gradients
from fgcif_flwr.generative.transform import Span, TableTransform
from fgcif_flwr.models.baselines import logistic_regression
from tests.learnable_tables import CHURN_ONLY, LAYOUT, learnable_table, with_targets

QUICK = CtganSettings(steps=30, batch_size=40, check_every=10, generator_hidden=(32,))
PRIVATE = replace(
    QUICK, steps=4, check_every=2, critic_hidden=(16,), privacy=CriticPrivacy(noise_multiplier=1.0)
)
SPANS = (Span(0, 1, "tanh"), Span(1, 3, "softmax"), Span(4, 2, "softmax"))
EVERYTHING = np.ones(6, np.bool_)


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


def torch_random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
    wild = replace(QUICK, steps=200, critic_rate=50.0, generator_rate=1e-3, averaging=0.0)
    learnt = fit_ctgan(LAYOUT, learnable_table(100), wild, 0)
    diagnostics = learnt.diagnostics
    assert diagnostics.divergence in ("not finite", "critic exploded")
    assert diagnostics.checks[-1].step < 200
    assert diagnostics.kept_step < diagnostics.checks[-1].step
    assert np.isfinite(learnt.arrays()["network.weights"]).all()
    assert np.isfinite(learnt.sample(100, random()).numeric).all()


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


# The parts


def test_cells_are_drawn_from_their_probabilities():
    activation = SpanActivation(SPANS, EVERYTHING)
    raw = torch.tensor([[0.3, 2.0, 1.0, 0.0, 0.0, 100.0]]).repeat(20_000, 1)
    logs = activation.log_probabilities(raw)[0]
    torch.testing.assert_close(logs[1:4], torch.log_softmax(raw[0, 1:4], 0))
    torch.testing.assert_close(logs[4:], torch.log_softmax(raw[0, 4:], 0))
    rows = activation.soft(raw, 0.2, torch_random())
    torch.testing.assert_close(rows[:, 0], torch.tanh(raw[:, 0]))
    torch.testing.assert_close(rows[:, 1:4].sum(1), torch.ones(20_000))
    share = np.bincount(rows[:, 1:4].argmax(1).numpy(), minlength=3) / 20_000
    # 6 standard deviations at most: a false alarm in 10^8
    assert np.abs(share - logs[1:4].exp().numpy()).max() < 6 * 0.5 / np.sqrt(20_000)


def test_a_forbidden_cell_is_never_drawn():
    allowed = np.array([True, False, True, False, True, False])
    activation = SpanActivation(SPANS, allowed)
    rows = activation.soft(torch.full((1000, 6), 3.0), 0.2, torch_random())
    assert rows[:, ~torch.from_numpy(allowed)].max() == 0


def test_what_is_passed_through_an_activation_has_gradients():
    activation = SpanActivation(SPANS, EVERYTHING)
    raw = torch.zeros(5, 6, requires_grad=True)
    (activation.soft(raw, 0.2, torch_random()) * torch.arange(6.0)).sum().backward()
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()
    assert (raw.grad[:, 0] == 0).all()  # it is weighted by 0 here
    assert (raw.grad[:, 1:].abs().sum(0) > 0).all()


def test_conditions_ask_for_rare_classes_more_often_than_they_are():
    table = learnable_table(1000)
    rare = np.where(np.arange(1000) < 20, 1, 0).astype(np.float32)
    transform = TableTransform.fit(LAYOUT, with_targets(table, churn=rare), 0)
    conditions = Conditions(transform, target_share=1.0)
    churn = conditions.columns.index(2 + 2)
    for evenly, share in ((False, 0.02), (True, np.log(21) / (np.log(21) + np.log(981)))):
        drawn = conditions.draw(20_000, random(), evenly)
        own = drawn.cells[drawn.columns == churn]
        assert set(own) == {1, 2}
        # 6 standard deviations: a false alarm in 10^8
        assert abs((own == 2).mean() - share) < 6 * np.sqrt(share * (1 - share) / len(own))
    vectors = conditions.draw(50, random(), True)
    np.testing.assert_array_equal(vectors.vectors.sum(axis=1), 1)


def test_a_condition_holds_of_the_rows_drawn_for_it():
    table = learnable_table(200)
    transform = TableTransform.fit(LAYOUT, table, 0)
    _, cells = transform.codes(table, random())
    conditions = Conditions(transform, target_share=0.5)
    by_cell = RowsByCell(conditions, cells)
    drawn = conditions.draw(5000, random(), evenly=True)
    rows = by_cell.draw(drawn, random(1))
    places = np.array(conditions.columns)[drawn.columns]
    np.testing.assert_array_equal(cells[rows, places], drawn.cells)
    # weights() says how often: 6 standard deviations of a count of 5000 at most
    expected = by_cell.weights()
    assert expected.sum() == pytest.approx(1)
    counts = np.bincount(rows, minlength=200)
    assert np.abs(counts - 5000 * expected).max() < 6 * np.sqrt(5000 * expected.max())
    own = conditions.of_rows(cells, random())
    np.testing.assert_array_equal(
        cells[np.arange(200), np.array(conditions.columns)[own.columns]], own.cells
    )


def test_the_moments_of_the_tables_own_rows_are_near():
    matrix = torch.from_numpy(random().standard_normal((4000, 3)).astype(np.float32))
    moments = SecondMoments(matrix, torch.full((4000,), 1 / 4000))
    assert abs(moments.distance(matrix).item()) < 0.01
    assert moments.distance(matrix + 0.5).item() > 0.2
    correlated = matrix.clone()
    correlated[:, 1] = matrix[:, 0]
    assert moments.distance(correlated).item() > 0.2


def test_chance_in_a_small_batch_is_no_distance():
    matrix = torch.from_numpy(random().standard_normal((4000, 3)).astype(np.float32))
    moments = SecondMoments(matrix, torch.full((4000,), 1 / 4000))
    parts = [moments.distance(part).item() for part in matrix.split(20)]
    error = np.std(parts) / np.sqrt(len(parts))
    assert abs(np.mean(parts)) < 4 * error  # a false alarm in 10^4


@pytest.mark.parametrize("pac", [1, 2])
def test_a_straight_critic_of_slope_one_has_no_penalty(pac):
    critic = Critic(4, (8,), pac, 0)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()
    rows = torch.ones(6, 4)
    # Flat everywhere: no distance, and a gradient whose norm is 0 instead of 1.
    assert critic_loss(critic, rows, rows + 1, 10.0, 0.0, torch_random()).item() == 10
    with torch.no_grad():
        critic.layers[0].bias.fill_(100.0)
        critic.layers[0].weight[0, 0] = 1.0
        critic.layers[1].weight[0, 0] = 1.0
    distance = critic_loss(critic, rows, rows + 1, 10.0, 0.0, torch_random()).item()
    assert distance == pytest.approx(1.0, abs=1e-4)


# Privacy


def test_a_rows_gradient_is_that_of_its_own_loss():
    critic = Critic(5, (8, 6), 1, 0)
    real, fake = torch.randn(7, 5, generator=torch_random(1)), torch.zeros(7, 5)
    between = torch.rand(7, 1, generator=torch_random(2))
    (gradients,) = row_gradients(critic, real, fake, between, 10.0)
    for row in range(7):
        there = (between[row] * real[row] + (1 - between[row]) * fake[row]).requires_grad_()
        (slope,) = torch.autograd.grad(critic(there[None]).sum(), there, create_graph=True)
        loss = critic(fake[row][None]) - critic(real[row][None]) + 10 * (slope.norm() - 1) ** 2
        expected = torch.autograd.grad(
            loss.sum(), list(critic.parameters()), allow_unused=True, materialize_grads=True
        )
        whole = torch.cat([part.reshape(-1) for part in expected])
        torch.testing.assert_close(gradients[row], whole, atol=1e-4, rtol=1e-4)


def test_noisy_histograms_are_the_tables_up_to_the_noise():
    table = learnable_table(2000)
    loud = CriticPrivacy(noise_multiplier=1.0, histogram_multiplier=1.0)
    made = noisy_histograms(LAYOUT, table, loud, random())
    expected = np.bincount(table.categorical[:, 0], minlength=4)
    # One of seven columns: the noise is root 7; 6 standard deviations
    assert np.abs(made["plan"] - expected).max() < 6 * np.sqrt(7)
    assert made["age"].shape == (65,)


def test_a_private_generator_states_what_it_cost():
    learnt = fit_ctgan(LAYOUT, learnable_table(200), PRIVATE, 0, noise=random())
    assert learnt.diagnostics.epsilon is not None
    assert 0.5 < learnt.diagnostics.epsilon < 20
    assert len(learnt.sample(30, random())) == 30
    quieter = replace(PRIVATE, privacy=CriticPrivacy(noise_multiplier=4.0))
    more = fit_ctgan(LAYOUT, learnable_table(200), quieter, 0, noise=random())
    assert more.diagnostics.epsilon < learnt.diagnostics.epsilon


def test_the_noise_decides_a_private_generator_and_is_cryptographic_unless_given():
    table = learnable_table(60)
    one, same, other, secret = (
        fit_ctgan(LAYOUT, table, PRIVATE, 0, noise=noise).arrays()["network.weights"]
        for noise in (random(1), random(1), random(2), None)
    )
    np.testing.assert_array_equal(one, same)
    assert len(other) != len(one) or (one != other).any()
    assert len(secret) != len(one) or (one != secret).any()


def test_the_width_of_a_private_generator_tells_nothing_of_the_rows():
    sizes = {
        len(fit_ctgan(LAYOUT, table, PRIVATE, 0, noise=random()).arrays()["network.weights"])
        for table in (learnable_table(60), learnable_table(60, seed=9).take(np.zeros(60, int)))
    }
    assert len(sizes) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch_size": 25, "pac": 10},
        {"pac": 0},
        {"dropout": 1.0},
        {"averaging": 1.0},
        {"temperature": 0.0},
        {"critic_rate": float("nan")},
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


@pytest.mark.parametrize("name", ["noise_multiplier", "clipping_norm", "delta"])
def test_privacy_out_of_range_is_refused(name):
    with pytest.raises(ConfigurationError, match=name):
        CriticPrivacy(**{"noise_multiplier": 1.0, name: 0.0})
