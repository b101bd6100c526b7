"""A ledger's file: durable, whole or refused, never replaced by a new one."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
from pathlib import Path

import numpy as np
import pytest

from fgcif_flwr.errors import LedgerError, LedgerRolledBackError
from fgcif_flwr.privacy.accounting import ORDERS
from fgcif_flwr.privacy.ledger import Charge, SqliteLedger, Witness
from fgcif_flwr.privacy.ledger.file import CheckedFile

CURVE = tuple(np.array(ORDERS) * 1e-6)
DELTA = 1e-5


def reserve(ledger: SqliteLedger, slot: int = 1) -> int:
    return ledger.reserve([Charge("run", "task", slot, "customer", CURVE, 1e-12)], 1.0, DELTA)


@pytest.fixture
def path(tmp_path) -> Path:
    """A ledger with some entries, closed."""
    with SqliteLedger(tmp_path / "ledger", "customers") as ledger:
        ledger.commit(reserve(ledger, 1))
        ledger.record_join("run")
        reserve(ledger, 2)
    return tmp_path / "ledger"


def changed(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_what_was_written_is_there_when_it_is_opened_again(path):
    with SqliteLedger(path, "customers") as ledger:
        before = (ledger.head, ledger.spent(DELTA), ledger.population_key, ledger.attestation())
    with SqliteLedger(path) as ledger:
        after = (ledger.head, ledger.spent(DELTA), ledger.population_key, ledger.attestation())
    assert before == after
    assert before[0].length == 3
    assert (before[1].entries, before[1].reserved) == (2, 1)


def test_what_a_call_wrote_is_in_the_files_when_it_returns(tmp_path):
    (tmp_path / "now").mkdir()
    with SqliteLedger(tmp_path / "now" / "ledger", "customers") as ledger:
        number = reserve(ledger)
        ledger.commit(number)
        shutil.copytree(tmp_path / "now", tmp_path / "later")
        # Copying closed the files, and with them the locks of this process: harmless here.
    with SqliteLedger(tmp_path / "later" / "ledger", "customers") as ledger:
        assert [(one.number, one.committed) for one in ledger.entries(DELTA)] == [(number, True)]


def test_the_settings_that_durability_rests_on_are_in_force(path):
    with SqliteLedger(path, "customers") as ledger:
        names = ("journal_mode", "synchronous", "fullfsync", "checkpoint_fullfsync")
        in_force = [ledger._run(f"PRAGMA {name}").fetchone()[0] for name in names]
    assert in_force == ["wal", 2, 1, 1]


def test_a_file_that_keeps_no_such_log_is_refused(path):
    changed(path, "PRAGMA journal_mode = DELETE")
    with pytest.raises(LedgerError, match="journal_mode is delete, synchronous 2, and must be wal"):
        SqliteLedger(path, "customers")


def test_only_its_owner_may_read_a_ledger(tmp_path):
    umask = os.umask(0)
    try:
        with SqliteLedger(tmp_path / "ledger", "customers") as ledger:
            reserve(ledger)
            modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()}
    finally:
        os.umask(umask)
    assert set(modes) == {"ledger", "ledger-lock", "ledger-wal", "ledger-shm"}
    assert set(modes.values()) == {0o600}


def test_each_ledger_has_a_key_of_its_own(tmp_path):
    with (
        SqliteLedger(tmp_path / "one", "customers") as one,
        SqliteLedger(tmp_path / "other", "customers") as other,
    ):
        assert len(one.population_key) == len(other.population_key) == 32
        assert one.population_key != other.population_key
        assert one.head != other.head


def test_the_ledger_of_other_customers_is_refused(path):
    with pytest.raises(LedgerError, match="of population 'customers', not of 'others'"):
        SqliteLedger(path, "others")


def test_an_auditor_makes_no_ledger(tmp_path):
    with pytest.raises(LedgerError, match="cannot be read"):
        SqliteLedger(tmp_path / "ledger")
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_on_other_orders_is_refused(path, monkeypatch):
    monkeypatch.setattr("fgcif_flwr.privacy.ledger.tables.ORDERS_DIGEST", bytes(32))
    with pytest.raises(LedgerError, match="other orders"):
        SqliteLedger(path, "customers")


@pytest.mark.parametrize("kind", [SqliteLedger, Witness])
@pytest.mark.parametrize("content", [b"", b"no database at all" * 100, b"SQLite format 3\0"])
def test_a_file_that_is_none_of_these_is_refused_and_kept(tmp_path, kind, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="file is damaged"):
        kind(path, "customers") if kind is SqliteLedger else kind(path)
    assert path.read_bytes() == content


def test_a_witness_is_no_ledger(tmp_path):
    Witness(tmp_path / "file").close()
    with pytest.raises(LedgerError, match="no ledger of this version"):
        SqliteLedger(tmp_path / "file", "customers")


def test_another_version_is_refused(path):
    changed(path, "PRAGMA user_version = 2")
    with pytest.raises(LedgerError, match="no ledger of this version"):
        SqliteLedger(path, "customers")


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE entries SET run = 'other' WHERE number = 1", "entry 1 is not"),
        ("UPDATE entries SET kind = 'join' WHERE number = 1", "entry 1 is not"),
        ("UPDATE entries SET body = zeroblob(length(body)) WHERE number = 3", "entry 3 is not"),
        ("UPDATE entries SET body = 3 WHERE number = 3", "entry 3 is"),
        ("DELETE FROM entries WHERE number = 2", "entry 3 is not"),
        ("DELETE FROM entries WHERE number = 3", "sums"),
        ("UPDATE entries SET number = 4 WHERE number = 3", "entry 4 is not"),
        ("UPDATE totals SET charges = charges - 1", "a sum is not"),
        ("UPDATE totals SET tail = 0.0", "a sum is not"),
        ("UPDATE totals SET curve = zeroblob(length(curve))", "a sum is not"),
        ("UPDATE totals SET curve = x'00'", "a sum is not"),
        ("DELETE FROM totals", "sums"),
        ("DELETE FROM totals WHERE run = ''", "sums"),
        ("DELETE FROM totals WHERE run = 'run'", "sums"),
        ("INSERT INTO released VALUES (2)", "marked"),
        ("INSERT INTO released VALUES (9)", "marked"),
        ("DELETE FROM about", "whose it is"),
        ("UPDATE about SET population = 'others'", "whose it is"),
        ("UPDATE about SET key = zeroblob(32)", "whose it is"),
        ("DROP INDEX joins", "no ledger of this version"),
    ],
)
def test_a_ledger_that_was_changed_is_refused_and_kept(path, statement, reason):
    changed(path, statement)
    content = path.read_bytes()
    with pytest.raises(LedgerError, match=reason) as caught:
        SqliteLedger(path, "customers")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_flipped_byte_is_found_or_changes_nothing(path):
    whole = path.read_bytes()
    with SqliteLedger(path, "customers") as ledger:
        expected = (ledger.head, ledger.population_key, list(ledger.entries(DELTA)))
    draw, found = random.Random(3), 0
    used = [place for place, byte in enumerate(whole) if byte]
    for place in draw.sample(used, 80):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :]
        )
        try:
            with SqliteLedger(path, "customers") as ledger:
                assert (
                    ledger.head,
                    ledger.population_key,
                    list(ledger.entries(DELTA)),
                ) == expected
        except LedgerError:
            found += 1
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
    assert found > 60


def test_a_sum_that_is_damaged_while_it_is_open_is_not_built_upon(path):
    with SqliteLedger(path, "customers") as ledger:
        changed(path, "UPDATE totals SET tail = 0.0")
        with pytest.raises(LedgerError, match="a sum is not what was written"):
            reserve(ledger, 3)


def test_a_ledger_whose_log_was_left_behind_is_not_replaced_by_a_new_one(tmp_path):
    (tmp_path / "ledger-wal").write_bytes(b"frames")
    with pytest.raises(LedgerError, match=r"is missing and its log ledger-wal is there"):
        SqliteLedger(tmp_path / "ledger", "customers")
    assert [one.name for one in tmp_path.iterdir()] == ["ledger-wal"]


def test_a_ledger_that_was_replaced_while_it_was_open_is_used_no_more(path, tmp_path):
    with SqliteLedger(path, "customers") as ledger:
        reserve(ledger, 3)
        path.rename(tmp_path / "moved")
        with pytest.raises(LedgerError, match="moved or replaced while it was open"):
            reserve(ledger, 4)
        shutil.copy(tmp_path / "moved", path)
        with pytest.raises(LedgerError, match="moved or replaced while it was open"):
            reserve(ledger, 4)


@pytest.mark.parametrize("also", ["", "INSERT INTO entries VALUES (3, 'join', 'x', '', x'', x'')"])
def test_a_ledger_that_was_put_back_while_it_was_open_is_found(path, also):
    back = ["DELETE FROM entries WHERE number = 3", "DELETE FROM totals", *filter(None, [also])]
    with SqliteLedger(path, "customers") as ledger:
        changed(path, *back)
        for call in (lambda: reserve(ledger, 3), lambda: ledger.commit(1), ledger.attestation):
            with pytest.raises(LedgerRolledBackError, match="it had 3 entries"):
                call()


def test_what_other_processes_append_is_not_taken_for_another_ledger(path):
    with SqliteLedger(path, "customers") as one, SqliteLedger(path, "customers") as other:
        for slot in range(3, 9):
            reserve(one if slot % 2 else other, slot)
        assert one.head == other.head
        assert one.spent(DELTA) == other.spent(DELTA)
        assert one.spent(DELTA).entries == 8
        other.commit(4)
        assert one.spent(DELTA).reserved == 6


def test_who_waits_for_too_long_is_told(path, monkeypatch):
    monkeypatch.setattr("fgcif_flwr.privacy.ledger.file._PATIENCE", 0.0)
    with SqliteLedger(path, "customers") as one, SqliteLedger(path, "customers") as other:
        one._run("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="written by others for 0 s; try again"):
            reserve(other)
        assert other.spent(DELTA).entries == 2  # reading needs no turn
        one._run("ROLLBACK")
        reserve(other)


def test_writers_take_turns_until_the_checkpoint_of_a_commit_is_over(path, monkeypatch):
    monkeypatch.setattr("fgcif_flwr.privacy.ledger.file._PATIENCE", 0.0)
    with SqliteLedger(path, "customers") as one, SqliteLedger(path, "customers") as other:
        with one._in_turn():
            with pytest.raises(LedgerError, match="written by others for 0 s; try again"):
                reserve(other)
            assert other.spent(DELTA).entries == 2
        reserve(other)


def test_a_directory_that_is_not_there_is_told(tmp_path):
    with pytest.raises(LedgerError, match="cannot be created: No such file"):
        SqliteLedger(tmp_path / "nowhere" / "ledger", "customers")


def test_a_ledger_that_could_not_be_made_leaves_nothing(tmp_path, monkeypatch):
    def failing(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(CheckedFile, "_write_new", failing)
    with pytest.raises(LedgerError, match="disk I/O error"):
        SqliteLedger(tmp_path / "ledger", "customers")
    assert list(tmp_path.iterdir()) == []


def test_a_witness_that_is_damaged_is_refused(tmp_path, path):
    with SqliteLedger(path, "customers") as ledger, Witness(tmp_path / "witness") as witness:
        witness.seen("bank", b"i" * 32, ledger.attestation())
    changed(tmp_path / "witness", "UPDATE attested SET name = 'other'")
    with pytest.raises(LedgerError, match="a checksum is wrong"):
        Witness(tmp_path / "witness")


def test_a_ledger_has_names_for_its_customers_and_runs(path, tmp_path):
    with pytest.raises(ValueError, match="population"):
        SqliteLedger(tmp_path / "other", "")
    with SqliteLedger(path) as ledger:
        assert ledger.population == "customers"
        with pytest.raises(ValueError, match="run"):
            ledger.record_join("")
        with pytest.raises(ValueError, match="delta"):
            ledger.spent(0.0)
