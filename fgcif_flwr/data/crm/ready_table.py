"""A table that has one row for each customer already, under the schema's names and words."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from fgcif_flwr.config.crm import CrmData
from fgcif_flwr.data.crm.columns_wanted import (
    choose,
    names_strange_to,
    schema_columns,
    setting_advised,
)
from fgcif_flwr.data.crm.conversion import Wanted, identifier, literal
from fgcif_flwr.data.crm.findings import Rows
from fgcif_flwr.data.crm.report import ComponentReport, Finding
from fgcif_flwr.data.crm.sources import SQL_TYPES, Strictness, kept, load, open_table, stopped
from fgcif_flwr.data.schema import Schema
from fgcif_flwr.errors import DataError

_NAME = "table"


def read_ready_table(
    connection: duckdb.DuckDBPyConnection, data: CrmData, schema: Schema, *, targets: bool = True
) -> tuple[pa.Table, ComponentReport]:
    """Read ``data.table`` as the schema has it: the id, features and targets.

    Numbers are float64 in the schema's unit, all else is text: words of the schema, where
    ``words`` maps the table's own. Rows keep their order. A column that is not there is null, and
    a fault in the report.

    Raises
    ------
    DataError, ConfigurationError
        If the table cannot be read at all, or its source is described wrongly.
    """
    source = data.table
    if source is None:
        raise DataError("there is no ready table in [data]")
    wanted = schema_columns(schema, schema.missing, targets=targets)
    table = open_table(connection, source)
    demanded = [column.name for column in wanted]
    choice = choose(wanted, source, table.names, demanded, header=table.has_header_line)
    key = () if schema.id_column is None else (schema.id_column,)
    strictness = Strictness(data.duplicates, data.unreadable)
    rows, counted = load(
        connection, "ready", table, choice, source, key, schema.id_column, strictness
    )
    # Without the id no row can be told from another: what the others hold is still looked at.
    found_key = tuple(name for name in key if rows.value(name) is not None)
    chosen = ", ".join(f"{_value(rows, one)} AS {identifier(one.name)}" for one in wanted)
    where = kept(rows, found_key, schema.id_column)
    query = f"SELECT {chosen} FROM {rows.relation} WHERE {where} ORDER BY rowid"
    try:
        read = connection.sql(query).to_arrow_table()
    except duckdb.Error as error:
        raise stopped(source, error) from None
    strange = names_strange_to(schema_columns(schema, ()), source)
    advised = setting_advised(choice, table.advice)
    findings = (*_settings(strange), *advised, *choice.findings, *counted.findings)
    columns = {column.name: column.own for column in choice.columns}
    report = ComponentReport(_NAME, counted.rows, counted.kept, findings, columns)
    return read, report


def _value(rows: Rows, wanted: Wanted) -> str:
    value = rows.value(wanted.name)
    if value is None:
        kind = "text" if wanted.kind == "boolean" else wanted.kind
        return f"CAST(NULL AS {SQL_TYPES[kind]})"
    if wanted.kind == "boolean":
        true, false = literal(wanted.true[0]), literal(wanted.false[0])
        return f"CASE WHEN {value} THEN {true} WHEN NOT {value} THEN {false} END"
    return value


def _settings(strange: list[str]) -> list[Finding]:
    return [
        Finding(
            "settings",
            "fault",
            "",
            f"the configuration speaks of a column {name}, which the schema does not have",
            advice="write the schema's name there, and the table's own after it",
        )
        for name in strange
    ]
