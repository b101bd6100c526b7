"""Encoding depends on the schema and the row alone, and says what it cannot encode."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgcif_flwr.data.encoding import (
    EncodedTable,
    Head,
    bucket,
    encode,
    feature_layout,
)
from fgcif_flwr.data.schema import Schema, load_schema, schema_from_mapping
from fgcif_flwr.data.sources import read_table
from fgcif_flwr.errors import (
    DataError,
    MissingColumnError,
    ValueOutOfKindError,
)

SECRET = "Ada Lovelace"
# BLAKE2b of "", "Graz" and "Zürich" modulo 64: changing these makes old models wrong.
BUCKETS = [52, 16, 8]


def schema(
    features: list[dict[str, Any]] | None = None,
    targets: list[dict[str, Any]] | None = None,
    **others: Any,
) -> Schema:
    return schema_from_mapping(
        {
            "name": "test",
            "features": features or [{"kind": "boolean", "name": "flag"}],
            "targets": targets or [{"kind": "binary", "name": "y", "positive": "1"}],
            **others,
        },
        "test",
    )


def numeric(values: Any, **settings: Any) -> EncodedTable:
    feature = {"kind": "numeric", "name": "x", "lower": 0, "upper": 10} | settings
    return encode(schema([feature]), pa.table({"x": values}), targets=False)


def codes(kind: str, values: Any, **settings: Any) -> list[int]:
    feature = {"kind": kind, "name": "x"} | settings
    encoded = encode(schema([feature]), pa.table({"x": values}), targets=False)
    return [int(code) for code in encoded.categorical[:, 0]]


def target(values: Any, **settings: Any) -> np.ndarray[Any, Any]:
    part = {"name": "t"} | settings
    table = pa.table({"flag": ["yes"] * len(values), "t": values})
    return encode(schema(targets=[part]), table).targets["t"]


def test_numbers_are_scaled_by_public_bounds_and_clipped() -> None:
    encoded = numeric([0.0, 5.0, 10.0, -3.0, 99.0])
    assert encoded.numeric.dtype == np.float32
    assert encoded.numeric[:, 0].tolist() == [0.0, 0.5, 1.0, 0.0, 1.0]
    assert encoded.missing[:, 0].tolist() == [0.0] * 5


def test_log_scales_log1p_of_the_distance_from_the_lower_bound() -> None:
    encoded = numeric([-1.0, 0.0, 9.0], lower=-1, upper=9, log=True)
    expected = [0.0, np.log(2) / np.log(11), 1.0]
    assert encoded.numeric[:, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    "values",
    [
        [None, 5.0, float("nan")],
        [None, 5, None],
        ["", " 5 ", "?"],
        ["NaN", "5.0", None],
        ["nan", "5e0", " "],
    ],
)
def test_missing_numbers_are_zero_and_flagged(values: list[Any]) -> None:
    encoded = numeric(values)
    assert encoded.numeric[:, 0].tolist() == [0.0, 0.5, 0.0]
    assert encoded.missing[:, 0].tolist() == [1.0, 0.0, 1.0]


def test_a_stand_in_for_missing_counts_in_its_own_column_only() -> None:
    features = [
        {"kind": "numeric", "name": name, "lower": -5, "upper": 5, "missing": missing}
        for name, missing in (("a", ["-1"]), ("b", []))
    ]
    for values in (["-1", "-1.0"], [-1, -1], [-1.0, -1.0]):
        encoded = encode(schema(features), pa.table({"a": values, "b": values}), targets=False)
        assert encoded.missing.tolist() == [[1.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize("text", [SECRET, "12,5", "1 000", "0x10", "12 EUR", "1_0"])
def test_text_in_a_column_of_numbers_is_counted_and_not_shown(text: str) -> None:
    with pytest.raises(ValueOutOfKindError, match="column x: 2 of 3 rows are not numbers") as e:
        numeric([text, "1", text])
    assert text not in str(e.value)
    assert e.value.__cause__ is None


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), "1e999"])
def test_infinite_numbers_are_refused(value: Any) -> None:
    with pytest.raises(ValueOutOfKindError, match="column x: 1 of 1 rows are infinite"):
        numeric([value])
    with pytest.raises(ValueOutOfKindError):
        numeric(["inf"])


def test_columns_of_no_usable_type_are_refused() -> None:
    with pytest.raises(ValueOutOfKindError, match="column x holds list"):
        numeric([[1.0]])
    with pytest.raises(ValueOutOfKindError, match="column x holds timestamp"):
        numeric(pa.array([0], pa.timestamp("s")))
    with pytest.raises(ValueOutOfKindError, match="column x holds binary"):
        codes("categorical", [b"a"], vocabulary=["a"])


def test_words_have_codes_in_the_order_of_the_vocabulary() -> None:
    values = ["b", "a", None, "", " b ", "B", "c"]
    assert codes("categorical", values, vocabulary=["a", "b"]) == [3, 2, 0, 0, 3, 1, 1]


def test_whole_numbers_are_words_too() -> None:
    for values in ([1, None, 3], [1.0, None, 3.0], ["1", "", "3"]):
        assert codes("categorical", values, vocabulary=["1", "2", "3"]) == [2, 0, 4]


def test_buckets_are_stable_and_never_the_code_of_missing() -> None:
    assert [bucket(word, 64) for word in ("", "Graz", "Zürich")] == BUCKETS
    found = codes("categorical", ["Graz", None, "Graz", "Zürich", ""], buckets=64)
    assert found == [2 + BUCKETS[1], 0, 2 + BUCKETS[1], 2 + BUCKETS[2], 0]


def test_a_column_without_any_value_is_missing_whatever_its_kind() -> None:
    for values in (pa.nulls(2), pa.nulls(2, pa.string())):
        assert codes("categorical", values, buckets=4) == [0, 0]
        assert codes("categorical", values, vocabulary=["a"]) == [0, 0]
        assert codes("boolean", values) == [0, 0]
        assert numeric(values).missing.tolist() == [[1.0], [1.0]]


def test_dictionary_columns_encode_like_their_values() -> None:
    values = pa.array(["b", None, "a"]).dictionary_encode()
    assert codes("categorical", values, vocabulary=["a", "b"]) == [3, 0, 2]


def test_booleans_are_two_codes_from_words_numbers_or_booleans() -> None:
    assert codes("boolean", ["Yes", "NO", "t", "0", ""]) == [3, 2, 3, 2, 0]
    assert codes("boolean", [1, 0, None]) == [3, 2, 0]
    assert codes("boolean", [True, False, None]) == [3, 2, 0]
    assert codes("boolean", ["on", "Off"], true=["On"], false=["off"]) == [3, 2]


def test_another_word_in_a_boolean_is_counted_and_not_shown() -> None:
    with pytest.raises(ValueOutOfKindError, match="column x: 1 of 2 rows are neither") as e:
        codes("boolean", ["yes", SECRET])
    assert SECRET not in str(e.value)


def test_binary_targets_are_zero_one_or_nan() -> None:
    settings = {"kind": "binary", "positive": "Yes", "negative": "No"}
    found = target(["Yes", "No", None, "?"], **settings)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [1.0, 0.0, np.nan, np.nan])
    with pytest.raises(ValueOutOfKindError, match="column t: 2 of 3 rows are neither") as e:
        target(["Yes", SECRET, "yes"], **settings)
    assert SECRET not in str(e.value)


def test_without_a_negative_word_all_other_words_are_negative() -> None:
    found = target(["won", "lost", "", "open"], kind="binary", positive="won")
    np.testing.assert_array_equal(found, [1.0, 0.0, np.nan, 0.0])


def test_categorical_targets_are_indices_or_minus_one() -> None:
    found = target(["b", "a", None], kind="categorical", classes=["a", "b"])
    assert found.dtype == np.int64
    assert found.tolist() == [1, 0, -1]
    with pytest.raises(ValueOutOfKindError, match="1 of 1 rows are none of the 2 classes"):
        target(["c"], kind="categorical", classes=["a", "b"])


def test_numeric_targets_are_scaled_or_nan() -> None:
    found = target(["5", "", "20"], kind="numeric", lower=0, upper=10)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [0.5, np.nan, 1.0])


def test_every_label_of_a_learned_target_is_missing_until_it_is_learned() -> None:
    found = target(["a", "b"], kind="categorical", classes=["a", "b"], source="learned")
    assert found.dtype == np.int64
    assert found.tolist() == [-1, -1]


def test_targets_may_be_absent_for_prediction() -> None:
    table = pa.table({"flag": ["yes"]})
    assert encode(schema(), table, targets=False).targets == {}
    with pytest.raises(MissingColumnError, match=r"lacks 1 column.*: y;"):
        encode(schema(), table)


def test_all_absent_columns_are_named_with_a_near_one() -> None:
    table = pa.table({"Flag": ["yes"], "other": [1]})
    with pytest.raises(
        MissingColumnError, match=r"lacks 2 .* flag, y \(there with other case or blanks: flag\)"
    ):
        encode(schema(), table)


def test_tables_without_rows_or_with_repeated_names_are_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        encode(schema(), pa.table({"flag": pa.array([], pa.string())}), targets=False)
    twice = pa.Table.from_arrays([pa.array(["yes"])] * 2, names=["flag", "flag"])
    with pytest.raises(DataError, match="columns 1, 2 of 2 share a name"):
        encode(schema(), twice, targets=False)


def test_the_layout_follows_the_schema_and_fits_what_is_encoded() -> None:
    mixed = schema(
        [
            {"kind": "boolean", "name": "b"},
            {"kind": "numeric", "name": "n", "lower": 0, "upper": 1},
            {"kind": "categorical", "name": "v", "vocabulary": ["x", "y", "z"]},
            {"kind": "categorical", "name": "h", "buckets": 7},
        ],
        [
            {"kind": "binary", "name": "t1", "positive": "p"},
            {"kind": "binary", "name": "t2", "positive": "p", "negative": "q"},
            {"kind": "categorical", "name": "t3", "classes": ["a", "b", "c"]},
            {"kind": "numeric", "name": "t4", "lower": 0, "upper": 1},
        ],
    )
    layout = feature_layout(mixed)
    assert layout.numeric == ("n",)
    assert layout.categorical == ("b", "v", "h")
    assert layout.cardinalities == (4, 5, 9)
    assert layout.heads == (
        Head("t1", "binary", 1, ("not p", "p")),
        Head("t2", "binary", 1, ("q", "p")),
        Head("t3", "categorical", 3, ("a", "b", "c")),
        Head("t4", "numeric", 1, ()),
    )


def test_rows_can_be_taken_and_put_together_again() -> None:
    table = pa.table({"flag": ["yes", "no", "", "t"], "y": ["1", "0", "1", ""]})
    encoded = encode(schema(), table)
    assert encoded.numeric.shape == (4, 0)
    parts = [encoded.take([0, 1]), encoded.take([]), encoded.take(np.arange(4) >= 2)]
    assert [len(part) for part in parts] == [2, 0, 2]
    whole = EncodedTable.concatenate(parts)
    np.testing.assert_array_equal(whole.categorical, encoded.categorical)
    np.testing.assert_array_equal(whole.targets["y"], encoded.targets["y"])
    with pytest.raises(ValueError, match="at least one"):
        EncodedTable.concatenate([])


cells = st.one_of(st.none(), st.floats(-1e12, 1e12), st.sampled_from([0.0, -0.0, 1e-300]))


@given(st.lists(cells, min_size=1, max_size=30), st.booleans())
def test_every_number_encodes_into_the_unit_interval_alone_as_in_company(
    values: list[float | None], log: bool
) -> None:
    encoded = numeric(pa.array(values, pa.float64()), lower=-100, upper=1e6, log=log)
    assert np.all((encoded.numeric >= 0) & (encoded.numeric <= 1))
    alone = numeric(pa.array(values[:1], pa.float64()), lower=-100, upper=1e6, log=log)
    np.testing.assert_array_equal(alone.numeric[0], encoded.numeric[0])
    as_text = numeric([None if v is None else repr(v) for v in values], lower=-100, upper=1e6)
    plain = numeric(pa.array(values, pa.float64()), lower=-100, upper=1e6)
    np.testing.assert_array_equal(as_text.missing, plain.missing)
    np.testing.assert_array_equal(as_text.numeric, plain.numeric)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=30))
def test_any_text_has_a_code_below_the_cardinality(values: list[str]) -> None:
    for settings in ({"buckets": 5}, {"vocabulary": ["a", "0"]}):
        found = codes("categorical", values, **settings)
        assert all(0 <= code < 7 for code in found)


def test_typed_tables_encode_like_text(public: Callable[[str], Path]) -> None:
    telco = load_schema("telco")
    file = public("telco_ibm/Telco-Customer-Churn.csv")
    text = encode(telco, read_table(file))
    typed_table = pa_csv.read_csv(file)
    assert pa.types.is_integer(typed_table["tenure"].type)
    typed = encode(telco, typed_table)
    np.testing.assert_array_equal(text.numeric, typed.numeric)
    np.testing.assert_array_equal(text.missing, typed.missing)
    np.testing.assert_array_equal(text.categorical, typed.categorical)
    np.testing.assert_array_equal(text.targets["churn"], typed.targets["churn"])


@pytest.mark.parametrize(
    ("name", "file", "rows", "positives"),
    [
        ("telco", "telco_ibm/Telco-Customer-Churn.csv", 7043, 1869),
        ("mlc-churn", "mlc_churn/mlc_churn.csv", 5000, 707),
        ("bank-marketing", "bank_marketing/bank-full.csv", 45211, 5289),
        ("online-retail", "online_retail/online_retail.parquet", 3370, 1449),
    ],
)
def test_the_public_tables_encode_without_an_unseen_word(
    public: Callable[[str], Path], name: str, file: str, rows: int, positives: int
) -> None:
    chosen = load_schema(name)
    encoded = encode(chosen, read_table(public(file), chosen))
    assert len(encoded) == rows
    (labels,) = encoded.targets.values()
    assert not np.isnan(labels).any()
    assert labels.sum() == positives
    assert np.all(encoded.categorical >= 2)


def test_missing_values_of_the_public_tables_are_found(public: Callable[[str], Path]) -> None:
    telco = encode(load_schema("telco"), read_table(public("telco_ibm/Telco-Customer-Churn.csv")))
    assert telco.missing.sum(axis=0).tolist() == [0, 0, 11]
    bank = load_schema("bank-marketing")
    encoded = encode(bank, read_table(public("bank_marketing/bank-full.csv")))
    never = dict(zip(feature_layout(bank).numeric, encoded.missing.sum(axis=0), strict=True))
    assert never.pop("pdays") == 36954
    assert set(never.values()) == {0}


def test_half_a_million_rows_encode_in_seconds() -> None:
    rows = 500_000
    rng = np.random.default_rng(7)
    large = schema(
        [
            {"kind": "numeric", "name": "n", "lower": 0, "upper": 1},
            {"kind": "categorical", "name": "c", "vocabulary": ["0", "1", "2"]},
            {"kind": "categorical", "name": "h", "buckets": 4096},
        ]
    )
    table = pa.table(
        {
            "n": pa.array(rng.random(rows)).cast(pa.string()),
            "c": pa.array(rng.integers(0, 4, rows)).cast(pa.string()),
            "h": pa.array(rng.integers(0, rows, rows)).cast(pa.string()),
            "y": pa.array(rng.integers(0, 2, rows)),
        }
    )
    start = time.process_time()
    assert len(encode(large, table)) == rows
    assert time.process_time() - start < 10
