"""Requests of the secure sum under a message type that somebody else's ClientApp knows.

Flower calls a ClientApp's mods only for message types that the app has a function for. So that a
mod is all that an app needs, every request travels under such a type, and says beside its bytes
which one it is.
"""

from __future__ import annotations

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fgcif_flwr.federation.passing_grid import PassingGrid

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


class EnvelopeGrid(PassingGrid):
    """A grid that encloses every message that passes through it.

    Parameters
    ----------
    grid : Grid
        The one that sends.
    carrier : str
        Message type that the ClientApp has a function for; may be changed between exchanges.
    """

    def __init__(self, grid: Grid, carrier: str) -> None:
        super().__init__(grid)
        self.carrier = carrier

    def outgoing(self, messages: list[Message]) -> list[Message]:
        """Enclose them."""
        return [enclose(one, self.carrier) for one in messages]
