"""A ledger in an SQLite file: it survives crashes and loss of power."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache

from fgcif_flwr.errors import BudgetExhaustedError
from fgcif_flwr.privacy.ledger.chain import SHOWN_JOINS, Attestation, Head
from fgcif_flwr.privacy.ledger.charges import (
    Asked,
    Charge,
    Total,
    added,
    by_place,
    decode_charges,
    decode_curve,
    encode_charges,
    encode_curve,
)
from fgcif_flwr.privacy.ledger.rules import Entry, Spent, StretchSpent
from fgcif_flwr.privacy.ledger.tables import ALL_RUNS, CHARGED, JOINED, LedgerTables

_BATCH = 500


class SqliteLedger(LedgerTables):
    """A :class:`~fgcif_flwr.privacy.ledger.Ledger` in a file of mode 0600.

    Several processes may have it open; each release waits for one sync of the disk. Sums of the
    charges are kept beside the entries and compared with them at each opening, which reads the
    whole file: keep it open.

    Parameters
    ----------
    path
        Its directory must be there and stay writable, on a local file system.
    population : str or None
        Name of the customers whose ledger it is. The ledger is made if there is none. None opens
        the one that is there, whoever's: for an auditor.

    Attributes
    ----------
    population : str
    population_key : bytes
        Drawn when the ledger was made (32 bytes): keys the hash that gives a customer its place.

    Raises
    ------
    LedgerError
        If it is damaged, of another version, other orders or another population, is not there
        where ``population`` is None, or cannot be read or written.
    """

    def reserve(
        self,
        charges: Sequence[Charge],
        epsilon_total: float,
        delta_total: float,
        at_most: int | None = None,
    ) -> int:
        if len({(one.run, one.task, one.slot) for one in charges}) != 1:
            raise ValueError("the charges of one release are of one run, task and slot")
        run, task = charges[0].run, charges[0].task
        asked = Asked(charges, epsilon_total, delta_total)
        stretches = {one.stretch for one in charges}
        with self._transaction():
            head = self._head()
            after = asked.on_top_of(self._totals(ALL_RUNS))
            if at_most is not None and self._count(run, task) >= at_most:
                raise BudgetExhaustedError(
                    f"task {task} was charged {at_most} times in this run, as often as its plan "
                    "allows; release it no more"
                )
            head = self._append(head, CHARGED, run, task, encode_charges(charges))
            in_run = added(self._totals(run), charges)
            for stretch in stretches:
                self._store_total(ALL_RUNS, stretch, after[stretch])
                self._store_total(run, stretch, in_run[stretch])
        self._seen = head
        return head.length

    def check(
        self,
        charges: Sequence[Charge],
        epsilon_total: float,
        delta_total: float,
        run: str | None = None,
    ) -> None:
        asked = Asked(charges, epsilon_total, delta_total)
        with self._reading():
            self._head()
            asked.on_top_of(self._totals(ALL_RUNS if run is None else run))

    def commit(self, number: int) -> None:
        with self._transaction():
            self._head()
            found = self._run("SELECT kind FROM entries WHERE number = ?", number).fetchone()
            if found != (CHARGED,):
                raise ValueError(f"there is no reservation {number}")
            self._run("INSERT OR IGNORE INTO released VALUES (?)", number)

    def record_join(self, run: str) -> None:
        if not run:
            raise ValueError("the name of a run is not empty")
        with self._transaction():
            # By what was drawn, a ledger that was put back and joins again is another one.
            head = self._append(self._head(), JOINED, run, "", os.urandom(32))
        self._seen = head

    def spent(self, delta: float) -> Spent:
        return self._spent(ALL_RUNS, delta, "")

    def spent_in_run(self, run: str, delta: float) -> Spent:
        return self._spent(run, delta, " AND run = ?", run)

    def slots_of(self, run: str) -> dict[str, int]:
        with self._reading():
            self._head()
            query = f"SELECT task, COUNT(*) FROM entries WHERE run = ? AND kind = '{CHARGED}'"
            return dict(self._run(f"{query} GROUP BY task", run).fetchall())

    def entries(self, delta: float) -> Iterator[Entry]:
        @lru_cache(maxsize=256)  # most charges of a run are alike
        def alone(curve: bytes, tail: float) -> float:
            return Total(decode_curve(curve), tail).epsilon(delta)

        last = 0
        while True:
            with self._reading():
                self._head()
                rows = self._run(
                    "SELECT entries.number, run, task, body, released.number NOT NULL FROM entries"
                    " LEFT JOIN released USING (number)"
                    f" WHERE kind = '{CHARGED}' AND entries.number > ? ORDER BY 1 LIMIT {_BATCH}",
                    last,
                ).fetchall()
            if not rows:
                return
            for number, run, task, body, committed in rows:
                for one in decode_charges(body):
                    charge = Charge(
                        *(run, task, one.slot, one.unit, tuple(one.curve.tolist())),
                        *(one.delta, one.lower, one.upper),
                    )
                    epsilon = alone(encode_curve(one.curve), one.delta)
                    yield Entry(number, charge, epsilon, bool(committed))
            last = rows[-1][0]

    @property
    def head(self) -> Head:
        with self._reading():
            return self._head()

    def attestation(self) -> bytes:
        with self._reading():
            head = self._head()
            joins = self._run(
                f"SELECT number, digest FROM entries WHERE kind = '{JOINED}'"
                f" ORDER BY number DESC LIMIT {SHOWN_JOINS}"
            ).fetchall()
        return Attestation(
            self._genesis, head, tuple(Head(*join) for join in reversed(joins))
        ).to_bytes()

    def _spent(self, run: str, delta: float, where: str, *values: str) -> Spent:
        if not 0 < delta < 1:
            raise ValueError(f"delta is {delta!r}; it is above 0 and below 1")
        with self._reading():
            self._head()
            places = by_place(self._totals(run))
            entries, released = self._run(
                "SELECT COUNT(*), COUNT(released.number) FROM entries"
                f" LEFT JOIN released USING (number) WHERE kind = '{CHARGED}'{where}",
                *values,
            ).fetchone()
        stretches = tuple(
            StretchSpent(*place, total.epsilon(delta), total.tail, total.charges)
            for place, total in places
        )
        return Spent(
            max((one.epsilon for one in stretches), default=0.0),
            *(delta, stretches, entries, entries - released),
        )
