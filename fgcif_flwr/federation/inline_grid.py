"""A Flower grid in this process: it calls the real ClientApp for every message, in turn.

For tests and sweeps. The same ServerApp and ClientApp run over it as over ``flwr run``.
"""

from __future__ import annotations

import logging
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


class InlineGrid(Grid):
    """Nodes 1000, 1001, … with partition ids 0, 1, …, each with a context of its own.

    Parameters
    ----------
    app : ClientApp
    nodes : int
    run_config : mapping
        Dotted keys, as ``flwr run`` hands them to the apps.
    lose_before, lose_after : callable, optional
        Faults for tests: a message that the first is true of never reaches its node; one that
        the second is true of does, and its reply is lost.
    """

    def __init__(
        self,
        app: ClientApp,
        nodes: int,
        run_config: Mapping[str, str | int | float | bool],
        *,
        lose_before: Fault | None = None,
        lose_after: Fault | None = None,
    ) -> None:
        self._app = app
        self._run = Run.create_empty(run_id=1)
        self._lose_before = lose_before
        self._lose_after = lose_after
        self._replies: dict[str, Message] = {}
        self._contexts = {
            1000 + index: Context(
                run_id=1,
                node_id=1000 + index,
                node_config={"partition-id": index, "num-partitions": nodes},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for index in range(nodes)
        }
        # Message() takes its sender from here; in a real run Flower's own processes set it.
        TaskIdentity.task_id = 1
        TaskIdentity.run_id = 1
        TaskIdentity.node_id = _SERVER_NODE

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
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages at once; replies wait to be pulled."""
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())
            ids.append(message.metadata.message_id)
            reply = self._deliver(message)
            if reply is not None:
                self._replies[message.metadata.message_id] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out the replies that there are."""
        found = (self._replies.pop(message_id, None) for message_id in message_ids)
        return [reply for reply in found if reply is not None]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, then pull."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> Message | None:
        if self._lose_before is not None and self._lose_before(message):
            return None
        try:
            reply = self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # as Flower does: the node lives on, the server is told
            logger.exception("a ClientApp raised")
            failed = Error(_CLIENT_APP_RAISED, type(error).__name__)
            return Message(failed, reply_to=message)
        if self._lose_after is not None and self._lose_after(message):
            return None
        return reply
