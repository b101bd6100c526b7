"""Gradients of single customers: autograd's own, one row at a time, and their bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from fgcif_flwr.config import ModelSection
from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.models.customer_gradients import bounded, customer_gradients
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import named_arrays, to_vector
from fgcif_flwr.models.training import mean_loss, row_losses
from tests.learnable_tables import CHURN, LAYOUT, learnable_table, with_targets

MODELS = {
    "piecewise-linear": ModelSection(hidden=(16, 8), embedding_dim=3, numeric_bins=4),
    "standardised": ModelSection(hidden=(8,), embedding_dim=2, numeric_encoding="standardised"),
    "dropout": ModelSection(hidden=(8,), dropout=0.5),
}
WEIGHTS = {"churn": np.array([0.5, 3.0]), "segment": np.array([1.0, 2.0, 0.25])}


def table_with_missing_labels(rows=24):
    """Every head lacks labels in rows of its own, and one row has no label at all."""
    table = learnable_table(rows, seed=3)
    churn, value = table.targets["churn"].copy(), table.targets["value"].copy()
    segment = table.targets["segment"].copy()
    churn[::3], segment[1::3], value[2::3] = np.nan, -1, np.nan
    churn[5], segment[5], value[5] = np.nan, -1, np.nan
    return with_targets(table, churn=churn, segment=segment, value=value)


def loss_of_row(network, row, weights):
    """Write the loss out once more, head by head, for a table of one row."""
    scores = network.score(network.prepare(row))[0]
    churn, segment, value = (row.targets[name][0] for name in ("churn", "segment", "value"))
    loss = scores.sum() * 0
    if not np.isnan(churn):
        sign = 1 if churn == 1 else -1
        weight = weights["churn"][int(churn)] if weights else 1.0
        loss = loss - weight * functional.logsigmoid(sign * scores[0])
    if segment >= 0:
        weight = weights["segment"][segment] if weights else 1.0
        loss = loss - weight * torch.log_softmax(scores[1:4], 0)[segment]
    if not np.isnan(value):
        error = (scores[4] - torch.tensor(value)).abs()
        loss = loss + 0.1 * torch.where(error < 0.3, error**2 / 0.6, error - 0.15)
    return loss


def row_by_row(network, table, weights=None):
    """Return autograd's gradient of every row's loss, (rows, d)."""
    parameters = list(network.parameters())
    return np.stack(
        [
            np.concatenate(
                [
                    gradient.numpy().ravel()
                    for gradient in torch.autograd.grad(
                        loss_of_row(network, table.take([row]), weights), parameters
                    )
                ]
            )
            for row in range(len(table))
        ]
    )


def gradients_of(network, table, **options):
    return np.concatenate(list(customer_gradients(network, table, **options)))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
def test_gradients_are_autograds_row_by_row(model, weights):
    network, table = build_network(LAYOUT, MODELS[model], seed=1), table_with_missing_labels()
    gradients = gradients_of(network, table, class_weights=weights)
    assert gradients.dtype == np.float32
    np.testing.assert_allclose(gradients, row_by_row(network, table, weights), atol=2e-6)


def test_a_row_without_any_label_has_a_gradient_of_zero():
    network = build_network(LAYOUT, MODELS["piecewise-linear"], seed=1)
    gradients = gradients_of(network, table_with_missing_labels())
    assert [row for row in range(24) if not gradients[row].any()] == [5]


def test_the_sum_over_rows_is_the_gradient_of_the_summed_loss():
    network, table = build_network(LAYOUT, MODELS["standardised"], seed=1), learnable_table(40)
    table = with_targets(table, value=np.full(40, np.nan, np.float32))  # weighs less than in a mean
    loss = row_losses(network, network.score(network.prepare(table)), table).sum()
    assert loss.item() == pytest.approx(40 * mean_loss(network, table), rel=1e-5)
    loss.backward()
    expected = [parameter.grad.numpy().ravel() for parameter in network.parameters()]
    total = gradients_of(network, table, rows_at_once=16).sum(0)
    np.testing.assert_allclose(total, np.concatenate(expected), atol=2e-5)


def test_parts_are_cut_in_order_and_no_rows_yield_nothing():
    network, table = build_network(LAYOUT, MODELS["standardised"], seed=1), learnable_table(11)
    parts = list(customer_gradients(network, table, rows_at_once=4))
    assert [len(part) for part in parts] == [4, 4, 3]
    np.testing.assert_allclose(np.concatenate(parts), gradients_of(network, table), atol=1e-6)
    assert list(customer_gradients(network, table.take([]))) == []


@pytest.mark.parametrize(
    ("numeric", "categorical"), [(("age", "spend"), ()), ((), ("plan", "city"))]
)
def test_a_table_may_have_numbers_alone_or_categories_alone(numeric, categorical):
    cardinalities = LAYOUT.cardinalities if categorical else ()
    layout = FeatureLayout(numeric, categorical, cardinalities, LAYOUT.heads)
    whole = learnable_table(9)
    table = EncodedTable(
        whole.numeric[:, : len(numeric)],
        whole.missing[:, : len(numeric)],
        whole.categorical[:, : len(categorical)],
        whole.targets,
    )
    network = build_network(layout, MODELS["piecewise-linear"], seed=1)
    np.testing.assert_allclose(gradients_of(network, table), row_by_row(network, table), atol=2e-6)


@pytest.mark.parametrize("value", [0.9, np.nan, np.inf])
def test_another_rows_values_change_no_bit_of_a_rows_gradient(value):
    # The sensitivity of a sum of rounded gradients rests on this.
    network = build_network(LAYOUT, MODELS["piecewise-linear"], seed=1)
    table = learnable_table(50)
    other = learnable_table(50)
    other.numeric[17], other.categorical[17], other.targets["segment"][17] = value, (1, 5), 2
    other.targets["churn"][17] = np.nan
    before, after = gradients_of(network, table), gradients_of(network, other)
    rest = np.arange(50) != 17
    np.testing.assert_array_equal(before[rest].view(np.uint32), after[rest].view(np.uint32))
    assert (before[17] != after[17]).any()
    if np.isnan(value):
        assert np.isnan(after[17]).any()


def test_network_and_global_random_state_are_left_alone():
    network, table = build_network(LAYOUT, MODELS["dropout"], seed=1), learnable_table(10)
    weights, state = to_vector(named_arrays(network)), torch.random.get_rng_state()
    first = gradients_of(network, table)
    np.testing.assert_array_equal(to_vector(named_arrays(network)), weights)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in network.parameters())
    np.testing.assert_array_equal(gradients_of(network, table), first)
    assert not any(layer._forward_hooks for layer in network.modules())


def test_fixed_clipping_scales_long_gradients_to_one_and_short_ones_by_the_norm():
    gradients = np.array([[3, 4], [0.3, 0.4], [0, 0], [0, 2]], np.float32)
    contributions, unclipped = bounded(gradients, 2.0, "fixed")
    np.testing.assert_allclose(contributions, [[0.6, 0.8], [0.15, 0.2], [0, 0], [0, 1]], rtol=1e-6)
    assert unclipped.tolist() == [False, True, True, True]
    assert contributions.dtype == np.float32


def test_automatic_clipping_needs_no_norm():
    gradients = np.array([[3, 4], [0.006, 0.008], [0, 0]], np.float32)
    contributions, unclipped = bounded(gradients, 0.0, "automatic")
    long, short = 5 / 5.01, 0.01 / 0.02
    np.testing.assert_allclose(np.linalg.norm(contributions, axis=1), [long, short, 0], rtol=1e-6)
    assert not unclipped.any()


@pytest.mark.parametrize("how", ["fixed", "automatic"])
def test_no_row_however_hostile_has_a_norm_above_one(how):
    largest = np.finfo(np.float32).max
    gradients = np.random.default_rng(0).standard_normal((8, 300)).astype(np.float32) * 50
    gradients[0], gradients[1, 3], gradients[2, 4] = largest, np.nan, -np.inf
    gradients[3], gradients[4] = np.finfo(np.float32).tiny, 1e27
    contributions, unclipped = bounded(gradients, 0.7, how)
    norms = np.linalg.norm(contributions.astype(np.float64), axis=1)
    assert (norms <= 1 + 1e-6).all()
    assert norms[4] == pytest.approx(1)
    assert not contributions[[0, 1, 2]].any()
    assert not unclipped[[0, 1, 2]].any()


@pytest.mark.parametrize("norm", [0.0, -1.0, np.nan, np.inf])
def test_a_clipping_norm_that_bounds_nothing_is_refused(norm):
    with pytest.raises(ConfigurationError, match="clipping norm must be positive"):
        bounded(np.ones((1, 2), np.float32), norm, "fixed")


def test_adaptive_clipping_counts_the_rows_within_the_norm():
    network = build_network(FeatureLayout(("a",), (), (), (CHURN,)), ModelSection(hidden=(4,)), 0)
    rng = np.random.default_rng(0)
    numeric = rng.random((30, 1)).astype(np.float32)
    churn = (rng.random(30) < 0.5).astype(np.float32)
    table = EncodedTable(
        numeric, np.zeros_like(numeric), np.zeros((30, 0), np.int64), {"churn": churn}
    )
    gradients = gradients_of(network, table)
    median = float(np.median(np.linalg.norm(gradients, axis=1)))
    assert bounded(gradients, median, "fixed")[1].sum() == 15
