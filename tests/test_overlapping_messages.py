"""Two messages at once, and a state that is set back: the journal lets one answer out of each slot.

A SuperNode may start a process for every message, each with a copy of the context as it was then,
the last to end leaving its own. A coordinator could so be answered twice from one state; with
shares of both secrets of one member it would take that one's masks off.
"""

from __future__ import annotations

import copy
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from fgcif_flwr.errors import ConfigurationError, SlotSpentError
from fgcif_flwr.federation import session as sessions
from fgcif_flwr.federation.envelope import enclose, enclosed_type
from fgcif_flwr.federation.inline_grid import node_id
from fgcif_flwr.federation.records import (
    INPUT,
    arrays_from_record,
    arrays_to_record,
    request_to_records,
)
from fgcif_flwr.federation.requests import Refusal, Reply, Request, message_type
from fgcif_flwr.federation.traffic import MeteredGrid
from fgcif_flwr.secagg import Released, SlotCollection, SqliteJournal, UnmaskReply, UnmaskRequest
from tests.deployment_rig import Deployment, at_once, said
from tests.somebody_elses_app import octets

MEMBERS = 6
VICTIM = 2


class AttackOverError(Exception):
    """The coordinator has what it came for, or not."""


def attacked(
    deployment: Deployment,
    monkeypatch: pytest.MonkeyPatch,
    attack: Callable[[SlotCollection], None],
) -> None:
    """Run until the first slot is to be opened, and let the coordinator do something else then."""

    def opened(session: sessions.SecureSumSession, slot: SlotCollection) -> None:
        attack(slot)
        raise AttackOverError

    monkeypatch.setattr(sessions.SecureSumSession, "_opened", opened)
    with pytest.raises(AttackOverError):
        deployment.run()


def lists(slot: SlotCollection) -> list[UnmaskRequest]:
    """One list in which all survived, and one in which the victim did not."""
    victim = slot.cohort[VICTIM]
    others = tuple(name for name in slot.cohort if name != victim)
    run, number = slot.epoch.run_id, slot.slot
    return [
        UnmaskRequest(run, number, slot.cohort, ()),
        UnmaskRequest(run, number, others, (victim,)),
    ]


def sent(request: Request, index: int) -> Message:
    content = request_to_records(request)
    return enclose(Message(content, node_id(index), message_type(request)), "train")


def spent(reply: Reply) -> bool:
    return isinstance(reply, Refusal) and reply.code == SlotSpentError.exit_code


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["survived first", "dropped first"])
def test_of_two_unmask_messages_at_once_every_member_answers_one(tmp_path, monkeypatch, order):
    deployment = Deployment(tmp_path, MEMBERS)
    told: list[list[Reply]] = []

    def attack(slot: SlotCollection) -> None:
        slot.close()
        for index in range(MEMBERS):
            if index == VICTIM and order == (1, 0):
                continue  # it knows that it was not dropped
            requests = [sent(lists(slot)[which], index) for which in order]
            told.append([said(reply) for reply in at_once(deployment.grid, *requests)])

    attacked(deployment, monkeypatch, attack)
    assert len(told) >= MEMBERS - 1
    for first, second in told:
        assert isinstance(first, UnmaskReply)
        assert spent(second)


def test_of_two_releases_at_once_every_member_answers_one(tmp_path, monkeypatch):
    # Two vectors under one mask would show their difference.
    deployment = Deployment(tmp_path, MEMBERS)
    nodes = deployment.grid._nodes
    deliver, told = nodes.deliver, []

    def twice(message: Message) -> Message:
        if enclosed_type(message) != "train.release":
            return deliver(message)
        first, second = at_once(deployment.grid, message, another_model(message))
        told.append((said(first), said(second)))
        return first

    monkeypatch.setattr(nodes, "deliver", twice)
    attacked(deployment, monkeypatch, lambda slot: None)
    assert len(told) == MEMBERS
    assert all(isinstance(first, Released) and spent(second) for first, second in told)


def another_model(message: Message) -> Message:
    """A lawful release of the slot for another model."""
    other = copy.deepcopy(message)
    arrays = {name: np.array(a) for name, a in arrays_from_record(other.content[INPUT]).items()}
    arrays["arrays/w"][0] += 1e-3
    other.content[INPUT] = arrays_to_record(arrays)
    return other


def test_a_long_release_whose_end_sets_the_state_back_opens_no_second_list(tmp_path, monkeypatch):
    # The second release of the slot began before the first ended, and ends after the unmask
    # answer: the context is then as if nothing had been answered.
    deployment = Deployment(tmp_path, MEMBERS)
    nodes = deployment.grid._nodes
    deliver, late, told = nodes.deliver, {}, []

    def overlapping(message: Message) -> Message:
        if enclosed_type(message) != "train.release":
            return deliver(message)
        number = message.metadata.dst_node_id
        late[number] = copy.deepcopy(nodes._contexts[number])
        first = deliver(message)
        assert spent(said(nodes._app(another_model(message), late[number])))
        return first

    def attack(slot: SlotCollection) -> None:
        slot.close()
        survived, dropped = lists(slot)
        for index in range(MEMBERS):
            if index == VICTIM:
                continue
            first = said(deliver(sent(survived, index)))
            nodes._contexts[node_id(index)] = late[node_id(index)]
            told.append((first, said(deliver(sent(dropped, index)))))

    monkeypatch.setattr(nodes, "deliver", overlapping)
    attacked(deployment, monkeypatch, attack)
    assert len(told) == MEMBERS - 1
    for first, second in told:
        assert isinstance(first, UnmaskReply)
        assert isinstance(second, Refusal)


# Journals that cannot be used.


def run_and_hear(deployment: Deployment) -> bytes:
    """Run a federation; return all that its nodes replied."""
    heard: list[Message] = []
    grid = deployment.grid
    deployment.grid = MeteredGrid(grid, heard.append)
    deployment.run(2)
    assert heard
    return b"".join(octets(one) for one in heard if one.metadata.reply_to_message_id)


def journal_of(deployment: Deployment, index: int) -> Path:
    return deployment.directory / f"journal-{index}.sqlite"


def in_use(deployment: Deployment, closing: list) -> None:
    closing.append(SqliteJournal(journal_of(deployment, VICTIM)))


def in_no_directory(deployment: Deployment, closing: list) -> None:
    directory = deployment.directory / "unmounted"
    directory.mkdir()
    journal = directory / "journal.sqlite"
    deployment.mods[VICTIM] = deployment.mod(VICTIM, journal=journal)
    directory.rmdir()


def no_journal_at_all(deployment: Deployment, closing: list) -> None:
    journal_of(deployment, VICTIM).write_bytes(b"customers.csv" * 100)


def of_another_program(deployment: Deployment, closing: list) -> None:
    connection = sqlite3.connect(journal_of(deployment, VICTIM))
    connection.execute("CREATE TABLE customers (name)")
    connection.close()


@pytest.mark.parametrize("spoil", [in_use, in_no_directory, no_journal_at_all, of_another_program])
def test_a_journal_that_cannot_be_used_costs_its_member_a_place_and_tells_no_path(
    tmp_path, caplog, spoil
):
    deployment = Deployment(tmp_path, MEMBERS)
    closing: list[SqliteJournal] = []
    spoil(deployment, closing)
    with caplog.at_level(logging.WARNING):
        heard = run_and_hear(deployment)
    for journal in closing:
        journal.close()
    assert all(total.survivors == deployment.without(VICTIM) for total in deployment.sums)
    assert len(deployment.sums) == 2
    assert b"this client's journal cannot be used; its own log says more" in heard
    for word in (str(tmp_path).encode(), b"journal.sqlite", b".sqlite", b"customers"):
        assert word not in heard
    coordinators = [r for r in caplog.records if not r.name.endswith("secure_sum_mod")]
    assert not any(str(tmp_path) in record.getMessage() for record in coordinators)
    assert str(tmp_path) in caplog.text  # in the log of whoever can mend it


def test_a_directory_that_is_not_there_is_told_of_before_any_run(tmp_path):
    deployment = Deployment(tmp_path, MEMBERS)
    for file in ("journal", "log"):
        with pytest.raises(ConfigurationError, match="there is no directory for"):
            deployment.mod(0, **{file: tmp_path / "absent" / "file"})


def test_a_journal_that_is_free_again_lets_its_member_join(tmp_path):
    deployment = Deployment(tmp_path, MEMBERS)
    with SqliteJournal(journal_of(deployment, VICTIM)):
        deployment.run()
    deployment.run()
    assert [len(total.survivors) for total in deployment.sums] == [MEMBERS - 1, MEMBERS]
