"""A journal in memory, which can be written down."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from fgcif_flwr.secagg import wire
from fgcif_flwr.secagg.journal.rules import HELD, Held, JournalRules, check


@dataclass(frozen=True)
class _Marks:
    """What is known of one run and phase; ``held`` in the order of slots."""

    run_id: bytes
    phase: str
    highest: int
    held: tuple[Held, ...]

    def __post_init__(self) -> None:
        check(self.highest)
        slots = [one.slot for one in self.held]
        if slots != sorted(set(slots)) or len(slots) > HELD:
            raise ValueError("the slots that are held are the newest, in order")
        if slots and slots[-1] != self.highest:
            raise ValueError("the highest slot is held, if any is")
        for one in self.held:
            check(one.slot, request=one.request)


@dataclass(frozen=True)
class JournalContents:
    """A :class:`MemoryJournal` written down: in the order of runs and phases, each once."""

    marks: tuple[_Marks, ...]

    def __post_init__(self) -> None:
        keys = [(one.run_id, one.phase) for one in self.marks]
        if keys != sorted(set(keys)):
            raise ValueError("runs and phases are in order, each once")


class MemoryJournal(JournalRules):
    """A journal that lives as long as its process, or as the bytes that it was written to.

    For tests and for simulations, where each message may meet another process; for one thread.
    """

    def __init__(self) -> None:
        self._marks: dict[tuple[bytes, str], _Marks] = {}

    def to_bytes(self) -> bytes:
        """Return all that is held; undone by :meth:`from_bytes`."""
        return wire.encode(JournalContents(tuple(m for _, m in sorted(self._marks.items()))))

    @classmethod
    def from_bytes(cls, data: bytes) -> MemoryJournal:
        """Read a journal; SecureSumError for bytes that are none."""
        journal = cls()
        for one in wire.decode(JournalContents, data).marks:
            journal._marks[one.run_id, one.phase] = one
        return journal

    def forget(self, run_id: bytes) -> None:
        for key, one in self._marks.items():
            if one.run_id == run_id:
                self._marks[key] = replace(one, held=())

    def _transaction(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _highest(self, run_id: bytes, phase: str) -> int | None:
        known = self._marks.get((run_id, phase))
        return None if known is None else known.highest

    def _find(self, run_id: bytes, phase: str, slot: int) -> Held | None:
        known = self._marks.get((run_id, phase))
        return next((h for h in known.held if h.slot == slot), None) if known else None

    def _mark(self, run_id: bytes, phase: str, held: Held) -> None:
        known = self._marks.get((run_id, phase))
        newest = (*(known.held if known else ()), held)[-HELD:]
        self._marks[run_id, phase] = _Marks(run_id, phase, held.slot, newest)

    def _store(self, run_id: bytes, phase: str, held: Held) -> None:
        known = self._marks[run_id, phase]
        others = tuple(held if one.slot == held.slot else one for one in known.held)
        self._marks[run_id, phase] = replace(known, held=others)
