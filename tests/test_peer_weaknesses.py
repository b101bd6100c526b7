"""Sixteen weaknesses of Flower's own secure aggregation (SecAgg+, 1.41), mounted against ours.

One test for each, in a fixed order; what Flower does stands in the test's comment.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from fgcif_flwr.errors import (
    AuthenticationError,
    CohortError,
    OutOfRangeError,
    PhaseError,
    SecureSumError,
    SlotSpentError,
)
from fgcif_flwr.secagg import (
    AdvertiseRequest,
    Field,
    Participant,
    Released,
    SlotCollection,
    UnmaskRequest,
    VectorLayout,
    WordFormat,
    keys,
)
from fgcif_flwr.secagg.epoch import OPENED_BYTES, ROUND_KEY, SELF_MASK, SlotContext
from fgcif_flwr.secagg.masking import masked_words
from tests.lying_coordinator import LyingCoordinator, NotOpenedError
from tests.secure_sum_rig import INPUT_HASH, Consortium, as_integers, sum_of_encodings

LAYOUT = VectorLayout((Field("update", 40, 4.0), Field("rows", 1, 30_000, exact=True)), 16)
UPDATE = VectorLayout((Field("update", 4, 1.0),), 22)


def vectors(parties: Consortium, layout: VectorLayout = LAYOUT) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {name: rng.integers(-9000, 9000, layout.size) for name in parties.participants}


def one_released(parties: Consortium, layout: VectorLayout, vector: np.ndarray) -> Released:
    slot = parties.open_slot(layout)
    return parties.masked(slot, "e000", vector)


def test_01_a_mask_cannot_be_searched_for():
    # Flower folds the pairwise secret to 32 bits, 28 in effect, and seeds a Mersenne Twister with
    # them: its whole mask follows from one known word. Here a mask has a key of 256 bits; secrets
    # that agree in the 224 bits that folding would drop give masks with nothing in common.
    secret = bytes(range(32))
    alike = secret[:-1] + bytes([secret[-1] ^ 1])
    size = 20_000
    form = WordFormat(30, 4)
    zeros = np.zeros(size, dtype=np.int64)
    masks = [
        form.unpack(masked_words(zeros, form, [keys.derive(one, b"context")], []), size + 2)
        for one in (secret, alike, alike[::-1])
    ]
    # Each word agrees by chance with probability 2^-32: one in all with 1e-5.
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.count_nonzero(masks[one] == masks[other]) == 0
    # The words known of a vector tell nothing of the rest: no word comes again at any distance,
    # as it would within a generator's state of 624 words that is seeded alike.
    assert len(np.unique(masks[0])) >= size - 5  # birthdays: 0.05 pairs are expected
    assert len(keys.derive(secret, b"context")) == 32


def test_02_masks_reach_every_value_of_the_modulus_alike():
    # Flower draws below modulus - 1: the top value never comes. Chi-square over all 256 values of
    # 8-bit words; false alarm 1e-6.
    layout = VectorLayout((Field("update", 60_000, 1.0),), 5)
    parties = Consortium(6)
    slot = parties.open_slot(layout)
    assert slot.form.bits == 8
    sent = parties.masked(slot, "e000", np.zeros(60_000, dtype=np.int64))
    counts = np.bincount(slot.form.unpack(sent.words, 60_002), minlength=256)
    assert counts[255] > 0
    assert chisquare(counts).pvalue > 1e-6


def test_03_the_coordinator_cannot_put_its_own_keys_in_the_middle():
    # Flower's public keys are unsigned: its server answers each client with keys of its own.
    parties = Consortium(5)
    mine = keys.agreement_from_seed(bytes(32)).public
    fresh = Participant("e000", parties.identities["e000"])
    said = fresh.join(parties.manifest)
    middle = [said, *(replace(one, channel_public=mine) for one in parties.joins[1:])]
    with pytest.raises(AuthenticationError, match="e001"):
        fresh.begin(middle)
    attacker = LyingCoordinator(parties, [], LAYOUT)
    attacker.advertise()
    request = attacker.slot_for(attacker.epoch.holders).release_request("e000")
    members = tuple(
        one if one.name == "e000" else replace(one, round_public=mine) for one in request.members
    )
    with pytest.raises(AuthenticationError, match="two members"):
        parties.participants["e000"].open_release(replace(request, members=members), INPUT_HASH)
    attacker.advertise()
    request = attacker.slot_for(attacker.epoch.holders).release_request("e000")
    swapped = replace(request.members[1], round_public=mine)
    members = (request.members[0], swapped, *request.members[2:])
    with pytest.raises(AuthenticationError, match="e001"):
        parties.participants["e000"].open_release(replace(request, members=members), INPUT_HASH)


def test_04_enterprises_sign_one_list_of_survivors_and_answer_for_no_other():
    # Flower has no consistency check: each client may be sent another list.
    parties = Consortium(6, consistency=True)
    attacker, encoded = LyingCoordinator(parties, ["e005"], LAYOUT), vectors(parties)
    attacker.advertise()
    slot = attacker.slot_for(attacker.epoch.holders)
    for name in attacker.honest:
        attacker.ask_release(name, slot, encoded[name])
    lists = {name: ("e001",) if name > "e002" else () for name in attacker.honest}
    consents = [attacker.ask_consent(name, dropped) for name, dropped in lists.items()]
    for name, dropped in lists.items():
        with pytest.raises((AuthenticationError, CohortError)):
            attacker.ask_unmask(name, dropped, consents)
    with pytest.raises(NotOpenedError):
        attacker.open(attacker.honest)


def test_05_no_forged_list_makes_an_enterprise_open_both_shares_of_a_victim():
    # Flower's lists of the active and the dead may overlap: one message opens both secrets.
    for forge in (
        lambda names: (names, ("e001",)),
        lambda names: ((*names, "e001"), ()),
        lambda names: (names[:-1], ("e001", "e005")),
        lambda names: (tuple(n for n in names if n != "e001"), ("e001", "e001")),
    ):
        parties = Consortium(6)
        slot = parties.open_slot(LAYOUT)
        parties.release(slot, vectors(parties))
        survivors, dropped = forge(slot.cohort)
        request = UnmaskRequest(parties.epoch.run_id, slot.slot, survivors, dropped)
        party = parties.participants["e000"]
        with pytest.raises(CohortError, match="not a partition"):
            party.unmask(request)
    # A lawful list opens one share of each, of the kind that it says.
    lawful = UnmaskRequest(
        parties.epoch.run_id,
        slot.slot,
        tuple(name for name in slot.cohort if name != "e001"),
        ("e001",),
    )
    held, size = party.masked.held, OPENED_BYTES
    shares = party.unmask(lawful).shares
    assert len(shares) == size * 6
    for index, name in enumerate(slot.cohort):
        kind = ROUND_KEY if name == "e001" else SELF_MASK
        assert shares[size * index :][:size] == held[size * (2 * index + kind) :][:size]


def test_06_nobody_is_heard_twice_in_a_stage():
    # Flower accepts duplicate senders in its share stage.
    parties = Consortium(5)
    ads = parties.advertise()
    with pytest.raises(SecureSumError, match="advertised twice"):
        parties.collect(LAYOUT, [*ads, ads[0]])
    slot, encoded = parties.collect(LAYOUT, ads), vectors(parties)
    sent = parties.masked(slot, "e000", encoded["e000"])
    slot.receive(sent)
    with pytest.raises(SecureSumError, match="two vectors"):
        slot.receive(sent)
    parties.release(slot, encoded, lost=["e000"])
    closed = slot.close()
    request = closed.request("e000")
    answer = parties.participants["e000"].unmask(request)
    closed.answer(answer)
    with pytest.raises(SecureSumError, match="answered twice"):
        closed.answer(answer)
    attacker = LyingCoordinator(parties, [], LAYOUT)
    attacker.advertise()
    good = attacker.slot_for(attacker.epoch.holders).release_request("e001")
    twice = replace(good, cohort=(*good.cohort[:2], *good.cohort[1:]))
    with pytest.raises(CohortError, match="each name once"):
        parties.participants["e001"].open_release(twice, INPUT_HASH)


def test_07_an_enterprise_obeys_the_threshold_rule_and_not_the_coordinator():
    # Flower's clients split at whatever threshold they are sent, down to 2.
    parties = Consortium(10)
    for lowered in ({"threshold": 2}, {"threshold": 5}, {"tolerated_colluders": 0}):
        party = Participant("e000", parties.identities["e000"])
        with pytest.raises(CohortError):
            party.join(replace(parties.manifest, **lowered))
        assert party.joining is None
    # No later message names a threshold: shares are dealt for that of the manifest, and a
    # coordinator with one share fewer opens nothing.
    t = parties.epoch.parameters.threshold
    for colluders, opens in ((t - 1, False), (t, True)):
        attacker = LyingCoordinator(parties, sorted(parties.participants)[-colluders:], LAYOUT)
        attacker.advertise()
        if opens:
            attacker.secret("e000", SELF_MASK)
        else:
            with pytest.raises(NotOpenedError):
                attacker.secret("e000", SELF_MASK)


def test_08_a_run_is_not_restarted_and_its_keys_are_bound_to_run_and_slot():
    # Flower's client begins anew whenever it is told to, with no run or round in its keys.
    parties = Consortium(5)
    party = parties.participants["e000"]
    for again in (
        lambda: party.join(parties.manifest),
        lambda: party.begin(parties.joins),
    ):
        with pytest.raises((SlotSpentError, PhaseError)):
            again()
    slot, encoded = parties.open_slot(LAYOUT), vectors(parties)
    parties.release(slot, encoded)
    for again in (
        lambda: party.advertise(AdvertiseRequest(slot.slot)),
        lambda: party.open_release(slot.release_request("e000"), b"\x01" * 32),
    ):
        with pytest.raises(SlotSpentError):
            again()
    # The same keys, told of another run or slot, mask otherwise.
    epoch, layout = parties.epoch, LAYOUT.hash()
    contexts = [
        SlotContext(replace(epoch, run_id=run), number, "test", slot.cohort, layout, INPUT_HASH)
        for run in (epoch.run_id, bytes(32))
        for number in (1, 2)
    ]
    mine, other = ("e000", bytes(32)), ("e001", bytes(range(32)))
    assert len({context.pair(mine, other) for context in contexts}) == 4
    assert len({context.own("e000") for context in contexts}) == 4


def test_09_counts_travel_masked_and_nothing_beside_the_vector_tells_of_rows():
    # Flower sends num_examples and metrics in clear beside the masked vector.
    assert set(Released.__dataclass_fields__) == {
        "sender",
        "slot",
        "words",
        "complaints",
        "tags",
        "next",
    }
    replies = []
    for rows in (0, 29_999):
        parties = Consortium(5)  # the same keys both times: only the rows differ
        vector = np.zeros(LAYOUT.size, dtype=np.int64)
        vector[-1] = rows
        replies.append(one_released(parties, LAYOUT, vector))
    few, many = replies
    assert len(few.words) == len(many.words)
    assert replace(few, words=b"") == replace(many, words=b"")
    parties, rows = Consortium(5), {}
    slot = parties.open_slot(LAYOUT)
    for index, name in enumerate(slot.cohort):
        rows[name] = np.zeros(LAYOUT.size, dtype=np.int64)
        rows[name][-1] = 100 * index
    parties.release(slot, rows)
    assert parties.unmask(slot).values["rows"].tolist() == [1000.0]


def test_10_enterprises_lost_at_any_stage_cost_the_others_nothing():
    # In Flower, of six, one lost before its masked upload ends the round with a KeyError in all.
    parties = Consortium(6, threshold=4, dropouts=2, consistency=True)
    encoded = vectors(parties)
    for lost, after, silent in ((["e002"], [], []), ([], ["e004"], []), (["e001"], ["e003"], [])):
        slot = parties.open_slot(LAYOUT)
        parties.release(slot, encoded, lost=lost, lost_after=after)
        total = parties.unmask(slot, silent)
        gone = {*lost, *after}
        left = [vector for name, vector in encoded.items() if name not in gone]
        assert np.array_equal(as_integers(total, LAYOUT), sum_of_encodings(left))
    slot = parties.open_slot(LAYOUT)
    parties.release(slot, encoded)
    total = parties.unmask(slot, silent=["e005", "e000"])  # lost before their answers
    assert np.array_equal(as_integers(total, LAYOUT), sum_of_encodings(list(encoded.values())))
    slot = parties.open_slot(LAYOUT, absent=["e005"])  # lost before it advertised
    parties.release(slot, encoded, lost=["e005"])
    assert parties.unmask(slot).survivors == ("e000", "e001", "e002", "e003", "e004")


def test_11_one_bad_share_is_named_and_the_sum_is_right_all_the_same():
    # Flower's shares are unauthenticated; one bad one fails the round, and nobody knows whose.
    parties = Consortium(8, threshold=6, dropouts=2)
    slot, encoded = parties.open_slot(LAYOUT), vectors(parties)
    parties.release(slot, encoded, lost=["e003"])
    closed = slot.close()
    for name in closed.survivors:
        reply = parties.participants[name].unmask(closed.request(name))
        if name == "e001":
            wrong = bytearray(reply.shares)
            wrong[2 * OPENED_BYTES] ^= 1
            reply = replace(reply, shares=bytes(wrong))
        closed.answer(reply)
    total = closed.finish()
    left = [vector for name, vector in encoded.items() if name != "e003"]
    assert np.array_equal(as_integers(total, LAYOUT), sum_of_encodings(left))
    assert total.blamed == {"e001": "opened another share than e002 dealt to it"}


def test_12_a_steady_slot_agrees_once_a_pair_and_leaves_no_secret_behind(monkeypatch):
    # Flower makes two P-384 pairs in PEM a round, agrees again for shares and for masks, and
    # leaves the secrets in the client's state. Here a slot draws one raw X25519 pair, and agrees
    # once with each neighbour; channels last an epoch.
    parties = Consortium(6)
    slot, encoded = parties.open_slot(LAYOUT), vectors(parties)
    party = parties.participants["e000"]
    agreed, drawn = [], []
    agree, fresh = keys.agree, keys.agreement_from_seed
    monkeypatch.setattr(keys, "agree", lambda *a: agreed.append(a[1]) or agree(*a))
    monkeypatch.setattr(keys, "agreement_from_seed", lambda *a: drawn.append(a) or fresh(*a))
    first = party.advertised
    parties.masked(slot, "e000", encoded["e000"])
    assert len(agreed) == len(set(agreed)) == 5
    assert len(drawn) == 1  # that of the next slot
    assert len(first.round_key.private) == len(first.round_key.public) == 32
    assert (party.opened, party.advertised.slot) == (None, slot.slot + 1)
    assert party.advertised.round_key.private != first.round_key.private
    kept = [value for value in vars(party.masked).values() if isinstance(value, bytes)]
    assert kept
    assert not any(one in value for value in kept for one in (first.round_key.private, first.seed))


def test_13_words_are_as_wide_as_their_sum_and_packed_without_gaps():
    # Flower sends 8 bytes a parameter for a modulus of 32 bits.
    for cohort, value_bits in ((10, 22), (50, 16), (100, 8)):
        layout = VectorLayout((Field("update", 10_000, 4.0),), value_bits)
        form = layout.form(cohort)
        largest = cohort * form.largest
        assert 1 << (form.bits - 1) > largest >= 1 << (form.bits - 2)
        assert form.packed_bytes(layout.size) == -(-form.bits * layout.size // 8)
    parties = Consortium(10)
    layout = VectorLayout((Field("update", 10_000, 4.0),), 22)
    sent = one_released(parties, layout, np.zeros(layout.size, dtype=np.int64))
    assert len(sent.words) / layout.size < 3.26


@pytest.mark.parametrize("value", [1.0001, -1.0001, 9.0, np.inf, np.nan])
def test_14_a_value_beyond_its_bound_is_an_error_and_never_clipped(value):
    # Flower clips after weighting, silently, at 8: heavy clients' updates are simply wrong.
    with pytest.raises(OutOfRangeError, match="beyond its bound of 1"):
        UPDATE.encode({"update": [0.0, value, 0.0, 0.0]}, np.random.default_rng(0))
    with pytest.raises(OutOfRangeError, match="rows"):
        LAYOUT.encode({"update": np.zeros(40), "rows": [30_001]}, np.random.default_rng(0))
    # Nor does the party mask what some other encoder let through.
    parties = Consortium(5)
    slot = parties.open_slot(UPDATE)
    with pytest.raises(SecureSumError, match="does not fit"):
        parties.masked(slot, "e000", np.full(4, 1 << 21, dtype=np.int64))


@pytest.mark.parametrize("cohort", [3, 5, 9])
@pytest.mark.parametrize("value_bits", [2, 3, 8, 31, 50])
def test_15_no_sum_that_may_occur_wraps(cohort, value_bits):
    # Flower's overflow check compares the wrong number. Here the width is checked by the extremes
    # themselves: everybody at its bound, up and down, through the whole protocol.
    layout = VectorLayout((Field("update", 2, 1.0),), value_bits)
    parties = Consortium(cohort)
    slot = parties.open_slot(layout)
    largest = slot.form.largest
    extremes = np.array([largest, -largest], dtype=np.int64)
    parties.release(slot, dict.fromkeys(slot.cohort, extremes))
    assert parties.unmask(slot).values["update"].tolist() == [cohort, -cohort]
    with pytest.raises(CohortError, match="at most 63 are possible"):
        SlotCollection(
            parties.epoch,
            2,
            "test",
            VectorLayout((Field("update", 2, 1.0),), 63),
            INPUT_HASH,
            parties.advertise(),
        )


def test_16_a_total_weight_of_zero_is_a_sum_like_any_other():
    # Flower divides by the total weight, whatever it is. Here weights are words of the sum; their
    # total arrives as zero, and what is divided by it is its reader's to decide.
    parties = Consortium(5)
    slot = parties.open_slot(LAYOUT)
    nothing = dict.fromkeys(slot.cohort, np.zeros(LAYOUT.size, dtype=np.int64))
    parties.release(slot, nothing)
    total = parties.unmask(slot)
    assert total.values["rows"].tolist() == [0.0]
    assert not np.any(total.values["update"])
