"""What a coordinator gains by lying about who joined, and under which terms."""

from __future__ import annotations

from dataclasses import replace

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
    Manifest,
    Participant,
    VectorLayout,
    keys,
    valid_joins,
)
from fgcif_flwr.secagg.keys import identity_from_seed
from tests.lying_coordinator import LyingCoordinator, NotOpenedError, resigned
from tests.secure_sum_rig import INPUT_HASH, RUN, Consortium, newcomer, signed_join

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
        lambda joins: [*joins, joins[1]],
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
        party.begin(joins)  # as they were said


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


@pytest.mark.parametrize("part", ["nonce", "graph_commitment", "channel_public"])
@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_join_whose_parts_are_not_of_their_length_does_not_hold_whoever_signed_it(part, size):
    # Parts that could move across their border would let one signature stand for two joins.
    consortium = Consortium(6)
    party, joins = newcomer(consortium)
    joins[2] = signed_join(consortium, joins[2], **{part: bytes(range(size))})
    good, wrong = valid_joins(consortium.manifest, joins)
    assert [one.name for one in good] == ["e000", "e001", "e003", "e004", "e005"]
    assert "the join of e002 is not whole" in str(wrong[0])
    with pytest.raises(AuthenticationError, match="the join of e002 is not whole"):
        party.begin(joins)


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
        Manifest(RUN, 1, "{}", change(Consortium(4).manifest.roster))


@pytest.mark.parametrize(
    "name",
    ["", "e001\n", "e\x1b[2J", "e\u202e100", "e\u200b", "\ue000", "e\ud800", "e" * 65],
    ids=["none", "line", "escape", "reversed", "no width", "private", "surrogate", "long"],
)
def test_a_roster_with_a_name_that_is_unprintable_or_too_long_is_no_roster(name):
    public = Consortium(4).manifest.roster[0][1]
    with pytest.raises(AuthenticationError, match="printable names of 1 to 64 characters") as told:
        Manifest(RUN, 1, "{}", ((name, public),))
    assert str(told.value).isprintable()


@pytest.mark.parametrize("name", ["e", "é 1", "山田商事", "e" * 64])
def test_a_roster_holds_any_printable_name(name):
    public = Consortium(4).manifest.roster[0][1]
    assert Manifest(RUN, 1, "{}", ((name, public),)).identities == {name: public}


@pytest.mark.parametrize("run", [b"", bytes(15), bytes(17), bytes(32)])
def test_a_manifest_names_its_run_by_sixteen_bytes(run):
    with pytest.raises(SecureSumError, match="by 16 bytes"):
        replace(Consortium(4).manifest, run=run)


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


def test_epochs_are_counted_for_each_run_and_the_runs_share_nothing():
    consortium = Consortium(5)
    party = consortium.participants["e000"]
    other = replace(consortium.manifest, run=bytes(16))
    before = party.run_id
    said = party.join(other)  # its first epoch, after the first one of another run
    assert said.signed_bytes(other.hash()) != said.signed_bytes(consortium.manifest.hash())
    with pytest.raises(AuthenticationError):  # the joins of the other run do not count in it
        party.begin([said if one.name == "e000" else one for one in consortium.joins])
    joins = [said, *(consortium.participants[n].join(other) for n in consortium.epoch.holders[1:])]
    party.begin(joins)
    assert party.run_id != before
    with pytest.raises(SlotSpentError, match="epochs only grow"):
        party.join(other)
