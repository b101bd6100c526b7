"""From a ClientApp to its enterprise's agent, over a Unix socket.

Runs in a process that lasts for one message: it passes bytes on and holds nothing.
"""

from __future__ import annotations

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fgcif_flwr.errors import NotAvailableError, SecureSumError
from fgcif_flwr.federation.agent_body import (
    CONTENT_TYPE,
    AgentRequest,
    read_reply,
    write_request,
)
from fgcif_flwr.federation.agent_http import BrokenOffError, NobodyAnswersError, post
from fgcif_flwr.federation.records import INPUT, REQUEST, arrays_from_record, signature_in
from fgcif_flwr.federation.requests import Reply

_LONGEST_ANSWER = (
    24 * 3600.0
)  # the coordinator's own patience ends before; no node is held for ever


def ask_agent(socket: str, kind: str, records: RecordDict) -> Reply:
    """Return the agent's reply to a message of Flower's type ``kind``.

    Parameters
    ----------
    socket
        Path of the agent's shared socket.

    Raises
    ------
    NotAvailableError
        If no agent answers, or it takes no request of this size.
    SecureSumError
        If the message is no request.
    """
    request = request_of(kind, records)
    body = write_request(request)
    try:
        answer = post(socket, request.path, body, CONTENT_TYPE, _LONGEST_ANSWER)
    except NobodyAnswersError:
        raise NotAvailableError(
            "this enterprise's agent is not running, or does not let this user in; it starts it "
            "with fgcif-client serve"
        ) from None
    except BrokenOffError:
        raise NotAvailableError(
            "this enterprise's agent broke off; its own log says more"
        ) from None
    if answer.content_type != CONTENT_TYPE:
        raise NotAvailableError(
            f"this enterprise's agent did not take the request (status {answer.status}); its own "
            "log says more"
        )
    return read_reply(answer.body)


def request_of(kind: str, records: RecordDict) -> AgentRequest:
    """Return what an agent is to get of a message; SecureSumError if it is no request."""
    record = records.get(REQUEST)
    message = record.get("message") if isinstance(record, ConfigRecord) else None
    if not isinstance(message, bytes):
        raise SecureSumError("a message is malformed: it holds no bytes where they are awaited")
    inputs = records.get(INPUT)
    arrays = arrays_from_record(inputs) if isinstance(inputs, ArrayRecord) else {}
    return AgentRequest(kind, message, signature_in(records), arrays)
