"""What a coordinator gains by lying about who joined, under which terms, and on which graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from fgcif_flwr.errors import (
    AuthenticationError,
    CohortError,
    NotJoinedError,
    PhaseError,
    SecureSumError,
    SlotSpentError,
)
from fgcif_flwr.secagg import (
    AdvertiseRequest,
    Field,
    GraphNonce,
    JoinReply,
    Manifest,
    Participant,
    SecureSumParameters,
    VectorLayout,
    fix_epoch,
    keys,
    valid_joins,
)
from fgcif_flwr.secagg.keys import identity_from_seed
from tests.lying_coordinator import LyingCoordinator, NotOpenedError, resigned
from tests.secure_sum_rig import INPUT_HASH, Consortium, stream, sum_of_encodings

LAYOUT = VectorLayout((Field("update", 8, 4.0),), 16)

# Points of order 1, 2, 4 and 8 (two each), and encodings of the first ones that are not reduced.
LOW_ORDER = [
    bytes.fromhex(point)
    for point in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000080",
    )
]
LOW = pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point.hex()[:8])


def newcomer(consortium: Consortium, name: str = "e000") -> tuple[Participant, list[JoinReply]]:
    """A fresh enterprise that has joined the consortium's manifest, with all joins."""
    party = Participant(name, consortium.identities[name])
    said = party.join(consortium.manifest)
    return party, [said if one.name == name else one for one in consortium.joins]


def signed_join(consortium: Consortium, join: JoinReply, **changed: bytes) -> JoinReply:
    """A join changed and signed by the enterprise itself."""
    join = replace(join, **changed)
    message = join.signed_bytes(consortium.manifest.hash())
    return replace(join, signature=keys.sign(consortium.identities[join.name], message))


# Who joined.


def test_different_lists_of_joins_told_to_different_enterprises_share_no_slot():
    consortium = Consortium(8, dropouts=2)
    party, joins = newcomer(consortium)
    party.begin(joins[:-1])  # one less than the others were told
    assert party.run_id != consortium.epoch.run_id
    consortium.participants["e000"] = party
    ads = {ad.sender: ad for ad in consortium.advertise()}
    with pytest.raises(SecureSumError, match="e000"):
        consortium.epoch.check_advertisement(ads["e000"])
    attacker = LyingCoordinator(consortium, ["e006"], LAYOUT, ads=dict(ads))
    slot = attacker.slot_for(sorted(ads))
    request = slot.release_request("e000")
    with pytest.raises(NotJoinedError):
        party.open_release(request, INPUT_HASH)
    with pytest.raises((AuthenticationError, CohortError)):
        party.open_release(replace(request, run_id=party.run_id), INPUT_HASH)
    for name in ("e001", "e002"):
        with pytest.raises(AuthenticationError, match="e000"):
            consortium.participants[name].open_release(slot.release_request(name), INPUT_HASH)
    with pytest.raises(NotOpenedError):
        attacker.secret("e000", 1)


def test_a_join_changed_left_out_doubled_or_of_a_stranger_is_refused():
    consortium = Consortium(6)
    stranger = identity_from_seed(bytes(32))
    for change in (
        lambda joins: [*joins[:1], replace(joins[1], nonce=bytes(32)), *joins[2:]],
        lambda joins: [*joins[:1], replace(joins[1], channel_public=bytes(range(32))), *joins[2:]],
        lambda joins: [*joins[:1], replace(joins[1], name="e002"), *joins[2:]],
        lambda joins: [*joins[:1], replace(joins[1], name="x000"), *joins[2:]],
        lambda joins: [*joins, signed_join(consortium, joins[1], nonce=bytes(32))],
        lambda joins: joins[1:],
        lambda joins: [signed_join(consortium, joins[0], nonce=bytes(32)), *joins[1:]],
        lambda joins: [
            *joins[:1],
            replace(
                joins[1],
                signature=keys.sign(stranger, joins[1].signed_bytes(consortium.manifest.hash())),
            ),
            *joins[2:],
        ],
    ):
        party, joins = newcomer(consortium)
        with pytest.raises(AuthenticationError):
            party.begin(change(joins))
        assert party.joined is None


def test_a_coordinator_that_names_only_some_of_those_who_joined_lowers_nothing():
    consortium = Consortium(10, threshold=8, dropouts=2, colluders=2)
    for missing in (1, 2):
        party, joins = newcomer(consortium)
        party.begin(joins[: 10 - missing])
        parameters = party.joined.epoch.parameters
        assert (parameters.threshold, parameters.tolerated_colluders) == (8, 2)
        assert parameters.tolerated_dropouts == 2 - missing
    for missing in (3, 7, 9):
        party, joins = newcomer(consortium)
        with pytest.raises(CohortError, match="allows 2 to be missing"):
            party.begin(joins[: 10 - missing])


def test_who_joined_is_told_once():
    consortium = Consortium(8, dropouts=2)
    party = consortium.participants["e000"]
    with pytest.raises(PhaseError, match="told once"):
        party.begin(consortium.joins[:-1])
    run_id = party.run_id
    party.advertise(AdvertiseRequest(1, consortium.joins[:-1]))
    assert party.run_id == run_id


@LOW
def test_a_channel_key_of_low_order_is_left_out_by_a_coordinator_and_refused_by_an_enterprise(
    point,
):
    consortium = Consortium(6)
    party, joins = newcomer(consortium)
    joins[2] = signed_join(consortium, joins[2], channel_public=point)
    good, wrong = valid_joins(consortium.manifest, joins)
    assert [one.name for one in good] == ["e000", "e001", "e003", "e004", "e005"]
    assert "e002" in str(wrong[0])
    with pytest.raises(AuthenticationError, match="not a valid X25519 key"):
        party.begin(joins)


@LOW
def test_a_round_key_of_low_order_masks_nothing(point):
    consortium = Consortium(6)
    ads = {ad.sender: ad for ad in consortium.advertise()}
    ads["e002"] = resigned(consortium, ads["e002"], round_public=point)
    with pytest.raises(SecureSumError, match="e002 is not a valid X25519 key"):
        consortium.epoch.check_advertisement(ads["e002"])
    attacker = LyingCoordinator(consortium, [], LAYOUT, ads=ads)
    slot = attacker.slot_for(attacker.epoch.holders)
    with pytest.raises(AuthenticationError, match="not a valid X25519 key"):
        attacker.ask_release("e000", slot, np.zeros(LAYOUT.size, np.int64))
    assert consortium.participants["e000"].masked is None


# Under which terms.


@pytest.mark.parametrize(
    "change",
    [
        lambda roster: roster[:1] + roster[:1] + roster[2:],
        lambda roster: (roster[1], roster[0], *roster[2:]),
        lambda roster: (roster[0], (roster[1][0], roster[0][1]), *roster[2:]),
        lambda roster: (roster[0], (roster[1][0], roster[1][1][:-1]), *roster[2:]),
    ],
    ids=["a name twice", "not in order", "a key twice", "half a key"],
)
def test_a_roster_with_doubles_or_half_keys_is_no_roster(change):
    with pytest.raises(AuthenticationError):
        Manifest(1, "{}", change(Consortium(4).manifest.roster))


def test_a_roster_that_gives_an_enterprise_another_key_or_none_is_not_joined():
    consortium = Consortium(4)
    party = Participant("e000", consortium.identities["e000"])
    roster = consortium.manifest.roster
    for other in ((("e000", bytes(range(32))), *roster[1:]), roster[1:]):
        with pytest.raises(AuthenticationError, match="does not hold the identity key"):
            party.join(replace(consortium.manifest, roster=other))


@pytest.mark.parametrize(
    "lowered",
    [
        {"threshold": 2},
        {"threshold": 5},  # 2 x 5 is not above 10 + 1
        {"threshold": 6, "tolerated_colluders": 2},
        {"threshold": 9, "tolerated_dropouts": 2},
        {"threshold": 6, "tolerated_dropouts": 4},  # different lists would open one vector
        {"tolerated_colluders": 0},
        {"tolerated_dropouts": 8},
        {"tolerated_dropouts": -1},
        {"threshold": 10, "tolerated_dropouts": 0, "tolerated_colluders": 9},
        {"neighbours": 2},
        {"neighbours": 4, "threshold": 3, "consistency": True},
        {"neighbours": 4, "threshold": 3, "consistency": False},
    ],
)
def test_terms_under_which_one_vector_could_be_opened_are_not_joined(lowered):
    consortium = Consortium(10)
    party = Participant("e000", consortium.identities["e000"], semi_honest=True)
    with pytest.raises(CohortError):
        party.join(replace(consortium.manifest, epoch=2, **lowered))
    assert party.joining is None


def test_terms_changed_for_one_enterprise_do_not_hold_for_the_others_joins():
    consortium = Consortium(10)
    party = Participant("e000", consortium.identities["e000"])
    said = party.join(replace(consortium.manifest, threshold=7))
    with pytest.raises(AuthenticationError):
        party.begin([said if one.name == "e000" else one for one in consortium.joins])


def test_an_epoch_is_joined_once_and_never_after_a_later_one():
    consortium = Consortium(5)
    party = consortium.participants["e000"]
    first = consortium.manifest
    with pytest.raises(SlotSpentError, match="epochs only grow"):
        party.join(first)
    party.join(replace(first, epoch=5))
    for manifest in (first, replace(first, epoch=4), replace(first, epoch=5, terms='{"a":1}')):
        with pytest.raises(SlotSpentError, match="epochs only grow"):
            party.join(manifest)
    with pytest.raises(AuthenticationError):  # nor do the joins of an earlier epoch count
        party.begin(consortium.joins)
    with pytest.raises(NotJoinedError):
        party.advertise(AdvertiseRequest(1))


# On which graph.


@pytest.fixture(scope="module")
def regular() -> Consortium:
    return Consortium(110)


def revealed(consortium: Consortium) -> tuple[Participant, list[JoinReply], list[GraphNonce]]:
    party, joins = newcomer(consortium)
    nonces = [party.reveal(joins), *(one for one in consortium.graph_nonces if one.name != "e000")]
    return party, joins, nonces


def test_a_graph_nonce_withheld_changed_doubled_or_of_another_draws_no_graph(regular):
    party, joins, nonces = revealed(regular)
    for shown in (
        nonces[:-1],
        [],
        [*nonces[:-1], replace(nonces[-1], nonce=bytes(32))],
        [*nonces[:-1], replace(nonces[0], name=nonces[-1].name)],
        [*nonces, nonces[1]],
        [*nonces[:-1], nonces[1]],
        [*nonces[:-1], replace(nonces[-1], name="nobody")],
    ):
        with pytest.raises(AuthenticationError):
            party.begin(joins, shown)
    party.begin(joins, nonces)


def test_a_graph_nonce_is_told_for_one_list_of_joins_only(regular):
    party, joins, nonces = revealed(regular)
    again = signed_join(regular, joins[-1], nonce=bytes(32))
    for other in (joins[:-1], [*joins[:-1], again]):
        with pytest.raises(PhaseError, match="one list of joins only"):
            party.reveal(other)
        known = {one.name for one in other}
        with pytest.raises(PhaseError, match="not the joins for which"):
            party.begin(other, [one for one in nonces if one.name in known])
    assert party.reveal(list(reversed(joins))) == nonces[0]
    with pytest.raises(AuthenticationError):
        party.reveal([signed_join(regular, joins[0], nonce=bytes(32)), *joins[1:]])


def test_whoever_has_not_told_its_nonce_cannot_be_given_a_graph(regular):
    party, joins = newcomer(regular)
    with pytest.raises(AuthenticationError):
        party.begin(joins, regular.graph_nonces)


def test_every_nonce_and_every_list_of_joins_draws_another_graph(regular):
    joins, nonces = list(regular.joins), list(regular.graph_nonces)
    rings = {tuple(regular.epoch.graph.ring.tolist())}
    fewer = fix_epoch(regular.manifest, joins[:-1], nonces[:-1])
    rings.add(tuple(fewer.graph.ring.tolist()))
    _, others, told = revealed(regular)
    rings.add(tuple(fix_epoch(regular.manifest, others, told).graph.ring.tolist()))
    assert len(rings) == 3


def breaks(ring: list[int], half: int) -> Iterator[set[int]]:
    """All ways to cut a ring in two: two runs of ``half`` places that leave holders between."""
    windows = [{ring[(at + i) % len(ring)] for i in range(half)} for at in range(len(ring))]
    for one, other in combinations(range(len(ring)), 2):
        if half < (other - one) < len(ring) - half:
            yield windows[one] | windows[other]


def test_no_legal_list_cuts_the_drawn_graph_wherever_the_colluders_stand(regular):
    # A cut drops or corrupts two whole runs of the ring, and dropping fewer only eases the rest:
    # so all lists are covered by these, with the colluders set where they help most.
    epoch = regular.epoch
    parameters, half = epoch.parameters, epoch.parameters.neighbours // 2
    ring = epoch.graph.ring.tolist()
    for cut in breaks(ring, half):
        needed = len(cut) - parameters.tolerated_colluders
        assert needed > parameters.tolerated_dropouts
    assert sum(1 for _ in breaks(ring, half)) > 3000


def cut_off(monkeypatch, threshold: int) -> tuple[LyingCoordinator, dict, list[str], list[str]]:
    """A coordinator that saw a ring of far too few neighbours, chose its two colluders then, and
    has masked vectors of all; with an arc of twelve, and the breaks around it."""
    monkeypatch.setattr(SecureSumParameters, "_check_regular", lambda self: None)
    consortium = Consortium(
        110, threshold=threshold, dropouts=20, colluders=2, consistency=True, neighbours=12
    )
    ring = [consortium.epoch.holders[at] for at in consortium.epoch.graph.ring]
    attacker = LyingCoordinator(consortium, [ring[3], ring[20]], LAYOUT)
    attacker.advertise()
    rng = np.random.default_rng(1)
    encoded = {name: rng.integers(-99, 99, LAYOUT.size) for name in attacker.honest}
    slot = attacker.slot_for(attacker.epoch.holders)
    for name in attacker.honest:
        attacker.ask_release(name, slot, encoded[name])
    around = [*ring[0:6], *ring[18:24]]
    return attacker, encoded, ring[6:18], [n for n in around if n not in attacker.colluders]


def test_too_low_a_threshold_on_too_few_neighbours_lets_a_list_cut_an_arc_off(monkeypatch):
    attacker, encoded, arc, dropped = cut_off(monkeypatch, 8)
    alive = [name for name in attacker.honest if name not in dropped]
    consents = [attacker.ask_consent(name, dropped) for name in alive]
    consents += [attacker.ask_consent_of_colluder(name, dropped) for name in attacker.colluders]
    for name in alive:
        attacker.ask_unmask(name, dropped, consents)
    opened = attacker.open(arc)
    assert np.array_equal(opened, sum_of_encodings([encoded[name] for name in arc]))


def test_those_numbers_are_refused_by_the_parameters():
    with pytest.raises(CohortError):
        SecureSumParameters(110, 8, 20, 2, True, 12)


@pytest.mark.parametrize("checked", [True, False])
def test_a_list_that_starves_a_neighbourhood_is_refused_and_would_open_nothing(
    monkeypatch, checked
):
    attacker, _, arc, dropped = cut_off(monkeypatch, 10)
    if checked:
        with pytest.raises(CohortError, match="cut off"):
            attacker.ask_consent(arc[0], dropped)
        return
    monkeypatch.setattr(type(attacker.epoch.graph), "starved", lambda *_: ())
    alive = [name for name in attacker.honest if name not in dropped]
    consents = [attacker.ask_consent(name, dropped) for name in alive]
    consents += [attacker.ask_consent_of_colluder(name, dropped) for name in attacker.colluders]
    for name in alive:
        attacker.ask_unmask(name, dropped, consents)
    with pytest.raises(NotOpenedError):  # there are too few to hold the shares of those at its edge
        attacker.open(arc)


def test_without_the_consistency_exchange_a_k_regular_graph_is_not_joined():
    consortium = Consortium(110, consistency=False, semi_honest=True)
    party = Participant("e000", consortium.identities["e000"], entropy=stream("other"))
    with pytest.raises(CohortError, match="consistency is off in a k-regular graph"):
        party.join(consortium.manifest)


def test_a_run_draws_no_more_graphs_than_its_security_allows():
    consortium = Consortium(110)
    party = consortium.participants["e000"]
    with pytest.raises(CohortError, match="once too often"):
        party.join(replace(consortium.manifest, epoch=1025))
