"""Federated CTGAN: the shared networks, local training, and the generator that comes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fgcif_flwr.errors import ConfigurationError, DataError, SecureSumError
from fgcif_flwr.generative.federated_ctgan import (
    Coordinator,
    FederatedCtgan,
    FederatedCtganSettings,
    check_input,
    input_shapes,
    load_vector,
    networks_of,
    parameter_count,
    to_vector,
    train_locally,
)
from fgcif_flwr.generative.federated_ctgan.class_conditions import RealRows
from tests.generated_tables import SMALL, exact_counts, learnt_auc
from tests.learnable_tables import CHURN_ONLY, LAYOUT, learnable_table

TABLE = learnable_table(400)
COUNTS = exact_counts(LAYOUT, TABLE)
NO_CLASSES = replace(LAYOUT, heads=LAYOUT.heads[2:])
TINY = replace(SMALL, local_epochs=1)


@pytest.fixture
def coordinator():
    return Coordinator(LAYOUT, SMALL, COUNTS, seed=1)


@pytest.mark.parametrize("layout", [LAYOUT, CHURN_ONLY, NO_CLASSES])
@pytest.mark.parametrize(
    "changes", [{}, {"pac": 3}, {"hidden": (5,), "critic_hidden": (7, 6, 5)}, {"max_categories": 3}]
)
def test_the_vectors_size_follows_from_layout_and_settings_alone(layout, changes):
    settings = replace(SMALL, **changes)
    few = exact_counts(layout, learnable_table(3, seed=5))
    nothing = {name: np.zeros_like(counts) for name, counts in few.items()}
    for counts in (exact_counts(layout, TABLE), few, nothing):
        networks = networks_of(layout, counts, settings, seed=0)
        assert to_vector(networks).shape == (parameter_count(layout, settings),)


def test_all_parties_build_the_same_networks_and_draw_nothing_from_elsewhere():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second = (to_vector(networks_of(LAYOUT, COUNTS, SMALL, seed=7)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert not np.array_equal(first, to_vector(networks_of(LAYOUT, COUNTS, SMALL, seed=8)))


def test_a_vector_comes_back_and_a_wrong_one_is_refused():
    networks = networks_of(LAYOUT, COUNTS, SMALL, seed=0)
    vector = np.arange(parameter_count(LAYOUT, SMALL), dtype=np.float32)
    load_vector(networks, vector)
    np.testing.assert_array_equal(to_vector(networks), vector)
    with pytest.raises(ValueError, match="shape"):
        load_vector(networks, vector[1:])
    with pytest.raises(ValueError, match="finite"):
        load_vector(networks, np.where(vector == 3, np.nan, vector).astype(np.float32))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden": ()},
        {"critic_hidden": (0,)},
        {"pac": 0},
        {"local_epochs": 0},
        {"temperature": 0.0},
        {"moments": float("nan")},
        {"averaging": 1.0},
        {"gradient_penalty": float("inf")},
        {"private_critic": "cubic"},
    ],
)
def test_settings_out_of_their_range_are_refused(changes):
    with pytest.raises(ConfigurationError, match=next(iter(changes))):
        FederatedCtganSettings(**changes)


def test_a_rounds_input_passes_its_own_check(coordinator):
    arrays = coordinator.input()
    check_input(arrays, LAYOUT, SMALL)
    shapes = {name: (array.dtype.str, len(array)) for name, array in arrays.items()}
    assert shapes == input_shapes(LAYOUT, SMALL)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("vector", None),
        ("vector", np.zeros(3, np.float32)),
        ("vector", np.full(parameter_count(LAYOUT, SMALL), np.nan, np.float32)),
        ("vector", np.full(parameter_count(LAYOUT, SMALL), 1e9, np.float32)),
        ("round", np.array([-1])),
        ("seed", np.array([1.0])),
        ("histogram/plan", np.array([1.0, 2.0, -1.0, 0.0])),
        ("histogram/plan", np.array([1.0, np.inf, 0.0, 0.0])),
        ("histogram/plan", np.zeros(5)),
        ("histogram/more", np.zeros(5)),
    ],
)
def test_a_malformed_input_is_refused(coordinator, name, array):
    arrays = {**coordinator.input(), name: array}
    if array is None:
        del arrays[name]
    with pytest.raises(SecureSumError):
        check_input(arrays, LAYOUT, SMALL)


def test_local_training_is_decided_by_its_seed(coordinator):
    arrays = coordinator.input()
    first, diagnostics = train_locally(arrays, LAYOUT, TINY, TABLE, seed=3)
    again, _ = train_locally(arrays, LAYOUT, TINY, TABLE, seed=3)
    other, _ = train_locally(arrays, LAYOUT, TINY, TABLE, seed=4)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert diagnostics.rows == 400
    assert diagnostics.steps == 7  # of 64 rows each
    assert np.isfinite(diagnostics.gradient_norm)
    np.testing.assert_array_equal(arrays["vector"], coordinator.vector)


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("pac", [1, 3])
def test_a_few_rows_are_enough_to_train_on(rows, pac):
    settings = replace(TINY, pac=pac)
    arrays = Coordinator(LAYOUT, settings, COUNTS, seed=1).input()
    update, diagnostics = train_locally(arrays, LAYOUT, settings, learnable_table(rows), seed=0)
    assert np.isfinite(update).all()
    assert np.abs(update).max() > 0
    assert diagnostics.rows == rows


def test_an_enterprise_without_rows_changes_nothing(coordinator):
    update, diagnostics = train_locally(coordinator.input(), LAYOUT, TINY, TABLE.take([]), seed=0)
    assert not update.any()
    assert update.shape == (parameter_count(LAYOUT, TINY),)
    assert diagnostics.rows == diagnostics.steps == 0


def test_training_that_leaves_the_finite_numbers_adds_nothing_to_the_sum(coordinator):
    wild = replace(TINY, gradient_penalty=1000.0, critic_learning_rate=1.0, local_epochs=1)
    arrays = coordinator.input()
    arrays["vector"] = np.full_like(arrays["vector"], 1e6)
    update, diagnostics = train_locally(arrays, LAYOUT, wild, TABLE, seed=0)
    assert not np.isfinite(diagnostics.gradient_norm)
    assert not update.any()


def test_real_rows_are_drawn_by_the_federations_shares_of_the_classes():
    networks = networks_of(CHURN_ONLY, exact_counts(CHURN_ONLY, TABLE), SMALL, seed=0)
    churn = TABLE.targets["churn"]
    share = churn.mean()
    own = TABLE.take(np.concatenate([np.flatnonzero(churn == 1), np.flatnonzero(churn == 0)[:10]]))
    matrix = networks.transform.forward(own, np.random.default_rng(0))
    real = RealRows(networks.conditions, torch.from_numpy(matrix))
    rows, wanted = real.draw(20_000, torch.Generator().manual_seed(0))
    assert torch.equal(networks.conditions.cells_of(rows)[:, 0], wanted.cells)
    drawn = float((wanted.cells == 2).float().mean())
    # Five standard deviations: fails by chance once in 10^6, were the seed not fixed.
    assert abs(drawn - share) < 5 * np.sqrt(share * (1 - share) / 20_000)
    assert float(real.probabilities().sum()) == pytest.approx(1)


def one_class_federation(rows_each=60, enterprises=8):
    """Enterprises of which every second one has churned customers only."""
    tables = []
    for index in range(enterprises):
        table = learnable_table(4 * rows_each, seed=100 + index)
        churn = table.targets["churn"] == 1
        tables.append(table.take(np.flatnonzero(churn) if index % 2 else np.arange(rows_each)))
    return [table.take(np.arange(min(len(table), rows_each))) for table in tables]


def test_enterprises_of_a_single_class_still_train_a_generator_that_knows_both():
    tables = one_class_federation()
    # The released counts are of all rows; half the enterprises see a single class.
    counts = exact_counts(CHURN_ONLY, learnable_table(800, 5))
    coordinator = Coordinator(CHURN_ONLY, SMALL, counts, seed=2)
    rows = sum(len(table) for table in tables)
    for number in range(6):
        arrays = coordinator.input()
        updates = [
            len(table) / rows * train_locally(arrays, CHURN_ONLY, SMALL, table, 100 * number + i)[0]
            for i, table in enumerate(tables)
        ]
        diagnosis = coordinator.add_update(np.sum(updates, axis=0))
    assert diagnosis.healthy
    assert diagnosis.coverage > 0.9
    made = coordinator.generator()
    taught = [learnt_auc(made.sample(4000, np.random.default_rng(draw))) for draw in range(3)]
    # 0.5 knows nothing, 0.97 is what real rows give.
    assert np.mean(taught) > 0.8


def generator(layout=LAYOUT):
    counts = exact_counts(layout, TABLE)
    return Coordinator(layout, SMALL, counts, seed=1).generator()


@pytest.mark.parametrize("layout", [LAYOUT, CHURN_ONLY, NO_CLASSES])
@pytest.mark.parametrize("rows", [0, 1, 5000])
def test_sampled_rows_are_of_the_layout(layout, rows):
    made = generator(layout).sample(rows, np.random.default_rng(0))
    assert len(made) == rows
    assert made.numeric.dtype == made.missing.dtype == np.float32
    assert ((made.numeric >= 0) & (made.numeric <= 1)).all()
    assert np.isin(made.missing, (0, 1)).all()
    assert (made.categorical >= 0).all()
    assert (made.categorical < np.array(layout.cardinalities)).all()
    assert set(made.targets) == {head.name for head in layout.heads}


def test_rows_come_in_the_released_shares_of_the_classes_or_in_those_asked_for():
    ours = generator()
    share = TABLE.targets["churn"].mean()
    made = ours.sample(20_000, np.random.default_rng(0))
    # Five standard deviations, one false alarm in 10^6.
    assert abs(made.targets["churn"].mean() - share) < 5 * np.sqrt(share * (1 - share) / 20_000)
    only = ours.sample(500, np.random.default_rng(0), {"churn": np.array([0.0, 1.0])})
    assert (only.targets["churn"] == 1).all()
    other = ours.sample(500, np.random.default_rng(0), {"segment": np.array([0.0, 0.0, 2.0])})
    assert (other.targets["segment"] == 2).all()


@pytest.mark.parametrize(
    "classes",
    [
        {"value": np.ones(1)},
        {"churn": np.ones(3)},
        {"churn": np.array([1.0, -1.0])},
        {"churn": np.zeros(2)},
        {"churn": np.ones(2), "segment": np.ones(3)},
    ],
)
def test_proportions_that_fit_no_target_are_refused(classes):
    with pytest.raises(ConfigurationError):
        generator().sample(10, np.random.default_rng(0), classes)


def test_a_stored_generator_samples_the_same_rows():
    ours = generator()
    arrays = ours.arrays()
    assert all(
        array.ndim == 1 and array.dtype in (np.float32, np.int64) for array in arrays.values()
    )
    again = FederatedCtgan.from_arrays(LAYOUT, SMALL, arrays)
    first, second = (one.sample(300, np.random.default_rng(5)) for one in (ours, again))
    np.testing.assert_array_equal(first.numeric, second.numeric)
    np.testing.assert_array_equal(first.categorical, second.categorical)
    np.testing.assert_array_equal(first.targets["value"], second.targets["value"])


@pytest.mark.parametrize(
    "changes",
    [
        {"generator": None},
        {"generator": np.zeros(4, np.float32)},
        {"generator": np.zeros(4)},
        {"transform.0.mass": np.zeros(3, np.float32)},
    ],
)
def test_arrays_of_no_generator_are_refused(changes):
    arrays = {**generator().arrays(), **changes}
    with pytest.raises(DataError):
        FederatedCtgan.from_arrays(
            LAYOUT, SMALL, {name: array for name, array in arrays.items() if array is not None}
        )
