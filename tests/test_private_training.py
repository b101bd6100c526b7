"""DP-SGD inside an enterprise: what a step is, and whose randomness it draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn

from fgcif_flwr.config import ModelSection, TrainingSection
from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.models.customer_gradients import bounded, customer_gradients
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import from_vector, load_arrays, named_arrays, to_vector
from fgcif_flwr.models.private_training import train_privately
from fgcif_flwr.models.training import row_losses
from tests.learnable_tables import LAYOUT, learnable_table

MODEL = ModelSection(hidden=(8,), embedding_dim=2, numeric_bins=3)
SGD = TrainingSection(optimizer="sgd", learning_rate=0.5)
# About the median of the first gradients.
NORM, EXPECTED = 1.3, 25.0


def everybody(rows):
    return np.ones(rows, bool)


def exact_sum(parts):
    """Add no noise."""
    total = np.zeros(len(vector(fresh())))
    for part in parts:
        total += part.sum(0, dtype=np.float64)
    return total


def fresh():
    return build_network(LAYOUT, MODEL, seed=0)


def vector(network):
    return to_vector(named_arrays(network))


def trained(data, config=SGD, steps=3, **options):
    """Return the weights after training from the same start, without noise unless it is given."""
    network = fresh()
    settings = {
        "expected_batch": EXPECTED,
        "clipping_norm": NORM,
        "how": "fixed",
        "noisy_sum": exact_sum,
        "sample": everybody,
        **options,
    }
    assert train_privately(network, data, config, steps=steps, **settings) == steps
    return vector(network)


@pytest.mark.parametrize("how", ["fixed", "automatic"])
def test_without_noise_it_is_plain_descent_on_clipped_gradients(how):
    # More rows than one part holds.
    data, network = learnable_table(300), fresh()
    shares = []
    for _ in range(3):
        weights = vector(network)
        (gradients,) = customer_gradients(network, data, rows_at_once=300)
        shares.append(bounded(gradients, NORM, "fixed")[1].mean())
        total = bounded(gradients, NORM, how)[0].sum(0, dtype=np.float64)
        weights = weights - 0.5 * NORM * total / EXPECTED
        load_arrays(network, from_vector(weights, named_arrays(network)))
    # Some rows are clipped, and some are not.
    assert 0.2 < shares[0] < 0.8
    np.testing.assert_allclose(trained(data, how=how), vector(network), atol=1e-5)


class AsModules(nn.Module):
    """The network with its embedding called as a module, as Opacus' hooks need it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, dense, codes):
        hidden = torch.cat([dense, self.network.embedding(codes).flatten(1)], dim=1)
        for layer in self.network.trunk:
            hidden = torch.relu(layer(hidden))
        return self.network.heads(hidden)


# torch says so of layers whose input is data, on whose gradient nothing depends.
@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_without_noise_it_is_opacus_own_training(name):
    config = TrainingSection(optimizer=name, learning_rate=0.1)
    data, network = learnable_table(60), fresh()
    inner = (
        torch.optim.SGD(network.parameters(), 0.1)
        if name == "sgd"
        else torch.optim.AdamW(network.parameters(), 0.1, eps=1e-3, weight_decay=0)
    )
    hooked = GradSampleModule(AsModules(network), loss_reduction="sum")
    optimizer = DPOptimizer(
        inner, noise_multiplier=0, max_grad_norm=NORM, expected_batch_size=EXPECTED
    )
    inputs = network.prepare(data)
    for _ in range(4):
        optimizer.zero_grad()
        row_losses(network, hooked(inputs.dense, inputs.codes), data).sum().backward()
        optimizer.step()
    expected = vector(network)
    assert np.abs(expected - vector(fresh())).max() > 0.05
    np.testing.assert_allclose(trained(data, config, steps=4), expected, atol=1e-4)


def test_all_noise_is_the_noisy_sums_and_torch_draws_none():
    data, noise = learnable_table(30), np.random.default_rng(0).normal(size=len(vector(fresh())))
    state = torch.random.get_rng_state()
    noisy = trained(data, steps=1, noisy_sum=lambda parts: exact_sum(parts) + noise)
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_allclose(
        trained(data, steps=1) - noisy, 0.5 * NORM / EXPECTED * noise, atol=1e-6
    )


def test_every_step_is_one_noisy_sum_and_one_sample_even_where_nobody_is_drawn():
    sums, sizes = [], []

    def counted(parts):
        rows = sum(len(part) for part in parts)
        sums.append(rows)
        return np.ones(len(vector(fresh())))

    def sample(rows):
        sizes.append(rows)
        drawn = np.zeros(rows, bool)
        # Nobody in the second step.
        drawn[: 2 * (len(sizes) != 2)] = True
        return drawn

    after = trained(learnable_table(7), steps=3, noisy_sum=counted, sample=sample)
    assert sums == [2, 0, 2]
    assert sizes == [7, 7, 7]
    np.testing.assert_allclose(vector(fresh()) - after, 3 * 0.5 * NORM / EXPECTED, atol=1e-5)


def test_an_enterprise_without_rows_makes_its_steps_of_pure_noise():
    after = trained(
        learnable_table(3).take([]), steps=2, noisy_sum=lambda parts: exact_sum(parts) + 1
    )
    np.testing.assert_allclose(vector(fresh()) - after, 2 * 0.5 * NORM / EXPECTED, atol=1e-5)


def test_no_steps_change_nothing():
    np.testing.assert_array_equal(trained(learnable_table(5), steps=0), vector(fresh()))


def test_rows_that_are_not_sampled_have_no_influence():
    data, drawn = learnable_table(40), np.arange(40) % 2 == 0
    other = learnable_table(40)
    other.numeric[~drawn], other.targets["churn"][~drawn] = 0.123, np.nan
    results = [trained(table, sample=lambda rows: drawn) for table in (data, other)]
    np.testing.assert_array_equal(*results)
    assert (results[0] != trained(data)).any()


def test_a_row_that_is_not_finite_counts_as_zero_and_spares_the_others():
    data = learnable_table(20)
    broken = learnable_table(20)
    broken.numeric[4] = np.nan
    np.testing.assert_allclose(trained(broken), trained(data.take(np.arange(20) != 4)), atol=1e-6)


def test_contributions_have_norm_at_most_one_and_the_step_is_bounded():
    norms = []

    def watched(parts):
        held = list(parts)
        norms.extend(np.linalg.norm(np.concatenate(held), axis=1))
        return exact_sum(held)

    data = learnable_table(30)
    after = trained(data, steps=1, clipping_norm=0.05, noisy_sum=watched)
    assert max(norms) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(after - vector(fresh())) <= 0.5 * 0.05 * 30 / EXPECTED * (1 + 1e-5)


def test_the_proximal_term_pulls_to_the_start_and_is_not_noise():
    def pushed(parts):
        return np.full(len(vector(fresh())), EXPECTED / NORM)

    config = TrainingSection(optimizer="sgd", learning_rate=0.5, proximal_mu=0.4)
    after = trained(learnable_table(5), config, steps=2, noisy_sum=pushed)
    # First -0.5; then -0.5 (1 - 0.4 · 0.5) more.
    np.testing.assert_allclose(vector(fresh()) - after, 0.9, atol=1e-5)


@pytest.mark.parametrize("name", ["expected_batch", "clipping_norm"])
def test_numbers_that_bound_nothing_are_refused(name):
    with pytest.raises(ConfigurationError, match=f"{name} must be positive"):
        trained(learnable_table(5), **{name: 0.0})


def test_a_sample_that_is_no_mask_and_a_sum_of_another_length_are_refused():
    with pytest.raises(ValueError, match="one bool for each row"):
        trained(learnable_table(5), sample=lambda rows: np.arange(2))
    with pytest.raises(ValueError, match="noisy_sum must return"):
        trained(learnable_table(5), noisy_sum=lambda parts: np.zeros(1))
