"""What every journal does, whatever stores it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from fgcif_flwr.errors import PhaseError, SlotSpentError

HELD = 2
"""How many slots of a run and phase keep their reply."""
_DIGEST_BYTES = 32
_LONGEST_REPLY = 900_000_000  # SQLite's bound for a row is 10⁹ bytes


class Journal(Protocol):
    """Spent slots and kept replies of one enterprise.

    ``run_id`` and ``phase`` are any bytes and text that tell runs and phases apart; ``slot`` is
    from 0 to 2⁶³ - 1; ``request`` is the digest of a request (32 bytes). Everything raises
    ValueError for values outside of these.
    """

    def spend(self, run_id: bytes, slot: int, phase: str, request: bytes) -> None:
        """Mark a slot as spent by a request; durable when it returns.

        Drops what is held of all but the two newest slots of the run and phase.

        Raises
        ------
        SlotSpentError
            If this slot or a higher one was spent in this run and phase, by whatever request.
        """

    def keep(self, run_id: bytes, slot: int, phase: str, reply: bytes) -> None:
        """Keep the reply of a spent slot; durable when it returns.

        Raises
        ------
        PhaseError
            If the slot is not among the two newest that were spent, or its reply was kept
            already with other bytes.
        """

    def reply(self, run_id: bytes, slot: int, phase: str, request: bytes) -> bytes | None:
        """Return the reply that this request was given, or None if the slot is not spent.

        Raises
        ------
        SlotSpentError
            If it was spent by another request, if this one's reply was never kept, or if it is
            held no longer.
        """

    def forget(self, run_id: bytes) -> None:
        """Drop the replies of a run that is over; its slots stay spent."""


@dataclass(frozen=True)
class Held:
    """One of the newest slots: the request that spent it, the reply once it is kept."""

    slot: int
    request: bytes
    reply: bytes | None


class JournalRules(ABC):
    """The rules of a journal, whatever stores it."""

    def spend(self, run_id: bytes, slot: int, phase: str, request: bytes) -> None:
        check(slot, request=request)
        with self._transaction():
            highest = self._highest(run_id, phase)
            if highest is not None and slot <= highest:
                raise SlotSpentError(f"slot {slot} is spent for {phase}; the highest is {highest}")
            self._mark(run_id, phase, Held(slot, request, None))

    def keep(self, run_id: bytes, slot: int, phase: str, reply: bytes) -> None:
        check(slot, reply=reply)
        with self._transaction():
            held = self._find(run_id, phase, slot)
            if held is None:
                raise PhaseError(f"slot {slot} is not open for a reply to {phase}")
            if held.reply is None:
                self._store(run_id, phase, replace(held, reply=reply))
            elif held.reply != reply:
                raise PhaseError(f"slot {slot} has its one reply to {phase}")

    def reply(self, run_id: bytes, slot: int, phase: str, request: bytes) -> bytes | None:
        check(slot, request=request)
        with self._transaction():
            highest = self._highest(run_id, phase)
            if highest is None or slot > highest:
                return None
            held = self._find(run_id, phase, slot)
        if held is None:
            raise SlotSpentError(f"slot {slot} is spent for {phase}; the highest is {highest}")
        if held.request != request:
            raise SlotSpentError(f"slot {slot} is spent for {phase} by another request")
        if held.reply is None:
            raise SlotSpentError(f"slot {slot} is spent for {phase} and its reply was lost")
        return held.reply

    @abstractmethod
    def forget(self, run_id: bytes) -> None: ...

    @abstractmethod
    def _transaction(self) -> AbstractContextManager[None]:
        """All that is done within is done, or nothing is; alone."""

    @abstractmethod
    def _highest(self, run_id: bytes, phase: str) -> int | None:
        """Return the highest slot spent."""

    @abstractmethod
    def _find(self, run_id: bytes, phase: str, slot: int) -> Held | None:
        """Return what is held of a slot."""

    @abstractmethod
    def _mark(self, run_id: bytes, phase: str, held: Held) -> None:
        """Make this the highest slot, and drop the slots that are held no longer."""

    @abstractmethod
    def _store(self, run_id: bytes, phase: str, held: Held) -> None:
        """Write the reply of a slot that is held."""


def check(slot: int, *, request: bytes = bytes(_DIGEST_BYTES), reply: bytes = b"") -> None:
    """Raise ValueError for values that no journal holds."""
    if not 0 <= slot < 1 << 63:
        raise ValueError("a slot is a number from 0 to 2⁶³ - 1")
    if len(request) != _DIGEST_BYTES:
        raise ValueError(f"the digest of a request is {_DIGEST_BYTES} bytes long")
    if len(reply) > _LONGEST_REPLY:
        raise ValueError(f"a reply of more than {_LONGEST_REPLY} bytes cannot be kept")
