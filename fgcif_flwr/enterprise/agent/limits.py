"""What an agent must remember over restarts: request numbers, runs, and a person's approvals.

A coordinator whose key is in wrong hands, or that is hostile itself, can start run after run, each
within the policy. How many are joined a day, and what they cost together, has a limit here; or a
person looks at each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Literal

from fgcif_flwr.enterprise.agent.runs import RunAsked, RunLimits, terms_hash
from fgcif_flwr.errors import AuthenticationError, PolicyError, SlotSpentError
from fgcif_flwr.federation.terms import config_in
from fgcif_flwr.privacy.ledger.file import CheckedFile
from fgcif_flwr.secagg import Manifest

DAY = 24 * 3600.0
_MOST_WAITING = 1000
_SLACK = 1e-9
LEAST_DIGITS = 32
"""Of a hash of terms: to fewer, somebody could search for two runs that share them."""


class AgentState(CheckedFile):
    """The agent's memory, in a file of mode 0600 that several processes may have open.

    Parameters
    ----------
    path
        Made if there is none. Whoever loses it lets old requests be answered again.
    clock
        Seconds since 1970.

    Raises
    ------
    LedgerError
        If it is damaged, or cannot be made, read or written; any later call raises it too.
    """

    what = "agent's memory"
    version = 1
    schema = (
        "CREATE TABLE latest (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL,"
        " digest BLOB NOT NULL)",
        "CREATE TABLE runs (run TEXT NOT NULL, terms TEXT NOT NULL, text TEXT NOT NULL,"
        " unit TEXT NOT NULL, epsilon REAL NOT NULL, asked REAL NOT NULL, joined REAL,"
        " refused INTEGER NOT NULL, PRIMARY KEY (run, terms))",
        "CREATE TABLE approvals (terms TEXT NOT NULL PRIMARY KEY, at REAL NOT NULL)",
        "CREATE TABLE sums (run TEXT NOT NULL, task TEXT NOT NULL, slot INTEGER NOT NULL,"
        " digest BLOB NOT NULL, PRIMARY KEY (run, slot))",
    )

    def __init__(
        self, path: str | os.PathLike[str], clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        super().__init__(path, create=True)

    def accept_number(self, number: int, digest: bytes) -> None:
        """Remember, durably, the number of a signed request.

        Parameters
        ----------
        number
            Of the request; the coordinator takes nanoseconds since 1970, so one from the far
            future comes from a wrong clock, and would bar every request after it.
        digest
            Of the whole request, 32 bytes: the very last one may be asked again.

        Raises
        ------
        AuthenticationError
            If the number is not above the last one, or is more than a day ahead of this clock.
        """
        if number > (self._clock() + DAY) * 1e9:
            raise AuthenticationError(
                "the request's number is more than a day ahead of this enterprise's clock; set the "
                "clocks right"
            )
        with self._transaction():
            last = self._run("SELECT number, digest FROM latest").fetchone()
            if last == (number, digest):
                return
            if last is not None and number <= last[0]:
                raise AuthenticationError("the request was replayed, or overtaken by a later one")
            self._run("INSERT OR REPLACE INTO latest VALUES (1, ?, ?)", number, digest)

    def admit(self, manifest: Manifest, epsilon: float, limits: RunLimits) -> None:
        """Check a run by the limits, before it is joined; a run that was joined before passes.

        Parameters
        ----------
        manifest
        epsilon
            What the run's plan costs; see :func:`epsilon_of`.
        limits

        Raises
        ------
        PolicyError
            Naming the limit that the run passes; or that nobody here has approved it yet.
        """
        run, terms, now = manifest.run.hex(), terms_hash(manifest), self._clock()
        with self._transaction():
            joined = self._joined(run, terms)
            if joined is not None and joined > now - DAY:
                return
            # One that was joined longer ago counts anew: else runs could be stocked up.
            refusal = self._refusal(epsilon, limits, now)
            approved = joined is not None or self._approved(terms)
            waits = refusal is None and limits.approval and not approved
            if waits:
                refusal = (
                    "policy: this enterprise approves each run by hand, and has not approved this "
                    f"one yet; ask it to run fgcif-client runs approve {terms[:LEAST_DIGITS]}"
                )
            self._run(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, NULL, ?)"
                " ON CONFLICT (run, terms) DO UPDATE SET refused = excluded.refused",
                *(run, terms, manifest.terms, _unit(manifest), epsilon, now),
                int(refusal is not None and not waits),
            )
            self._run(
                "DELETE FROM runs WHERE joined IS NULL AND rowid NOT IN"
                " (SELECT rowid FROM runs WHERE joined IS NULL ORDER BY asked DESC LIMIT ?)",
                _MOST_WAITING,
            )
        if refusal is not None:
            raise PolicyError(refusal)

    def note_refusal(self, manifest: Manifest) -> None:
        """Remember that a run was admitted here and refused for another reason after."""
        with self._transaction():
            self._run(
                "UPDATE runs SET refused = 1 WHERE run = ? AND terms = ? AND joined IS NULL",
                *(manifest.run.hex(), terms_hash(manifest)),
            )

    def count_join(self, manifest: Manifest) -> None:
        """Count, durably, a run that was joined, once a day; it uses up its approval."""
        run, terms = manifest.run.hex(), terms_hash(manifest)
        with self._transaction():
            joined = self._joined(run, terms)
            if joined is not None and joined > self._clock() - DAY:
                return
            self._run(
                "UPDATE runs SET joined = ?, refused = 0 WHERE run = ? AND terms = ?",
                *(self._clock(), run, terms),
            )
            self._run("DELETE FROM approvals WHERE terms = ?", terms)

    def count_sum(self, run: str, task: str, slot: int, digest: bytes, most: int) -> None:
        """Count, durably, one slot of a task for which no ledger is charged.

        Slots grow over all epochs of a run: one that was used is not used again after another join.

        Parameters
        ----------
        run
            Its name, hexadecimal digits.
        digest
            Of the whole request, 32 bytes: the very same one may be asked again.
        most
            Slots that the run can need for this task.

        Raises
        ------
        SlotSpentError
            If this run had another request for this slot, or a later slot.
        PolicyError
            If so many others were asked for already.
        """
        with self._transaction():
            query = "SELECT digest FROM sums WHERE run = ? AND slot = ?"
            if self._run(query, run, slot).fetchone() == (digest,):
                return
            last, count = self._run(
                "SELECT COALESCE(MAX(slot), -1), TOTAL(task = ?) FROM sums WHERE run = ?", task, run
            ).fetchone()
            if slot <= last:
                raise SlotSpentError(f"slot {slot} of this run is spent: slots only grow")
            if count >= most:
                raise PolicyError(
                    f"policy: this run was given {count:.0f} sums of task {task}, all that its "
                    "rounds and retries can need"
                )
            self._run("INSERT INTO sums VALUES (?, ?, ?, ?)", run, task, slot, digest)

    def approve(self, terms: str) -> str:
        """Let one more run with these terms be joined; return the whole hash.

        Parameters
        ----------
        terms
            Hash as :meth:`runs` shows it, or its first 32 digits or more.

        Raises
        ------
        PolicyError
            If no run, or more than one kind of run, was asked for under such a hash.
        """
        with self._transaction():
            query = "SELECT DISTINCT terms FROM runs WHERE substr(terms, 1, ?) = ?"
            found = self._run(query, len(terms), terms.lower()).fetchall()
            if len(terms) < LEAST_DIGITS or len(found) != 1:
                raise PolicyError(
                    "there is no such run, or more than one: give at least "
                    f"{LEAST_DIGITS} digits of a hash that fgcif-client runs list shows"
                )
            (whole,) = found[0]
            self._run("INSERT OR REPLACE INTO approvals VALUES (?, ?)", whole, self._clock())
        return str(whole)

    def runs(self) -> tuple[RunAsked, ...]:
        """Return the runs that were asked for, the newest first."""
        with self._reading():
            rows = self._run(
                "SELECT run, terms, text, unit, epsilon, asked, joined, refused,"
                " terms IN (SELECT terms FROM approvals) FROM runs ORDER BY asked DESC, rowid DESC"
            ).fetchall()
        return tuple(
            RunAsked(run, terms, text, unit, epsilon, asked, joined, _state(joined, *rest))
            for run, terms, text, unit, epsilon, asked, joined, *rest in rows
        )

    def _joined(self, run: str, terms: str) -> float | None:
        query = "SELECT joined FROM runs WHERE run = ? AND terms = ?"
        found = self._run(query, run, terms).fetchone()
        return None if found is None else found[0]

    def _approved(self, terms: str) -> bool:
        query = "SELECT 1 FROM approvals WHERE terms = ?"
        return self._run(query, terms).fetchone() is not None

    def _refusal(self, epsilon: float, limits: RunLimits, now: float) -> str | None:
        # Joins after now count too: a clock that was set back opens no new day.
        count, spent = self._run(
            "SELECT COUNT(*), TOTAL(epsilon) FROM runs WHERE joined > ?", now - DAY
        ).fetchone()
        if count >= limits.runs:
            return (
                f"policy: {count} runs were joined in 24 hours; this enterprise's runs_per_day is "
                f"{limits.runs}"
            )
        if not epsilon <= limits.epsilon * (1 + _SLACK):
            return (
                f"policy: the run's epsilon is {epsilon:.4g}, above this enterprise's "
                f"epsilon_per_day of {limits.epsilon:g}"
            )
        if not spent + epsilon <= limits.epsilon * (1 + _SLACK):
            return (
                "policy: with the runs that were joined in 24 hours this one would pass this "
                f"enterprise's epsilon_per_day of {limits.epsilon:g}"
            )
        return None


def _unit(manifest: Manifest) -> str:
    return config_in(manifest.terms).privacy.unit


def _state(
    joined: float | None, refused: int, approved: int
) -> Literal["joined", "approved", "waiting", "refused"]:
    if joined is not None:
        return "joined"
    if approved:
        return "approved"
    return "refused" if refused else "waiting"
