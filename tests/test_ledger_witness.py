"""A ledger that was put back, or replaced by another, is noticed by who saw it before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgcif_flwr.errors import LedgerError, LedgerRolledBackError, PrivacyError
from fgcif_flwr.privacy.accounting import ORDERS
from fgcif_flwr.privacy.ledger import Attestation, Charge, Head, SqliteLedger, Witness
from fgcif_flwr.privacy.ledger.chain import SHOWN_JOINS, Chain
from fgcif_flwr.secagg.messages import LONGEST_ATTESTATION

NAME, IDENTITY = "bank", b"i" * 32
CURVE = tuple(np.array(ORDERS) * 1e-6)


@pytest.fixture
def witness(tmp_path):
    with Witness(tmp_path / "witness") as opened:
        yield opened


def join(path: Path, joins: int = 1, releases: int = 2, population: str = "customers") -> bytes:
    """Join so many runs, with releases before each; return what the last join shows."""
    with SqliteLedger(path / "ledger", population) as ledger:
        for _ in range(joins):
            for slot in range(releases):
                ledger.reserve([Charge("run", "task", slot, "customer", CURVE, 0.0)], 1e3, 1e-5)
            ledger.record_join("run")
        return ledger.attestation()


@pytest.fixture
def house(tmp_path) -> Path:
    (tmp_path / "house").mkdir()
    return tmp_path / "house"


@pytest.fixture
def copied(house, tmp_path) -> Callable[[], None]:
    """Copy a house's files aside; the function puts them back."""
    join(house)
    # With the log beside it, as it is found while the ledger is in use.
    with SqliteLedger(house / "ledger", "customers") as ledger:
        ledger.record_join("run")
        shutil.copytree(house, tmp_path / "copy")
    assert (tmp_path / "copy" / "ledger-wal").stat().st_size > 0

    def put_back() -> None:
        shutil.rmtree(house)
        shutil.copytree(tmp_path / "copy", house)

    return put_back


def refused(witness: Witness, attestation: bytes, name: str = NAME) -> str:
    with pytest.raises(LedgerRolledBackError, match=f"the privacy ledger of {name} ") as caught:
        witness.seen(name, IDENTITY, attestation)
    return str(caught.value)


@pytest.mark.parametrize("joins", [1, SHOWN_JOINS - 1, SHOWN_JOINS, SHOWN_JOINS + 5, 40])
def test_a_ledger_that_grew_is_accepted_however_often_it_joined_meanwhile(witness, house, joins):
    for attestation in (join(house), join(house, joins), join(house, joins), join(house, 2)):
        witness.seen(NAME, IDENTITY, attestation)
        witness.seen(NAME, IDENTITY, attestation)  # the same reply again


def test_a_ledger_that_was_put_back_is_shorter(witness, house, copied):
    witness.seen(NAME, IDENTITY, join(house, 3))
    copied()
    assert "it has 5 entries and had 13 before" in refused(witness, join(house, releases=0))


def test_a_ledger_that_was_put_back_and_is_as_long_again_is_another(witness, house, copied):
    shown = join(house)
    witness.seen(NAME, IDENTITY, shown)
    copied()
    again = join(house)  # the very same charges
    assert Attestation.from_bytes(again).head.length == Attestation.from_bytes(shown).head.length
    assert "are not those that it had before" in refused(witness, again)


@pytest.mark.parametrize("joins", [2, SHOWN_JOINS - 1])
def test_a_ledger_that_was_put_back_and_went_on_lacks_the_join_of_before(
    witness, house, copied, joins
):
    witness.seen(NAME, IDENTITY, join(house))
    copied()
    assert "joins that it showed before" in refused(witness, join(house, joins))


def test_a_ledger_that_joined_elsewhere_more_often_than_is_shown_is_not_compared(
    witness, house, copied
):
    witness.seen(NAME, IDENTITY, join(house))
    copied()
    witness.seen(NAME, IDENTITY, join(house, SHOWN_JOINS + 1))


def test_a_new_ledger_in_the_place_of_one_that_was_deleted_is_another(witness, house):
    witness.seen(NAME, IDENTITY, join(house))
    (house / "ledger").unlink()
    with SqliteLedger(house / "ledger", "customers") as ledger:
        assert "another ledger" in refused(witness, ledger.attestation())
    assert "another ledger" in refused(witness, join(house, 5))


def test_the_ledger_of_other_customers_is_another(witness, house, tmp_path):
    witness.seen(NAME, IDENTITY, join(house))
    (tmp_path / "other").mkdir()
    attestation = join(tmp_path / "other", 3, population="other customers")
    assert "another ledger" in refused(witness, attestation)


def test_another_name_or_another_key_is_no_way_to_a_new_ledger(witness, house, tmp_path):
    witness.seen(NAME, IDENTITY, join(house))
    witness.seen(NAME, b"j" * 32, join(house))
    witness.seen("renamed", IDENTITY, join(house))
    (tmp_path / "other").mkdir()
    new = join(tmp_path / "other", 3)
    for name, identity in [("renamed", b"k" * 32), ("unheard", IDENTITY), (NAME, b"k" * 32)]:
        with pytest.raises(LedgerRolledBackError):
            witness.seen(name, identity, new)
    witness.seen("somebody else", b"k" * 32, new)


def test_a_witness_remembers_over_its_restarts(tmp_path, house, copied):
    with Witness(tmp_path / "witness") as witness:
        witness.seen(NAME, IDENTITY, join(house))
    copied()
    with Witness(tmp_path / "witness") as witness:
        refused(witness, join(house, 2))
        refused(witness, join(house, 2))  # what was refused is not what is remembered


def test_a_witness_forgets_who_it_is_told_to(witness, house, copied):
    witness.seen(NAME, IDENTITY, join(house))
    witness.seen("renamed", IDENTITY, join(house))
    copied()
    again = join(house)
    refused(witness, again)
    witness.forget(NAME)
    witness.seen(NAME, IDENTITY, again)


def test_what_is_no_attestation_is_refused_and_accuses_no_ledger(witness, house):
    good = join(house, SHOWN_JOINS)
    assert Attestation.from_bytes(good).to_bytes() == good
    last = Attestation.from_bytes(good).joins[-1]
    more = Attestation.from_bytes(join(house)).head
    for wrong in (
        b"",
        good[:-1],
        good + b"\0",
        b"x" + good[1:],
        good + good[-40:],
        good + more.length.to_bytes(8, "big") + more.digest,
        good[:-40] + last.length.to_bytes(8, "big") + bytes(32),
    ):
        with pytest.raises(PrivacyError, match="bank: this is no attestation") as caught:
            witness.seen(NAME, IDENTITY, wrong)
        assert not isinstance(caught.value, (LedgerRolledBackError, LedgerError))


def test_joins_that_are_left_out_or_put_in_are_noticed(witness, house):
    witness.seen(NAME, IDENTITY, join(house, 2))
    shown = Attestation.from_bytes(join(house, 2))
    one_more = (shown.joins[0], Head(4, bytes(32)), *shown.joins[1:])
    for joins in (shown.joins[1:], one_more):
        other = Attestation(shown.genesis, shown.head, joins)
        assert "joins that it showed before" in refused(witness, other.to_bytes())
    witness.seen(NAME, IDENTITY, shown.to_bytes())


def test_an_attestation_tells_lengths_and_digests_that_no_other_ledger_has(house, tmp_path):
    (tmp_path / "other").mkdir()
    one, other = join(house, 20), join(tmp_path / "other", 20)  # the very same runs
    first, second = map(Attestation.from_bytes, (one, other))
    assert len(one) == len(other) <= LONGEST_ATTESTATION
    lengths = [join.length for join in first.joins]
    assert lengths == [join.length for join in second.joins] == list(range(39, 61, 3))
    digests = [{show.genesis, *(head.digest for head in show.joins)} for show in (first, second)]
    assert len(digests[0] | digests[1]) == 2 * (SHOWN_JOINS + 1)


def attestations(chain: Chain, start: list[Head], kinds: list[bool], tag: bytes) -> list[Head]:
    """Append joins (True) and charges to a list of heads."""
    heads = list(start)
    for number, _ in enumerate(kinds):
        heads.append(chain.after(heads[-1], "kind", "run", "", tag + bytes([number])))
    return heads


def shown(heads: list[Head], joins: list[bool]) -> Attestation:
    of_joins = [head for head, is_join in zip(heads[1:], joins, strict=True) if is_join]
    return Attestation(heads[0].digest, heads[-1], tuple(of_joins[-SHOWN_JOINS:]))


KINDS = st.lists(st.booleans(), max_size=30)


@settings(max_examples=200, deadline=None)
@given(KINDS, KINDS, KINDS)
def test_honest_ledgers_are_never_accused_and_forks_are_found_as_far_as_joins_are_shown(
    common, mine, other
):
    chain = Chain(b"k" * 32)
    start = [Head(0, chain.genesis("customers", b""))]
    trunk = attestations(chain, start, common, b"c")
    branch = attestations(chain, trunk, mine, b"m")
    fork = attestations(chain, trunk, other, b"o")
    before = shown(trunk, common)
    assert before.contradiction(shown(branch, common + mine)) is None
    witnessed, later = shown(branch, [*common, *mine]), shown(fork, [*common, *other])
    found = witnessed.contradiction(later) is not None
    if mine and mine[-1]:  # what is witnessed ends in a join, as every join does
        if len(other) <= len(mine) or sum(other) < SHOWN_JOINS:
            assert found
    elif not mine:
        assert not found


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_ledger_put_back_by_any_of_the_releases_since_its_join_is_found(
    tmp_path, witness, house, kept
):
    witness.seen(NAME, IDENTITY, join(house, releases=0))
    for slot in range(3):
        if slot == kept:
            shutil.copytree(house, tmp_path / "copy")
        with SqliteLedger(house / "ledger", "customers") as ledger:
            ledger.reserve([Charge("run", "task", slot, "customer", CURVE, 0.0)], 1e3, 1e-5)
        witness.released([NAME])
    shutil.rmtree(house)
    shutil.copytree(tmp_path / "copy", house)
    assert "3 releases were seen" in refused(witness, join(house, releases=0))


def test_an_honest_ledger_has_grown_by_its_releases_and_its_join(witness, house):
    first = join(house, releases=0)
    witness.seen(NAME, IDENTITY, first)
    witness.seen(NAME, IDENTITY, first)  # the same join, shown again
    witness.released([NAME])
    witness.released([NAME])
    witness.seen(NAME, IDENTITY, join(house, releases=2))
    witness.seen(NAME, IDENTITY, join(house, releases=0))
