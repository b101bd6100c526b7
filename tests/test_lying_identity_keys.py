"""Identity keys under which one signature holds for every message: refused, and of no use.

With one a colluder could say another join after all graph nonces were told, and so choose the
graph. The manifest refuses the keys; behind it, the digest of the joins refuses the exchange.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from fgcif_flwr.errors import AuthenticationError, PhaseError
from fgcif_flwr.secagg import (
    GraphNonce,
    JoinReply,
    Manifest,
    Participant,
    fix_epoch,
    keys,
    messages,
)
from fgcif_flwr.secagg.epoch import graph_commitment
from fgcif_flwr.secagg.keys import agreement_from_seed, identity_from_seed
from fgcif_flwr.secagg.participant import joining
from fgcif_flwr.secagg.transcript import digest
from tests.secure_sum_rig import RUN, Consortium, stream

# The curve of RFC 8032, section 5.1, in affine coordinates.

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ZERO = (0, 1)

Point = tuple[int, int]


def add(one: Point, other: Point) -> Point:
    (x1, y1), (x2, y2) = one, other
    k = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + k, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - k, -1, P)
    return x % P, y % P


def times(count: int, point: Point) -> Point:
    total = ZERO
    while count:
        if count & 1:
            total = add(total, point)
        point = add(point, point)
        count >>= 1
    return total


def with_ordinate(y: int) -> Point | None:
    """A point with this y, if there is one."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    for root in (x, x * pow(2, (P - 1) // 4, P) % P):
        if root * root % P == square:
            return root, y
    return None


def torsion() -> set[Point]:
    """The points whose order divides 8: all there are, for the group is cyclic of order 8 L.

    L times any point is one of them; a generator of the eight is found among the first points.
    """
    for y in range(2, 100):
        point = with_ordinate(y)
        if point is not None:
            small = times(L, point)
            if times(4, small) != ZERO:
                return {times(count, small) for count in range(8)}
    raise AssertionError("no generator")


SMALL = torsion()


def encoded(y: int, sign: int) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


def small_order_encodings() -> list[bytes]:
    """Every 32 bytes that a lenient decoder could read as a point of small order."""
    ordinates = {y for _, y in SMALL}
    ordinates |= {y + P for y in ordinates if y + P < 2**255}  # not reduced
    return [encoded(y, sign) for y in sorted(ordinates) for sign in (0, 1)]


def test_the_eight_points_of_small_order_are_all_there_are():
    assert len(SMALL) == 8
    for x, y in SMALL:
        assert (-x * x + y * y - 1 - D * x * x * y * y) % P == 0
        assert times(8, (x, y)) == ZERO
    assert sorted(next(n for n in (1, 2, 4, 8) if times(n, one) == ZERO) for one in SMALL) == [
        1, 2, 4, 4, 8, 8, 8, 8,
    ]  # fmt: skip
    assert {y for _, y in SMALL} == keys._SMALL_ORDER
    assert len(set(small_order_encodings())) == 14


@pytest.mark.parametrize("public", small_order_encodings(), ids=lambda key: key.hex()[-4:])
def test_a_roster_with_a_key_of_small_order_is_no_roster(public):
    assert not keys.identifies(public)
    with pytest.raises(AuthenticationError, match="a valid Ed25519 key of its own"):
        Manifest(RUN, 1, "{}", (("e000", public),))


@pytest.mark.parametrize("beyond", range(2**255 - P))
@pytest.mark.parametrize("sign", [0, 1])
def test_a_roster_with_a_key_that_is_not_reduced_is_no_roster(beyond, sign):
    public = encoded(P + beyond, sign)
    assert not keys.identifies(public)
    with pytest.raises(AuthenticationError):
        Manifest(RUN, 1, "{}", (("e000", public),))


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(33), b"k" * 64])
def test_a_roster_with_half_or_twice_a_key_is_no_roster(public):
    assert not keys.identifies(public)
    with pytest.raises(AuthenticationError):
        Manifest(RUN, 1, "{}", (("e000", public),))


def test_every_key_that_is_made_can_stand_for_an_enterprise():
    publics = [identity_from_seed(stream(str(index))(32)).public for index in range(300)]
    assert all(map(keys.identifies, publics))
    assert {public[31] >> 7 for public in publics} == {0, 1}


# What such a key would be good for.

NEUTRAL = encoded(1, 0)
ANYTHING = NEUTRAL + bytes(32)
"""Under the neutral point this signature, R = the neutral point and S = 0, holds for all."""
BAD = "e011"


def test_under_the_neutral_point_one_signature_holds_for_every_message():
    assert all(keys.signed(NEUTRAL, ANYTHING, os.urandom(size)) for size in range(20))


class Ground:
    """Eleven honest enterprises that told their graph nonces, and one that may choose again."""

    def __init__(self) -> None:
        honest = {
            name: pair
            for name, pair in Consortium(12, neighbours=8).identities.items()
            if name != BAD
        }
        roster = (*((name, pair.public) for name, pair in honest.items()), (BAD, NEUTRAL))
        self.manifest = Manifest(RUN, 1, "{}", roster, neighbours=8)
        self.parties = [Participant(name, pair) for name, pair in honest.items()]
        self.joins = [party.join(self.manifest) for party in self.parties]
        self.channel = agreement_from_seed(os.urandom(32)).public
        first = self.shown(bytes(32))
        self.nonces = [party.reveal(first[0]) for party in self.parties]
        self.first = (first[0], [*self.nonces, *first[1]])

    def shown(self, nonce: bytes) -> tuple[list[JoinReply], list[GraphNonce]]:
        """All joins, with the one that commits to this nonce; and the nonce."""
        commitment = graph_commitment(self.manifest.hash(), BAD, nonce)
        join = JoinReply(BAD, bytes(32), self.channel, commitment, b"", ANYTHING)
        return [*self.joins, join], [GraphNonce(BAD, nonce)]

    def again(self, nonce: bytes) -> tuple[list[JoinReply], list[GraphNonce]]:
        joins, opened = self.shown(nonce)
        return joins, [*self.nonces, *opened]


@pytest.fixture
def unchecked(monkeypatch):
    monkeypatch.setattr(messages, "identifies", lambda public: True)


@pytest.mark.usefixtures("unchecked")
def test_a_join_exchanged_after_the_graph_nonces_were_told_is_refused_by_the_digest():
    ground = Ground()
    for party in ground.parties:
        with pytest.raises(PhaseError, match="not the joins for which the graph nonce was told"):
            party.begin(*ground.again(b"\1" * 32))
        party.begin(*ground.first)


@pytest.mark.usefixtures("unchecked")
def test_were_joins_fixed_by_their_signatures_alone_it_could_choose_the_graph(monkeypatch):
    def by_signatures(joins: list[JoinReply]) -> bytes:
        return digest("joins", *(part for one in joins for part in (one.name, one.signature)))

    monkeypatch.setattr(joining, "_digest", by_signatures)
    ground = Ground()
    tries = [ground.again(bytes([tried]) * 32) for tried in range(20)]
    rings = [fix_epoch(ground.manifest, *one).graph.ring.tolist() for one in tries]
    assert len(set(map(tuple, rings))) == 20  # drawn offline, as many as it likes
    for party in ground.parties:
        party.begin(*tries[13])
        assert party.joined.epoch.graph.ring.tolist() == rings[13]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "changed",
    [
        {"nonce": b"\1" * 32},
        {"channel_public": agreement_from_seed(bytes(32)).public},
        {"attestation": b"another"},
    ],
)
def test_no_other_part_of_a_join_can_be_exchanged_either(changed):
    ground = Ground()
    joins, nonces = ground.first
    with pytest.raises(PhaseError, match="not the joins for which"):
        ground.parties[0].begin([*joins[:-1], replace(joins[-1], **changed)], nonces)
