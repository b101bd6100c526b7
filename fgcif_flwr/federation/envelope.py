"""Requests of the secure sum under a message type that somebody else's ClientApp knows.

Flower calls a ClientApp's mods only for message types that the app has a function for. So that a
mod is all that an app needs, every request travels under such a type, and says beside its bytes
which one it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

ENVELOPE = "fgcif.envelope"
_TYPE = "type"


def enclose(message: Message, carrier: str) -> Message:
    """Return the message under the type ``carrier``, its own type beside its records."""
    content = RecordDict(dict(message.content.items()))
    content[ENVELOPE] = ConfigRecord({_TYPE: message.metadata.message_type})
    metadata = message.metadata
    return Message(
        content, metadata.dst_node_id, carrier, ttl=metadata.ttl, group_id=metadata.group_id
    )


def enclosed_type(message: Message) -> str | None:
    """Return the type that a request had before it was enclosed; None where there is none."""
    record = message.content.get(ENVELOPE) if message.has_content() else None
    kind = record.get(_TYPE) if isinstance(record, ConfigRecord) else None
    return kind if isinstance(kind, str) else None


class EnvelopeGrid(Grid):
    """A grid that encloses every message that passes through it.

    Parameters
    ----------
    grid : Grid
        The one that sends.
    carrier : str
        Message type that the ClientApp has a function for; may be changed between exchanges.
    """

    def __init__(self, grid: Grid, carrier: str) -> None:
        self._grid = grid
        self.carrier = carrier

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
        """Enclose and pass on."""
        return self._grid.push_messages([enclose(one, self.carrier) for one in messages])

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Enclose and pass on; nothing to send is no exchange."""
        enclosed = [enclose(one, self.carrier) for one in messages]
        return self._grid.send_and_receive(enclosed, timeout=timeout) if enclosed else []
