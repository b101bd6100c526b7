"""One HTTP request over a Unix socket, on the standard library alone.

It closes what it opened whatever happens, and reads an answer that came before the request was
sent to its end: an agent answers by the header where a request is too large.
"""

from __future__ import annotations

import http.client
import socket
from contextlib import closing, suppress
from dataclasses import dataclass

_SECONDS_TO_CONNECT = 5.0


class NobodyAnswersError(Exception):
    """Nobody listens on the socket, or this user may not connect."""


class BrokenOffError(Exception):
    """The other side ended the connection, or took too long; the text says which."""


@dataclass(frozen=True)
class HttpAnswer:
    """Status, content type (empty if none) and body."""

    status: int
    content_type: str
    body: bytes


def post(
    path: str, target: str, body: bytes, content_type: str, timeout: float | None = None
) -> HttpAnswer:
    """Send one POST to the socket at ``path`` and return the answer.

    Parameters
    ----------
    target
        HTTP's path.
    timeout
        Seconds of silence after which to give up; None waits for ever.

    Raises
    ------
    NobodyAnswersError, BrokenOffError
    """
    with closing(_UnixConnection(path, timeout)) as connection:
        try:
            connection.connect()
        except OSError:
            raise NobodyAnswersError from None
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # there may be an answer yet
                connection.request("POST", target, body, {"content-type": content_type})
            with connection.getresponse() as response:
                return HttpAnswer(
                    response.status, response.getheader("content-type", ""), response.read()
                )
        except (OSError, http.client.HTTPException) as error:
            raise BrokenOffError(type(error).__name__) from None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("agent", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            opened.settimeout(_SECONDS_TO_CONNECT)
            opened.connect(self._path)
            opened.settimeout(self.timeout)
        except BaseException:
            opened.close()
            raise
        self.sock = opened
