"""What others showed of their ledgers, kept and compared."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from fgcif_flwr.errors import LedgerRolledBackError, PrivacyError
from fgcif_flwr.privacy.ledger.chain import Attestation
from fgcif_flwr.privacy.ledger.file import CheckedFile
from fgcif_flwr.secagg.transcript import digest


class Witness(CheckedFile):
    """Remembers the last attestation of each enterprise, in a file of its own.

    An enterprise is known by its name and by its identity key: whoever has either of them must
    show the same ledger, grown. That finds

    - a ledger that is shorter than before, or as long with other entries;
    - one that has grown by less than its join and the releases that its witness was told of since:
      one that was put back after its last join;
    - another ledger in the place of the one before, a new one too;
    - a longer one, as an older copy that went on is, if the joins of before are not in it. An
      attestation shows the last 8 joins, so joins are compared this far back: a copy that joined
      8 times or more while its witness was away may go unseen by this witness; one that saw it in
      between finds it.

    An honest enterprise that joins several runs at once must be seen in the order in which it
    joined.

    Parameters
    ----------
    path
        Made if there is none.

    Raises
    ------
    LedgerError
        If it is damaged, or cannot be made, read or written; any later call raises it too.
    """

    what = "witness"
    version = 1
    schema = (
        "CREATE TABLE attested (name TEXT NOT NULL, identity BLOB NOT NULL,"
        " attestation BLOB NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (name, identity))",
        "CREATE INDEX attested_by_identity ON attested (identity)",
        "CREATE TABLE releases (name TEXT NOT NULL PRIMARY KEY, since INTEGER NOT NULL)",
    )

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, create=True)

    def seen(self, name: str, identity: bytes, attestation: bytes) -> None:
        """Compare what an enterprise attests with what it attested before; then remember it.

        Parameters
        ----------
        name, identity
            Of the enterprise: its name, and its public identity key, which signed the attestation.
        attestation
            From :meth:`Ledger.attestation`.

        Raises
        ------
        LedgerRolledBackError
            If it is not the ledger of before, grown; names the enterprise. Nothing is remembered.
        PrivacyError
            If it is no attestation; an empty one is none.
        """
        self.seen_together([(name, identity, attestation)])

    def seen_together(self, joins: Iterable[tuple[str, bytes, bytes]]) -> None:
        """As :meth:`seen` for the joins of an epoch at once, of which all or none is remembered."""
        attested = [(*join, _attestation(*join)) for join in joins]
        with self._transaction():
            for name, identity, attestation, now in attested:
                self._compare(name, identity, attestation, now)

    def _compare(self, name: str, identity: bytes, attestation: bytes, now: Attestation) -> None:
        same = False
        row = self._run("SELECT since FROM releases WHERE name = ?", name).fetchone()
        releases = 0 if row is None else row[0]
        for row in self._run(
            "SELECT name, identity, attestation, checksum FROM attested"
            " WHERE name = ? OR identity = ?",
            *(name, identity),
        ).fetchall():
            before = self._read(row)
            reason = before.contradiction(now)
            grown = now.head.length - before.head.length
            if reason is None and row[0] == name and grown < releases + (row[2] != attestation):
                reason = (
                    f"it has {grown} entries more, and its join and {releases} releases were seen "
                    "since"
                )
            if reason is not None:
                raise LedgerRolledBackError(
                    f"the privacy ledger of {name} is not the one it showed before: {reason}; "
                    "it must put back the newest copy"
                )
            same = same or row[:3] == (name, identity, attestation)
        if not same:
            checksum = _checksum(name, identity, attestation)
            self._run(
                "INSERT OR REPLACE INTO attested VALUES (?, ?, ?, ?)",
                *(name, identity, attestation, checksum),
            )
            self._run("DELETE FROM releases WHERE name = ?", name)

    def released(self, names: Iterable[str]) -> None:
        """Remember, durably, that each of these released something since its last join here; its
        ledger must have grown by an entry for each time."""
        with self._transaction():
            for name in names:
                self._run(
                    "INSERT INTO releases VALUES (?, 1) ON CONFLICT (name)"
                    " DO UPDATE SET since = since + 1",
                    name,
                )

    def forget(self, name: str) -> None:
        """Drop what an enterprise showed under a name and the keys it had: a deliberate act, where
        its people vouch for a new ledger; durable when it returns."""
        with self._transaction():
            self._run("DELETE FROM releases WHERE name = ?", name)
            self._run(
                "DELETE FROM attested WHERE identity IN"
                " (SELECT identity FROM attested WHERE name = ?)",
                name,
            )

    def _verify(self) -> None:
        for row in self._run("SELECT name, identity, attestation, checksum FROM attested"):
            self._read(row)

    def _read(self, row: tuple[Any, ...]) -> Attestation:
        kinds = tuple(map(type, row))
        if kinds != (str, bytes, bytes, bytes) or row[3] != _checksum(*row[:3]):
            raise self._damaged("a checksum is wrong")
        return Attestation.from_bytes(row[2])


def _attestation(name: str, identity: bytes, attestation: bytes) -> Attestation:
    try:
        return Attestation.from_bytes(attestation)
    except PrivacyError as error:
        raise PrivacyError(f"{name}: {error}; it must join with its ledger") from None


def _checksum(name: str, identity: bytes, attestation: bytes) -> bytes:
    """SQLite checks the structure of a file, not what its rows hold."""
    return digest("witness", name, identity, attestation)
