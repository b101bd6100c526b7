"""Enterprises that break the protocol of the secure sum are named, and end no run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client_app.app import app as client_app
from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.errors import (
    OutOfRangeError,
)
from fgcif_flwr.federation.records import (
    REPLY,
    arrays_to_record,
    reply_from_records,
)
from fgcif_flwr.federation.requests import (
    Refusal,
)
from fgcif_flwr.secagg import (
    Advertisement,
    Released,
    UnmaskReply,
    shamir,
    wire,
)
from fgcif_flwr.secagg.epoch import SEALED_BYTES
from fgcif_flwr.secagg.participant import advertising
from tests.federation_rig import (
    accused,
    altered,
    configured,
    federate,
    node,
    records_of,
    slot_of,
)

torch.set_num_threads(1)


@pytest.mark.parametrize(
    "alter",
    [
        lambda said: replace(said, words=said.words[:-1]),
        lambda said: replace(said, words=said.words + b"\0"),
        lambda said: replace(said, words=b""),
        lambda said: replace(said, slot=said.slot + 1),
        lambda said: replace(said, sender="another"),
        lambda said: replace(said, sender="enterprise-00"),
        lambda said: said.next,
        lambda said: UnmaskReply(said.sender, said.slot, said.words),
        lambda said: wire.encode(said)[:-1],
        lambda said: wire.encode(said) + b"\0",
        lambda said: b"",
        lambda said: RecordDict(),
        lambda said: RecordDict({REPLY: ConfigRecord({"message": "words"})}),
        lambda said: RecordDict({REPLY: arrays_to_record({"message": np.zeros(3)})}),
    ],
    ids=[
        "short vector",
        "long vector",
        "no vector",
        "wrong slot",
        "stranger's name",
        "another's name",
        "another kind",
        "another kind's fields",
        "cut off",
        "too long",
        "no bytes",
        "no record",
        "text",
        "array",
    ],
)
def test_an_enterprise_that_sends_what_cannot_be_read_counts_as_lost(tmp_path, alter):
    run = federate(configured(tmp_path), altered(1, 2, alter))
    assert (run.history[1]["survivors"], run.history[1]["dropped"]) == (5, 1)
    assert (run.history[2]["survivors"], run.history[2]["dropped"]) == (6, 0)


def test_one_enterprise_that_refuses_the_run_itself_is_left_out_and_does_not_end_it(tmp_path):
    refusal = Refusal(OutOfRangeError.exit_code, "too large")
    run = federate(configured(tmp_path), altered(1, 2, lambda said: refusal))
    assert (run.history[1]["survivors"], run.history[1]["dropped"]) == (5, 1)


def test_an_enterprise_that_shares_with_too_few_holders_does_not_end_the_run(tmp_path):
    def alter(said: Released) -> Released:
        return replace(said, next=replace(said.next, sealed=said.next.sealed[:-SEALED_BYTES]))

    run = federate(configured(tmp_path), altered(1, 2, alter))
    assert run.record["status"] == "completed"
    assert run.history[1]["survivors"] == 6
    assert run.history[2]["survivors"] == 6  # asked again, it said the whole of it


def test_a_malformed_round_key_costs_its_sender_and_not_the_round(tmp_path):
    def shortened(ad: Advertisement) -> Advertisement:
        return replace(ad, round_public=ad.round_public[:-1])

    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.dst_node_id != node(3) or slot_of(message) <= 1:
            return reply
        said = reply_from_records(reply.content)
        if isinstance(said, Released):
            said = replace(said, next=shortened(said.next))
        elif isinstance(said, Advertisement):
            said = shortened(said)
        return Message(records_of(said), reply_to=message)

    run = federate(configured(tmp_path), app)
    assert [row["survivors"] for row in run.history] == [6, 5, 5]
    assert [row["slot"] for row in run.history] == [2, 3, 4]


LIAR = 2


def dealing(monkeypatch: pytest.MonkeyPatch, **lies: tuple[object, str, Callable]) -> None:
    """Let one enterprise deal its shares with functions of the dealing module replaced."""
    advertise = advertising.advertise

    def lying(name, *arguments):
        if name != f"enterprise-0{LIAR}":
            return advertise(name, *arguments)
        with monkeypatch.context() as patch:
            for where, attribute, lie in lies.values():
                patch.setattr(where, attribute, lie)
            return advertise(name, *arguments)

    monkeypatch.setattr(advertising, "advertise", lying)


def noise(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    return os.urandom(SEALED_BYTES)


def false_commitment(*arguments: object) -> bytes:
    return os.urandom(24)


def shares_of_nothing(secrets, threshold, points, entropy) -> np.ndarray:
    shape = (len(points), len(secrets), shamir.LIMBS)
    return np.random.default_rng(1).integers(0, shamir.PRIME, shape).astype("<u4")


DEALERS = {
    "seals noise": (advertising.keys, "seal", noise),
    "commits falsely": (advertising, "commit_share", false_commitment),
    "deals shares of nothing": (shamir, "split", shares_of_nothing),
}


@pytest.mark.parametrize("lie", DEALERS.values(), ids=DEALERS)
def test_a_dealer_that_lies_costs_a_slot_is_named_and_is_left_out_from_then_on(
    tmp_path, monkeypatch, caplog, lie
):
    dealing(monkeypatch, lie=lie)
    with caplog.at_level(logging.WARNING):
        run = federate(configured(tmp_path))
    assert run.record["status"] == "completed"
    # Slot 1, the statistics, is lost; afterwards nobody else is accused, and no slot is lost.
    assert [row["slot"] for row in run.history] == [3, 4, 5]
    assert [(row["survivors"], row["dropped"]) for row in run.history] == [(5, 0)] * 3
    assert accused(caplog) == ["enterprise-02"]


def test_one_that_lies_at_unmask_is_named_and_left_out_and_costs_no_slot(tmp_path, caplog):
    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        said = reply_from_records(reply.content)
        if not isinstance(said, UnmaskReply) or message.metadata.dst_node_id != node(LIAR):
            return reply
        lie = replace(said, shares=os.urandom(len(said.shares)))
        return Message(records_of(lie), reply_to=message)

    with caplog.at_level(logging.WARNING):
        run = federate(configured(tmp_path), app)
    assert run.record["status"] == "completed"
    assert run.record["federation_rows"]["train"] == sum(
        len(one.train) for one in consortium_of(configured(tmp_path)).enterprises
    )
    assert [row["slot"] for row in run.history] == [2, 3, 4]
    assert [(row["survivors"], row["dropped"]) for row in run.history] == [(5, 0)] * 3
    assert accused(caplog) == ["enterprise-02"]


def test_one_that_complains_of_all_others_without_reason_loses_its_own_place_only(tmp_path, caplog):
    # One may lie (c = 1), and of two accused dealers one at least is honest.
    everybody = tuple(f"enterprise-0{index}" for index in range(6))

    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        said = reply_from_records(reply.content)
        if not isinstance(said, Released) or message.metadata.dst_node_id != node(LIAR):
            return reply
        return Message(records_of(replace(said, complaints=everybody)), reply_to=message)

    with caplog.at_level(logging.WARNING):
        run = federate(configured(tmp_path), app)
    assert [(row["survivors"], row["dropped"]) for row in run.history] == [(5, 0)] * 3
    assert accused(caplog) == ["enterprise-02"]


def test_a_false_complaint_about_one_costs_nobody_its_place(tmp_path, caplog):
    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        said = reply_from_records(reply.content)
        if not isinstance(said, Released) or message.metadata.dst_node_id != node(LIAR):
            return reply
        return Message(records_of(replace(said, complaints=("enterprise-04",))), reply_to=message)

    with caplog.at_level(logging.WARNING):
        run = federate(configured(tmp_path), app)
    assert [(row["survivors"], row["dropped"]) for row in run.history] == [(6, 0)] * 3
    assert accused(caplog) == []
