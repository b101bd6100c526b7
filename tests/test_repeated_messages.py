"""A message that comes again gets the same bytes, and any other for its slot a refusal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from flwr.app import Context, Message

from client_app.app import app as client_app
from fgcif_flwr.config import flatten
from fgcif_flwr.errors import (
    SlotSpentError,
)
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.records import (
    REPLY,
    REQUEST,
)
from fgcif_flwr.federation.releases import STATISTICS
from fgcif_flwr.secagg import (
    Released,
)
from tests.federation_rig import (
    Fault,
    Finished,
    Joined,
    configured,
    copied,
    counted_computations,
    federate,
    federate_over,
    node,
    request_of,
    with_key,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return federate(configured(tmp_path_factory.mktemp("baseline")))


@pytest.fixture
def joined(tmp_path: Path) -> Joined:
    return Joined(tmp_path)


def test_a_release_that_is_asked_for_again_gets_the_identical_bytes_and_computes_nothing(
    joined, monkeypatch
):
    computed = counted_computations(monkeypatch)
    message = joined.statistics()[0]
    replies = [joined.blob(message) for _ in range(3)]
    assert replies[0] == replies[1] == replies[2]
    assert computed == [STATISTICS]
    log = joined.config.run.output + "/releases/0000.jsonl"
    assert len(Path(log).read_text(encoding="utf-8").splitlines()) == 1


def test_any_other_release_of_a_slot_is_refused_once_it_is_spent(joined, monkeypatch):
    message = joined.statistics()[0]
    released = joined.ask(message)
    assert isinstance(released, Released)
    computed = counted_computations(monkeypatch)
    request = request_of(message).request
    others = [
        joined.other(message),
        copied(message, cohort=request.cohort[:-1], members=request.members[:-1]),
        copied(message, members=with_key(request.members, bytes(32))),
    ]
    for other in others:
        refusal = joined.ask(other)
        assert refusal.code == SlotSpentError.exit_code
        assert "spent" in refusal.reason
    assert joined.ask(message) == released
    assert computed == []


def repeated(app):
    """The ClientApp, but that each message comes twice and must be answered alike."""

    def twice(message: Message, context: Context) -> Message:
        first, second = app(message, context), app(message, context)
        assert first.content[REPLY] == second.content[REPLY]
        return second

    return twice


@pytest.mark.parametrize("consistency", [False, True])
def test_a_run_whose_every_message_comes_twice_is_the_run_whose_messages_come_once(
    baseline, tmp_path, consistency
):
    run = federate(configured(tmp_path, {"secagg.consistency": consistency}), repeated(client_app))
    assert run.sha256 == baseline.sha256
    assert [row["survivors"] for row in run.history] == [6, 6, 6]


def test_a_reply_that_was_lost_is_told_again_where_the_same_message_comes_again(tmp_path):
    # The first reply to every release of node 3 is lost, and a transport that sends again what
    # was not answered gets it: nobody is lost to the round.
    config = configured(tmp_path)
    run = federate_over(SendsAgain(client_app, 6, flatten(config), lose_after=first_of(3)), config)
    assert [(row["survivors"], row["dropped"]) for row in run.history] == [(6, 0)] * 3


class SendsAgain(InlineGrid):
    """Sends once more what was not answered."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        sent = list(messages)
        replies = list(super().send_and_receive(sent))
        answered = {reply.metadata.src_node_id for reply in replies}
        again = [message for message in sent if message.metadata.dst_node_id not in answered]
        return replies + list(super().send_and_receive(again))


def first_of(index: int) -> Fault:
    """True of each message to a node once."""
    seen: set[bytes] = set()

    def fault(message: Message) -> bool:
        blob = message.content.config_records[REQUEST]["message"]
        if message.metadata.dst_node_id != node(index) or blob in seen:
            return False
        seen.add(blob)
        return True

    return fault
