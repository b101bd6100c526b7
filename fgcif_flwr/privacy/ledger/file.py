"""An SQLite file that several processes may have open, and that nothing of is ever lost."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import ClassVar, Self

from fgcif_flwr.errors import LedgerError

logger = logging.getLogger(__name__)

Value = bytes | str | int | float | None
_PATIENCE = 30.0
"""Seconds to wait for another process that writes; each takes a few milliseconds."""
_SETTINGS = (
    "PRAGMA synchronous = FULL",  # in WAL mode: the log is synced at each commit
    "PRAGMA fullfsync = ON",  # on macOS an fsync alone does not reach the disk
    "PRAGMA checkpoint_fullfsync = ON",
    "PRAGMA cell_size_check = ON",
    "PRAGMA trusted_schema = OFF",
)


class CheckedFile:
    """A file of mode 0600 with tables, checked as a whole when it is opened.

    It keeps a write-ahead log beside itself while open, so it must be on a local file system; to
    copy it, take the log (``-wal``) too. Those who write take turns by an empty file (``-lock``).

    Methods may be called from any thread, not in a child that was forked while it was open.

    Parameters
    ----------
    path
    create
        Whether to make one if there is none; a damaged or empty one is never replaced.

    Raises
    ------
    LedgerError
        If there is none, it cannot be made, read or written, is damaged, or of another version.
    """

    what: ClassVar[str]
    schema: ClassVar[tuple[str, ...]]
    version: ClassVar[int]

    def __init__(self, path: str | os.PathLike[str], create: bool) -> None:
        self._path = Path(path).absolute()
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._turn = -1
        if create and not self._path.exists():
            logger.warning("%s is not there: a new, empty %s is made", self._path, self.what)
            self._create()
        with self._explained():
            self._connection = self._connect(self._path)
        try:
            with self._explained():
                self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
        turn, self._turn = self._turn, -1
        if turn >= 0:
            os.close(turn)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fill(self, connection: sqlite3.Connection) -> None:
        """Write what a new file holds, tables aside."""

    def _verify(self) -> None:
        """Raise LedgerError if what the rows hold is not as it must be."""

    def _connect(self, path: Path) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{path.as_uri()}?mode=rw",
            uri=True,
            timeout=_PATIENCE,
            isolation_level=None,
            check_same_thread=False,
        )

    def _create(self) -> None:
        """Make the file beside its place and link it there: it is there wholly, or not at all.

        Of several processes that do so at once, one makes the file that all of them open.
        """
        log = self._beside("-wal")
        if log.exists():  # SQLite would add what it holds to the new file
            raise LedgerError(
                f"{self._path} is missing and its log {log.name} is there: put the {self.what} "
                "back; a new one would forget what was charged"
            )
        new = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}.new")
        try:
            os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            try:
                with self._explained():
                    self._write_new(new)
                try:
                    os.link(new, self._path)
                except FileExistsError:  # another process was first
                    return
                directory = os.open(self._path.parent, os.O_RDONLY)
                try:
                    os.fsync(directory)
                finally:
                    os.close(directory)
            finally:
                for ending in ("", "-wal", "-shm"):
                    new.with_name(new.name + ending).unlink(missing_ok=True)
        except OSError as error:
            raise LedgerError(f"{self._path} cannot be created: {error.strerror}") from None

    def _write_new(self, path: Path) -> None:
        connection = self._connect(path)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            for setting in _SETTINGS:
                connection.execute(setting)
            connection.execute("BEGIN IMMEDIATE")
            for statement in self.schema:
                connection.execute(statement)
            self._fill(connection)
            connection.execute(f"PRAGMA user_version = {self.version}")
            connection.execute("COMMIT")
        finally:
            connection.close()  # moves all of the log into the file, and syncs it

    def _open(self) -> None:
        for setting in _SETTINGS:
            self._run(setting)
        self._identity = self._on_disk()
        with self._reading():
            self._verify_file()
            self._verify()
        mode = self._run("PRAGMA journal_mode").fetchone()[0]
        synchronous = self._run("PRAGMA synchronous").fetchone()[0]
        if (mode, synchronous) != ("wal", 2):
            raise LedgerError(
                f"{self._path} cannot be written durably: journal_mode is {mode}, synchronous "
                f"{synchronous}, and must be wal and 2; put it on a local file system"
            )
        try:
            self._turn = os.open(self._beside("-lock"), os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise LedgerError(f"{self._path} cannot be written: {error.strerror}") from None
        self._run("BEGIN IMMEDIATE")  # what cannot be written is told of now
        self._run("ROLLBACK")

    def _verify_file(self) -> None:
        version = self._run("PRAGMA user_version").fetchone()[0]
        tables = self._run("SELECT sql FROM sqlite_master WHERE sql NOT NULL ORDER BY rowid")
        schema = tuple(sql for (sql,) in tables)
        if (version, schema) == (0, ()):
            raise self._damaged("it is empty")
        if schema != self.schema or version != self.version:
            raise self._damaged(f"it is no {self.what} of this version")
        if self._run("PRAGMA integrity_check").fetchone() != ("ok",):
            raise self._damaged("its structure is broken")

    def _damaged(self, reason: str) -> LedgerError:
        return LedgerError(
            f"{self._path} is damaged ({reason}): what it held is not known; release nothing until "
            f"the last good copy of the {self.what} is back, and start no new one"
        )

    def _busy(self) -> LedgerError:
        return LedgerError(f"{self._path} was written by others for {_PATIENCE:.0f} s; try again")

    def _beside(self, ending: str) -> Path:
        return self._path.with_name(self._path.name + ending)

    def _on_disk(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError:  # an error of SQLite's that quotes broken text
            raise self._damaged("its structure is broken") from None
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise self._busy() from None
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise self._damaged(str(error)) from None
            raise LedgerError(f"{self._path} cannot be read or written: {error}") from None

    def _reading(self) -> AbstractContextManager[None]:
        """Within, all is read as it is at one moment."""
        return self._transaction("DEFERRED")

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        """All that is done within is done, or nothing is; no other process writes meanwhile."""
        if os.getpid() != self._process:
            raise LedgerError(f"{self._path} was opened before a fork; open it again in the child")
        turn = nullcontext() if kind == "DEFERRED" else self._in_turn()
        with self._lock, turn, self._explained():
            self._run(f"BEGIN {kind}")
            try:
                if self._on_disk() != self._identity:
                    raise LedgerError(
                        f"{self._path} was moved or replaced while it was open; put it back and "
                        "open it again"
                    )
                yield
                self._run("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._run("ROLLBACK")
                raise

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Keep other writers out until a commit is over, with the checkpoint that may follow it.

        SQLite lets go before the checkpoint, and up to 3.51.2 a commit beside two checkpoints
        could lose one that was made (the WAL-reset bug, sqlite.org/wal.html).
        """
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise self._busy() from None
                time.sleep(0.001)
        try:
            yield
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def _run(self, statement: str, *values: Value) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)
