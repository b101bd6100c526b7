"""Requests to an agent as bytes: they come back as they went, and nothing else is read."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.federation.agent_body import (
    PATHS,
    AgentRequest,
    read_reply,
    read_request,
    write_reply,
    write_request,
)
from fgcif_flwr.federation.requests import MESSAGE_TYPES, Identify, Refusal
from fgcif_flwr.federation.signing import RequestSignature
from fgcif_flwr.secagg import wire

SIGNATURE = RequestSignature("e000", 7, bytes(range(64)))
SMALL = AgentRequest("train.release", b"message", SIGNATURE, {"a": np.arange(3, dtype="<i8")})

numbers = st.sampled_from(["<f4", "<f8", "<i4", "<i8", "<u4", "<u8", "|u1", ">f8", ">i4"])
inputs = st.dictionaries(
    st.text(min_size=1, max_size=20),
    numbers.flatmap(
        lambda kind: arrays_of.arrays(
            np.dtype(kind), arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
        )
    ),
    max_size=4,
)
signatures = st.none() | st.builds(
    RequestSignature,
    st.text(max_size=64),
    st.integers(0, 2**63 - 1),
    st.binary(min_size=64, max_size=64),
)


@given(st.sampled_from(sorted(MESSAGE_TYPES)), st.binary(max_size=50), signatures, inputs)
def test_a_request_comes_back_as_it_went(kind, message, signature, arrays):
    read = read_request(write_request(AgentRequest(kind, message, signature, arrays)))
    assert (read.kind, read.message, read.signature) == (kind, message, signature)
    assert list(read.arrays) == list(arrays)
    for name, array in arrays.items():
        assert read.arrays[name].dtype == array.dtype.newbyteorder("<")
        assert read.arrays[name].shape == array.shape
        np.testing.assert_array_equal(read.arrays[name], array)


@given(st.binary(max_size=300))
def test_any_other_bytes_are_refused(data):
    with pytest.raises(SecureSumError):
        read_request(data)


@given(st.data())
def test_a_changed_byte_is_refused_or_read_as_another_request_of_the_same_size(data):
    body = bytearray(write_request(SMALL))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    try:
        read = read_request(bytes(body))
    except SecureSumError:
        return
    assert len(write_request(read)) == len(body)


@given(st.integers(0, 400))
def test_a_request_that_is_cut_or_grown_is_refused(size):
    body = write_request(SMALL)
    if size != len(body):
        with pytest.raises(SecureSumError):
            read_request((body + bytes(400))[:size])


def with_head(**changes: object) -> bytes:
    body = write_request(SMALL)
    length = int.from_bytes(body[:4], "big")
    head = json.loads(body[4 : 4 + length]) | changes
    text = json.dumps(head).encode()
    return len(text).to_bytes(4, "big") + text + body[4 + length :]


@pytest.mark.parametrize(
    "changes",
    [
        {"arrays": [{"name": "a", "kind": "<i8", "shape": [1_000_000_000]}]},
        {"arrays": [{"name": "a", "kind": "<i8", "shape": [2**40, 2**40, 2**40]}]},
        {"arrays": [{"name": "a", "kind": "<i8", "shape": [-3]}]},
        {"arrays": [{"name": "a", "kind": "<i8", "shape": [3.0]}]},
        {"arrays": [{"name": "a", "kind": "<i8", "shape": [True, 3]}]},
        {"arrays": [{"name": "a", "kind": "|O", "shape": [3]}]},
        {"arrays": [{"name": "a", "kind": "<U8", "shape": [3]}]},
        {"arrays": [{"name": "a", "kind": "<M8[s]", "shape": [3]}]},
        {"arrays": [{"name": "a", "kind": "<i8", "shape": [1]}] * 3},
        {"arrays": [{"name": "a", "kind": "<i8", "shape": [3], "order": "F"}]},
        {"arrays": [{"name": str(n), "kind": "<i8", "shape": [0]} for n in range(2000)]},
        {"message": -1},
        {"message": 2**62},
        {"version": 2},
        {"kind": "query.score"},
        {"more": 1},
        {"signature": {"recipient": "e", "number": -1, "signature": "00" * 64}},
        {"signature": {"recipient": "e", "number": 2**63, "signature": "00" * 64}},
        {"signature": {"recipient": "e", "number": 1, "signature": "00"}},
    ],
)
def test_a_head_that_lies_is_refused_before_anything_is_set_aside(changes):
    body = with_head(**changes)
    tracemalloc.start()
    try:
        with pytest.raises(SecureSumError):
            read_request(body)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_a_long_head_is_refused_and_a_deep_one(tmp_path):
    with pytest.raises(SecureSumError):
        read_request((2**30).to_bytes(4, "big") + b"{}")
    deep = b"[" * 100_000
    with pytest.raises(SecureSumError):
        read_request(len(deep).to_bytes(4, "big") + deep)


def test_a_refusal_tells_nothing_of_what_was_in_the_request():
    with pytest.raises(SecureSumError) as caught:
        read_request(with_head(kind="ANNA MUSTER"))
    assert "ANNA" not in str(caught.value)


def test_an_array_of_texts_is_not_written():
    with pytest.raises(SecureSumError, match="of a kind that no task takes"):
        write_request(AgentRequest("train.release", b"", None, {"a": np.array(["x"])}))


def test_every_kind_of_message_has_one_path():
    assert sorted(kind for kinds in PATHS.values() for kind in kinds) == sorted(MESSAGE_TYPES)


def test_only_a_release_has_an_input():
    asked = wire.encode(Identify("n", bytes(32)))
    with pytest.raises(SecureSumError, match="only a release"):
        AgentRequest("query.identify", asked, None, {"a": np.zeros(1)}).read()


def test_a_reply_comes_back_as_it_went():
    reply = Refusal(34, "no")
    assert read_reply(write_reply(reply)) == reply
    with pytest.raises(SecureSumError):
        read_reply(b"x")
