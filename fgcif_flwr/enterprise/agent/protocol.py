"""Who may speak to a socket, and how long: decided before a byte is read.

Uvicorn's HTTP over h11, with what it leaves open on a socket that hostile code can reach.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fgcif_flwr.enterprise.agent.own_log import log_event
from fgcif_flwr.enterprise.agent.users import peer_of

logger = logging.getLogger(__name__)

SECONDS_TO_ASK = 5.0
"""From connecting to the end of a request's header."""
SECONDS_BETWEEN_LINES = 60.0
"""In the log, of connections of one user that were turned away for one reason."""
MOST_CONNECTIONS = 32
"""At once, on each socket."""
_LONGEST_HEADER = 16 * 2**10


class GuardedConfig(uvicorn.Config):
    """Uvicorn's settings for one of the agent's sockets.

    Parameters
    ----------
    app : callable
        ASGI application.
    name : str
        Of the socket, for the log.
    allowed : frozenset of int
        Users who may connect.
    """

    def __init__(self, app: Callable[..., Any], name: str, allowed: frozenset[int]) -> None:
        self.socket_name = name
        self.turned_away = TurnedAway()
        self.allowed = allowed
        super().__init__(
            app,
            http=GuardedProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=1,
            h11_max_incomplete_event_size=_LONGEST_HEADER,
        )


class TurnedAway:
    """Counts connections that were turned away, so that they fill no log.

    Of each user and reason the first is logged at once, and then one line a minute at most.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], tuple[float, int]] = {}

    def to_log(self, user: int, reason: str, now: float) -> int:
        """Count one; return how many a line is due for, 0 where none is."""
        since, unlogged = self._seen.get((user, reason), (now - SECONDS_BETWEEN_LINES, 0))
        if now - since < SECONDS_BETWEEN_LINES:
            self._seen[user, reason] = since, unlogged + 1
            return 0
        self._seen[user, reason] = now, 0
        return unlogged + 1


class GuardedProtocol(H11Protocol):
    """Lets in the users that may, each connection for one request whose header comes in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Ask the kernel who connects; whoever may not is cut off unheard."""
        config = self.config
        assert isinstance(config, GuardedConfig)
        user = peer_of(transport.get_extra_info("socket"))
        if user not in config.allowed or len(self.connections) >= MOST_CONNECTIONS:
            why = "many connections" if user in config.allowed else "user"
            if times := config.turned_away.to_log(user, why, self.loop.time()):
                log_event(
                    logger,
                    "connection",
                    outcome="refused",
                    socket=config.socket_name,
                    user=user,
                    reason=why,
                    times=times,
                )
            transport.abort()  # before the transport reads: its reader is added after this
            return
        super().connection_made(transport)
        self._waiting = self.loop.call_later(SECONDS_TO_ASK, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self.transport is not None:  # else it was never let in
            self._waiting.cancel()
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read, where the connection was let in."""
        if self.transport is not None:
            super().data_received(data)

    def _give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.abort()


class QuietServer(uvicorn.Server):
    """A server among several of a process, which has signals of its own."""

    def capture_signals(self) -> Any:
        """Leave signals to the process."""
        from contextlib import nullcontext

        return nullcontext()
