"""What an enterprise attests when it joins: signed, shown to all, and the same to all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from fgcif_flwr.errors import (
    AuthenticationError,
    LedgerRolledBackError,
    NotJoinedError,
    PhaseError,
    SecureSumError,
)
from fgcif_flwr.secagg import (
    AdvertiseRequest,
    GraphNonce,
    JoinReply,
    Participant,
    fix_epoch,
    valid_joins,
)
from fgcif_flwr.secagg.participant.party import Examine
from fgcif_flwr.secagg.participant.snapshot import dump, load
from tests.secure_sum_rig import Consortium, newcomer, signed_join

ME, OTHER = "e000", "e001"
SPARSE = {"count": 12, "neighbours": 8}


class Told:
    """A consortium's joins, one of them of a fresh party that has not begun, and graph nonces."""

    def __init__(
        self,
        attestation: bytes = b"",
        examine: Examine | None = None,
        count: int = 6,
        **settings: int,
    ) -> None:
        self.consortium = Consortium(count, **settings)
        self.manifest = self.consortium.manifest
        self.party = Participant(ME, self.consortium.identities[ME], examine=examine)
        self.said = self.party.join(self.manifest, attestation)
        self.joins = tuple(self.said if j.name == ME else j for j in self.consortium.joins)
        self.nonces: tuple[GraphNonce, ...] = ()
        if self.consortium.graph_nonces:
            own = self.party.reveal(self.joins)
            self.nonces = tuple(own if n.name == ME else n for n in self.consortium.graph_nonces)


@pytest.mark.parametrize("exchanged", [b"", b"head 6", b"head 70"])
def test_an_attestation_that_was_changed_on_the_way_is_refused(exchanged):
    told = Told(b"head 7")
    changed = replace(told.said, attestation=exchanged)
    good, wrong = valid_joins(told.manifest, [changed, *told.joins[1:]])
    assert [join.name for join in good] == list(told.consortium.identities)[1:]
    assert ME in str(wrong[0])
    party, joins = newcomer(told.consortium, OTHER)
    with pytest.raises(AuthenticationError, match=ME):
        party.begin([changed, *joins[1:]])
    party.begin([told.said, *joins[1:]])


def test_one_that_attests_otherwise_to_each_of_two_shares_no_run_with_them_both():
    told = Told(b"head 7")
    another = signed_join(told.consortium, told.said, attestation=b"head 8")
    run_ids = {
        fix_epoch(told.manifest, [own, *told.joins[1:]]).run_id for own in (told.said, another)
    }
    assert len(run_ids) == 2


def test_what_is_attested_first_stays_while_the_manifest_does():
    told = Told(b"head 7")
    assert told.said.attestation == b"head 7"
    assert told.party.join(told.manifest, b"head 8") == told.said
    assert told.party.join(told.manifest) == told.said
    later = replace(told.manifest, epoch=2)
    assert told.party.join(later, b"head 8").attestation == b"head 8"


def test_an_attestation_of_1024_bytes_is_joined_with_and_one_byte_more_is_refused():
    longest = bytes(range(256)) * 4
    told = Told(longest)
    told.party.begin(told.joins)
    party = Participant(OTHER, told.consortium.identities[OTHER])
    with pytest.raises(SecureSumError, match="e001 has 1025 bytes; a join holds at most 1024"):
        party.join(told.manifest, longest + b"\0")
    assert party.joining is None
    party.join(told.manifest, longest)


def test_an_attestation_that_is_too_long_is_left_out_and_refused_whoever_signed_it():
    told = Told()
    long = signed_join(told.consortium, told.joins[1], attestation=bytes(1025))
    joins = [told.said, long, *told.joins[2:]]
    good, wrong = valid_joins(told.manifest, joins)
    assert [join.name for join in good] == [n for n in told.consortium.identities if n != OTHER]
    assert "the join of e001 attests 1025 bytes; 1024 are allowed" in str(wrong[0])
    with pytest.raises(AuthenticationError, match="e001 attests 1025 bytes"):
        told.party.begin(joins)
    assert told.party.joined is None


# What others attest.


@pytest.mark.parametrize("settings", [{}, SPARSE], ids=["complete", "k-regular"])
def test_an_enterprise_examines_all_joins_before_it_begins(settings):
    seen: list[Sequence[JoinReply]] = []

    def examine(joins: Sequence[JoinReply]) -> None:
        assert told.party.joined is None
        seen.append(joins)

    told = Told(b"head 7", examine, **settings)
    assert seen == []
    told.party.begin(told.joins, told.nonces)
    assert seen == [told.joins]
    assert told.party.joined is not None


def test_an_epoch_that_the_examination_refuses_is_not_begun_and_another_may_be():
    def examine(joins: Sequence[JoinReply]) -> None:
        for join in joins:
            if join.attestation == b"old":
                raise LedgerRolledBackError(f"the ledger of {join.name} is older than before")

    told = Told(b"head 7", examine)
    old = signed_join(told.consortium, told.joins[1], attestation=b"old")
    shown = (told.said, old, *told.joins[2:])
    for _ in range(2):  # asked again, it says the same
        with pytest.raises(LedgerRolledBackError, match="of e001"):
            told.party.advertise(AdvertiseRequest(1, shown))
        assert told.party.joined is None
    with pytest.raises(NotJoinedError):
        told.party.advertise(AdvertiseRequest(1))
    assert told.party.advertise(AdvertiseRequest(1, told.joins)).sender == ME


def test_only_joins_whose_signatures_hold_are_examined():
    seen: list[Sequence[JoinReply]] = []
    told = Told(b"", seen.append)
    forged = replace(told.joins[1], attestation=b"old")
    with pytest.raises(AuthenticationError):
        told.party.begin([told.said, forged, *told.joins[2:]])
    regular = Told(b"", seen.append, **SPARSE)
    changed = signed_join(regular.consortium, regular.joins[1], attestation=b"old")
    with pytest.raises(PhaseError, match="not the joins for which"):  # exchanged after the reveal
        regular.party.begin([regular.said, changed, *regular.joins[2:]], regular.nonces)
    assert seen == []


def test_a_participant_that_was_stored_says_the_same_and_examines_what_it_is_loaded_with():
    seen: list[Sequence[JoinReply]] = []
    told = Told(b"head 7")
    party = load(dump(told.party), examine=seen.append)
    assert party.join(told.manifest) == told.said
    party.begin(told.joins)
    assert seen == [told.joins]
