"""A private CTGAN sees rows through clipped, noisy sums alone, and says what they cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.generative.ctgan import CriticPrivacy, CtganSettings, fit_ctgan
from fgcif_flwr.generative.ctgan.networks import Critic
from fgcif_flwr.generative.ctgan.private_critic import (
    PrivateCritic,
    noisy_histograms,
    row_gradients,
    sampling_rate,
)
from tests.learnable_tables import LAYOUT, learnable_table

PRIVATE = CtganSettings(
    steps=4,
    batch_size=40,
    check_every=2,
    generator_hidden=(32,),
    critic_hidden=(16,),
    privacy=CriticPrivacy(noise_multiplier=1.0),
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def torch_random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def test_no_row_moves_the_critic_further_than_the_clipping_norm_allows():
    critic = Critic(3, (4,), 1, 0)
    quiet = CriticPrivacy(noise_multiplier=1e-3, clipping_norm=0.1)
    settings = replace(PRIVATE, batch_size=10, privacy=quiet)
    private = PrivateCritic(critic, 20, settings, random())
    assert private.rate == 0.5
    real = torch.randn(8, 3, generator=torch_random()) * torch.tensor([[1e4]] + [[1.0]] * 7)
    fake, between = torch.zeros(8, 3), torch.full((8, 1), 0.5)
    (each,) = row_gradients(critic, real, fake, between, settings.gradient_penalty)
    clipped = each / (each.norm(dim=1, keepdim=True) / 0.1).clamp_min(1.0)
    assert each.norm(dim=1)[0] > 100  # it would be the sum alone
    noisy = torch.cat([part.reshape(-1) for part in private.gradient(real, fake, between)])
    # Over the 10 rows that are expected, not the 8 that take part.
    torch.testing.assert_close(noisy, clipped.sum(0) / 10, atol=1e-3, rtol=0)


def test_each_row_takes_part_by_its_own_chance():
    private = PrivateCritic(Critic(3, (4,), 1, 0), 100, replace(PRIVATE, batch_size=25), random())
    counts = np.zeros(100)
    for _ in range(400):
        counts[private.participants()] += 1
    # 6 standard deviations of a count of 400
    assert np.abs(counts - 100).max() < 6 * np.sqrt(400 * 0.25 * 0.75)
    assert sampling_rate(PRIVATE, 10) == 1


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


@pytest.mark.parametrize("name", ["noise_multiplier", "clipping_norm", "delta"])
def test_privacy_out_of_range_is_refused(name):
    with pytest.raises(ConfigurationError, match=name):
        CriticPrivacy(**{"noise_multiplier": 1.0, name: 0.0})
