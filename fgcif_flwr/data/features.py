"""What a schema is made of: features, targets, and the columns of transaction lines.

Every bound and every word here is public: it is agreed on by the consortium before anyone looks
at a table, so that encoding a row tells nothing about other rows.
"""

from __future__ import annotations

import math
from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from fgcif_flwr.errors import SchemaError

Name = Annotated[str, StringConstraints(pattern=r"^\S(.*\S)?$", max_length=200)]
Words = tuple[str, ...]

TRUE_WORDS: Words = ("yes", "1", "true", "t", "y")
FALSE_WORDS: Words = ("no", "0", "false", "f", "n")


class Part(BaseModel):
    """Base of every part of a schema: frozen, no unknown keys, no input values in errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class _Named(Part):
    name: Name
    column: str = ""
    unit: str = ""
    description: str = ""

    @model_validator(mode="before")
    @classmethod
    def _column_is_name_by_default(cls, values: object) -> object:
        if isinstance(values, dict) and not values.get("column"):
            return {**values, "column": values.get("name", "")}
        return values


class NumericFeature(_Named):
    """A number, scaled to [0, 1] by public bounds; values beyond a bound are clipped to it.

    ``log`` scales ``log1p(value - lower)`` instead of the value. ``missing`` names words that
    mean missing in this column only (for instance ``-1``), beside those of the schema.
    """

    kind: Literal["numeric"] = "numeric"
    lower: float = Field(allow_inf_nan=False)
    upper: float = Field(allow_inf_nan=False)
    log: bool = False
    missing: Words = ()

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> NumericFeature:
        check_bounds(self.name, self.lower, self.upper)
        return self


class CategoricalFeature(_Named):
    """A word of an agreed vocabulary, or of any vocabulary hashed into ``buckets``."""

    kind: Literal["categorical"] = "categorical"
    vocabulary: Words | None = None
    buckets: int | None = Field(None, ge=2, le=4096)
    missing: Words = ()

    @model_validator(mode="after")
    def _one_of_vocabulary_and_buckets(self) -> CategoricalFeature:
        if (self.vocabulary is None) == (self.buckets is None):
            raise SchemaError(f"{self.name}: give either vocabulary or buckets, one of the two")
        if self.vocabulary is not None:
            check_words(self.name, "vocabulary", self.vocabulary, least=1)
        return self


class BooleanFeature(_Named):
    """Yes or no, by words compared without regard to case."""

    kind: Literal["boolean"] = "boolean"
    true: Words = TRUE_WORDS
    false: Words = FALSE_WORDS

    @model_validator(mode="after")
    def _words_do_not_overlap(self) -> BooleanFeature:
        check_words(self.name, "true", self.true, least=1)
        check_words(self.name, "false", self.false, least=1)
        if {word.lower() for word in self.true} & {word.lower() for word in self.false}:
            raise SchemaError(f"{self.name}: a word is in both true and false")
        return self


class BinaryTarget(_Named):
    """A yes-or-no target. Without ``negative``, all but ``positive`` and missing is negative."""

    kind: Literal["binary"] = "binary"
    positive: Name
    negative: Name | None = None

    @model_validator(mode="after")
    def _classes_differ(self) -> BinaryTarget:
        if self.positive == self.negative:
            raise SchemaError(f"{self.name}: positive and negative are the same word")
        return self


class CategoricalTarget(Part):
    """One of at least two classes; ``learned`` classes come from a later stage, not a column."""

    kind: Literal["categorical"] = "categorical"
    name: Name
    column: str | None = None
    classes: Words
    source: Literal["column", "learned"] = "column"
    unit: str = ""
    description: str = ""

    @model_validator(mode="before")
    @classmethod
    def _column_is_name_by_default(cls, values: object) -> object:
        learned = isinstance(values, dict) and values.get("source") == "learned"
        if isinstance(values, dict) and not learned and not values.get("column"):
            return {**values, "column": values.get("name", "")}
        return values

    @model_validator(mode="after")
    def _classes_are_words(self) -> CategoricalTarget:
        check_words(self.name, "classes", self.classes, least=2)
        if self.source == "learned" and self.column is not None:
            raise SchemaError(f"{self.name}: a learned target has no column; remove it")
        return self


class NumericTarget(_Named):
    """A number to predict, scaled and clipped like a numeric feature."""

    kind: Literal["numeric"] = "numeric"
    lower: float = Field(allow_inf_nan=False)
    upper: float = Field(allow_inf_nan=False)
    log: bool = False

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> NumericTarget:
        check_bounds(self.name, self.lower, self.upper)
        return self


class Transactions(Part):
    """Columns of transaction lines, from which one row per customer is derived.

    Features look back from ``cutoff`` (that day not included); churn is no purchase in the
    ``horizon_days`` days that start with it. See :mod:`fgcif_flwr.data.transactions`.
    """

    customer: Name
    time: Name
    quantity: Name
    price: Name
    product: Name
    invoice: Name
    country: Name | None = None
    cutoff: date
    horizon_days: int = Field(ge=1, le=3660)
    currency: str = ""


Feature = Annotated[
    NumericFeature | CategoricalFeature | BooleanFeature, Field(discriminator="kind")
]
Target = Annotated[BinaryTarget | CategoricalTarget | NumericTarget, Field(discriminator="kind")]


def check_bounds(name: str, lower: float, upper: float) -> None:
    """Raise :class:`SchemaError` unless ``lower < upper`` with a finite distance."""
    if not lower < upper:
        raise SchemaError(f"{name}: upper must be greater than lower")
    if not math.isfinite(upper - lower):
        raise SchemaError(f"{name}: the bounds are too far apart for 64-bit numbers")


def check_words(name: str, key: str, words: Words, *, least: int) -> None:
    """Raise :class:`SchemaError` unless ``words`` are distinct, trimmed and at least ``least``."""
    if len(words) < least:
        raise SchemaError(f"{name}: {key} wants at least {least} word{'s' if least > 1 else ''}")
    if len(set(words)) < len(words):
        raise SchemaError(f"{name}: {key} names a word twice")
    if any(not word or word != word.strip() for word in words):
        # Values are compared without surrounding white space, so such a word is never met.
        raise SchemaError(f"{name}: {key} holds an empty word or one with white space around it")
