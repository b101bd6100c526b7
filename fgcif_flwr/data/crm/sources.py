"""One table of an enterprise under the project's names and types, in a DuckDB connection.

It is read once, converted, and kept in a table of the connection, which DuckDB moves to its
temporary directory where the memory does not suffice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal
from zoneinfo import ZoneInfo

import duckdb

from fgcif_flwr.config.crm import COMPONENT_COLUMNS, Component, TableSource
from fgcif_flwr.data.crm.columns_wanted import (
    Choice,
    choose,
    component_columns,
    not_mapped,
    setting_advised,
)
from fgcif_flwr.data.crm.conversion import Kind, RawColumn, Wanted, conversion, identifier
from fgcif_flwr.data.crm.csv_source import CsvTable
from fgcif_flwr.data.crm.file_source import ParquetTable, files_of, is_parquet
from fgcif_flwr.data.crm.findings import Counted, Rows, count_findings
from fgcif_flwr.data.crm.listed_codes import unlisted_codes
from fgcif_flwr.data.crm.reading import Table
from fgcif_flwr.data.crm.report import ComponentReport
from fgcif_flwr.data.crm.sql_source import DatabaseTable
from fgcif_flwr.data.crm.suggestions import suggested
from fgcif_flwr.data.schema import Schema
from fgcif_flwr.errors import ConfigurationError, DataError

SQL_TYPES: Final[dict[Kind, str]] = {
    "id": "VARCHAR",
    "text": "VARCHAR",
    "number": "DOUBLE",
    "time": "TIMESTAMP",
    "boolean": "BOOLEAN",
}


@dataclass(frozen=True)
class Strictness:
    """What becomes of rows and values that cannot be used; see :class:`CrmData`."""

    duplicates: Literal["refuse", "last"] = "refuse"
    unreadable: Literal["refuse", "missing"] = "refuse"


_STRICT: Final = Strictness()


def attach(
    connection: duckdb.DuckDBPyConnection,
    component: Component,
    source: TableSource,
    schema_missing: Sequence[str],
    *,
    schema: Schema | None = None,
    strictness: Strictness = _STRICT,
) -> ComponentReport:
    """Make a view named as the component, with the project's columns and types.

    Columns are those of :data:`COMPONENT_COLUMNS` (``transactions`` without ``quantity`` and
    ``price``), null where the table has none; of ``customers`` also every other mapped one, and
    the schema's master data, as VARCHAR. Rows without a customer or a time are not in the view. A
    value that cannot be of its column's kind is null there and counted in the report.

    Parameters
    ----------
    connection
        Gets the view, and a table ``<component>_rows`` under it; both are replaced.
    component, source
    schema_missing
        The schema's words for a missing value.
    schema
        Says what master data there are, and which of them are numbers.
    strictness
        Whether faults are only warnings.

    Raises
    ------
    DataError
        If the table cannot be read at all.
    ConfigurationError
        If the source is described wrongly: an unknown encoding, time zone or time format.
    """
    wanted = component_columns(component, source, schema_missing, schema)
    table = open_table(connection, source)
    demanded = schema.records.master if schema is not None and schema.records is not None else ()
    choice = choose(wanted, source, table.names, demanded, header=table.has_header_line)
    if component == "transactions":
        choice = _amount_or_its_factors(choice, source)
    required = ("customer",) if component == "customers" else ("customer", "time")
    unique = "customer" if component == "customers" else None
    rows, counted = load(connection, component, table, choice, source, required, unique, strictness)
    failed = _failure(
        connection,
        f"CREATE OR REPLACE VIEW {component} AS SELECT {_projection(component, wanted, rows)} "
        f"FROM {rows.relation} WHERE {kept(rows, required, unique)}",
    )
    if failed is not None:
        raise stopped(source, failed)
    if schema is not None:
        try:
            codes = unlisted_codes(connection, component, choice, schema)
        except duckdb.Error as error:
            raise stopped(source, error) from None
    else:
        codes = []
    advised = setting_advised(choice, table.advice)
    absent = (*advised, *choice.findings, *not_mapped(component, choice))
    findings = (*absent, *counted.findings, *codes)
    columns = {column.name: column.own for column in choice.columns}
    return ComponentReport(component, counted.rows, counted.kept, findings, columns)


def open_table(connection: duckdb.DuckDBPyConnection, source: TableSource) -> Table:
    """Open the table that a source names, whatever it is in; no row is read."""
    try:
        ZoneInfo(source.timezone)
    except (KeyError, ValueError, OSError):
        raise ConfigurationError(
            f"timezone {source.timezone} is unknown; write its IANA name, as in Europe/Berlin"
        ) from None
    if source.is_database:
        return DatabaseTable(source)
    files = files_of(source)
    if is_parquet(files):
        return ParquetTable(connection, source, files)
    return CsvTable(source, files)


def load(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    table: Table,
    choice: Choice,
    source: TableSource,
    required: Sequence[str],
    unique: str | None,
    strictness: Strictness,
) -> tuple[Rows, Counted]:
    """Read the chosen columns into the table ``<name>_rows``, and count what is wrong."""
    columns = choice.columns
    rows = Rows(f"{name}_rows", columns, source.timezone)
    wanted: dict[str, frozenset[Kind]] = {}
    for column in columns:
        wanted[column.own] = wanted.get(column.own, frozenset()) | {column.kind}
    with table.scan(connection, wanted) as scan:
        query = _conversion_query(columns, scan.columns, scan.relation, source)
        failed = _failure(connection, f"CREATE OR REPLACE TABLE {rows.relation} AS {query}")
        reason = scan.error()
        rows = replace(rows, rejected=scan.rejected())
    if failed is not None:
        raise DataError(reason) if reason is not None else stopped(source, failed)
    try:
        counted = count_findings(
            connection,
            rows,
            required,
            unique=unique,
            last_one_kept=strictness.duplicates == "last",
            unreadable="fault" if strictness.unreadable == "refuse" else "warning",
        )
        return rows, _advised(connection, table, columns, source, counted)
    except duckdb.Error as error:
        raise stopped(source, error) from None


def _failure(connection: duckdb.DuckDBPyConnection, query: str) -> duckdb.Error | None:
    """Run a query and return its error, to be told outside of its handler."""
    try:
        connection.execute(query)
    except duckdb.Error as error:
        return error
    return None


def stopped(source: TableSource, error: duckdb.Error) -> ConfigurationError | DataError:
    """Return what an error of DuckDB means, without its text, which may quote a value."""
    kind = type(error).__name__
    if kind == "InvalidInputException" and source.time_format:
        return ConfigurationError(
            "time_format is not one that strptime takes, as in %d.%m.%Y %H:%M"
        )
    what = source.table if source.is_database else source.source
    return DataError(
        f"{what} cannot be read: the database engine stopped with {kind}; see that the table is "
        "whole, and that memory and disk suffice"
    )


def _advised(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    columns: Sequence[Wanted],
    source: TableSource,
    counted: Counted,
) -> Counted:
    """Say of unreadable numbers and times which settings of the source would fit them."""
    kinds = ("not-a-number", "not-a-time")
    doubtful = {found.column for found in counted.findings if found.kind in kinds}
    if not doubtful:
        return counted
    asked = [column for column in columns if column.own in doubtful]
    with table.scan(connection, {one.own: frozenset({"text"}) for one in asked}) as scan:
        advice = suggested(connection, scan, source, asked)
    findings = tuple(
        replace(found, advice=advice[found.column])
        if found.kind in kinds and found.column in advice
        else found
        for found in counted.findings
    )
    return replace(counted, findings=findings)


def kept(rows: Rows, required: Sequence[str], unique: str | None) -> str:
    """Return the SQL condition of the rows that are used: complete, and the last of their id."""
    keep = rows.present(required)
    key = rows.value(unique) if unique else None
    if key is None:
        return keep
    return f"rowid IN (SELECT max(rowid) FROM {rows.relation} WHERE {keep} GROUP BY {key})"


def _conversion_query(
    columns: Sequence[Wanted], raw: Mapping[str, RawColumn], relation: str, source: TableSource
) -> str:
    steps = [conversion(i, c, raw[c.own], source) for i, c in enumerate(columns)]
    if not steps:
        return f"SELECT 0 AS nothing FROM {relation}"
    for level in ("raw", "known", "parsed"):
        named = {alias: sql for step in steps for alias, sql in getattr(step, level).items()}
        chosen = ", ".join(f"{sql} AS {alias}" for alias, sql in named.items())
        relation = f"(SELECT {chosen} FROM {relation})"
    found = []
    for place, step in enumerate(steps):
        found += [f"{step.value} AS v{place}", f"({step.fault}) AS f{place}"]
        if step.naive is not None:
            found.append(f"({step.naive}) AS w{place}")
    return f"SELECT {', '.join(found)} FROM {relation}"


def _amount_or_its_factors(choice: Choice, source: TableSource) -> Choice:
    """Leave ``amount`` away where the configuration names quantity and price in its stead."""
    if "amount" in source.columns or not {"quantity", "price"} <= set(source.columns):
        return choice
    return replace(choice, columns=tuple(c for c in choice.columns if c.name != "amount"))


def _projection(component: Component, wanted: Sequence[Wanted], rows: Rows) -> str:
    """Return the view's columns: the project's names over the converted ones."""
    found: dict[str, str] = {}
    for place, column in enumerate(wanted):
        kind = SQL_TYPES[column.kind if place < len(COMPONENT_COLUMNS[component]) else "text"]
        value = rows.value(column.name)
        found[column.name] = f"CAST({value or 'NULL'} AS {kind})"
    if component == "transactions":
        quantity, price = found.pop("quantity"), found.pop("price")
        if rows.value("amount") is None:
            found["amount"] = f"{quantity} * {price}"
        signs = (f"{one} < 0" for one in (quantity, found["amount"]))
        found["returned"] = " OR ".join(
            f"coalesce({one}, false)" for one in (found["returned"], *signs)
        )
    if component == "events" and rows.value("kind") is None:
        found["kind"] = "'view'"
    return ", ".join(f"{sql} AS {identifier(name)}" for name, sql in found.items())
