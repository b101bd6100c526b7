"""One row per customer from lines of purchases, by a fixed query.

The schema's ``[transactions]`` section names columns and dates; it never holds SQL. Columns are
renamed in Arrow before DuckDB sees them, so no name of a file gets into the query either.

Definitions, per customer, over lines before the cut-off day:
    purchase: a line of positive quantity; return: a line of negative quantity.
    recency_days, tenure_days: from the last, the first purchase to the cut-off, in days.
    frequency: distinct invoices. monetary: sum of quantity x price, in ``currency``.
    mean_interpurchase_days: (last - first purchase) / (frequency - 1); missing with one invoice.
    items: sum of quantities. distinct_products. returns: lines of negative quantity.
    country: of the last purchase.
    churn: "yes" if no purchase in the ``horizon_days`` days from the cut-off, else "no".
Lines without a customer are dropped; customers without a purchase before the cut-off too.
"""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import Final

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgcif_flwr.data.columns import as_numbers, as_text, check_columns
from fgcif_flwr.data.schema import Schema, Transactions
from fgcif_flwr.errors import DataError, ValueOutOfKindError

DERIVED_COLUMNS: Final = (
    "recency_days",
    "frequency",
    "monetary",
    "tenure_days",
    "mean_interpurchase_days",
    "items",
    "distinct_products",
    "returns",
    "country",
    "churn",
)

_QUERY: Final = """
WITH purchases AS (SELECT * FROM lines WHERE quantity > 0),
history AS (
    SELECT customer,
        date_diff('second', max(time), $cutoff) / 86400.0 AS recency_days,
        count(DISTINCT invoice) AS frequency,
        sum(quantity * price) AS monetary,
        date_diff('second', min(time), $cutoff) / 86400.0 AS tenure_days,
        date_diff('second', min(time), max(time)) / 86400.0
            / nullif(count(DISTINCT invoice) - 1, 0) AS mean_interpurchase_days,
        sum(quantity) AS items,
        count(DISTINCT product) AS distinct_products,
        last(country ORDER BY time, country) AS country
    FROM purchases WHERE time < $cutoff GROUP BY customer
),
returned AS (
    SELECT customer, count(*) AS returns
    FROM lines WHERE quantity < 0 AND time < $cutoff GROUP BY customer
),
retained AS (SELECT DISTINCT customer FROM purchases WHERE time >= $cutoff AND time < $until)
SELECT history.*, coalesce(returns, 0) AS returns,
    CASE WHEN retained.customer IS NULL THEN 'yes' ELSE 'no' END AS churn
FROM history
LEFT JOIN returned ON returned.customer = history.customer
LEFT JOIN retained ON retained.customer = history.customer
ORDER BY history.customer
"""


def is_transactions(schema: Schema, table: pa.Table) -> bool:
    """Whether ``table`` holds the schema's transaction lines and not yet its derived columns."""
    if schema.transactions is None:
        return False
    have = set(table.column_names)
    return not {f.column for f in schema.features} <= have and _columns(schema.transactions) <= have


def customer_table(schema: Schema, table: pa.Table) -> pa.Table:
    """Derive the table of customers: the id column as text, then :data:`DERIVED_COLUMNS`.

    Rows are ordered by id, and the same lines in the same order give the same table.

    Raises
    ------
    MissingColumnError
        If a column of the transaction lines is not there.
    ValueOutOfKindError
        If lines with a customer lack a time, quantity or price, or hold what is none (counted).
    DataError
        If no line is on or after the cut-off, so that churn cannot be known, or no customer has
        a purchase before it.
    """
    settings = schema.transactions
    if settings is None or schema.id_column is None:
        raise DataError(f"schema {schema.name} has no [transactions] section to derive from")
    check_columns(table, sorted(_columns(settings)))
    lines = _lines(schema, settings, table)
    cutoff = datetime.combine(settings.cutoff, time())
    last = pc.max(lines["time"]).as_py()
    until = cutoff + timedelta(days=settings.horizon_days)
    # The last day of the horizon must have begun: without it, late customers would look churned.
    if last is None or last < until - timedelta(days=1):
        raise DataError(
            f"the lines end before the {settings.horizon_days} days after the cut-off "
            f"{settings.cutoff}: who churned cannot be known; move transactions.cutoff, or add "
            "later lines"
        )
    # One thread, so that sums of floats have one order; no access to files or the network.
    with duckdb.connect(
        ":memory:", config={"threads": 1, "enable_external_access": False}
    ) as connection:
        connection.register("lines", lines)
        derived = connection.sql(_QUERY, params={"cutoff": cutoff, "until": until})
        customers = derived.to_arrow_table()
    if customers.num_rows == 0:
        raise DataError(f"no customer has a purchase before the cut-off {settings.cutoff}")
    columns = {schema.id_column: customers["customer"]}
    columns |= {name: customers[name] for name in DERIVED_COLUMNS}
    return pa.table(columns)


def _columns(settings: Transactions) -> set[str]:
    names = settings.model_dump(exclude={"cutoff", "horizon_days", "currency"}, exclude_none=True)
    return set(names.values())


def _lines(schema: Schema, settings: Transactions, table: pa.Table) -> pa.Table:
    """Return the lines that have a customer, under fixed names and types."""
    customers = as_text(table[settings.customer], schema.missing, settings.customer)
    known = pc.is_valid(customers)
    table = table.filter(known)
    if table.num_rows == 0:
        raise DataError(f"column {settings.customer}: no line has a customer")

    def text(column: str) -> pa.Array:
        return as_text(table[column], schema.missing, column)

    def number(column: str) -> npt.NDArray[np.float64]:
        numbers = as_numbers(table[column], schema.missing, column)
        _refuse_missing(int(np.isnan(numbers).sum()), len(numbers), column)
        return numbers

    country = text(settings.country) if settings.country else pa.nulls(len(table), pa.string())
    return pa.table(
        {
            "customer": customers.filter(known),
            "time": _times(schema, table, settings.time),
            "quantity": number(settings.quantity),
            "price": number(settings.price),
            "product": text(settings.product),
            "invoice": text(settings.invoice),
            "country": country,
        }
    )


def _times(schema: Schema, table: pa.Table, column: str) -> pa.ChunkedArray:
    values = table[column]
    kind = pa.timestamp("us")
    if not (pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)):
        values = as_text(values, schema.missing, column)
    try:
        times = values.cast(kind, safe=False)
    except pa.ArrowException:
        raise ValueOutOfKindError(
            f"column {column}: some lines hold no date and time as ISO 8601 writes it "
            "(2011-09-10 or 2011-09-10 08:26:00); convert them"
        ) from None
    _refuse_missing(times.null_count, len(times), column)
    return times


def _refuse_missing(count: int, lines: int, column: str) -> None:
    if count:
        raise ValueOutOfKindError(
            f"column {column}: missing in {count} of the {lines} lines that have a customer; "
            "fill them or remove these lines"
        )
