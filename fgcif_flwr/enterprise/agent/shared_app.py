"""The socket that the SuperNode's user reaches: four paths, one request at a time.

What hostile code there can do is ask. A second request waits until the first one's reply has left,
so that its own reply does not tell when computing ended; more than a few that wait are sent away.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fgcif_flwr.enterprise.agent.agent import Outcome
from fgcif_flwr.enterprise.agent.own_log import log_event
from fgcif_flwr.enterprise.agent.reading import NotTakenError, announced, read_body
from fgcif_flwr.errors import NotAvailableError, PhaseError, SecureSumError
from fgcif_flwr.federation.agent_body import CONTENT_TYPE, PATHS, write_reply
from fgcif_flwr.federation.requests import Refusal

logger = logging.getLogger(__name__)

MOST_WAITING = 4
"""Requests that wait while another is in work."""


class Answering(Protocol):
    """What is behind the socket."""

    def answer(self, path: str, body: bytes) -> Outcome:
        """Answer the bytes of a request; raises nothing."""


@dataclass
class SharedSocket:
    """The ASGI application of the shared socket.

    Attributes
    ----------
    agent : Answering
    executor : Executor
        One thread, in which all of the agent's answers are computed.
    most : int
        Largest request, in bytes.
    release_seconds : float
        See :func:`leaves_after`; 0 lets replies leave when they are ready.
    """

    agent: Answering
    executor: Executor
    most: int
    release_seconds: float
    stopping: bool = False
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waiting: int = 0

    def app(self) -> Starlette:
        """Return the application."""
        routes = [Route(path, self._handle, methods=["POST"]) for path in PATHS]
        app = Starlette(routes=routes, exception_handlers={404: _no_path, 405: _no_path})
        app.router.redirect_slashes = False
        return app

    async def _handle(self, request: Request) -> Response:
        path = request.scope["path"]
        try:
            size = announced(request, self.most)
            if self._waiting >= MOST_WAITING:
                raise NotTakenError(409, "many requests wait already")
            self._waiting += 1
            try:
                await self._turn.acquire()
            finally:
                self._waiting -= 1
            try:
                return await self._in_turn(request, path, size)
            finally:
                self._turn.release()
        except NotTakenError as error:
            return _refused(error.status, str(error), path)

    async def _in_turn(self, request: Request, path: str, size: int) -> Response:
        if self.stopping:
            raise NotTakenError(503, "the agent is stopping")
        loop = asyncio.get_running_loop()
        body = await read_body(request, size)
        came = loop.time()
        outcome = await loop.run_in_executor(self.executor, self.agent.answer, path, body)
        if outcome.from_rows:
            taken = loop.time() - came
            await asyncio.sleep(leaves_after(taken, self.release_seconds) - taken)
        return _response(200, outcome.reply)


def leaves_after(taken: float, unit: float) -> float:
    """Return when a reply leaves that took ``taken`` seconds: ``unit`` times 1, 2, 4, 8, ...

    How long computing on rows takes tells of their number. What is left of that is which power of
    two it came to. A ``unit`` of 0 adds nothing.
    """
    if unit <= 0:
        return taken
    leaves = unit
    while leaves < taken:
        leaves *= 2
    return leaves


async def _no_path(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return _refused(status, "there is no such path", str(request.scope["path"]))


def _refused(status: int, reason: str, path: str) -> Response:
    kinds = {409: PhaseError, 503: NotAvailableError}
    refusal = Refusal.of(kinds.get(status, SecureSumError)(f"{reason}; the agent did nothing"))
    log_event(
        logger,
        "request",
        outcome="refused",
        path=path,
        status=status,
        code=refusal.code,
        reason=reason,
    )
    return _response(status, write_reply(refusal))


def _response(status: int, body: bytes) -> Response:
    # One request a connection: what comes after it is never read.
    headers = {"content-type": CONTENT_TYPE, "connection": "close"}
    return Response(body, status, headers)
