"""Local training: what it learns, what it leaves alone, and that a seed decides all of it."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from fgcif_flwr.config import ModelSection, TrainingSection
from fgcif_flwr.errors import ClassAbsentError
from fgcif_flwr.models.metrics import count_predictions, count_size, metrics_from_counts
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import load_arrays, named_arrays, to_vector
from fgcif_flwr.models.training import (
    balanced_class_weights,
    evaluate_counts,
    mean_loss,
    train_locally,
)
from tests.learnable_tables import (
    CHURN,
    CHURN_ONLY,
    LAYOUT,
    SEGMENT,
    VALUE,
    learnable_table,
    with_targets,
)

MODEL = ModelSection(hidden=(16, 8), embedding_dim=3, numeric_bins=4)


def trained(data, config=None, seed=0, layout=LAYOUT, model=MODEL, **options):
    """Return a network trained from fixed weights, and the summary."""
    network = build_network(layout, model, seed=0)
    return network, train_locally(
        network, data, config or TrainingSection(local_epochs=1), seed, **options
    )


def vector(network):
    return to_vector(named_arrays(network))


def initial():
    return vector(build_network(LAYOUT, MODEL, seed=0))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_all_three_kinds_of_target_are_learned(optimizer):
    rate, epochs = (0.01, 30) if optimizer == "adamw" else (0.03, 100)
    config = TrainingSection(local_epochs=epochs, learning_rate=rate, optimizer=optimizer)
    network, _ = trained(learnable_table(600), config)
    test = learnable_table(400, seed=1)
    outputs = network.outputs(test)
    metrics = {
        head.name: metrics_from_counts(
            head, count_predictions(head, outputs[:, where], test.targets[head.name])
        )
        for head, where in zip(LAYOUT.heads, network.head_slices, strict=True)
    }
    assert metrics["churn"]["auc"] > 0.9
    assert metrics["segment"]["accuracy"] > 0.85
    assert metrics["value"]["r2"] > 0.7


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    table, model = learnable_table(100), ModelSection(hidden=(16,), dropout=0.2)
    runs = [vector(trained(table, seed=seed, model=model)[0]) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()


def test_the_global_random_state_is_neither_read_nor_changed():
    table, model = learnable_table(100), ModelSection(hidden=(16,), dropout=0.2)
    torch.manual_seed(1)
    first = vector(trained(table, model=model)[0])
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = vector(trained(table, model=model)[0])
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_another_process_with_its_arrays_elsewhere_in_memory_gives_the_same_bits():
    program = (
        "import hashlib, sys, torch; torch.set_num_threads(1)\n"
        "from tests.test_training import trained, vector\n"
        "from tests.learnable_tables import learnable_table\n"
        "import numpy as np; hold = [np.zeros(n) for n in range(int(sys.argv[1]))]\n"
        "bits = vector(trained(learnable_table(101))[0]).tobytes()\n"
        "print(hashlib.sha256(bits).hexdigest())\n"
    )
    # Away from one thread sums may be split otherwise; the federation's processes use one.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        here = hashlib.sha256(vector(trained(learnable_table(101))[0]).tobytes()).hexdigest()
    finally:
        torch.set_num_threads(before)
    there = subprocess.run(
        [sys.executable, "-c", program, "37"], capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here


def test_rows_in_unaligned_memory_give_the_same_bits():
    table = learnable_table(64)
    raw = np.zeros(table.numeric.nbytes + 4, np.uint8)
    shifted = raw[4:].view(np.float32).reshape(table.numeric.shape)
    shifted[:] = table.numeric
    moved = type(table)(shifted, table.missing, table.categorical, table.targets)
    np.testing.assert_array_equal(vector(trained(table)[0]), vector(trained(moved)[0]))


def test_no_rows_change_nothing():
    network, summary = trained(learnable_table(5).take([]))
    assert (summary.rows, summary.steps, summary.loss) == (0, 0, 0.0)
    np.testing.assert_array_equal(vector(network), initial())


def test_fewer_rows_than_a_batch_are_one_step_and_the_last_batch_may_be_short():
    assert trained(learnable_table(5))[1].steps == 1
    config = TrainingSection(local_epochs=3, batch_size=32)
    summary = trained(learnable_table(70), config)[1]
    assert (summary.rows, summary.steps) == (70, 9)


def test_the_loss_reported_is_the_mean_over_rows_before_each_step():
    table = learnable_table(20)
    before = mean_loss(build_network(LAYOUT, MODEL, seed=0), table)
    assert trained(table)[1].loss == pytest.approx(before, rel=1e-5)


def test_a_row_without_a_label_teaches_that_head_nothing():
    table = learnable_table(64)
    blank = np.arange(64) % 2 == 0
    full = with_targets(
        table,
        churn=np.where(blank, np.nan, table.targets["churn"]).astype(np.float32),
        segment=np.where(blank, -1, table.targets["segment"]),
        value=np.where(blank, np.nan, table.targets["value"]).astype(np.float32),
    )
    # With rows that have no label at all, a full batch is the batch of the labelled rows.
    config = TrainingSection(local_epochs=1, batch_size=64)
    half = table.take(~blank)
    np.testing.assert_allclose(
        vector(trained(full, config)[0]), vector(trained(half, config)[0]), atol=1e-6
    )


def test_a_table_without_any_label_changes_nothing():
    table = learnable_table(40)
    nothing = with_targets(
        table,
        churn=np.full(40, np.nan, np.float32),
        segment=np.full(40, -1),
        value=np.full(40, np.nan, np.float32),
    )
    network, summary = trained(nothing)
    assert summary.loss == 0.0
    np.testing.assert_array_equal(vector(network), initial())


def test_class_weights_act_as_repeated_rows_do():
    table = learnable_table(60)
    positive = table.targets["churn"] == 1
    negatives, positives = table.take(~positive), table.take(positive)
    repeated = type(table).concatenate([negatives, positives, positives, positives])
    config = TrainingSection(local_epochs=1, batch_size=1000, optimizer="sgd", learning_rate=0.1)
    weights = {"churn": np.array([1.0, 3.0])}
    network, _ = trained(table, config, layout=CHURN_ONLY, class_weights=weights)
    other, _ = trained(repeated, config, layout=CHURN_ONLY)
    start = vector(build_network(CHURN_ONLY, MODEL, seed=0))
    # A mean over rows in both: the steps differ by the ratio of the numbers of rows alone.
    np.testing.assert_allclose(
        (vector(network) - start) * len(table), (vector(other) - start) * len(repeated), atol=2e-5
    )


def test_class_weights_of_categories_weigh_their_rows():
    table, config = learnable_table(60), TrainingSection(local_epochs=1, batch_size=60)
    only_first = {"segment": np.array([1.0, 0.0, 0.0])}
    layout = type(LAYOUT)(LAYOUT.numeric, LAYOUT.categorical, LAYOUT.cardinalities, (SEGMENT,))
    config = TrainingSection(local_epochs=40, learning_rate=0.01)
    network, _ = trained(table, config, layout=layout, class_weights=only_first)
    assert (network.outputs(table).argmax(axis=1) == 0).all()


def test_balanced_weights_give_every_class_the_same_total():
    weights = balanced_class_weights([80, 20])
    np.testing.assert_allclose(weights * [80, 20], [50, 50])


def test_balanced_weights_are_capped():
    assert balanced_class_weights([1000, 1], cap=7).tolist() == [pytest.approx(0.5005), 7.0]


def test_balanced_weights_of_an_absent_class_are_refused_naming_the_class_number():
    with pytest.raises(ClassAbsentError, match=r"classes \[1\] of 3"):
        balanced_class_weights([5, 0, 5])


def test_the_proximal_term_keeps_weights_near_the_anchor():
    table = learnable_table(200)

    def moved(mu):
        config = TrainingSection(
            local_epochs=5, proximal_mu=mu, optimizer="sgd", learning_rate=0.05
        )
        return float(np.linalg.norm(vector(trained(table, config)[0]) - initial()))

    assert moved(10.0) < 0.5 * moved(0.0)


def test_the_proximal_gradient_is_mu_times_the_distance_to_the_anchor():
    nothing = with_targets(learnable_table(8), churn=np.full(8, np.nan, np.float32))
    network = build_network(CHURN_ONLY, MODEL, seed=0)
    start = vector(network)
    anchor = {name: array + 1 for name, array in named_arrays(network).items()}
    config = TrainingSection(local_epochs=1, optimizer="sgd", learning_rate=0.1, proximal_mu=2.0)
    train_locally(network, nothing, config, 0, anchor=anchor)
    np.testing.assert_allclose(vector(network) - start, 0.2, atol=1e-6)


def test_a_network_can_be_loaded_and_trained_again_after_training():
    network, _ = trained(learnable_table(50))
    load_arrays(network, named_arrays(build_network(LAYOUT, MODEL, seed=0)))
    train_locally(network, learnable_table(50), TrainingSection(local_epochs=1), 0)
    np.testing.assert_array_equal(vector(network), vector(trained(learnable_table(50))[0]))


def test_counts_of_parties_add_up_to_those_of_their_union():
    table = learnable_table(90)
    network, _ = trained(table)
    whole = evaluate_counts(network, table)
    parts = [evaluate_counts(network, table.take(rows)) for rows in ([0, 1], range(2, 90))]
    for head in (CHURN, SEGMENT, VALUE):
        assert whole[head.name].shape == (count_size(head),)
        total = parts[0][head.name] + parts[1][head.name]
        np.testing.assert_allclose(total, whole[head.name], atol=1e-3)


def test_mean_loss_without_rows_is_nan():
    assert np.isnan(mean_loss(build_network(LAYOUT, MODEL, seed=0), learnable_table(2).take([])))
