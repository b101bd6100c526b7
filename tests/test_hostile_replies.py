"""Enterprises that lie: each of these ends no run that tolerates the loss of one."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client_app.app import app as client_app
from fgcif_flwr.config import RunConfig, flatten
from fgcif_flwr.errors import (
    OutOfRangeError,
    SecureSumError,
)
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.records import (
    REPLY,
    reply_from_records,
    reply_to_records,
)
from fgcif_flwr.federation.requests import Reply
from fgcif_flwr.privacy import door
from fgcif_flwr.reporting.run_directory import RunDirectory
from fgcif_flwr.secagg import (
    Advertisement,
    JoinReply,
    Released,
    UnmaskReply,
    wire,
)
from fgcif_flwr.secagg.epoch import OPENED_BYTES, SEALED_BYTES
from fgcif_flwr.secagg.keys import sign
from fgcif_flwr.secagg.participant.snapshot import load
from server_app.stages import run_stages
from tests.federation_rig import FIRST_NODE, low_order_join
from tests.uneven_enterprises import (
    ENTERPRISES,
    configured,
)

torch.set_num_threads(1)

HOSTILE = 2


Tamper = Callable[[Reply, Message, Context], "Reply | bytes"]
"""What a hostile enterprise sends in place of its reply; bytes stand for the blob of one."""


def federate(config: RunConfig, tamper: Tamper) -> RunDirectory:
    """Run a federation of six, one of which alters its replies."""

    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.dst_node_id != FIRST_NODE + HOSTILE:
            return reply
        said = tamper(reply_from_records(reply.content), message, context)
        if isinstance(said, bytes):
            content = RecordDict({REPLY: ConfigRecord({"message": said})})
        else:
            content = reply_to_records(said)
        return Message(content, reply_to=message)

    run_stages(InlineGrid(app, ENTERPRISES, flatten(config)), config)
    return RunDirectory(Path(config.run.output))


def altering(kind: type, **changes: Callable[[object], object] | object) -> Tamper:
    """Change fields of one kind of reply, each by a function or to a value."""

    def tamper(said: Reply, message: Message, context: Context) -> Reply:
        if not isinstance(said, kind):
            return said
        changed = {
            key: change(getattr(said, key)) if callable(change) else change
            for key, change in changes.items()
        }
        return dataclasses.replace(said, **changed)

    return tamper


def advertising(*, signed: bool = False, **changes: Callable[[object], object] | object) -> Tamper:
    """Change fields of every advertisement, also within a release; signed anew or not."""
    alter = altering(Advertisement, **changes)

    def tamper(said: Reply, message: Message, context: Context) -> Reply:
        if isinstance(said, Released):
            return dataclasses.replace(said, next=tamper(said.next, message, context))
        altered = alter(said, message, context)
        if not signed or not isinstance(altered, Advertisement):
            return altered
        party = load(context.state["participant"])
        assert party.joined is not None
        covered = party.joined.epoch.advertised_bytes(
            altered.slot, altered.sender, altered.round_public, altered.rest()
        )
        return dataclasses.replace(altered, signature=sign(party.identity, covered))

    return tamper


def low_order_channel(said: Reply, message: Message, context: Context) -> Reply:
    if not isinstance(said, JoinReply):
        return said
    party = load(context.state["participant"])
    assert party.manifest is not None
    return low_order_join(party.manifest, party.name, party.identity)


def bytes_of(kind: type, change: Callable[[bytes], bytes]) -> Tamper:
    """Change the bytes of one kind of reply."""
    return lambda said, message, context: (
        change(wire.encode(said)) if isinstance(said, kind) else said
    )


LIES: dict[str, tuple[Tamper, int]] = {
    # What is sent, and how many are left in the sums of the rounds.
    "nothing": (lambda said, message, context: said, 6),
    "bad join signature": (altering(JoinReply, signature=bytes(64)), 5),
    "no join signature": (altering(JoinReply, signature=b""), 5),
    "another's join": (altering(JoinReply, name="enterprise-00"), 5),
    "another graph commitment": (altering(JoinReply, graph_commitment=bytes(32)), 5),
    "low-order channel key": (low_order_channel, 5),
    "short channel key": (altering(JoinReply, channel_public=bytes(31)), 5),
    "join cut off": (bytes_of(JoinReply, lambda blob: blob[:-1]), 5),
    "low-order round key": (advertising(signed=True, round_public=bytes(32)), 5),
    "low-order round key, one": (
        advertising(signed=True, round_public=b"\x01" + bytes(31)),
        5,
    ),
    "long round key": (advertising(signed=True, round_public=bytes(33)), 5),
    "round key that it did not sign": (advertising(round_public=b"\x09" + bytes(31)), 5),
    "no signature": (advertising(signature=b""), 5),
    "short seed commitment": (advertising(signed=True, seed_commitment=bytes(31)), 5),
    "short commitments": (advertising(signed=True, commitments=lambda all_: all_[:-1]), 5),
    "no commitments": (advertising(signed=True, commitments=b""), 5),
    "short shares": (advertising(signed=True, sealed=lambda all_: all_[:-1]), 5),
    "long shares": (advertising(signed=True, sealed=lambda all_: all_ + b"0"), 5),
    "large shares": (advertising(signed=True, sealed=bytes(1 << 19)), 5),
    "a share for itself": (
        advertising(signed=True, sealed=lambda all_: all_ + bytes(SEALED_BYTES)),
        5,
    ),
    "fewer shares": (advertising(signed=True, sealed=lambda all_: all_[SEALED_BYTES:]), 5),
    "shares that it did not sign": (advertising(sealed=lambda all_: bytes(len(all_))), 5),
    "huge slot": (advertising(slot=2**62), 5),
    "advertisement cut off": (bytes_of(Advertisement, lambda blob: blob[:-1]), 5),
    "release cut off": (bytes_of(Released, lambda blob: blob[:-1]), 5),
    "complaints of strangers": (altering(Released, complaints=("nobody", "nobody")), 6),
    "complaints of itself": (altering(Released, complaints=("enterprise-02",)), 6),
    "unmask of 3 bytes": (altering(UnmaskReply, shares=b"abc"), 6),
    "unmask of no bytes": (altering(UnmaskReply, shares=b""), 6),
    "fewer unmask shares": (altering(UnmaskReply, shares=lambda all_: all_[OPENED_BYTES:]), 6),
    "more unmask shares": (
        altering(UnmaskReply, shares=lambda all_: all_ + bytes(OPENED_BYTES)),
        6,
    ),
    "unmask for another": (altering(UnmaskReply, sender="enterprise-00"), 6),
    "unmask cut off": (bytes_of(UnmaskReply, lambda blob: blob[:-1]), 6),
    # Shares that are not those dealt to it: the sum is right, and it is left out from then on.
    "unmask not in the field": (altering(UnmaskReply, shares=lambda all_: b"\xff" * len(all_)), 5),
    "unmask of zeros": (altering(UnmaskReply, shares=lambda all_: bytes(len(all_))), 5),
    "one wrong unmask share": (
        altering(UnmaskReply, shares=lambda all_: bytes(OPENED_BYTES) + all_[OPENED_BYTES:]),
        5,
    ),
    "unmask of another's shares": (
        altering(UnmaskReply, shares=lambda all_: all_[OPENED_BYTES:] + all_[:OPENED_BYTES]),
        5,
    ),
}


@pytest.mark.parametrize(("tamper", "left"), LIES.values(), ids=LIES)
def test_what_one_enterprise_sends_wrong_ends_no_run_that_tolerates_its_loss(
    tmp_path, tamper, left
):
    run = federate(configured(tmp_path), tamper)
    assert run.read_record()["status"] == "completed"
    history = run.read_history()
    assert [row["round"] for row in history] == [1, 2]
    assert [row["survivors"] for row in history] == [left, left]
    assert [row["slot"] for row in history] == [2, 3]  # nor does it cost a slot


@pytest.mark.parametrize(
    ("shares", "slots", "left"),
    [
        # A slot is lost, and then its dealer is left out.
        (lambda all_: os.urandom(len(all_)), [3, 4], 5),
        (lambda all_: all_[SEALED_BYTES:] + all_[:SEALED_BYTES], [3, 4], 5),
        # One share that does not open is borne: the five others are enough.
        (lambda all_: all_[:-1] + bytes([all_[-1] ^ 1]), [2, 3], 6),
    ],
    ids=["noise", "each another's", "one wrong bit"],
)
def test_signed_shares_that_nobody_can_open_end_no_run(tmp_path, shares, slots, left):
    run = federate(configured(tmp_path), advertising(signed=True, sealed=shares))
    history = run.read_history()
    assert run.read_record()["status"] == "completed"
    assert [row["round"] for row in history] == [1, 2]
    assert [row["slot"] for row in history] == slots
    assert [row["survivors"] for row in history] == [left, left]


def test_words_of_ones_own_choice_spoil_the_sum_and_no_number_of_it_is_told(tmp_path):
    # Nobody knows whose they were; the chance that both check words come out is under 1e-12.
    tamper = altering(Released, words=lambda words: os.urandom(len(words)))
    with pytest.raises(
        SecureSumError, match=r"did not cancel.*nothing of this sum is used"
    ) as caught:
        federate(configured(tmp_path, {"run.retries": 0}), tamper)
    assert not isinstance(caught.value, OutOfRangeError)  # nothing that a setting would mend
    assert "could not compute" not in str(caught.value)


@pytest.mark.parametrize("claimed", [-1, 5, 1000])
def test_counts_that_cannot_be_of_the_survivors_are_not_told_as_a_number_of_enterprises(
    tmp_path, monkeypatch, claimed
):
    # One enterprise that masks lawfully may still encode what it likes.
    encode = door._encode

    def lying(whole, layout, compute, rounding, seed):
        words = encode(whole, layout, compute, rounding, seed)
        if liar[-1] == FIRST_NODE + HOSTILE:
            words[0], words[1] = claimed, 2
        return words

    liar = []

    def app(message: Message, context: Context) -> Message:
        liar.append(message.metadata.dst_node_id)
        return client_app(message, context)

    monkeypatch.setattr(door, "_encode", lying)
    config = configured(tmp_path, {"run.retries": 0})
    with pytest.raises(SecureSumError, match="the sum is spoilt") as caught:
        run_stages(InlineGrid(app, ENTERPRISES, flatten(config)), config)
    assert not isinstance(caught.value, OutOfRangeError)  # nothing that a setting would mend
    assert "of 6 enterprises" not in str(caught.value)


def test_the_parameters_of_a_run_that_one_did_not_join_are_those_of_the_roster(tmp_path):
    tamper, _ = LIES["bad join signature"]
    said = federate(configured(tmp_path), tamper).read_record()["secure_sum"]
    assert (said["holders"], said["threshold"], said["tolerated_dropouts"]) == (5, 5, 0)
    assert said["tolerated_colluders"] == 1
