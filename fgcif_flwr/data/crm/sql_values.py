"""Values as a database's driver gives them, as columns of Arrow.

A value keeps its type where its column becomes a number or a time; all else is taken as text. A
database may hold text among numbers (SQLite does), so a column has a place for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import pyarrow as pa

from fgcif_flwr.data.crm.conversion import Kind
from fgcif_flwr.errors import DataError

_NUMBER: Final = (int, float, Decimal)
_LOCAL: Final = pa.timestamp("us")
_ZONED: Final = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Column:
    """A column of a database: its ``own`` name there, ``alias`` here, and what it becomes."""

    own: str
    alias: str
    kinds: frozenset[Kind]


def fields(column: Column) -> list[pa.Field]:
    """Return the columns that :func:`arrays` gives.

    Under the alias all as text; under ``_s`` what is text among numbers and times, under ``_n``
    numbers, under ``_t`` and ``_z`` times without and with a time zone.
    """
    found = [pa.field(column.alias, pa.string())]
    if column.kinds & {"number", "time"}:
        found.append(pa.field(f"{column.alias}_s", pa.string()))
    if "number" in column.kinds:
        found.append(pa.field(f"{column.alias}_n", pa.float64()))
    if "time" in column.kinds:
        found.append(pa.field(f"{column.alias}_t", _LOCAL))
        found.append(pa.field(f"{column.alias}_z", _ZONED))
    return found


def arrays(column: Column, values: Sequence[Any], timezone: str) -> list[pa.Array]:
    """Return one chunk of a column as :func:`fields` describes it.

    Raises
    ------
    DataError
        For bytes, lists and others that are neither text, numbers nor times.
    """
    rows = len(values)
    plain = set(map(type, values)) <= {str, type(None)}
    zone = ZoneInfo(timezone)
    has_text = bool(column.kinds & {"id", "text", "boolean"})
    text = values if plain else [_text(value, column.own, zone) for value in values]
    found = [pa.array(text, pa.string()) if has_text else pa.nulls(rows, pa.string())]
    if not column.kinds & {"number", "time"}:
        return found
    typed: list[Any] = [None] * rows if plain else list(values)
    numbers: list[float | None] = [None] * rows
    local: list[datetime | None] = [None] * rows
    zoned: list[datetime | None] = [None] * rows
    strings = list(text)
    for place, value in enumerate(typed):
        if isinstance(value, _NUMBER) and not isinstance(value, bool) and "number" in column.kinds:
            numbers[place], strings[place] = _float(value), None
        elif isinstance(value, date) and "time" in column.kinds:
            strings[place] = None
            if not isinstance(value, datetime):
                local[place] = datetime.combine(value, time())
            elif value.tzinfo is None:
                local[place] = value
            else:
                zoned[place] = value
    found.append(pa.array(strings, pa.string()))
    if "number" in column.kinds:
        found.append(pa.array(numbers, pa.float64()))
    if "time" in column.kinds:
        found += [pa.array(local, _LOCAL), pa.array(zoned, _ZONED)]
    return found


def _float(value: int | float | Decimal) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")  # counted as no number that 64 bits hold


def _text(value: Any, column: str, zone: ZoneInfo) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        local = value if value.tzinfo is None else value.astimezone(zone).replace(tzinfo=None)
        return local.isoformat(" ")
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, int | float | date | time | UUID):
        return str(value)
    kind = type(value).__name__
    raise DataError(
        f"column {column} holds {kind} values, which are neither text, numbers nor times; convert "
        "it in a view"
    )
