"""Encoded rows as a table again: the inverse of :func:`fgcif_flwr.data.encoding.encode`.

What encoding keeps comes back. What it loses (the word behind code *unseen* or behind a bucket, the
value beyond a bound, which of two words for *true*) comes back as a stand-in that encodes to the
same, so that ``encode(schema, decode(schema, rows))`` is ``rows``: to the last bit of float32,
where 64 bits can hold so small a distance from the lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import count

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgcif_flwr.data.encoding import EncodedTable, bucket, encode, feature_layout
from fgcif_flwr.data.schema import (
    BinaryTarget,
    BooleanFeature,
    CategoricalFeature,
    CategoricalTarget,
    NumericFeature,
    NumericTarget,
    Schema,
    Target,
)
from fgcif_flwr.errors import DataError

Reals = npt.NDArray[np.float64]

_STEPS = 1000
_MOST_DECIMALS = 17  # of a 64-bit number of [0, 1]


def decode(
    schema: Schema, table: EncodedTable, decimals: Mapping[str, int] | None = None
) -> pa.Table:
    """Return the rows in the schema's own columns, units and words.

    Parameters
    ----------
    schema
        The one that ``table`` is encoded by.
    table
        (rows,); may have no rows, and no targets: these columns are then left out.
    decimals
        Decimals, at least 0, to round a numeric feature or target to, by its name. A number
        without comes back as the shortest decimal that encodes to the same float32: what was read
        with few decimals comes back as it was, whole numbers whole, but a number that a generator
        made has about seven digits. See :func:`sensible_decimals`.

    Returns
    -------
    pyarrow.Table
        Features, then targets, in the schema's order, by their ``column``; of several that share
        a column the first decides. No id column: these rows are nobody's. Numbers are float64
        within their bounds, everything else text, missing is null. In place of what encoding lost:

        - an unseen word of a vocabulary: ``(unseen)``, in more brackets where that is a word;
        - a bucket: one made-up word of it;
        - a yes or no: the first of the schema's words for it;
        - a negative class that the schema does not name: ``not POSITIVE``;
        - a target with learned classes: nothing, since it is read from the features;
        - an unseen word of a boolean or of a hashed feature, which no table encodes to: null.

        Where a number would be one of the words that mean missing (``-1``), the nearest that does
        not is given.

    Raises
    ------
    DataError
        If the arrays are not of this schema, or hold codes or numbers that it cannot give.
    """
    _check(schema, table)
    rounding = decimals or {}
    layout = feature_layout(schema)
    columns: dict[str, pa.Array] = {}
    for feature in schema.features:
        if isinstance(feature, NumericFeature):
            place = layout.numeric.index(feature.name)
            scaled = np.where(table.missing[:, place] > 0, np.nan, table.numeric[:, place])
            values = _numbers(schema, feature, scaled, rounding.get(feature.name))
        else:
            codes = table.categorical[:, layout.categorical.index(feature.name)]
            values = _words(schema, feature, codes)
        columns.setdefault(feature.column, values)
    for target in schema.targets if table.targets else ():
        if isinstance(target, CategoricalTarget) and target.source == "learned":
            continue  # no column holds it: it is read from the features
        values = _target_values(schema, target, table, rounding.get(target.name))
        columns.setdefault(str(target.column), values)
    return pa.table(columns)


def sensible_decimals(schema: Schema) -> dict[str, int]:
    """Return decimals for numbers that were made up, by the name of the feature or target.

    The fewest that leave at least 1,000 steps between the bounds: a schema does not say how finely
    a quantity is counted, and more digits than that claim more than a generator knows.
    """
    numeric = [
        part
        for part in (*schema.features, *schema.targets)
        if isinstance(part, NumericFeature | NumericTarget)
    ]
    return {
        part.name: min(
            max(0, math.ceil(math.log10(_STEPS / (part.upper - part.lower)))), _MOST_DECIMALS
        )
        for part in numeric
    }


def in_units(part: NumericFeature | NumericTarget, scaled: Reals) -> Reals:
    """Return numbers of [0, 1] in the units of a feature or target, within its bounds.

    Numbers beyond [0, 1] are clipped, NaN stays.
    """
    width = part.upper - part.lower
    share = np.clip(scaled.astype(np.float64), 0.0, 1.0)
    distance = np.expm1(share * np.log1p(width)) if part.log else share * width
    numbers: Reals = np.clip(part.lower + distance, part.lower, part.upper)
    return numbers


def _check(schema: Schema, table: EncodedTable) -> None:
    layout = feature_layout(schema)
    rows = len(table)
    shapes = (rows, len(layout.numeric)), (rows, len(layout.categorical))
    names = {head.name for head in layout.heads}
    if (
        table.numeric.shape != shapes[0]
        or table.missing.shape != shapes[0]
        or table.categorical.shape != shapes[1]
        or (table.targets and table.targets.keys() != names)
        or any(values.shape != (rows,) for values in table.targets.values())
    ):
        raise DataError(f"the encoded table is not of schema {schema.name}; decode it by its own")
    for place, name in enumerate(layout.categorical):
        _check_codes(name, table.categorical[:, place], 0, layout.cardinalities[place])
    for head in layout.heads if table.targets else ():
        if head.kind != "numeric":
            values = table.targets[head.name]
            _check_codes(head.name, values[~np.isnan(values)], -1, len(head.classes))
    numeric = [table.numeric, *(table.targets[h.name] for h in layout.heads if table.targets)]
    if any(np.isinf(values).any() for values in numeric) or np.isnan(table.numeric).any():
        raise DataError("the encoded table holds numbers that are not finite")


def _check_codes(
    name: str, codes: npt.NDArray[np.int64] | npt.NDArray[np.float32], least: int, end: int
) -> None:
    beyond = int(((codes < least) | (codes >= end) | (codes != np.floor(codes))).sum())
    if beyond:
        raise DataError(f"{name}: {beyond} codes are not among {least} to {end - 1}")


def _numbers(
    schema: Schema, feature: NumericFeature, scaled: Reals, decimals: int | None
) -> pa.Array:
    """Return numbers in the feature's units as an arrow array; NaN in ``scaled`` is missing."""
    exact = in_units(feature, scaled)
    values = np.full(len(exact), np.nan)
    left = np.flatnonzero(~np.isnan(scaled))
    if decimals is not None:
        rounded = np.clip(np.round(exact, decimals), feature.lower, feature.upper)
        values[left] = rounded[left]
        left = left[np.isnan(_encoded(schema, feature, rounded[left]))]
    for places in range(_MOST_DECIMALS + 1):
        candidate = np.round(exact[left], places)
        # Beyond a bound encodes to the bound, and yet is no value of the column.
        inside = (candidate >= feature.lower) & (candidate <= feature.upper)
        same = inside & (_encoded(schema, feature, candidate) == scaled[left].astype(np.float32))
        values[left[same]] = candidate[same]
        left = left[~same]
    values[left] = exact[left]
    return pa.array(values, from_pandas=True)


def _encoded(schema: Schema, feature: NumericFeature, values: Reals) -> npt.NDArray[np.float32]:
    """Return what encoding makes of numbers, NaN where it takes them for missing."""
    if len(values) == 0:
        return np.zeros(0, np.float32)
    alone = schema.model_copy(update={"features": (feature,)})
    encoded = encode(alone, pa.table({feature.column: values}), targets=False)
    return np.where(encoded.missing[:, 0] > 0, np.float32(np.nan), encoded.numeric[:, 0])


def _words(
    schema: Schema, feature: CategoricalFeature | BooleanFeature, codes: npt.NDArray[np.int64]
) -> pa.Array:
    if isinstance(feature, BooleanFeature):
        return _taken([None, None, feature.false[0], feature.true[0]], codes)
    missing = tuple(word.strip() for word in (*schema.missing, *feature.missing))
    if feature.vocabulary is not None:
        unseen = _free_word("(unseen)", (*feature.vocabulary, *missing))
        return _taken([None, unseen, *feature.vocabulary], codes)
    return _taken([None, None, *_bucket_words(feature.buckets or 1, frozenset(missing))], codes)


def _target_values(
    schema: Schema, target: Target, table: EncodedTable, decimals: int | None
) -> pa.Array:
    values = table.targets[target.name]
    if isinstance(target, NumericTarget):
        feature = NumericFeature(
            name=target.name,
            column=target.column,
            lower=target.lower,
            upper=target.upper,
            log=target.log,
        )
        return _numbers(schema, feature, values.astype(np.float64), decimals)
    if isinstance(target, CategoricalTarget):
        return _taken([None, *target.classes], values.astype(np.int64) + 1)
    codes = np.where(np.isnan(values), 0, np.nan_to_num(values) + 1).astype(np.int64)
    return _taken([None, _negative(schema, target), target.positive], codes)


def _negative(schema: Schema, target: BinaryTarget) -> str:
    taken = (target.positive, *(word.strip() for word in schema.missing))
    return target.negative or _free_word(f"not {target.positive}", taken)


def _taken(words: list[str | None], codes: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array(words, pa.large_string()).take(pa.array(codes))


def _free_word(word: str, taken: Collection[str]) -> str:
    while word in taken:
        word = f"({word})"
    return word


@lru_cache(maxsize=64)
def _bucket_words(buckets: int, missing: frozenset[str]) -> tuple[str, ...]:
    """Return a made-up word of every bucket: the first of word-0, word-1, ... in it."""
    found: dict[int, str] = {}
    for number in count():
        word = f"word-{number}"
        if word not in missing:
            found.setdefault(bucket(word, buckets), word)
            if len(found) == buckets:
                break
    return tuple(found[place] for place in range(buckets))
