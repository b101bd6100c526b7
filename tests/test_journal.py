"""A slot that was spent stays spent, whatever becomes of the process that spent it."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgcif_flwr.errors import (
    ConfigurationError,
    DataError,
    FgcifError,
    PhaseError,
    SecureSumError,
    SlotSpentError,
)
from fgcif_flwr.secagg import wire
from fgcif_flwr.secagg.journal import Journal, MemoryJournal, SqliteJournal
from fgcif_flwr.secagg.journal.memory import JournalContents
from fgcif_flwr.secagg.journal.rules import Held

RUN, OTHER_RUN = b"r" * 32, b"s" * 32
ONE, TWO = b"1" * 32, b"2" * 32
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(params=["memory", "memory written down", "file", "file opened again"])
def again(request, tmp_path) -> Iterator[Callable[[], Journal]]:
    """The journal as the next caller finds it: the same, or as it was stored."""
    path, opened = tmp_path / "journal", []

    def memory() -> Journal:
        return opened[0]

    def written_down() -> Journal:
        opened[0] = MemoryJournal.from_bytes(opened[0].to_bytes())
        return opened[0]

    def opened_again() -> Journal:
        opened[0].close()
        opened[0] = SqliteJournal(path)
        return opened[0]

    opened.append(MemoryJournal() if request.param.startswith("memory") else SqliteJournal(path))
    yield {"memory written down": written_down, "file opened again": opened_again}.get(
        request.param, memory
    )
    if isinstance(opened[0], SqliteJournal):
        opened[0].close()


def test_the_same_request_is_given_the_same_reply(again):
    assert again().reply(RUN, 1, "release", ONE) is None
    again().spend(RUN, 1, "release", ONE)
    again().keep(RUN, 1, "release", b"vector")
    assert again().reply(RUN, 1, "release", ONE) == b"vector"
    assert again().reply(RUN, 1, "release", ONE) == b"vector"


def test_an_empty_reply_is_a_reply(again):
    again().spend(RUN, 1, "release", ONE)
    again().keep(RUN, 1, "release", b"")
    assert again().reply(RUN, 1, "release", ONE) == b""


def test_another_request_for_a_spent_slot_is_refused(again):
    again().spend(RUN, 1, "release", ONE)
    again().keep(RUN, 1, "release", b"vector")
    with pytest.raises(SlotSpentError, match="by another request"):
        again().reply(RUN, 1, "release", TWO)


@pytest.mark.parametrize("request_digest", [ONE, TWO])
def test_a_slot_is_spent_once(again, request_digest):
    again().spend(RUN, 1, "release", ONE)
    with pytest.raises(SlotSpentError, match="slot 1 is spent for release"):
        again().spend(RUN, 1, "release", request_digest)


def test_a_reply_that_was_never_kept_is_lost_and_its_slot_with_it(again):
    again().spend(RUN, 1, "release", ONE)
    with pytest.raises(SlotSpentError, match="its reply was lost"):
        again().reply(RUN, 1, "release", ONE)
    with pytest.raises(SlotSpentError):
        again().spend(RUN, 1, "release", ONE)


def test_slots_only_grow(again):
    again().spend(RUN, 5, "release", ONE)
    for lower in (0, 4):
        with pytest.raises(SlotSpentError, match="the highest is 5"):
            again().spend(RUN, lower, "release", ONE)
        with pytest.raises(SlotSpentError, match="the highest is 5"):
            again().reply(RUN, lower, "release", ONE)
    assert again().reply(RUN, 6, "release", ONE) is None


def test_runs_and_phases_have_slots_of_their_own(again):
    again().spend(RUN, 5, "release", ONE)
    again().spend(RUN, 3, "unmask", ONE)
    again().spend(OTHER_RUN, 1, "release", ONE)
    again().keep(RUN, 3, "unmask", b"shares")
    assert again().reply(RUN, 3, "unmask", ONE) == b"shares"
    assert again().reply(OTHER_RUN, 2, "release", ONE) is None


def test_a_reply_is_kept_once(again):
    again().spend(RUN, 1, "release", ONE)
    again().keep(RUN, 1, "release", b"vector")
    again().keep(RUN, 1, "release", b"vector")
    with pytest.raises(PhaseError, match="its one reply"):
        again().keep(RUN, 1, "release", b"another")
    assert again().reply(RUN, 1, "release", ONE) == b"vector"


def test_no_reply_is_kept_for_a_slot_that_was_not_spent(again):
    again().spend(RUN, 2, "release", ONE)
    for run_id, slot, phase in [(RUN, 1, "release"), (RUN, 3, "release"), (RUN, 2, "unmask")]:
        with pytest.raises(PhaseError, match="not open"):
            again().keep(run_id, slot, phase, b"vector")
    with pytest.raises(PhaseError, match="not open"):
        again().keep(OTHER_RUN, 2, "release", b"vector")


def test_the_two_newest_slots_keep_their_replies_and_older_ones_stay_spent(again):
    for slot in (1, 4, 9):
        again().spend(RUN, slot, "release", ONE)
        again().keep(RUN, slot, "release", b"vector %d" % slot)
    assert again().reply(RUN, 9, "release", ONE) == b"vector 9"
    assert again().reply(RUN, 4, "release", ONE) == b"vector 4"
    for slot in (1, 2, 7):
        with pytest.raises(SlotSpentError):
            again().reply(RUN, slot, "release", ONE)
        with pytest.raises(SlotSpentError):
            again().spend(RUN, slot, "release", ONE)
        with pytest.raises(PhaseError):
            again().keep(RUN, slot, "release", b"vector 1")


def test_a_run_that_is_forgotten_stays_spent(again):
    for run_id in (RUN, OTHER_RUN):
        again().spend(run_id, 3, "release", ONE)
        again().keep(run_id, 3, "release", b"vector")
    again().forget(RUN)
    with pytest.raises(SlotSpentError):
        again().reply(RUN, 3, "release", ONE)
    with pytest.raises(SlotSpentError):
        again().spend(RUN, 3, "release", ONE)
    assert again().reply(OTHER_RUN, 3, "release", ONE) == b"vector"
    again().spend(RUN, 4, "release", ONE)
    again().forget(RUN)
    with pytest.raises(SlotSpentError):
        again().spend(RUN, 4, "release", ONE)


def test_what_cannot_be_written_is_named(again):
    for slot in (-1, 1 << 63):
        with pytest.raises(ValueError, match="a slot is a number"):
            again().spend(RUN, slot, "release", ONE)
    with pytest.raises(ValueError, match="32 bytes long"):
        again().spend(RUN, 1, "release", b"short")
    with pytest.raises(ValueError, match="32 bytes long"):
        again().reply(RUN, 1, "release", b"")
    highest = (1 << 63) - 1
    again().spend(RUN, highest, "release", ONE)
    again().keep(RUN, highest, "release", b"last")
    assert again().reply(RUN, highest, "release", ONE) == b"last"


@dataclass
class Remembered:
    """All that ever happened, for the rules in their plainest form."""

    spent: dict[tuple[bytes, str], dict[int, bytes]] = field(default_factory=dict)
    replies: dict[tuple[bytes, str, int], bytes] = field(default_factory=dict)

    def spend(self, run_id: bytes, slot: int, phase: str, request: bytes) -> None:
        slots = self.spent.setdefault((run_id, phase), {})
        if slot <= max(slots, default=-1):
            raise SlotSpentError
        slots[slot] = request

    def keep(self, run_id: bytes, slot: int, phase: str, reply: bytes) -> None:
        newest = sorted(self.spent.get((run_id, phase), {}))[-2:]
        if slot not in newest or self.replies.setdefault((run_id, phase, slot), reply) != reply:
            raise PhaseError

    def reply(self, run_id: bytes, slot: int, phase: str, request: bytes) -> bytes | None:
        slots = self.spent.get((run_id, phase), {})
        if slot > max(slots, default=-1):
            return None
        if slot not in sorted(slots)[-2:] or slots[slot] != request:
            raise SlotSpentError
        if (run_id, phase, slot) not in self.replies:
            raise SlotSpentError
        return self.replies[run_id, phase, slot]


WHERE = (st.sampled_from([RUN, OTHER_RUN]), st.integers(0, 6), st.sampled_from(["a", "b"]))
CALLS = st.lists(
    st.tuples(st.just("keep"), *WHERE, st.sampled_from([b"", b"x", b"y" * 5000]))
    | st.tuples(st.sampled_from(["spend", "reply"]), *WHERE, st.sampled_from([ONE, TWO])),
    max_size=40,
)


def outcome(journal: Any, call: tuple[Any, ...]) -> object:
    try:
        return getattr(journal, call[0])(*call[1:])
    except FgcifError as error:
        return type(error)


@settings(max_examples=40, deadline=None)
@given(CALLS)
def test_both_journals_do_what_the_plain_rules_say(calls):
    plain, memory = Remembered(), MemoryJournal()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal"
        file = SqliteJournal(path)
        try:
            for number, call in enumerate(calls):
                expected = outcome(plain, call)
                assert outcome(memory, call) == expected
                assert outcome(file, call) == expected
                memory = MemoryJournal.from_bytes(memory.to_bytes())
                if number % 10 == 9:
                    file.close()
                    file = SqliteJournal(path)
        finally:
            file.close()


def test_bytes_that_are_no_journal_are_refused():
    journal = MemoryJournal()
    journal.spend(RUN, 1, "release", ONE)
    data = journal.to_bytes()
    assert MemoryJournal.from_bytes(data).to_bytes() == data
    for wrong in (b"", data[:-1], data + b"\0", data.replace(b"release", b"releas\xff")):
        with pytest.raises(SecureSumError, match="a JournalContents is malformed"):
            MemoryJournal.from_bytes(wrong)


def test_a_journal_that_contradicts_itself_is_refused():
    journal = MemoryJournal()
    journal.spend(RUN, 4, "release", ONE)
    (marks,) = wire.decode(JournalContents, journal.to_bytes()).marks
    of = type(marks)
    held = marks.held[0]
    for wrong in [
        lambda: of(RUN, "release", 5, marks.held),
        lambda: of(RUN, "release", 4, (held, held)),
        lambda: of(RUN, "release", 4, (Held(2, ONE, None), Held(3, ONE, None), held)),
        lambda: of(RUN, "release", 4, (Held(4, b"", None),)),
        lambda: of(RUN, "release", -1, ()),
        lambda: JournalContents((marks, marks)),
    ]:
        with pytest.raises(ValueError):  # noqa: PT011 - which rule is broken is of no matter
            wrong()


# --- the file -----------------------------------------------------------------------------------


def in_another_process(path: Path, *lines: str) -> subprocess.Popen[str]:
    """Run lines on the journal ``j`` at a path; it says what it prints, then sleeps."""
    script = "\n".join(
        [
            "import sys, time",
            "from fgcif_flwr.secagg.journal import SqliteJournal",
            "j = SqliteJournal(sys.argv[1])",
            *lines,
            "print('done', flush=True)",
            "time.sleep(60)",
        ]
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def killed_after(path: Path, *lines: str) -> Iterator[None]:
    """Run lines in another process; end it without mercy once the body is over."""
    process = in_another_process(path, *lines)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "done\n", process.communicate()[1]
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


SPEND = f"j.spend({RUN!r}, 1, 'release', {ONE!r})"
KEEP = f"j.keep({RUN!r}, 1, 'release', b'vector')"


def test_a_process_killed_after_it_spent_a_slot_has_spent_it(tmp_path):
    with killed_after(tmp_path / "journal", SPEND):
        pass
    with SqliteJournal(tmp_path / "journal") as journal:
        with pytest.raises(SlotSpentError, match="its reply was lost"):
            journal.reply(RUN, 1, "release", ONE)
        with pytest.raises(SlotSpentError):
            journal.spend(RUN, 1, "release", ONE)
        journal.spend(RUN, 2, "release", ONE)


def test_a_process_killed_after_it_kept_a_reply_has_kept_it(tmp_path):
    with killed_after(tmp_path / "journal", SPEND, KEEP):
        pass
    with SqliteJournal(tmp_path / "journal") as journal:
        assert journal.reply(RUN, 1, "release", ONE) == b"vector"


def test_a_process_killed_in_the_middle_of_a_transaction_has_done_nothing_of_it(tmp_path):
    halfway = f"j._run('BEGIN'); j._mark({RUN!r}, 'release', Held(2, {ONE!r}, b'x' * 9_000_000))"
    with killed_after(
        tmp_path / "journal",
        "from fgcif_flwr.secagg.journal.rules import Held",
        SPEND,
        KEEP,
        halfway,
    ):
        pass
    with SqliteJournal(tmp_path / "journal") as journal:
        assert journal.reply(RUN, 1, "release", ONE) == b"vector"
        assert journal.reply(RUN, 2, "release", ONE) is None


def test_what_a_call_wrote_is_in_the_file_when_it_returns(tmp_path):
    with SqliteJournal(tmp_path / "journal") as journal:
        journal.spend(RUN, 1, "release", ONE)
        shutil.copytree(tmp_path, tmp_path / "as if power were lost")
        # Copying closed the file, and with it the locks of this process: harmless here.
    with (
        SqliteJournal(tmp_path / "as if power were lost" / "journal") as journal,
        pytest.raises(SlotSpentError),
    ):
        journal.spend(RUN, 1, "release", ONE)


def test_the_settings_that_durability_rests_on_are_in_force(tmp_path):
    with SqliteJournal(tmp_path / "journal") as journal:
        in_force = {
            name: journal._run(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "fullfsync", "secure_delete")
        }
    assert in_force == {
        "journal_mode": "truncate",
        "synchronous": 2,
        "fullfsync": 1,
        "secure_delete": 1,
    }


def test_a_journal_is_open_in_one_process(tmp_path):
    with (
        killed_after(tmp_path / "journal", SPEND),
        pytest.raises(ConfigurationError, match="journal is in use; each process needs") as caught,
    ):
        SqliteJournal(tmp_path / "journal")
    assert "\n" not in str(caught.value)
    with SqliteJournal(tmp_path / "journal"), pytest.raises(ConfigurationError, match="is in use"):
        SqliteJournal(tmp_path / "journal")
    with SqliteJournal(tmp_path / "journal") as journal:
        other = in_another_process(tmp_path / "journal")
        assert "ConfigurationError" in other.communicate(timeout=60)[1]
        journal.spend(RUN, 2, "release", ONE)


def test_of_many_threads_one_spends_a_slot(tmp_path):
    outcomes: list[object] = []
    with SqliteJournal(tmp_path / "journal") as journal:
        threads = [
            threading.Thread(
                target=lambda: outcomes.append(outcome(journal, ("spend", RUN, 1, "a", ONE)))
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(map(str, outcomes)) == sorted(map(str, [None, *[SlotSpentError] * 7]))


def test_only_its_owner_may_read_a_journal(tmp_path):
    umask = os.umask(0)
    try:
        with SqliteJournal(tmp_path / "journal") as journal:
            journal.spend(RUN, 1, "release", ONE)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(umask)
    assert modes["journal"] == 0o600
    assert set(modes.values()) == {0o600}


def test_a_reply_that_is_held_no_longer_is_nowhere_on_the_file(tmp_path):
    secret = b"masked vector of slot one " * 4000
    with SqliteJournal(tmp_path / "journal") as journal:
        for slot in range(1, 4):
            journal.spend(RUN, slot, "release", ONE)
            journal.keep(RUN, slot, "release", secret if slot == 1 else bytes(slot))
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert len(written) > len(secret)  # the space is there to be used again
    assert secret[:26] not in written


@pytest.fixture
def spent(tmp_path) -> Path:
    """A journal with two runs, one reply kept and one lost."""
    path = tmp_path / "journal"
    with SqliteJournal(path) as journal:
        for run_id in (RUN, OTHER_RUN):
            journal.spend(run_id, 7, "release", ONE)
        journal.keep(RUN, 7, "release", b"vector" * 1000)
    return path


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"no journal",
        lambda data: data[:100],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-4096],
        lambda data: bytes(4096) + data[4096:],
        lambda data: data[:4096] + bytes(len(data) - 4096),
        lambda data: data.replace(RUN, OTHER_RUN),
        lambda data: data.replace(b"vector", b"wector", 1),
        lambda data: data.replace(b"CREATE TABLE spent", b"CREATE TABLE stent"),
        lambda data: data.replace(b"CREATE TABLE spent", b"CREATE TA\xc2LE spent"),
    ],
    ids=[
        "empty",
        "text",
        "header",
        "half",
        "short",
        "zeroed",
        "blank",
        "runs",
        "reply",
        "schema",
        "text of schema",
    ],
)
def test_a_damaged_journal_is_said_to_be_and_is_left_as_it_is(spent, damage):
    damaged = damage(spent.read_bytes())
    spent.write_bytes(damaged)
    with pytest.raises(DataError, match=r"journal is damaged \(.*which slots are spent is not"):
        SqliteJournal(spent)
    assert spent.read_bytes() == damaged


def test_no_flipped_bit_gives_a_spent_slot_back(spent):
    whole = spent.read_bytes()
    bits = np.random.default_rng(5).integers(0, 8 * len(whole), 150)
    # Most of the file is the reply and unused space: look closer at the beginning of its pages.
    pages = np.random.default_rng(6).integers(0, 8 * 110, 150) + 8 * 4096 * (np.arange(150) % 4)
    refused = 0
    for bit in [*map(int, bits), *map(int, pages)]:
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        spent.write_bytes(changed)
        try:
            journal = SqliteJournal(spent)
        except DataError:
            refused += 1
            continue
        with journal:
            assert journal.reply(RUN, 7, "release", ONE) == b"vector" * 1000
            for run_id in (RUN, OTHER_RUN):
                assert outcome(journal, ("spend", run_id, 7, "release", ONE)) is SlotSpentError
    assert refused > 50


def test_a_database_of_something_else_is_no_journal(tmp_path):
    with sqlite3.connect(tmp_path / "other") as other:
        other.execute("CREATE TABLE customers (name TEXT)")
    other.close()
    before = (tmp_path / "other").read_bytes()
    with pytest.raises(DataError, match="no journal of this version"):
        SqliteJournal(tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == before


def test_a_journal_without_a_directory_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DataError, match="missing/journal cannot be created: No such file"):
        SqliteJournal(tmp_path / "missing" / "journal")
    with pytest.raises(DataError, match="cannot be written"):
        SqliteJournal(tmp_path)


@contextmanager
def not_writable(directory: Path) -> Iterator[None]:
    """Let nobody write in a directory; as another user, where this one is root."""
    mode, user = stat.S_IMODE(directory.stat().st_mode), os.geteuid()
    for path in directory.iterdir():
        path.chmod(0o666)
    directory.chmod(0o555)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        directory.chmod(mode)


def test_a_journal_in_a_directory_that_cannot_be_written_is_an_error_at_once():
    directory = Path(tempfile.mkdtemp())
    try:
        with not_writable(directory), pytest.raises(DataError, match="cannot be created"):
            SqliteJournal(directory / "journal")
        with SqliteJournal(directory / "journal") as journal:
            journal.spend(RUN, 1, "release", ONE)
        (directory / "journal-journal").unlink()
        with not_writable(directory), pytest.raises(DataError, match="cannot be written"):
            SqliteJournal(directory / "journal")
    finally:
        shutil.rmtree(directory)


def test_a_journal_that_cannot_be_written_any_more_spends_nothing(tmp_path):
    with SqliteJournal(tmp_path / "journal") as journal:
        pages = journal._run("PRAGMA page_count").fetchone()[0]
        journal._run(f"PRAGMA max_page_count = {pages + 2}")
        journal.spend(RUN, 1, "release", ONE)
        with pytest.raises(DataError, match="full"):
            journal.keep(RUN, 1, "release", bytes(100_000))
        with pytest.raises(SlotSpentError, match="lost"):
            journal.reply(RUN, 1, "release", ONE)
        journal._run("PRAGMA max_page_count = 1000")
        journal.spend(RUN, 2, "release", ONE)
        journal.keep(RUN, 2, "release", bytes(100_000))
    with pytest.raises(DataError):
        journal.spend(RUN, 3, "release", ONE)


def test_a_journal_whose_making_failed_is_not_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("fgcif_flwr.secagg.journal.sqlite._SCHEMA", ("CREATE NONSENSE",))
    with pytest.raises(DataError):
        SqliteJournal(tmp_path / "journal")
    assert not (tmp_path / "journal").exists()
