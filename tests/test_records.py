"""Requests and replies survive the way through Flower's records, and are as long as is said."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given
from hypothesis import strategies as st

from fgcif_flwr.federation.records import (
    INPUT,
    REPLY,
    REQUEST,
    arrays_from_record,
    arrays_to_record,
    payload_bytes,
    reply_from_records,
    reply_to_records,
    request_from_records,
    request_to_records,
)
from fgcif_flwr.federation.requests import MESSAGE_TYPES, Release, Reply, Request, message_type
from fgcif_flwr.federation.task_input import input_hash
from fgcif_flwr.secagg import wire
from tests.some_messages import (
    FAST,
    RELEASE,
    REPLIES,
    REQUESTS,
    SOME_REPLIES,
    SOME_REQUESTS,
    blob_of,
    inputs,
)


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
    assert set(kinds) == set(MESSAGE_TYPES)
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
