"""What a source's settings look to be, where values do not fit those that it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import duckdb

from fgcif_flwr.config.crm import TableSource
from fgcif_flwr.data.crm.conversion import (
    Wanted,
    known_text,
    literal,
    number_pattern,
    parsed_time,
    trimmed,
)
from fgcif_flwr.data.crm.reading import Scan

_MARKS: Final = ((".", ""), (",", ""), (",", "."), (".", ","), (",", " "), (".", " "), (".", "'"))
_DAYS: Final = (
    "%Y-%m-%d",
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d-%m-%Y",
    "%Y/%m/%d",
    "%Y%m%d",
    "%d.%m.%y",
    "%m/%d/%y",
)
_TIMES: Final = ("", " %H:%M", " %H:%M:%S", " %I:%M %p")
_MOST: Final = 0.5


def suggested(
    connection: duckdb.DuckDBPyConnection,
    scan: Scan,
    source: TableSource,
    columns: Iterable[Wanted],
) -> dict[str, str]:
    """Return advice by own name, for those of ``columns`` that other settings fit better.

    Numbers and times only. Settings are named that fit more than half of a column's values,
    and more of them than the present ones.
    """
    chosen = [column for column in columns if column.kind in ("number", "time")]
    inner, outer = [], []
    for place, column in enumerate(chosen):
        text = trimmed(scan.columns[column.own].text_of)
        inner.append(f"{text} AS r{place}")
        outer += [f"count(r{place})", *_fits(place, column, source)]
    if not chosen:
        return {}
    known = ", ".join(
        f"{known_text(f'r{place}', column.missing, column.words)} AS r{place}"
        for place, column in enumerate(chosen)
    )
    query = (
        f"SELECT {', '.join(outer)} FROM "
        f"(SELECT {known} FROM (SELECT {', '.join(inner)} FROM {scan.relation}))"
    )
    (row,) = connection.execute(query).fetchall()
    counts = list(row)
    found = {}
    for column in chosen:
        total, counts = counts[0], counts[1:]
        options = _options(column)
        own, *fitting = counts[: len(options) + 1]
        counts = counts[len(options) + 1 :]
        best = max(fitting, default=0)
        if best > own and best > _MOST * total:
            likely = [o for o, n in zip(options, fitting, strict=True) if n == best]
            found[column.own] = f"{best} of {total} values look like {_either(column, likely)}"
    return found


def _options(column: Wanted) -> list[Mapping[str, str]]:
    if column.kind == "number":
        return [{"decimal": decimal, "thousands": thousands} for decimal, thousands in _MARKS]
    return [{"time_format": day + time} for day in _DAYS for time in _TIMES]


def _fits(place: int, column: Wanted, source: TableSource) -> list[str]:
    """Return SQL that counts the values that the present settings fit, and each option."""
    text = f"r{place}"
    settings = [source, *(source.model_copy(update=dict(o)) for o in _options(column))]
    if column.kind == "number":
        patterns = (literal(number_pattern(one.decimal, one.thousands)) for one in settings)
        return [f"count(*) FILTER (WHERE regexp_full_match({text}, {one}))" for one in patterns]
    times = (parsed_time(text, one) for one in settings)
    return [f"count(*) FILTER (WHERE year({time}) >= 1900)" for time in times]


def _either(column: Wanted, likely: list[Mapping[str, str]]) -> str:
    shown = likely[:2] if column.kind == "time" else likely[:1]
    return " or ".join(
        " and ".join(f'{key} = "{value}"' for key, value in one.items() if value) for one in shown
    )
