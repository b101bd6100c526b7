"""Federated CTGAN: gradients of customers, and the coordinator's rounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, vmap

from fgcif_flwr.data.encoding import EncodedTable
from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.generative.ctgan.networks import Critic
from fgcif_flwr.generative.federated_ctgan import (
    Coordinator,
    critic_gradients,
    critic_parameter_count,
    parameter_count,
)
from fgcif_flwr.generative.federated_ctgan.critic_gradient import (
    mean_gradient,
    row_gradients,
    score_gradient,
)
from fgcif_flwr.generative.federated_ctgan.quadratic_critic import SecondMomentSums
from fgcif_flwr.models.customer_gradients import bounded
from tests.generated_tables import SMALL, exact_counts, learnt_auc
from tests.learnable_tables import CHURN_ONLY, LAYOUT, learnable_table

TABLE = learnable_table(400)
COUNTS = exact_counts(LAYOUT, TABLE)
NETWORK = replace(SMALL, private_critic="network", generator_steps=1)
QUADRATIC = replace(SMALL, generator_steps=30)
PENALTY = 10.0


def batch(pac, groups=12, width=9):
    random = torch.Generator().manual_seed(0)
    rows = torch.rand(2, groups * pac, width, generator=random)
    return rows[0], rows[1], torch.rand(groups, 1, generator=random)


def written_out_loss(critic, real, fake, between):
    shares = between.repeat_interleave(critic.pac, dim=0)
    mixed = (shares * real + (1 - shares) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    norms = gradient.reshape(len(between), -1).norm(dim=1)
    return critic(fake).mean() - critic(real).mean() + PENALTY * ((norms - 1) ** 2).mean()


@pytest.mark.parametrize("hidden", [(6,), (8, 5), (5, 6, 7)])
@pytest.mark.parametrize("pac", [1, 3])
def test_the_closed_form_is_the_gradient_that_differentiation_gives(hidden, pac):
    critic = Critic(9, hidden, pac, seed=1)
    real, fake, between = batch(pac)
    loss = written_out_loss(critic, real, fake, between)
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, critic.parameters())])
    found, _ = mean_gradient(critic, real, fake, between, PENALTY)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_each_rows_gradient_is_that_of_its_own_loss():
    critic = Critic(9, (8, 5), 1, seed=1)
    real, fake, between = batch(1)
    weights = dict(critic.named_parameters())

    def loss(parameters, own, other, share):
        def score(row):
            return functional_call(critic, parameters, (row[None],))[0]

        steep = grad(score)(share * own + (1 - share) * other).norm()
        return PENALTY * (steep - 1) ** 2 - score(own)

    expected = vmap(grad(loss), in_dims=(None, 0, 0, 0))(weights, real, fake, between)
    flat = torch.cat([one.reshape(len(real), -1) for one in expected.values()], dim=1)
    found = row_gradients(critic, real, fake, between, PENALTY)
    np.testing.assert_allclose(found.numpy(), flat.detach().numpy(), rtol=1e-4, atol=1e-5)
    whole, _ = mean_gradient(critic, real, fake, between, PENALTY)
    of_parts = found.mean(dim=0) + score_gradient(critic, fake)
    np.testing.assert_allclose(of_parts.numpy(), whole.numpy(), rtol=1e-4, atol=1e-5)


def drawn(seed=0):
    return np.random.default_rng(seed)


class Alike(np.random.Generator):
    """Draws the same for every row."""

    def random(self, size=None, **_):
        return np.full(size, 0.5)


def gradients_of(table: EncodedTable, settings, secret=None):
    arrays = Coordinator(LAYOUT, settings, COUNTS, seed=1).input()
    found = critic_gradients(arrays, LAYOUT, settings, table, secret or drawn(), 256)
    return np.concatenate(list(found))


@pytest.mark.parametrize("settings", [NETWORK, QUADRATIC])
def test_a_customers_gradient_depends_on_no_other_customer(settings):
    found = gradients_of(TABLE, settings)
    assert found.shape == (400, critic_parameter_count(LAYOUT, settings))
    others = EncodedTable.concatenate([TABLE.take(np.arange(7)), learnable_table(393, seed=9)])
    changed = gradients_of(others, settings)
    np.testing.assert_allclose(changed[:7], found[:7], rtol=1e-5, atol=1e-6)
    assert np.abs(changed[7:] - found[7:]).max() > 0.1


def test_taking_a_customer_out_takes_out_that_customers_part_and_moves_no_other():
    """Draws by place are the only tie between rows; what is drawn is secret, and alike for all."""
    alike = Alike(np.random.PCG64(0))
    whole = gradients_of(TABLE, QUADRATIC, alike)
    without = gradients_of(TABLE.take(np.arange(1, 400)), QUADRATIC, alike)
    np.testing.assert_array_equal(without, whole[1:])


def test_who_knows_the_public_input_cannot_tell_what_a_row_adds():
    first, second = (gradients_of(TABLE, QUADRATIC, drawn(seed)) for seed in (1, 2))
    assert (np.abs(first - second).max(axis=1) > 0).mean() > 0.5


@pytest.mark.parametrize("settings", [NETWORK, QUADRATIC])
def test_parts_have_as_many_rows_as_asked_for(settings):
    arrays = Coordinator(LAYOUT, settings, COUNTS, seed=1).input()
    parts = [len(part) for part in critic_gradients(arrays, LAYOUT, settings, TABLE, drawn(), 150)]
    assert parts == [150, 150, 100]
    assert list(critic_gradients(arrays, LAYOUT, settings, TABLE.take([]), drawn())) == []


def test_contributions_to_the_quadratic_critic_need_no_clipping():
    norms = np.linalg.norm(gradients_of(TABLE, QUADRATIC), axis=1)
    assert norms.max() <= 1 + 1e-6
    # Hardly shorter than what the noise is made for.
    assert norms.min() > 0.5


def test_rows_that_are_judged_together_have_no_gradients_of_their_own():
    with pytest.raises(ConfigurationError, match="pac"):
        gradients_of(TABLE, replace(NETWORK, pac=2))


def test_released_means_lose_noise_as_one_release_of_the_whole_budget_would():
    coordinator = Coordinator(CHURN_ONLY, QUADRATIC, exact_counts(CHURN_ONLY, TABLE), seed=1)
    networks = coordinator._networks
    rows = torch.from_numpy(networks.transform.forward(TABLE, np.random.default_rng(0)))
    random = np.random.default_rng(1)
    exact = SecondMomentSums(networks.transform)
    mean = exact.contributions(rows).double().mean(dim=0).numpy()
    exact.add(mean, 0.0)
    errors = []
    for releases, deviation in ((1, 0.01), (100, 0.1)):
        noisy = SecondMomentSums(networks.transform)
        for _ in range(releases):
            noisy.add(mean + random.normal(0, deviation, len(mean)), deviation)
        errors.append(float((noisy._moments - exact._moments).norm()))
    # Both means have the same noise; over 500 numbers their norms agree within a fifth.
    assert errors[1] == pytest.approx(errors[0], rel=0.2)


def private_auc(settings, rounds, multiplier, customers=4000):
    """Train by noisy sums over one table; return what its generated rows teach."""
    table = learnable_table(customers, seed=3)
    random = np.random.default_rng(0)
    coordinator = Coordinator(LAYOUT, settings, exact_counts(LAYOUT, table), seed=1)
    for _ in range(rounds):
        total = np.zeros(critic_parameter_count(LAYOUT, settings))
        for part in critic_gradients(coordinator.input(), LAYOUT, settings, table, drawn()):
            total += part.sum(axis=0)
        total += random.normal(0, multiplier, len(total))
        coordinator.add_gradient(total / customers, 1.0, multiplier / customers)
    assert all(diagnosis.healthy for diagnosis in coordinator.diagnoses)
    return learnt_auc(coordinator.generator().sample(2000, np.random.default_rng(0)))


def test_noisy_sums_are_enough_to_learn_from():
    # Of rho = rounds / (2 z^2) = 0.02, an epsilon of about 1 at delta 1e-5.
    assert private_auc(QUADRATIC, rounds=6, multiplier=12.2) > 0.85


def test_much_noise_teaches_nothing_and_breaks_nothing():
    # Which way rows of no signal lean is chance; as far as those above they do not.
    assert abs(private_auc(replace(QUADRATIC, generator_steps=5), 3, 1e5) - 0.5) < 0.35


def test_the_network_as_critic_takes_steps_of_both_networks():
    coordinator = Coordinator(LAYOUT, NETWORK, COUNTS, seed=1)
    before = coordinator.vector
    (part,) = critic_gradients(coordinator.input(), LAYOUT, NETWORK, TABLE, drawn(), 400)
    mean = bounded(part, 20.0, "fixed")[0].mean(axis=0)
    diagnosis = coordinator.add_gradient(mean.astype(np.float64), 20.0)
    moved = coordinator.vector != before
    critic = critic_parameter_count(LAYOUT, NETWORK)
    assert moved[:-critic].mean() > 0.5
    assert moved[-critic:].mean() > 0.5
    assert diagnosis.gradient_norm == pytest.approx(np.linalg.norm(mean), rel=1e-4)


def test_two_coordinators_with_the_same_sums_have_the_same_weights():
    vectors = []
    for _ in range(2):
        coordinator = Coordinator(LAYOUT, QUADRATIC, COUNTS, seed=4)
        gradient = gradients_of(TABLE, QUADRATIC).mean(axis=0).astype(np.float64)
        coordinator.add_gradient(gradient, 1.0)
        vectors.append(coordinator.vector)
    np.testing.assert_array_equal(*vectors)


@pytest.fixture
def trained():
    """A coordinator after six ordinary rounds."""
    coordinator = Coordinator(LAYOUT, SMALL, COUNTS, seed=1)
    random = np.random.default_rng(0)
    for _ in range(6):
        coordinator.add_update(1e-4 * random.normal(size=parameter_count(LAYOUT, SMALL)))
    return coordinator


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30, 10.0])
def test_a_sum_that_breaks_the_networks_is_undone(trained, bad, caplog):
    before, rows = trained.vector, trained.generator().arrays()["generator"]
    update = np.full(parameter_count(LAYOUT, SMALL), 1e-4)
    update[5:500] = bad
    diagnosis = trained.add_update(update)
    assert not diagnosis.healthy
    assert diagnosis.reason in caplog.text
    np.testing.assert_array_equal(trained.vector, before)
    np.testing.assert_array_equal(trained.generator().arrays()["generator"], rows)
    # The next round goes on from there.
    assert trained.round == 8
    assert trained.add_update(np.full(len(update), 1e-5)).healthy


@pytest.mark.parametrize("settings", [NETWORK, QUADRATIC])
@pytest.mark.parametrize("bad", [np.nan, 10.0])
def test_a_mean_that_no_customers_can_have_is_not_learnt_from(settings, bad):
    spoilt, plain = (Coordinator(LAYOUT, settings, COUNTS, seed=4) for _ in range(2))
    gradient = gradients_of(TABLE, settings).mean(axis=0) / 10
    wrong = gradient.copy()
    wrong[3] = bad
    before = spoilt.vector
    assert not spoilt.add_gradient(wrong, 1.0).healthy
    np.testing.assert_array_equal(spoilt.vector, before)
    # Nothing of it is remembered either: the same round later has the same step.
    plain.add_gradient(np.full(len(gradient), np.nan), 1.0)
    for coordinator in (spoilt, plain):
        assert coordinator.add_gradient(gradient, 1.0).healthy
    np.testing.assert_array_equal(spoilt.vector, plain.vector)


def test_a_generator_that_loses_its_modes_is_not_kept(trained):
    networks = trained._networks
    size = sum(p.numel() for p in networks.generator.parameters())
    last = dict(networks.generator.named_parameters())["layers.2.bias"].shape[0]
    norms = sum(2 * width for width in SMALL.hidden)
    update = np.zeros(parameter_count(LAYOUT, SMALL))
    # One cell of each column is made as good as certain: the bias of the last layer.
    random = np.random.default_rng(1)
    update[size - norms - last : size - norms] = 100 * random.normal(size=last)
    assert trained.diagnoses[-1].coverage > 0.9
    diagnosis = trained.add_update(update)
    assert not diagnosis.healthy
    assert diagnosis.coverage < 0.5


def test_a_round_of_noise_alone_is_told_apart_from_a_signal():
    settings = replace(NETWORK, generator_steps=1)
    size = critic_parameter_count(LAYOUT, settings)
    noise = np.random.default_rng(0).normal(0, 0.01, size)
    told = Coordinator(LAYOUT, settings, COUNTS, seed=1).add_gradient(noise, 1.0, 0.01)
    plain = Coordinator(LAYOUT, settings, COUNTS, seed=1).add_gradient(noise, 1.0)
    assert told.gradient_norm < 0.5 * plain.gradient_norm


def test_sums_of_another_size_are_refused(trained):
    with pytest.raises(ValueError, match="shape"):
        trained.add_update(np.zeros(3))
    with pytest.raises(ValueError, match="shape"):
        trained.add_gradient(np.zeros(3), 1.0)
