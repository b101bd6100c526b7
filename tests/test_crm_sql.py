"""Databases are read, never written; and nothing of them but rows gets any further."""

from __future__ import annotations

import glob
import logging
import os
import pwd
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from fgcif_flwr.config.crm import CrmData, TableSource
from fgcif_flwr.data.crm.customers import check_data, customer_table
from fgcif_flwr.data.crm.report import ComponentReport
from fgcif_flwr.data.crm.sources import attach
from fgcif_flwr.data.crm.sql_source import DatabaseTable
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.errors import ConfigurationError, DataError, FgcifError

PASSWORD = "s3cret/of:the@house"
SECRET = "Ada Lovelace"


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as opened:
        yield opened


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    file = tmp_path / "shop.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE sales (customer TEXT, time TEXT, amount, note TEXT)")
        rows = [
            ("a", "2024-01-01", 1, "x"),
            ("b", "2024-01-02 10:00:00", 2.5, None),
            ("c", "2024-01-03", "3,5", ""),
            ("d", "2024-01-04", None, "NA"),
            (None, "2024-01-05", 5, SECRET),
            ("f", 1704412800, "x", "y"),
        ]
        database.executemany("INSERT INTO sales VALUES (?, ?, ?, ?)", rows)
        database.execute("CREATE VIEW recent AS SELECT * FROM sales WHERE customer = 'a'")
        database.commit()
    return file


def source_of(file: Path, table: str = "sales", **others: Any) -> TableSource:
    return TableSource(source=f"sqlite:///{file}", table=table, **others)


def read(
    connection: duckdb.DuckDBPyConnection, source: TableSource
) -> tuple[list[dict[str, Any]], ComponentReport]:
    report = attach(connection, "transactions", source, ("", "NA"))
    rows: list[dict[str, Any]] = connection.sql("FROM transactions").to_arrow_table().to_pylist()
    return rows, report


def test_text_among_numbers_is_read_by_the_marks_of_the_source(
    shop: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    rows, report = read(connection, source_of(shop, decimal=",", columns={"category": "note"}))
    assert [row["customer"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["amount"] for row in rows] == [1.0, 2.5, 3.5, None]
    assert [row["category"] for row in rows] == ["x", None, None, None]
    counted = {(one.kind, one.column): one.count for one in report.findings}
    assert counted["missing-id", "customer"] == 1
    assert counted["not-a-time", "time"] == 1
    assert counted["not-a-number", "amount"] == 1
    assert (report.rows, report.kept) == (6, 4)


def test_views_are_read_as_tables_are(shop: Path, connection: duckdb.DuckDBPyConnection) -> None:
    assert [row["customer"] for row in read(connection, source_of(shop, "recent"))[0]] == ["a"]


def test_only_columns_that_are_wanted_are_asked_for(
    shop: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    with closing(sqlite3.connect(shop)) as database:
        database.execute("ALTER TABLE sales ADD COLUMN photo BLOB DEFAULT x'00'")
        database.commit()
    assert len(read(connection, source_of(shop))[0]) == 4
    with pytest.raises(DataError, match="column photo holds bytes values"):
        read(connection, source_of(shop, columns={"product": "photo"}))


def test_more_rows_than_a_chunk_are_streamed(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    with closing(sqlite3.connect(tmp_path / "big.db")) as database:
        database.execute("CREATE TABLE t (customer INTEGER, time TEXT, amount REAL)")
        rows = ((i % 100, "2024-01-01", i / 2) for i in range(45_001))
        database.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
        database.commit()
    _, report = read(connection, source_of(tmp_path / "big.db", "t"))
    assert report.kept == 45_001
    query = "SELECT sum(amount), count(DISTINCT customer) FROM transactions"
    assert connection.execute(query).fetchall() == [(45_000 * 45_001 / 4, 100)]


def test_a_file_is_opened_for_reading_alone(shop: Path) -> None:
    engine = DatabaseTable(source_of(shop))._engine
    with engine.connect() as opened, pytest.raises(sa.exc.OperationalError, match="readonly"):
        opened.execute(sa.text("DELETE FROM sales"))
    before = shop.read_bytes()
    with duckdb.connect() as connection:
        read(connection, source_of(shop))
    assert shop.read_bytes() == before
    with pytest.raises(DataError, match="no file"):
        DatabaseTable(source_of(shop.with_name("new.db")))
    assert not shop.with_name("new.db").exists()


def test_a_table_that_is_not_there_is_told_with_the_nearest(shop: Path) -> None:
    with pytest.raises(DataError, match=r"no table or view sale .*did you mean sales\?"):
        DatabaseTable(source_of(shop, "sale"))
    with pytest.raises(DataError, match=r"no table or view main\.salse .*did you mean main\.sales"):
        DatabaseTable(source_of(shop, "main.salse"))
    assert "customer" in DatabaseTable(source_of(shop, "main.sales")).names


HOSTILE = ['x"; DROP TABLE sales; --', "x'; DROP TABLE sales; --", "a.b", "select", "Größe %s :x"]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_never_become_sql(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection, name: str
) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    with closing(sqlite3.connect(tmp_path / "h.db")) as database:
        database.execute("CREATE TABLE sales (a TEXT)")
        database.execute(f"CREATE TABLE {quoted} ({quoted} TEXT, time TEXT)")
        database.execute(f"INSERT INTO {quoted} VALUES ('c', '2024-01-01')")
        database.commit()
    source = source_of(tmp_path / "h.db", name, columns={"customer": name})
    assert [row["customer"] for row in read(connection, source)[0]] == ["c"]
    with pytest.raises(DataError, match="no table"):
        DatabaseTable(source_of(tmp_path / "h.db", "sales; DROP TABLE sales"))
    assert DatabaseTable(source_of(tmp_path / "h.db")).names == ("a",)


# What is never told -----------------------------------------------------------------------------

WITH_PASSWORD = [
    f"postgresql://reader:{PASSWORD}@host/crm",
    "postgresql://:x@host/crm",
    "postgresql://host/crm?password=x",
    "postgresql://host/crm?user=a&sslpassword=x",
    "mysql://host/crm?pwd=x",
    "mssql+pyodbc:///?odbc_connect=DSN%3Dcrm%3BUID%3Da%3BPWD%3Dx",
]


@pytest.mark.parametrize("url", WITH_PASSWORD)
def test_a_password_in_the_configuration_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ValidationError, match="source holds a password") as caught:
        TableSource(source=url, table="t")
    assert PASSWORD not in str(caught.value)
    assert "host" not in str(caught.value)


def test_a_row_is_in_no_log_whatever_its_level(
    shop: Path, connection: duckdb.DuckDBPyConnection, caplog: pytest.LogCaptureFixture
) -> None:
    # SQLAlchemy's own level is above that, and is what a program sets to see its statements.
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="sqlalchemy")
    read(connection, source_of(shop, columns={"category": "note"}))
    assert SECRET not in caplog.text
    assert "2.5" not in caplog.text


def test_a_password_that_is_not_where_it_should_be_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CRM_PASSWORD", raising=False)
    url = "postgresql+psycopg://reader@/crm"
    with pytest.raises(ConfigurationError, match="no environment variable CRM_PASSWORD"):
        DatabaseTable(TableSource(source=url, table="t", password_env="CRM_PASSWORD"))
    absent = str(tmp_path / "absent")
    with pytest.raises(ConfigurationError, match=r"password_file .* cannot be read"):
        DatabaseTable(TableSource(source=url, table="t", password_file=absent))


def test_what_no_driver_is_there_for_is_told() -> None:
    for url in ("nosuch://host/db", "oracle://host/db"):
        with pytest.raises(ConfigurationError, match="there is no driver for"):
            DatabaseTable(TableSource(source=url, table="t"))
    with pytest.raises(ConfigurationError, match="no database as SQLAlchemy writes it"):
        DatabaseTable(TableSource(source="x y://", table="t"))
    for url in ("sqlite://", "sqlite:///:memory:", "sqlite:///a.db?mode=rw", "sqlite:///file:a.db"):
        with pytest.raises(ConfigurationError, match="SQLite is named as"):
            DatabaseTable(TableSource(source=url, table="t"))


def test_rows_of_a_database_have_no_last_one() -> None:
    table = TableSource(source="sqlite:///a.db", table="t")
    with pytest.raises(ValidationError, match="rows of a database have no order"):
        CrmData(table=table, duplicates="last")


def test_relative_paths_are_those_of_the_configuration(tmp_path: Path) -> None:
    source = TableSource(source="sqlite:///crm.db", table="t", password_file="word")
    placed = source.in_directory(tmp_path)
    assert placed.source == f"sqlite:///{tmp_path / 'crm.db'}"
    assert placed.password_file == str(tmp_path / "word")
    absolute = TableSource(source="sqlite:////data/crm.db", table="t")
    assert absolute.in_directory(tmp_path) == absolute
    assert TableSource(source="a.csv").in_directory(tmp_path).source == str(tmp_path / "a.csv")


# PostgreSQL -------------------------------------------------------------------------------------


def _programs() -> Path:
    places = [*sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    places += [str(Path(found).parent) for found in [shutil.which("initdb")] if found]
    for place in places:
        if all((Path(place) / name).exists() for name in ("initdb", "pg_ctl", "postgres")):
            return Path(place)
    pytest.skip("there is no PostgreSQL server here (initdb, pg_ctl, postgres)")


def _other_user() -> dict[str, Any]:
    """PostgreSQL does not start as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    pytest.skip("there is no other user than root to start PostgreSQL as")


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    """The directory of the Unix socket of a server with a user reader, who has a password."""
    pytest.importorskip("psycopg", reason="fgcif[postgresql] is not installed")
    programs, user = _programs(), _other_user()
    folder = Path(tempfile.mkdtemp(prefix="fgcif-pg-"))

    def call(name: str, *arguments: str) -> None:
        done = subprocess.run(
            [programs / name, *arguments],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
            **user,
        )
        assert done.returncode == 0, done.stderr

    data = folder / "data"
    try:
        (folder / "word").write_text(PASSWORD)
        if user:
            for path in (folder, folder / "word"):
                os.chown(path, user["user"], user["group"])
        call(
            "initdb", "-D", str(data), "-U", "owner", "-E", "UTF8", "--no-sync",
            "--auth=scram-sha-256", f"--pwfile={folder / 'word'}",
        )  # fmt: skip
        options = f"-c listen_addresses='' -c fsync=off -k {folder} -c log_min_messages=panic"
        call("pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield folder
        finally:
            call("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def administer(server: Path, *statements: str) -> None:
    url = sa.URL.create("postgresql+psycopg", "owner", PASSWORD, database="postgres")
    engine = sa.create_engine(url.update_query_dict({"host": str(server)}), poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.fixture
def sales(server: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TableSource]:
    administer(
        server,
        "DROP SCHEMA IF EXISTS crm CASCADE",
        "CREATE SCHEMA crm",
        "CREATE TABLE crm.sales (customer bigint, moment timestamptz, day date, "
        "amount numeric(12,2), back boolean, note text, tags text[])",
        "INSERT INTO crm.sales VALUES "
        "(1, '2024-07-01 12:00:00+00', '2024-07-01', 10.50, false, 'x', '{a}'), "
        "(9007199254740993, '2024-01-01 12:00:00+00', '2024-01-01', NULL, true, NULL, NULL), "
        f"(NULL, '2024-01-01 12:00:00+00', '2024-01-01', 1, NULL, '{SECRET}', NULL)",
    )
    monkeypatch.setenv("CRM_PASSWORD", PASSWORD)

    def source(**others: Any) -> TableSource:
        return TableSource(
            **{
                "source": f"postgresql://owner@/postgres?host={server}",
                "table": "crm.sales",
                "password_env": "CRM_PASSWORD",
                "timezone": "Europe/Berlin",
                "columns": {"time": "moment", "returned": "back", "category": "note"},
            }
            | others
        )

    return source


def test_a_postgresql_table_keeps_its_types(
    sales: Callable[..., TableSource], connection: duckdb.DuckDBPyConnection
) -> None:
    rows, report = read(connection, sales())
    # A 64-bit id beyond 2^53 is still exact, and times are those of the zone.
    assert [row["customer"] for row in rows] == ["1", "9007199254740993"]
    assert [row["time"] for row in rows] == [datetime(2024, 7, 1, 14), datetime(2024, 1, 1, 13)]
    assert [row["amount"] for row in rows] == [10.5, None]
    assert [row["returned"] for row in rows] == [False, True]
    assert [one.kind for one in report.findings] == ["missing-id"]
    days, _ = read(connection, sales(columns={"time": "day"}))
    assert days[0]["time"] == datetime(2024, 7, 1)
    with pytest.raises(DataError, match="column tags holds list values"):
        read(connection, sales(columns={"time": "day", "category": "tags"}))


def test_a_postgresql_session_cannot_write(sales: Callable[..., TableSource], server: Path) -> None:
    kept = f"postgresql://owner@/postgres?host={server}&options=-csearch_path%3Dcrm"
    for source in (sales(), sales(source=kept, table="sales")):
        engine = DatabaseTable(source)._engine
        with engine.connect() as opened, pytest.raises(sa.exc.InternalError, match="read-only"):
            opened.exec_driver_sql("DELETE FROM crm.sales")


def test_a_password_may_lie_in_a_file(
    sales: Callable[..., TableSource], tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    (tmp_path / "word").write_text(f"{PASSWORD}\n")
    source = sales(password_env="", password_file=str(tmp_path / "word"))
    assert len(read(connection, source)[0]) == 2


FAILURES: dict[str, dict[str, Any]] = {
    "wrong user": {"source": "postgresql://stranger@/postgres?host={server}"},
    "no database": {"source": "postgresql://owner@/nothing?host={server}"},
    "no server": {"source": "postgresql://owner@/postgres?host={server}/nowhere"},
    "wrong password": {"password_env": "WRONG_PASSWORD"},
    "a value that fails": {"table": "crm.failing"},
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_a_driver_says_gets_no_further(
    case: str,
    sales: Callable[..., TableSource],
    server: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    connection: duckdb.DuckDBPyConnection,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("WRONG_PASSWORD", f"not-{PASSWORD}")
    administer(
        server,
        "CREATE OR REPLACE VIEW crm.failing AS SELECT customer, moment, back, note, "
        "note::integer AS amount FROM crm.sales",
    )
    own = {key: value.format(server=server) for key, value in FAILURES[case].items()}
    with pytest.raises(FgcifError) as caught:
        read(connection, sales(**own))
    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    for word in (PASSWORD, SECRET, "stranger", "invalid input syntax", "psycopg."):
        assert word not in told
    assert "cannot be read: " in str(caught.value)
    assert caught.value.__context__ is None


def test_check_tells_an_unreachable_database_with_all_else(
    sales: Callable[..., TableSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRM_PASSWORD", "wrong")
    report = check_data(CrmData(table=sales(columns={})), load_schema("telco"))
    assert not report.ready
    assert "SQLSTATE" in report.sentences()[0] or "OperationalError" in report.sentences()[0]


def test_a_ready_table_comes_from_postgresql(
    public: Callable[[str], Path], sales: Callable[..., TableSource], server: Path
) -> None:
    file = public("telco_ibm/Telco-Customer-Churn.csv")
    header = file.read_text(encoding="utf-8").splitlines()[0].split(",")
    columns = ", ".join(f'"{name}" text' for name in header)
    administer(server, f"CREATE TABLE crm.telco ({columns})")
    url = sa.URL.create("postgresql+psycopg", "owner", PASSWORD, database="postgres")
    engine = sa.create_engine(url.update_query_dict({"host": str(server)}), poolclass=sa.NullPool)
    with engine.begin() as opened:
        raw = opened.connection.driver_connection
        assert raw is not None
        with raw.cursor().copy("COPY crm.telco FROM STDIN CSV HEADER") as copy:
            copy.write(file.read_bytes())
    schema = load_schema("telco")
    source = sales(table="crm.telco", columns={}, timezone="UTC")
    table, _ = customer_table(CrmData(table=source), schema)
    plain, _ = customer_table(CrmData(table=TableSource(source=str(file))), schema)
    assert sorted(map(str, table.to_pylist())) == sorted(map(str, plain.to_pylist()))


def test_reading_files_loads_no_driver() -> None:
    script = "import fgcif_flwr.data.crm.customers, sys; print('psycopg' in sys.modules)"
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
