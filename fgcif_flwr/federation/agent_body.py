"""A request to an enterprise's agent as bytes, and its reply.

A request is

    length of the head (4 bytes, big-endian)
    the head: JSON, see :class:`_Head`
    the message (:mod:`fgcif_flwr.secagg.wire`)
    the arrays, raw, little-endian, in the order of rows, one after the other

and nothing more. What arrives is from a stranger: the head is short, every size in it is compared
with the bytes that are there before anything is set aside, and no bytes are run as code. A reply
is a message, as it is.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, cast, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.federation.requests import (
    MESSAGE_TYPES,
    Arrays,
    Release,
    Reply,
    Request,
)
from fgcif_flwr.federation.signing import RequestSignature
from fgcif_flwr.secagg import wire
from fgcif_flwr.secagg.messages import (
    ReleaseRequest,
)

CONTENT_TYPE = "application/x-fgcif"
PATHS: Mapping[str, tuple[str, ...]] = {
    "/v1/join": ("query.identify", "query.join", "query.reveal"),
    "/v1/advertise": ("query.advertise",),
    "/v1/release": ("train.release",),
    "/v1/unmask": ("query.consent", "query.unmask"),
}
"""The agent's paths, and which kinds of message each takes (Flower's message types)."""

_LENGTH = struct.Struct(">I")
_LONGEST_HEAD = 1 << 18
_MOST_ARRAYS = 1024
_LARGEST = 1 << 40
_Kind = Literal["<f4", "<f8", "<i4", "<i8", "<u4", "<u8", "|u1"]
_KINDS = get_args(_Kind)
_Strict = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class _Array(BaseModel):
    """Name, kind and shape of an array."""

    model_config = _Strict

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    kind: _Kind
    shape: list[Annotated[int, Field(ge=0, le=_LARGEST)]] = Field(max_length=8)

    @property
    def size(self) -> int:
        """Bytes of it."""
        return math.prod(self.shape) * np.dtype(self.kind).itemsize


class _Signature(BaseModel):
    """A request's signature; ``signature`` in hexadecimal digits."""

    model_config = _Strict

    recipient: Annotated[str, StringConstraints(max_length=256)]
    number: Annotated[int, Field(ge=0, lt=1 << 63)]
    signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]


class _Head(BaseModel):
    """What stands before a request's bytes."""

    model_config = _Strict

    version: Literal[1]
    kind: Annotated[str, StringConstraints(max_length=64)]
    message: Annotated[int, Field(ge=0, le=_LARGEST)]
    signature: _Signature | None
    arrays: list[_Array] = Field(max_length=_MOST_ARRAYS)


@dataclass(frozen=True)
class AgentRequest:
    """A request as an agent gets it.

    Attributes
    ----------
    kind : str
        Flower's message type.
    message : bytes
        As the coordinator wrote and signed it.
    signature : RequestSignature or None
    arrays : mapping of str to array
        A release's input; empty for any other request.
    """

    kind: str
    message: bytes
    signature: RequestSignature | None
    arrays: Arrays

    @property
    def path(self) -> str:
        """The agent's path for it; SecureSumError for a kind that no agent answers."""
        for path, kinds in PATHS.items():
            if self.kind in kinds:
                return path
        raise SecureSumError("a request is malformed: there is no such message type")

    def read(self) -> Request:
        """Return what is asked; SecureSumError if the message is malformed."""
        kind = MESSAGE_TYPES[self.kind]
        if kind is Release:
            return Release(wire.decode(ReleaseRequest, self.message), self.arrays)
        if self.arrays:
            raise SecureSumError("a request is malformed: only a release has an input")
        return wire.decode(kind, self.message)


def write_request(request: AgentRequest) -> bytes:
    """Return a request's bytes.

    Raises
    ------
    SecureSumError
        If an array is of a kind that no task takes.
    """
    arrays = {name: _little(name, array) for name, array in request.arrays.items()}
    signature = request.signature
    head = {
        "version": 1,
        "kind": request.kind,
        "message": len(request.message),
        "signature": None
        if signature is None
        else {
            "recipient": signature.recipient,
            "number": signature.number,
            "signature": signature.signature.hex(),
        },
        "arrays": [
            {"name": name, "kind": array.dtype.str, "shape": list(array.shape)}
            for name, array in arrays.items()
        ],
    }
    text = json.dumps(head).encode()
    parts = [_LENGTH.pack(len(text)), text, request.message]
    return b"".join([*parts, *(array.tobytes() for array in arrays.values())])


def read_request(data: bytes) -> AgentRequest:
    """Undo :func:`write_request`; SecureSumError, telling nothing of the bytes, if malformed."""
    try:
        (length,) = _LENGTH.unpack_from(data)
        if length > _LONGEST_HEAD:
            raise ValueError
        start = _LENGTH.size + length
        head = _Head.model_validate_json(data[_LENGTH.size : start])
    except (struct.error, ValueError):  # ValidationError is one
        raise SecureSumError("a request is malformed: its head cannot be read") from None
    names = [array.name for array in head.arrays]
    if head.kind not in MESSAGE_TYPES or len(set(names)) != len(names):
        raise SecureSumError("a request is malformed: its head does not fit together")
    sizes = [head.message, *(array.size for array in head.arrays)]
    if start + sum(sizes) != len(data):
        raise SecureSumError("a request is malformed: its head and its size differ")
    at = start + head.message
    message = data[start:at]
    arrays: dict[str, np.ndarray] = {}
    for array in head.arrays:
        numbers = np.frombuffer(data, array.kind, math.prod(array.shape), at)
        arrays[array.name] = numbers.reshape(array.shape).copy()  # aligned, where it was not
        at += array.size
    return AgentRequest(head.kind, message, _signature(head.signature), arrays)


def write_reply(reply: Reply) -> bytes:
    """Return a reply's bytes."""
    return wire.encode(reply)


def read_reply(data: bytes) -> Reply:
    """Undo :func:`write_reply`; SecureSumError if malformed."""
    return cast(Reply, wire.decode_any(get_args(Reply), data))


def _signature(head: _Signature | None) -> RequestSignature | None:
    if head is None:
        return None
    return RequestSignature(head.recipient, head.number, bytes.fromhex(head.signature))


def _little(name: str, array: np.ndarray) -> np.ndarray:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
    if little.dtype.str not in _KINDS:
        raise SecureSumError(f"array {name!r} of a task's input is of a kind that no task takes")
    return little
