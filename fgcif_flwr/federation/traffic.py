"""Counting what travels: every message of a run, whoever sends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from fgcif_flwr.federation.passing_grid import PassingGrid
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


class MeteredGrid(PassingGrid):
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
        super().__init__(grid)
        self._observe = observe
        self._on_exchange = on_exchange
        self.traffic = Traffic()

    def exchanging(self) -> None:
        """Count the exchange."""
        self.traffic.exchanges += 1
        if self._on_exchange is not None:
            self._on_exchange()

    def outgoing(self, messages: list[Message]) -> list[Message]:
        """Count what goes down."""
        self.traffic.bytes_down += self._size_of(messages)
        return messages

    def incoming(self, messages: list[Message]) -> list[Message]:
        """Count what comes up; an error has no payload."""
        self.traffic.bytes_up += self._size_of(messages)
        return messages

    def _size_of(self, messages: list[Message]) -> int:
        if self._observe is not None:
            for message in messages:
                self._observe(message)
        return sum(payload_bytes(one.content) for one in messages if one.has_content())
