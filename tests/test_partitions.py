"""Divisions of rows among enterprises: by column, by file, and drawn."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgcif_flwr.data.partitions import Partition, partition_rows
from fgcif_flwr.data.schema import Schema, load_schema
from fgcif_flwr.data.skews import MINIMUM_ROWS
from fgcif_flwr.data.sources import read_table
from fgcif_flwr.errors import DataError, MissingColumnError, PartitionError

DRAWN = ("iid", "dirichlet:0.5", "label-skew:5")
CHURN = {"kind": "binary", "name": "churn", "positive": "yes", "negative": "no"}
PLAN = {"kind": "categorical", "name": "plan", "classes": ["a", "b", "c"]}
SPEND = {"kind": "numeric", "name": "spend", "lower": 0, "upper": 1}


def schema(*targets: dict[str, Any], id_column: str | None = None) -> Schema:
    return Schema.model_validate(
        {
            "name": "test",
            "id_column": id_column,
            "features": [{"kind": "boolean", "name": "active"}],
            "targets": list(targets) or [CHURN],
        }
    )


def churn_table(rows: int, share: float = 0.3, missing: float = 0.0, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(rows) < share, "yes", "no").astype(object)
    labels[rng.random(rows) < missing] = None
    return pa.table({"churn": pa.array(labels, pa.string())})


def divide(spec: str, table: pa.Table, enterprises: int, seed: int = 0) -> Partition:
    return partition_rows(spec, table, schema(), enterprises, seed)


def positives_of(partition: Partition, table: pa.Table) -> np.ndarray[Any, Any]:
    positive = np.array(table["churn"].to_pylist(), dtype=object) == "yes"
    return np.bincount(partition.assignment[positive], minlength=len(partition.names))


def write(path: Path, text: str) -> str:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return f"file:{path}"


# By column.


def test_a_column_makes_one_enterprise_of_each_value_sorted_by_name() -> None:
    table = pa.table({"shop": ["west", "east", " west ", "NA"]})
    partition = divide("column:shop", table, 3)
    assert partition.names == ("NA", "east", "west")
    assert partition.assignment.tolist() == [2, 1, 2, 0]
    assert partition.assignment.dtype == np.int64
    assert partition.rows(2).tolist() == [0, 2]
    assert partition.sizes().tolist() == [1, 1, 2]


def test_a_column_of_numbers_or_of_a_dictionary_divides_too() -> None:
    for column in (pa.array([7, 5, 7]), pa.array(["7", "5", "7"]).dictionary_encode()):
        assert divide("column:shop", pa.table({"shop": column}), 2).assignment.tolist() == [1, 0, 1]


@pytest.mark.parametrize("asked", [2, 4])
def test_another_number_of_enterprises_than_asked_for_is_refused(asked: int) -> None:
    table = pa.table({"shop": ["a", "b", "c"]})
    with pytest.raises(PartitionError, match=r"among 3 enterprises.*--enterprises 3"):
        divide("column:shop", table, asked)


def test_rows_without_an_enterprise_are_counted_and_refused() -> None:
    with pytest.raises(PartitionError, match="column shop names no enterprise in 2 of 3 rows"):
        divide("column:shop", pa.table({"shop": ["a", None, " "]}), 1)


def test_a_column_that_is_not_there_is_refused() -> None:
    with pytest.raises(MissingColumnError, match="no column shop"):
        divide("column:shop", pa.table({"other": ["a"]}), 1)


# By file.


@pytest.mark.parametrize("name", ["division.csv", "division.csv.gz"])
def test_a_file_divides_by_row_number_and_leaves_out_what_it_does_not_list(
    name: str, tmp_path: Path
) -> None:
    spec = write(tmp_path / name, "row,enterprise\n3,DSL|One year\n0,a/b\n1,DSL|One year\n")
    partition = divide(spec, churn_table(5), 2)
    assert partition.names == ("DSL|One year", "a/b")
    assert partition.assignment.tolist() == [1, 0, -1, 0, -1]
    assert partition.sizes().tolist() == [2, 1]


def test_a_file_divides_by_customer_id_where_it_lists_ids(tmp_path: Path) -> None:
    spec = write(tmp_path / "ids.csv", "row,enterprise\n12347,north\n12346,south\n")
    for ids in ([12346, 99, 12347], [12346.0, 99.0, 12347.0], ["12346", "99", "12347"]):
        partition = partition_rows(spec, pa.table({"id": ids}), schema(id_column="id"), 2, 0)
        assert partition.assignment.tolist() == [1, -1, 0]


def test_a_file_divides_by_row_number_where_not_all_it_lists_are_ids(tmp_path: Path) -> None:
    spec = write(tmp_path / "rows.csv", "row,enterprise\n0,north\n1,south\n2,south\n")
    partition = partition_rows(spec, pa.table({"id": [1, 2, 3]}), schema(id_column="id"), 2, 0)
    assert partition.assignment.tolist() == [0, 1, 1]


def test_rows_of_a_file_that_the_table_lacks_are_counted_and_not_shown(tmp_path: Path) -> None:
    spec = write(tmp_path / "rows.csv", "row,enterprise\n0,a\n777,b\nsecret,b\n")
    with pytest.raises(PartitionError, match=r"2 of 3 rows .* row numbers from 0 to 4") as refusal:
        divide(spec, churn_table(5), 2)
    assert "777" not in str(refusal.value)
    assert "secret" not in str(refusal.value)
    with pytest.raises(PartitionError, match="ids of column id or row numbers"):
        partition_rows(spec, pa.table({"id": ["x", "y"]}), schema(id_column="id"), 2, 0)


def test_a_file_by_ids_wants_an_id_in_every_row(tmp_path: Path) -> None:
    spec = write(tmp_path / "ids.csv", "row,enterprise\nx,a\n")
    with pytest.raises(DataError, match="1 of 2 rows have no id"):
        partition_rows(spec, pa.table({"id": ["x", None]}), schema(id_column="id"), 1, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row,enterprise\n0,a\n1,b\n0,b\n", "1 rows are listed more than once"),
        ("row,enterprise\n0,a\n1,\n", "1 rows have no enterprise"),
        ("row,shop\n0,a\n", "columns row and enterprise"),
        ("row,enterprise\n0,a,b\n", "cannot be read"),
        ("", "cannot be read"),
        ("row,enterprise\n0,a\n1,b\n2,c\n", r"among 3 enterprises.*--enterprises 3"),
    ],
)
def test_a_file_that_is_no_division_is_refused(text: str, message: str, tmp_path: Path) -> None:
    spec = write(tmp_path / "rows.csv", text)
    with pytest.raises(PartitionError, match=message):
        divide(spec, churn_table(5), 2)


def test_a_file_that_is_not_there_or_not_gzip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PartitionError, match="there is no file"):
        divide(f"file:{tmp_path / 'none.csv'}", churn_table(5), 2)
    (tmp_path / "broken.csv.gz").write_text("row,enterprise\n0,a\n")
    with pytest.raises(PartitionError, match="cannot be read"):
        divide(f"file:{tmp_path / 'broken.csv.gz'}", churn_table(5), 2)


@pytest.mark.parametrize(
    ("split", "table", "schema_name", "enterprises", "unused"),
    [
        ("mlc_50", "mlc_churn/mlc_churn.csv", "mlc-churn", 50, 0),
        ("telco_nogeo_50", "telco_ibm/Telco-Customer-Churn.csv", "telco", 36, 0),
        ("bank_marketing_50", "bank_marketing/bank-full.csv", "bank-marketing", 50, 6786),
        ("online_retail_50", "online_retail/online_retail.parquet", "online-retail", 40, 0),
    ],
)
def test_divisions_of_the_public_tables_fit_them(
    split: str,
    table: str,
    schema_name: str,
    enterprises: int,
    unused: int,
    public: Callable[[str], Path],
) -> None:
    described = load_schema(schema_name)
    rows = read_table(public(table), described)
    spec = f"file:{public(f'splits/{split}.csv.gz')}"
    partition = partition_rows(spec, rows, described, enterprises, 0)
    assert len(partition.assignment) == rows.num_rows
    assert int((partition.assignment < 0).sum()) == unused
    assert partition.sizes().min() >= MINIMUM_ROWS
    with pytest.raises(PartitionError, match=f"--enterprises {enterprises}"):
        partition_rows(spec, rows, described, enterprises + 1, 0)


# Drawn.


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    st.sampled_from([*DRAWN, "dirichlet:0.01", "dirichlet:1e6", "label-skew:0.01"]),
    st.integers(3, 30),
    st.integers(0, 2**32 - 1),
)
def test_a_drawn_division_uses_every_row_and_leaves_no_enterprise_empty(
    spec: str, enterprises: int, seed: int
) -> None:
    table = churn_table(30 * enterprises + 7, missing=0.1, seed=seed)
    partition = divide(spec, table, enterprises, seed)
    assert partition.assignment.min() >= 0
    sizes = partition.sizes()
    assert len(sizes) == len(partition.names) == enterprises
    assert sizes.sum() == table.num_rows
    assert sizes.min() >= MINIMUM_ROWS
    if not spec.startswith("dirichlet"):
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("spec", DRAWN)
def test_a_drawn_division_depends_on_specification_table_and_seed_alone(spec: str) -> None:
    table = churn_table(1000)
    first, again, other = (divide(spec, table, 10, seed).assignment for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_drawn_enterprises_have_numbers_of_equal_width_for_names() -> None:
    assert divide("iid", churn_table(50), 3).names == (
        "enterprise-00",
        "enterprise-01",
        "enterprise-02",
    )
    names = divide("iid", churn_table(200), 101).names
    assert (names[0], names[-1]) == ("enterprise-000", "enterprise-100")


def mean_share_of_largest_class(spec: str) -> float:
    rng = np.random.default_rng(0)
    table = pa.table({"plan": rng.choice(["a", "b", "c"], 6000)})
    partition = partition_rows(spec, table, schema(SPEND, PLAN, CHURN), 20, 0)
    codes = np.searchsorted(["a", "b", "c"], table["plan"].to_pylist())
    cells = np.zeros((20, 3))
    np.add.at(cells, (partition.assignment, codes), 1)
    return float(np.mean(cells.max(axis=1) / cells.sum(axis=1)))


def test_a_smaller_dirichlet_concentration_gives_enterprises_of_fewer_classes() -> None:
    shares = [mean_share_of_largest_class(f"dirichlet:{a}") for a in ("0.1", "1", "1000")]
    assert shares[0] > shares[1] + 0.1
    assert shares[1] > shares[2] + 0.1
    assert shares[2] < 0.4


def test_a_small_dirichlet_concentration_gives_enterprises_of_different_sizes() -> None:
    sizes = divide("dirichlet:0.5", churn_table(5000), 10).sizes()
    assert sizes.max() > 3 * sizes.min()


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    st.sampled_from(["1e-300", "0.001", "0.1", "1", "20", "1e9", "1e300"]),
    st.floats(0.02, 0.98),
    st.integers(0, 2**32 - 1),
)
def test_label_skew_keeps_the_positives_that_there_are(
    concentration: str, share: float, seed: int
) -> None:
    table = churn_table(2000, share, missing=0.05, seed=seed)
    partition = divide(f"label-skew:{concentration}", table, 20, seed)
    positives = positives_of(partition, table)
    assert positives.sum() == table["churn"].to_pylist().count("yes")
    assert np.all(positives <= partition.sizes())


def test_label_skew_spreads_shares_of_positives_as_the_beta_distribution_does() -> None:
    table = churn_table(50_000, 0.3)
    for concentration in (2.0, 10.0, 100.0):
        partition = divide(f"label-skew:{concentration}", table, 100)
        shares = positives_of(partition, table) / partition.sizes()
        # 100 draws: their variance is within half of the distribution's except about once in 1000.
        expected = 0.3 * 0.7 / (concentration + 1)
        assert 0.5 * expected < shares.var() < 1.5 * expected
        assert shares.mean() == pytest.approx(0.3, abs=0.01)


def test_rows_of_missing_label_are_spread_evenly() -> None:
    table = churn_table(3000, missing=0.2)
    missing = np.array([value is None for value in table["churn"].to_pylist()])
    for spec in ("label-skew:0.5", "dirichlet:5"):
        dealt = np.bincount(divide(spec, table, 10).assignment[missing], minlength=10)
        assert dealt.max() - dealt.min() <= 1


def test_drawn_divisions_look_at_the_first_target_of_the_kind_they_want() -> None:
    table = pa.table({"plan": ["a", "b"] * 200, "churn": ["yes", "no", "no", "no"] * 100})
    both = schema(PLAN, CHURN)
    skewed = partition_rows("label-skew:0.01", table, both, 4, 0)
    assert sorted(positives_of(skewed, table)) == [0, 0, 0, 100]
    with pytest.raises(PartitionError, match="wants a binary target"):
        partition_rows("label-skew:1", table, schema(PLAN), 4, 0)
    with pytest.raises(PartitionError, match="wants a binary or categorical target"):
        partition_rows("dirichlet:1", table, schema(SPEND), 4, 0)
    with pytest.raises(MissingColumnError, match="churn"):
        partition_rows("dirichlet:1", table.drop_columns("churn"), schema(CHURN), 4, 0)


@pytest.mark.parametrize(
    ("spec", "rows", "most"), [("iid", 5, 5), ("label-skew:1", 5, 5), ("dirichlet:1", 59, 5)]
)
def test_too_few_rows_are_refused_with_the_number_of_enterprises_that_fits(
    spec: str, rows: int, most: int
) -> None:
    with pytest.raises(PartitionError, match=rf"run\.enterprises to at most {most}$"):
        divide(spec, churn_table(rows), 6)


def test_labels_that_cannot_be_skewed_are_refused() -> None:
    with pytest.raises(PartitionError, match="0 positive and 100 negative"):
        divide("label-skew:1", churn_table(100, share=0.0), 5)
    with pytest.raises(PartitionError, match="all are missing"):
        divide("dirichlet:1", churn_table(100, missing=1.0), 5)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "much"])
@pytest.mark.parametrize("kind", ["dirichlet", "label-skew"])
def test_a_concentration_must_be_a_finite_number_above_zero(kind: str, value: str) -> None:
    with pytest.raises(PartitionError, match=f"A of {kind}:A must be a finite number above 0"):
        divide(f"{kind}:{value}", churn_table(100), 5)


@pytest.mark.parametrize(
    "spec", ["", "IID", "iid:3", "column", "column:", "file:", "dirichlet", "label-skew:", "random"]
)
def test_an_unknown_division_is_refused_with_the_known_ones(spec: str) -> None:
    with pytest.raises(PartitionError, match="column:NAME, file:PATH, iid, dirichlet:A, label-sk"):
        divide(spec, churn_table(100), 5)
