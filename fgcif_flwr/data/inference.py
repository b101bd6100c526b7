"""Drafting a schema from a table, for a person to correct.

A draft is made inside one enterprise and meant to be shown to others, so it must not repeat what
is rare in the table: words that few rows hold are left out of vocabularies, and bounds are
rounded outward to 1, 2 or 5 times a power of ten. What is left out of the features is told with
its reason, by names of columns only.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgcif_flwr.data.columns import as_numbers, as_text, check_table
from fgcif_flwr.data.features import FALSE_WORDS, TRUE_WORDS
from fgcif_flwr.data.schema import MISSING_WORDS, Schema, schema_from_mapping
from fgcif_flwr.errors import MissingColumnError, SchemaError, ValueOutOfKindError

LEAST_ROWS = 5
"""A word that fewer rows hold stays out of a drafted vocabulary."""

LARGEST_VOCABULARY = 64
"""Columns with more words than this are hashed into buckets."""

PERSON = "person"
IDENTIFIER = "identifier"
EMAIL = "e-mail"
DATE = "date"
CONSTANT = "constant"
UNIQUE_TEXT = "unique text"
DECIMAL_COMMA = "decimal comma: convert to a point"
SEPARATORS = "separators in numbers: write plain decimals"
BLANKS_IN_NAME = "white space around its name"
NO_VALUES = "neither text nor numbers"

# Names are compared as _folded: without case and accents, so Kündigung is kundigung here.
_TARGET_NAMES = (
    *("churn", "churned", "is_churn", "ischurn", "churn_label", "exited", "attrition"),
    *("kundigung", "kuendigung", "gekundigt", "gekuendigt", "storno", "abgewandert"),
    *("target", "label", "outcome", "response", "subscribed", "converted", "class", "y"),
)
_POSITIVE_WORDS = {
    *(*TRUE_WORDS, "churned", "exited"),
    *("ja", "j", "kundigung", "kuendigung", "gekundigt", "gekuendigt", "storno", "abgewandert"),
}
_FLAGS = {*TRUE_WORDS, *FALSE_WORDS, "ja", "nein", "j", "oui", "non", "si", "on", "off"}
_ID_TOKENS = {
    *("id", "ids", "uuid", "guid", "key", "identifier", "rownumber"),
    *("nr", "nummer", "kundennr", "kundennummer", "kennung"),
}
# German writes compounds as one word: Vertragsnummer, Kundenkennung, Auftragsnr.
_ID_ENDINGS = ("nummer", "kennung", "nr")
_PERSON_TOKENS = {
    *("email", "mail", "name", "surname", "firstname", "lastname", "phone", "telephone", "mobile"),
    *("address", "street", "iban", "ssn", "passport", "birthdate", "birthday", "dob"),
    *("phonenumber", "dateofbirth"),
    *("nachname", "vorname", "strasse", "adresse", "anschrift", "plz", "postleitzahl"),
    *("telefon", "tel", "handy", "mobil", "rufnummer", "hausnummer", "faxnummer"),
    *("telefonnummer", "telefonnr", "telnr", "handynummer", "handynr", "mobilnummer", "mobilnr"),
    *("geburtsdatum", "geburtstag", "gebdatum", "geboren"),
    *("nom", "prenom", "rue", "courriel", "naissance"),
    *("apellido", "apellidos", "correo", "direccion", "telefono", "movil", "nacimiento"),
    *("nome", "cognome", "indirizzo", "cellulare", "achternaam", "voornaam"),
}
_PERSON_ENDINGS = ("name", "address", "adresse", "strasse")
_EMAIL = r"^[^@\s]+@[^@\s]+\.[^@\s]+$"
_DATE = r"^(\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}([./-])\d{1,2}[./-]\d{2,4}( .*)?)$"
# Between thousands: a point, an apostrophe, or a blank of any width.
_COMMA = r"^[+-]?(\d+|\d{1,3}([.' \x{a0}\x{202f}]\d{3})+),\d+$"
_GROUPS = r"^[+-]?(\d{1,3}(,\d{3})+(\.\d+)?|\d{1,3}(\.\d{3}){2,})$"
_PLAIN = r"^[+-]?\d+(\.\d+)?$"
_LEAST_WORDS_OF_FREE_TEXT = 50
_TOLD_COLUMNS = 12


@dataclass(frozen=True)
class Draft:
    """A drafted schema, and why each column of ``schema.forbidden`` is there."""

    schema: Schema
    reasons: dict[str, str]


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
    """Return the schema of :func:`draft` alone."""
    return draft(table, name, target).schema


def draft(table: pa.Table, name: str, target: str | None = None) -> Draft:
    """Draft a schema for ``table``, with the reason for every forbidden column.

    Columns that look like identifiers, persons or e-mail addresses, dates, numbers with decimal
    commas, text that hardly repeats, and columns with one value or none go to ``forbidden``.
    Numbers stay numeric however few they are, but two words such as Yes and No (or 0 and 1) make
    a boolean. The id column is the first one that is named like an identifier and never repeats
    or, failing that, the first of whole numbers without gaps. The target is ``target``, or the
    first column named like one (churn, target, label, y, ...).

    Raises
    ------
    MissingColumnError
        If the table has no column ``target``.
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
    reasons: dict[str, str] = {}
    features: list[dict[str, Any]] = []
    for column in columns.values():
        if column.name == chosen:
            continue
        reason = _reason(column, table.schema.field(column.name).type)
        if reason is None:
            features.append(_feature(column))
        else:
            reasons[column.name] = reason
    if not features:
        raise SchemaError(
            f"no column is left to be a feature: {_told(reasons)}"
            if reasons
            else "no column is left to be a feature: the table has the target alone"
        )
    ids = [columns[column] for column, reason in reasons.items() if reason == IDENTIFIER]
    schema = schema_from_mapping(
        {
            "name": re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:100] or "draft",
            "description": "a draft: agree on bounds, words and forbidden columns before use",
            "id_column": _id_column(ids, table.num_rows),
            "forbidden": list(reasons),
            "features": features,
            "targets": [target_part],
        },
        f"draft of {name}",
    )
    return Draft(schema, reasons)


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


def _told(reasons: dict[str, str]) -> str:
    told = [f"{column} ({reason})" for column, reason in reasons.items()]
    more = len(told) - _TOLD_COLUMNS
    return ", ".join(told[:_TOLD_COLUMNS]) + (f" and {more} more" if more > 0 else "")


def _target_name(columns: dict[str, _Column], target: str | None) -> str:
    if target is not None:
        if target in columns:
            return target
        near = [name for name in columns if _folded(name) == _folded(target)]
        hint = f"; did you mean {near[0]}?" if near else "; see its header line"
        raise MissingColumnError(f"the table has no such column: {target}{hint}")
    folded = {_folded(name): name for name in reversed(columns)}
    for candidate in _TARGET_NAMES:
        if candidate in folded:
            return folded[candidate]
    raise SchemaError(
        f"no column is named like a target ({', '.join(_TARGET_NAMES[:6])}, ...); say which "
        "column is to be predicted: --target COLUMN"
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
        true = [word for word in words if _folded(word) in _POSITIVE_WORDS]
        rarer = min(words, key=lambda word: (column.counts[word], word))
        positive = true[0] if len(true) == 1 else rarer
        negative = words[0] if words[1] == positive else words[1]
        return {**part, "kind": "binary", "positive": positive, "negative": negative}
    if column.numbers is not None and len(words) > 2:
        return {**part, "kind": "numeric", **_bounds(column.numbers)}
    separators = _separators(column)
    if separators is not None:
        raise SchemaError(f"column {column.name} cannot be a target as it is: {separators}")
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


def _reason(column: _Column, kind: pa.DataType) -> str | None:
    """Say why a column cannot be a feature; None if it can."""
    if pa.types.is_temporal(kind):
        return DATE
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return NO_VALUES
    if len(column.counts) < 2:
        return CONSTANT
    if not column.name or column.name != column.name.strip():
        return BLANKS_IN_NAME
    if _mostly(column, _EMAIL):
        return EMAIL
    # Whether someone may be phoned is no telephone number.
    is_flag = len(column.counts) == 2 and {_folded(word) for word in column.counts} <= _FLAGS
    if _is_named_like_person(column.name) and not is_flag:
        return PERSON
    separators = _separators(column)
    if separators is not None:
        return separators
    if _looks_like_id(column):
        return IDENTIFIER
    if column.numbers is not None:
        return None
    if _mostly(column, _DATE):
        return DATE
    # Text that hardly repeats is an identifier or free text; neither is a category.
    many = len(column.counts) >= _LEAST_WORDS_OF_FREE_TEXT
    return UNIQUE_TEXT if many and len(column.counts) > len(column.text) / 2 else None


def _matches(column: _Column, pattern: str) -> int:
    return int(pc.sum(pc.match_substring_regex(column.text, pattern)).as_py() or 0)


def _mostly(column: _Column, pattern: str) -> bool:
    return _matches(column, pattern) > len(column.text) / 2


def _separators(column: _Column) -> str | None:
    """Say which marks keep a column's values, mostly numbers to people, from being numbers."""
    if column.numbers is not None or not _mostly(column, f"{_COMMA}|{_GROUPS}|{_PLAIN}"):
        return None
    # 1,234 may be either; 19,99 and 1.234,56 are decimal commas only.
    commas, groups = _matches(column, _COMMA), _matches(column, _GROUPS)
    either = commas + groups - _matches(column, f"{_COMMA}|{_GROUPS}")
    if commas > either:
        return DECIMAL_COMMA
    return SEPARATORS if groups else None


def _id_column(ids: list[_Column], rows: int) -> str | None:
    """Return the first column of an id for every row, before one that only numbers the rows."""
    unique = [column for column in ids if column.is_unique and len(column.text) == rows]
    named = [
        column
        for column in unique
        if _is_named_like_id(column.name) and "rownumber" not in _tokens(column.name)
    ]
    return next((column.name for column in (*named, *unique)), None)


def _looks_like_id(column: _Column) -> bool:
    if _is_named_like_id(column.name) and (column.is_whole or column.numbers is None):
        return True
    if column.numbers is None or not column.is_unique or len(column.text) < 10:
        return False
    # Numbers of rows: whole, all different, without gaps.
    spread = float(column.numbers.max() - column.numbers.min())
    return column.is_whole and spread == len(column.text) - 1


def _is_named_like_id(name: str) -> bool:
    tokens = _tokens(name)
    return bool(tokens & _ID_TOKENS) or any(token.endswith(_ID_ENDINGS) for token in tokens)


def _is_named_like_person(name: str) -> bool:
    tokens = _tokens(name)
    named = bool(tokens & _PERSON_TOKENS)
    return named or any(token.endswith(_PERSON_ENDINGS) for token in tokens)


def _tokens(name: str) -> set[str]:
    """Return the folded words of a column's name, and all of them as one.

    ``customerID`` is customer, id and customerid; ``Straße_2`` is strasse.
    """
    # Composed first: an accent of its own would be no part of a word.
    composed = unicodedata.normalize("NFKC", name)
    spaced = "".join(
        f" {letter}" if _begins_word(composed, place) else letter
        for place, letter in enumerate(composed)
    )
    words = [_folded(word).strip("0123456789") for word in re.split(r"[\W_]+", spaced)]
    return {*words, "".join(words)} - {""}


def _begins_word(name: str, place: int) -> bool:
    """Say whether a word begins inside camel case: at N of KundenNr and at K of IDKunde."""
    if place == 0 or not name[place].isupper():
        return False
    before, after = name[place - 1], name[place + 1 : place + 3]
    if before.isupper():
        return len(after) == 2 and after.islower() and after.isalpha()
    return before.islower() or before.isdigit()


def _folded(text: str) -> str:
    """Return ``text`` without case, accents, and white space around it; ß is ss."""
    parts = unicodedata.normalize("NFKD", text.strip().casefold())
    return "".join(part for part in parts if not unicodedata.combining(part))
