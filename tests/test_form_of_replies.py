"""A reply holds what public quantities account for, and has room for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fgcif_flwr.federation.records import (
    REPLY,
    reply_from_records,
    reply_to_records,
)
from fgcif_flwr.federation.requests import Refusal, Reply
from fgcif_flwr.secagg import (
    Consent,
    Released,
    wire,
)
from tests.federation_rig import FIRST_NODE
from tests.recorded_run import (
    ENTERPRISES,
    Recording,
    configured,
    findings_of_form,
    leaks,
    recorded,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recorded(configured(tmp_path_factory.mktemp("masked")))


def test_a_reply_holds_the_known_fields_of_the_known_sizes_and_nothing_else(run):
    assert findings_of_form(run) == []
    # identify, join, advertise; statistics, three rounds and the evaluation at two each.
    assert len(run.up) == len(run.down) == ENTERPRISES * (3 + 5 * 2)


def test_a_run_with_the_consistency_exchange_and_rotation_says_no_more(tmp_path):
    settings = {"secagg.consistency": True, "secagg.rotation": True, "run.rounds": 1}
    recording = recorded(configured(tmp_path, settings))
    assert findings_of_form(recording) == []
    assert len(recording.up) == ENTERPRISES * (3 + 3 * 3)
    assert len(list(recording.of(Consent))) == ENTERPRISES * 3
    assert set(leaks(recording, recording.up, models=False).values()) == {0}


def in_reply(alter: Callable[[Released], Reply]) -> Callable[[Released], RecordDict]:
    return lambda said: reply_to_records(alter(said))


def in_records(**more: object) -> Callable[[Released], RecordDict]:
    return lambda said: RecordDict({REPLY: ConfigRecord({"message": wire.encode(said), **more})})


def in_blob(alter: Callable[[bytes], bytes]) -> Callable[[Released], RecordDict]:
    return lambda said: RecordDict({REPLY: ConfigRecord({"message": alter(wire.encode(said))})})


def beside_reply(said: Released) -> RecordDict:
    return RecordDict({**reply_to_records(said), "metrics": MetricRecord({"loss": 0.25})})


SMUGGLING: dict[str, Callable[[Released], RecordDict]] = {
    "metrics": beside_reply,
    "num_examples": in_records(num_examples=31),
    "no reply": lambda said: RecordDict({"metrics": MetricRecord({"loss": 0.25})}),
    "a byte more": in_blob(lambda blob: blob + b"\x1f"),
    "slot": in_reply(lambda said: replace(said, slot=31)),
    "sender": in_reply(lambda said: replace(said, sender="31 rows")),
    "sender as long": in_reply(lambda said: replace(said, sender="enterprise-31")),
    "words": in_reply(lambda said: replace(said, words=said.words + b"\x1f")),
    "fewer words": in_reply(lambda said: replace(said, words=said.words[:-1])),
    "complaint": in_reply(lambda said: replace(said, complaints=("31 rows",))),
    "next slot": in_reply(lambda said: replace(said, next=replace(said.next, slot=31))),
    "commitments": in_reply(
        lambda said: replace(said, next=replace(said.next, commitments=bytes(289)))
    ),
    "sealed": in_reply(
        lambda said: replace(said, next=replace(said.next, sealed=said.next.sealed + b"\x1f"))
    ),
    "moved": in_reply(
        lambda said: replace(
            said,
            words=said.words + b"\x1f",
            next=replace(said.next, sealed=said.next.sealed[:-1]),
        )
    ),
    "refusal": lambda said: reply_to_records(Refusal(31, "31 rows")),
}


@pytest.mark.parametrize("smuggle", SMUGGLING.values(), ids=SMUGGLING)
def test_a_field_that_is_smuggled_into_a_reply_is_found(run, smuggle):
    index, message = next(
        (i, message)
        for i, message in enumerate(run.up)
        if message.metadata.message_type == "train.release"
    )
    content = smuggle(reply_from_records(message.content))
    reply = Message(content, reply_to=Message(RecordDict(), FIRST_NODE, "train.release"))
    reply.__dict__["_metadata"] = message.metadata
    up = [*run.up[:index], reply, *run.up[index + 1 :]]
    assert findings_of_form(Recording(run.config, run.down, up, layouts=run.layouts))
