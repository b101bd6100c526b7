"""From the records of CRM systems to one row of features and targets for each customer.

The work is done by DuckDB in queries of fixed form; a word or name of anyone's enters them as a
parameter or a quoted identifier. ``docs/features.md`` defines every column.

What leaves no trace: a row at or after the cut-off in a feature, one before it in the target of
the rule ``no-purchase``, the order of rows, and one customer's rows in another's.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import date
from typing import Final

import duckdb
import pyarrow as pa

from fgcif_flwr.data.crm.behaviour import behaviour_features
from fgcif_flwr.data.crm.contacts import contact_features
from fgcif_flwr.data.crm.outcome import needs_purchases, outcomes, refuse_short_horizon
from fgcif_flwr.data.crm.population import POPULATION, build_population
from fgcif_flwr.data.crm.purchases import days, load_lines, purchase_features
from fgcif_flwr.data.crm.window import Derived, Window
from fgcif_flwr.data.records import (
    BEHAVIOUR_COLUMNS,
    CATEGORY_SHARE,
    CONTACT_COLUMNS,
    CONTACTS_BY,
    PURCHASE_COLUMNS,
    TOPIC,
    Records,
)
from fgcif_flwr.data.schema import Schema
from fgcif_flwr.errors import DataError, MissingColumnError, SchemaError

COMPONENTS: Final = ("customers", "transactions", "events", "interactions")
"""Names of the views that are read; see :mod:`fgcif_flwr.data.crm.sources`."""

_PREFIX: Final = "fgcif_built_"


def build_features(
    connection: duckdb.DuckDBPyConnection,
    schema: Schema,
    *,
    cutoff: date | None = None,
    targets: bool = True,
    complete_until: date | None = None,
) -> pa.Table:
    """Derive the table of customers that ``schema`` describes.

    Parameters
    ----------
    connection
        With the views of the components that the enterprise has. Temporary tables are made in it
        and removed.
    schema
        With a ``[records]`` section.
    cutoff
        Another cut-off than that of the schema.
    targets
        Whether to add the targets' columns, which need records of the whole horizon.
    complete_until
        First day of which the components hold nothing more; without it, the purchases must show
        that they reach the end of the horizon.

    Returns
    -------
    pa.Table
        The id column as text, then each column that a feature or target names, once; ordered by
        the ids' UTF-8 bytes. Features of a component that the enterprise has not are missing.

    Raises
    ------
    SchemaError
        If ``schema`` has no ``[records]``.
    DataError
        If a component that the rule of churn or a target needs is absent, no customer is found,
        a customer is twice in the master data, or the purchases end before the horizon.
    MissingColumnError
        If a column of the master data is not there.
    ValueOutOfKindError
        If numbers are infinite or too large to be summed (counted).
    """
    records = schema.records
    if records is None or schema.id_column is None:
        raise SchemaError(f"schema {schema.name} has no [records] section to derive features by")
    wanted = list(dict.fromkeys(feature.column for feature in schema.features))
    asked = [t.column for t in schema.targets if t.column is not None] if targets else []
    window = Window.of(records, cutoff, targets)
    try:
        have = _components(connection)
        _refuse_absent(records, have, asked)
        try:
            if needs_purchases(records, asked):
                refuse_short_horizon(connection, window, complete_until)
            found = _derive(connection, records, window, have, wanted, asked)
            return _joined(
                connection, records, window, found, have, schema.id_column, [*wanted, *asked]
            )
        finally:
            _remove_tables(connection)
    except duckdb.Error as error:
        # DuckDB's own text may quote a value.
        kind = type(error).__name__
        raise DataError(
            f"features cannot be derived: the database engine stopped with {kind}; see that the "
            "tables can be read, and that memory and disk suffice"
        ) from None


def _components(connection: duckdb.DuckDBPyConnection) -> set[str]:
    rows = connection.execute(
        "SELECT table_name FROM information_schema.tables "
        "WHERE table_catalog IN (current_database(), 'temp')"
    ).fetchall()
    return {name for (name,) in rows} & {*COMPONENTS}


def _refuse_absent(records: Records, have: set[str], targets: Sequence[str]) -> None:
    needed = {"no-purchase": "transactions"}.get(records.churn, "customers")
    if needed not in have:
        raise DataError(
            f"the schema's rule of churn, {records.churn}, wants {needed}; name their table in "
            f"[data.{needed}]"
        )
    if needs_purchases(records, targets) and "transactions" not in have:
        raise DataError(
            "the schema's targets want transactions; name their table in [data.transactions]"
        )


def _derive(
    connection: duckdb.DuckDBPyConnection,
    records: Records,
    window: Window,
    have: set[str],
    wanted: Sequence[str],
    targets: Sequence[str],
) -> list[Derived]:
    if "customers" in have:
        _refuse_repeated_customers(connection)
    build_population(connection, records, window)
    found = []
    if "transactions" in have:
        purchases = [c for c in wanted if c in PURCHASE_COLUMNS or c.startswith(CATEGORY_SHARE)]
        if purchases or needs_purchases(records, targets):
            load_lines(connection, window, [*purchases, *targets])
        if purchases:
            found += purchase_features(connection, records, window, purchases)
    found += outcomes(connection, records, window, targets)
    if "events" in have and {*wanted} & {*BEHAVIOUR_COLUMNS}:
        found += behaviour_features(connection, records, window)
    contacts = [c for c in wanted if c in CONTACT_COLUMNS or c.startswith((CONTACTS_BY, TOPIC))]
    if "interactions" in have and contacts:
        found += contact_features(connection, records, window, contacts)
    return found


def _refuse_repeated_customers(connection: duckdb.DuckDBPyConnection) -> None:
    row = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM customers WHERE customer IS NOT NULL "
        "GROUP BY customer HAVING count(*) > 1)"
    ).fetchone()
    if row is not None and row[0]:
        raise DataError(
            f"customers: {row[0]} customers are there more than once; keep one row of each"
        )


def _joined(
    connection: duckdb.DuckDBPyConnection,
    records: Records,
    window: Window,
    found: Sequence[Derived],
    have: set[str],
    id_column: str,
    columns: Sequence[str],
) -> pa.Table:
    """Return the wanted columns of all derived tables beside each other."""
    expressions: dict[str, str] = {}
    joins = []
    for place, derived in enumerate(found):
        names = {name: f"e{place}_{i}" for i, name in enumerate(derived.expressions)}
        # Taken for every customer, also one without rows: there, an expression decides what is 0.
        inner = "".join(f", {derived.expressions[name]} AS {names[name]}" for name in names)
        joins.append(
            f"LEFT JOIN (SELECT q.code AS of_code {inner} FROM {POPULATION} q "
            f"LEFT JOIN {derived.table} d ON d.code = q.code) t{place} ON t{place}.of_code = p.code"
        )
        expressions |= {name: f"t{place}.{alias}" for name, alias in names.items()}
    if "customers" in have:
        joins.append("LEFT JOIN customers m ON m.customer = p.customer")
        cutoff = f"TIMESTAMP '{window.cutoff.isoformat(sep=' ')}'"
        since_bought = expressions.get("tenure_days", "NULL")
        expressions["tenure_days"] = (
            f"CASE WHEN m.since < {cutoff} THEN {days('m.since', cutoff)} ELSE {since_bought} END"
        )
    expressions |= _master_data(connection, records, have, columns)
    chosen = "".join(
        f", {expressions.get(column, 'CAST(NULL AS DOUBLE)')} AS c{place}"
        for place, column in enumerate(columns)
    )
    table = connection.sql(
        f"SELECT p.customer {chosen} FROM {POPULATION} p {' '.join(joins)} ORDER BY p.code"
    ).to_arrow_table()
    return table.rename_columns([id_column, *columns])


def _master_data(
    connection: duckdb.DuckDBPyConnection,
    records: Records,
    have: set[str],
    columns: Sequence[str],
) -> dict[str, str]:
    """Return the master data's own columns, quoted, by name."""
    wanted = [name for name in columns if name in records.master]
    if not wanted:
        return {}
    if "customers" not in have:
        raise MissingColumnError(
            f"the schema wants {', '.join(wanted)} of the customers' master data; name their table "
            "in [data.customers]"
        )
    described = connection.execute("DESCRIBE customers").fetchall()
    # DuckDB's names do not differ by case alone, the schema's do.
    there = {row[0] for row in described}
    absent = [name for name in wanted if name not in there]
    if absent:
        near = difflib.get_close_matches(absent[0], sorted(there), n=1, cutoff=0.6)
        hint = f" (there is {near[0]})" if near else ""
        raise MissingColumnError(
            f"the customers' master data lack {', '.join(absent)}{hint}; map them in "
            "[data.customers.columns]"
        )
    return {name: 'm."' + name.replace('"', '""') + '"' for name in wanted}


def _remove_tables(connection: duckdb.DuckDBPyConnection) -> None:
    rows = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE temporary AND starts_with(table_name, $p)",
        {"p": _PREFIX},
    ).fetchall()
    for (name,) in rows:
        connection.execute(f'DROP TABLE IF EXISTS temp."{name}"')
