"""Requests and replies as Flower records, and back.

Bytes travel as bytes: no pickle, no text encoding of numbers. Light to import: the ClientApp
starts a process for every message in a deployment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast
from zipfile import BadZipFile

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.federation.requests import (
    Advertise,
    Arrays,
    Identify,
    Identity,
    Join,
    Refusal,
    Release,
    Released,
    Reply,
    Request,
)
from fgcif_flwr.secagg.messages import (
    Advertisement,
    CohortMember,
    JoinReply,
    Manifest,
    MaskedVector,
    ReleaseRequest,
    UnmaskReply,
    UnmaskRequest,
)

REQUEST = "request"
REPLY = "reply"
INPUT = "input"

# What a ConfigRecord can hold, spelled as Flower spells it.
_Value = (
    int
    | float
    | str
    | bytes
    | bool
    | list[int]
    | list[float]
    | list[str]
    | list[bytes]
    | list[bool]
)
_T = TypeVar("_T")

# What reading raises on what it cannot read; the last three come of arrays and of large numbers.
_MALFORMED = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    EOFError,
    OverflowError,
    BadZipFile,
)


def message_type(request: Request) -> str:
    """Return Flower's message type, by which the ClientApp routes a request."""
    return {
        Identify: "query.identify",
        Join: "query.join",
        Advertise: "query.advertise",
        Release: "train.release",
        UnmaskRequest: "query.unmask",
    }[type(request)]


def arrays_to_record(arrays: Arrays) -> ArrayRecord:
    """Return arrays under their names."""
    return ArrayRecord({name: Array(np.ascontiguousarray(a)) for name, a in arrays.items()})


def arrays_from_record(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Undo :func:`arrays_to_record`."""
    arrays = {name: array.numpy() for name, array in record.items()}
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise TypeError("an archive in place of an array")
    return arrays


def request_to_records(request: Request, inputs: ArrayRecord | None = None) -> RecordDict:
    """Write a request; ``inputs`` is a Release's input when it is shared by many messages."""
    values: dict[str, _Value]
    if isinstance(request, Identify):
        values = {}
    elif isinstance(request, Join):
        values = {"manifest": request.manifest.to_json()}
    elif isinstance(request, Advertise):
        values = {"slot": request.slot, **_joins(request.joins)}
    elif isinstance(request, Release):
        members = request.request.cohort
        values = {
            "slot": request.request.slot,
            "task": request.request.task,
            "names": [member.name for member in members],
            "publics": [member.round_public for member in members],
            "sealed": [member.sealed for member in members],
        }
    else:
        values = {
            "slot": request.slot,
            "survivors": list(request.survivors),
            "dropped": list(request.dropped),
        }
    records = RecordDict({REQUEST: ConfigRecord(values)})
    if isinstance(request, Release):
        records[INPUT] = arrays_to_record(request.arrays) if inputs is None else inputs
    return records


def request_from_records(kind: str, records: RecordDict) -> Request:
    """Read the request of a message of Flower type ``kind``; SecureSumError if malformed."""
    return _strict("request", lambda: _read_request(kind, records))


def reply_to_records(reply: Reply) -> RecordDict:
    """Write a reply."""
    values: dict[str, _Value]
    if isinstance(reply, Identity):
        values = {"kind": "identity", "name": reply.name, "public": reply.public}
    elif isinstance(reply, JoinReply):
        values = {"kind": "join", **_joins((reply,))}
    elif isinstance(reply, Advertisement):
        values = {"kind": "advertisement", **_advertisement(reply)}
    elif isinstance(reply, Released):
        values = {
            "kind": "released",
            "words": reply.vector.words,
            "vector_slot": reply.vector.slot,
            **_advertisement(reply.next),
        }
    elif isinstance(reply, UnmaskReply):
        values = {
            "kind": "unmask",
            "sender": reply.sender,
            "slot": reply.slot,
            "shares": list(reply.shares),
        }
    else:
        values = {"kind": "refusal", "code": reply.code, "reason": reply.reason}
    return RecordDict({REPLY: ConfigRecord(values)})


def reply_from_records(records: RecordDict) -> Reply:
    """Read a reply; SecureSumError if malformed."""
    return _strict("reply", lambda: _read_reply(_Reader(records, REPLY)))


def payload_bytes(records: RecordDict) -> int:
    """Bytes of a message's payload: names, numbers, byte strings and array data."""
    total = 0
    for name, record in records.items():
        total += len(name)
        if isinstance(record, ArrayRecord):
            total += sum(len(key) + len(array.data) for key, array in record.items())
        else:
            total += sum(len(key) + _size(value) for key, value in record.items())
    return total


def _size(value: object) -> int:
    if isinstance(value, list):
        return sum(map(len if value and isinstance(value[0], str | bytes) else _size, value))
    return len(value) if isinstance(value, str | bytes) else 8


def _joins(joins: Sequence[JoinReply]) -> dict[str, _Value]:
    return {
        "join_names": [join.name for join in joins],
        "join_nonces": [join.nonce for join in joins],
        "join_channels": [join.channel_public for join in joins],
        "join_signatures": [join.signature for join in joins],
    }


def _advertisement(ad: Advertisement) -> dict[str, _Value]:
    return {
        "sender": ad.sender,
        "slot": ad.slot,
        "round_public": ad.round_public,
        "commitment": ad.commitment,
        "sealed": list(ad.sealed),
    }


class _Reader:
    """Typed access to a record; a wrong type is a TypeError, an absent key a KeyError."""

    def __init__(self, records: RecordDict, name: str) -> None:
        self.record = cast(ConfigRecord, records[name])

    def number(self, key: str) -> int:
        return self._of(key, int)

    def text(self, key: str) -> str:
        return self._of(key, str)

    def octets(self, key: str) -> bytes:
        return self._of(key, bytes)

    def texts(self, key: str) -> list[str]:
        return self._list(key, str)

    def blobs(self, key: str) -> list[bytes]:
        return self._list(key, bytes)

    def _of(self, key: str, kind: type[_T]) -> _T:
        value = self.record[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(key)
        return value

    def _list(self, key: str, kind: type[_T]) -> list[_T]:
        value = self.record[key]
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            raise TypeError(key)
        return cast(list[_T], value)

    def joins(self) -> tuple[JoinReply, ...]:
        columns = zip(
            self.texts("join_names"),
            self.blobs("join_nonces"),
            self.blobs("join_channels"),
            self.blobs("join_signatures"),
            strict=True,
        )
        return tuple(JoinReply(*row) for row in columns)

    def advertisement(self) -> Advertisement:
        return Advertisement(
            self.text("sender"),
            self.number("slot"),
            self.octets("round_public"),
            self.octets("commitment"),
            tuple(self.blobs("sealed")),
        )


def _read_request(kind: str, records: RecordDict) -> Request:
    reader = _Reader(records, REQUEST)
    if kind == "query.identify":
        return Identify()
    if kind == "query.join":
        return Join(Manifest.from_json(reader.text("manifest")))
    if kind == "query.advertise":
        return Advertise(reader.number("slot"), reader.joins())
    if kind == "query.unmask":
        return UnmaskRequest(
            reader.number("slot"), tuple(reader.texts("survivors")), tuple(reader.texts("dropped"))
        )
    if kind == "train.release":
        members = zip(
            reader.texts("names"), reader.blobs("publics"), reader.blobs("sealed"), strict=True
        )
        cohort = tuple(CohortMember(*member) for member in members)
        request = ReleaseRequest(reader.number("slot"), reader.text("task"), cohort)
        return Release(request, arrays_from_record(cast(ArrayRecord, records[INPUT])))
    raise TypeError(kind)


def _read_reply(reader: _Reader) -> Reply:
    kind = reader.text("kind")
    if kind == "identity":
        return Identity(reader.text("name"), reader.octets("public"))
    if kind == "join":
        (join,) = reader.joins()
        return join
    if kind == "advertisement":
        return reader.advertisement()
    if kind == "released":
        ad = reader.advertisement()
        vector = MaskedVector(ad.sender, reader.number("vector_slot"), reader.octets("words"))
        return Released(vector, ad)
    if kind == "unmask":
        return UnmaskReply(
            reader.text("sender"), reader.number("slot"), tuple(reader.blobs("shares"))
        )
    if kind == "refusal":
        return Refusal(reader.number("code"), reader.text("reason"))
    raise TypeError(kind)


def _strict(what: str, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except _MALFORMED as error:
        raise SecureSumError(f"a {what} is malformed ({type(error).__name__})") from None
