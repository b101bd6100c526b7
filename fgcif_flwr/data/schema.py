"""The consortium's schema: which columns become which inputs and targets, by public bounds.

All enterprises encode with the same schema, and compare its :attr:`Schema.hash` before a run.
It is a TOML file: ``name``, ``version``, ``description``, ``id_column``, ``missing`` and
``forbidden`` at the top, then ``[[features]]`` and ``[[targets]]``, and ``[transactions]`` or
``[records]`` where the rows of customers are derived from lines of purchases or all CRM records.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from fgcif_flwr.data.features import (
    BinaryTarget,
    BooleanFeature,
    CategoricalFeature,
    CategoricalTarget,
    Feature,
    NumericFeature,
    NumericTarget,
    Part,
    Target,
    Transactions,
    Words,
)
from fgcif_flwr.data.records import Records, check_derived
from fgcif_flwr.data.toml_text import dump_toml
from fgcif_flwr.errors import SchemaError

__all__ = [
    "BinaryTarget",
    "BooleanFeature",
    "CategoricalFeature",
    "CategoricalTarget",
    "Feature",
    "NumericFeature",
    "NumericTarget",
    "Records",
    "Schema",
    "Target",
    "Transactions",
    "builtin_names",
    "load_schema",
    "schema_from_mapping",
    "schema_from_toml",
]

MISSING_WORDS: Words = ("", " ", "NA", "NaN", "null", "None", "?")
# Part of every hash: a change of how encoding.py turns values into numbers must raise it.
ENCODING_VERSION = 1

_TABLES = ("simulated", "telco", "mlc-churn", "bank-marketing", "online-retail")
_BUILTIN = (*_TABLES, "online-retail-records", "crm")
_HEADER = """\
# Bounds and vocabularies are public. Agree on them in the consortium from what is natural for
# the quantity; do not copy the extremes or rare words of anyone's own data.
"""


class Schema(Part):
    """Features, targets, and the columns that are never used.

    ``forbidden`` holds identifiers, names and leaks of the target; the id column is always among
    what features and targets may not use. ``missing`` are words that mean a missing value,
    compared exactly after white space around a value is removed.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    version: int = Field(1, ge=1)
    description: str = ""
    id_column: str | None = None
    missing: Words = MISSING_WORDS
    forbidden: Words = ()
    features: tuple[Feature, ...] = Field(min_length=1)
    targets: tuple[Target, ...] = Field(min_length=1)
    transactions: Transactions | None = None
    records: Records | None = None

    @model_validator(mode="after")
    def _parts_agree(self) -> Schema:
        _refuse_repeated_names(self)
        _refuse_forbidden_columns(self)
        _refuse_words_that_mean_missing(self)
        if self.transactions is not None and self.id_column is None:
            raise SchemaError("transactions: the derived table wants an id_column; name one")
        if self.records is not None:
            _check_records(self, self.records)
        return self

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of all that changes encoding or the meaning of a value.

        Descriptions, and the order of ``missing`` and ``forbidden``, leave it as it is; the
        order of features, targets and words, which decides codes, does not.
        """
        tree = _without_descriptions(self.model_dump(mode="json"))
        if self.records is None:
            del tree["records"]  # the hash of a schema without them is older than they are
        tree["encoding"] = ENCODING_VERSION
        tree["missing"] = sorted({word.strip() for word in self.missing})
        tree["forbidden"] = sorted(set(self.forbidden))
        canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_toml(self) -> str:
        """Return TOML that :func:`schema_from_toml` reads back as an equal schema."""
        tree = self.model_dump(exclude_defaults=True)
        for key in ("features", "targets"):
            parts = getattr(self, key)
            tree[key] = [_part_tree(part) for part in parts]
        tree = {"name": self.name, "version": self.version, **tree}
        return f"{_HEADER}{dump_toml(tree)}"


def builtin_names() -> tuple[str, ...]:
    """Names of the schemas that come with the package."""
    return _BUILTIN


def load_schema(name_or_path: str) -> Schema:
    """Load a built-in schema by name, or any from a TOML file.

    Raises
    ------
    SchemaError
        If there is no such name or file (with the nearest built-in name), or the file is wrong
        (with the file, the key and the reason).
    """
    if name_or_path in _BUILTIN:
        file = resources.files("fgcif_flwr.data") / "schemas" / f"{name_or_path}.toml"
        if not file.is_file():
            raise SchemaError(f"the built-in schema {name_or_path} is not in this installation")
        return schema_from_toml(file.read_text(encoding="utf-8"), f"built-in {name_or_path}")
    path = Path(name_or_path)
    if not path.is_file():
        near = difflib.get_close_matches(name_or_path, _BUILTIN, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise SchemaError(
            f"there is no schema file {name_or_path} and no built-in schema of that name; "
            f"{hint}Built in are {', '.join(_BUILTIN)}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SchemaError(f"{path} is not UTF-8 text; save the schema as UTF-8") from None
    except OSError as error:
        raise SchemaError(f"{path} cannot be read: {error.strerror}") from None
    return schema_from_toml(text, str(path))


def schema_from_toml(text: str, origin: str) -> Schema:
    """Read a schema from TOML; ``origin`` (a file or name) begins the message of an error."""
    try:
        tree = tomllib.loads(text)
    except RecursionError:
        raise SchemaError(f"{origin} is nested too deeply for a schema") from None
    except tomllib.TOMLDecodeError as error:
        raise SchemaError(f"{origin} is not valid TOML: {error}") from None
    return schema_from_mapping(tree, origin)


def schema_from_mapping(tree: Mapping[str, Any], origin: str) -> Schema:
    """Build a schema from plain values; every error is a :class:`SchemaError` without values."""
    try:
        return Schema.model_validate(dict(tree))
    except ValidationError as error:
        raise SchemaError(f"{origin}: {_reason(error, tree)}") from None
    except SchemaError as error:
        raise SchemaError(f"{origin}: {error}") from None


def _part_tree(part: BaseModel) -> dict[str, Any]:
    values = part.model_dump(exclude_none=True)
    if values.get("column") == values["name"]:
        del values["column"]
    defaults = {key: field.default for key, field in type(part).model_fields.items()}
    kept = {key: value for key, value in values.items() if value != defaults[key]}
    return {"name": values["name"], "kind": values["kind"], **kept}


def _without_descriptions(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _without_descriptions(v) for k, v in tree.items() if k != "description"}
    if isinstance(tree, list):
        return [_without_descriptions(item) for item in tree]
    return tree


def _check_records(schema: Schema, records: Records) -> None:
    if schema.id_column is None:
        raise SchemaError("records: the derived table wants an id_column; name one")
    if schema.transactions is not None:
        raise SchemaError("give either [transactions] or [records], one of the two")
    targets = [(part.name, part.column) for part in schema.targets if part.column is not None]
    check_derived(records, [(part.name, part.column) for part in schema.features], targets)


def _refuse_repeated_names(schema: Schema) -> None:
    seen: set[str] = set()
    for part in (*schema.features, *schema.targets):
        if part.name in seen:
            raise SchemaError(f"{part.name}: two features or targets have this name")
        seen.add(part.name)


def _refuse_forbidden_columns(schema: Schema) -> None:
    forbidden = {*schema.forbidden, schema.id_column} - {None}
    targets = {part.column for part in schema.targets if part.column is not None}
    for part in (*schema.features, *schema.targets):
        if part.column in forbidden:
            what = "the id column" if part.column == schema.id_column else "forbidden"
            raise SchemaError(f"{part.name}: its column {part.column} is {what}; remove it")
    for part in schema.features:
        if part.column in targets:
            raise SchemaError(f"{part.name}: its column {part.column} is a target's; remove it")


def _refuse_words_that_mean_missing(schema: Schema) -> None:
    missing = {word.strip() for word in schema.missing}
    for part in (*schema.features, *schema.targets):
        words: tuple[str | None, ...] = ()
        own: Words = ()
        if isinstance(part, CategoricalFeature):
            words, own = part.vocabulary or (), part.missing
        elif isinstance(part, BooleanFeature):
            words = (*part.true, *part.false)
        elif isinstance(part, CategoricalTarget):
            words = part.classes
        elif isinstance(part, BinaryTarget):
            words = (part.positive, part.negative)
        if (missing | {word.strip() for word in own}) & set(words):
            raise SchemaError(
                f"{part.name}: one of its words is also in missing and would never be met; "
                "write missing without it"
            )


def _reason(error: ValidationError, tree: Mapping[str, Any]) -> str:
    """Say where and why from pydantic's first error, without the value that was given."""
    first = error.errors(include_input=False, include_url=False)[0]
    place, key = _place(first["loc"], tree)
    reason = first["msg"].removeprefix("Value error, ").lower()
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _known_keys(first["loc"]), n=1, cutoff=0.5)
        reason = "there is no such key" + (f"; did you mean {near[0]}?" if near else "")
    elif first["type"] == "missing":
        reason = "is wanted and not there"
    elif first["type"].startswith("union_tag"):
        key = "kind"
        kinds = _KINDS.get(str(first["loc"][0]), {})
        reason = f"must be one of {', '.join(kinds)}"
    elif first["type"] == "string_pattern_mismatch":
        reason = "is empty, too long, or has white space or signs that a name may not have"
    return ": ".join(part for part in (place, key, reason) if part)


_KINDS: dict[str, dict[str, type[BaseModel]]] = {
    "features": {
        "numeric": NumericFeature,
        "categorical": CategoricalFeature,
        "boolean": BooleanFeature,
    },
    "targets": {
        "binary": BinaryTarget,
        "categorical": CategoricalTarget,
        "numeric": NumericTarget,
    },
}


def _place(loc: tuple[int | str, ...], tree: Mapping[str, Any]) -> tuple[str, str]:
    if len(loc) < 2 or not isinstance(loc[1], int):
        return "", ".".join(str(part) for part in loc)
    section, index = str(loc[0]), loc[1]
    place = f"{section}[{index}]"
    items = tree.get(section)
    if section in _KINDS and isinstance(items, list | tuple) and isinstance(items[index], Mapping):
        place += f" ({items[index].get('name', 'without name')})"
    # The third part of a union's location is the branch's kind, which is no key of the file.
    return place, ".".join(str(part) for part in loc[3:])


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    kinds = _KINDS.get(str(loc[0]))
    if kinds is not None and len(loc) > 3:
        return list(kinds[str(loc[2])].model_fields)
    if loc[0] in ("transactions", "records"):
        return list((Transactions if loc[0] == "transactions" else Records).model_fields)
    return list(Schema.model_fields)
