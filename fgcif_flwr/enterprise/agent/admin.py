"""The enterprise's own way to its agent: operations over the admin socket."""

from __future__ import annotations

import json

import pyarrow as pa
from pydantic import BaseModel

from fgcif_flwr.config.enterprise import EnterpriseConfig
from fgcif_flwr.enterprise.agent.operation import Answer
from fgcif_flwr.errors import AgentNotRunningError, FgcifError, by_exit_code
from fgcif_flwr.federation.agent_http import (
    BrokenOffError,
    HttpAnswer,
    NobodyAnswersError,
    post,
)

ARROW_TYPE = "application/vnd.apache.arrow.stream"
"""Content type of an answer with a table."""
ANSWER = b"fgcif"
"""Key of an Arrow table's metadata under which the rest of the answer stands, as JSON."""


def call(
    config: EnterpriseConfig, name: str, request: BaseModel, *, timeout: float | None = None
) -> Answer:
    """Let the running agent carry out an operation.

    Parameters
    ----------
    config
        Says where the admin socket is.
    name
        Of the operation.
    request
        Of the operation's type.
    timeout
        Seconds without a word from it after which to give up; None waits as long as it takes.

    Raises
    ------
    AgentNotRunningError
        If nothing answers on the socket.
    FgcifError
        What the agent refused with, of its own class; or that it broke off.
    """
    socket = config.agent.admin
    body = request.model_dump_json(by_alias=True).encode()
    try:
        answer = post(str(socket), f"/v1/{name}", body, "application/json", timeout)
    except NobodyAnswersError:
        raise AgentNotRunningError(
            f"no agent answers on {socket}, or this user may not use it; start one with "
            "fgcif-client serve"
        ) from None
    except BrokenOffError as error:
        raise FgcifError(
            f"the agent on {socket} broke off ({error}): its log says whether it did what was asked"
        ) from None
    return _answer(answer)


def _answer(answer: HttpAnswer) -> Answer:
    if answer.content_type == ARROW_TYPE:
        table = pa.ipc.open_stream(answer.body).read_all()
        metadata = dict(table.schema.metadata or {})
        head = json.loads(metadata.pop(ANSWER))
        return Answer(
            head["result"],
            table.replace_schema_metadata(metadata or None),
            tuple(head["warnings"]),
        )
    try:
        body = json.loads(answer.body)
        if answer.status == 200:
            return Answer(body["result"], None, tuple(body["warnings"]))
        error = by_exit_code(int(body["error"]["exit_code"]), str(body["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        raise FgcifError(f"the agent gave no answer (HTTP status {answer.status})") from None
    raise error
