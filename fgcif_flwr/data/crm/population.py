"""Which customers get a row: those who were customers at the cut-off."""

from __future__ import annotations

from typing import Final

import duckdb

from fgcif_flwr.data.crm.window import Window
from fgcif_flwr.data.records import Records
from fgcif_flwr.errors import DataError

POPULATION: Final = "fgcif_built_population"
"""Columns ``code`` (by order of the ids, from 0) and ``customer`` (the id)."""

_BUYERS: Final = """
SELECT DISTINCT customer FROM transactions
WHERE time >= $start AND time < $cutoff AND NOT coalesce(returned, false)
    AND customer IS NOT NULL
"""
_UNDER_CONTRACT: Final = """
SELECT DISTINCT customer FROM customers
WHERE customer IS NOT NULL AND (since IS NULL OR since < $cutoff)
    AND (contract_end IS NULL OR contract_end >= $cutoff)
"""
_ALL_IN_MASTER_DATA: Final = """
SELECT DISTINCT customer FROM customers
WHERE customer IS NOT NULL AND (since IS NULL OR since < $cutoff)
"""


def build_population(
    connection: duckdb.DuckDBPyConnection, records: Records, window: Window
) -> int:
    """Make the table :data:`POPULATION` and return how many customers it has.

    By the rule of churn: those with a purchase in the history (``no-purchase``); those in the
    master data who came before the cut-off (or have no ``since``) and whose contract had not
    ended by then (``contract-ended``); those who came before it (``column``).

    Raises
    ------
    DataError
        If there are none.
    """
    if records.churn == "no-purchase":
        chosen, times = _BUYERS, window.times("start", "cutoff")
        what = "a purchase before"
    else:
        ended = records.churn == "contract-ended"
        chosen, times = _UNDER_CONTRACT if ended else _ALL_IN_MASTER_DATA, window.times("cutoff")
        what = "a contract that runs on" if ended else "master data from before"
    connection.execute(
        f"CREATE TEMP TABLE {POPULATION} AS "
        "SELECT CAST(row_number() OVER (ORDER BY customer) - 1 AS INTEGER) AS code, customer "
        f"FROM ({chosen})",
        times,
    )
    count = connection.execute(f"SELECT count(*) FROM {POPULATION}").fetchone()
    if count is None or count[0] == 0:
        raise DataError(
            f"no customer has {what} the cut-off {window.cutoff.date()}; see that times and the "
            "cut-off are of one year, and that the mapping names the right columns"
        )
    return int(count[0])
