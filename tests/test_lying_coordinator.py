"""What a coordinator that lies, in league with enterprises, opens: nothing but lawful sums.

Each attack is carried out to its end: shares gathered, secrets interpolated, masks taken off. Where
a rule stands in its way, another test shows that without the rule the same attack succeeds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from fgcif_flwr.errors import (
    AuthenticationError,
    CohortError,
    PhaseError,
    SlotSpentError,
)
from fgcif_flwr.secagg import (
    Consent,
    SecureSumParameters,
)
from fgcif_flwr.secagg.participant import unmasking
from tests.lying_coordinator import (
    LyingCoordinator,
    NotOpenedError,
    adversary,
    best_split,
    exactly,
    fewest_honest,
    forged_sum,
    release_all,
    vectors,
)
from tests.secure_sum_rig import Consortium


def rules_of(count: int) -> list[SecureSumParameters]:
    """All parameters of so many holders that are accepted, without the consistency exchange."""
    accepted = []
    for t in range(2, count + 1):
        for d in range(count - t + 1):
            for c in range(1, t):
                try:
                    accepted.append(SecureSumParameters(count, t, d, c))
                except CohortError:
                    continue
    return accepted


def consortium_with(parameters: SecureSumParameters) -> Consortium:
    return Consortium(
        parameters.holders,
        threshold=parameters.threshold,
        dropouts=parameters.tolerated_dropouts,
        colluders=parameters.tolerated_colluders,
        consistency=parameters.consistency,
    )


# How far its shares reach.


def test_as_many_colluders_as_the_threshold_open_any_vector_and_one_fewer_open_none():
    for count, opens in ((5, True), (4, False)):
        consortium = Consortium(7, threshold=5, dropouts=2, colluders=1)
        attacker, encoded = adversary(consortium, count), vectors(consortium)
        release_all(attacker, encoded)
        if opens:
            assert exactly(attacker.open(["e000"]), encoded, ("e000",))
        else:
            with pytest.raises(NotOpenedError, match="4 shares"):
                attacker.open(["e000"])


def test_without_the_check_of_lists_both_kinds_of_shares_open_one_vector(monkeypatch):
    monkeypatch.setattr(unmasking, "check_survivors", lambda *_: None)
    consortium = Consortium(7)
    attacker, encoded = adversary(consortium), vectors(consortium)
    release_all(attacker, encoded)
    others = [name for name in attacker.honest if name != "e000"]
    for name in attacker.honest:
        attacker.ask_unmask(name, [other for other in others if other != name])
    assert exactly(attacker.open(["e000"]), encoded, ("e000",))


def test_an_enterprise_never_answers_for_two_lists():
    consortium = Consortium(7)
    attacker, encoded = adversary(consortium), vectors(consortium)
    release_all(attacker, encoded)
    for name in attacker.honest:
        attacker.ask_unmask(name, ())
        for dropped in attacker.honest:
            with pytest.raises((SlotSpentError, CohortError)):
                attacker.ask_unmask(name, (dropped,))
    assert exactly(attacker.open(attacker.honest), encoded, attacker.honest)
    for name in attacker.honest:
        with pytest.raises(NotOpenedError, match=r"round key of \w+: 1 shares"):
            attacker.open([name])


# Different legal lists told to different enterprises.


@pytest.mark.parametrize("count", range(3, 13))
def test_no_sum_opened_by_different_lists_covers_fewer_honest_ones_than_is_said(count):
    for parameters in rules_of(count):
        assert parameters.honest_in_any_sum == fewest_honest(parameters), parameters


@pytest.mark.parametrize("count", range(5, 13))
def test_different_lists_open_a_sum_over_just_the_fewest_honest_ones_and_not_over_fewer(count):
    lawful = [p for p in rules_of(count) if fewest_honest(p) >= 2]
    hardest = min(lawful, key=lambda p: (fewest_honest(p), -p.tolerated_dropouts))
    lowest = min(lawful, key=lambda p: (p.threshold, -p.tolerated_dropouts))
    for parameters in {SecureSumParameters.choose(count), hardest, lowest}:
        check_split(parameters)


def test_among_fifty_different_lists_open_a_sum_over_just_the_fewest_honest_ones():
    check_split(SecureSumParameters(50, 34, 16, 5))


def check_split(parameters: SecureSumParameters) -> None:
    for more in (0, 1):
        consortium = consortium_with(parameters)
        attacker = adversary(consortium, parameters.tolerated_colluders)
        encoded = vectors(consortium)
        split = best_split(parameters, attacker.epoch.holders, attacker.colluders, more)
        forged_sum(split, attacker, encoded)
        assert len(split.inside) == fewest_honest(parameters) - more
        if more:
            with pytest.raises(NotOpenedError):
                attacker.open(split.inside)
        else:
            assert len(split.inside) >= parameters.honest_in_any_sum, parameters
            assert exactly(attacker.open(split.inside), encoded, split.inside)


def test_parameters_under_which_different_lists_open_one_vector_are_refused():
    # A cohort of four told to one, all six told to the others: they may call more dropped.
    with pytest.raises(CohortError, match="single honest enterprise"):
        SecureSumParameters(6, 4, 2, 1)


def test_without_that_refusal_different_lists_do_open_one_vector(monkeypatch):
    monkeypatch.setattr(SecureSumParameters, "honest_in_any_sum", 2)
    parameters = SecureSumParameters(6, 4, 2, 1)
    consortium = consortium_with(parameters)
    attacker, encoded = adversary(consortium), vectors(consortium)
    split = best_split(parameters, attacker.epoch.holders, attacker.colluders)
    forged_sum(split, attacker, encoded)
    assert len(split.inside) == 1
    assert exactly(attacker.open(split.inside), encoded, split.inside)


# The consistency exchange.


def consistent(count: int = 8, dropouts: int = 2) -> tuple[LyingCoordinator, dict[str, np.ndarray]]:
    consortium = Consortium(count, dropouts=dropouts, consistency=True)
    return adversary(consortium), vectors(consortium)


def refused(
    attacker: LyingCoordinator, name: str, dropped: Sequence[str], shown: Sequence[Consent]
) -> None:
    """An enterprise refuses consents; that costs it the slot, so a copy of it is asked."""
    party = attacker.consortium.participants[name]
    attacker.consortium.participants[name] = copy.deepcopy(party)
    with pytest.raises((CohortError, AuthenticationError)):
        attacker.ask_unmask(name, dropped, shown)
    attacker.consortium.participants[name] = party


def test_with_consistency_different_lists_open_nothing():
    attacker, encoded = consistent()
    split = best_split(
        replace(attacker.epoch.parameters, consistency=False),
        attacker.epoch.holders,
        attacker.colluders,
    )
    small, large = attacker.slot_for(split.cohort), attacker.slot_for(attacker.epoch.holders)
    consents = {}
    for name in attacker.honest:
        attacker.ask_release(name, small if name in split.inside else large, encoded[name])
        consents[name] = attacker.ask_consent(name, split.lists[name])
    for name, dropped in split.lists.items():
        alike = [consents[n] for n, list_ in split.lists.items() if list_ == dropped]
        for shown in (alike, list(consents.values())):
            refused(attacker, name, dropped, shown)
    for names in ([split.inside[0]], split.inside, attacker.honest):
        with pytest.raises(NotOpenedError, match="1 shares"):
            attacker.open(names)


def test_with_consistency_one_list_that_a_quorum_signed_opens_its_sum_and_no_other():
    attacker, encoded = consistent()
    release_all(attacker, encoded)
    alive = tuple(name for name in attacker.honest if name != "e002")
    consents = [attacker.ask_consent(name, ("e002",)) for name in alive]
    for name in alive:
        attacker.ask_unmask(name, ("e002",), consents[: attacker.epoch.parameters.quorum])
    assert exactly(attacker.open(alive), encoded, alive)
    for names in (["e002"], alive[1:], attacker.honest):
        with pytest.raises(NotOpenedError, match="1 shares"):
            attacker.open(names)


def test_an_enterprise_signs_one_list_a_slot():
    attacker, encoded = consistent()
    release_all(attacker, encoded)
    first = attacker.ask_consent("e000", ())
    assert attacker.ask_consent("e000", ()) == first
    with pytest.raises(SlotSpentError):
        attacker.ask_consent("e000", ("e001",))


def test_forged_borrowed_and_repeated_consents_and_those_of_too_few_open_nothing():
    attacker, encoded = consistent()
    release_all(attacker, encoded)
    quorum = attacker.epoch.parameters.quorum
    names = attacker.honest[:quorum]
    consents = [attacker.ask_consent(name, ()) for name in names]
    forged = replace(consents[1], signature=bytes(64))
    borrowed = replace(consents[0], sender="e001")
    colluder = Consent(attacker.colluders[0], consents[0].slot, consents[0].signature)
    stranger = replace(consents[0], sender="nobody")
    for shown in (
        [],
        consents[:-1],
        [*consents[:-1], consents[0]],
        [consents[0], forged, *consents[2:]],
        [consents[0], borrowed, *consents[2:]],
        [*consents[:-1], colluder],
        [*consents[:-1], stranger],
        [replace(one, slot=one.slot + 1) for one in consents],
    ):
        refused(attacker, "e000", (), shown)
    with pytest.raises(NotOpenedError):
        attacker.open(attacker.honest)


def test_consents_of_an_earlier_slot_or_for_another_cohort_do_not_count():
    attacker, encoded = consistent()
    release_all(attacker, encoded)
    early = [attacker.ask_consent(name, ()) for name in attacker.honest]
    again = adversary(attacker.consortium)
    smaller = again.slot_for(again.epoch.holders[:-1])
    larger = again.slot_for(again.epoch.holders)
    for name in again.honest:
        again.ask_release(name, larger if name == "e000" else smaller, encoded[name])
    shrunk = [again.ask_consent(name, ()) for name in again.honest]
    moved = [replace(one, slot=shrunk[0].slot) for one in early]
    for shown in (early, moved, shrunk):
        refused(again, "e000", (), shown)


def test_without_its_own_consent_an_enterprise_opens_nothing_whoever_else_consents():
    attacker, encoded = consistent()
    release_all(attacker, encoded)
    consents = [attacker.ask_consent(name, ()) for name in attacker.honest[1:]]
    with pytest.raises(PhaseError, match="has not consented"):
        attacker.ask_unmask("e000", (), consents)


def test_without_the_check_of_consents_different_lists_open_as_without_the_exchange(monkeypatch):
    monkeypatch.setattr(unmasking, "check_consents", lambda *_: None)
    attacker, encoded = consistent(9)
    parameters = replace(attacker.epoch.parameters, consistency=False)
    split = best_split(parameters, attacker.epoch.holders, attacker.colluders)
    small, large = attacker.slot_for(split.cohort), attacker.slot_for(attacker.epoch.holders)
    for name in attacker.honest:
        attacker.ask_release(name, small if name in split.inside else large, encoded[name])
        attacker.ask_consent(name, split.lists[name])
        attacker.ask_unmask(name, split.lists[name])
    assert exactly(attacker.open(split.inside), encoded, split.inside)
    signed = attacker.epoch.parameters
    assert len(split.inside) < signed.holders - signed.tolerated_colluders


def test_where_the_manifest_knows_no_consent_none_is_given():
    attacker = adversary(Consortium(5))
    release_all(attacker, vectors(attacker.consortium))
    with pytest.raises(PhaseError, match="consistency is off"):
        attacker.ask_consent("e000", ())
