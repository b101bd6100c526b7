"""A Flower grid in this process: it calls the real ClientApp for every message, in turn.

For tests and sweeps. The same ServerApp and ClientApp run over it as over ``flwr run``.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

logger = logging.getLogger(__name__)

_SERVER_NODE = 1
_CLIENT_APP_RAISED = 2  # flwr.common.constant.ErrorCode.CLIENT_APP_RAISED_EXCEPTION

Fault = Callable[[Message], bool]
RunConfigMap = Mapping[str, str | int | float | bool]


def node_id(index: int) -> int:
    """Return the node id of the enterprise with partition id ``index``."""
    return 1000 + index


def take_server_identity() -> None:
    """Let ``Message()`` take its sender from here; in a real run Flower's own processes set it."""
    TaskIdentity.task_id = 1
    TaskIdentity.run_id = 1
    TaskIdentity.node_id = _SERVER_NODE


class Nodes:
    """Some of a federation's nodes: one ClientApp, a context for each.

    Parameters
    ----------
    app : ClientApp
    indices : iterable of int
        Their partition ids.
    nodes : int
        Nodes in the whole federation.
    run_config : mapping
        Dotted keys, as ``flwr run`` hands them to the apps.
    """

    def __init__(
        self, app: ClientApp, indices: Iterable[int], nodes: int, run_config: RunConfigMap
    ) -> None:
        self._app = app
        self._contexts = {
            node_id(index): Context(
                run_id=1,
                node_id=node_id(index),
                node_config={"partition-id": index, "num-partitions": nodes},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for index in indices
        }

    def deliver(self, message: Message) -> Message:
        """Let the message's node answer; an exception becomes an error reply, as in Flower."""
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # the node lives on, the server is told
            logger.exception("a ClientApp raised")
            return Message(Error(_CLIENT_APP_RAISED, type(error).__name__), reply_to=message)


class LocalGrid(Grid):
    """Nodes 1000, 1001, … with partition ids 0, 1, … on this machine.

    Parameters
    ----------
    nodes : int
    lose_before, lose_after : callable, optional
        Faults for tests: a message that the first is true of never reaches its node; one that
        the second is true of does, and its reply is lost.
    """

    def __init__(
        self, nodes: int, lose_before: Fault | None = None, lose_after: Fault | None = None
    ) -> None:
        self._count = nodes
        self._run = Run.create_empty(run_id=1)
        self._lose_before = lose_before
        self._lose_after = lose_after
        self._replies: dict[str, Message] = {}
        take_server_identity()

    @abstractmethod
    def deliver(self, messages: list[Message]) -> list[Message]:
        """Return the nodes' replies, in the order of the messages."""

    def set_run(self, run: Run) -> None:
        """Keep the run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message from the server."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, always."""
        return [node_id(index) for index in range(self._count)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages at once; replies wait to be pulled."""
        sent = list(messages)
        for message in sent:
            message.metadata.__dict__["_message_id"] = str(uuid4())
        reaching = [m for m in sent if self._lose_before is None or not self._lose_before(m)]
        for message, reply in zip(reaching, self.deliver(reaching), strict=True):
            if self._lose_after is None or not self._lose_after(message):
                self._replies[message.metadata.message_id] = reply
        return [message.metadata.message_id for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out the replies that there are."""
        found = (self._replies.pop(message_id, None) for message_id in message_ids)
        return [reply for reply in found if reply is not None]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, then pull."""
        return self.pull_messages(self.push_messages(messages))


class InlineGrid(LocalGrid):
    """A grid whose nodes all live in this process.

    Parameters
    ----------
    app : ClientApp
    nodes : int
    run_config : mapping
        Dotted keys, as ``flwr run`` hands them to the apps.
    lose_before, lose_after : callable, optional
        As :class:`LocalGrid`.
    """

    def __init__(
        self,
        app: ClientApp,
        nodes: int,
        run_config: RunConfigMap,
        *,
        lose_before: Fault | None = None,
        lose_after: Fault | None = None,
    ) -> None:
        super().__init__(nodes, lose_before, lose_after)
        self._nodes = Nodes(app, range(nodes), nodes, run_config)

    def deliver(self, messages: list[Message]) -> list[Message]:
        """Call the ClientApp for one message after the other."""
        return [self._nodes.deliver(message) for message in messages]
