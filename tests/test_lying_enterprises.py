"""Enterprises that spoil shares under an honest coordinator: survived, or named, never believed."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import pytest

from fgcif_flwr.errors import AuthenticationError, MisbehaviourError, SecureSumError
from fgcif_flwr.secagg import (
    AdvertiseRequest,
    Field,
    SlotCollection,
    SlotUnmasking,
    VectorLayout,
)
from fgcif_flwr.secagg.epoch import COMMITMENT_BYTES, OPENED_BYTES, SEALED_BYTES
from fgcif_flwr.secagg.participant import advertising
from tests.lying_coordinator import resigned
from tests.secure_sum_rig import Consortium, as_integers, sum_of_encodings

LAYOUT = VectorLayout((Field("update", 24, 4.0),), 16)
LIAR = "e007"


def consortium() -> Consortium:
    """Eight enterprises, threshold 6: two may be lost or lie."""
    return Consortium(8, threshold=6, dropouts=2, colluders=1)


def vectors(parties: Consortium) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: rng.integers(-9000, 9000, LAYOUT.size) for name in parties.participants}


def collected(
    parties: Consortium,
) -> tuple[SlotCollection, dict[str, np.ndarray]]:
    return parties.open_slot(LAYOUT), vectors(parties)


def noise_for(parties: Consortium, receivers: Collection[str]) -> SlotCollection:
    """A slot in which what the liar sealed for these receivers is noise."""
    ads = {ad.sender: ad for ad in parties.advertise()}
    sealed = bytearray(ads[LIAR].sealed)
    for receiver in receivers:
        at = SEALED_BYTES * parties.epoch.position(receiver)
        sealed[at : at + SEALED_BYTES] = os.urandom(SEALED_BYTES)
    ads[LIAR] = resigned(parties, ads[LIAR], sealed=bytes(sealed))
    return parties.collect(LAYOUT, list(ads.values()))


def complain(slot: SlotCollection, parties: Consortium, who: str, of: Collection[str]) -> None:
    released = parties.masked(slot, who, vectors(parties)[who])
    slot.receive(replace(released, complaints=tuple(of)))


def answered(closed: SlotUnmasking, parties: Consortium, liars: Collection[str]) -> None:
    """All survivors answer; the liars open other shares than they hold."""
    for name in closed.survivors:
        reply = parties.participants[name].unmask(closed.request(name))
        if name in liars:
            reply = replace(reply, shares=os.urandom(len(reply.shares)))
        closed.answer(reply)


def whole_sum(encoded: Mapping[str, np.ndarray], names: Collection[str]) -> np.ndarray:
    return sum_of_encodings([encoded[name] for name in names])


@pytest.mark.parametrize("few", [["e000"], ["e000", "e003"]])
def test_noise_sealed_for_a_few_costs_nobody_anything(few):
    parties = consortium()
    slot, encoded = noise_for(parties, few), vectors(parties)
    parties.release(slot, encoded)
    total = parties.unmask(slot)
    assert np.array_equal(as_integers(total, LAYOUT), whole_sum(encoded, encoded))
    # One who complains may lie; two are more than may be in league, so the dealer lied.
    assert list(total.blamed) == ([LIAR] if len(few) > 1 else [])


def test_noise_sealed_for_many_costs_the_slot_and_names_the_dealer_alone():
    parties = consortium()
    slot, encoded = noise_for(parties, sorted(parties.participants)[:5]), vectors(parties)
    parties.release(slot, encoded)
    with pytest.raises(MisbehaviourError) as caught:
        parties.unmask(slot)
    assert caught.value.names == (LIAR,)


@pytest.mark.parametrize("lost", [False, True])
def test_shares_that_fit_their_commitments_and_no_polynomial_name_their_dealer(monkeypatch, lost):
    parties = consortium()
    split = advertising.shamir.split

    def dealt(secrets, threshold, points, entropy):
        return split(secrets, len(points), points, entropy)  # of too high a degree

    with monkeypatch.context() as patched:
        patched.setattr(advertising.shamir, "split", dealt)
        ads = [parties.participants[LIAR].advertise(AdvertiseRequest(1))]
    ads += parties.advertise(absent=[LIAR])
    slot, encoded = parties.collect(LAYOUT, ads), vectors(parties)
    parties.release(slot, encoded, lost=[LIAR] if lost else [])
    with pytest.raises(MisbehaviourError, match="open nothing") as caught:
        parties.unmask(slot)
    assert caught.value.names == (LIAR,)


def test_another_seed_than_the_committed_one_names_its_dealer():
    parties = consortium()
    ads = {ad.sender: ad for ad in parties.advertise()}
    ads[LIAR] = resigned(parties, ads[LIAR], seed_commitment=bytes(32))
    slot, encoded = parties.collect(LAYOUT, list(ads.values())), vectors(parties)
    parties.release(slot, encoded)
    with pytest.raises(MisbehaviourError) as caught:
        parties.unmask(slot)
    assert caught.value.names == (LIAR,)


def test_commitments_to_other_shares_than_were_sealed_are_the_dealers_fault():
    parties = consortium()
    ads = {ad.sender: ad for ad in parties.advertise()}
    wrong = bytearray(ads[LIAR].commitments)
    for receiver in range(3):
        wrong[2 * COMMITMENT_BYTES * receiver] ^= 1
    ads[LIAR] = resigned(parties, ads[LIAR], commitments=bytes(wrong))
    slot, encoded = parties.collect(LAYOUT, list(ads.values())), vectors(parties)
    parties.release(slot, encoded)
    with pytest.raises(MisbehaviourError) as caught:
        parties.unmask(slot)
    assert caught.value.names == (LIAR,)


@pytest.mark.parametrize("liars", [["e007"], ["e000", "e005"]])
def test_as_many_holders_as_may_be_lost_open_false_shares_and_are_named(liars):
    parties = consortium()
    slot, encoded = collected(parties)
    parties.release(slot, encoded)
    closed = slot.close()
    answered(closed, parties, liars)
    total = closed.finish()
    assert np.array_equal(as_integers(total, LAYOUT), whole_sum(encoded, encoded))
    seen = set(total.blamed)
    assert seen <= set(liars)
    # Shares beyond the threshold are not looked at: a liar among the last is not noticed.
    assert "e000" not in liars or "e000" in seen


@pytest.mark.parametrize(
    ("lost", "liars"), [([], ["e001", "e004", "e006"]), (["e002"], ["e001", "e006"])]
)
def test_false_shares_of_more_cost_the_slot_and_name_those_who_opened_them_alone(lost, liars):
    parties = consortium()
    slot, encoded = collected(parties)
    parties.release(slot, encoded, lost=lost)
    closed = slot.close()
    answered(closed, parties, liars)
    with pytest.raises(MisbehaviourError) as caught:
        closed.finish()
    assert set(caught.value.names) == set(liars)  # no honest dealer of whom nobody complained


def test_a_holder_that_answers_with_the_other_kind_of_share_is_named():
    parties = consortium()
    slot, encoded = collected(parties)
    parties.release(slot, encoded)
    held = parties.participants["e000"].masked.held
    closed = slot.close()
    for name in closed.survivors:
        reply = parties.participants[name].unmask(closed.request(name))
        if name == "e000":
            pairs = [held[i : i + OPENED_BYTES] for i in range(0, len(held), 2 * OPENED_BYTES)]
            reply = replace(reply, shares=b"".join(pairs))
        closed.answer(reply)
    total = closed.finish()
    assert list(total.blamed) == ["e000"]
    assert np.array_equal(as_integers(total, LAYOUT), whole_sum(encoded, encoded))


def test_as_many_as_may_collude_do_not_bring_blame_on_an_honest_dealer():
    parties = consortium()
    slot, encoded = collected(parties)
    complain(slot, parties, LIAR, ["e000", "e001", "e002"])
    parties.release(slot, encoded, lost=[LIAR])
    total = parties.unmask(slot)
    assert total.survivors == tuple(sorted(encoded))
    assert not total.blamed
    expected = whole_sum({**encoded, LIAR: vectors(parties)[LIAR]}, encoded)
    assert np.array_equal(as_integers(total, LAYOUT), expected)


def test_where_few_complain_and_too_few_answer_an_honest_dealer_is_never_named_alone():
    parties = consortium()
    slot, encoded = collected(parties)
    complain(slot, parties, LIAR, ["e000"])
    parties.release(slot, encoded, lost=[LIAR, "e005", "e006"])
    with pytest.raises(MisbehaviourError, match="or those who say so lie") as caught:
        parties.unmask(slot)
    assert caught.value.names != ("e000",)


def test_complaints_of_strangers_and_of_enterprises_outside_the_cohort_do_not_count():
    parties = consortium()
    slot = parties.open_slot(LAYOUT, absent=["e006"])
    encoded = vectors(parties)
    complain(slot, parties, LIAR, ["e006", "nobody", "e000", "e000"])
    parties.release(slot, encoded, lost=[LIAR])
    assert not parties.unmask(slot).blamed


def test_two_that_show_one_round_key_are_found_before_anybodys_slot_is_spent():
    parties = consortium()
    ads = {ad.sender: ad for ad in parties.advertise()}
    ads["e006"] = resigned(parties, ads["e006"], round_public=ads[LIAR].round_public)
    with pytest.raises(SecureSumError, match=r"e006.*e007"):
        parties.collect(LAYOUT, list(ads.values()))


def test_what_is_not_whole_or_not_signed_never_enters_a_slot():
    parties = consortium()
    ads = {ad.sender: ad for ad in parties.advertise()}
    ad = ads[LIAR]
    for wrong in (
        replace(ad, round_public=ads["e000"].round_public),
        replace(ad, sender="e006"),
        replace(ad, slot=ad.slot + 1),
        resigned(parties, ad, sealed=ad.sealed[:-1]),
        resigned(parties, ad, commitments=ad.commitments + bytes(1)),
        resigned(parties, ad, seed_commitment=b""),
        resigned(parties, ad, round_public=bytes(32)),
    ):
        with pytest.raises((SecureSumError, AuthenticationError)):
            parties.collect(LAYOUT, [*(ads[n] for n in ads if n != LIAR), wrong])


def test_vectors_of_strangers_of_another_length_or_sent_twice_are_not_added():
    parties = consortium()
    slot, encoded = collected(parties)
    released = parties.masked(slot, "e000", encoded["e000"])
    for wrong in (
        replace(released, sender="nobody"),
        replace(released, slot=released.slot + 1),
        replace(released, words=released.words[:-1]),
    ):
        with pytest.raises(SecureSumError):
            slot.receive(wrong)
    slot.receive(released)
    with pytest.raises(SecureSumError, match="two vectors"):
        slot.receive(released)
    parties.release(slot, encoded, lost=["e000"])
    assert np.array_equal(as_integers(parties.unmask(slot), LAYOUT), whole_sum(encoded, encoded))
