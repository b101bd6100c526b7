"""How a table of customers fits the schema: shares of each feature, customers of each class.

Of classes, counts of fewer than ten customers are not told, nor those from which they could be. Of
features they are: shares and findings count every value, and are for the enterprise alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgcif_flwr.data.columns import as_numbers, as_text
from fgcif_flwr.data.crm.report import FeatureReport, Finding, FindingKind, Severity, TargetReport
from fgcif_flwr.data.features import (
    BinaryTarget,
    BooleanFeature,
    CategoricalFeature,
    CategoricalTarget,
    Feature,
    NumericFeature,
    NumericTarget,
    Target,
)
from fgcif_flwr.data.schema import Schema
from fgcif_flwr.errors import DataError

SMALLEST_COUNT: Final = 10
_MUCH: Final = 0.01


def feature_reports(
    table: pa.Table, schema: Schema
) -> tuple[tuple[FeatureReport, ...], list[Finding]]:
    """Describe every feature of a table of customers (rows > 0), and what is wrong with it."""
    reports, findings = [], []
    for feature in schema.features:
        try:
            report, found = _feature(table, schema, feature)
        except DataError as error:
            findings.append(Finding("wrong-type", "fault", "", str(error)))
            continue
        reports.append(report)
        findings += found
    return tuple(reports), findings


def _feature(
    table: pa.Table, schema: Schema, feature: Feature
) -> tuple[FeatureReport, list[Finding]]:
    name, column, rows = feature.name, feature.column, table.num_rows
    missing_words = (*schema.missing, *getattr(feature, "missing", ()))
    if isinstance(feature, NumericFeature):
        numbers = as_numbers(table[column], missing_words, column)
        missing = int(np.isnan(numbers).sum())
        outside = int(((numbers < feature.lower) | (numbers > feature.upper)).sum())
        what = f"are not between the schema's bounds {feature.lower:g} and {feature.upper:g}"
        advice = "they are clipped; see that the unit is the schema's"
        found = _share("out-of-bounds", column, what, outside, rows, advice)
        report = FeatureReport(name, "numeric", missing / rows, out_of_bounds=outside / rows)
        return report, [*_all_missing(column, missing, rows), *found]
    text = as_text(table[column], missing_words, column)
    missing = text.null_count
    found = _all_missing(column, missing, rows)
    if isinstance(feature, BooleanFeature):
        words = {word.lower() for word in (*feature.true, *feature.false)}
        strange = _outside(pc.utf8_lower(text), words)
        if strange:
            what = "are neither a word for yes nor one for no"
            advice = "map the table's own words in words"
            found.append(Finding("not-yes-or-no", "fault", column, what, strange, advice))
        return FeatureReport(name, "boolean", missing / rows), found
    if feature.vocabulary is None:
        return FeatureReport(name, "categorical", missing / rows), found
    return _categorical(feature, text, missing, found)


def _categorical(
    feature: CategoricalFeature, text: pa.Array, missing: int, found: list[Finding]
) -> tuple[FeatureReport, list[Finding]]:
    words, rows = feature.vocabulary or (), len(text)
    unseen = _outside(text, words)
    folded = _outside(pc.utf8_lower(text), {word.lower() for word in words})
    advice = "they count as unseen; map the table's own words in words"
    if folded < unseen:
        advice += f" ({unseen - folded} differ from the schema's in capitals alone)"
    what = f"hold none of the {len(words)} words of the schema"
    found = [*found, *_share("unseen-words", feature.column, what, unseen, rows, advice)]
    share = unseen / rows
    return FeatureReport(feature.name, "categorical", missing / rows, unseen=share), found


def _share(
    kind: FindingKind, column: str, what: str, count: int, rows: int, advice: str
) -> list[Finding]:
    if count == 0:
        return []
    severity: Severity = "warning" if count >= _MUCH * rows else "note"
    return [Finding(kind, severity, column, what, count, advice)]


def _all_missing(column: str, missing: int, rows: int) -> list[Finding]:
    if missing < rows:
        return []
    return [Finding("empty", "warning", column, "hold no value", rows, "it tells nothing")]


def _outside(text: pa.Array, words: Iterable[str]) -> int:
    known = pc.is_in(text, value_set=pa.array(sorted(words), pa.large_string()))
    unknown: int = len(text) - text.null_count - int(pc.sum(known).as_py() or 0)
    return unknown


def target_reports(
    table: pa.Table, schema: Schema
) -> tuple[tuple[TargetReport, ...], list[Finding]]:
    """Describe every target that is a column of ``table``, and what is wrong with it."""
    reports, findings = [], []
    for target in schema.targets:
        if target.column is None or target.column not in table.column_names:
            continue
        try:
            report, found = _target(table, schema, target, target.column)
        except DataError as error:
            findings.append(Finding("wrong-type", "fault", "", str(error)))
            continue
        reports.append(report)
        findings += found
    return tuple(reports), findings


def _target(
    table: pa.Table, schema: Schema, target: Target, column: str
) -> tuple[TargetReport, list[Finding]]:
    if isinstance(target, NumericTarget):
        numbers: npt.NDArray[np.float64] = as_numbers(table[column], schema.missing, column)
        missing = int(np.isnan(numbers).sum())
        _, shown = _suppressed({}, missing, table.num_rows)
        findings = _all_missing(column, missing, table.num_rows)
        return TargetReport(target.name, "numeric", shown, {}), findings
    text = as_text(table[column], schema.missing, column)
    counts = _classes(target, text)
    findings = _all_missing(column, text.null_count, len(text))
    strange = len(text) - text.null_count - sum(counts.values())
    if strange:
        what = f"are none of the {len(counts)} classes of the schema"
        advice = "map the table's own words in words"
        findings.append(Finding("no-class", "fault", column, what, strange, advice))
    for word, count in counts.items() if text.null_count < len(text) else ():
        if count < SMALLEST_COUNT:
            fewer = "no customer" if count == 0 else f"fewer than {SMALLEST_COUNT} customers"
            findings.append(Finding("few", "warning", column, f"has {fewer} of class {word}"))
    classes, missing_shown = _suppressed(counts, text.null_count, len(text))
    is_categorical = isinstance(target, CategoricalTarget)
    kind: Literal["binary", "categorical"] = "categorical" if is_categorical else "binary"
    return TargetReport(target.name, kind, missing_shown, classes), findings


def _classes(target: BinaryTarget | CategoricalTarget, text: pa.Array) -> dict[str, int]:
    if isinstance(target, CategoricalTarget):
        words: tuple[str, ...] = target.classes
    elif target.negative is not None:
        words = (target.negative, target.positive)
    else:
        positive = int(pc.sum(pc.equal(text, target.positive)).as_py() or 0)
        others = len(text) - text.null_count - positive
        return {f"not {target.positive}": others, target.positive: positive}
    return {word: int(pc.sum(pc.equal(text, word)).as_py() or 0) for word in words}


def _suppressed(
    counts: dict[str, int], missing: int, rows: int
) -> tuple[dict[str, int | None], int | None]:
    """Leave small counts away, and a second one where one could be told from the sum."""
    cells: dict[str | None, int] = {None: missing}
    cells.update(counts)
    if not counts:
        cells["with a value"] = rows - missing
    hidden = {key for key, count in cells.items() if 0 < count < SMALLEST_COUNT}
    others = {key: count for key, count in cells.items() if key not in hidden and count > 0}
    if len(hidden) == 1 and others:
        hidden.add(min(others, key=lambda key: others[key]))
    shown = {key: None if key in hidden else counts[key] for key in counts}
    return shown, None if None in hidden else missing
