"""Sums of measured numbers that depend on nothing but the numbers.

Floating-point sums depend on the order of their rows, and so on threads and on other customers'
rows. Numbers are therefore taken to a fixed number of decimals as 64-bit integers, whose sums are
exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import duckdb

from fgcif_flwr.errors import ValueOutOfKindError

UNITS: Final = 10_000
"""Parts of one: four decimals are kept."""

LARGEST: Final = 10**12
"""Largest magnitude of a number that is summed."""


def exact(column: str) -> str:
    """Return the SQL of a DOUBLE column in 1 / :data:`UNITS`; null where it is out of range."""
    return (
        f"CASE WHEN abs({column}) <= {LARGEST} "
        f"THEN TRY_CAST(round({column} * {UNITS}) AS BIGINT) END"
    )


def refuse_out_of_range(
    connection: duckdb.DuckDBPyConnection, table: str, pairs: Mapping[str, str], component: str
) -> None:
    """Raise where a number could not be taken, by pairs of its flag and its column.

    ``table`` has, by the name of each flag, whether a row's number was there and not taken.

    Raises
    ------
    ValueOutOfKindError
        Naming the first such column and how many rows it concerns.
    """
    counts = ", ".join(f"count(*) FILTER ({flag})" for flag in pairs)
    row = connection.execute(f"SELECT {counts}, count(*) FROM {table}").fetchone()
    if row is None:
        return
    for column, count in zip(pairs.values(), row, strict=False):
        if count:
            raise ValueOutOfKindError(
                f"{component}, {column}: {count} of {row[-1]} rows are infinite or beyond "
                f"{LARGEST:.0e}; correct them, or leave them empty"
            )
