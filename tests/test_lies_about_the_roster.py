"""A coordinator that lies about who takes part is refused at join."""

import dataclasses

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from client_app.app import app as client_app
from fgcif_flwr.config import flatten
from fgcif_flwr.errors import (
    AuthenticationError,
    CohortError,
    NotJoinedError,
    SecureSumError,
)
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.records import (
    REQUEST,
    reply_from_records,
    request_to_records,
)
from fgcif_flwr.federation.requests import Join, Refusal
from fgcif_flwr.federation.terms import terms_of
from fgcif_flwr.secagg import (
    AdvertiseRequest,
    JoinReply,
    Manifest,
    Participant,
    SecureSumParameters,
    fix_epoch,
    wire,
)
from fgcif_flwr.secagg.keys import KeyPair, identity_from_seed
from tests.federation_rig import FIRST_NODE, identify, low_order_join
from tests.secure_sum_rig import RUN, stream
from tests.uneven_enterprises import (
    ENTERPRISES,
    SCHEMA,
    Coordinator,
    configured,
)

torch.set_num_threads(1)


def roster_of(count: int) -> tuple[dict[str, KeyPair], tuple[tuple[str, bytes], ...]]:
    names = [f"e{i:02d}" for i in range(count)]
    identities = {name: identity_from_seed(stream(name)(32)) for name in names}
    return identities, tuple((name, identities[name].public) for name in names)


@pytest.mark.parametrize("colluders", [None, 2])
def test_a_victim_told_that_only_it_and_two_colluders_of_twenty_joined_refuses(colluders):
    identities, roster = roster_of(20)
    manifest = Manifest(RUN, 1, "{}", roster, None, None, colluders)
    whole = manifest.parameters(20)
    assert (whole.tolerated_colluders, whole.honest_in_any_sum) == (2, 16)
    for name in list(identities)[2:]:
        group = {n: party_of(n, identities[n]) for n in ("e00", "e01", name)}
        joins = tuple(party.join(manifest) for party in group.values())
        victim = group[name]
        with pytest.raises(CohortError, match="3 of the 20 enterprises on the roster joined"):
            victim.begin(joins)
        with pytest.raises(NotJoinedError, match="not told who joined"):
            victim.advertise(AdvertiseRequest(1))
        with pytest.raises(CohortError, match="3 of the 20 enterprises on the roster joined"):
            victim.advertise(AdvertiseRequest(1, joins))


def party_of(name: str, identity: KeyPair) -> Participant:
    return Participant(name, identity, entropy=stream(name))


def test_as_many_as_may_be_lost_may_be_missing_at_join_and_not_one_more():
    identities, roster = roster_of(20)
    manifest = Manifest(RUN, 1, "{}", roster)
    parties = [party_of(n, identities[n]) for n in identities]
    joins = [party.join(manifest) for party in parties]
    whole = manifest.parameters(20)
    assert whole.tolerated_dropouts == 2
    epoch = fix_epoch(manifest, joins[:-2])
    # Threshold and colluders are those of twenty; two are missing already, so none may be lost.
    assert epoch.parameters == SecureSumParameters(18, whole.threshold, 0, 2)
    with pytest.raises(CohortError, match="17 of the 20"):
        fix_epoch(manifest, joins[:-3])


def test_an_enterprise_refuses_such_a_join_over_the_grid(tmp_path):
    coordinator = Coordinator(configured(tmp_path))
    terms = terms_of(coordinator.config, SCHEMA.hash)
    manifest = Manifest(RUN, 2, terms, coordinator_roster(coordinator))
    messages = [
        Message(request_to_records(Join(manifest)), FIRST_NODE + i, "query.join") for i in range(3)
    ]
    joins = [reply_from_records(reply.content) for reply in coordinator.send(messages)]
    assert all(isinstance(join, JoinReply) for join in joins)
    advertise = request_to_records(AdvertiseRequest(1, tuple(joins)))
    messages = [Message(advertise, FIRST_NODE + i, "query.advertise") for i in range(3)]
    for reply in coordinator.send(messages):
        refusal = reply_from_records(reply.content)
        assert refusal == Refusal(
            CohortError.exit_code,
            "3 of the 6 enterprises on the roster joined; secagg.tolerated_dropouts allows 1 "
            "to be missing",
        )


def coordinator_roster(coordinator: Coordinator) -> tuple[tuple[str, bytes], ...]:
    nodes = [FIRST_NODE + index for index in range(ENTERPRISES)]
    found = identify(coordinator.grid, *nodes)
    return tuple(sorted((one.name, one.public) for one in found))


@dataclasses.dataclass(frozen=True)
class Forgery:
    """A manifest's fields in its order, without the manifest's own checks; see forged_join."""

    run: bytes
    epoch: int
    terms: str
    roster: tuple[tuple[str, bytes], ...]
    threshold: int | None = None
    tolerated_dropouts: int | None = None
    tolerated_colluders: int | None = None
    consistency: bool | None = None
    neighbours: int | None = None


def forged_join(forgery: Forgery) -> bytes:
    """The bytes of a Join whose manifest no Manifest would be."""
    fields = wire.encode(forgery).removeprefix(b"\1\x07Forgery")
    blob = b"\1\4Join" + fields
    whole = Forgery(RUN, 1, "{}", roster_of(4)[1])
    good = Join(Manifest(*(getattr(whole, f.name) for f in dataclasses.fields(whole))))
    assert wire.encode(good) == b"\1\4Join" + wire.encode(whole).removeprefix(b"\1\x07Forgery")
    return blob


@pytest.mark.parametrize(
    "spoil",
    [
        lambda roster: (roster[0], roster[0], *roster[1:]),
        lambda roster: (roster[0], (roster[0][0], roster[3][1]), *roster[1:3]),
        lambda roster: roster[::-1],
        lambda roster: (("a", roster[0][1]), *roster),
        lambda roster: ((roster[0][0], roster[0][1][:-1]), *roster[1:]),
        lambda roster: ((roster[0][0], roster[0][1] + b"0"), *roster[1:]),
    ],
    ids=["twice", "two keys", "unordered", "one key for two", "short key", "long key"],
)
def test_a_roster_of_two_meanings_is_no_manifest(spoil, tmp_path):
    _, roster = roster_of(4)
    good = Manifest(RUN, 1, "{}", roster)
    with pytest.raises(AuthenticationError, match="roster"):
        dataclasses.replace(good, roster=spoil(roster))
    # An enterprise that is sent one refuses it.
    blob = forged_join(Forgery(RUN, 1, "{}", spoil(roster)))
    grid = InlineGrid(client_app, ENTERPRISES, flatten(configured(tmp_path)))
    content = RecordDict({REQUEST: ConfigRecord({"message": blob})})
    (reply,) = grid.send_and_receive([Message(content, FIRST_NODE, "query.join")])
    assert reply_from_records(reply.content).code == AuthenticationError.exit_code


@pytest.mark.parametrize("epoch", [-1, 0, 1 << 32, 1 << 63])
def test_an_epoch_that_could_never_be_followed_is_no_manifest(epoch):
    _, roster = roster_of(4)
    with pytest.raises(SecureSumError, match="an epoch is a number from 1"):
        Manifest(RUN, epoch, "{}", roster)
    if epoch < 1 << 63:  # more than that the wire does not carry
        with pytest.raises(SecureSumError, match="an epoch is a number from 1"):
            wire.decode(Join, forged_join(Forgery(RUN, epoch, "{}", roster)))


@pytest.mark.parametrize(
    ("holders", "threshold", "dropouts", "colluders"), [(3, 3, 0, 2), (6, 6, 0, 5), (9, 9, 0, 8)]
)
def test_limits_that_could_open_one_honest_enterprise_are_refused_by_an_enterprise(
    holders, threshold, dropouts, colluders
):
    with pytest.raises(CohortError, match="honest enterprise"):
        SecureSumParameters(holders, threshold, dropouts, colluders)
    identities, roster = roster_of(holders)
    manifest = Manifest(RUN, 1, "{}", roster, threshold, dropouts, colluders)
    for name in identities:
        party = party_of(name, identities[name])
        with pytest.raises(CohortError, match="honest enterprise"):
            party.join(manifest)
        assert party.manifest is None  # nothing of it was accepted


def test_any_parameters_that_are_accepted_leave_two_honest_enterprises_in_any_sum():
    accepted = 0
    for holders in range(3, 16):
        for colluders in range(1, holders):
            for threshold in range(colluders + 1, holders + 1):
                for dropouts in range(holders - threshold + 1):
                    try:
                        chosen = SecureSumParameters(holders, threshold, dropouts, colluders)
                    except CohortError:
                        continue
                    accepted += 1
                    assert 2 <= chosen.honest_in_any_sum <= threshold - colluders
    assert accepted > 100


def test_an_enterprise_that_is_shown_a_channel_key_of_low_order_refuses_and_keeps_nothing():
    identities, roster = roster_of(6)
    manifest = Manifest(RUN, 1, "{}", roster)
    parties = [party_of(n, identities[n]) for n in list(identities)[:5]]
    joins = [party.join(manifest) for party in parties]
    bad = low_order_join(manifest, "e05", identities["e05"])
    for party in parties:
        with pytest.raises(AuthenticationError, match="not a valid X25519 key"):
            party.begin([*joins, bad])
        assert party.joined is None
        with pytest.raises(NotJoinedError):
            party.advertise(AdvertiseRequest(1))
