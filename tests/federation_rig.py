"""A federation of six over the in-process grid, and messages altered on their way."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client_app.app import app as client_app
from fgcif_flwr.config import RunConfig, flatten, unflatten
from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.enterprise.tasks import Tasks
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.records import (
    INPUT,
    REPLY,
    REQUEST,
    arrays_to_record,
    reply_from_records,
    reply_to_records,
    request_from_records,
    request_to_records,
)
from fgcif_flwr.federation.releases import EVALUATE, MODEL, STATISTICS, TRAIN, layout_of
from fgcif_flwr.federation.requests import (
    Identify,
    Identity,
    Release,
    Reply,
    Request,
)
from fgcif_flwr.federation.session import (
    SecureSumSession,
    SessionSettings,
    Task,
)
from fgcif_flwr.federation.terms import terms_of
from fgcif_flwr.models.artifact import load_model
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import named_arrays, to_vector
from fgcif_flwr.reporting.run_directory import RunDirectory
from fgcif_flwr.secagg import (
    JoinReply,
    Manifest,
    Released,
    wire,
)
from fgcif_flwr.secagg.keys import KeyPair, sign
from server_app.stages import run_stages

torch.set_num_threads(1)

# Six enterprises: threshold 5, one may be lost.
SMALL: Mapping[str, object] = {
    "run.enterprises": 6,
    "run.rounds": 3,
    "simulator.customers": 40,
    "model.hidden": "8",
}
FIRST_NODE = 1000  # of InlineGrid; node 1000 + i is enterprise i

Fault = Callable[[Message], bool]


@dataclass(frozen=True)
class Finished:
    """What a run left behind."""

    files: RunDirectory

    @property
    def record(self) -> dict:
        return self.files.read_record()

    @property
    def history(self) -> list[dict]:
        return self.files.read_history()

    @property
    def model(self) -> np.ndarray:
        return to_vector(named_arrays(load_model(self.files.model).network))

    @property
    def sha256(self) -> str:
        return self.record["model_sha256"]


def configured(output: Path, settings: Mapping[str, object] | None = None) -> RunConfig:
    return unflatten({**SMALL, "run.output": str(output), **(settings or {})})


def federate(config: RunConfig, app=client_app, **faults: Fault) -> Finished:
    return federate_over(InlineGrid(app, config.run.enterprises, flatten(config), **faults), config)


def federate_over(grid: InlineGrid, config: RunConfig) -> Finished:
    run_stages(grid, config)
    return Finished(RunDirectory(Path(config.run.output)))


def round_of(message: Message) -> int:
    """The training round that a release message belongs to; 0 for any other message."""
    if message.metadata.message_type != "train.release":
        return 0
    inputs = message.content.array_records[INPUT]
    return int(inputs["round"].numpy()[0]) if "round" in inputs else 0


def request_of(message: Message) -> Request:
    return request_from_records(message.metadata.message_type, message.content)


def slot_of(message: Message) -> int:
    """The slot that a message is about; 0 for those about none."""
    request = request_of(message)
    return getattr(request.request if isinstance(request, Release) else request, "slot", 0)


def node(index: int) -> int:
    return FIRST_NODE + index


def lost(*indices: int, in_round: int) -> Fault:
    nodes = {node(index) for index in indices}
    return lambda message: message.metadata.dst_node_id in nodes and round_of(message) == in_round


def records_of(said: Reply | bytes | RecordDict) -> RecordDict:
    """Records of a reply; bytes stand for the blob of one."""
    if isinstance(said, RecordDict):
        return said
    if isinstance(said, bytes):
        return RecordDict({REPLY: ConfigRecord({"message": said})})
    return reply_to_records(said)


def altered(index: int, in_round: int, alter: Callable[[Reply], Reply | bytes | RecordDict]):
    """The ClientApp, but that one enterprise's reply in one round is altered on its way."""

    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if lost(index, in_round=in_round)(message):
            said = reply_from_records(reply.content)
            assert isinstance(said, Released)
            return Message(records_of(alter(said)), reply_to=message)
        return reply

    return app


class Joined:
    """Enterprises that have joined, and a coordinator whose messages may be altered."""

    def __init__(self, output: Path) -> None:
        self.config = configured(output)
        self.schema = load_schema(self.config.data.schema_name)
        self.features = feature_layout(self.schema)
        self.grid = InlineGrid(client_app, 6, flatten(self.config))
        terms = terms_of(self.config, self.schema.hash)
        self.session = SecureSumSession(self.grid, SessionSettings.of(self.config), terms)
        self.session.join()

    def task(self) -> Task:
        return Task(STATISTICS, layout_of(STATISTICS, self.config, self.features, 0), {})

    def statistics(self) -> list[Message]:
        return self.session.open(self.task())

    def training(self, **inputs: np.ndarray) -> list[Message]:
        arrays = {
            "rows": np.array([100, 10, 10]),
            "round": np.array([1]),
            MODEL: self.model,
            **inputs,
        }
        layout = layout_of(TRAIN, self.config, self.features, len(self.model))
        return self.session.open(Task(TRAIN, layout, arrays))

    def ask(self, message: Message) -> Reply:
        return reply_from_records(self._answer(message))

    def blob(self, message: Message) -> bytes:
        return self._answer(message).config_records[REPLY]["message"]

    def other(self, message: Message) -> Message:
        """The same request for the slot with another lawful input: of another task."""
        arrays = {"rows": np.array([100, 10, 10]), MODEL: self.model}
        content = RecordDict(dict(copied(message, task=EVALUATE).content))
        content[INPUT] = arrays_to_record(arrays)
        return Message(content, message.metadata.dst_node_id, message.metadata.message_type)

    @property
    def model(self) -> np.ndarray:
        return to_vector(named_arrays(build_network(self.features, self.config.model, 0)))

    def _answer(self, message: Message) -> RecordDict:
        (reply,) = self.grid.send_and_receive([message])
        assert not reply.has_error()
        return reply.content


def copied(message: Message, **changes: object) -> Message:
    """The same message with fields of its release request changed."""
    request = request_of(message)
    assert isinstance(request, Release)
    return with_blob(message, wire.encode(replace(request.request, **changes)))


def with_blob(message: Message, blob: object) -> Message:
    """The same message with other bytes in place of its request; None for none."""
    content = RecordDict(dict(message.content))
    content[REQUEST] = ConfigRecord({} if blob is None else {"message": blob})
    return Message(content, message.metadata.dst_node_id, message.metadata.message_type)


def with_key(members, key: bytes):
    """The members with another round key for the second."""
    return (members[0], replace(members[1], round_public=key), *members[2:])


def counted_computations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks that are computed from now on."""
    compute, computed = Tasks.compute, []

    def counting(self, task, arrays):
        computed.append(task)
        return compute(self, task, arrays)

    monkeypatch.setattr(Tasks, "compute", counting)
    return computed


def identify(grid: InlineGrid, *nodes: int) -> list[Identity]:
    """What these nodes say that they are."""
    asked = [Message(request_to_records(challenge(one)), one, "query.identify") for one in nodes]
    said = [reply_from_records(reply.content) for reply in grid.send_and_receive(asked)]
    assert all(isinstance(one, Identity) for one in said)
    return said


def challenge(number: int) -> Identify:
    return Identify(str(number), os.urandom(32))


def low_order_join(manifest: Manifest, name: str, identity: KeyPair) -> JoinReply:
    """A join whose channel key agrees on no secret, and whose signature holds."""
    unsigned = JoinReply(name, bytes(32), bytes(32), bytes(32), b"", b"")
    signature = sign(identity, unsigned.signed_bytes(manifest.hash()))
    return replace(unsigned, signature=signature)


def accused(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Who was said aloud to be left out."""
    said = [record.getMessage() for record in caplog.records]
    return [line.split(": ")[1].split(";")[0] for line in said if line.startswith("left out from")]
