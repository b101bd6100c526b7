"""Requests and replies survive the way through Flower's records; what is malformed is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from fgcif_flwr.federation.releases import input_hash
from fgcif_flwr.federation.requests import (
    Advertise,
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

FAST = settings(deadline=None, max_examples=60, derandomize=True)

names = st.text(max_size=20)
octets = st.binary(max_size=70)
slots = st.integers(0, 2**63 - 1)
blobs = st.lists(octets, max_size=5).map(tuple)
limits = st.none() | st.integers(0, 2**40)
joins = st.builds(JoinReply, names, octets, octets, octets)
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
)
advertisements = st.builds(Advertisement, names, slots, octets, octets, blobs)
arrays = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint32, np.uint64]),
    hnp.array_shapes(max_dims=3, min_side=0, max_side=4),
)
inputs = st.dictionaries(names, arrays, max_size=4)
cohorts = st.lists(st.builds(CohortMember, names, octets, octets), max_size=4).map(tuple)

REQUESTS: dict[type, st.SearchStrategy] = {
    Identify: st.just(Identify()),
    Join: st.builds(Join, manifests),
    Advertise: st.builds(Advertise, slots, st.lists(joins, max_size=4).map(tuple)),
    Release: st.builds(Release, st.builds(ReleaseRequest, slots, names, cohorts), inputs),
    UnmaskRequest: st.builds(
        UnmaskRequest,
        slots,
        st.lists(names, max_size=4).map(tuple),
        st.lists(names, max_size=4).map(tuple),
    ),
}
REPLIES: dict[type, st.SearchStrategy] = {
    Identity: st.builds(Identity, names, octets),
    JoinReply: joins,
    Advertisement: advertisements,
    Released: st.builds(
        lambda words, slot, ad: Released(MaskedVector(ad.sender, slot, words), ad),
        octets,
        slots,
        advertisements,
    ),
    UnmaskReply: st.builds(UnmaskReply, names, slots, blobs),
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


def test_an_input_shared_by_many_messages_is_the_same_as_one_of_its_own():
    request = ReleaseRequest(3, "train", (CohortMember("a", b"p", b"s"),))
    shared = arrays_to_record({"model/w": np.ones(4, np.float32)})
    own = Release(request, {"model/w": np.ones(4, np.float32)})
    records = request_to_records(Release(request), shared)
    assert same(request_from_records("train.release", records), own)


def test_every_kind_of_request_has_its_own_message_type():
    example = {
        Identify: Identify(),
        Join: Join(Manifest(1, "{}", ())),
        Advertise: Advertise(1),
        Release: Release(ReleaseRequest(1, "train", ())),
        UnmaskRequest: UnmaskRequest(1, (), ()),
    }
    kinds = [message_type(request) for request in example.values()]
    assert len(set(kinds)) == len(example) == len(REQUESTS)
    assert all(kind.split(".")[0] in ("query", "train") for kind in kinds)


AD = Advertisement("a", 4, b"p" * 32, b"c" * 32, (b"", b"sealed"))
SOME_REQUESTS = [
    Join(Manifest(1, "{}", (("a", b"k" * 32),))),
    Advertise(3, (JoinReply("a", b"n", b"c", b"s"),)),
    Release(ReleaseRequest(3, "train", (CohortMember("a", b"p", b"s"),)), {"rows": np.ones(3)}),
    UnmaskRequest(3, ("a",), ("b",)),
]
SOME_REPLIES = [
    Identity("a", b"k"),
    JoinReply("a", b"n", b"c", b"s"),
    AD,
    Released(MaskedVector("a", 3, b"words"), AD),
    UnmaskReply("a", 3, (b"one", b"two")),
    Refusal(31, "no"),
]
WRONG = [1, 1.5, True, "word", b"octets", [1], [1.5], ["word", "another"], [b"a", b"b", b"c"], []]


def mutations(records: RecordDict, name: str) -> Iterator[tuple[str, RecordDict]]:
    """Yield the records with each key taken away, and with each value of a wrong type."""
    values = dict(records.config_records[name])
    for key, value in values.items():
        for wrong in [None, *WRONG]:
            if type(wrong) is type(value) and not isinstance(value, list):
                continue
            if isinstance(value, list) and isinstance(wrong, list):
                same_kind = wrong and value and type(wrong[0]) is type(value[0])
                if same_kind or not wrong:
                    continue
            changed = {**values, key: wrong} if wrong is not None else dict(values)
            if wrong is None:
                del changed[key]
            yield f"{key}={wrong!r}", RecordDict({**records, name: ConfigRecord(changed)})


def refusal(records: RecordDict, read: Callable[[RecordDict], object]) -> str:
    """The words with which records are refused; none where they are accepted."""
    try:
        read(records)
    except SecureSumError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("request_", SOME_REQUESTS, ids=lambda r: type(r).__name__)
def test_a_request_with_a_key_missing_or_of_another_type_is_malformed(request_):
    changed = list(mutations(request_to_records(request_), REQUEST))

    def read(records: RecordDict) -> Request:
        return request_from_records(message_type(request_), records)

    word = "a request is malformed"
    assert [what for what, records in changed if word not in refusal(records, read)] == []
    assert len(changed) >= 8


@pytest.mark.parametrize("reply", SOME_REPLIES, ids=lambda r: type(r).__name__)
def test_a_reply_with_a_key_missing_or_of_another_type_is_malformed(reply):
    changed = list(mutations(reply_to_records(reply), REPLY))
    word, read = "a reply is malformed", reply_from_records
    assert [what for what, records in changed if word not in refusal(records, read)] == []
    assert len(changed) >= 8


@pytest.mark.parametrize("kind", ["query.join", "train.release", "query.none-such", "", "train"])
@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        RecordDict({REQUEST: ConfigRecord()}),
        RecordDict({REQUEST: MetricRecord({"slot": 1})}),
        RecordDict({REQUEST: ArrayRecord()}),
        RecordDict({"another": ConfigRecord({"slot": 1})}),
    ],
    ids=["nothing", "empty", "metrics", "arrays", "another"],
)
def test_records_that_are_no_request_are_malformed(kind, records):
    with pytest.raises(SecureSumError, match="a request is malformed"):
        request_from_records(kind, records)


@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        RecordDict({REPLY: ConfigRecord()}),
        RecordDict({REPLY: ConfigRecord({"kind": "none-such"})}),
        RecordDict({REPLY: MetricRecord({"kind": 1})}),
        RecordDict({REPLY: ArrayRecord()}),
    ],
    ids=["nothing", "empty", "kind", "metrics", "arrays"],
)
def test_records_that_are_no_reply_are_malformed(records):
    with pytest.raises(SecureSumError, match="a reply is malformed"):
        reply_from_records(records)


@pytest.mark.parametrize(
    "columns",
    [
        {"names": ["a", "b"]},
        {"publics": []},
        {"sealed": [b"1", b"2", b"3"]},
    ],
    ids=lambda columns: next(iter(columns)),
)
def test_a_cohort_whose_columns_differ_in_length_is_malformed(columns):
    records = request_to_records(SOME_REQUESTS[2])
    records[REQUEST] = ConfigRecord({**records.config_records[REQUEST], **columns})
    with pytest.raises(SecureSumError, match="malformed"):
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
    records = request_to_records(SOME_REQUESTS[2])
    records[INPUT] = ArrayRecord({"rows": array})
    with pytest.raises(SecureSumError, match="a request is malformed"):
        request_from_records("train.release", records)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "word",
        "[]",
        "7",
        "null",
        "{}",
        '{"epoch": Infinity, "terms": "", "roster": [], "threshold": null,'
        ' "tolerated_dropouts": null, "tolerated_colluders": null}',
        '{"epoch": 1, "terms": "", "roster": [["a"]], "threshold": null,'
        ' "tolerated_dropouts": null, "tolerated_colluders": null}',
        '{"epoch": 1, "terms": "", "roster": [["a", "xyz"]], "threshold": null,'
        ' "tolerated_dropouts": null, "tolerated_colluders": null}',
        '{"epoch": 1, "terms": "", "roster": [], "threshold": 2.5,'
        ' "tolerated_dropouts": null, "tolerated_colluders": null}',
        '{"epoch": 1, "terms": "", "roster": [], "threshold": true,'
        ' "tolerated_dropouts": null, "tolerated_colluders": null}',
    ],
)
def test_a_text_that_is_no_manifest_is_malformed(text):
    records = RecordDict({REQUEST: ConfigRecord({"manifest": text})})
    with pytest.raises(SecureSumError, match="a request is malformed"):
        request_from_records("query.join", records)


@FAST
@given(
    kind=st.sampled_from(["query.join", "query.advertise", "query.unmask", "train.release"]),
    values=st.dictionaries(
        st.sampled_from(
            ["slot", "manifest", "task", "names", "publics", "sealed", "survivors", "dropped"]
        ),
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


def test_the_error_of_a_malformed_record_shows_none_of_its_values():
    records = RecordDict({REQUEST: ConfigRecord({"slot": "4711", "survivors": [], "dropped": []})})
    with pytest.raises(SecureSumError) as caught:
        request_from_records("query.unmask", records)
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


@FAST
@given(reply=st.one_of(*REPLIES.values()))
def test_payload_bytes_are_near_the_bytes_that_flower_sends(reply):
    # Flower adds a tag and a length to every item; whole numbers may take fewer than 8 bytes.
    records = reply_to_records(reply)
    sent = len(recorddict_to_proto(records).SerializeToString())
    items = sum(
        len(value) if isinstance(value, list) else 1
        for value in records.config_records[REPLY].values()
    )
    texts = sum(
        3 * len(value) for value in records.config_records[REPLY].values() if type(value) is str
    )
    assert payload_bytes(records) - 8 * items <= sent
    assert sent <= payload_bytes(records) + 16 * (items + 2) + texts
