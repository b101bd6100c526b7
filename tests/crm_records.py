"""Small CRM records for tests: rows in Python, views in DuckDB, features out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa

from fgcif_flwr.data.crm.features import build_features
from fgcif_flwr.data.records import Records, derived_columns
from fgcif_flwr.data.schema import Schema, schema_from_mapping

CUTOFF = datetime(2024, 7, 1)
KINDS: Mapping[str, Mapping[str, pa.DataType]] = {
    "transactions": {
        "customer": pa.string(),
        "time": pa.timestamp("us"),
        "amount": pa.float64(),
        "category": pa.string(),
        "channel": pa.string(),
        "product": pa.string(),
        "invoice": pa.string(),
        "country": pa.string(),
        "returned": pa.bool_(),
        "discounted": pa.bool_(),
    },
    "events": {
        "customer": pa.string(),
        "time": pa.timestamp("us"),
        "kind": pa.string(),
        "session": pa.string(),
        "pages": pa.float64(),
        "dwell_seconds": pa.float64(),
        "clicked": pa.bool_(),
    },
    "interactions": {
        "customer": pa.string(),
        "time": pa.timestamp("us"),
        "closed": pa.timestamp("us"),
        "channel": pa.string(),
        "topic": pa.string(),
        "text": pa.string(),
        "sentiment": pa.float64(),
        "satisfaction": pa.float64(),
        "open_hours": pa.float64(),
    },
    "customers": {
        "customer": pa.string(),
        "since": pa.timestamp("us"),
        "contract_end": pa.timestamp("us"),
        "churned": pa.string(),
        "plan": pa.string(),
    },
}
Row = dict[str, Any]
Components = dict[str, list[Row]]
WORDS_OF_FEATURES = ("favourite_category", "main_channel", "country", "plan")


def day(days: float, seconds: float = 0) -> datetime:
    """A time so many days after the cut-off; negative before it."""
    return CUTOFF + timedelta(days=days, seconds=seconds)


def line(customer: str, days: float, amount: float = 1.0, **more: Any) -> Row:
    """A purchase."""
    return {"customer": customer, "time": day(days), "amount": amount, "returned": False, **more}


def event(customer: str, days: float, kind: str = "view", **more: Any) -> Row:
    """An event."""
    return {"customer": customer, "time": day(days), "kind": kind, **more}


def contact(customer: str, days: float, **more: Any) -> Row:
    """A contact with service."""
    return {"customer": customer, "time": day(days), **more}


def schema(
    columns: Sequence[str] | None = None,
    targets: Sequence[str] = ("churn", "value", "next_category"),
    **records: Any,
) -> Schema:
    """A schema of all features (or of some columns), with public words."""
    settings = {
        "cutoff": date(2024, 7, 1),
        "horizon_days": 60,
        "categories": ["food", "tools"],
        "channels": ["web", "phone"],
        "topic_buckets": 4,
        **records,
    }
    if columns is None:
        parsed = Records.model_validate(settings)
        columns = (*derived_columns(parsed), *parsed.master)
    features = [
        {"name": name, "kind": "categorical", "buckets": 8}
        if name in WORDS_OF_FEATURES
        else {"name": name, "kind": "numeric", "lower": -1, "upper": 1000}
        for name in columns
    ]
    known = {
        "churn": {"name": "churn", "kind": "binary", "positive": "yes", "negative": "no"},
        "value": {"name": "value", "kind": "numeric", "lower": 0, "upper": 1000, "log": True},
        "next_category": {
            "name": "next_category",
            "kind": "categorical",
            "classes": ["food", "tools"],
        },
    }
    tree = {
        "name": "test",
        "id_column": "id",
        "records": settings,
        "features": features,
        "targets": [known[name] for name in targets],
    }
    return schema_from_mapping(tree, "test")


def attached(components: Mapping[str, list[Row]]) -> duckdb.DuckDBPyConnection:
    """A connection with a view for each component, as an enterprise's agent has it."""
    connection = duckdb.connect(":memory:", config={"threads": 1})
    for name, rows in components.items():
        kinds = KINDS[name]
        table = pa.table(
            {
                column: pa.array([r.get(column) for r in rows], kind)
                for column, kind in kinds.items()
            }
        )
        connection.register(name, table)
    return connection


def built(
    components: Mapping[str, list[Row]], chosen: Schema | None = None, **arguments: Any
) -> dict[str, Row]:
    """The features of each customer, by id."""
    with attached(components) as connection:
        table = build_features(connection, chosen or schema(), **arguments)
    return {row["id"]: row for row in table.to_pylist()}
