"""What encoding kept comes back, and what it lost comes back as something that encodes alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgcif_flwr.data.columns import as_numbers, as_text
from fgcif_flwr.data.decoding import decode, in_units, sensible_decimals
from fgcif_flwr.data.encoding import EncodedTable, encode, feature_layout
from fgcif_flwr.data.schema import (
    NumericFeature,
    Schema,
    builtin_names,
    load_schema,
    schema_from_mapping,
)
from fgcif_flwr.data.sources import read_table
from fgcif_flwr.errors import DataError

FEATURES: list[dict[str, Any]] = [
    {"kind": "numeric", "name": "age", "lower": 15, "upper": 100},
    {"kind": "numeric", "name": "balance", "lower": -5, "upper": 2000, "missing": ["-1"]},
    {"kind": "numeric", "name": "spend", "lower": 0, "upper": 250000, "log": True},
    {"kind": "categorical", "name": "plan", "column": "Plan", "vocabulary": ["a", "(unseen)"]},
    {"kind": "categorical", "name": "city", "buckets": 7},
    {"kind": "boolean", "name": "member"},
]
TARGETS: list[dict[str, Any]] = [
    {"kind": "binary", "name": "churn", "positive": "left"},
    {"kind": "categorical", "name": "segment", "classes": ["low", "high"]},
    {"kind": "numeric", "name": "value", "lower": 0, "upper": 20000, "log": True},
]


def schema(features: Any = FEATURES, targets: Any = TARGETS, **others: Any) -> Schema:
    return schema_from_mapping(
        {"name": "test", "features": features, "targets": targets, **others}, "test"
    )


def same(one: EncodedTable, other: EncodedTable) -> bool:
    parts = [(one.numeric, other.numeric), (one.missing, other.missing)]
    parts += [(one.categorical, other.categorical)]
    parts += [(one.targets[name], other.targets[name]) for name in one.targets]
    return one.targets.keys() == other.targets.keys() and all(
        np.array_equal(a, b, equal_nan=True) for a, b in parts
    )


def encoded_rows(numbers: list[float], codes: list[list[int]]) -> EncodedTable:
    """Rows of :func:`schema`: the same number in all numeric columns, NaN for missing."""
    scaled = np.array(numbers, np.float32)
    missing = np.repeat(np.isnan(scaled)[:, None], 3, axis=1)
    table = np.array(codes, np.int64).reshape(len(numbers), 5)
    return EncodedTable(
        np.where(missing, np.float32(0), np.repeat(scaled[:, None], 3, axis=1)),
        missing.astype(np.float32),
        table[:, :3],
        {
            "churn": np.where(table[:, 3] > 0, table[:, 3] - 1.0, np.nan).astype(np.float32),
            "segment": table[:, 4] - 1,
            "value": scaled,
        },
    )


# Of plan unseen too; of city and member no table gives that code.
_CODES = st.tuples(
    st.sampled_from([0, 1, 2, 3]),
    st.sampled_from([0, *range(2, 9)]),
    st.sampled_from([0, 2, 3]),
    st.integers(0, 2),
    st.integers(0, 2),
)
# As fine as float32 is below 1; far finer steps next to 0 are lost beside a bound of 15.
_NUMBER = st.integers(0, 2**24).map(lambda steps: steps / 2**24)
_ROWS = st.lists(st.tuples(st.one_of(st.just(float("nan")), _NUMBER), _CODES), min_size=1)


@settings(max_examples=50, deadline=None)
@given(_ROWS)
def test_any_encoded_rows_are_encoded_to_themselves_again(rows: Any) -> None:
    table = encoded_rows([row[0] for row in rows], [list(row[1]) for row in rows])
    assert same(encode(schema(), decode(schema(), table)), table)


@settings(deadline=None)
@given(st.lists(st.integers(0, 25_000_000).map(lambda cents: cents / 100), min_size=1))
def test_numbers_of_few_decimals_come_back_as_they_were_or_in_fewer(amounts: list[float]) -> None:
    table = pa.table({"age": amounts, "spend": amounts})
    numeric = schema([FEATURES[0] | {"upper": 250000, "lower": 0}, FEATURES[2]])
    encoded = encode(numeric, table, targets=False)
    decoded = decode(numeric, encoded)
    for name in ("age", "spend"):
        back = decoded[name].to_numpy()
        # float32 has 24 bits: of large amounts the cents are lost, and are not made up.
        assert np.allclose(back, amounts, rtol=2e-6, atol=1e-9)
        small = np.array(amounts) < 1000
        assert np.array_equal(back[small], np.array(amounts)[small])


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("telco", "telco_ibm/Telco-Customer-Churn.csv"),
        ("mlc-churn", "mlc_churn/mlc_churn.csv"),
        ("bank-marketing", "bank_marketing/bank-full.csv"),
    ],
)
def test_a_public_table_comes_back_but_for_clipped_values_and_words_for_yes(
    public: Any, name: str, file: str
) -> None:
    agreed = load_schema(name)
    table = read_table(public(file), agreed).slice(0, 5000)
    encoded = encode(agreed, table)
    decoded = decode(agreed, encoded)
    assert same(encode(agreed, decoded), encoded)
    for feature in agreed.features:
        if feature.kind == "numeric":
            words = (*agreed.missing, *feature.missing)
            read = as_numbers(table[feature.column], words, feature.column)
            read = np.clip(read, feature.lower, feature.upper)
            back = decoded[feature.column].to_numpy()
            assert np.array_equal(back, read, equal_nan=True)
        elif feature.kind == "categorical":
            read = as_text(table[feature.column], agreed.missing, feature.column)
            assert decoded[feature.column].to_pylist() == read.to_pylist()


def test_columns_have_the_schemas_names_and_order_and_no_id() -> None:
    table = decode(schema(), encoded_rows([0.5], [[2, 2, 2, 1, 1]]))
    names = ["age", "balance", "spend", "Plan", "city", "member", "churn", "segment", "value"]
    assert table.column_names == names


def test_what_encoding_lost_comes_back_as_a_stand_in() -> None:
    rows = encoded_rows([0.5] * 2, [[1, 2, 2, 1, 1], [0, 0, 3, 0, 0]])
    table = decode(schema(), rows)
    # the vocabulary has a word (unseen) of its own
    assert table["Plan"].to_pylist() == ["((unseen))", None]
    assert table["member"].to_pylist() == ["no", "yes"]
    assert table["churn"].to_pylist() == ["not left", None]


def test_codes_that_no_table_encodes_to_come_back_as_null() -> None:
    table = decode(schema(), encoded_rows([0.5], [[2, 1, 1, 1, 1]]))
    assert (table["city"].to_pylist(), table["member"].to_pylist()) == ([None], [None])


def test_a_number_that_means_missing_is_never_written() -> None:
    narrow = schema([FEATURES[1] | {"lower": -5, "upper": 5}])
    scaled = np.array([[0.4], [0.4]], np.float32)  # -1 exactly
    table = EncodedTable(scaled, np.array([[0], [1]], np.float32), np.zeros((2, 0), np.int64), {})
    for decimals in (None, {"balance": 0}):
        values = decode(narrow, table, decimals)["balance"].to_pylist()
        assert values[0] == pytest.approx(-1, abs=1e-5)
        assert values[0] != -1
        assert values[1] is None


def test_numbers_stay_within_their_bounds_when_rounded() -> None:
    part = schema([{"kind": "numeric", "name": "x", "lower": 0.5, "upper": 9.7}])
    ends = EncodedTable(
        np.array([[0], [1]], np.float32), np.zeros((2, 1), np.float32), np.zeros((2, 0), int), {}
    )
    for decimals in (None, {"x": 0}):
        assert decode(part, ends, decimals)["x"].to_pylist() == [0.5, 9.7]


def test_decimals_round_by_name_and_are_sensible_for_made_up_numbers() -> None:
    assert sensible_decimals(schema()) == {"age": 2, "balance": 0, "spend": 0, "value": 0}
    table = encoded_rows([0.3217], [[2, 2, 2, 1, 1]])
    decoded = decode(schema(), table, {"age": 1, "value": 2})
    assert decoded["age"].to_pylist() == [42.3]
    assert decoded["value"].to_pylist() == [round(np.expm1(0.3217 * np.log1p(20000)), 2)]
    assert decoded["spend"].to_pylist()[0] != round(decoded["spend"].to_pylist()[0], 1)


def test_no_rows_and_no_targets_are_no_trouble() -> None:
    nothing = decode(schema(), encoded_rows([], []))
    assert nothing.num_rows == 0
    table = encoded_rows([0.5], [[2, 2, 2, 1, 1]])
    unlabelled = EncodedTable(table.numeric, table.missing, table.categorical, {})
    assert "churn" not in decode(schema(), unlabelled).column_names


def test_of_two_features_of_one_column_the_first_decides() -> None:
    twice = schema(
        [FEATURES[0], {"kind": "categorical", "name": "b", "column": "age", "buckets": 2}]
    )
    rows = EncodedTable(
        np.full((1, 1), 0.5, np.float32), np.zeros((1, 1), np.float32), np.full((1, 1), 2), {}
    )
    assert decode(twice, rows)["age"].to_pylist() == [57.5]


@pytest.mark.parametrize(
    "change",
    [
        {"numeric": np.zeros((1, 2), np.float32)},
        {"categorical": np.array([[9, 2, 2]])},
        {"categorical": np.array([[-1, 2, 2]])},
        {"numeric": np.full((1, 3), np.inf, np.float32)},
        {"targets": {"churn": np.zeros(1, np.float32)}},
    ],
)
def test_arrays_of_another_schema_are_refused(change: dict[str, Any]) -> None:
    table = encoded_rows([0.5], [[2, 2, 2, 1, 1]])
    parts = {name: getattr(table, name) for name in ("numeric", "missing", "categorical")}
    wrong = EncodedTable(**({**parts, "targets": table.targets} | change))
    with pytest.raises(DataError):
        decode(schema(), wrong)


def test_a_label_beyond_its_classes_is_refused() -> None:
    table = encoded_rows([0.5], [[2, 2, 2, 1, 1]])
    for name, label in (("segment", np.array([2])), ("churn", np.array([0.5], np.float32))):
        wrong = EncodedTable(
            table.numeric, table.missing, table.categorical, {**table.targets, name: label}
        )
        with pytest.raises(DataError, match=name):
            decode(schema(), wrong)


def test_a_target_with_learned_classes_has_no_column_to_give() -> None:
    learned = {"kind": "categorical", "name": "l", "classes": ["a", "b"], "source": "learned"}
    agreed = schema(targets=[learned])
    table = encoded_rows([0.5], [[2, 2, 2, 1, 1]])
    labelled = EncodedTable(
        table.numeric, table.missing, table.categorical, {"l": np.zeros(1, int)}
    )
    assert "l" not in decode(agreed, labelled).column_names


@pytest.mark.parametrize("name", builtin_names())
def test_every_built_in_schema_decodes_rows_of_its_layout(name: str) -> None:
    agreed = load_schema(name)
    layout = feature_layout(agreed)
    rng = np.random.default_rng(3)
    table = EncodedTable(
        rng.random((50, len(layout.numeric)), np.float32),
        np.zeros((50, len(layout.numeric)), np.float32),
        np.stack([rng.integers(2, codes, 50) for codes in layout.cardinalities], axis=1),
        {
            head.name: rng.random(50, np.float32)
            if head.kind == "numeric"
            else rng.integers(0, 2, 50).astype(np.float32 if head.kind == "binary" else np.int64)
            for head in layout.heads
        },
    )
    assert same(encode(agreed, decode(agreed, table)), table)


def test_in_units_undoes_the_logarithm() -> None:
    part = NumericFeature(name="x", lower=-1, upper=9, log=True)
    expected = [-1.0, np.sqrt(11) - 2, 9.0]
    assert np.allclose(in_units(part, np.array([-0.5, 0.5, 1.0])), expected)
