"""Records that are no request or reply are refused, in words that show none of their values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import get_args

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.federation.records import (
    INPUT,
    REPLY,
    REQUEST,
    reply_from_records,
    request_from_records,
    request_to_records,
)
from fgcif_flwr.federation.requests import MESSAGE_TYPES, Join, Request, message_type
from fgcif_flwr.secagg import wire
from fgcif_flwr.secagg.messages import Manifest, UnmaskReply
from tests.secure_sum_rig import RUN
from tests.some_messages import (
    AD,
    FAST,
    KEYS,
    RELEASE,
    REPLIES,
    REQUESTS,
    SOME_REPLIES,
    SOME_REQUESTS,
    blob_of,
    names,
    octets,
)


def altered(data: bytes) -> Iterator[bytes]:
    """Yield the bytes cut anywhere, with more behind them, and with their head changed."""
    yield from (data[:at] for at in range(len(data)))
    yield data + b"\0"
    yield data + data
    yield b"\2" + data[1:]  # of another version of the format


def refusal(records: RecordDict, kind: str | None = None) -> str:
    """The words with which records are refused; none where they are accepted."""
    try:
        if kind is None:
            reply_from_records(records)
        else:
            request_from_records(kind, records)
    except SecureSumError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("request_", SOME_REQUESTS, ids=lambda r: type(r).__name__)
def test_a_request_whose_bytes_are_cut_or_have_more_behind_them_is_malformed(request_):
    records, kind = request_to_records(request_), message_type(request_)
    for blob in altered(blob_of(request_)):
        records[REQUEST] = ConfigRecord({"message": blob})
        assert "is malformed" in refusal(records, kind), blob


@pytest.mark.parametrize("reply", SOME_REPLIES, ids=lambda r: type(r).__name__)
def test_a_reply_whose_bytes_are_cut_or_have_more_behind_them_is_malformed(reply):
    for blob in altered(blob_of(reply)):
        records = RecordDict({REPLY: ConfigRecord({"message": blob})})
        assert "is malformed" in refusal(records), blob


NO_BYTES = [1, 1.5, True, "word", [1], [1.5], ["word", "another"], [b"a", b"b"], [True], []]


@pytest.mark.parametrize("value", NO_BYTES, ids=repr)
def test_a_message_that_is_no_byte_string_is_malformed(value):
    told = "a message is malformed: it holds no bytes"
    for request in SOME_REQUESTS:
        records = request_to_records(request)
        records[REQUEST] = ConfigRecord({"message": value})
        assert refusal(records, message_type(request)).startswith(told)
    assert refusal(RecordDict({REPLY: ConfigRecord({"message": value})})).startswith(told)


@pytest.mark.parametrize("kind", sorted(MESSAGE_TYPES))
def test_a_request_under_the_message_type_of_another_is_malformed(kind):
    for request in SOME_REQUESTS:
        if message_type(request) != kind:
            assert "is malformed" in refusal(request_to_records(request), kind)


def test_a_request_is_no_reply_and_a_reply_no_request():
    for request in SOME_REQUESTS:
        if type(request) not in REPLIES:
            records = RecordDict({REPLY: ConfigRecord({"message": blob_of(request)})})
            assert "of no class that is awaited" in refusal(records)
    for reply in SOME_REPLIES:
        records = RecordDict({REQUEST: ConfigRecord({"message": wire.encode(reply)})})
        for kind in MESSAGE_TYPES:
            assert "is malformed" in refusal(records, kind)


@pytest.mark.parametrize("kind", ["query.join", "train.release", "query.none-such", "", "train"])
@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        RecordDict({REQUEST: ConfigRecord()}),
        RecordDict({REQUEST: ConfigRecord({"another": b"octets"})}),
        RecordDict({REQUEST: MetricRecord({"message": 1})}),
        RecordDict({REQUEST: ArrayRecord()}),
        RecordDict({"another": ConfigRecord({"message": b"octets"})}),
        RecordDict({REPLY: ConfigRecord({"message": b"octets"})}),
    ],
    ids=["nothing", "empty", "key", "metrics", "arrays", "another", "reply"],
)
def test_records_that_are_no_request_are_malformed(kind, records):
    with pytest.raises(SecureSumError, match="is malformed"):
        request_from_records(kind, records)


def test_a_message_type_that_is_none_is_malformed_whatever_the_message():
    for request in SOME_REQUESTS:
        for kind in ("query.none-such", "", "train", "query", "release", "train.releases"):
            with pytest.raises(SecureSumError, match="there is no such message type"):
                request_from_records(kind, request_to_records(request))


@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        RecordDict({REPLY: ConfigRecord()}),
        RecordDict({REPLY: ConfigRecord({"message": b""})}),
        RecordDict({REPLY: ConfigRecord({"message": b"\x01\x08NoneSuch"})}),
        RecordDict({REPLY: MetricRecord({"message": 1})}),
        RecordDict({REPLY: ArrayRecord()}),
        RecordDict({REQUEST: ConfigRecord({"message": wire.encode(AD)})}),
    ],
    ids=["nothing", "empty", "no bytes", "kind", "metrics", "arrays", "request"],
)
def test_records_that_are_no_reply_are_malformed(records):
    with pytest.raises(SecureSumError, match="a message is malformed"):
        reply_from_records(records)


@pytest.mark.parametrize(
    "record",
    [None, ConfigRecord({"rows": b"123"}), MetricRecord({"rows": 1.0})],
    ids=["nothing", "octets", "metrics"],
)
def test_a_release_without_its_input_is_malformed(record):
    records = request_to_records(RELEASE)
    del records[INPUT]
    if record is not None:
        records[INPUT] = record
    with pytest.raises(SecureSumError, match="a task's input is malformed"):
        request_from_records("train.release", records)


@pytest.mark.parametrize(
    "array",
    [
        Array("float64", (3,), "numpy.ndarray", b""),
        Array("float64", (3,), "numpy.ndarray", b"junk"),
        Array("float64", (3,), "numpy.ndarray", b"PK\x03\x04"),
        Array("float64", (3,), "numpy.ndarray", b"\x93NUMPY\x01\x00"),
        Array("float64", (3,), "pickle", b"cos\nsystem\n(S'true'\ntR."),
        Array("float64", (3,), "numpy.ndarray", b"cos\nsystem\n(S'true'\ntR."),
    ],
    ids=["nothing", "junk", "zip", "header", "pickle", "hidden pickle"],
)
def test_an_array_that_cannot_be_read_is_malformed(array):
    records = request_to_records(RELEASE)
    records[INPUT] = ArrayRecord({"rows": array})
    with pytest.raises(SecureSumError, match="a task's input is malformed"):
        request_from_records("train.release", records)


@dataclasses.dataclass(frozen=True)
class Whatever:
    """The fields of a manifest, with nothing checked: what a stranger may send."""

    run: bytes
    epoch: int
    terms: str
    roster: tuple[tuple[str, bytes], ...]
    threshold: int | None = None
    tolerated_dropouts: int | None = None
    tolerated_colluders: int | None = None
    consistency: bool | None = None
    neighbours: int | None = None


def as_join(manifest: Whatever) -> RecordDict:
    """A join request with such a manifest in it."""
    head = wire.encode(Join(Manifest(RUN, 1, "", ())))[: len(b"\1\4Join")]
    inner = wire.encode(manifest)[len(b"\1\x08Whatever") :]
    return RecordDict({REQUEST: ConfigRecord({"message": head + inner})})


def test_a_manifest_that_holds_is_read_as_it_was_written():
    ours = Manifest(RUN, 1, "{}", (("a", KEYS[0]),), 2, 1, 1, True, 30)
    request = request_from_records("query.join", as_join(Whatever(**vars(ours))))
    assert request == Join(ours)


@pytest.mark.parametrize(
    "manifest",
    [
        Whatever(RUN, -1, "", ()),
        Whatever(RUN, 2**32, "", ()),
        Whatever(RUN, 1, "", (("b", KEYS[0]), ("a", KEYS[1]))),
        Whatever(RUN, 1, "", (("a", KEYS[0]), ("a", KEYS[1]))),
        Whatever(RUN, 1, "", (("a", KEYS[0]), ("b", KEYS[0]))),
        Whatever(RUN, 1, "", (("a", b"short"),)),
        Whatever(RUN, 1, "", (("a", bytes(32)),)),
        Whatever(RUN, 1, "", (("a", b"\xff" * 32),)),
        Whatever(RUN, 1, "", (("a\n", KEYS[0]),)),
        Whatever(RUN, 1, "", (("a" * 65, KEYS[0]),)),
        Whatever(b"run", 1, "", (("a", KEYS[0]),)),
    ],
    ids=[
        "negative",
        "large",
        "order",
        "twice",
        "one key",
        "short key",
        "small order",
        "not reduced",
        "line",
        "long name",
        "short run",
    ],
)
def test_a_manifest_that_does_not_hold_is_refused_when_it_is_read(manifest):
    with pytest.raises(SecureSumError):
        request_from_records("query.join", as_join(manifest))


@FAST
@given(
    kind=st.sampled_from(sorted(MESSAGE_TYPES)),
    values=st.dictionaries(
        st.sampled_from(["message", "slot", "manifest"]),
        st.integers(-(2**63), 2**63 - 1)
        | st.floats()
        | names
        | octets
        | st.booleans()
        | st.lists(names, max_size=3)
        | st.lists(octets, max_size=3),
    ),
)
def test_whatever_comes_is_read_as_a_request_or_is_malformed(kind, values):
    try:
        request = request_from_records(kind, RecordDict({REQUEST: ConfigRecord(values)}))
    except SecureSumError:
        return
    assert isinstance(request, get_args(Request))


@settings(deadline=None, max_examples=200, derandomize=True)
@given(data=st.data(), message=st.sampled_from([*SOME_REQUESTS, *SOME_REPLIES]))
def test_bytes_that_were_changed_are_malformed_or_exactly_what_they_say(data, message):
    blob = bytearray(blob_of(message))
    for _ in range(data.draw(st.integers(1, 3))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    changed = ConfigRecord({"message": bytes(blob)})
    try:
        if type(message) in REQUESTS:
            records = RecordDict({REQUEST: changed, INPUT: ArrayRecord()})
            read = request_from_records(message_type(message), records)
        else:
            read = reply_from_records(RecordDict({REPLY: changed}))
    except SecureSumError:
        return
    assert blob_of(read) == bytes(blob)


def test_the_error_of_a_malformed_record_shows_none_of_its_values():
    secret = "jane.doe@example.org"
    blob = wire.encode(UnmaskReply(secret, 4711, secret.encode()))
    for records in (
        RecordDict({REPLY: ConfigRecord({"message": blob[:-1]})}),
        RecordDict({REPLY: ConfigRecord({"message": secret})}),
        RecordDict({REPLY: ConfigRecord({secret: blob})}),
        RecordDict({REPLY: ConfigRecord({"message": b"\x01\x14" + secret.encode()})}),
    ):
        with pytest.raises(SecureSumError) as caught:
            reply_from_records(records)
        assert secret not in str(caught.value)
        assert "4711" not in str(caught.value)
