"""A table becomes the project's the same way whatever it lies in, and nothing is guessed."""

from __future__ import annotations

import csv
import gzip
import io
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fgcif_flwr.config.crm import CrmData, TableSource
from fgcif_flwr.data.crm.connection import open_connection
from fgcif_flwr.data.crm.customers import customer_table
from fgcif_flwr.data.crm.report import ComponentReport
from fgcif_flwr.data.crm.sources import Strictness, attach
from fgcif_flwr.data.encoding import encode
from fgcif_flwr.data.schema import Schema, load_schema, schema_from_mapping
from fgcif_flwr.data.sources import read_table
from fgcif_flwr.errors import ConfigurationError, DataError, MissingColumnError

MISSING = ("", "NA", "null")
COLUMNS = {"customer": "Kunde", "time": "Zeit", "amount": "Betrag", "category": "Art"}
SECRET = "Ada Lovelace"


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as opened:
        yield opened


def rows_of(connection: duckdb.DuckDBPyConnection, component: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = connection.sql(f"FROM {component}").to_arrow_table().to_pylist()
    return rows


def transactions(
    connection: duckdb.DuckDBPyConnection, source: TableSource
) -> tuple[list[dict[str, Any]], ComponentReport]:
    report = attach(connection, "transactions", source, MISSING)
    return rows_of(connection, "transactions"), report


def write(file: Path, text: str, encoding: str = "utf-8") -> Path:
    data = text.encode(encoding)
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return file


# One table in every form ------------------------------------------------------------------------

LATIN = "latin-1"
letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
latin_letters = st.characters(codec=LATIN, exclude_characters="\0")


@st.composite
def written_tables(draw: st.DrawFn) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    form = {
        "delimiter": draw(st.sampled_from([",", ";", "\t", "|"])),
        "decimal": draw(st.sampled_from([".", ","])),
        "encoding": draw(st.sampled_from(["utf-8", "utf-8-sig", LATIN, "utf-16"])),
        "newline": draw(st.sampled_from(["\n", "\r\n"])),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    }
    texts = st.text(latin_letters if form["encoding"] == LATIN else letters, max_size=8)
    row = st.tuples(
        texts,
        st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
        st.none() | texts,
    )
    return draw(st.lists(row, min_size=1, max_size=6)), form


def as_csv(rows: list[tuple[Any, ...]], form: dict[str, Any]) -> bytes:
    text = io.StringIO()
    # Python before 3.13 leaves a carriage return without quotes where lines end in line feeds.
    quoted = any("\r" in (one or "") for row in rows for one in (row[0], row[3]))
    writer = csv.writer(
        text,
        delimiter=form["delimiter"],
        lineterminator=form["newline"],
        quoting=csv.QUOTE_ALL if quoted else form["quoting"],
    )
    writer.writerow(["Kunde", "Zeit", "Betrag", "Art"])
    for customer, time, amount, category in rows:
        number = "" if amount is None else repr(amount).replace(".", form["decimal"])
        writer.writerow([customer, time.isoformat(), number, category])
    return text.getvalue().encode(form["encoding"])


def expected_text(text: str | None) -> str | None:
    stripped = None if text is None else text.strip()
    return None if stripped in (None, *MISSING) else stripped


def expected(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    found = []
    for customer, time, amount, category in rows:
        known = expected_text(customer)
        if known is not None:
            known = re.sub(r"^(-?[0-9]+)\.0+$", r"\1", known)
            found.append((known, time, amount, expected_text(category)))
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(written=written_tables())
def test_csv_parquet_and_sqlite_give_the_same_rows(
    written: tuple[list[tuple[Any, ...]], dict[str, Any]], tmp_path_factory: Any
) -> None:
    rows, form = written
    folder = tmp_path_factory.mktemp("forms")
    (folder / "t.csv").write_bytes(as_csv(rows, form))
    columns = list(zip(*rows, strict=True))
    types = (pa.string(), pa.timestamp("us"), pa.float64(), pa.string())
    named = zip(("Kunde", "Zeit", "Betrag", "Art"), columns, types, strict=True)
    table = pa.table({name: pa.array(values, kind) for name, values, kind in named})
    pa_parquet.write_table(table, folder / "t.parquet")
    with closing(sqlite3.connect(folder / "t.db")) as database:
        database.execute("CREATE TABLE t (Kunde TEXT, Zeit TEXT, Betrag REAL, Art TEXT)")
        iso = [(row[0], row[1].isoformat(" "), *row[2:]) for row in rows]
        database.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", iso)
        database.commit()
    encoding = "utf-8" if form["encoding"] == "utf-8-sig" else form["encoding"]
    own = {"delimiter": form["delimiter"], "decimal": form["decimal"], "encoding": encoding}
    sources = [
        TableSource(source=str(folder / "t.csv"), columns=COLUMNS, **own),
        TableSource(source=str(folder / "t.parquet"), columns=COLUMNS),
        TableSource(source=f"sqlite:///{folder / 't.db'}", table="t", columns=COLUMNS),
    ]
    for source in sources:
        with duckdb.connect(config={"threads": 1}) as connection:
            report = attach(connection, "transactions", source, MISSING)
            chosen = "SELECT customer, time, amount, category FROM transactions"
            found = connection.execute(chosen).fetchall()
        assert found == expected(rows), source.source
        assert report.faults == () or not found, [one.sentence() for one in report.findings]
        assert (report.rows, report.kept) == (len(rows), len(found))


# Numbers ----------------------------------------------------------------------------------------

NUMBERS = {
    ".": {"1": 1, "-0.5": -0.5, "+2.": 2, ".5": 0.5, "1e3": 1000, "007": 7, "1,5": None},
    ",": {"1": 1, "-0,5": -0.5, "2,": 2, "1,5e3": 1500, "1.5": None, "1,2,3": None},
    ".,": {"1,234": 1234, "1,234,567.5": 1234567.5, "12": 12, "1,23": None, "12,34,567": None},
    ",.": {"1.234": 1234, "1.234,5": 1234.5, "1234,5": 1234.5, "1.2": None, ".123": None},
    ", ": {"1 234,5": 1234.5, "1\u00a0234": 1234, "1\u202f234": 1234, "1 23": None},
    ".'": {"1'234.50": 1234.5, "1'2": None},
}
NEVER = ["inf", "-Infinity", "1e999", "1_000", "0x10", "12 EUR", "ja", "--1", "1 2", "\u0661"]


@pytest.mark.parametrize("marks", NUMBERS)
def test_numbers_are_read_by_the_marks_of_the_source_and_no_others(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection, marks: str
) -> None:
    values = NUMBERS[marks] | dict.fromkeys(NEVER)
    lines = [f"c;2024-01-01;{number}" for number in values]
    file = write(tmp_path / "t.csv", "\n".join(["Kunde;Zeit;Betrag", *lines]))
    marked = {"decimal": marks[0], "thousands": marks[1:]}
    rows, report = transactions(
        connection,
        TableSource(source=str(file), columns={k: COLUMNS[k] for k in list(COLUMNS)[:3]}, **marked),
    )
    assert [row["amount"] for row in rows] == list(values.values())
    (fault,) = report.faults
    wrong = sum(value is None for value in values.values())
    assert (fault.kind, fault.column, fault.count) == ("not-a-number", "Betrag", wrong)


def test_missing_words_may_be_numbers_and_units_come_after_them(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    file = tmp_path / "t.parquet"
    table = {"customer": ["a"] * 4, "time": [datetime(2024, 1, 1)] * 4, "cents": [150, -1, None, 7]}
    pa_parquet.write_table(pa.table(table), file)
    source = TableSource(
        source=str(file), columns={"amount": "cents"}, units={"amount": 0.01}, missing=("-1",)
    )
    rows, report = transactions(connection, source)
    assert [row["amount"] for row in rows] == [1.5, None, None, 0.07]
    assert report.faults == ()


def test_infinite_numbers_of_parquet_are_counted_and_nan_is_missing(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    file = tmp_path / "t.parquet"
    amounts = [1.0, float("inf"), float("nan"), -np.inf]
    table = {"customer": ["a"] * 4, "time": [datetime(2024, 1, 1)] * 4, "amount": amounts}
    pa_parquet.write_table(pa.table(table), file)
    rows, report = transactions(connection, TableSource(source=str(file)))
    assert [row["amount"] for row in rows] == [1.0, None, None, None]
    assert [(one.kind, one.count) for one in report.faults] == [("not-a-number", 2)]


def test_an_amount_is_quantity_times_price_and_what_came_back_is_negative(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    lines = "a,2024-01-01,2,1.5,no\na,2024-01-02,-1,4,no\na,2024-01-03,1,0,yes\na,2024-01-04,,3,\n"
    file = write(tmp_path / "t.csv", f"customer,time,n,each,back\n{lines}")
    source = TableSource(
        source=str(file), columns={"quantity": "n", "price": "each", "returned": "back"}
    )
    rows, _ = transactions(connection, source)
    assert [row["amount"] for row in rows] == [3.0, -4.0, 0.0, None]
    assert [row["returned"] for row in rows] == [False, True, True, False]


# Times ------------------------------------------------------------------------------------------


def times(
    connection: duckdb.DuckDBPyConnection, folder: Path, values: list[str], **settings_of: Any
) -> tuple[list[datetime | None], ComponentReport]:
    file = write(folder / "t.csv", "\n".join(["customer;time;x", *(f"c;{one};" for one in values)]))
    rows, report = transactions(connection, TableSource(source=str(file), **settings_of))
    return [row["time"] for row in rows], report


def test_times_are_iso_8601_and_nothing_else_unless_the_source_says_how(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    good = ["2024-01-31", "2024-01-31 08:26", "2024-01-31T08:26:01", "2024-01-31 08:26:01.5"]
    bad = ["2024-1-31", "31.01.2024", "2024-02-30", "20240131", "1706689561", "2024-01-31 25:00"]
    found, report = times(connection, tmp_path, [*good, *bad, "", "0001-01-01"])
    assert found == [datetime.fromisoformat(one) for one in good]
    assert report.kept == 4
    counted = {one.kind: one.count for one in report.findings}
    assert (counted["not-a-time"], counted["missing-time"]) == (7, 1)


def test_a_time_format_is_taken_exactly(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    values = ["01.09.2011 08:26", "1.9.2011 8:26", "2011-09-01", "31.02.2011 00:00", "1.9.11 8:26"]
    found, report = times(connection, tmp_path, values, time_format="%d.%m.%Y %H:%M")
    assert found == [datetime(2011, 9, 1, 8, 26)] * 2
    assert [(one.kind, one.count) for one in report.faults] == [("not-a-time", 3)]
    with pytest.raises(ConfigurationError, match="time_format"):
        times(connection, tmp_path, values, time_format="%Q")


def test_times_with_an_offset_are_taken_to_the_zone_of_the_source(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    zone = {"timezone": "Europe/Berlin"}
    values = ["2024-07-01T12:00:00Z", "2024-07-01 12:00:00+02:00", "2024-07-01 12:00+0530"]
    found, _ = times(connection, tmp_path, [*values, "2024-07-01 12:00:00"], **zone)
    assert [one.hour if one else None for one in found] == [14, 12, 8, 12]
    formatted = {"time_format": "%d.%m.%Y %H:%M %z", **zone}
    found, _ = times(connection, tmp_path, ["01.07.2024 12:00 +0000"], **formatted)
    assert found == [datetime(2024, 7, 1, 14)]
    file = tmp_path / "z.parquet"
    moments = [
        datetime(2024, 7, 1, 12, tzinfo=UTC),
        datetime(2024, 7, 1, tzinfo=timezone(timedelta(hours=9))),
    ]
    pa_parquet.write_table(pa.table({"customer": ["a", "b"], "time": moments}), file)
    rows, report = transactions(connection, TableSource(source=str(file), **zone))
    assert [row["time"].hour for row in rows] == [14, 17]
    assert "daylight-saving" not in {one.kind for one in report.findings}


def test_hours_that_a_clock_shows_twice_or_never_are_counted(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    values = ["2024-03-31 02:30:00", "2024-03-31 03:00:00", "2024-10-27 02:00:00"]
    values += ["2024-10-27 02:59:59", "2024-10-27 03:00:00", "2024-10-27 02:30:00+01:00"]
    _, report = times(connection, tmp_path, values, timezone="Europe/Berlin")
    counted = {one.kind: one.count for one in report.findings}
    assert counted["daylight-saving"] == 3
    _, report = times(connection, tmp_path, values, timezone="UTC")
    assert "daylight-saving" not in {one.kind for one in report.findings}


# Words, ids, kinds ------------------------------------------------------------------------------


def test_codes_become_the_words_that_they_mean_and_others_are_counted(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    lines = "a;2024-01-01;1;J\na;2024-01-01;2;N\na;2024-01-01;9;X\na;2024-01-01;;\n"
    file = write(tmp_path / "t.csv", f"customer;time;category;returned\n{lines}")
    words = {"category": {"1": "food", "2": "toys"}, "returned": {"J": "yes", "N": "no"}}
    rows, report = transactions(connection, TableSource(source=str(file), words=words))
    assert [row["category"] for row in rows] == ["food", "toys", "9", None]
    assert [row["returned"] for row in rows] == [True, False, False, False]
    counted = {one.kind: (one.severity, one.count) for one in report.findings}
    assert counted["outside-mapping"] == ("warning", 1)
    assert counted["not-yes-or-no"] == ("fault", 1)


def test_white_space_of_every_kind_is_taken_from_around_a_value(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    spaces = [chr(code) for code in range(0x3001) if chr(code).isspace()]
    table = {
        "customer": [f"{space}{i} x" for i, space in enumerate(spaces)],
        "time": ["2024-01-01"] * len(spaces),
        "category": [f"\u00e9{space}" for space in spaces],
        "product": [f"{space} NA {space}" for space in spaces],
    }
    pa_parquet.write_table(pa.table(table), tmp_path / "t.parquet")
    rows, _ = transactions(connection, TableSource(source=str(tmp_path / "t.parquet")))
    assert [row["customer"] for row in rows] == [f"{i} x" for i in range(len(spaces))]
    assert {row["category"] for row in rows} == {"\u00e9"}
    assert {row["product"] for row in rows} == {None}


def test_a_code_may_mean_missing_and_a_word_for_missing_may_mean_something(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    text = "customer,time,category\na,2024-01-01,0\nb,2024-01-01,NA\nc,2024-01-01,null\n"
    words = {"category": {"0": "", "NA": "Namibia"}}
    source = TableSource(source=str(write(tmp_path / "t.csv", text)), words=words)
    rows, report = transactions(connection, source)
    assert [row["category"] for row in rows] == [None, "Namibia", None]
    assert report.faults == ()


def test_names_that_differ_in_capitals_alone_are_refused(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    file = str(write(tmp_path / "t.csv", "customer,plan\na,b\n"))
    for columns in ({"Customer": "plan"}, {"x": "plan", "X": "plan"}):
        with pytest.raises(ConfigurationError, match="differs from another only in capitals"):
            attach(connection, "customers", TableSource(source=file, columns=columns), MISSING)


def test_events_are_views_unless_the_table_says_what_they_are(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    file = write(
        tmp_path / "t.csv", "customer,time,art,pages\na,2024-01-01,view,2\nb,2024-01-01,?,\n"
    )
    attach(connection, "events", TableSource(source=str(file)), MISSING)
    assert [row["kind"] for row in rows_of(connection, "events")] == ["view", "view"]
    mapped = TableSource(source=str(file), columns={"kind": "art"})
    report = attach(connection, "events", mapped, MISSING)
    assert [row["kind"] for row in rows_of(connection, "events")] == ["view", None]
    assert [(one.kind, one.count) for one in report.faults] == [("no-class", 1)]


def test_a_sentiment_is_between_minus_one_and_one(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    file = write(
        tmp_path / "t.csv", "customer,time,sentiment\na,2024-01-01,-100\na,2024-01-01,50\n"
    )
    report = attach(connection, "interactions", TableSource(source=str(file)), MISSING)
    assert [(one.kind, one.count) for one in report.faults] == [("not-a-number", 2)]
    scaled = TableSource(source=str(file), units={"sentiment": 0.01})
    assert attach(connection, "interactions", scaled, MISSING).faults == ()
    assert [row["sentiment"] for row in rows_of(connection, "interactions")] == [-1.0, 0.5]


def test_views_have_exactly_the_columns_and_types_of_the_project(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    file = str(
        write(tmp_path / "t.csv", "customer,time,since,plan,x\na,2024-01-01,2020-01-01,p,1\n")
    )
    shape = {}
    for component in ("transactions", "events", "interactions"):
        attach(connection, component, TableSource(source=file), MISSING)  # type: ignore[arg-type]
    attach(connection, "customers", TableSource(source=file, columns={"tariff": "plan"}), MISSING)
    for component in ("transactions", "events", "interactions", "customers"):
        described = connection.execute(f"DESCRIBE {component}").fetchall()
        shape[component] = " ".join(f"{name}:{kind}" for name, kind, *_ in described)
    assert shape == {
        "transactions": "customer:VARCHAR time:TIMESTAMP amount:DOUBLE category:VARCHAR "
        "channel:VARCHAR product:VARCHAR invoice:VARCHAR country:VARCHAR returned:BOOLEAN "
        "discounted:BOOLEAN",
        "events": "customer:VARCHAR time:TIMESTAMP kind:VARCHAR session:VARCHAR pages:DOUBLE "
        "dwell_seconds:DOUBLE clicked:BOOLEAN",
        "interactions": "customer:VARCHAR time:TIMESTAMP closed:TIMESTAMP channel:VARCHAR "
        "topic:VARCHAR text:VARCHAR sentiment:DOUBLE satisfaction:DOUBLE open_hours:DOUBLE",
        "customers": "customer:VARCHAR since:TIMESTAMP contract_end:TIMESTAMP churned:VARCHAR "
        "tariff:VARCHAR",
    }


def test_whole_numbers_name_the_same_customer_in_every_type(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    for number, kind in enumerate((pa.int64(), pa.float64(), pa.string())):
        file = tmp_path / f"{number}.parquet"
        ids = pa.array([12346, 2**52]).cast(kind)
        pa_parquet.write_table(
            pa.table({"customer": ids, "time": [datetime(2024, 1, 1)] * 2}), file
        )
        rows, _ = transactions(connection, TableSource(source=str(file)))
        assert [row["customer"] for row in rows] == ["12346", str(2**52)]


# Files ------------------------------------------------------------------------------------------


def test_a_pattern_names_many_files_of_one_form(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    for name in ("b", "a"):
        write(tmp_path / f"{name}.csv.gz", f"customer,time\n{name},2024-01-01\n")
    source = TableSource(source=str(tmp_path / "*.csv.gz"))
    assert [row["customer"] for row in transactions(connection, source)[0]] == ["a", "b"]
    write(tmp_path / "c.csv.gz", "customer,date\nc,2024-01-01\n")
    with pytest.raises(DataError, match=r"1 of 3 files have another header line"):
        transactions(connection, source)


def test_line_breaks_of_two_kinds_and_quotes_are_as_spreadsheets_write_them(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    text = 'customer;time;text\r\na;2024-01-01;"two\nlines; ""so"""\r\nb;2024-01-02;"x\r\ny"\r\n'
    attach(
        connection,
        "interactions",
        TableSource(source=str(write(tmp_path / "t.csv", text))),
        MISSING,
    )
    texts = [row["text"] for row in rows_of(connection, "interactions")]
    assert texts == ['two\nlines; "so"', "x\r\ny"]


def test_lines_of_another_length_are_counted(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    lines = f"a,2024-01-01,1\n{SECRET}\na,2024-01-01,2,{SECRET}\n"
    source = TableSource(source=str(write(tmp_path / "t.csv", f"customer,time,amount\n{lines}")))
    rows, report = transactions(connection, source)
    assert (len(rows), report.rows) == (1, 3)
    assert [(one.kind, one.count) for one in report.faults] == [("line-length", 2)]


BROKEN = {
    "unclosed quote": (b'customer,time\na,"2024-01-01\nb,2024-01-02\n', {}, "never closed"),
    "other encoding": ("customer,time\nM\u00fcller,x\n".encode(LATIN), {}, "encoding"),
    "other encoding in the header": ("customer,t\u00e4g\na,x\n".encode(LATIN), {}, "encoding"),
    "unknown encoding": (b"customer,time\n", {"encoding": "klingon"}, "encoding klingon"),
    "unknown zone": (b"customer,time\na,x\n", {"timezone": "Berlin"}, "timezone Berlin"),
    "empty": (b"", {}, "empty"),
    "one name twice": (b"customer,time,time\na,b,c\n", {}, "columns 2, 3 of 3 share a name"),
    "a name is missing": (b"customer,,time\na,b,c\n", {}, "no name"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told_without_its_values(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection, case: str
) -> None:
    content, own, message = BROKEN[case]
    (tmp_path / "t.csv").write_bytes(content)
    source = TableSource(source=str(tmp_path / "t.csv"), **own)  # type: ignore[arg-type]
    with pytest.raises((DataError, ConfigurationError), match=message) as caught:
        transactions(connection, source)
    assert "ller" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_broken_parquet_and_unknown_files_are_told(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    write(tmp_path / "t.parquet", "no parquet")
    for name, message in (
        ("t.parquet", "not Parquet"),
        ("absent.csv", "no file"),
        ("t.xlsx", "CSV or all be Parquet"),
    ):
        write(tmp_path / "t.xlsx", "PK")
        with pytest.raises(DataError, match=message):
            transactions(connection, TableSource(source=str(tmp_path / name)))


def test_a_name_that_duckdb_takes_for_a_pattern_never_opens_another_file(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    row = {"customer": ["mine"], "time": [datetime(2024, 1, 1)]}
    pa_parquet.write_table(pa.table(row | {"customer": ["other"]}), tmp_path / "a1.parquet")
    pa_parquet.write_table(pa.table(row), tmp_path / "a[1].parquet")
    with pytest.raises(DataError, match="rename it"):
        transactions(connection, TableSource(source=str(tmp_path / "a[1].parquet")))


# Injection, isolation ---------------------------------------------------------------------------

HOSTILE = [
    'x"; DROP TABLE secrets; --',
    "x'; DROP TABLE secrets; --",
    "{t}",
    "a\u0000b",
    "v0",
    "s0",
]


@pytest.mark.parametrize("name", [one for one in HOSTILE if "\0" not in one])
def test_names_words_and_formats_never_become_sql(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection, name: str
) -> None:
    connection.execute("CREATE TABLE secrets (a INTEGER)")
    table = pa.table({name: ["a", name], "time": ["2024-01-01"] * 2, "plan": [name, "b"]})
    pa_parquet.write_table(table, tmp_path / "t.parquet")
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [table.column_names, *zip(*table.to_pydict().values(), strict=True)]
        )
    for form in ("t.parquet", "t.csv"):
        source = TableSource(
            source=str(tmp_path / form),
            columns={"customer": name, name + "_": "plan"},
            words={name + "_": {name: name + "'"}},
            missing=("'); DROP TABLE secrets; --",),
        )
        attach(connection, "customers", source, ("' OR true --",))
        rows = rows_of(connection, "customers")
        assert [row["customer"] for row in rows] == ["a", name]
        assert [row[name + "_"] for row in rows] == [name + "'", "b"]
    bad = TableSource(source=str(tmp_path / "t.csv"), columns={"customer": name}, time_format="%Y'")
    attach(connection, "transactions", bad, MISSING)
    assert connection.execute("SELECT count(*) FROM secrets").fetchall() == [(0,)]


def test_the_connection_opens_no_file_but_those_of_the_data(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.parquet", tmp_path / "other.parquet"
    for file in (mine, other):
        pa_parquet.write_table(pa.table({"customer": ["a"], "time": [datetime(2024, 1, 1)]}), file)
    source = TableSource(source=str(mine))
    with open_connection(CrmData(transactions=source), tmp_path) as connection:
        attach(connection, "transactions", source, MISSING)
        assert len(rows_of(connection, "transactions")) == 1
        for statement in (
            f"FROM read_parquet('{other}')",
            f"FROM read_csv('{other}')",
            f"COPY transactions TO '{tmp_path / 'out.csv'}'",
            f"ATTACH '{tmp_path / 'out.db'}'",
            "SET enable_external_access = true",
            "INSTALL httpfs",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(statement).fetchall()
        directory = connection.execute("SELECT current_setting('temp_directory')").fetchall()[0][0]
        assert Path(directory).stat().st_mode & 0o777 == 0o700
    assert not Path(directory).exists()


def test_more_rows_than_the_memory_holds_are_read(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute(
            "COPY (SELECT 'c' || (i % 1000) AS customer, TIMESTAMP '2024-01-01' AS time, "
            f"repeat('x', 150) || i AS text FROM range(1_200_000) r(i)) TO '{file}'"
        )
    source = TableSource(source=str(file))
    with open_connection(CrmData(interactions=source, memory_mb=192), tmp_path) as connection:
        report = attach(connection, "interactions", source, MISSING)
        assert report.kept == 1_200_000
        ((count,),) = connection.execute(
            "SELECT count(DISTINCT customer) FROM interactions"
        ).fetchall()
    assert count == 1000


# Ready tables -----------------------------------------------------------------------------------


def test_a_ready_table_encodes_as_the_file_itself_does(public: Callable[[str], Path]) -> None:
    file, schema = public("telco_ibm/Telco-Customer-Churn.csv"), load_schema("telco")
    table, report = customer_table(CrmData(table=TableSource(source=str(file))), schema)
    assert (report.customers, report.ready) == (7043, True)
    mine, plain = encode(schema, table), encode(schema, read_table(file, schema))
    for name in ("numeric", "missing", "categorical"):
        assert np.array_equal(getattr(mine, name), getattr(plain, name))
    assert np.array_equal(mine.targets["churn"], plain.targets["churn"])


def small_schema(**others: Any) -> Schema:
    tree: dict[str, Any] = {
        "name": "small",
        "id_column": "id",
        "features": [
            {"name": "spend", "kind": "numeric", "lower": 0, "upper": 100},
            {"name": "active", "kind": "boolean", "true": ["on"], "false": ["off"]},
        ],
        "targets": [{"name": "churn", "kind": "binary", "positive": "yes", "negative": "no"}],
    }
    return schema_from_mapping(tree | others, "small")


def ready(folder: Path, text: str, **others: Any) -> CrmData:
    file = write(folder / "t.csv", text)
    kept = {key: others.pop(key) for key in ("duplicates", "unreadable") if key in others}
    return CrmData(table=TableSource(source=str(file), **others), **kept)


def test_a_ready_table_is_brought_to_the_schema(tmp_path: Path) -> None:
    text = "Nr;Umsatz;Aktiv;K\n1;1.250,5;an;J\n2;;aus;N\n;1;an;J\n1.0;99;an;N\n"
    data = ready(
        tmp_path,
        text,
        columns={"id": "Nr", "spend": "Umsatz", "active": "Aktiv", "churn": "K"},
        words={"active": {"an": "on", "aus": "off"}, "churn": {"J": "yes", "N": "no"}},
        units={"spend": 0.01},
        decimal=",",
        thousands=".",
        duplicates="last",
    )
    table, report = customer_table(data, small_schema())
    assert table.to_pylist() == [
        {"id": "2", "spend": None, "active": "off", "churn": "no"},
        {"id": "1", "spend": 0.99, "active": "on", "churn": "no"},
    ]
    assert {one.kind: one.count for _, one in report.all_findings()} == {
        "missing-id": 1,
        "repeated-id": 1,
    }
    without, _ = customer_table(data, small_schema(), targets=False)
    assert without.column_names == ["id", "spend", "active"]
    assert len(encode(small_schema(), table)) == 2


HEADER = "id,spend,active,churn\n"
REFUSED: dict[str, tuple[str, dict[str, Any], type[Exception], str]] = {
    "repeated id": ("1,1,on,no\n1,2,on,no\n", {}, DataError, "1 of 2 rows repeat"),
    "no number": ("1,x,on,no\n", {}, DataError, "spend: 1 of 1 rows are not numbers"),
    "no boolean": ("1,1,yes,no\n", {}, DataError, "active: 1 of 1 rows are neither"),
    "no class": ("1,1,on,maybe\n", {}, DataError, "churn: 1 of 1 rows are none of the 2"),
    "no id": (",1,on,no\n", {}, DataError, "no row of the table can be used"),
    "no rows": ("", {}, DataError, "no rows"),
    "strange name": ("", {"columns": {"spent": "x"}}, DataError, "of a column spent"),
    "no column": ("", {"columns": {"spend": "activ"}}, MissingColumnError, "did you mean active"),
    "unit of a word": ("", {"units": {"churn": 2.0}}, ConfigurationError, "units: churn"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_a_guess_is_refused(tmp_path: Path, case: str) -> None:
    text, own, error, message = REFUSED[case]
    with pytest.raises(error, match=message) as caught:
        customer_table(ready(tmp_path, HEADER + text, **own), small_schema())
    assert "maybe" not in str(caught.value)


def test_unreadable_values_may_be_missing_where_the_enterprise_says_so(tmp_path: Path) -> None:
    text = f"{HEADER}1,x,on,no\n2,1,so,no\n"
    table, report = customer_table(ready(tmp_path, text, unreadable="missing"), small_schema())
    assert table["spend"].to_pylist() == [None, 1.0]
    assert table["active"].to_pylist() == ["on", None]
    found = {one.kind: one.severity for _, one in report.all_findings()}
    assert (found["not-a-number"], found["not-yes-or-no"]) == ("warning", "warning")


def test_a_ready_table_has_no_cut_off(tmp_path: Path) -> None:
    data = ready(tmp_path, "id,spend,active,churn\n1,1,on,no\n")
    with pytest.raises(ConfigurationError, match="cut-off"):
        customer_table(data, small_schema(), cutoff=datetime(2024, 1, 1).date())


def test_rows_without_an_id_column_are_customers_of_their_own(tmp_path: Path) -> None:
    schema = small_schema(id_column=None)
    table, _ = customer_table(ready(tmp_path, "spend,active,churn\n1,on,no\n1,on,no\n"), schema)
    assert table.num_rows == 2


def test_strictness_is_as_the_configuration_has_it_by_default() -> None:
    data = CrmData(table=TableSource(source="t.csv"))
    assert Strictness(data.duplicates, data.unreadable) == Strictness()
