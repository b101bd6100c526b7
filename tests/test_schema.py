"""A schema says what is wrong with it, hashes what matters, and survives its own TOML."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgcif_flwr.data.schema import (
    BinaryTarget,
    NumericFeature,
    Schema,
    builtin_names,
    load_schema,
    schema_from_mapping,
    schema_from_toml,
)
from fgcif_flwr.errors import SchemaError

# The simulator's schema is tested with the simulator.
TABLE_SCHEMAS = [name for name in builtin_names() if name != "simulated"]


def tree(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "name": "shop",
        "version": 1,
        "description": "a shop",
        "id_column": "customer",
        "missing": ["", "NA"],
        "forbidden": ["email", "phone"],
        "features": [
            {"kind": "numeric", "name": "age", "lower": 0, "upper": 120, "unit": "years"},
            {"kind": "categorical", "name": "plan", "vocabulary": ["basic", "plus"]},
            {"kind": "categorical", "name": "city", "buckets": 64, "column": "City name"},
            {"kind": "boolean", "name": "member"},
        ],
        "targets": [
            {"kind": "binary", "name": "churn", "positive": "yes", "negative": "no"},
            {"kind": "categorical", "name": "next", "classes": ["a", "b", "c"]},
            {"kind": "numeric", "name": "value", "lower": 0, "upper": 1e6, "log": True},
        ],
    }
    return base | changes


def schema(**changes: Any) -> Schema:
    return schema_from_mapping(tree(**changes), "test")


def with_feature(index: int, **changes: Any) -> Schema:
    features = tree()["features"]
    features[index] = features[index] | changes
    return schema(features=features)


def with_target(index: int, **changes: Any) -> Schema:
    targets = tree()["targets"]
    targets[index] = targets[index] | changes
    return schema(targets=targets)


def test_a_column_is_called_like_its_feature_unless_said_otherwise() -> None:
    assert [feature.column for feature in schema().features] == [
        "age",
        "plan",
        "City name",
        "member",
    ]


@pytest.mark.parametrize("name", TABLE_SCHEMAS)
def test_builtin_schemas_load_and_survive_their_own_toml(name: str) -> None:
    loaded = load_schema(name)
    again = schema_from_toml(loaded.to_toml(), "again")
    assert loaded.name == name
    assert again == loaded
    assert again.hash == loaded.hash


def test_transactions_survive_toml_with_their_date() -> None:
    again = schema_from_toml(load_schema("online-retail").to_toml(), "again")
    assert again.transactions is not None
    assert again.transactions.cutoff == date(2011, 9, 10)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
words = texts.map(str.strip).filter(lambda word: word not in ("", "NA"))


@given(
    description=texts,
    unit=texts,
    forbidden=st.lists(texts, max_size=3),
    vocabulary=st.lists(words, min_size=1, max_size=5, unique=True),
    lower=st.floats(-1e9, 1e9),
    width=st.floats(1e-3, 1e9),
)
def test_any_schema_survives_its_own_toml(
    description: str,
    unit: str,
    forbidden: list[str],
    vocabulary: list[str],
    lower: float,
    width: float,
) -> None:
    original = schema(
        description=description,
        forbidden=[column for column in forbidden if column not in ("x", "w", "y")],
        features=[
            {"kind": "numeric", "name": "x", "lower": lower, "upper": lower + width, "unit": unit},
            {"kind": "categorical", "name": "w", "vocabulary": vocabulary},
        ],
        targets=[{"kind": "binary", "name": "y", "positive": "1"}],
    )
    assert schema_from_toml(original.to_toml(), "again") == original


CHANGES_THAT_MATTER = {
    "version": lambda: schema(version=2),
    "missing": lambda: schema(missing=["", "NA", "n/a"]),
    "forbidden": lambda: schema(forbidden=["email"]),
    "id": lambda: schema(id_column="email"),
    "bound": lambda: with_feature(0, upper=121),
    "log": lambda: with_feature(0, log=True),
    "unit": lambda: with_feature(0, unit="months"),
    "own missing": lambda: with_feature(0, missing=["-1"]),
    "column": lambda: with_feature(0, column="Age"),
    "order of words": lambda: with_feature(1, vocabulary=["plus", "basic"]),
    "buckets": lambda: with_feature(2, buckets=65),
    "true words": lambda: with_feature(3, true=["on"]),
    "order of features": lambda: schema(features=tree()["features"][::-1]),
    "positive": lambda: with_target(0, positive="no", negative="yes"),
    "no negative": lambda: with_target(0, negative=None),
    "classes": lambda: with_target(1, classes=["a", "c", "b"]),
}


@pytest.mark.parametrize("change", CHANGES_THAT_MATTER)
def test_the_hash_changes_with_all_that_changes_encoding(change: str) -> None:
    assert CHANGES_THAT_MATTER[change]().hash != schema().hash


def test_the_hash_ignores_descriptions_and_orders_that_mean_nothing() -> None:
    base = schema().hash
    assert schema(description="another text").hash == base
    assert with_feature(0, description="in full years").hash == base
    assert schema(missing=["NA", ""], forbidden=["phone", "email"]).hash == base
    assert schema(missing=["", "  ", "NA"]).hash == base
    assert with_feature(0, lower=0.0, upper=120.0).hash == base


def test_the_hash_of_a_known_schema_never_changes() -> None:
    fixed = Schema(
        name="fixed",
        features=(NumericFeature(name="x", lower=0, upper=1),),
        targets=(BinaryTarget(name="y", positive="1"),),
    )
    assert fixed.hash == "30e453ec90664dfd3c06033dc3d9756692001f4f17521eac342de613d78ce93f"


ERRORS = {
    "both": (1, {"buckets": 4}, "plan: give either vocabulary or buckets"),
    "bounds": (0, {"upper": 0}, "age: upper must be greater than lower"),
    "far apart": (0, {"lower": -1.7e308, "upper": 1.7e308}, "age: the bounds are too far apart"),
    "infinite": (0, {"upper": float("inf")}, "features[0] (age): upper: "),
    "few buckets": (2, {"buckets": 1}, "features[2] (city): buckets: "),
    "many buckets": (2, {"buckets": 4097}, "features[2] (city): buckets: "),
    "repeated word": (1, {"vocabulary": ["a", "a"]}, "plan: vocabulary names a word twice"),
    "no words": (1, {"vocabulary": []}, "plan: vocabulary wants at least 1 word"),
    "space": (1, {"vocabulary": ["a "]}, "plan: vocabulary holds an empty word"),
    "true and false": (3, {"true": ["No"]}, "member: a word is in both true and false"),
    "typo": (0, {"uper": 3}, "features[0] (age): uper: there is no such key; did you mean upper?"),
    "kind": (0, {"kind": "number"}, "must be one of numeric, categorical, boolean"),
    "means missing": (1, {"vocabulary": ["NA", "b"]}, "plan: one of its words is also in missing"),
    "forbidden": (0, {"column": "email"}, "age: its column email is forbidden"),
    "id": (0, {"column": "customer"}, "age: its column customer is the id column"),
    "leak": (0, {"column": "churn"}, "age: its column churn is a target's"),
    "same name": (0, {"name": "plan"}, "plan: two features or targets have this name"),
    "like a target": (0, {"name": "churn", "column": "x"}, "churn: two features or targets"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_a_wrong_feature_is_refused_with_its_name_and_the_reason(error: str) -> None:
    index, changes, message = ERRORS[error]
    with pytest.raises(SchemaError) as caught:
        with_feature(index, **changes)
    assert str(caught.value).startswith("test: ")
    assert message in str(caught.value)


def test_wrong_targets_are_refused() -> None:
    with pytest.raises(SchemaError, match="positive and negative are the same word"):
        with_target(0, negative="yes")
    with pytest.raises(SchemaError, match="classes wants at least 2 words"):
        with_target(1, classes=["a"])
    with pytest.raises(SchemaError, match="a learned target has no column"):
        with_target(1, source="learned", column="next")
    with pytest.raises(SchemaError, match="targets: "):
        schema(targets=[])


def test_a_learned_target_needs_no_column() -> None:
    learned = with_target(1, source="learned").targets[1]
    assert learned.column is None


def test_errors_do_not_repeat_what_was_given() -> None:
    with pytest.raises(SchemaError) as caught:
        with_feature(0, upper="Ada Lovelace")
    assert "Ada" not in str(caught.value)
    assert "features[0] (age): upper" in str(caught.value)
    with pytest.raises(ValueError, match="upper") as direct:
        NumericFeature(name="x", lower=0, upper="Ada Lovelace")  # type: ignore[arg-type]
    assert "Ada" not in str(direct.value)


def test_unknown_and_absent_top_level_keys_are_named() -> None:
    with pytest.raises(SchemaError, match="forbiden: there is no such key; did you mean forbidden"):
        schema(forbiden=[])
    wanting = {key: value for key, value in tree().items() if key != "features"}
    with pytest.raises(SchemaError, match="features: is wanted and not there"):
        schema_from_mapping(wanting, "test")


def test_files_and_names_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="did you mean telco"):
        load_schema("telko")
    with pytest.raises(SchemaError, match="there is no schema file"):
        load_schema(str(tmp_path / "absent.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ", encoding="utf-8")
    with pytest.raises(SchemaError, match=r"broken\.toml is not valid TOML"):
        load_schema(str(broken))
    broken.write_bytes(b"name = '\xff'")
    with pytest.raises(SchemaError, match="not UTF-8"):
        load_schema(str(broken))


def test_a_schema_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_text(schema().to_toml(), encoding="utf-8")
    assert load_schema(str(file)) == schema()


def test_transactions_want_an_id_column() -> None:
    transactions = load_schema("online-retail").transactions
    assert transactions is not None
    with pytest.raises(SchemaError, match="wants an id_column"):
        schema(id_column=None, transactions=transactions.model_dump())
