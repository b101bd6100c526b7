"""The byte form of messages: one for each message, whatever carries it.

A message is a frozen dataclass; the types of its fields decide its bytes.

==================  ====================================================================
type                bytes
==================  ====================================================================
int                 8, big-endian, signed
bool                1, either 0 or 1
str                 length (4, big-endian), then UTF-8
bytes               length (4, big-endian), then the bytes
X | None            0, or 1 and then X
tuple[X, ...]       count (4, big-endian), then each X
tuple[X, Y]         X, then Y
frozen dataclass    its fields in their order
==================  ====================================================================

Before the fields of the message itself stand the version of this format (1 byte) and the name of
its class (length in 1 byte, then UTF-8), so that bytes of one message are never read as another.

The form is canonical: equal messages give equal bytes, and bytes that are accepted are those that
the message they give would be written as. So a digest of the bytes stands for the message. What
arrives is from a stranger: nothing is set aside for a length before that many bytes are known to
be there, and how deep the form nests is decided by the types alone.
"""

from __future__ import annotations

import struct
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from fgcif_flwr.errors import SecureSumError

T = TypeVar("T")

_VERSION = 1
_INTEGER = struct.Struct(">q")
_LENGTH = struct.Struct(">I")

_Write = Callable[[Any, Callable[[bytes], None]], None]
_Read = Callable[[bytes, int], tuple[Any, int]]


@dataclass(frozen=True)
class _Form:
    """How values of one type are written (piece by piece, to a function) and read (from an
    offset, with the offset after it); ``least`` is the fewest bytes that one can have."""

    write: _Write
    read: _Read
    least: int


_MESSAGES: dict[type, tuple[bytes, _Form]] = {}


class _MalformedError(Exception):
    """Bytes that are no message; the text says why, and none of what they hold."""


def encode(message: object) -> bytes:
    """Return the bytes of a message.

    Parameters
    ----------
    message
        A frozen dataclass with fields of the types above.

    Raises
    ------
    TypeError
        If a field's value is not of the field's type, or the type has no byte form. A subclass
        is not the type: it would be read back as something else.
    ValueError
        If an integer is not within 64 bits, a length or count not within 32, or a text holds half
        of a surrogate pair.
    """
    head, form = _message(type(message))
    pieces = [head]
    form.write(message, pieces.append)
    return b"".join(pieces)


def decode(kind: type[T], data: bytes) -> T:
    """Return the message of class ``kind`` that these bytes are.

    ``encode(decode(kind, data))`` is ``data``. Memory is linear in the length of ``data``.

    Raises
    ------
    SecureSumError
        If they are not, in every detail, what :func:`encode` gives for a message of this class;
        or if the class refuses the values with a ValueError. An FgcifError of the class passes.
    TypeError
        If the class has no byte form, or ``data`` is not ``bytes``.
    """
    if type(data) is not bytes:  # slices of a memoryview or bytearray would be no bytes
        raise TypeError(f"the bytes of a message are wanted, not {_a(type(data))}")
    head, form = _message(kind)
    try:
        if not data.startswith(head):
            raise _MalformedError("it is of another class or version")
        message, end = form.read(data, len(head))
        if end != len(data):
            raise _MalformedError("more bytes follow its end")
    except _MalformedError as reason:
        raise SecureSumError(f"{_a(kind)} is malformed: {reason}") from None
    except struct.error:
        raise SecureSumError(f"{_a(kind)} is malformed: it ends too early") from None
    except ValueError:  # of a class; its text may hold what the message held
        raise SecureSumError(f"{_a(kind)} is malformed: its fields do not fit together") from None
    return message  # type: ignore[no-any-return]


def decode_any(kinds: Sequence[type[T]], data: bytes) -> T:
    """Return the message that these bytes are, of the one of ``kinds`` that they name.

    Raises
    ------
    SecureSumError
        If they name none of them, or as :func:`decode`.
    """
    for kind in kinds:
        if data.startswith(_message(kind)[0]):
            return decode(kind, data)
    raise SecureSumError("a message is malformed: it is of no class that is awaited")


def _a(kind: type) -> str:
    name = kind.__name__
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"


def _message(kind: type) -> tuple[bytes, _Form]:
    """Return what stands before every message of a class, and its form."""
    known = _MESSAGES.get(kind)
    if known is None:
        if not is_dataclass(kind):
            raise TypeError(f"{kind.__name__} is no message: it is not a dataclass")
        name = kind.__name__.encode()
        known = bytes([_VERSION, len(name)]) + name, _compile(kind, ())
        _MESSAGES[kind] = known
    return known


def _compile(kind: Any, inside: tuple[type, ...]) -> _Form:
    """Return the form of a type; ``inside`` are the classes whose fields it is among."""
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    arguments = get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):
        present = [one for one in arguments if one is not types.NoneType]
        if len(present) == 1:
            return _optional(_compile(present[0], inside))
    if get_origin(kind) is tuple and arguments:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return _repeated(_compile(arguments[0], inside))
        return _fixed(tuple(_compile(one, inside) for one in arguments))
    if isinstance(kind, type) and is_dataclass(kind):
        return _record(kind, inside)
    raise TypeError(f"{kind} has no byte form")


def _check(value: object, kind: type) -> None:
    if type(value) is not kind:
        raise TypeError(f"{_a(kind)} is wanted, not {_a(type(value))}")


def _write_int(value: int, put: Callable[[bytes], None]) -> None:
    _check(value, int)
    try:
        put(_INTEGER.pack(value))
    except struct.error:
        raise ValueError("a whole number of a message is within 64 bits, signed") from None


def _read_int(data: bytes, at: int) -> tuple[int, int]:
    return _INTEGER.unpack_from(data, at)[0], at + 8


def _write_bool(value: bool, put: Callable[[bytes], None]) -> None:
    _check(value, bool)
    put(b"\1" if value else b"\0")


def _read_bool(data: bytes, at: int) -> tuple[bool, int]:
    flag = data[at : at + 1]
    if flag not in (b"\0", b"\1"):
        raise _MalformedError("a flag is neither 0 nor 1" if flag else "it ends too early")
    return flag == b"\1", at + 1


def _length(count: int) -> bytes:
    if count >= 1 << 32:
        raise ValueError("lengths and counts of a message are within 32 bits")
    return _LENGTH.pack(count)


def _write_bytes(value: bytes, put: Callable[[bytes], None]) -> None:
    _check(value, bytes)
    put(_length(len(value)))
    put(value)


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    start = at + 4
    end: int = start + _LENGTH.unpack_from(data, at)[0]
    if end > len(data):
        raise _MalformedError("it ends too early")
    return data[start:end], end


def _write_str(value: str, put: Callable[[bytes], None]) -> None:
    _check(value, str)
    _write_bytes(value.encode(), put)


def _read_str(data: bytes, at: int) -> tuple[str, int]:
    text, end = _read_bytes(data, at)
    try:
        return text.decode(), end
    except UnicodeDecodeError:
        raise _MalformedError("a text is not UTF-8") from None


_SIMPLE: dict[Any, _Form] = {
    int: _Form(_write_int, _read_int, 8),
    bool: _Form(_write_bool, _read_bool, 1),
    str: _Form(_write_str, _read_str, 4),
    bytes: _Form(_write_bytes, _read_bytes, 4),
}


def _optional(form: _Form) -> _Form:
    def write(value: Any, put: Callable[[bytes], None]) -> None:
        if value is None:
            put(b"\0")
        else:
            put(b"\1")
            form.write(value, put)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        present, at = _read_bool(data, at)
        return form.read(data, at) if present else (None, at)

    return _Form(write, read, 1)


def _repeated(form: _Form) -> _Form:
    if form.least == 0:
        raise TypeError("items of a tuple that take no bytes have no byte form")

    def write(values: tuple[Any, ...], put: Callable[[bytes], None]) -> None:
        _check(values, tuple)
        put(_length(len(values)))
        for value in values:
            form.write(value, put)

    def read(data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
        count = _LENGTH.unpack_from(data, at)[0]
        at += 4
        if count * form.least > len(data) - at:
            raise _MalformedError("it ends too early")
        values = []
        for _ in range(count):
            value, at = form.read(data, at)
            values.append(value)
        return tuple(values), at

    return _Form(write, read, 4)


def _fixed(forms: tuple[_Form, ...]) -> _Form:
    def write(values: tuple[Any, ...], put: Callable[[bytes], None]) -> None:
        _check(values, tuple)
        if len(values) != len(forms):
            raise TypeError(f"a tuple of {len(forms)} is wanted, not of {len(values)}")
        for form, value in zip(forms, values, strict=True):
            form.write(value, put)

    def read(data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
        values = []
        for form in forms:
            value, at = form.read(data, at)
            values.append(value)
        return tuple(values), at

    return _Form(write, read, sum(form.least for form in forms))


def _record(kind: type, inside: tuple[type, ...]) -> _Form:
    if kind in inside:
        raise TypeError(f"{kind.__name__} holds itself: its depth would be decided by the data")
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError(f"{kind.__name__} is not frozen")
    if not all(one.init and not one.kw_only for one in fields(kind)):
        raise TypeError(f"{kind.__name__} is not built from its fields in their order")
    hints = get_type_hints(kind)
    names = [one.name for one in fields(kind)]
    row = _fixed(tuple(_compile(hints[name], (*inside, kind)) for name in names))

    def write(value: Any, put: Callable[[bytes], None]) -> None:
        _check(value, kind)
        row.write(tuple([getattr(value, name) for name in names]), put)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        values, at = row.read(data, at)
        return kind(*values), at

    return _Form(write, read, row.least)
