"""Requests and replies as Flower records, and back.

A message is one byte string (:mod:`fgcif_flwr.secagg.wire`); a task's input travels beside it as
arrays. Light to import: the ClientApp starts a process for every message in a deployment.
"""

from __future__ import annotations

import math
from io import BytesIO
from typing import cast, get_args

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.federation.requests import (
    MESSAGE_TYPES,
    Arrays,
    Release,
    Reply,
    Request,
)
from fgcif_flwr.federation.signing import RequestSignature, Signer
from fgcif_flwr.federation.task_input import input_hash
from fgcif_flwr.secagg import wire
from fgcif_flwr.secagg.messages import (
    ReleaseRequest,
)

REQUEST = "fgcif.request"
REPLY = "fgcif.reply"
INPUT = "fgcif.input"
_MESSAGE = "message"
_RECIPIENT, _NUMBER, _SIGNATURE = "recipient", "number", "signature"
_NO_INPUT = input_hash({})

_REPLIES = get_args(Reply)


def arrays_to_record(arrays: Arrays) -> ArrayRecord:
    """Return arrays under their names."""
    return ArrayRecord({name: Array(np.ascontiguousarray(a)) for name, a in arrays.items()})


def arrays_from_record(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Undo :func:`arrays_to_record`; SecureSumError for what is no array of numbers."""
    try:
        return {name: _numbers(array.data) for name, array in record.items()}
    except Exception as error:  # a header is a Python literal: reading it raises almost anything
        raise SecureSumError(f"a task's input is malformed ({type(error).__name__})") from None


def _numbers(data: bytes) -> np.ndarray:
    """Read an array in NumPy's own format, without believing its header about its size."""
    stream = BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, by_columns, dtype = read(stream)
    start = stream.tell()
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError("an array's header and size differ")
    numbers: np.ndarray = np.frombuffer(data, dtype, offset=start)
    return numbers.reshape(shape, order="F" if by_columns else "C")


def request_to_records(request: Request, inputs: ArrayRecord | None = None) -> RecordDict:
    """Write a request; ``inputs`` is a Release's input when it is shared by many messages."""
    said = request.request if isinstance(request, Release) else request
    records = RecordDict({REQUEST: ConfigRecord({_MESSAGE: wire.encode(said)})})
    if isinstance(request, Release):
        records[INPUT] = arrays_to_record(request.arrays) if inputs is None else inputs
    return records


def sign_request(
    records: RecordDict, kind: str, signer: Signer, recipient: str, hashed: bytes = _NO_INPUT
) -> None:
    """Put the coordinator's signature beside a request; ``hashed`` is its input's hash."""
    record = records.config_records[REQUEST]
    said = signer.sign(recipient, kind, _message(records, REQUEST), hashed)
    record[_RECIPIENT], record[_NUMBER] = said.recipient, said.number
    record[_SIGNATURE] = said.signature


def signature_in(records: RecordDict) -> RequestSignature | None:
    """Return the signature beside a request; None where there is none, or no whole one."""
    record = records.get(REQUEST)
    if not isinstance(record, ConfigRecord):
        return None
    recipient, number = record.get(_RECIPIENT), record.get(_NUMBER)
    signature = record.get(_SIGNATURE)
    if not (isinstance(recipient, str) and isinstance(signature, bytes)):
        return None
    if not isinstance(number, int) or isinstance(number, bool):
        return None
    return RequestSignature(recipient, number, signature)


def request_from_records(message_type: str, records: RecordDict) -> Request:
    """Read the request of a message of a Flower type; SecureSumError if malformed."""
    kind = MESSAGE_TYPES.get(message_type)
    if kind is None:
        raise SecureSumError("a request is malformed: there is no such message type")
    if kind is not Release:
        return wire.decode(kind, _message(records, REQUEST))
    request = wire.decode(ReleaseRequest, _message(records, REQUEST))
    inputs = records.get(INPUT)
    if not isinstance(inputs, ArrayRecord):
        raise SecureSumError("a task's input is malformed: it holds no arrays")
    return Release(request, arrays_from_record(inputs))


def reply_to_records(reply: Reply) -> RecordDict:
    """Write a reply."""
    return RecordDict({REPLY: ConfigRecord({_MESSAGE: wire.encode(reply)})})


def reply_from_records(records: RecordDict) -> Reply:
    """Read a reply; SecureSumError if malformed."""
    return cast(Reply, wire.decode_any(_REPLIES, _message(records, REPLY)))


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


def _message(records: RecordDict, name: str) -> bytes:
    record = records.get(name)
    value = record.get(_MESSAGE) if isinstance(record, ConfigRecord) else None
    if not isinstance(value, bytes):
        raise SecureSumError("a message is malformed: it holds no bytes where they are awaited")
    return value
