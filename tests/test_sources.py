"""Files are read without guessing, and lines of purchases become customers by fixed rules."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import pytest

from fgcif_flwr.data.schema import Schema, load_schema
from fgcif_flwr.data.sources import read_table
from fgcif_flwr.data.transactions import DERIVED_COLUMNS, customer_table
from fgcif_flwr.errors import DataError, MissingColumnError, ValueOutOfKindError

SECRET = "Ada Lovelace"


def write(file: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return file


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "T.CSV"])
def test_csv_is_text_exactly_as_written(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, "code,country,note,n\n007,NO,,1.50\n1e3,NA,null,true\n")
    table = read_table(file)
    assert table.schema.types == [pa.string()] * 4
    assert table.to_pylist() == [
        {"code": "007", "country": "NO", "note": "", "n": "1.50"},
        {"code": "1e3", "country": "NA", "note": "null", "n": "true"},
    ]


def test_csv_may_have_a_byte_order_mark_quotes_and_line_breaks_in_quotes(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", '\ufeff"a","b, c"\r\n"x ""y""","two\nlines"\r\n')
    assert read_table(str(file)).to_pylist() == [{"a": 'x "y"', "b, c": "two\nlines"}]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_header_s(tmp_path: Path, mark: str) -> None:
    file = write(tmp_path / "t.csv", f"a{mark}b\n1{mark}2\n")
    assert read_table(file).to_pylist() == [{"a": "1", "b": "2"}]


def test_types_do_not_depend_on_how_far_down_a_word_stands(tmp_path: Path) -> None:
    rows = ["1"] * 300_000 + ["x"]
    table = read_table(write(tmp_path / "t.csv", "a,b\n" + "".join(f"{row},0\n" for row in rows)))
    assert table.num_rows == 300_001
    assert table["a"][-1].as_py() == "x"


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    table = pa.table({"a": [1, None], "b": [True, False], "c": ["x", "y"], "d": [0.5, 1.5]})
    file = tmp_path / "key=value.parquet"
    pa_parquet.write_table(table, file)
    assert read_table(file).equals(table)


def test_lines_of_another_length_are_counted_and_not_shown(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", f"a,b\n1,2\n{SECRET}\n1,2,{SECRET}\n")
    with pytest.raises(DataError, match=r"2 line\(s\) have more or fewer .* 2;") as caught:
        read_table(file)
    assert SECRET not in str(caught.value)


BROKEN = {
    "empty": ("t.csv", b"", "the file is empty"),
    "header only": ("t.csv", b"a,b\n", "the table has no rows"),
    "repeated name": ("t.csv", b"a,b,a\n1,2,3\n", "columns 1, 3 of 3 share a name"),
    "unnamed": ("t.csv", b"a,,b\n1,2,3\n", r"1 column\(s\) have no name"),
    "latin-1 value": ("t.csv", "a,b\nZürich,1\n".encode("latin-1"), "UTF-8"),
    "latin-1 header": ("t.csv", "ä,b\nx,1\n".encode("latin-1"), "UTF-8"),
    "name over two lines": ("t.csv", b'"a\nb",c\n1,2\n', "names in the header line"),
    "utf-16": ("t.csv", "a,b\nx,1\n".encode("utf-16"), "UTF-8"),
    "no parquet": ("t.parquet", b"a,b\n1,2\n", "not a Parquet file"),
    "no kind": ("t.xlsx", b"PK", "of no known kind"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_the_reason(tmp_path: Path, case: str) -> None:
    name, content, message = BROKEN[case]
    file = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as caught:
        read_table(file)
    assert str(file) in str(caught.value)


def test_a_gzip_file_that_is_cut_off_or_none_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b"a,b\n" + b"1,2\n" * 1000)
    for content in (whole[:-20], b"a,b\n1,2\n"):
        file = tmp_path / "t.csv.gz"
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"t\.csv\.gz"):
            read_table(file)


def test_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        read_table(tmp_path / "absent.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="there is no file"):
        read_table(tmp_path / "folder.csv")


@pytest.fixture
def shop() -> Schema:
    return load_schema("online-retail")


def line(customer: Any, when: str, quantity: Any, **others: Any) -> dict[str, Any]:
    defaults = {"UnitPrice": 2.0, "StockCode": "s", "InvoiceNo": when, "Country": "France"}
    fixed = {"CustomerID": customer, "InvoiceDate": when, "Quantity": quantity}
    return defaults | fixed | others


LINES = [
    line(2, "2011-09-01 00:00:00", 3),
    line(2, "2011-09-01 00:00:00", 1, StockCode="t", UnitPrice=0.5),
    line(2, "2011-09-05 12:00:00", 2, Country="Spain"),
    line(2, "2011-09-06 00:00:00", -2, InvoiceNo="C1"),
    line(1, "2011-09-09 23:59:59", 1),
    line(1, "2011-09-10 00:00:00", 1),
    line(3, "2011-09-10 00:00:00", 1),
    line(4, "2011-08-11 00:00:00", 1),
    line(4, "2011-12-10 00:00:00", 1),
    line(5, "2011-09-01 00:00:00", -1),
    line(6, "2011-09-01 00:00:00", 1),
    line(6, "2011-10-01 00:00:00", -1),
    line(None, "2011-09-01 00:00:00", 1),
]


def test_the_derived_columns_follow_their_definitions(shop: Schema) -> None:
    customers = customer_table(shop, pa.Table.from_pylist(LINES))
    assert customers.column_names == ["CustomerID", *DERIVED_COLUMNS]
    rows = {row.pop("CustomerID"): row for row in customers.to_pylist()}
    assert rows["2"] == {
        "recency_days": 4.5,
        "frequency": 2,
        "monetary": 10.5,
        "tenure_days": 9.0,
        "mean_interpurchase_days": 4.5,
        "items": 6.0,
        "distinct_products": 2,
        "returns": 1,
        "country": "Spain",
        "churn": "yes",
    }
    # 1 buys on the first day of the horizon, 4 on the day after its last; 6 only gives back.
    assert {name: row["churn"] for name, row in rows.items()} == {
        "1": "no",
        "2": "yes",
        "4": "yes",
        "6": "yes",
    }
    assert rows["1"]["mean_interpurchase_days"] is None


def test_lines_as_text_give_the_same_customers(shop: Schema) -> None:
    typed = pa.Table.from_pylist(LINES)
    times = [datetime.fromisoformat(row["InvoiceDate"]) for row in LINES]
    as_time = typed.set_column(
        typed.column_names.index("InvoiceDate"), "InvoiceDate", pa.array(times)
    )
    zoned = typed.set_column(
        typed.column_names.index("InvoiceDate"),
        "InvoiceDate",
        pa.array([time.replace(tzinfo=UTC) for time in times]),
    )
    as_text = pa.table({name: pc.cast(typed[name], pa.string()) for name in typed.column_names})
    expected = customer_table(shop, typed)
    for other in (as_time, zoned, as_text):
        assert customer_table(shop, other).equals(expected)


def test_names_of_columns_never_become_sql(shop: Schema) -> None:
    assert shop.transactions is not None
    hostile = 'x"; DROP TABLE lines; --'
    renamed = shop.model_copy(
        update={"transactions": shop.transactions.model_copy(update={"quantity": hostile})}
    )
    table = pa.Table.from_pylist(LINES)
    names = [hostile if name == "Quantity" else name for name in table.column_names]
    assert customer_table(renamed, table.rename_columns(names)).equals(customer_table(shop, table))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Quantity": "two"}, "column Quantity: 1 of 1 rows are not numbers"),
        ({"UnitPrice": None}, "column UnitPrice: missing in 1 of the 1 lines"),
        ({"InvoiceDate": "9/10/2011 8:26"}, "column InvoiceDate: some lines hold no date"),
        ({"InvoiceDate": ""}, "column InvoiceDate: missing in 1 of the 1 lines"),
    ],
)
def test_lines_that_cannot_be_used_are_counted(
    shop: Schema, changes: dict[str, Any], message: str
) -> None:
    table = pa.Table.from_pylist([line(1, "2011-09-10", 1) | changes])
    with pytest.raises(ValueOutOfKindError, match=message):
        customer_table(shop, table)


def test_churn_that_nobody_could_have_seen_yet_is_refused(shop: Schema) -> None:
    with pytest.raises(
        DataError, match="the lines end before the 91 days after the cut-off 2011-09-10"
    ):
        customer_table(shop, pa.Table.from_pylist([line(1, "2011-12-08", 1)]))
    with pytest.raises(DataError, match="no customer has a purchase before the cut-off"):
        customer_table(shop, pa.Table.from_pylist([line(1, "2011-12-09", 1)]))
    with pytest.raises(DataError, match="no line has a customer"):
        customer_table(shop, pa.Table.from_pylist([line("", "2011-09-10", 1)]))


def test_the_public_lines_give_the_published_customers(
    public: Callable[[str], Path], shop: Schema
) -> None:
    file = public("online_retail/online_retail.parquet")
    customers = read_table(file, shop)
    assert customers.num_rows == 3370
    assert pc.sum(pc.equal(customers["churn"], "yes")).as_py() == 1449
    assert customers["CustomerID"][0].as_py() == "12346"
    assert customers.equals(read_table(file, shop))
    assert read_table(file).num_rows == 541_909


def test_a_table_of_customers_is_used_as_it_is(tmp_path: Path, shop: Schema) -> None:
    customers = customer_table(shop, pa.Table.from_pylist(LINES))
    file = tmp_path / "customers.csv"
    pa_csv.write_csv(customers, file)
    table = read_table(file, shop)
    assert table.column_names == customers.column_names
    assert table["churn"].to_pylist() == customers["churn"].to_pylist()


def test_other_tables_are_left_to_encoding(tmp_path: Path, shop: Schema) -> None:
    table = read_table(write(tmp_path / "t.csv", "a,b\n1,2\n"), shop)
    assert table.column_names == ["a", "b"]
    with pytest.raises(MissingColumnError, match="Country, CustomerID"):
        customer_table(shop, table)
