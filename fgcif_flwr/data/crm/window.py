"""The stretch of time that features look at, and what is derived from the records in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final

from fgcif_flwr.data.records import Records

_FIRST: Final = datetime(1, 1, 1)
_LAST: Final = datetime(9999, 12, 31)
_ALL_DAYS: Final = 10_000_000


@dataclass(frozen=True)
class Window:
    """Times without a zone, in that of the enterprise's tables.

    Features use what happened in [``start``, ``cutoff``); [``recent``, ``cutoff``) and
    [``prior``, ``recent``) are the two periods that trends compare. Targets use [``cutoff``,
    ``until``); without targets ``until`` is the cut-off.
    """

    start: datetime
    prior: datetime
    recent: datetime
    cutoff: datetime
    until: datetime

    @staticmethod
    def of(records: Records, cutoff: date | None, targets: bool) -> Window:
        """Return the window of ``records``, at another day than its own where one is given."""
        midnight = datetime.combine(cutoff or records.cutoff, time())
        return Window(
            start=_moved(midnight, -(records.history_days or _ALL_DAYS)),
            prior=_moved(midnight, -2 * records.recent_days),
            recent=_moved(midnight, -records.recent_days),
            cutoff=midnight,
            until=_moved(midnight, records.horizon_days) if targets else midnight,
        )

    def times(self, *names: str) -> dict[str, object]:
        """Return the named times, as the parameters of a query."""
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Derived:
    """Columns of customers: by name, an expression over ``table``, which has a ``code``."""

    table: str
    expressions: Mapping[str, str]


def _moved(moment: datetime, days: int) -> datetime:
    try:
        return moment + timedelta(days=days)
    except OverflowError:
        return _FIRST if days < 0 else _LAST
