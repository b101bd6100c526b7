"""Members of a deployment that break the protocol: what it costs, and that the others go on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from flwr.app import Message

from fgcif_flwr.errors import OutOfRangeError
from fgcif_flwr.federation import epochs
from fgcif_flwr.federation.envelope import enclosed_type
from fgcif_flwr.federation.inline_grid import node_id
from fgcif_flwr.federation.records import payload_bytes, request_from_records
from fgcif_flwr.federation.requests import Join, Refusal, Release, Reply, Request, Reveal
from fgcif_flwr.privacy import door
from fgcif_flwr.privacy.policy import Policy
from fgcif_flwr.secagg import AdvertiseRequest, GraphNonce, JoinReply, keys
from tests.deployment_rig import Deployment, Honest, Hostile
from tests.federation_rig import accused

MEMBERS = 6
LIAR = 3


# What members draw a graph from.

MANY = 110
"""More than a complete graph is for: in such a run all reveal graph nonces."""
FEWER = 40
SPARSE = {"neighbours": 12, "tolerated_dropouts": 3, "tolerated_colluders": 1}
"""A k-regular graph of so many."""


def reveals(change: Callable[[Reply], Reply], times: int = 1 << 30) -> Hostile:
    """Answer the first requests to reveal otherwise."""
    left = [times]

    def hostile(request: Request, honest: Honest) -> Reply:
        reply = honest()
        if isinstance(request, Reveal) and left[0] > 0:
            left[0] -= 1
            return change(reply)
        return reply

    return hostile


def another_nonce(said: Reply) -> Reply:
    assert isinstance(said, GraphNonce)
    return replace(said, nonce=os.urandom(32))


def withheld(said: Reply) -> Reply:
    return Refusal(31, "no")


def test_wrong_and_withheld_graph_nonces_cost_their_members_a_place_and_do_not_end_the_run(
    tmp_path, caplog
):
    hostile = {MANY - 1: reveals(another_nonce), MANY - 2: reveals(withheld)}
    deployment = Deployment(tmp_path, MANY, hostile=hostile)
    deployment.run()
    (total,) = deployment.sums
    assert total.survivors == deployment.without(MANY - 1, MANY - 2)
    # A wrong one is a lie, and said aloud; one that does not come may have been lost.
    assert accused(caplog) == [f"e{MANY - 1}"]


def test_members_that_take_turns_in_withholding_their_nonces_do_not_end_the_run(tmp_path):
    turn: list[str] = []

    def league(index: int) -> Hostile:
        def hostile(request: Request, honest: Honest) -> Reply:
            name = f"e{index:03d}"
            if isinstance(request, Reveal):
                joined = [join.name for join in request.joins]
                first = next(one for one in (f"e{i:03d}" for i in group) if one in joined)
                if name == first:
                    turn.append(name)
                    return Refusal(31, "no")
            return honest()

        return hostile

    group = (FEWER - 1, FEWER - 2, FEWER - 3)
    deployment = Deployment(tmp_path, FEWER, hostile={i: league(i) for i in group})
    for index in range(FEWER):
        deployment.mods[index] = deployment.mod(
            index, policy=Policy(minimum_colluders=1, units={"none"})
        )
    deployment.run(**SPARSE)
    assert turn == [f"e{i:03d}" for i in group]
    assert deployment.sums[0].survivors == deployment.without(*group)


def test_one_that_keeps_its_nonce_back_twice_is_asked_to_join_no_more(tmp_path, monkeypatch):
    # Each time costs all others an epoch; without a limit it could cost one every ten slots.
    monkeypatch.setattr(epochs, "SLOTS_BETWEEN_EPOCHS", 1)
    asked: list[type] = []

    def withholding(request: Request, honest: Honest) -> Reply:
        asked.append(type(request))
        return Refusal(31, "no") if isinstance(request, Reveal) else honest()

    deployment = Deployment(tmp_path, 24, hostile={LIAR: withholding})
    for index in range(24):
        deployment.mods[index] = deployment.mod(
            index, policy=Policy(minimum_colluders=1, units={"none"})
        )
    deployment.run(4, neighbours=8, tolerated_colluders=1)
    assert asked.count(Join) == asked.count(Reveal) == 2
    assert [total.survivors for total in deployment.sums] == [deployment.without(LIAR)] * 4


# Long fields.


FIELDS: dict[str, Callable[[JoinReply], JoinReply]] = {
    "nonce": lambda said: replace(said, nonce=os.urandom(1 << 20)),
    "graph commitment": lambda said: replace(said, graph_commitment=os.urandom(1 << 20)),
    "channel key": lambda said: replace(said, channel_public=os.urandom(1 << 20)),
    "attestation": lambda said: replace(said, attestation=os.urandom(1 << 20)),
    "attestation of a byte too many": lambda said: replace(said, attestation=bytes(1025)),
    "nonce of a byte more": lambda said: replace(said, nonce=said.nonce + b"\0"),
    "nonce of a byte less": lambda said: replace(said, nonce=said.nonce[:-1]),
}


@pytest.mark.parametrize("lengthen", FIELDS.values(), ids=FIELDS)
def test_a_join_with_a_field_of_another_length_is_refused_and_told_to_nobody(
    tmp_path, caplog, lengthen
):
    # Each join is told to every other: what is too long would be multiplied by the coordinator.
    sent: list[int] = []

    def long(request: Request, honest: Honest) -> Reply:
        reply = honest()
        if not isinstance(request, Join):
            return reply
        assert isinstance(reply, JoinReply)
        changed = lengthen(reply)
        covered = changed.signed_bytes(request.manifest.hash())
        return replace(changed, signature=keys.sign(deployment.identities[LIAR], covered))

    def seen(message: Message) -> bool:
        sent.append(payload_bytes(message.content))
        return False

    deployment = Deployment(tmp_path, MEMBERS, hostile={LIAR: long}, lose_before=seen)
    deployment.run(2)
    assert all(total.survivors == deployment.without(LIAR) for total in deployment.sums)
    assert "a join is left out" in caplog.text
    assert max(sent) < 8192


# Words of one's own choice, masked as the protocol says.


def lying_in_slots(monkeypatch: pytest.MonkeyPatch, claimed: int, *slots: int) -> Hostile:
    """Say in its own masked words that so many were out of range."""

    def hostile(request: Request, honest: Honest) -> Reply:
        if not isinstance(request, Release) or request.request.slot not in slots:
            return honest()
        mask = door.Participant.mask

        def lying(party, encoded, layout):
            encoded = encoded.copy()
            encoded[0] = claimed
            return mask(party, encoded, layout)

        with monkeypatch.context() as patch:
            patch.setattr(door.Participant, "mask", lying)
            return honest()

    return hostile


def test_one_that_says_in_others_places_that_they_were_out_of_range_costs_a_slot(
    tmp_path, monkeypatch
):
    liar = lying_in_slots(monkeypatch, 5, 1)
    deployment = Deployment(tmp_path, MEMBERS, hostile={LIAR: liar})
    deployment.run(3)
    assert deployment.slots == [(2, MEMBERS), (3, MEMBERS), (4, MEMBERS)]


def test_a_known_limit_is_that_one_that_goes_on_saying_so_ends_the_run(tmp_path, monkeypatch):
    # Nobody can tell whose word it was: that would take a proof of what was encoded. It ends the
    # run after as many slots as are retried, and no vector is shown for it.
    liar = lying_in_slots(monkeypatch, 5, *range(1, 10))
    deployment = Deployment(tmp_path, MEMBERS, hostile={LIAR: liar})
    with pytest.raises(OutOfRangeError, match="5 of 6 enterprises have a value"):
        deployment.run(1, retries=3)
    assert deployment.sums == []
    log = (tmp_path / "releases-0.jsonl").read_text(encoding="utf-8")
    assert len(log.splitlines()) == 4


# One that says nothing.


def test_a_silent_one_is_not_waited_for_after_three_slots_and_comes_back_after_ten(
    tmp_path, caplog
):
    # It answers all requests but releases, so that each slot would wait for it until the timeout.
    at = SimpleNamespace(slot=0)
    waited: list[int] = []

    def silent(message: Message) -> bool:
        if enclosed_type(message) != "train.release":
            return False
        request = request_from_records("train.release", message.content)
        assert isinstance(request, Release)
        at.slot = request.request.slot
        if message.metadata.dst_node_id != node_id(LIAR):
            return False
        waited.append(at.slot)
        return at.slot <= 3

    deployment = Deployment(tmp_path, MEMBERS, lose_before=silent)
    deployment.run(15)
    assert waited == [1, 2, 3, 14, 15]
    assert deployment.slots == [(slot, MEMBERS - (slot < 14)) for slot in range(1, 16)]
    assert f"e00{LIAR} was lost 3 slots in a row" in caplog.text
    assert accused(caplog) == []  # it may be slow, and is no liar for that


def test_a_silent_one_is_waited_for_where_the_others_are_too_few_without_it(tmp_path):
    asked: list[int] = []

    def lost(message: Message) -> bool:
        kind, number = enclosed_type(message), message.metadata.dst_node_id
        request = request_from_records(str(kind), message.content)
        if number == node_id(0) and isinstance(request, AdvertiseRequest):
            return request.slot == 5
        if not isinstance(request, Release):
            return False
        slot = request.request.slot
        if number == node_id(LIAR):
            asked.append(slot)
        return slot <= 3 if number == node_id(LIAR) else number == node_id(0) and slot == 4

    deployment = Deployment(tmp_path, MEMBERS, lose_before=lost)
    deployment.run(4)
    # Slot 4 fails, since e000 is lost, and slot 5 has no round key of it.
    assert deployment.slots == [(1, 5), (2, 5), (3, 5), (5, 5)]
    assert deployment.sums[-1].survivors == deployment.without(0)
    assert asked == [1, 2, 3, 5]


# A deployment that goes on.


def test_a_second_run_on_the_same_contexts_joins(tmp_path):
    # Flower keeps a node's context over the runs of a series, and epochs count from 1 in each.
    deployment = Deployment(tmp_path, MEMBERS)
    deployment.run(2)
    deployment.run(2)
    assert [total.survivors for total in deployment.sums] == [tuple(deployment.names)] * 4
    assert [total.slot for total in deployment.sums] == [1, 2, 1, 2]
