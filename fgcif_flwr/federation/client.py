"""From a Flower message to an enterprise and back; the whole of the ClientApp.

In a simulation the enterprise is an object in this process, its secrets between two messages in
``context.state``. In a deployment it is its agent, another process of another user, whose socket
the node's configuration names. Light to import: a deployment starts a process for every message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from flwr.app import ConfigRecord, Context, Message

from fgcif_flwr.errors import FgcifError, NotAvailableError
from fgcif_flwr.federation.records import reply_to_records, request_from_records
from fgcif_flwr.federation.requests import Refusal, Reply, Request

if TYPE_CHECKING:
    from fgcif_flwr.config import RunConfig, Scalar

logger = logging.getLogger(__name__)

_STATE = "participant"


State = Mapping[str, object]
Simulated = Callable[
    ["RunConfig", int, Request, State], tuple[Reply, Mapping[str, int | str | bytes]]
]
"""Lets a simulated enterprise answer: configuration, its number, request, state; and its state."""


def answer(message: Message, context: Context, simulated: Simulated) -> Message:
    """Answer a message. Whatever goes wrong becomes a refusal that holds nothing of a customer.

    Flower sends the text of an exception to the server, and a ClientApp that returns nothing
    wedges its node: so an error of ours is refused in its own words, and any other one without
    words, its traceback staying in this enterprise's log.
    """
    try:
        reply = _answer(message, context, simulated)
    except FgcifError as error:
        logger.warning("refused: %s", error)
        reply = Refusal.of(error)
    except Exception:  # its text would go to the server, and without a reply the node hangs
        logger.exception("an enterprise failed on a message")
        reply = Refusal.internal()
    return Message(reply_to_records(reply), reply_to=message)


def _answer(message: Message, context: Context, simulated: Simulated) -> Reply:
    if "partition-id" not in context.node_config:
        return _ask_agent(message, context)
    request = request_from_records(message.metadata.message_type, message.content)
    state = cast(ConfigRecord, context.state.get(_STATE, ConfigRecord()))
    reply, changed = simulated(
        _config(tuple(sorted(context.run_config.items()))),
        int(context.node_config["partition-id"]),
        request,
        state,
    )
    context.state[_STATE] = ConfigRecord({**changed})
    return reply


def _ask_agent(message: Message, context: Context) -> Reply:
    from fgcif_flwr.federation.agent_call import ask_agent  # a simulation does without it

    socket = context.node_config.get("agent")
    if not isinstance(socket, str) or not socket:
        raise NotAvailableError(
            "this node serves no enterprise: its node-config wants agent, the path of its agent's "
            "shared socket, as fgcif-client join gives it"
        )
    return ask_agent(socket, message.metadata.message_type, message.content)


@lru_cache(maxsize=4)
def _config(items: tuple[tuple[str, Scalar], ...]) -> RunConfig:
    """Validate a run's configuration once in each process, not for every message."""
    from fgcif_flwr.config import unflatten  # a deployment's ClientApp does without it

    return unflatten(dict(items))
