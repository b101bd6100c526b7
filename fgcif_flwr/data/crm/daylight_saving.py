"""Hours that a local clock shows twice, or never."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

# Clocks change by rules since about 1970; none is known beyond a few years from now.
_FIRST: Final = datetime(1970, 1, 1)
_LAST: Final = datetime(2100, 1, 1)
# Shorter than any pair of changes (Morocco's are about 30 days apart).
_STEP: Final = timedelta(days=7)


def strange_hours(
    timezone: str, earliest: datetime, latest: datetime
) -> list[tuple[datetime, datetime]]:
    """Return the half-open stretches of local time that ``timezone`` shows twice or never.

    Parameters
    ----------
    timezone
        An IANA name.
    earliest, latest
        Local times without a zone; stretches between them are found, from 1970 to 2100.
    """
    zone = ZoneInfo(timezone)
    found = []
    moment = max(earliest, _FIRST) - timedelta(days=2)
    end = min(latest, _LAST) + timedelta(days=2)
    while moment < end:
        after = moment + _STEP
        if _offset(zone, moment) != _offset(zone, after):
            change = _change(zone, moment, after)
            before, later = _offset(zone, change - timedelta(seconds=1)), _offset(zone, change)
            found.append((change + min(before, later), change + max(before, later)))
        moment = after
    return found


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    """Return the zone's offset at a moment of UTC, given without a zone."""
    offset = moment.replace(tzinfo=UTC).astimezone(zone).utcoffset()
    assert offset is not None  # every ZoneInfo has one
    return offset


def _change(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """Return the first second, in UTC, at which the offset is that of ``after``."""
    old = _offset(zone, before)
    low, high = 0, int((after - before).total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(zone, before + timedelta(seconds=middle)) == old:
            low = middle
        else:
            high = middle
    return before + timedelta(seconds=high)
