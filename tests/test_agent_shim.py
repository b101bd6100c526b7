"""The ClientApp of a deployment: bytes to the agent's socket and back, and nothing else."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client_app.app import app
from fgcif_flwr.federation.agent_body import CONTENT_TYPE, read_request, write_reply
from fgcif_flwr.federation.inline_grid import take_server_identity
from fgcif_flwr.federation.records import (
    REQUEST,
    reply_from_records,
    request_to_records,
    sign_request,
)
from fgcif_flwr.federation.requests import Identify, Refusal, Release
from fgcif_flwr.federation.signing import Signer
from fgcif_flwr.federation.task_input import input_hash
from fgcif_flwr.secagg.keys import identity_from_seed
from fgcif_flwr.secagg.messages import ReleaseRequest
from tests.test_layers import HEAVY, loaded_by

COORDINATOR = identity_from_seed(bytes(32))


def ask(node_config, request=None, kind="query.identify"):
    take_server_identity()
    content = request_to_records(request or Identify("n", bytes(32)))
    hashed = input_hash(request.arrays) if isinstance(request, Release) else input_hash({})
    sign_request(content, kind, Signer(COORDINATOR), "e000", hashed)
    message = Message(content, 1000, kind)
    return reply_from_records(app(message, Context(1, 1000, node_config, RecordDict(), {})).content)


@contextmanager
def answering(path, answer: bytes):
    """A socket that reads one request and says ``answer``; what it read is in the list."""
    heard: list[bytes] = []
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def serve():
        one, _ = listening.accept()
        with one:
            data = b""
            while b"\r\n\r\n" not in data:
                data += one.recv(65536)
            head, _, body = data.partition(b"\r\n\r\n")
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            while len(body) < size:
                body += one.recv(65536)
            heard.append(body)
            one.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield heard
    finally:
        thread.join(10)
        listening.close()


def http(body: bytes, kind=CONTENT_TYPE, status="200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_a_message_is_passed_on_with_its_signature_and_the_reply_back(tmp_path):
    path = tmp_path / "agent.sock"
    arrays = {"rows": np.array([1, 2, 3]), "model": np.zeros((2, 3), np.float32, order="F")}
    release = Release(ReleaseRequest(bytes(32), 3, "train", ("a",), ()), arrays)
    said = Refusal(34, "in the agent's own words")
    with answering(path, http(write_reply(said))) as heard:
        assert ask({"agent": str(path)}, release, "train.release") == said
    request = read_request(heard[0])
    assert request.signature is not None
    request.signature.verify(
        COORDINATOR.public, "train.release", request.message, input_hash(request.arrays)
    )
    read = request.read()
    assert isinstance(read, Release)
    assert read.request == release.request
    np.testing.assert_array_equal(read.arrays["model"], arrays["model"])


def test_a_node_without_an_agent_says_so():
    for config in ({}, {"agent": ""}, {"agent": 3}):
        said = ask(config)
        assert (said.code, "node-config wants agent" in said.reason) == (12, True)


@pytest.mark.parametrize("there", [False, True])
def test_an_agent_that_is_absent_is_a_refusal_without_paths(tmp_path, there):
    path = tmp_path / "secret" / "agent.sock"
    if there:  # as a killed agent leaves it
        path.parent.mkdir()
        one = socket.socket(socket.AF_UNIX)
        one.bind(str(path))
        one.close()
    said = ask({"agent": str(path)})
    assert said.code == 12
    assert "not running" in said.reason
    assert os.sep not in said.reason


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        http(b"ANNA MUSTER", "text/plain", "500 Oops"),
        http(b"ANNA MUSTER"),
        http(b"x")[:-1],
    ],
)
def test_an_agent_that_answers_nonsense_is_a_refusal_that_holds_none_of_it(tmp_path, answer):
    path = tmp_path / "agent.sock"
    with answering(path, answer):
        said = ask({"agent": str(path)})
    assert said.code in (12, 31)
    assert "ANNA" not in said.reason
    assert os.sep not in said.reason


def test_a_refusal_of_another_status_is_passed_on(tmp_path):
    path = tmp_path / "agent.sock"
    said = Refusal(36, "many requests wait")
    with answering(path, http(write_reply(said), status="409 Conflict")):
        assert ask({"agent": str(path)}) == said


def test_a_message_without_a_request_is_refused_here(tmp_path):
    take_server_identity()
    for content in (RecordDict(), RecordDict({REQUEST: ConfigRecord({"message": "text"})})):
        message = Message(content, 1000, "query.identify")
        reply = app(message, Context(1, 1000, {"agent": "x"}, RecordDict(), {}))
        assert reply_from_records(reply.content).code == 31


def test_the_shim_loads_nothing_heavy():
    loaded = loaded_by("import client_app.app, fgcif_flwr.federation.agent_call")
    assert loaded.isdisjoint(HEAVY)
    assert loaded.isdisjoint({"uvicorn", "starlette"})
