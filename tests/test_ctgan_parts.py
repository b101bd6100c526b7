"""What a CTGAN is made of: networks, conditions, moments and losses do what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fgcif_flwr.generative.ctgan.conditions import Conditions, RowsByCell
from fgcif_flwr.generative.ctgan.critic_loss import critic_loss
from fgcif_flwr.generative.ctgan.moments import SecondMoments
from fgcif_flwr.generative.ctgan.networks import Critic, SpanActivation
from fgcif_flwr.generative.transform import Span, TableTransform
from tests.learnable_tables import LAYOUT, learnable_table, with_targets

SPANS = (Span(0, 1, "tanh"), Span(1, 3, "softmax"), Span(4, 2, "softmax"))
EVERYTHING = np.ones(6, np.bool_)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def torch_random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def test_rows_that_are_judged_together_are_mixed_alike():
    class Seen(Critic):
        def forward(self, rows, keep=()):
            self.rows = rows.detach()
            return super().forward(rows, keep)

    critic = Seen(4, (8,), 2, 0)
    critic_loss(critic, torch.ones(6, 4), torch.zeros(6, 4), 10.0, 0.0, torch_random())
    groups = critic.rows[:, 0].view(3, 2)  # the rows between come last: shares of the real ones
    assert (groups[:, 0] == groups[:, 1]).all()
    assert len(set(groups[:, 0].tolist())) == 3
