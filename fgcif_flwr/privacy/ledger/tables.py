"""The tables of a ledger's file, and whether what they hold is whole."""

from __future__ import annotations

import os
import sqlite3
import struct

from fgcif_flwr.errors import LedgerError, LedgerRolledBackError
from fgcif_flwr.privacy.ledger.chain import Chain, Head
from fgcif_flwr.privacy.ledger.charges import (
    ORDERS_DIGEST,
    Stretch,
    Total,
    Totals,
    added,
    decode_charges,
    decode_curve,
    encode_curve,
)
from fgcif_flwr.privacy.ledger.file import CheckedFile

CHARGED, JOINED = "charge", "join"
ALL_RUNS = ""
"""Where the sums of all runs stand; no run has an empty name."""
_KEY_BYTES = 32
_REALS = struct.Struct("<3d")  # lower, upper, tail


class LedgerTables(CheckedFile):
    """What a ledger keeps: whose it is, the chain of entries, which were released, and their sums.

    Parameters
    ----------
    path
    population
        None opens the one that is there, whoever's.
    """

    what = "ledger"
    version = 1
    schema = (
        "CREATE TABLE about (population TEXT NOT NULL, key BLOB NOT NULL, orders BLOB NOT NULL,"
        " genesis BLOB NOT NULL)",
        "CREATE TABLE entries (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, run TEXT NOT NULL,"
        " task TEXT NOT NULL, digest BLOB NOT NULL, body BLOB NOT NULL)",
        "CREATE INDEX entries_of_tasks ON entries (run, task)",
        "CREATE INDEX joins ON entries (number) WHERE kind = 'join'",
        "CREATE TABLE released (number INTEGER PRIMARY KEY)",
        "CREATE TABLE totals (run TEXT NOT NULL, lower REAL NOT NULL, upper REAL NOT NULL,"
        " tail REAL NOT NULL, charges INTEGER NOT NULL, curve BLOB NOT NULL,"
        " checksum BLOB NOT NULL, PRIMARY KEY (run, lower, upper))",
    )

    def __init__(self, path: str | os.PathLike[str], population: str | None = None) -> None:
        if population == "":
            raise ValueError("the name of a population is not empty")
        self._wanted = population
        self.population = population or ""
        self.population_key = b""
        self._seen = Head(0, b"")
        super().__init__(path, create=population is not None)

    def _fill(self, connection: sqlite3.Connection) -> None:
        key = os.urandom(_KEY_BYTES)
        genesis = Chain(key).genesis(self.population, ORDERS_DIGEST)
        row = (self.population, key, ORDERS_DIGEST, genesis)
        connection.execute("INSERT INTO about VALUES (?, ?, ?, ?)", row)

    def _verify(self) -> None:
        """Walk the chain from its beginning, and add up its charges."""
        self._read_about()
        head = Head(0, self._genesis)
        totals: dict[str, dict[Stretch, Total]] = {ALL_RUNS: {}}
        for number, kind, run, task, body, digest in self._run(
            "SELECT number, kind, run, task, body, digest FROM entries ORDER BY number"
        ):
            try:
                head = self._chain.after(head, kind, run, task, body)
                if head != Head(number, digest):
                    raise self._damaged(f"entry {number} is not the one that was written")
                if kind == CHARGED:
                    charges = tuple(decode_charges(body))
                    for one in (ALL_RUNS, run):
                        totals[one] = added(totals.get(one, {}), charges)
            except (AttributeError, TypeError, IndexError, struct.error):
                raise self._damaged(f"entry {number} is none") from None
        stored = {run for (run,) in self._run("SELECT DISTINCT run FROM totals")} | {ALL_RUNS}
        if stored != set(totals) or any(
            _comparable(self._totals(run)) != _comparable(total) for run, total in totals.items()
        ):
            raise self._damaged("its sums are not those of its entries")
        if self._run(
            "SELECT 1 FROM released LEFT JOIN entries USING (number) WHERE kind IS NOT ?", CHARGED
        ).fetchone():
            raise self._damaged("a release is marked that was not charged")
        self._seen = head

    def _read_about(self) -> None:
        rows = self._run("SELECT population, key, orders, genesis FROM about").fetchall()
        if len(rows) != 1 or list(map(type, rows[0])) != [str, bytes, bytes, bytes]:
            raise self._damaged("whose it is is missing")
        self.population, self.population_key, orders, self._genesis = rows[0]
        self._chain = Chain(self.population_key)
        if self._genesis != self._chain.genesis(self.population, orders):
            raise self._damaged("whose it is is not what was written")
        if orders != ORDERS_DIGEST:
            raise LedgerError(
                f"{self._path} was kept on other orders of Rényi divergence; use the version of "
                "fgcif that wrote it"
            )
        if self._wanted not in (None, self.population):
            raise LedgerError(
                f"{self._path} is the ledger of population {self.population!r}, not of "
                f"{self._wanted!r}; each population has a ledger of its own"
            )

    def _head(self) -> Head:
        """Return where the chain stands; LedgerRolledBackError if it was further on before."""
        row = self._run(
            "SELECT number, digest FROM entries ORDER BY number DESC LIMIT 1"
        ).fetchone()
        head = Head(0, self._genesis) if row is None else Head(*row)
        seen = self._seen
        if seen.length and seen.length != head.length:
            row = self._run("SELECT digest FROM entries WHERE number = ?", seen.length).fetchone()
            unchanged = row == (seen.digest,)
        else:
            unchanged = not seen.length or seen == head
        if not unchanged:
            raise LedgerRolledBackError(
                f"{self._path} was put back while it was open: it had {seen.length} entries and "
                "those are not there any more; put the newest copy back"
            )
        self._seen = head
        return head

    def _append(self, head: Head, kind: str, run: str, task: str, body: bytes) -> Head:
        after = self._chain.after(head, kind, run, task, body)
        row = (after.length, kind, run, task, after.digest, body)
        self._run("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", *row)
        return after

    def _count(self, run: str, task: str) -> int:
        """Return how often a task was charged in a run."""
        query = f"SELECT COUNT(*) FROM entries WHERE run = ? AND task = ? AND kind = '{CHARGED}'"
        return int(self._run(query, run, task).fetchone()[0])

    def _totals(self, run: str) -> dict[Stretch, Total]:
        """Read the sums of a run, or of all."""
        totals: dict[Stretch, Total] = {}
        for lower, upper, tail, charges, curve, checksum in self._run(
            "SELECT lower, upper, tail, charges, curve, checksum FROM totals WHERE run = ?", run
        ):
            try:
                total = Total(decode_curve(curve), tail, charges)
                right = checksum == self._checksum(run, (lower, upper), total)
            except (AttributeError, TypeError, struct.error):
                right = False
            if not right:
                raise self._damaged("a sum is not what was written")
            totals[lower, upper] = total
        return totals

    def _store_total(self, run: str, stretch: Stretch, total: Total) -> None:
        row = (*stretch, total.tail, total.charges, encode_curve(total.curve))
        checksum = self._checksum(run, stretch, total)
        self._run("INSERT OR REPLACE INTO totals VALUES (?, ?, ?, ?, ?, ?, ?)", run, *row, checksum)

    def _checksum(self, run: str, stretch: Stretch, total: Total) -> bytes:
        reals = _REALS.pack(*stretch, total.tail)
        return self._chain.keyed("total", run, reals, total.charges, encode_curve(total.curve))


def _comparable(totals: Totals) -> dict[Stretch, tuple[bytes, float, int]]:
    return {
        stretch: (encode_curve(total.curve), total.tail, total.charges)
        for stretch, total in totals.items()
    }
