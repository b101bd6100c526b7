"""An enterprise answers lawful requests, and refuses all others in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fgcif_flwr.errors import PolicyError, SecureSumError
from fgcif_flwr.federation.records import (
    INPUT,
    REQUEST,
    arrays_to_record,
)
from fgcif_flwr.federation.releases import MODEL, STATISTICS
from fgcif_flwr.federation.requests import (
    Refusal,
    Reveal,
)
from fgcif_flwr.secagg import (
    AdvertiseRequest,
    ConsentRequest,
    GraphNonce,
    Released,
    ReleaseRequest,
    UnmaskRequest,
    wire,
)
from tests.federation_rig import (
    Joined,
    copied,
    node,
    request_of,
    with_blob,
    with_key,
)

torch.set_num_threads(1)


@pytest.fixture
def joined(tmp_path: Path) -> Joined:
    return Joined(tmp_path)


SECURE_SUM_CODES = range(30, 38)


def test_a_whole_message_is_answered(joined):
    assert isinstance(joined.ask(joined.statistics()[0]), Released)


def test_an_unknown_task_is_refused_by_name(joined):
    refusal = joined.ask(copied(joined.statistics()[0], task="dump-rows"))
    assert refusal == Refusal(
        SecureSumError.exit_code, "there is no task 'dump-rows' in the manifest"
    )


UNLAWFUL_CHANGES = {
    "another run": lambda one: {"run_id": bytes(32)},
    "no run": lambda one: {"run_id": b""},
    "slot 0": lambda one: {"slot": 0},
    "slot not advertised": lambda one: {"slot": 2},
    "far slot": lambda one: {"slot": 2**62},
    "last slot": lambda one: {"slot": 2**63 - 1},
    "slot below 0": lambda one: {"slot": -1},
    "least slot": lambda one: {"slot": -(2**63)},
    "no task": lambda one: {"task": ""},
    "another task's name": lambda one: {"task": "statistics\0"},
    "no cohort": lambda one: {"cohort": ()},
    "cohort too small": lambda one: {"cohort": one.cohort[:3], "members": one.members[:3]},
    "cohort without it": lambda one: {"cohort": one.cohort[1:], "members": one.members[1:]},
    "a name twice": lambda one: {"cohort": (one.cohort[0], *one.cohort)},
    "unordered": lambda one: {"cohort": one.cohort[::-1], "members": one.members[::-1]},
    "a stranger for a member": lambda one: {
        "cohort": (*one.cohort[:-1], "zz"),
        "members": one.members,
    },
    "a stranger more": lambda one: {"cohort": (*one.cohort, "zz")},
    "no members": lambda one: {"members": ()},
    "a member less": lambda one: {"members": one.members[:-1]},
    "a member twice": lambda one: {"members": (*one.members, one.members[-1])},
    "a member's other name": lambda one: {
        "members": (replace(one.members[0], name="zz"), *one.members[1:])
    },
    "no key": lambda one: {
        "members": (replace(one.members[0], round_public=b""), *one.members[1:])
    },
    "key of zeros": lambda one: {"members": with_key(one.members, bytes(32))},
    "another key": lambda one: {"members": with_key(one.members, b"\x09" + bytes(31))},
    "one key for two": lambda one: {"members": with_key(one.members, one.members[2].round_public)},
}


@pytest.mark.parametrize("change", UNLAWFUL_CHANGES.values(), ids=UNLAWFUL_CHANGES)
def test_a_release_request_that_is_not_lawful_is_refused_and_reveals_nothing(joined, change):
    message = joined.statistics()[0]
    request = request_of(message).request
    refusal = joined.ask(copied(message, **change(request)))
    assert isinstance(refusal, Refusal)
    # An enterprise's own policy is asked first, and has a code of its own.
    no_cohort = change is UNLAWFUL_CHANGES["no cohort"]
    codes = (PolicyError.exit_code,) if no_cohort else SECURE_SUM_CODES
    assert refusal.code in codes


UNREADABLE = {
    "absent": lambda blob: None,
    "number": lambda blob: 1.5,
    "truth": lambda blob: True,
    "text": lambda blob: "word",
    "list": lambda blob: [blob],
    "list of numbers": lambda blob: [1, 2],
    "empty": lambda blob: b"",
    "octets": lambda blob: b"octets",
    "cut off": lambda blob: blob[:-1],
    "half": lambda blob: blob[: len(blob) // 2],
    "without its head": lambda blob: blob[1:],
    "longer": lambda blob: blob + b"\0",
    "another version": lambda blob: b"\2" + blob[1:],
    "another class": lambda blob: blob.replace(b"ReleaseRequest", b"releaseRequest"),
    "not UTF-8": lambda blob: blob.replace(b"statistics", b"\xff\xfetistics"),
    "a length beyond its end": lambda blob: blob[:16] + b"\xff\xff\xff\xff" + blob[20:],
    "another request": lambda blob: wire.encode(AdvertiseRequest(1)),
    "another slot's request": lambda blob: wire.encode(UnmaskRequest(bytes(32), 1, (), ())),
}


@pytest.mark.parametrize("spoil", UNREADABLE.values(), ids=UNREADABLE)
def test_a_release_request_that_cannot_be_read_is_refused_and_costs_no_slot(joined, spoil):
    message = joined.statistics()[0]
    blob = message.content.config_records[REQUEST]["message"]
    refusal = joined.ask(with_blob(message, spoil(blob)))
    assert isinstance(refusal, Refusal)
    assert refusal.code == SecureSumError.exit_code
    assert "malformed" in refusal.reason
    assert isinstance(joined.ask(message), Released)


MALFORMED_REQUESTS = {
    "join of nothing": ("query.join", b""),
    "join without a manifest": ("query.join", b"\1\4Join"),
    "join that is an advertise request": ("query.join", wire.encode(AdvertiseRequest(1))),
    "reveal of no joins": ("query.reveal", wire.encode(Reveal(()))),
    "advertise slot 0": ("query.advertise", wire.encode(AdvertiseRequest(0))),
    "advertise below 0": ("query.advertise", wire.encode(AdvertiseRequest(-1))),
    "advertise after others": (
        "query.advertise",
        wire.encode(AdvertiseRequest(0, (), (GraphNonce("a", b""),))),
    ),
    "consent in another run": ("query.consent", wire.encode(ConsentRequest(b"", 1, ("a",), ()))),
    "unmask in another run": ("query.unmask", wire.encode(UnmaskRequest(b"", 1, ("a",), ()))),
    "unmask below 0": ("query.unmask", wire.encode(UnmaskRequest(b"", -1, ("a",), ()))),
    "unmask cut off": ("query.unmask", wire.encode(UnmaskRequest(b"", 1, ("a",), ()))[:-1]),
    "unmask that is a consent": ("query.unmask", wire.encode(ConsentRequest(b"", 1, ("a",), ()))),
    "release of nothing": ("train.release", b""),
    "release without an input": (
        "train.release",
        wire.encode(ReleaseRequest(bytes(32), 1, STATISTICS, ("a",), ())),
    ),
}


@pytest.mark.parametrize(("kind", "blob"), MALFORMED_REQUESTS.values(), ids=MALFORMED_REQUESTS)
def test_a_malformed_request_of_any_kind_is_refused(joined, kind, blob):
    content = RecordDict({REQUEST: ConfigRecord({"message": blob})})
    refusal = joined.ask(Message(content, node(0), kind))
    assert isinstance(refusal, Refusal)
    assert refusal.code in SECURE_SUM_CODES


@pytest.mark.parametrize(
    "kind",
    [
        "query.identify",
        "query.join",
        "query.reveal",
        "query.advertise",
        "query.consent",
        "query.unmask",
        "train.release",
    ],
)
def test_a_message_without_any_record_is_refused(joined, kind):
    refusal = joined.ask(Message(RecordDict(), node(0), kind))
    assert isinstance(refusal, Refusal)
    assert refusal.code == SecureSumError.exit_code


@pytest.mark.parametrize(
    "inputs",
    [
        {"rows": np.array([1, 2])},
        {"rows": np.array([-1, 2, 3])},
        {"rows": np.array([0, 2, 3])},
        {"round": np.array([1, 2])},
        {"round": np.array([np.inf])},
        {MODEL: np.zeros(3, np.float32)},
    ],
    ids=str,
)
def test_an_input_that_is_not_of_its_task_is_refused_in_words(joined, inputs):
    refusal = joined.ask(joined.training(**inputs)[0])
    assert isinstance(refusal, Refusal)
    assert refusal.code != 1


def test_an_input_that_is_no_array_is_refused(joined):
    message = joined.statistics()[0]
    content = RecordDict(dict(message.content))
    content[INPUT] = ConfigRecord({"rows": b"\x00"})
    altered_message = Message(content, node(0), "train.release")
    assert joined.ask(altered_message).code == SecureSumError.exit_code


@pytest.mark.parametrize("octets", [b"", b"\x93NUMPY", b"PK\x03\x04", b"junk"])
def test_an_array_that_cannot_be_read_is_refused(joined, octets):
    message = joined.training()[0]
    record = ArrayRecord(dict(message.content.array_records[INPUT]))
    record["rows"] = arrays_to_record({"rows": np.zeros(3)})["rows"]
    record["rows"].data = octets
    content = RecordDict(dict(message.content))
    content[INPUT] = record
    refusal = joined.ask(Message(content, message.metadata.dst_node_id, "train.release"))
    assert isinstance(refusal, Refusal)
    assert refusal.code == SecureSumError.exit_code
