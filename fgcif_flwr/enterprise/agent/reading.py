"""Reading a request's body from a peer that may lie about it, or never end it."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

_SECONDS = 30.0
_BYTES_A_SECOND = 2**20


class NotTakenError(Exception):
    """A body that is not read to its end; ``status`` is HTTP's word for why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def announced(request: Request, most: int) -> int:
    """Return a body's size by its header; NotTakenError unless it is there and at most ``most``."""
    said = request.headers.getlist("content-length")
    if len(said) != 1 or "transfer-encoding" in request.headers:
        raise NotTakenError(411, "a request wants its size in content-length")
    if not (said[0].isascii() and said[0].isdigit() and len(said[0]) < 19):
        raise NotTakenError(400, "a request's content-length is no number")
    size = int(said[0])
    if size > most:
        raise NotTakenError(413, f"a request of {size} bytes is above the most of {most}")
    return size


async def read_body(request: Request, size: int) -> bytes:
    """Return a body of the announced size; NotTakenError if it is another, or comes slowly.

    What comes beyond the size is never read; what comes slower than 1 MiB a second, after a grace
    of 30 s, is cut off.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(_SECONDS + size / _BYTES_A_SECOND):
            async for chunk in request.stream():
                body += chunk
                if len(body) > size:
                    raise NotTakenError(400, "a request is longer than it says")
    except TimeoutError:
        raise NotTakenError(408, "a request came too slowly") from None
    except ClientDisconnect:
        raise NotTakenError(400, "a request broke off") from None
    if len(body) != size:
        raise NotTakenError(400, "a request is shorter than it says")
    return bytes(body)
