"""A grid around another one, for what is done to every message on its way."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run


class PassingGrid(Grid):
    """Passes everything on; :meth:`outgoing` and :meth:`incoming` see all messages.

    Parameters
    ----------
    grid : Grid
        The one that sends.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def outgoing(self, messages: list[Message]) -> list[Message]:
        """Return what is sent in place of these."""
        return messages

    def incoming(self, messages: list[Message]) -> list[Message]:
        """Return what is received in place of these."""
        return messages

    def exchanging(self) -> None:
        """Is called before every exchange."""

    def set_run(self, run: Run) -> None:
        """Pass on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """Run information of the grid that sends."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Pass on."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Pass on."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on."""
        return self._grid.push_messages(self.outgoing(list(messages)))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on."""
        return self.incoming(list(self._grid.pull_messages(message_ids)))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Pass on; nothing to send is no exchange."""
        sent = self.outgoing(list(messages))
        if not sent:
            return []
        self.exchanging()
        return self.incoming(list(self._grid.send_and_receive(sent, timeout=timeout)))
