"""A message has one byte form, and nothing else is taken for it."""

from __future__ import annotations

import dataclasses
import inspect
import tracemalloc
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgcif_flwr.errors import CohortError, SecureSumError
from fgcif_flwr.secagg import messages
from fgcif_flwr.secagg.wire import decode, decode_any, encode


@dataclass(frozen=True)
class Leaf:
    name: str
    key: bytes


@dataclass(frozen=True)
class Everything:
    number: int
    flag: bool
    text: str
    blob: bytes
    limit: int | None
    opinion: bool | None
    names: tuple[str, ...]
    pair: tuple[str, bytes]
    roster: tuple[tuple[str, bytes], ...]
    leaf: Leaf
    leaves: tuple[Leaf, ...]
    perhaps: Leaf | None = None


@dataclass(frozen=True)
class Twin:
    """The fields of a Leaf under another name."""

    name: str
    key: bytes


@dataclass(frozen=True)
class Particular:
    words: str
    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise CohortError("a number of parties is not negative")
        if self.number > 9:
            raise ValueError(f"{self.words} is what the message held")


NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
LEAVES = st.builds(Leaf, st.text(max_size=4), st.binary(max_size=4))
EVERYTHING = st.builds(
    Everything,
    NUMBERS,
    st.booleans(),
    st.text(max_size=4),
    st.binary(max_size=8),
    st.none() | NUMBERS,
    st.none() | st.booleans(),
    st.lists(st.text(max_size=3), max_size=3).map(tuple),
    st.tuples(st.text(max_size=3), st.binary(max_size=3)),
    st.lists(st.tuples(st.text(max_size=3), st.binary(max_size=3)), max_size=3).map(tuple),
    LEAVES,
    st.lists(LEAVES, max_size=3).map(tuple),
    st.none() | LEAVES,
)
PLAIN = Everything(
    -2, True, "é", b"ab", None, False, ("x", ""), ("p", b"q"), (("r", b""),), Leaf("l", b"1"), ()
)


def refused(kind: type, data: bytes) -> str:
    with pytest.raises(SecureSumError) as caught:
        decode(kind, data)
    return str(caught.value)


@given(EVERYTHING)
def test_what_was_written_is_read_back(message):
    assert decode(Everything, encode(message)) == message


@given(EVERYTHING, EVERYTHING)
def test_only_equal_messages_have_the_same_bytes(one, other):
    assert (encode(one) == encode(other)) == (one == other)


def test_the_form_is_the_one_that_is_written_down():
    assert encode(Leaf("é", b"k")) == b"\x01\x04Leaf" + b"\0\0\0\x02\xc3\xa9" + b"\0\0\0\x01k"
    assert encode(Particular("", 7)) == b"\x01\x0aParticular" + bytes(4) + bytes(7) + b"\x07"


@given(EVERYTHING, st.data())
def test_changed_bytes_are_refused_or_are_what_their_message_is_written_as(message, data):
    changed = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        change = data.draw(st.sampled_from(["flip", "set", "cut", "insert", "drop"]))
        if change == "flip":
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
        elif change == "set":
            changed[at] = data.draw(st.integers(0, 255))
        elif change == "cut":
            del changed[max(at, 1) :]
        elif change == "insert":
            changed.insert(at, data.draw(st.integers(0, 255)))
        elif len(changed) > 1:
            del changed[at]
    assert_refused_or_canonical(Everything, bytes(changed))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_are_what_their_message_is_written_as(tail):
    assert_refused_or_canonical(Everything, b"\x01\x0aEverything" + tail)
    assert_refused_or_canonical(Everything, tail)


def assert_refused_or_canonical(kind: type, data: bytes) -> None:
    try:
        message = decode(kind, data)
    except SecureSumError as error:
        told, again = str(error), None
    else:
        told, again = "", encode(message)
    assert told.startswith("an Everything is malformed: ") or again == data


def test_a_message_that_was_cut_anywhere_is_refused():
    whole = encode(PLAIN)
    for length in range(len(whole)):
        assert "malformed" in refused(Everything, whole[:length])


def test_bytes_after_the_end_are_refused():
    assert refused(Leaf, encode(Leaf("a", b"b")) + b"\0") == (
        "a Leaf is malformed: more bytes follow its end"
    )


def test_bytes_of_one_class_are_not_those_of_another_with_the_same_fields():
    assert refused(Twin, encode(Leaf("a", b"b"))) == (
        "a Twin is malformed: it is of another class or version"
    )


def test_of_several_classes_the_one_that_the_bytes_name_is_read():
    for message in (Leaf("a", b"b"), Twin("a", b"b")):
        assert decode_any((Leaf, Twin), encode(message)) == message
    with pytest.raises(SecureSumError, match="of no class that is awaited"):
        decode_any((Leaf, Twin), encode(PLAIN))
    with pytest.raises(SecureSumError, match="a Twin is malformed: it ends too early"):
        decode_any((Leaf, Twin), encode(Twin("a", b"b"))[:-1])


def test_bytes_of_another_version_are_refused():
    assert "another class or version" in refused(Leaf, b"\x02" + encode(Leaf("a", b"b"))[1:])


@pytest.mark.parametrize("flag", [2, 127, 255])
def test_a_flag_is_0_or_1(flag):
    for position in (len(b"\x01\x0aEverything") + 8, len(encode(PLAIN)) - 1):
        changed = bytearray(encode(PLAIN))
        assert changed[position] in (0, 1)
        changed[position] = flag
        assert refused(Everything, bytes(changed)).endswith("a flag is neither 0 nor 1")


@pytest.mark.parametrize("text", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xc3"])
def test_a_text_is_utf8_in_its_one_form(text):
    data = b"\x01\x04Leaf" + len(text).to_bytes(4, "big") + text + bytes(4)
    assert refused(Leaf, data) == "a Leaf is malformed: a text is not UTF-8"


@dataclass(frozen=True)
class Lists:
    flags: tuple[bool, ...]
    blob: bytes
    nested: tuple[tuple[tuple[str, ...], ...], ...] = ()


@pytest.mark.parametrize(
    "tail",
    [
        b"\xff\xff\xff\xff",
        b"\xff\xff\xff\xff" + bytes(9000),
        bytes(4) + b"\xff\xff\xff\xff" + bytes(9000),
        bytes(8) + b"\x7f\xff\xff\xff" + bytes(9000),
        bytes(8) + (2000).to_bytes(4, "big") + bytes(9000),
    ],
)
def test_a_length_is_not_believed_before_the_bytes_are_there(tail):
    encode(Lists((), b""))  # the class's form is known from here on
    tracemalloc.start()
    try:
        assert "malformed" in refused(Lists, b"\x01\x05Lists" + tail)
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()


def test_large_bytes_are_held_twice_and_no_more():
    message = Lists((), bytes(20_000_000))
    tracemalloc.start()
    try:
        data = encode(message)
        assert tracemalloc.get_traced_memory()[1] < 21_000_000
        assert decode(Lists, data) == message
        assert tracemalloc.get_traced_memory()[1] < 41_000_000
    finally:
        tracemalloc.stop()


def test_what_a_class_refuses_is_refused_without_what_the_message_held():
    data = encode(Particular("secret", 9))
    told = refused(Particular, data[:-1] + b"\x0a")
    assert told == "a Particular is malformed: its fields do not fit together"


def test_an_error_of_ours_passes_as_it_is():
    data = encode(Particular("", 0))
    with pytest.raises(CohortError, match="a number of parties is not negative"):
        decode(Particular, data[:-8] + b"\xff" * 8)


@pytest.mark.parametrize("number", [1 << 63, -(1 << 63) - 1, 1 << 200])
def test_a_number_beyond_64_bits_is_not_written(number):
    with pytest.raises(ValueError, match="64 bits"):
        encode(dataclasses.replace(PLAIN, number=number))


def test_half_a_surrogate_pair_is_not_written():
    with pytest.raises(ValueError, match="surrogates"):
        encode(Leaf("\ud800", b""))


@pytest.mark.parametrize(
    "wrong",
    [
        {"number": True},
        {"number": 1.0},
        {"flag": 1},
        {"text": b"x"},
        {"blob": "x"},
        {"blob": bytearray(b"x")},
        {"blob": memoryview(b"x")},
        {"text": None},
        {"names": ["x"]},
        {"names": (b"x",)},
        {"pair": ("x",)},
        {"leaf": Twin("x", b"")},
        {"perhaps": ("x", b"")},
    ],
    ids=str,
)
def test_a_value_of_another_type_is_not_written(wrong):
    with pytest.raises(TypeError):
        encode(dataclasses.replace(PLAIN, **wrong))


@pytest.mark.parametrize("data", [bytearray(encode(PLAIN)), memoryview(encode(PLAIN)), "x", None])
def test_only_bytes_are_read(data):
    with pytest.raises(TypeError):
        decode(Everything, data)


@dataclass(frozen=True)
class HoldsItself:
    inner: tuple[HoldsItself, ...]


@dataclass(frozen=True)
class Empty:
    pass


@dataclass(frozen=True)
class HoldsNothing:
    many: tuple[Empty, ...]


@dataclass
class Changeable:
    number: int


@dataclass(frozen=True)
class Computed:
    number: int = field(init=False, default=1)


@dataclass(frozen=True)
class Fraction:
    number: float


@dataclass(frozen=True)
class Either:
    which: int | str | None


@dataclass(frozen=True)
class Vague:
    which: tuple  # type: ignore[type-arg]


@pytest.mark.parametrize(
    "kind", [HoldsItself, HoldsNothing, Changeable, Computed, Fraction, Either, Vague, int, dict]
)
def test_a_type_without_one_byte_form_is_no_message(kind: type[Any]):
    with pytest.raises(TypeError):
        decode(kind, b"")


def test_a_message_without_fields_is_its_name():
    assert encode(Empty()) == b"\x01\x05Empty"
    assert decode(Empty, b"\x01\x05Empty") == Empty()


def kinds() -> list[type[Any]]:
    return [
        kind
        for _, kind in inspect.getmembers(messages, dataclasses.is_dataclass)
        if kind.__module__ == messages.__name__
    ]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_message_of_the_secure_sum_has_a_byte_form(kind: type[Any]):
    assert "malformed" in refused(kind, b"")


def test_tags_and_who_is_withheld_are_written_after_what_they_belong_to():
    asked = messages.UnmaskRequest(b"r", 1, ("a", "b"), (), (), b"tags")
    one = bytes(7) + b"\1"
    assert encode(asked) == (
        b"\x01\x0dUnmaskRequest\0\0\0\1r" + one + b"\0\0\0\2\0\0\0\1a\0\0\0\1b"
        b"\0\0\0\0\0\0\0\0\0\0\0\4tags"
    )
    reply = messages.UnmaskReply("a", 1, b"s", ("b",))
    assert encode(reply) == (b"\x01\x0bUnmaskReply\0\0\0\1a" + one + b"\0\0\0\1s\0\0\0\1\0\0\0\1b")
    for message in (asked, reply):
        assert decode(type(message), encode(message)) == message


def test_a_message_of_the_secure_sum_is_read_back():
    roster = (("a", b"1" * 32), ("b", b"2" * 32))
    manifest = messages.Manifest(b"r" * 16, 3, "{}", roster, None, 1)
    assert decode(messages.Manifest, encode(manifest)) == manifest
    unordered = encode(manifest).replace(b"1" * 32, b"2" * 32)
    with pytest.raises(SecureSumError, match="key of its own"):
        decode(messages.Manifest, unordered)
