"""Requests and replies survive the way through Flower's records; what is malformed is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.federation.records import (
    INPUT,
    MESSAGE_TYPES,
    REPLY,
    REQUEST,
    arrays_from_record,
    arrays_to_record,
    message_type,
    payload_bytes,
    reply_from_records,
    reply_to_records,
    request_from_records,
    request_to_records,
)
from fgcif_flwr.federation.requests import (
    Identify,
    Identity,
    Join,
    Refusal,
    Release,
    Reply,
    Request,
    Reveal,
)
from fgcif_flwr.federation.task_input import input_hash
from fgcif_flwr.secagg import wire
from fgcif_flwr.secagg.messages import (
    Advertisement,
    AdvertiseRequest,
    CohortMember,
    Consent,
    ConsentRequest,
    GraphNonce,
    JoinReply,
    Manifest,
    Released,
    ReleaseRequest,
    UnmaskReply,
    UnmaskRequest,
)

FAST = settings(deadline=None, max_examples=60, derandomize=True)

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
octets = st.binary(max_size=70)
slots = st.integers(-(2**63), 2**63 - 1)
some_names = st.lists(names, max_size=4).map(tuple)
limits = st.none() | st.integers(0, 2**40)
joins = st.builds(JoinReply, names, octets, octets, octets, octets)
some_joins = st.lists(joins, max_size=4).map(tuple)
nonces = st.builds(GraphNonce, names, octets)
manifests = st.builds(
    Manifest,
    st.integers(0, 2**32 - 1),
    names,
    st.dictionaries(names, st.binary(min_size=32, max_size=32), max_size=4)
    .filter(lambda roster: len(set(roster.values())) == len(roster))
    .map(lambda roster: tuple(sorted(roster.items()))),
    limits,
    limits,
    limits,
    st.none() | st.booleans(),
    limits,
)
advertisements = st.builds(Advertisement, names, slots, octets, octets, octets, octets, octets)
arrays = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint32, np.uint64]),
    hnp.array_shapes(max_dims=3, min_side=0, max_side=4),
)
inputs = st.dictionaries(names, arrays, max_size=4)
members = st.builds(CohortMember, names, octets, octets, octets, octets, octets)
releases = st.builds(
    ReleaseRequest, octets, slots, names, some_names, st.lists(members, max_size=4).map(tuple)
)
consents = st.builds(Consent, names, slots, octets)

REQUESTS: dict[type, st.SearchStrategy] = {
    Identify: st.just(Identify()),
    Join: st.builds(Join, manifests),
    Reveal: st.builds(Reveal, some_joins),
    AdvertiseRequest: st.builds(
        AdvertiseRequest, slots, some_joins, st.lists(nonces, max_size=4).map(tuple)
    ),
    Release: st.builds(Release, releases, inputs),
    ConsentRequest: st.builds(ConsentRequest, octets, slots, some_names, some_names),
    UnmaskRequest: st.builds(
        UnmaskRequest,
        octets,
        slots,
        some_names,
        some_names,
        st.lists(consents, max_size=4).map(tuple),
    ),
}
REPLIES: dict[type, st.SearchStrategy] = {
    Identity: st.builds(Identity, names, octets),
    JoinReply: joins,
    GraphNonce: nonces,
    Advertisement: advertisements,
    Released: st.builds(Released, names, slots, octets, some_names, advertisements),
    Consent: consents,
    UnmaskReply: st.builds(UnmaskReply, names, slots, octets),
    Refusal: st.builds(Refusal, st.integers(0, 255), names),
}


def through_flower(records: RecordDict) -> RecordDict:
    """As Flower sends it: to protobuf's bytes and back."""
    proto = recorddict_to_proto(records)
    return recorddict_from_proto(type(proto).FromString(proto.SerializeToString()))


def same(one: Request, other: Request) -> bool:
    if not isinstance(one, Release):
        return one == other
    assert isinstance(other, Release)
    return (
        one.request == other.request
        and list(one.arrays) == list(other.arrays)
        and all(
            one.arrays[name].dtype == other.arrays[name].dtype
            and one.arrays[name].shape == other.arrays[name].shape
            and one.arrays[name].tobytes() == other.arrays[name].tobytes()
            for name in one.arrays
        )
    )


def test_every_kind_of_request_and_reply_is_tested_here():
    assert set(REQUESTS) == set(get_args(Request))
    assert set(REPLIES) == set(get_args(Reply))


@FAST
@given(request=st.one_of(*REQUESTS.values()))
def test_a_request_survives_the_way_through_records(request):
    records = request_to_records(request)
    kind = message_type(request)
    assert same(request_from_records(kind, records), request)
    assert same(request_from_records(kind, through_flower(records)), request)


@FAST
@given(reply=st.one_of(*REPLIES.values()))
def test_a_reply_survives_the_way_through_records(reply):
    records = reply_to_records(reply)
    assert reply_from_records(records) == reply
    assert reply_from_records(through_flower(records)) == reply


@FAST
@given(inputs)
def test_an_input_hashes_alike_at_both_ends(given_arrays):
    there = arrays_from_record(arrays_to_record(given_arrays))
    assert input_hash(there) == input_hash(given_arrays)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12).reshape(3, 4).T,
        np.arange(10)[::3],
        np.float32([1, np.nan, -0.0, np.inf]),
        np.arange(3, dtype=">i4"),
        np.array(5.0),
        np.zeros((0, 3)),
    ],
    ids=["transposed", "strided", "special", "big-endian", "scalar", "empty"],
)
def test_an_array_of_any_memory_layout_hashes_alike_at_both_ends(array):
    there = arrays_from_record(arrays_to_record({"x": array}))
    assert input_hash(there) == input_hash({"x": array})


MEMBER = CohortMember("a", b"p", b"r", b"g", b"c", b"s")
AD = Advertisement("a", 4, b"p" * 32, b"c" * 32, b"k" * 48, b"sealed", b"g" * 64)
SOME_REQUESTS = [
    Identify(),
    Join(Manifest(1, "{}", (("a", b"k" * 32),))),
    Reveal((JoinReply("a", b"n", b"c", b"g", b"s"),)),
    AdvertiseRequest(3, (JoinReply("a", b"n", b"c", b"g", b"s"),), (GraphNonce("a", b"n"),)),
    Release(ReleaseRequest(b"run", 3, "train", ("a", "b"), (MEMBER,)), {"rows": np.ones(3)}),
    ConsentRequest(b"run", 3, ("a",), ("b",)),
    UnmaskRequest(b"run", 3, ("a",), ("b",), (Consent("a", 3, b"g"),)),
]
SOME_REPLIES = [
    Identity("a", b"k"),
    JoinReply("a", b"n", b"c", b"g", b"s"),
    GraphNonce("a", b"n"),
    AD,
    Released("a", 3, b"words", ("b",), AD),
    Consent("a", 3, b"g"),
    UnmaskReply("a", 3, b"shares"),
    Refusal(31, "no"),
]
RELEASE = SOME_REQUESTS[4]
assert isinstance(RELEASE, Release)


def test_an_input_shared_by_many_messages_is_the_same_as_one_of_its_own():
    shared = arrays_to_record({"model/w": np.ones(4, np.float32)})
    own = Release(RELEASE.request, {"model/w": np.ones(4, np.float32)})
    records = request_to_records(Release(RELEASE.request), shared)
    assert same(request_from_records("train.release", records), own)


def test_every_kind_of_request_has_its_own_message_type():
    kinds = [message_type(request) for request in SOME_REQUESTS]
    assert {type(request) for request in SOME_REQUESTS} == set(REQUESTS)
    assert {type(reply) for reply in SOME_REPLIES} == set(REPLIES)
    assert len(set(kinds)) == len(SOME_REQUESTS)
    assert set(kinds) == MESSAGE_TYPES
    assert all(kind.split(".")[0] in ("query", "train") for kind in kinds)


@pytest.mark.parametrize("message", [*SOME_REQUESTS, *SOME_REPLIES], ids=lambda m: type(m).__name__)
def test_a_message_is_one_byte_string_in_one_record(message):
    if type(message) in REQUESTS:
        records, name = request_to_records(message), REQUEST
    else:
        records, name = reply_to_records(message), REPLY
    said = message.request if isinstance(message, Release) else message
    assert dict(records[name]) == {"message": wire.encode(said)}
    assert set(records) == ({REQUEST, INPUT} if isinstance(message, Release) else {name})


def blob_of(message: Request | Reply) -> bytes:
    return wire.encode(message.request if isinstance(message, Release) else message)


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
    head = wire.encode(Join(Manifest(0, "", ())))[: len(b"\1\4Join")]
    inner = wire.encode(manifest)[len(b"\1\x08Whatever") :]
    return RecordDict({REQUEST: ConfigRecord({"message": head + inner})})


def test_a_manifest_that_holds_is_read_as_it_was_written():
    ours = Manifest(1, "{}", (("a", b"k" * 32),), 2, 1, 1, True, 30)
    request = request_from_records("query.join", as_join(Whatever(**vars(ours))))
    assert request == Join(ours)


@pytest.mark.parametrize(
    "manifest",
    [
        Whatever(-1, "", ()),
        Whatever(2**32, "", ()),
        Whatever(1, "", (("b", b"k" * 32), ("a", b"l" * 32))),
        Whatever(1, "", (("a", b"k" * 32), ("a", b"l" * 32))),
        Whatever(1, "", (("a", b"k" * 32), ("b", b"k" * 32))),
        Whatever(1, "", (("a", b"short"),)),
    ],
    ids=["negative", "large", "order", "twice", "one key", "short key"],
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


def test_payload_bytes_count_names_texts_octets_and_eight_for_a_number():
    record = ConfigRecord({"slot": 7, "name": "abc", "key": b"12345", "list": [b"1", b"22"]})
    keys = len("reply") + len("slot") + len("name") + len("key") + len("list")
    assert payload_bytes(RecordDict({"reply": record})) == keys + 8 + 3 + 5 + 3
    assert payload_bytes(RecordDict()) == 0


def test_payload_bytes_count_an_arrays_data_as_it_is_sent():
    array = np.zeros(1000, np.float32)
    records = RecordDict({"input": arrays_to_record({"model/w": array})})
    sent = len(records.array_records["input"]["model/w"].data)
    assert payload_bytes(records) == len("input") + len("model/w") + sent
    assert 4000 < sent < 4200


@pytest.mark.parametrize("message", [*SOME_REQUESTS, *SOME_REPLIES], ids=lambda m: type(m).__name__)
def test_payload_bytes_of_a_message_are_its_bytes_and_two_names(message):
    if isinstance(message, Release):
        records = request_to_records(message)
        del records[INPUT]
    elif type(message) in REQUESTS:
        records = request_to_records(message)
    else:
        records = reply_to_records(message)
    overhead = len(REPLY if REPLY in records else REQUEST) + len("message")
    assert payload_bytes(records) == overhead + len(blob_of(message))


@FAST
@given(reply=st.one_of(*REPLIES.values()))
def test_payload_bytes_are_near_the_bytes_that_flower_sends(reply):
    # Flower adds tags and lengths around the two names and the one byte string.
    records = reply_to_records(reply)
    sent = len(recorddict_to_proto(records).SerializeToString())
    assert payload_bytes(records) <= sent <= payload_bytes(records) + 48
