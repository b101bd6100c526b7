"""What a coordinator gains by lying about the graph on which masks and shares go round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from fgcif_flwr.errors import AuthenticationError, CohortError, PhaseError
from fgcif_flwr.secagg import (
    Field,
    GraphNonce,
    JoinReply,
    Participant,
    SecureSumParameters,
    VectorLayout,
    fix_epoch,
)
from fgcif_flwr.secagg.epoch import graph_commitment, opens_commitment
from fgcif_flwr.secagg.participant import joining
from tests.lying_coordinator import LyingCoordinator, NotOpenedError
from tests.secure_sum_rig import Consortium, newcomer, signed_join, stream, sum_of_encodings

LAYOUT = VectorLayout((Field("update", 8, 4.0),), 16)


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


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_graph_nonce_of_another_length_draws_no_graph_though_it_was_committed_to(regular, size):
    party, joins = newcomer(regular)
    nonce = bytes(range(size))
    commitment = graph_commitment(regular.manifest.hash(), "e001", nonce)
    joins[1] = signed_join(regular, joins[1], graph_commitment=commitment)
    nonces = [party.reveal(joins), GraphNonce("e001", nonce), *regular.graph_nonces[2:]]
    assert not opens_commitment(regular.manifest, joins[1], nonce)
    with pytest.raises(AuthenticationError, match="the graph nonce of e001"):
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


def test_an_enterprise_lets_no_more_graphs_be_drawn_than_its_security_allows(monkeypatch):
    # Whatever runs they are said to be for: the coordinator names runs as it likes.
    monkeypatch.setattr(joining, "MOST_GRAPHS", 5)
    consortium = Consortium(110)
    party = consortium.participants["e000"]
    for number in range(2, 8):
        manifest = replace(consortium.manifest, run=bytes([number]) * 16)
        own = party.join(manifest)
        others = [
            Participant(n, consortium.identities[n], semi_honest=True).join(manifest)
            for n in list(consortium.participants)[1:]
        ]
        joins = (own, *others)
        if number <= 5:
            party.reveal(joins)
            party.reveal(joins)  # the same list again draws no other graph
        else:
            with pytest.raises(CohortError, match="the most that it lets be drawn"):
                party.reveal(joins)
    # Nor does it forget when it is started anew with the same journal.
    again = Participant("e000", consortium.identities["e000"], journal=party.journal)
    manifest = replace(consortium.manifest, run=bytes([99]) * 16)
    joins = (
        again.join(manifest),
        *(
            Participant(n, consortium.identities[n]).join(manifest)
            for n in list(consortium.participants)[1:]
        ),
    )
    with pytest.raises(CohortError, match="the most that it lets be drawn"):
        again.reveal(joins)
