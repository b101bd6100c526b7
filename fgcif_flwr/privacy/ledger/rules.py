"""What a ledger does, whatever stores it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from fgcif_flwr.privacy.ledger.chain import Head
from fgcif_flwr.privacy.ledger.charges import Charge


@dataclass(frozen=True)
class StretchSpent:
    """What the customers at the places [lower, upper) were charged.

    Attributes
    ----------
    lower, upper : float
    epsilon : float
        At the delta asked for; inf where ``tail`` takes up all of it.
    tail : float
        Sum of the charges' own deltas.
    charges : int
        How many.
    """

    lower: float
    upper: float
    epsilon: float
    tail: float
    charges: int


@dataclass(frozen=True)
class Spent:
    """What was spent, over all runs or in one.

    Attributes
    ----------
    epsilon : float
        The greatest over all customers, at ``delta``; 0 where nothing was charged.
    delta : float
    stretches : tuple of StretchSpent
        Ascending and disjoint; where nothing was charged there is none.
    entries : int
        Releases that were charged.
    reserved : int
        How many of them were not marked as released: the process ended, or is at it. They count
        the same.
    """

    epsilon: float
    delta: float
    stretches: tuple[StretchSpent, ...]
    entries: int
    reserved: int


@dataclass(frozen=True)
class Entry:
    """One charge, for an auditor.

    Attributes
    ----------
    number : int
        Of the release, as :meth:`Ledger.reserve` returned it: its place in the chain, from 1.
    charge : Charge
    epsilon : float
        Of this charge alone, at the delta asked for.
    committed : bool
        Whether it was marked as released.
    """

    number: int
    charge: Charge
    epsilon: float
    committed: bool


class Ledger(Protocol):
    """Charges of one population of customers, over all runs.

    All methods raise LedgerError if the ledger is damaged or cannot be read or written, and
    LedgerRolledBackError if it was put back to an earlier state while open.
    """

    def reserve(
        self,
        charges: Sequence[Charge],
        epsilon_total: float,
        delta_total: float,
        at_most: int | None = None,
    ) -> int:
        """Charge one release before it is computed; durable when this returns.

        It counts from then on, whether or not it is released, and is never given back.

        Parameters
        ----------
        charges
            One or more, of one run, task and slot.
        epsilon_total, delta_total
            Limit of all charges of all runs together, for each customer.
        at_most
            How often this task may be charged in this run, this time included; None: any number.

        Returns
        -------
        int
            Its number, for :meth:`commit`.

        Raises
        ------
        BudgetExhaustedError
            If a limit would be passed; nothing is charged then.
        ValueError
            For other values.
        """

    def check(
        self,
        charges: Sequence[Charge],
        epsilon_total: float,
        delta_total: float,
        run: str | None = None,
    ) -> None:
        """Raise BudgetExhaustedError if charges, of whatever runs and tasks, would not fit now.

        Charges nothing and promises nothing: another run may be charged before. With ``run`` the
        limit is of what was charged in that run alone.
        """

    def commit(self, number: int) -> None:
        """Mark a reservation as released, durably; ValueError if there is none of this number."""

    def record_join(self, run: str) -> None:
        """Append an entry without a charge, durably, so that each join has a head of its own."""

    def spent(self, delta: float) -> Spent:
        """Return what was spent over all runs."""

    def spent_in_run(self, run: str, delta: float) -> Spent:
        """Return what was spent in one run."""

    def slots_of(self, run: str) -> dict[str, int]:
        """Return how often each task was charged in a run."""

    def entries(self, delta: float) -> Iterator[Entry]:
        """Yield all charges in their order, those of a release one after the other."""

    @property
    def head(self) -> Head:
        """Where the chain stands."""

    def attestation(self) -> bytes:
        """Return what a join shows of the ledger, at most 1024 bytes: see `Attestation`."""
