"""What an enterprise's own table looks like through the schema, without small counts.

A count from 1 to 9 is not shown (null), nor one from which it could be told: null says that there
are some, not that they are few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from fgcif_flwr.data.columns import as_numbers, as_text
from fgcif_flwr.data.schema import (
    BinaryTarget,
    CategoricalFeature,
    CategoricalTarget,
    Feature,
    NumericFeature,
    NumericTarget,
    Schema,
    Target,
)
from fgcif_flwr.enterprise.agent.operation import Answer
from fgcif_flwr.enterprise.operations.form import OperationRequest
from fgcif_flwr.enterprise.operations.tables import cutoff_of, read_customers
from fgcif_flwr.enterprise.site import Site

SMALLEST_CELL = 10
"""Fewest rows of a count that is shown; 0 is shown."""


class DescribeRequest(OperationRequest):
    """Asks for a description of the table as of ``cutoff``; None is the schema's."""

    cutoff: date | None = None


def describe(site: Site, request: BaseModel) -> Answer:
    """Return rows, classes, and by feature how many values are missing, beyond bounds or unseen."""
    assert isinstance(request, DescribeRequest)
    table, warnings = read_customers(site, request.cutoff, targets=True)
    told = {"cutoff": cutoff_of(site, request.cutoff), **description(table, site.schema)}
    return Answer(told, warnings=warnings)


def description(table: pa.Table, schema: Schema) -> dict[str, Any]:
    """Return the description of a table that :func:`fgcif_flwr.data.encoding.encode` takes.

    Returns
    -------
    dict
        ``rows``; ``features``, each with name, kind, ``missing`` and, where its kind has it,
        ``beyond_bounds`` (numbers that are clipped) or ``unseen`` (words outside the vocabulary);
        ``targets``, each with name, kind, and ``classes`` (count by class, ``missing`` among them)
        or as a feature of numbers. Counts of rows; null where
        one is not shown: it is from 1 to 9, or a count from 1 to 9 could be told from it.
    """
    return {
        "rows": table.num_rows,
        "smallest_cell": SMALLEST_CELL,
        "features": [_feature(table, feature, schema) for feature in schema.features],
        "targets": [_target(table, target, schema) for target in schema.targets],
    }


def shown(count: int) -> int | None:
    """Return a count, or None where it is too small to be shown."""
    return None if 0 < count < SMALLEST_CELL else count


def suppressed(counts: Mapping[str, int]) -> dict[str, int | None]:
    """Return counts whose sum is known, small ones as None.

    Where a single one is small, the least of the others is None too: the difference would tell it.
    """
    small = {name for name, count in counts.items() if 0 < count < SMALLEST_CELL}
    others = [name for name in counts if name not in small and counts[name] > 0]
    if len(small) == 1 and others:
        small.add(min(others, key=lambda name: counts[name]))
    return {name: None if name in small else count for name, count in counts.items()}


def _feature(table: pa.Table, feature: Feature, schema: Schema) -> dict[str, Any]:
    told: dict[str, Any] = {"name": feature.name, "kind": feature.kind}
    column = table[feature.column]
    if isinstance(feature, NumericFeature):
        words = (*schema.missing, *feature.missing)
        return told | _numbers(column, words, feature)
    own = feature.missing if isinstance(feature, CategoricalFeature) else ()
    text = as_text(column, (*schema.missing, *own), feature.column)
    told["missing"] = shown(text.null_count)
    if isinstance(feature, CategoricalFeature) and feature.vocabulary is not None:
        known = pc.is_in(text, value_set=pa.array(feature.vocabulary, pa.large_string()))
        unseen = len(text) - text.null_count - int(pc.sum(known).as_py() or 0)
        told["unseen"] = shown(unseen)
    return told


def _numbers(
    column: pa.ChunkedArray, words: Sequence[str], part: NumericFeature | NumericTarget
) -> dict[str, Any]:
    numbers = as_numbers(column, words, part.column)
    absent = np.isnan(numbers)
    known = numbers[~absent]
    beyond = int(((known < part.lower) | (known > part.upper)).sum())
    return {"missing": shown(int(absent.sum())), "beyond_bounds": shown(beyond)}


def _target(table: pa.Table, target: Target, schema: Schema) -> dict[str, Any]:
    told: dict[str, Any] = {"name": target.name, "kind": target.kind}
    if target.column is None:
        return told | {"learned": True}
    column = table[target.column]
    if isinstance(target, NumericTarget):
        return told | _numbers(column, schema.missing, target)
    text = as_text(column, schema.missing, target.column)
    counts = {item["values"]: item["counts"] for item in pc.value_counts(text).to_pylist()}
    absent = counts.pop(None, 0)
    return told | {"classes": suppressed(_by_class(target, counts) | {"missing": absent})}


def _by_class(
    target: BinaryTarget | CategoricalTarget, counts: Mapping[str, int]
) -> dict[str, int]:
    if isinstance(target, CategoricalTarget):
        return {word: counts.get(word, 0) for word in target.classes}
    positive = counts.get(target.positive, 0)
    negative = target.negative or f"not {target.positive}"
    return {negative: sum(counts.values()) - positive, target.positive: positive}
