"""A journal in an SQLite file: it survives crashes and loss of power."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fgcif_flwr.errors import ConfigurationError, DataError
from fgcif_flwr.secagg.journal.rules import HELD, Held, JournalRules
from fgcif_flwr.secagg.transcript import digest

_FORMAT = 1
_SCHEMA = (
    "CREATE TABLE spent (run_id BLOB NOT NULL, phase TEXT NOT NULL, highest INTEGER NOT NULL,"
    " checksum BLOB NOT NULL, PRIMARY KEY (run_id, phase)) WITHOUT ROWID",
    "CREATE TABLE held (run_id BLOB NOT NULL, phase TEXT NOT NULL, slot INTEGER NOT NULL,"
    " request BLOB NOT NULL, checksum BLOB NOT NULL, reply BLOB,"
    " PRIMARY KEY (run_id, phase, slot))",
)
_SETTINGS = (
    # From the first lock to the end of the process: there is one writer of a journal.
    "PRAGMA locking_mode = EXCLUSIVE",
    # The rollback journal is cut to nothing at each commit, and with FULL that cut is synced: a
    # commit that returned is there after a loss of power. Not so with DELETE, whose unlinking
    # FULL does not sync, so that the last commit can be rolled back. WAL would be as durable, but
    # keeps old pages, and with them pruned replies, in a second file.
    "PRAGMA journal_mode = TRUNCATE",
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",  # on macOS an fsync alone does not reach the disk
    "PRAGMA secure_delete = ON",
    "PRAGMA cell_size_check = ON",
    "PRAGMA trusted_schema = OFF",
)


class SqliteJournal(JournalRules):
    """A :class:`~fgcif_flwr.secagg.journal.Journal` in a file of mode 0600, open in one process.

    Its methods may be called from any thread. A call takes as long as a few syncs of the disk.

    Parameters
    ----------
    path
        Created if there is nothing; its directory must be there and stay writable.

    Raises
    ------
    ConfigurationError
        If another process, or another journal of this one, has the file open.
    DataError
        If the file is damaged, empty, no journal, or of another version, or cannot be written;
        any later call raises it too when the file fails. It is never replaced by a new one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).absolute()
        self._lock = threading.Lock()
        fresh = self._create()
        try:
            with self._explained():
                self._connection = sqlite3.connect(
                    f"{self._path.as_uri()}?mode=rw",
                    uri=True,
                    timeout=0,
                    isolation_level=None,
                    check_same_thread=False,
                )
            try:
                self._open(fresh)
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            if fresh:
                self._path.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> SqliteJournal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def forget(self, run_id: bytes) -> None:
        with self._transaction():
            self._run("DELETE FROM held WHERE run_id = ?", run_id)

    def _create(self) -> bool:
        """Make the file if there is none, for its owner alone; tell whether it was made.

        SQLite syncs its directory together with that of its first rollback journal.
        """
        try:
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False  # left shut: to close it would undo the locks of this process
        except OSError as error:
            raise DataError(f"{self._path} cannot be created: {error.strerror}") from None
        return True

    def _open(self, fresh: bool) -> None:
        with self._explained():
            for setting in _SETTINGS:
                self._run(setting)
        with self._transaction("EXCLUSIVE"):
            if fresh:
                for table in _SCHEMA:
                    self._run(table)
            else:
                try:
                    self._verify()
                except sqlite3.Error as error:
                    raise self._damaged(str(error)) from None
            # Written at every opening: a journal that cannot be written is told of now.
            self._run(f"PRAGMA user_version = {_FORMAT}")

    def _verify(self) -> None:
        """Read the whole file once: its structure, its tables, the checksum of every row."""
        version = self._run("PRAGMA user_version").fetchone()[0]
        tables = self._run("SELECT sql FROM sqlite_master WHERE sql NOT NULL ORDER BY rowid")
        schema = tuple(sql for (sql,) in tables)
        if (version, schema) == (0, ()):
            raise self._damaged("it is empty")
        if schema != _SCHEMA or version != _FORMAT:
            raise self._damaged("it is no journal of this version")
        if self._run("PRAGMA integrity_check").fetchone() != ("ok",):
            raise self._damaged("its structure is broken")
        for row in self._run("SELECT checksum, run_id, phase, highest FROM spent"):
            self._verify_row(row, bytes, bytes, str, int)
        for row in self._run("SELECT checksum, run_id, phase, slot, request, reply FROM held"):
            self._verify_row(row, bytes, bytes, str, int, bytes, (bytes, type(None)))
        if self._run(
            "SELECT 1 FROM held LEFT JOIN spent USING (run_id, phase)"
            " WHERE highest IS NULL OR highest < slot"
        ).fetchone():
            raise self._damaged("a mark is missing")

    def _verify_row(self, row: tuple[Any, ...], *kinds: type | tuple[type, ...]) -> None:
        right = all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=True))
        if not right or row[0] != _checksum(*row[1:]):
            raise self._damaged("a checksum is wrong")

    def _damaged(self, reason: str) -> DataError:
        return DataError(
            f"{self._path} is damaged ({reason}): which slots are spent is not known; "
            "move it away once no run goes on, and start again"
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError:  # an error of SQLite's that quotes broken text
            raise self._damaged("its structure is broken") from None
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise ConfigurationError(
                    f"{self._path} is in use; each process needs a journal of its own"
                ) from None
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise self._damaged(str(error)) from None
            raise DataError(f"{self._path} cannot be written: {error}") from None

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        with self._lock, self._explained():
            self._run(f"BEGIN {kind}")
            try:
                yield
                self._run("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._run("ROLLBACK")
                raise

    def _run(self, statement: str, *values: bytes | str | int | None) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    def _highest(self, run_id: bytes, phase: str) -> int | None:
        row = self._run(
            "SELECT highest FROM spent WHERE run_id = ? AND phase = ?", run_id, phase
        ).fetchone()
        return None if row is None else row[0]

    def _find(self, run_id: bytes, phase: str, slot: int) -> Held | None:
        row = self._run(
            "SELECT slot, request, reply FROM held WHERE run_id = ? AND phase = ? AND slot = ?",
            *(run_id, phase, slot),
        ).fetchone()
        return None if row is None else Held(*row)

    def _mark(self, run_id: bytes, phase: str, held: Held) -> None:
        self._run(
            "INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?)",
            *(run_id, phase, held.slot, _checksum(run_id, phase, held.slot)),
        )
        self._store(run_id, phase, held)
        self._run(
            "DELETE FROM held WHERE run_id = ?1 AND phase = ?2 AND slot NOT IN (SELECT slot"
            " FROM held WHERE run_id = ?1 AND phase = ?2 ORDER BY slot DESC LIMIT ?3)",
            *(run_id, phase, HELD),
        )

    def _store(self, run_id: bytes, phase: str, held: Held) -> None:
        row = (run_id, phase, held.slot, held.request)
        self._run(
            "INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?, ?, ?)",
            *(*row, _checksum(*row, held.reply), held.reply),
        )


def _checksum(*row: bytes | str | int | None) -> bytes:
    """SQLite checks the structure of a file, not what its rows hold."""
    return digest("journal", *(one for one in row if one is not None))
