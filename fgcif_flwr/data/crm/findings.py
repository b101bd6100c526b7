"""What is wrong with the rows of one table, counted in one pass over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb

from fgcif_flwr.data.crm.conversion import Wanted
from fgcif_flwr.data.crm.daylight_saving import strange_hours
from fgcif_flwr.data.crm.report import Finding, FindingKind, Severity

_LENIENT: Final = 'or say unreadable = "missing" to'


@dataclass(frozen=True)
class Rows:
    """Converted rows of a table in a DuckDB connection.

    The relation has, by the place of a column in ``columns``: ``v<place>`` its value, ``f<place>``
    whether it has one that cannot be of its kind, ``w<place>`` (of times) whether that says no
    time zone.
    """

    relation: str
    columns: tuple[Wanted, ...]
    timezone: str
    rejected: int = 0

    def value(self, name: str) -> str | None:
        """Return the SQL of a column's value by the project's name; None without one."""
        for place, column in enumerate(self.columns):
            if column.name == name:
                return f"v{place}"
        return None

    def present(self, names: Sequence[str]) -> str:
        """Return the SQL condition that all of these columns have a value."""
        values = [self.value(name) for name in names]
        if None in values:
            return "false"
        return " AND ".join(f"{value} IS NOT NULL" for value in values) or "true"


@dataclass(frozen=True)
class Counted:
    """How many rows there are, how many of them are used, and what was found."""

    rows: int
    kept: int
    findings: tuple[Finding, ...]


def count_findings(
    connection: duckdb.DuckDBPyConnection,
    rows: Rows,
    required: Sequence[str],
    *,
    unique: str | None = None,
    last_one_kept: bool = False,
    unreadable: Severity = "fault",
) -> Counted:
    """Count what is wrong with ``rows``.

    Parameters
    ----------
    required
        Columns without which a row is left out.
    unique
        The column that is to be another in every row.
    last_one_kept
        Whether rows that repeat it are left out but for the last.
    unreadable
        What a value is that cannot be of its kind.
    """
    keep = rows.present(required)
    every = [f"v{place}" for place in range(len(rows.columns))]
    asked = ["count(*)", f"count(*) FILTER (WHERE {keep})"]
    asked.append(
        f"count(DISTINCT hash({', '.join(every)})) FILTER (WHERE {keep})" if every else "0"
    )
    key = rows.value(unique) if unique else None
    asked.append(f"count(DISTINCT {key}) FILTER (WHERE {keep})" if key else "NULL")
    for place in range(len(rows.columns)):
        asked += [
            f"count(*) FILTER (WHERE v{place} IS NULL AND NOT f{place})",
            f"count(*) FILTER (WHERE f{place})",
            f"count(v{place}) FILTER (WHERE {keep})",
            f"min(v{place}) FILTER (WHERE {keep}) = max(v{place}) FILTER (WHERE {keep})",
        ]
    (result,) = connection.execute(f"SELECT {', '.join(asked)} FROM {rows.relation}").fetchall()
    total, kept, different, keys = result[:4]
    parts = [tuple(result[start : start + 4]) for start in range(4, len(result), 4)]
    findings: list[Finding] = []
    if rows.rejected:
        findings.append(_line_length(rows.rejected))
    for place, (column, counts) in enumerate(zip(rows.columns, parts, strict=True)):
        findings += _of_column(column, counts, column.name in required, kept, unreadable)
        if column.kind == "time":
            findings += _strange_hours(connection, rows, place)
    if keys is not None and unique is not None:
        own = next(column.own for column in rows.columns if column.name == unique)
        findings += _repeated(own, kept - keys, last_one_kept)
    if kept - different:
        twice = "where an export wrote them twice, they count twice; remove them there"
        findings.append(
            Finding(
                "duplicate-rows",
                "warning",
                "",
                "are equal to another one in every column that is read",
                kept - different,
                twice if keys is None else "",
            )
        )
    kept = kept if keys is None else keys
    if total == 0:
        findings.append(Finding("few", "fault", "", "the table has no rows"))
    elif kept == 0:
        findings.append(Finding("few", "fault", "", "no row of the table can be used"))
    return Counted(total + rows.rejected, kept, tuple(findings))


def _of_column(
    column: Wanted,
    counts: tuple[Any, ...],
    required: bool,
    kept: int,
    unreadable: Severity,
) -> list[Finding]:
    missing, faults, present, same = counts
    found = []
    if required and missing:
        found.append(_left_out(column, missing))
    if faults:
        found.append(_unreadable(column, faults, unreadable, required))
    elif kept and not present:
        found.append(
            Finding("empty", "warning", column.own, "hold no value", kept, "remove the mapping")
        )
    if kept > 1 and present == kept and same and column.kind != "id":
        found.append(
            Finding(
                "constant",
                "warning",
                column.own,
                "hold one and the same value, which tells nothing",
                kept,
            )
        )
    return found


def _left_out(column: Wanted, count: int) -> Finding:
    kind: FindingKind = "missing-id" if column.kind == "id" else "missing-time"
    what = "have no id of a customer" if column.kind == "id" else "have no time"
    return Finding(kind, "warning", column.own, f"{what} and are left out", count)


def _unreadable(column: Wanted, count: int, severity: Severity, required: bool) -> Finding:
    becomes = "left out" if required else "taken as missing"
    lenient = severity != "fault"
    taken = f" and are {becomes}" if lenient else ""

    def also(wanted: str) -> str:
        leave = "leave their rows out" if required else "take them as missing"
        return wanted if lenient else f"{wanted}, {_LENIENT} {leave}"

    if column.kind == "number":
        wanted = "write plain numbers, or set decimal and thousands of the source"
        what = "are not numbers"
        if column.bounds is not None:
            lower, upper = column.bounds
            what = f"are not numbers from {lower:g} to {upper:g}"
            wanted = "bring them to these bounds with units"
        return Finding("not-a-number", severity, column.own, what + taken, count, also(wanted))
    if column.kind == "time":
        wanted = "write 2026-01-31 or 2026-01-31 12:00:00, or set time_format of the source"
        return Finding(
            "not-a-time", severity, column.own, f"are not times{taken}", count, also(wanted)
        )
    if column.kind == "boolean":
        wanted = f"write {column.true[0]} and {column.false[0]}, or map the words in words"
        what = "are neither a word for yes nor one for no"
        return Finding("not-yes-or-no", severity, column.own, what + taken, count, also(wanted))
    if column.meanings is not None:
        what = f"are none of the {len(column.meanings)} words that there may be"
        advice = "map the table's own words in words"
        return Finding("no-class", severity, column.own, what + taken, count, advice)
    # A feature's unknown word is encoded as such. A target's would be taken for another class.
    decides: Severity = "fault" if column.name == "churned" or column.target else "warning"
    return Finding(
        "outside-mapping",
        decides,
        column.own,
        "hold a word that words does not list",
        count,
        "add it there, or to missing",
    )


def _line_length(count: int) -> Finding:
    return Finding(
        "line-length",
        "fault",
        "",
        "have more or fewer values than the header line",
        count,
        "quote values that hold the delimiter",
    )


def _repeated(own: str, count: int, last_one_kept: bool) -> list[Finding]:
    if count == 0:
        return []
    if last_one_kept:
        what, advice = "repeat the id of another row; of each the last one is kept", ""
    else:
        what = "repeat the id of another row"
        advice = 'leave one of each, or say duplicates = "last"'
    severity: Severity = "warning" if last_one_kept else "fault"
    return [Finding("repeated-id", severity, own, what, count, advice)]


def _strange_hours(connection: duckdb.DuckDBPyConnection, rows: Rows, place: int) -> list[Finding]:
    """Count local times that the clock showed twice or never."""
    flag = f"w{place}"
    ((earliest, latest),) = connection.execute(
        f"SELECT min(v{place}), max(v{place}) FROM {rows.relation} WHERE {flag}"
    ).fetchall()
    if earliest is None:
        return []
    hours = strange_hours(rows.timezone, earliest, latest)
    if not hours:
        return []
    where = " OR ".join(f"(v{place} >= ? AND v{place} < ?)" for _ in hours)
    bounds = [moment for pair in hours for moment in pair]
    ((count,),) = connection.execute(
        f"SELECT count(*) FROM {rows.relation} WHERE {flag} AND ({where})", bounds
    ).fetchall()
    if not count:
        return []
    return [
        Finding(
            "daylight-saving",
            "warning",
            rows.columns[place].own,
            f"are of an hour that the clock of {rows.timezone} showed twice or never",
            count,
            "they are taken as written; write times with their offset from UTC to be exact",
        )
    ]
