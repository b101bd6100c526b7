"""A name goes to the node that proves to have its key: nobody speaks, or is blamed, for another."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.federation import SecureSumMod
from fgcif_flwr.federation.envelope import enclosed_type
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.records import reply_to_records, request_from_records
from fgcif_flwr.federation.requests import Identify, Identity, Refusal, Reply, Request
from fgcif_flwr.secagg.keys import identity_from_seed
from tests.deployment_rig import Deployment, Honest
from tests.somebody_elses_app import moved, secure, start

MEMBERS = 6
ESCAPE = "x\x1b[2J\nleft out: client-000001"


def left_out(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if line.startswith("left out from now on")]


def stranger_that_says(identity_for):
    """What a node beyond the members answers each time it is asked who it is."""

    def hostile(request: Request, honest: Honest) -> Reply:
        return identity_for(request) if isinstance(request, Identify) else Refusal(31, "no")

    return hostile


def test_a_stranger_with_a_members_name_and_public_key_is_never_spoken_to_as_that_one(
    tmp_path, caplog
):
    # Names and public keys are no secrets; it would answer in the other's place, and be blamed.
    asked: list[Request] = []
    members: dict[str, bytes] = {}

    def hostile(request: Request, honest: Honest) -> Reply:
        asked.append(request)
        name = f"e{len(asked) % MEMBERS:03d}"
        return Identity(name, members[name], bytes(64))

    deployment = Deployment(tmp_path, MEMBERS, strangers=1, hostile={MEMBERS: hostile})
    members |= dict(zip(deployment.names, (k.public for k in deployment.identities), strict=True))
    deployment.run(4)
    assert deployment.slots == [(slot, MEMBERS) for slot in range(1, 5)]
    assert {type(request) for request in asked} == {Identify}
    assert len(asked) > 4  # it is asked again in every slot
    assert left_out(caplog) == []


def test_another_nodes_proof_is_none(tmp_path, caplog):
    # It repeats what e000 answered to its own challenge, as whoever reads along could.
    heard: list[Identity] = []

    def member(request: Request, honest: Honest) -> Reply:
        reply = honest()
        if isinstance(request, Identify):
            assert isinstance(reply, Identity)
            heard.append(reply)
        return reply

    hostile = {0: member, MEMBERS: stranger_that_says(lambda request: heard[0])}
    deployment = Deployment(tmp_path, MEMBERS, strangers=1, hostile=hostile)
    deployment.run(3)
    assert deployment.slots == [(slot, MEMBERS) for slot in range(1, 4)]
    assert left_out(caplog) == []
    assert "node 1006 stays without a name" in caplog.text


@pytest.mark.parametrize("own_key", [True, False], ids=["its own key", "the other's key"])
def test_a_member_whose_node_says_that_it_is_another_loses_its_own_place_only(
    tmp_path, caplog, own_key
):
    def hostile(request: Request, honest: Honest) -> Reply:
        if not isinstance(request, Identify):
            return Refusal(31, "no")
        forged = Identity.of("e000", deployment.identities[-1], request)
        return forged if own_key else replace(forged, public=deployment.identities[0].public)

    deployment = Deployment(tmp_path, MEMBERS, hostile={MEMBERS - 1: hostile})
    deployment.run(4)
    assert deployment.slots == [(slot, MEMBERS - 1) for slot in range(1, 5)]
    assert all(total.survivors == deployment.without(MEMBERS - 1) for total in deployment.sums)
    assert left_out(caplog) == []


def test_a_members_second_node_may_have_its_own_name_and_nobody_elses(tmp_path, caplog):
    # The last member runs two nodes; the second says at times that it is e000.
    turn: list[str] = []

    def second(request: Request, honest: Honest) -> Reply:
        if not isinstance(request, Identify):
            return Refusal(31, "no")
        turn.append(f"e{len(turn) % MEMBERS:03d}")
        return Identity.of(turn[-1], deployment.identities[-1], request)

    deployment = Deployment(tmp_path, MEMBERS, strangers=1, hostile={MEMBERS: second})
    deployment.run(3)
    assert turn[:3] == ["e000", "e001", "e002"]
    assert all(set(total.survivors) >= set(deployment.without(5)) for total in deployment.sums)
    assert len(deployment.sums) == 3
    assert left_out(caplog) == []


def test_strangers_have_no_say_in_whether_the_run_itself_is_wrong(tmp_path, caplog):
    # As many as would end it if they were members, with an error that no new slot would mend.
    fatal = Refusal(ConfigurationError.exit_code, "nothing is wrong")
    hostile = {MEMBERS + i: lambda request, honest: fatal for i in range(3)}
    deployment = Deployment(tmp_path, MEMBERS, strangers=3, hostile=hostile)
    deployment.run(2)
    assert deployment.slots == [(1, MEMBERS), (2, MEMBERS)]
    assert "nothing is wrong" in caplog.text


def simulated(nodes: int, clients: int, *, hostile: dict[int, object]):
    """A run without a pinned roster, some of whose nodes answer who they are as they like."""
    inner = SecureSumMod.simulated()

    def mod(message: Message, context: Context, call_next) -> Message:
        index = int(context.node_config["partition-id"])
        if index in hostile:
            request = request_from_records(enclosed_type(message), message.content)
            if isinstance(request, Identify):
                return Message(reply_to_records(hostile[index](request)), reply_to=message)
        return inner(message, context, call_next)

    app = ClientApp(mods=[mod])
    app.train()(moved)
    strategy = secure(clients=clients)
    start(strategy, InlineGrid(app, nodes, {}))
    return strategy.last.survivors


def named(name: str, seed: bytes = bytes(32)):
    return lambda request: Identity.of(name, identity_from_seed(seed), request)


NO_IDENTITIES = {
    "unprintable name": named(ESCAPE),
    "no name": named(""),
    "long name": named("x" * 65),
    "short key": lambda request: replace(named("x")(request), public=b"short"),
    "key of small order": lambda request: Identity("x", b"\1" + bytes(31), b"\1" + bytes(63)),
    "no signature": lambda request: replace(named("x")(request), signature=b""),
    "signature for another node": lambda request: named("x")(replace(request, node="1")),
    "signature for another challenge": lambda r: named("x")(replace(r, challenge=bytes(32))),
    "another name than signed": lambda request: replace(named("x")(request), name="y"),
}


@pytest.mark.parametrize("identity", NO_IDENTITIES.values(), ids=NO_IDENTITIES)
def test_who_says_no_valid_identity_stays_out_of_a_roster_and_does_not_end_the_run(
    caplog, identity
):
    with caplog.at_level(logging.DEBUG):
        survivors = simulated(6, 5, hostile={3: identity})
    assert survivors == tuple(f"client-00000{i}" for i in (0, 1, 2, 4, 5))
    assert "stays without a name" in caplog.text
    assert "\x1b" not in caplog.text  # nor do its words reach a terminal


def test_a_name_that_is_claimed_with_two_keys_is_nobodys(caplog):
    # Without a roster nobody can tell who has the right to it.
    survivors = simulated(7, 5, hostile={6: named("client-000002")})
    assert survivors == tuple(f"client-00000{i}" for i in (0, 1, 3, 4, 5))
    assert "client-000002 stays out: it is on no roster, or claimed with two keys" in caplog.text


def test_an_identity_answers_one_challenge_of_one_node(tmp_path):
    key = identity_from_seed(bytes(32))
    request = Identify("1003", bytes(range(32)))
    Identity.of("e000", key, request).verify(request)
    for other in (replace(request, node="1004"), replace(request, challenge=bytes(32))):
        with pytest.raises(Exception, match="signature of e000"):
            Identity.of("e000", key, request).verify(other)
