"""Tables as arrays of numbers, by the schema alone.

Nothing is estimated from the rows: two enterprises encode equal rows to equal arrays, and a row
encodes the same whatever table it is in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgcif_flwr.data.columns import as_numbers, as_text, check_columns, check_table
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
from fgcif_flwr.errors import ValueOutOfKindError

MISSING, UNSEEN, FIRST = 0, 1, 2
"""Codes of a categorical input: missing, a word outside the vocabulary, the first word."""


@dataclass(frozen=True)
class Head:
    """One target as an output of the model.

    ``outputs`` is 1 for binary and numeric, the number of classes for categorical. ``classes`` of
    a binary head are (negative, positive); a numeric head has none. ``learned`` classes are read
    from no column: a run learns what they are.
    """

    name: str
    kind: Literal["binary", "categorical", "numeric"]
    outputs: int
    classes: tuple[str, ...]
    learned: bool = False


@dataclass(frozen=True)
class FeatureLayout:
    """Names and sizes of the encoded columns, in the order of :class:`EncodedTable`.

    ``cardinalities[i]`` is the number of codes of ``categorical[i]``, missing and unseen included.
    """

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    cardinalities: tuple[int, ...]
    heads: tuple[Head, ...]


@dataclass(frozen=True)
class EncodedTable:
    """Rows as arrays.

    Attributes
    ----------
    numeric : float32 (rows, numeric features), in [0, 1]; 0 where missing
    missing : float32 (rows, numeric features), 1 where missing, else 0
    categorical : int64 (rows, categorical and boolean features); 0 missing, 1 unseen, 2.. words
        (booleans: 2 false, 3 true)
    targets : by name, (rows,): binary float32 0 or 1 and numeric float32 in [0, 1], both NaN
        where missing; categorical int64, -1 where missing (and where nobody has learned it yet)
    """

    numeric: npt.NDArray[np.float32]
    missing: npt.NDArray[np.float32]
    categorical: npt.NDArray[np.int64]
    targets: dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]

    def __len__(self) -> int:
        return int(self.numeric.shape[0])

    def take(self, indices: npt.ArrayLike) -> EncodedTable:
        """Return the rows at ``indices`` (integers or a boolean mask), in that order."""
        chosen = np.asarray(indices)
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        return EncodedTable(
            self.numeric[chosen],
            self.missing[chosen],
            self.categorical[chosen],
            {name: values[chosen] for name, values in self.targets.items()},
        )

    @staticmethod
    def concatenate(tables: Sequence[EncodedTable]) -> EncodedTable:
        """Return the rows of all ``tables`` (at least one, of one layout), one after another."""
        if not tables:
            raise ValueError("concatenate wants at least one table")
        names = tables[0].targets.keys()
        if any(table.targets.keys() != names for table in tables):
            raise ValueError("concatenate wants tables with the same targets")
        return EncodedTable(
            np.concatenate([table.numeric for table in tables]),
            np.concatenate([table.missing for table in tables]),
            np.concatenate([table.categorical for table in tables]),
            {name: np.concatenate([table.targets[name] for table in tables]) for name in names},
        )


def feature_layout(schema: Schema) -> FeatureLayout:
    """Return the layout that :func:`encode` gives for ``schema``."""
    categorical: list[str] = []
    cardinalities: list[int] = []
    for feature in schema.features:
        if isinstance(feature, CategoricalFeature):
            words = feature.buckets or len(feature.vocabulary or ())
            categorical.append(feature.name)
            cardinalities.append(FIRST + words)
        elif isinstance(feature, BooleanFeature):
            categorical.append(feature.name)
            cardinalities.append(FIRST + 2)
    return FeatureLayout(
        numeric=tuple(f.name for f in schema.features if isinstance(f, NumericFeature)),
        categorical=tuple(categorical),
        cardinalities=tuple(cardinalities),
        heads=tuple(_head(target) for target in schema.targets),
    )


def encode(schema: Schema, table: pa.Table, targets: bool = True) -> EncodedTable:
    """Encode ``table``; without ``targets``, target columns need not be there.

    Columns that the schema does not name are ignored. Every label of a target with learned
    classes is missing: :class:`fgcif_flwr.models.segmentation.Segmentation` says what they are.

    Raises
    ------
    MissingColumnError
        Naming all columns that are not there.
    ValueOutOfKindError
        If a column holds values that its kind cannot have: how many, never which.
    DataError
        If the table has no rows, or two columns of one name.
    """
    check_table(table)
    wanted = [feature.column for feature in schema.features]
    if targets:
        wanted += [_target_column(target) for target in schema.targets if not _learned(target)]
    check_columns(table, wanted)
    rows = table.num_rows
    numeric_features = [f for f in schema.features if isinstance(f, NumericFeature)]
    numeric = np.zeros((rows, len(numeric_features)), np.float32)
    missing = np.zeros_like(numeric)
    for i, feature in enumerate(numeric_features):
        words = (*schema.missing, *feature.missing)
        numbers = as_numbers(table[feature.column], words, feature.column)
        absent = np.isnan(numbers)
        scaled = _scaled(numbers, feature.lower, feature.upper, feature.log)
        numeric[:, i] = np.where(absent, 0.0, scaled)
        missing[:, i] = absent
    codes = [
        _boolean_codes(schema, feature, table)
        if isinstance(feature, BooleanFeature)
        else _word_codes(schema, feature, table)
        for feature in schema.features
        if not isinstance(feature, NumericFeature)
    ]
    return EncodedTable(
        numeric,
        missing,
        np.stack(codes, axis=1) if codes else np.zeros((rows, 0), np.int64),
        {t.name: _target_values(schema, t, table) for t in schema.targets} if targets else {},
    )


def bucket(word: str, buckets: int) -> int:
    """Return the bucket of a word, in [0, buckets): BLAKE2b (RFC 7693), stable for all time."""
    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % buckets


def _head(target: Target) -> Head:
    if isinstance(target, BinaryTarget):
        negative = target.negative or f"not {target.positive}"
        return Head(target.name, "binary", 1, (negative, target.positive))
    if isinstance(target, CategoricalTarget):
        classes = target.classes
        return Head(target.name, "categorical", len(classes), classes, _learned(target))
    return Head(target.name, "numeric", 1, ())


def _learned(target: Target) -> bool:
    return isinstance(target, CategoricalTarget) and target.source == "learned"


def _target_column(target: Target) -> str:
    return target.column or target.name


def _scaled(
    numbers: npt.NDArray[np.float64], lower: float, upper: float, log: bool
) -> npt.NDArray[np.float64]:
    """Scale to [0, 1] by public bounds; beyond them is clipped, NaN stays."""
    shifted: npt.NDArray[np.float64] = np.clip(numbers, lower, upper) - lower
    if log:
        shifted = np.log1p(shifted) / np.log1p(upper - lower)
    else:
        shifted /= upper - lower
    return shifted


def _word_codes(
    schema: Schema, feature: CategoricalFeature, table: pa.Table
) -> npt.NDArray[np.int64]:
    words = (*schema.missing, *feature.missing)
    text = as_text(table[feature.column], words, feature.column)
    if feature.vocabulary is not None:
        return _indices(text, feature.vocabulary) + FIRST
    # Hash every distinct word once; a column repeats its words many times.
    distinct = text.dictionary_encode()
    buckets = feature.buckets or 1
    hashed = np.array([bucket(w, buckets) for w in distinct.dictionary.to_pylist()], np.int64)
    places = np.array(pc.fill_null(distinct.indices, -1), dtype=np.int64)
    return np.append(hashed + FIRST, MISSING)[places]


def _boolean_codes(
    schema: Schema, feature: BooleanFeature, table: pa.Table
) -> npt.NDArray[np.int64]:
    text = as_text(table[feature.column], schema.missing, feature.column)
    false = tuple(dict.fromkeys(word.lower() for word in feature.false))
    true = tuple(dict.fromkeys(word.lower() for word in feature.true))
    places = _indices(pc.utf8_lower(text), (*false, *true))
    _refuse_unknown(places, feature.column, "neither of the words for true nor for false")
    codes = np.where(places < len(false), FIRST, FIRST + 1)
    return np.where(places == _NULL, MISSING, codes).astype(np.int64)


def _target_values(
    schema: Schema, target: Target, table: pa.Table
) -> npt.NDArray[np.float32] | npt.NDArray[np.int64]:
    if _learned(target):
        return np.full(table.num_rows, -1, np.int64)
    column = _target_column(target)
    if isinstance(target, NumericTarget):
        numbers = as_numbers(table[column], schema.missing, column)
        return _scaled(numbers, target.lower, target.upper, target.log).astype(np.float32)
    text = as_text(table[column], schema.missing, column)
    if isinstance(target, CategoricalTarget):
        places = _indices(text, target.classes)
        _refuse_unknown(places, column, f"none of the {len(target.classes)} classes")
        return np.where(places == _NULL, -1, places)
    if target.negative is None:
        places = np.where(_indices(text, (target.positive,)) == 0, 1, 0)
        places = np.where(np.array(pc.is_null(text)), _NULL, places)
    else:
        places = _indices(text, (target.negative, target.positive))
        _refuse_unknown(places, column, "neither the positive nor the negative class")
    return np.where(places == _NULL, np.nan, places).astype(np.float32)


# Below every index, so that _indices + FIRST is the code of a missing and of an unseen word.
_NULL, _UNKNOWN = MISSING - FIRST, UNSEEN - FIRST


def _indices(text: pa.Array, words: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the index of each value in ``words``; ``_NULL`` and ``_UNKNOWN`` for the others."""
    found = pc.index_in(text, value_set=pa.array(words, pa.large_string()))
    places = np.array(pc.fill_null(found, _UNKNOWN), dtype=np.int64)
    places[np.array(pc.is_null(text), dtype=bool)] = _NULL
    return places


def _refuse_unknown(places: npt.NDArray[np.int64], column: str, what: str) -> None:
    count = int((places == _UNKNOWN).sum())
    if count:
        raise ValueOutOfKindError(
            f"column {column}: {count} of {len(places)} rows are {what}; correct the table, or "
            "add their words to the schema"
        )
