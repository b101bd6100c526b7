"""An enterprise that cannot compute counts as zeros; nobody is told which one it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flwr.app import Message

from client_app.app import app as client_app
from fgcif_flwr.config import flatten
from fgcif_flwr.enterprise import simulated
from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.enterprise.tasks import Tasks
from fgcif_flwr.errors import (
    OutOfRangeError,
    SecureSumError,
    SlotSpentError,
)
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.records import (
    reply_from_records,
    request_to_records,
)
from fgcif_flwr.federation.releases import EVALUATE, STATISTICS, TRAIN
from fgcif_flwr.federation.requests import (
    Refusal,
)
from fgcif_flwr.secagg import (
    Participant,
    Released,
    wire,
)
from tests.federation_rig import (
    Joined,
    challenge,
    configured,
    copied,
    federate,
    lost,
    node,
    slot_of,
)

torch.set_num_threads(1)


@pytest.fixture
def joined(tmp_path: Path) -> Joined:
    return Joined(tmp_path)


def failing_at(*indices: int, error: Exception, task: str = TRAIN):
    """Tasks.compute, but that it fails at some enterprises in round 2 (or in another task)."""
    compute = Tasks.compute

    def failing(self, asked, arrays):
        number = int(self.rows.name.rpartition("-")[2])
        hit = arrays["round"][0] == 2 if "round" in arrays and task == TRAIN else asked == task
        if number in indices and hit:
            raise error
        return compute(self, asked, arrays)

    return failing


@pytest.mark.parametrize("error", [ValueError("row 17"), OutOfRangeError("row 17")])
def test_an_enterprise_that_cannot_compute_counts_as_zeros_and_as_dropped(
    tmp_path, monkeypatch, error
):
    monkeypatch.setattr(Tasks, "compute", failing_at(1, error=error))
    run = federate(configured(tmp_path))
    assert [(row["survivors"], row["dropped"]) for row in run.history] == [(6, 0), (5, 1), (6, 0)]
    assert [row["slot"] for row in run.history] == [2, 3, 4]  # no slot was tried again
    monkeypatch.undo()
    lost_instead = federate(configured(tmp_path / "lost"), lose_before=lost(1, in_round=2))
    # Zeros add nothing: the model is that of the five others, as if the sixth had been lost.
    assert run.sha256 == lost_instead.sha256


def test_more_that_cannot_compute_than_may_be_lost_fail_the_slot_with_their_number(
    tmp_path, monkeypatch
):
    slots = set()

    def seen(message: Message) -> bool:
        slots.add(slot_of(message))
        return False

    monkeypatch.setattr(Tasks, "compute", failing_at(1, 4, error=ValueError("row 17")))
    with pytest.raises(SecureSumError, match="2 of 6 enterprises could not compute task train"):
        federate(configured(tmp_path, {"run.retries": 1}), lose_before=seen)
    assert max(slots) == 4  # rounds 1 and 2 in slots 2 and 3, and one retry


def test_more_out_of_range_than_may_be_lost_end_the_run_with_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(Tasks, "compute", failing_at(1, 4, error=OutOfRangeError("row 17")))
    with pytest.raises(OutOfRangeError, match="2 of 6 enterprises have a value for task train"):
        federate(configured(tmp_path))


def test_one_that_cannot_compute_and_one_out_of_range_are_two(tmp_path, monkeypatch):
    compute = Tasks.compute

    def failing(self, task, arrays):
        errors = {"enterprise-01": ValueError("row 17"), "enterprise-04": OutOfRangeError("row 17")}
        if task == TRAIN and self.rows.name in errors:
            raise errors[self.rows.name]
        return compute(self, task, arrays)

    monkeypatch.setattr(Tasks, "compute", failing)
    with pytest.raises(SecureSumError, match="could not compute task train"):
        federate(configured(tmp_path, {"run.retries": 0}))


@pytest.mark.parametrize("task", [STATISTICS, EVALUATE])
def test_statistics_and_the_last_evaluation_bear_one_that_cannot_compute(
    tmp_path, monkeypatch, task
):
    monkeypatch.setattr(Tasks, "compute", failing_at(1, error=ValueError("row 17"), task=task))
    run = federate(configured(tmp_path))
    assert run.record["status"] == "completed"
    test_rows = [len(one.test) for one in consortium_of(configured(tmp_path)).enterprises]
    counted = {
        STATISTICS: run.record["federation_rows"]["test"],
        EVALUATE: run.record["metrics"]["test"]["churn"]["rows"],
    }
    assert counted[task] <= sum(test_rows) - test_rows[1]


def test_a_sum_says_how_many_could_not_compute_and_leaves_their_counts_out(joined, monkeypatch):
    with monkeypatch.context() as patch:
        failing = failing_at(3, error=ValueError("row 17"), task=STATISTICS)
        patch.setattr(Tasks, "compute", failing)
        total = joined.session.sum(joined.task())
    rows = [len(one.train) for one in consortium_of(joined.config).enterprises]
    assert total.failed == 1
    assert (len(total.survivors), total.dropped) == (6, ())
    assert "failed" not in total.values
    assert "out_of_range" not in total.values
    assert total.values["rows"][0] == sum(rows) - rows[3]
    assert joined.session.sum(joined.task()).failed == 0


def test_an_enterprise_that_fails_in_its_own_code_releases_without_words(joined, monkeypatch):
    def failing(self, task, arrays):
        raise ValueError("customer 4711 spent 815.25")

    monkeypatch.setattr(Tasks, "compute", failing)
    first, second = joined.statistics()[:2]
    failed = joined.ask(first)
    monkeypatch.undo()
    good = joined.ask(second)
    assert isinstance(failed, Released)
    assert isinstance(good, Released)
    assert len(wire.encode(failed)) == len(wire.encode(good))
    assert failed.complaints == good.complaints == ()
    assert failed.next.slot == good.next.slot == failed.slot + 1


def test_a_failure_outside_computing_is_refused_without_words(joined, monkeypatch):
    def failing(self, encoded, layout):
        raise ValueError("customer 4711 spent 815.25")

    message = joined.statistics()[0]
    monkeypatch.setattr(Participant, "mask", failing)
    assert joined.ask(message) == Refusal.internal()


def test_rows_that_cannot_be_loaded_are_refused_without_words(tmp_path, monkeypatch):
    def failing(config):
        raise ValueError("customer 4711 spent 815.25")

    config = configured(tmp_path)
    monkeypatch.setattr(simulated, "consortium_of", failing)
    grid = InlineGrid(client_app, 6, flatten(config))
    content = request_to_records(challenge(node(0)))
    (reply,) = grid.send_and_receive([Message(content, node(0), "query.identify")])
    assert reply_from_records(reply.content) == Refusal.internal()


def test_a_slot_whose_computation_failed_is_spent(joined, monkeypatch):
    def failing(self, task, arrays):
        raise ValueError("customer 4711 spent 815.25")

    message = joined.statistics()[0]
    with monkeypatch.context() as patch:
        patch.setattr(Tasks, "compute", failing)
        failed = joined.ask(message)
    assert isinstance(failed, Released)
    # Now that it could compute, the same vector still says that it could not.
    assert joined.ask(message) == failed
    assert joined.ask(copied(message, task=EVALUATE)).code == SecureSumError.exit_code
    assert joined.ask(joined.other(message)).code == SlotSpentError.exit_code
