"""Targets: what customers did in the horizon, from the cut-off on."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, timedelta
from typing import Final

import duckdb

from fgcif_flwr.data.crm.exact_sums import UNITS
from fgcif_flwr.data.crm.population import POPULATION
from fgcif_flwr.data.crm.purchases import LINES
from fgcif_flwr.data.crm.window import Derived, Window
from fgcif_flwr.data.records import Records
from fgcif_flwr.errors import DataError

_OUTCOMES: Final = "fgcif_built_outcomes"
_CONTRACTS: Final = "fgcif_built_contracts"


def needs_purchases(records: Records, targets: Collection[str]) -> bool:
    """Whether the targets are observed in purchases of the horizon."""
    bought = {"value", "next_category"} & {*targets}
    return bool(bought) or ("churn" in targets and records.churn == "no-purchase")


def refuse_short_horizon(
    connection: duckdb.DuckDBPyConnection, window: Window, complete_until: date | None
) -> None:
    """Raise :class:`DataError` unless purchases were recorded to the last day of the horizon.

    Without that day, customers who buy late would look churned. ``complete_until`` is the first
    day that is not recorded any more; without it, a purchase on that last day must show it.
    """
    if complete_until is not None:
        if complete_until < window.until.date():
            raise DataError(
                f"data.complete_until is {complete_until}, before the horizon ends on "
                f"{window.until.date()}: what customers did in it cannot be known; take an earlier "
                "cut-off, or a later extract"
            )
        return
    row = connection.execute("SELECT max(time) FROM transactions").fetchone()
    if row is None or row[0] is None or row[0] < window.until - timedelta(days=1):
        days = (window.until - window.cutoff).days
        raise DataError(
            f"transactions end before the {days} days from the cut-off {window.cutoff.date()} are "
            "over: what customers did in them cannot be known; take an earlier cut-off, or add "
            f"later lines; or, if nobody bought since, say data.complete_until = "
            f"{window.until.date()}"
        )


def outcomes(
    connection: duckdb.DuckDBPyConnection,
    records: Records,
    window: Window,
    targets: Collection[str],
) -> list[Derived]:
    """Derive the ``targets``: churn by the rule, value, next category."""
    found = []
    if needs_purchases(records, targets):
        found.append(_from_purchases(connection, records, window, targets))
    if "churn" in targets and records.churn != "no-purchase":
        found.append(_from_master_data(connection, records, window))
    return found


def _from_purchases(
    connection: duckdb.DuckDBPyConnection,
    records: Records,
    window: Window,
    targets: Collection[str],
) -> Derived:
    column, parameters = "", window.times("cutoff")
    if "next_category" in targets:
        known = "category IS NOT NULL"
        if records.categories:
            known = "list_contains($words::VARCHAR[], category)"
            parameters["words"] = list(records.categories)
        column = (
            f", min(CASE WHEN {known} THEN {{'time': time, 'word': category}} END) AS first_line"
        )
    connection.execute(
        f"""
        CREATE TEMP TABLE {_OUTCOMES} AS
        SELECT code, sum(amount) AS spend, count(*) AS bought {column}
        FROM {LINES} WHERE time >= $cutoff AND NOT returned GROUP BY code
        """,
        parameters,
    )
    spend = f"(CASE WHEN coalesce(bought, 0) = 0 THEN 0 ELSE spend END / {UNITS}.0)"
    expressions = {"value": spend}
    if column:
        expressions["next_category"] = "first_line.word"
    if records.churn == "no-purchase":
        expressions["churn"] = "CASE WHEN coalesce(bought, 0) = 0 THEN 'yes' ELSE 'no' END"
    return Derived(_OUTCOMES, expressions)


def _from_master_data(
    connection: duckdb.DuckDBPyConnection, records: Records, window: Window
) -> Derived:
    if records.churn == "contract-ended":
        churn = "CASE WHEN contract_end < $until THEN 'yes' ELSE 'no' END"
        parameters = window.times("until")
    else:
        churn, parameters = "churned", {}
    connection.execute(
        f"""
        CREATE TEMP TABLE {_CONTRACTS} AS
        SELECT p.code, {churn} AS churn
        FROM customers c JOIN {POPULATION} p ON c.customer = p.customer
        """,
        parameters,
    )
    return Derived(_CONTRACTS, {"churn": "churn"})
