"""Counting what travels: every message of a run, whoever sends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fgcif_flwr.federation.records import payload_bytes


@dataclass
class Traffic:
    """Totals over all enterprises: payload bytes up and down, and exchanges."""

    bytes_up: int = 0
    bytes_down: int = 0
    exchanges: int = 0

    def since(self, earlier: Traffic) -> Traffic:
        """Return the difference to an earlier reading."""
        return Traffic(
            self.bytes_up - earlier.bytes_up,
            self.bytes_down - earlier.bytes_down,
            self.exchanges - earlier.exchanges,
        )

    def copy(self) -> Traffic:
        """Return a reading that later traffic does not change."""
        return Traffic(self.bytes_up, self.bytes_down, self.exchanges)


class MeteredGrid(Grid):
    """A grid that counts payload bytes and passes everything on.

    Parameters
    ----------
    grid : Grid
        The one that sends.
    observe : callable, optional
        Sees every message of both directions (tests look for secrets with it).
    on_exchange : callable, optional
        Called before every exchange (progress).
    """

    def __init__(
        self,
        grid: Grid,
        observe: Callable[[Message], None] | None = None,
        on_exchange: Callable[[], None] | None = None,
    ) -> None:
        self._grid = grid
        self._observe = observe
        self._on_exchange = on_exchange
        self.traffic = Traffic()

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
        """Count and pass on."""
        return self._grid.push_messages(self._count_down(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on and count."""
        return self._count_up(self._grid.pull_messages(message_ids))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Count, pass on, count; nothing to send is no exchange."""
        outgoing = self._count_down(messages)
        if not outgoing:
            return []
        self.traffic.exchanges += 1
        if self._on_exchange is not None:
            self._on_exchange()
        return self._count_up(self._grid.send_and_receive(outgoing, timeout=timeout))

    def _count_down(self, messages: Iterable[Message]) -> list[Message]:
        out = list(messages)
        for message in out:
            self.traffic.bytes_down += payload_bytes(message.content)
            if self._observe is not None:
                self._observe(message)
        return out

    def _count_up(self, messages: Iterable[Message]) -> list[Message]:
        out = list(messages)
        for message in out:
            if message.has_content():
                self.traffic.bytes_up += payload_bytes(message.content)
            if self._observe is not None:
                self._observe(message)
        return out
