"""What an agent remembers over restarts: numbers, runs, approvals."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from fgcif_flwr.config import unflatten
from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.enterprise.agent.limits import DAY, AgentState
from fgcif_flwr.enterprise.agent.runs import RunLimits, check_length, epsilon_of, terms_hash
from fgcif_flwr.errors import (
    AuthenticationError,
    LedgerError,
    PolicyError,
    SecureSumError,
    SlotSpentError,
)
from fgcif_flwr.federation.private_plan import most_exact_sums, with_noise
from fgcif_flwr.federation.session import SessionSettings
from fgcif_flwr.federation.terms import config_in, terms_of
from fgcif_flwr.models.network import parameter_count
from fgcif_flwr.secagg.keys import identity_from_seed

NOW = 1_700_000_000.0
SCHEMA = load_schema("simulated")
ROSTER = tuple((f"e{n}", identity_from_seed(bytes([n]) * 32).public) for n in range(4))


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def state(tmp_path, clock):
    with AgentState(tmp_path / "agent.db", clock) as one:
        yield one


def manifest(run: int = 1, **settings: object):
    config = unflatten({"run.enterprises": 4, "model.hidden": "8", **settings})
    asked = SessionSettings.of(config)
    features = feature_layout(SCHEMA)
    config = with_noise(
        config, features, parameter_count(features, config.model), asked.parameters(4)
    )
    return asked.manifest(bytes([run]) * 16, 1, terms_of(config, SCHEMA.hash), ROSTER)


def limits(runs=3, epsilon=2.0, approval=False):
    return RunLimits(runs, epsilon, approval)


def digest(number: int) -> bytes:
    return bytes([number]) * 32


def test_numbers_only_grow_over_restarts_too(tmp_path, clock):
    path = tmp_path / "agent.db"
    with AgentState(path, clock) as state:
        state.accept_number(10, digest(1))
    with AgentState(path, clock) as state:
        state.accept_number(10, digest(1))  # the very last one
        for number, said in ((10, digest(2)), (9, digest(1)), (0, digest(3))):
            with pytest.raises(AuthenticationError, match="replayed"):
                state.accept_number(number, said)
        state.accept_number(11, digest(2))
        with pytest.raises(AuthenticationError, match="replayed"):
            state.accept_number(10, digest(1))
    assert os.stat(path).st_mode & 0o077 == 0


def test_a_number_of_a_wrong_clock_bars_nothing(state):
    with pytest.raises(AuthenticationError, match="ahead"):
        state.accept_number(int((NOW + 2 * DAY) * 1e9), digest(1))
    state.accept_number(int(NOW * 1e9), digest(2))


def test_runs_of_a_day_are_counted_and_the_same_run_once(state, clock):
    for run in range(3):
        for _ in range(5):
            state.admit(manifest(run), 0.0, limits())
            state.count_join(manifest(run))
    with pytest.raises(PolicyError, match="runs_per_day is 3"):
        state.admit(manifest(9), 0.0, limits())
    state.admit(manifest(1), 0.0, limits())  # joined before: a later epoch
    clock.now += DAY + 1
    state.admit(manifest(9), 0.0, limits())


def test_a_run_under_an_old_name_with_other_terms_is_another_run(state):
    state.admit(manifest(1), 0.0, limits(runs=1))
    state.count_join(manifest(1))
    with pytest.raises(PolicyError, match="runs_per_day"):
        state.admit(manifest(1, **{"run.rounds": 99}), 0.0, limits(runs=1))


def test_a_clock_that_is_set_back_opens_no_new_day(state, clock):
    state.admit(manifest(1), 0.0, limits(runs=1))
    state.count_join(manifest(1))
    clock.now -= 10 * DAY
    with pytest.raises(PolicyError):
        state.admit(manifest(2), 0.0, limits(runs=1))


def test_what_was_only_asked_for_counts_nothing(state):
    for run in range(20):
        state.admit(manifest(run), 1.5, limits(runs=2))
    assert len(state.runs()) == 20


def test_the_epsilon_of_a_day_has_a_limit_over_its_runs(state):
    state.admit(manifest(1), 1.5, limits())
    state.count_join(manifest(1))
    state.admit(manifest(2), 0.5, limits())
    with pytest.raises(PolicyError, match="epsilon_per_day of 2"):
        state.admit(manifest(3), 0.6, limits())
    with pytest.raises(PolicyError, match=r"epsilon is 2\.5"):
        state.admit(manifest(4), 2.5, limits())
    with pytest.raises(PolicyError):
        state.admit(manifest(5), float("inf"), limits())


def test_a_run_waits_for_approval_and_uses_it_up(state):
    wants = limits(approval=True)
    for _ in range(2):
        with pytest.raises(PolicyError, match="approve"):
            state.admit(manifest(1), 0.5, wants)
    (asked,) = state.runs()
    assert (asked.state, asked.joined, asked.epsilon) == ("waiting", None, 0.5)
    assert state.approve(asked.terms[:32].upper()) == asked.terms
    assert state.runs()[0].state == "approved"
    state.admit(manifest(2), 0.5, wants)  # the same terms under the name of a new try
    state.count_join(manifest(2))
    state.admit(manifest(2), 0.5, wants)
    with pytest.raises(PolicyError, match="approve"):
        state.admit(manifest(3), 0.5, wants)
    assert {one.run[:2]: one.state for one in state.runs()} == {
        "03": "waiting",
        "02": "joined",
        "01": "waiting",
    }


@pytest.mark.parametrize("terms", ["", "12", "%", "0" * 64, "________"])
def test_nobody_approves_what_was_not_asked(state, terms):
    with pytest.raises(PolicyError):
        state.admit(manifest(1), 0.0, limits(approval=True))
    with pytest.raises(PolicyError, match="no such run"):
        state.approve(terms)


def test_approval_is_of_all_that_a_run_is_but_its_name():
    one = manifest(1)
    assert terms_hash(one) == terms_hash(replace(one, run=bytes([7]) * 16, epoch=5))
    others = (
        manifest(1, **{"run.rounds": 99}),
        replace(one, threshold=4),
        replace(one, tolerated_colluders=2),
        replace(one, roster=ROSTER[:3]),
        replace(one, consistency=True),
    )
    assert len({terms_hash(one), *map(terms_hash, others)}) == 1 + len(others)


def test_a_run_that_was_refused_for_another_reason_says_so(state):
    state.admit(manifest(1), 0.0, limits())
    state.note_refusal(manifest(1))
    assert state.runs()[0].state == "refused"
    state.count_join(manifest(1))
    state.note_refusal(manifest(1))
    assert state.runs()[0].state == "joined"


def test_terms_without_end_are_not_read():
    with pytest.raises(SecureSumError, match="at most"):
        check_length(replace(manifest(1), terms="x" * 10**6))
    check_length(manifest(1))


def test_a_flood_of_requests_is_forgotten_but_no_run_that_was_joined(state, monkeypatch):
    monkeypatch.setattr("fgcif_flwr.enterprise.agent.limits._MOST_WAITING", 5)
    state.admit(manifest(100), 0.0, limits())
    state.count_join(manifest(100))
    for run in range(20):
        state.admit(manifest(run), 0.0, limits())
    assert len(state.runs()) == 6
    assert [one.state for one in state.runs()].count("joined") == 1


def test_what_a_run_costs_is_its_plans_epsilon():
    assert epsilon_of(manifest(1), SCHEMA) == 0.0
    private = {
        "privacy.unit": "customer",
        "privacy.epsilon": 1.5,
        "privacy.delta": 1e-6,
        "training.algorithm": "fedsgd",
        "run.rounds": 3,
    }
    assert epsilon_of(manifest(1, **private), SCHEMA) == pytest.approx(1.5, rel=1e-3)


def test_a_damaged_memory_is_not_replaced(tmp_path):
    path = tmp_path / "agent.db"
    AgentState(path).close()
    path.write_bytes(b"")
    with pytest.raises(LedgerError):
        AgentState(path)


def test_the_exact_sums_of_a_run_are_as_many_as_it_can_need(state, tmp_path, clock):
    config = config_in(manifest(**{"run.rounds": 2, "run.retries": 1}).terms)
    most = most_exact_sums(config, "train")
    assert most == 4
    for slot in range(1, most + 1):
        state.count_sum("aa", "train", slot, digest(slot), most)
    state.count_sum("aa", "train", most, digest(most), most)  # the answer was lost: asked again
    with pytest.raises(SlotSpentError):  # in another epoch, with another model
        state.count_sum("aa", "evaluate", 1, digest(99), most)
    with pytest.raises(PolicyError, match="rounds and retries"):
        state.count_sum("aa", "train", most + 1, digest(7), most)
    state.count_sum("aa", "evaluate", most + 1, digest(7), most)
    state.count_sum("bb", "train", most + 1, digest(7), most)
    with AgentState(tmp_path / "agent.db", clock) as again, pytest.raises(PolicyError):
        again.count_sum("aa", "train", most + 2, digest(7), most)


def test_a_task_that_a_run_does_not_have_gets_no_sum(state):
    config = config_in(manifest().terms)
    with pytest.raises(PolicyError):
        state.count_sum("aa", "generator", 1, digest(1), most_exact_sums(config, "generator"))


def test_runs_cannot_be_stocked_up_for_one_day(state, clock):
    wants = limits(epsilon=2.0)
    for day in range(3):
        clock.now = NOW + 2 * day * DAY
        state.admit(manifest(day + 1), 2.0, wants)
        state.count_join(manifest(day + 1))
    with pytest.raises(PolicyError, match="epsilon_per_day"):
        state.admit(manifest(1), 2.0, wants)
    state.admit(manifest(3), 2.0, wants)  # a later epoch of today's run
