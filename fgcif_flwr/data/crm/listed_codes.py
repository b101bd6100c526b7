"""Codes of records that the schema's lists do not have: what no feature counts, told aloud."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import duckdb

from fgcif_flwr.config.crm import Component
from fgcif_flwr.data.crm.columns_wanted import Choice
from fgcif_flwr.data.crm.report import Finding
from fgcif_flwr.data.features import CategoricalFeature
from fgcif_flwr.data.records import CATEGORY_SHARE, CONTACTS_BY
from fgcif_flwr.data.schema import Schema


def unlisted_codes(
    connection: duckdb.DuckDBPyConnection, component: Component, choice: Choice, schema: Schema
) -> list[Finding]:
    """Count rows of a component's view whose code the schema does not list.

    Only lists that a feature or target of the schema uses are looked at.
    """
    findings = []
    for name, words in _lists(component, schema):
        own = next((column.own for column in choice.columns if column.name == name), None)
        if own is None or not words:
            continue
        code = f"nullif(trim({name}), '')"
        ((count,),) = connection.execute(
            f"SELECT count(*) FROM {component} WHERE {code} IS NOT NULL "
            f"AND NOT list_contains($words::VARCHAR[], {code})",
            {"words": list(words)},
        ).fetchall()
        if count:
            what = "hold a code that the schema does not list"
            advice = f"map the table's own codes in words.{name}; the schema's are {_few(words)}"
            findings.append(Finding("unlisted-code", "warning", own, what, count, advice))
    return findings


def _lists(component: Component, schema: Schema) -> Iterator[tuple[str, Sequence[str]]]:
    records = schema.records
    if records is None:
        return
    used = {part.column for part in (*schema.features, *schema.targets) if part.column is not None}
    if component == "transactions":
        if "next_category" in used or any(name.startswith(CATEGORY_SHARE) for name in used):
            yield "category", records.categories
        for feature in schema.features:
            # A shop's channels are not those of service: what counts is what a feature knows.
            if isinstance(feature, CategoricalFeature) and feature.column == "main_channel":
                yield "channel", feature.vocabulary or ()
    if component == "interactions" and any(name.startswith(CONTACTS_BY) for name in used):
        yield "channel", records.channels


def _few(words: Sequence[str], most: int = 12) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
