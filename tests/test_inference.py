"""A drafted schema encodes its table, and repeats nothing rare from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgcif_flwr.data.encoding import encode
from fgcif_flwr.data.inference import infer_schema, rounded_outward
from fgcif_flwr.data.schema import (
    BinaryTarget,
    BooleanFeature,
    CategoricalFeature,
    CategoricalTarget,
    Feature,
    NumericFeature,
    NumericTarget,
    Schema,
    load_schema,
    schema_from_toml,
)
from fgcif_flwr.data.sources import read_table
from fgcif_flwr.errors import DataError, MissingColumnError, SchemaError

ROWS = 200


def draft(target: str | None = None, **columns: Any) -> Schema:
    base = {"churn": ["yes", "no", "no", "no"] * (ROWS // 4), "age": [20, 30, 40, 55] * (ROWS // 4)}
    return infer_schema(pa.table(base | columns), "shop", target)


def feature(name: str, values: Any) -> Feature:
    found = {part.name: part for part in draft(**{name: values}).features}
    return found[name]


def test_numbers_stay_numeric_however_few() -> None:
    found = feature("calls", [0, 1, 2, 3] * (ROWS // 4))
    assert isinstance(found, NumericFeature)
    assert (found.lower, found.upper, found.log) == (0, 5, False)
    as_text = feature("calls", ["0", "1", "2", ""] * (ROWS // 4))
    assert isinstance(as_text, NumericFeature)


@pytest.mark.parametrize("words", [("Yes", "No"), ("1", "0"), (1, 0), (True, False), ("T", "f")])
def test_yes_and_no_are_boolean(words: tuple[Any, Any]) -> None:
    assert isinstance(feature("flag", [*words] * (ROWS // 2)), BooleanFeature)


def test_other_words_are_a_vocabulary_without_those_that_few_rows_hold() -> None:
    found = feature("plan", ["plus", "basic"] * (ROWS // 2 - 1) + ["basic", "for Ada only"])
    assert isinstance(found, CategoricalFeature)
    assert found.vocabulary == ("basic", "plus")


def test_many_words_are_hashed_into_buckets() -> None:
    found = feature("city", [f"city {i % 80}" for i in range(ROWS)])
    assert isinstance(found, CategoricalFeature)
    assert found.buckets == 256


def test_long_tails_are_scaled_by_their_logarithm() -> None:
    found = feature("spent", [1.0] * (ROWS - 1) + [90_000.0])
    assert isinstance(found, NumericFeature)
    assert found.log
    assert found.upper == 100_000


FORBIDDEN = {
    "customerID": [f"c{i}" for i in range(ROWS)],
    "account_id": [i % 40 for i in range(ROWS)],
    "row": list(range(ROWS)),
    "contact": [f"p{i % 60}@example.org" for i in range(ROWS)],
    "LastName": [f"name {i % 90}" for i in range(ROWS)],
    "phone_number": [4_400_000 + 7 * (i % 90) for i in range(ROWS)],
    "remark": [f"free text {i}" for i in range(ROWS)],
    "constant": ["same"] * ROWS,
    "empty": [None] * ROWS,
    "since": pa.array(range(ROWS), pa.timestamp("s")),
    "history": [[i] for i in range(ROWS)],
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_ids_persons_dates_and_constants_are_forbidden(name: str) -> None:
    found = draft(**{name: FORBIDDEN[name]})
    assert found.forbidden == (name,)
    assert [part.name for part in found.features] == ["age"]


def test_the_first_id_that_never_repeats_is_the_id_column() -> None:
    found = draft(shop_id=[1, 2] * (ROWS // 2), customer_id=[f"c{i}" for i in range(ROWS)])
    assert found.id_column == "customer_id"
    assert draft().id_column is None


def test_telephone_service_is_no_telephone_number() -> None:
    assert isinstance(feature("PhoneService", ["Yes", "No"] * (ROWS // 2)), BooleanFeature)


def test_the_target_is_found_by_name() -> None:
    (found,) = draft().targets
    assert found == BinaryTarget(name="churn", positive="yes", negative="no")
    table = pa.table({"x": [*range(15)], "Y": ["good", "bad", "good"] * 5})
    (other,) = infer_schema(table, "t").targets
    assert other == BinaryTarget(name="Y", positive="bad", negative="good")


def test_another_target_can_be_asked_for() -> None:
    (classes,) = draft("next", next=["a", "b", "c", "d"] * (ROWS // 4)).targets
    assert classes == CategoricalTarget(name="next", classes=("a", "b", "c", "d"))
    (value,) = draft("age").targets
    assert value == NumericTarget(name="age", lower=0, upper=100)
    with pytest.raises(MissingColumnError, match="absent"):
        draft("absent")


def test_what_cannot_be_drafted_is_told() -> None:
    with pytest.raises(SchemaError, match="no column is named like a target"):
        infer_schema(pa.table({"a": [1, 2], "b": ["x", "z"]}), "t")
    with pytest.raises(SchemaError, match="no column is left to be a feature"):
        infer_schema(pa.table({"a": [1] * 10, "y": ["x", "z"] * 5}), "t")
    with pytest.raises(SchemaError, match="one of its two words is in fewer than 5 rows"):
        infer_schema(pa.table({"a": [*range(9)], "y": ["x"] * 8 + ["z"]}), "t")
    with pytest.raises(SchemaError, match="column remark cannot be a target: it has 200 words"):
        draft("remark", remark=FORBIDDEN["remark"])
    with pytest.raises(DataError, match="no rows"):
        infer_schema(pa.table({"y": pa.array([], pa.string())}), "t")


@given(st.floats(-1e200, 1e200), st.floats(-1e200, 1e200))
def test_bounds_are_rounded_outward_to_one_two_or_five(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    lower, upper = rounded_outward(low, high)
    assert lower <= low
    assert high <= upper
    for bound in (lower, upper):
        if bound:
            digit = f"{abs(bound):.12e}"[0]
            assert digit in "125"
            assert math.isclose(abs(bound), float(f"{abs(bound):.0e}"))


def test_bounds_of_known_ranges() -> None:
    assert rounded_outward(18, 95) == (0, 100)
    assert rounded_outward(-8019, 102127) == (-10_000, 200_000)
    assert rounded_outward(0.001, 0.02) == (0, 0.02)
    assert rounded_outward(-3, -1) == (-5, 0)


TABLES = {
    "telco": "telco_ibm/Telco-Customer-Churn.csv",
    "mlc-churn": "mlc_churn/mlc_churn.csv",
    "bank-marketing": "bank_marketing/bank-full.csv",
}


@pytest.mark.parametrize("name", TABLES)
def test_drafts_of_the_public_tables_agree_with_the_builtin_schemas(
    public: Callable[[str], Path], name: str
) -> None:
    builtin = load_schema(name)
    table = read_table(public(TABLES[name]))
    found = infer_schema(table, name)
    assert found.id_column == builtin.id_column
    kinds = {part.column: part.kind for part in found.features}
    assert {part.column: part.kind for part in builtin.features}.items() <= kinds.items()
    column = "y" if name == "bank-marketing" else builtin.targets[0].column
    assert found.targets[0].column == column
    again = schema_from_toml(found.to_toml(), "draft")
    assert again == found
    assert not np.isnan(encode(again, table).targets[found.targets[0].name]).any()


def test_a_draft_warns_that_bounds_are_public() -> None:
    assert draft().to_toml().startswith("# Bounds and vocabularies are public. Agree on them")
