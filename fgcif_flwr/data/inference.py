"""Drafting a schema from a table, for a person to correct.

A draft is made inside one enterprise and meant to be shown to others, so it must not repeat what
is rare in the table: words that few rows hold are left out of vocabularies, and bounds are
rounded outward to 1, 2 or 5 times a power of ten.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgcif_flwr.data.columns import as_numbers, as_text, check_columns, check_table
from fgcif_flwr.data.features import FALSE_WORDS, TRUE_WORDS
from fgcif_flwr.data.schema import MISSING_WORDS, Schema, schema_from_mapping
from fgcif_flwr.errors import SchemaError, ValueOutOfKindError

LEAST_ROWS = 5
"""A word that fewer rows hold stays out of a drafted vocabulary."""

LARGEST_VOCABULARY = 64
"""Columns with more words than this are hashed into buckets."""

_TARGET_NAMES = (
    *("churn", "churned", "is_churn", "ischurn", "churn_label", "exited", "attrition"),
    *("target", "label", "outcome", "response", "subscribed", "converted", "class", "y"),
)
_ID_TOKENS = {"id", "ids", "uuid", "guid", "key", "identifier", "rownumber"}
_PERSON_TOKENS = {
    *("email", "mail", "name", "surname", "firstname", "lastname", "phone", "telephone", "mobile"),
    *("address", "street", "iban", "ssn", "passport", "birthdate", "dob"),
}
_EMAIL = r"^[^@\s]+@[^@\s]+\.[^@\s]+$"
_PERSON_LEAST_WORDS = 50


@dataclass(frozen=True)
class _Column:
    """What a draft needs to know of a column: values without missing ones."""

    name: str
    text: pa.Array
    counts: dict[str, int]
    numbers: npt.NDArray[np.float64] | None

    @property
    def is_unique(self) -> bool:
        return len(self.counts) == len(self.text)

    @property
    def is_whole(self) -> bool:
        return self.numbers is not None and bool(np.all(self.numbers == np.round(self.numbers)))


def infer_schema(table: pa.Table, name: str, target: str | None = None) -> Schema:
    """Draft a schema for ``table``.

    Columns that look like identifiers, persons or e-mail addresses, dates, and columns with one
    value or none go to ``forbidden``. Numbers stay numeric however few they are, but two words
    such as Yes and No (or 0 and 1) make a boolean. The target is ``target``, or the first column
    named like one (churn, target, label, y, ...).

    Raises
    ------
    SchemaError
        If no column is named like a target, the target has no two classes, or nothing is left to
        be a feature.
    DataError
        If the table has no rows, or two columns of one name.
    """
    check_table(table)
    columns = {column: _column(table, column) for column in table.column_names}
    chosen = _target_name(columns, target)
    target_part = _target(columns[chosen])
    forbidden: list[str] = []
    features: list[dict[str, Any]] = []
    id_column: str | None = None
    for column in columns.values():
        if column.name == chosen:
            continue
        if _is_unusable(column, table.schema.field(column.name).type):
            forbidden.append(column.name)
            if id_column is None and _looks_like_id(column) and column.is_unique:
                id_column = column.name if len(column.text) == table.num_rows else None
        else:
            features.append(_feature(column))
    if not features:
        raise SchemaError("no column is left to be a feature: all are constant, ids or dates")
    return schema_from_mapping(
        {
            "name": re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:100] or "draft",
            "description": "a draft: agree on bounds, words and forbidden columns before use",
            "id_column": id_column,
            "forbidden": forbidden,
            "features": features,
            "targets": [target_part],
        },
        f"draft of {name}",
    )


def rounded_outward(low: float, high: float) -> tuple[float, float]:
    """Return bounds that hold [low, high]: 0 if ``low`` is not negative, 1, 2, 5 times 10^k."""
    lower = -_ceiling(-low) if low < 0 else 0.0
    upper = _ceiling(high) if high > 0 else 0.0
    return lower, upper


def _ceiling(value: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is at least ``value`` > 0."""
    value = min(max(value, 1e-300), 1e300)
    exponent = math.floor(math.log10(value))
    steps = (float(f"{step}e{exponent}") for step in (1, 2, 5, 10, 20))
    return next(step for step in steps if step >= value)


def _column(table: pa.Table, name: str) -> _Column:
    try:
        text = as_text(table[name], MISSING_WORDS, name)
    except ValueOutOfKindError:
        return _Column(name, pa.array([], pa.large_string()), {}, None)
    numbers: npt.NDArray[np.float64] | None
    try:
        numbers = as_numbers(table[name], MISSING_WORDS, name)
        numbers = numbers[~np.isnan(numbers)]
    except ValueOutOfKindError:
        numbers = None
    text = text.drop_null()
    found = pc.value_counts(text)
    words, counts = found.field("values").to_pylist(), found.field("counts").to_pylist()
    return _Column(name, text, dict(zip(words, counts, strict=True)), numbers)


def _target_name(columns: dict[str, _Column], target: str | None) -> str:
    if target is not None:
        check_columns(pa.table({name: pa.nulls(0) for name in columns}), [target])
        return target
    folded = {name.strip().lower(): name for name in reversed(columns)}
    for candidate in _TARGET_NAMES:
        if candidate in folded:
            return folded[candidate]
    raise SchemaError(
        f"no column is named like a target ({', '.join(_TARGET_NAMES[:6])}, ...); name the column "
        "that is to be predicted"
    )


def _target(column: _Column) -> dict[str, Any]:
    part: dict[str, Any] = {"name": column.name, "column": column.name}
    words = sorted(column.counts)
    if len(words) == 2:
        if min(column.counts[word] for word in words) < LEAST_ROWS:
            raise SchemaError(
                f"column {column.name} cannot be a target: one of its two words is in fewer than "
                f"{LEAST_ROWS} rows; name another column"
            )
        true = [word for word in words if word.lower() in (*TRUE_WORDS, "churned", "exited")]
        rarer = min(words, key=lambda word: (column.counts[word], word))
        positive = true[0] if len(true) == 1 else rarer
        negative = words[0] if words[1] == positive else words[1]
        return {**part, "kind": "binary", "positive": positive, "negative": negative}
    if column.numbers is not None and len(words) > 2:
        return {**part, "kind": "numeric", **_bounds(column.numbers)}
    common = _common(column)
    if len(common) < 2 or len(words) > LARGEST_VOCABULARY:
        raise SchemaError(
            f"column {column.name} cannot be a target: it has {len(words)} words, "
            f"{len(common)} of them in {LEAST_ROWS} rows or more; name another column"
        )
    return {**part, "kind": "categorical", "classes": common}


def _feature(column: _Column) -> dict[str, Any]:
    part: dict[str, Any] = {"name": column.name, "column": column.name}
    folded = {word.lower() for word in column.counts}
    if len(folded) == 2 and folded & set(TRUE_WORDS) and folded & set(FALSE_WORDS):
        return {**part, "kind": "boolean"}
    if column.numbers is not None:
        return {**part, "kind": "numeric", **_bounds(column.numbers)}
    common = _common(column)
    if common and len(column.counts) <= LARGEST_VOCABULARY:
        return {**part, "kind": "categorical", "vocabulary": common}
    buckets = 1 << math.ceil(math.log2(2 * len(column.counts)))
    return {**part, "kind": "categorical", "buckets": min(buckets, 4096)}


def _bounds(numbers: npt.NDArray[np.float64]) -> dict[str, Any]:
    lower, upper = rounded_outward(float(numbers.min()), float(numbers.max()))
    # A long tail: the middle of the rows would share the lowest hundredth of the range.
    above = numbers[numbers > 0]
    log = lower == 0 and float(np.median(above)) < upper / 100
    return {"lower": lower, "upper": upper, "log": log}


def _common(column: _Column) -> list[str]:
    return sorted(word for word, count in column.counts.items() if count >= LEAST_ROWS)


def _is_unusable(column: _Column, kind: pa.DataType) -> bool:
    if len(column.counts) < 2 or not column.name or column.name != column.name.strip():
        return True
    if pa.types.is_temporal(kind):
        return True
    if pc.sum(pc.match_substring_regex(column.text, _EMAIL)).as_py() > len(column.text) / 2:
        return True
    if _looks_like_id(column):
        return True
    many = len(column.counts) >= _PERSON_LEAST_WORDS
    if many and _tokens(column.name) & _PERSON_TOKENS:
        return True
    # Text that hardly repeats is an identifier or free text; neither is a category.
    return column.numbers is None and many and len(column.counts) > len(column.text) / 2


def _looks_like_id(column: _Column) -> bool:
    named = bool(_tokens(column.name) & _ID_TOKENS)
    if named and (column.is_whole or column.numbers is None):
        return True
    if column.numbers is None or not column.is_unique or len(column.text) < 10:
        return False
    # Numbers of rows: whole, all different, without gaps.
    spread = float(column.numbers.max() - column.numbers.min())
    return column.is_whole and spread == len(column.text) - 1


def _tokens(name: str) -> set[str]:
    """Return the words of a column's name: ``customerID`` is customer and id."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return set(_lowered(re.split(r"[^A-Za-z0-9]+", spaced)))


def _lowered(words: Iterable[str]) -> list[str]:
    return [word.lower() for word in words if word]
