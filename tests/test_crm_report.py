"""What is wrong with a table is said all at once: the column, how many rows, what to do."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import asdict
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fgcif_flwr.config.crm import COMPONENT_COLUMNS, CrmData, TableSource
from fgcif_flwr.data.crm.customers import check_data, customer_table
from fgcif_flwr.data.crm.daylight_saving import strange_hours
from fgcif_flwr.data.crm.reading import nearest
from fgcif_flwr.data.crm.report import DataReport, Finding
from fgcif_flwr.data.encoding import encode
from fgcif_flwr.data.schema import Schema, load_schema, schema_from_mapping
from fgcif_flwr.errors import DataError, MissingColumnError, ValueOutOfKindError

SECRET = "Grünwald"


def german_schema() -> Schema:
    return schema_from_mapping(
        {
            "name": "german",
            "id_column": "customer",
            "features": [
                {"name": "spend", "kind": "numeric", "lower": 0, "upper": 1000},
                {"name": "tariff", "kind": "categorical", "vocabulary": ["basic", "premium"]},
                {"name": "country", "kind": "categorical", "vocabulary": ["DE", "AT"]},
                {"name": "newsletter", "kind": "boolean"},
            ],
            "targets": [{"name": "churn", "kind": "binary", "positive": "yes", "negative": "no"}],
        },
        "german",
    )


def german_table(folder: Path) -> TableSource:
    lines = ["Kunden-Nr;Umsatz;Tarif;Land;Rundbrief;gekündigt;Berater"]
    for row in range(200):
        spend = "1.234,50" if row == 7 else f"{row},{row % 100:02d}"
        tariff = "X" if row < 3 else ("P" if row % 2 else "B")
        churned = "ja" if row % 4 == 0 else "nein"
        lines.append(f"{row};{spend};{tariff};DE;{'ja' if row % 3 else ''};{churned};{SECRET}")
    lines += [lines[1], lines[2], lines[3].replace("2,02", "5,00"), f";1,00;B;DE;ja;nein;{SECRET}"]
    (folder / "kunden.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
    return TableSource(
        source=str(folder / "kunden.csv"),
        encoding="cp1252",
        decimal=",",
        thousands=".",
        columns={
            "customer": "Kunden-Nr",
            "spend": "Umsatz",
            "tariff": "Tarif",
            "country": "Land",
            "newsletter": "Rundbrief",
            "churn": "gekündigt",
        },
        words={
            "tariff": {"B": "basic", "P": "premium"},
            "newsletter": {"ja": "yes", "nein": "no"},
            "churn": {"ja": "yes", "nein": "no"},
        },
    )


def found(report: DataReport) -> dict[tuple[str, str], tuple[str, int]]:
    return {(f.kind, f.column): (f.severity, f.count) for _, f in report.all_findings()}


def test_everything_in_a_german_table_is_said_with_column_and_count(tmp_path: Path) -> None:
    data = CrmData(table=german_table(tmp_path))
    report = check_data(data, german_schema())
    assert found(report) == {
        ("missing-id", "Kunden-Nr"): ("warning", 1),
        ("repeated-id", "Kunden-Nr"): ("fault", 3),
        ("duplicate-rows", ""): ("warning", 2),
        ("outside-mapping", "Tarif"): ("warning", 6),
        ("constant", "Land"): ("warning", 203),
        ("unseen-words", "tariff"): ("warning", 3),
        ("out-of-bounds", "spend"): ("note", 1),
    }


@pytest.fixture
def german(tmp_path: Path) -> TableSource:
    return german_table(tmp_path)


SETTINGS: dict[str, tuple[dict[str, Any], str, str]] = {
    "decimal comma": ({"decimal": ".", "thousands": ""}, "not-a-number", 'decimal = ","'),
    "thousands": ({"thousands": ""}, "not-a-number", 'decimal = "," and thousands = "."'),
    "encoding": ({"encoding": "utf-8"}, "unreadable", "name its encoding"),
    "delimiter": ({"delimiter": ","}, "settings", 'delimiter = ";" the header line has 7 names'),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_setting_that_would_fit_better_is_named(german: TableSource, case: str) -> None:
    change, kind, advice = SETTINGS[case]
    report = check_data(CrmData(table=german.model_copy(update=change)), german_schema())
    told = [one for _, one in report.all_findings() if one.kind == kind]
    assert told
    assert advice in told[0].advice + told[0].what
    assert not report.ready


def test_the_nearest_names_are_told_for_those_that_are_not_there(german: TableSource) -> None:
    columns = german.columns | {"churn": "gekuendigt", "spend": "umsatz", "country": "Q"}
    source = german.model_copy(update={"columns": columns})
    report = check_data(CrmData(table=source), german_schema())
    advice = {one.column: one.advice for _, one in report.all_findings() if one.kind == "absent"}
    assert advice == {
        "gekuendigt": "did you mean gekündigt?",
        "umsatz": "did you mean Umsatz?",
        "Q": "the table has Kunden-Nr, Umsatz, Tarif, Land, Rundbrief, gekündigt, Berater",
    }
    with pytest.raises(
        MissingColumnError, match=r"umsatz is not in .*did you mean Umsatz\?.*\(3 more"
    ):
        customer_table(CrmData(table=source), german_schema())


@pytest.mark.parametrize("first", ["anna-grünwald;12;B;DE;ja;nein;x", "anna;b;umsatzx;c;d;e;f"])
def test_a_header_line_that_may_be_a_customers_is_not_shown(german: TableSource, first: str):
    file = Path(german.source)
    _, rest = file.read_bytes().split(b"\r\n", 1)
    file.write_bytes(first.encode("cp1252") + b"\r\n" + rest)
    report = check_data(CrmData(table=german), german_schema())
    absent = [one for _, one in report.all_findings() if one.kind == "absent"]
    assert len(absent) == 6
    for one in absent:
        assert one.advice == "see the names in the table, and that its file has a header line"


def test_a_mapping_to_a_word_that_the_schema_lacks_is_a_fault(german: TableSource) -> None:
    words = german.words | {"tariff": {"B": "Basic", "P": "premium", "X": ""}, "churn": {"ja": "x"}}
    report = check_data(CrmData(table=german.model_copy(update={"words": words})), german_schema())
    told = [one.sentence() for _, one in report.all_findings() if one.kind == "settings"]
    assert told == [
        "words of tariff maps to `Basic`; did you mean `basic`?",
        "words of churn maps to `x`; the schema's words are no, yes",
    ]


def test_what_is_unreadable_and_missing_is_said_so(german: TableSource) -> None:
    source = german.model_copy(update={"thousands": ""})
    report = check_data(CrmData(table=source, unreadable="missing"), german_schema())
    (told,) = [one.sentence() for _, one in report.all_findings() if one.kind == "not-a-number"]
    assert "are not numbers and are taken as missing" in told
    assert "unreadable" not in told


def test_the_last_row_of_a_customer_is_kept_where_that_is_wanted(german: TableSource) -> None:
    table, report = customer_table(CrmData(table=german, duplicates="last"), german_schema())
    rows = {row["customer"]: row for row in table.to_pylist()}
    assert (len(rows), table.num_rows, report.customers) == (200, 200, 200)
    assert rows["2"]["spend"] == 5.0
    assert rows["7"]["spend"] == 1234.5
    assert rows["1"] == {
        "customer": "1",
        "spend": 1.01,
        "tariff": "X",
        "country": "DE",
        "newsletter": "yes",
        "churn": "no",
    }
    assert found(report)["repeated-id", "Kunden-Nr"] == ("warning", 3)
    assert len(encode(german_schema(), table)) == 200


def test_features_and_targets_are_described(german: TableSource) -> None:
    report = check_data(CrmData(table=german, duplicates="last"), german_schema())
    assert (report.ready, report.customers) == (True, 200)
    features = {one.name: one for one in report.features}
    assert features["spend"].out_of_bounds == 1 / 200
    assert features["tariff"].unseen == 3 / 200
    assert features["newsletter"].missing == 67 / 200
    assert report.targets[0].classes == {"no": 150, "yes": 50}
    assert asdict(report)["components"][0]["columns"]["churn"] == "gekündigt"


def test_no_value_of_a_customer_is_in_a_report(german: TableSource) -> None:
    dots = {"decimal": ".", "thousands": ""}
    for change in ({}, dots, {"words": {}}, {"delimiter": ","}):
        report = check_data(
            CrmData(table=german.model_copy(update=change)), german_schema()
        )  # fmt: skip
        assert SECRET not in str(asdict(report))
        assert "1.234,50" not in str(asdict(report))


# Classes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("yes", "no", "missing", "expected"),
    [
        (20, 30, 0, ({"no": 30, "yes": 20}, 0)),
        (9, 30, 0, ({"no": None, "yes": None}, 0)),
        (9, 30, 20, ({"no": 30, "yes": None}, None)),
        (9, 30, 5, ({"no": 30, "yes": None}, None)),
        (0, 30, 0, ({"no": 30, "yes": 0}, 0)),
    ],
)
def test_classes_of_fewer_than_ten_are_not_counted_out(
    tmp_path: Path, yes: int, no: int, missing: int, expected: tuple[dict[str, int | None], Any]
) -> None:
    words = ["yes"] * yes + ["no"] * no + [""] * missing
    lines = [f"{row},1,basic,DE,yes,{word}" for row, word in enumerate(words)]
    file = tmp_path / "t.csv"
    file.write_text("\n".join(["customer,spend,tariff,country,newsletter,churn", *lines]))
    report = check_data(CrmData(table=TableSource(source=str(file))), german_schema())
    (target,) = report.targets
    assert (target.classes, target.missing) == expected
    few = [one.what for _, one in report.all_findings() if one.kind == "few"]
    assert bool(few) == (yes < 10)


# Records ----------------------------------------------------------------------------------------


def records_schema() -> Schema:
    return schema_from_mapping(
        {
            "name": "records",
            "id_column": "customer",
            "features": [
                {"name": "recency_days", "kind": "numeric", "lower": 0, "upper": 1000},
                {"name": "monetary", "kind": "numeric", "lower": 0, "upper": 1000},
                {"name": "income", "kind": "numeric", "lower": 0, "upper": 1000},
                {"name": "segment", "kind": "categorical", "vocabulary": ["private", "firm"]},
            ],
            "targets": [{"name": "churn", "kind": "binary", "positive": "yes", "negative": "no"}],
            "records": {
                "cutoff": date(2024, 6, 1),
                "horizon_days": 30,
                "churn": "no-purchase",
                "master": ["income", "segment"],
            },
        },
        "records",
    )


def records(folder: Path, *more: str, **others: Any) -> CrmData:
    day = datetime(2024, 5, 1)
    lines = [f"{i % 20};{day + timedelta(days=i % 90):%d.%m.%Y};{i},50" for i in range(200)]
    sales = folder / "sales.csv"
    sales.write_text("\n".join(["Kunde;Datum;Betrag", *lines, *more]))
    people = folder / "people.csv"
    rows = [f"{i};{i}.000,5;{'P' if i % 2 else 'F'}" for i in range(20)]
    people.write_text("\n".join(["Kunde;Einkommen;Art", *rows]))
    return CrmData(
        transactions=TableSource(
            source=str(sales),
            decimal=",",
            time_format="%d.%m.%Y",
            columns={"customer": "Kunde", "time": "Datum", "amount": "Betrag"},
        ),
        customers=TableSource(
            source=str(people),
            decimal=",",
            thousands=".",
            columns={"customer": "Kunde", "income": "Einkommen", "segment": "Art"},
            words={"segment": {"P": "private", "F": "firm"}},
            units={"income": 0.01},
        ),
        **others,
    )


def test_records_become_customers_with_their_master_data(tmp_path: Path) -> None:
    table, report = customer_table(records(tmp_path), records_schema())
    assert (table.num_rows, report.customers) == (20, 20)
    rows = {row["customer"]: row for row in table.to_pylist()}
    assert float(rows["3"]["income"]) == pytest.approx(30.005)
    assert rows["3"]["segment"] == "private"
    assert [one.name for one in report.components] == ["customers", "transactions"]
    encoded = encode(records_schema(), table)
    assert encoded.numeric[:, 2].max() == pytest.approx(0.190005)
    today, _ = customer_table(
        records(tmp_path), records_schema(), cutoff=date(2024, 8, 1), targets=False
    )
    assert "churn" not in today.column_names


def test_every_fault_of_records_is_said_with_its_column_and_count(tmp_path: Path) -> None:
    more = ["1;31.02.2024;1,00", "1;2024-05-01;1,00", ";01.05.2024;1,00", "1;;1", "1;01.05.2024;?x"]
    data = records(tmp_path, *more, "2;03.05.2024;2,50")
    report = check_data(data, records_schema())
    assert found(report) == {
        ("missing-id", "Kunde"): ("warning", 1),
        ("missing-time", "Datum"): ("warning", 1),
        ("not-a-time", "Datum"): ("fault", 2),
        ("not-a-number", "Betrag"): ("fault", 1),
        ("duplicate-rows", ""): ("warning", 1),
        ("few", "churn"): ("warning", 0),
    }
    assert (report.components[1].rows, report.components[1].kept) == (206, 202)
    with pytest.raises(ValueOutOfKindError, match="transactions: column Datum: 2 of 206 rows"):
        customer_table(data, records_schema())
    lenient = records(tmp_path, *more, unreadable="missing")
    assert customer_table(lenient, records_schema())[0].num_rows == 20


def test_purchases_that_end_long_before_the_cut_off_are_said(tmp_path: Path) -> None:
    for cutoff, said in ((date(2024, 8, 29), False), (date(2024, 8, 30), True)):
        _, report = customer_table(
            records(tmp_path), records_schema(), cutoff=cutoff, targets=False
        )
        told = report.sentences("warning", kinds=("ends-early",))
        assert bool(told) == said
    assert told[0].startswith("transactions end 32 days before the cut-off 2024-08-30")


def test_codes_that_the_schemas_lists_lack_are_counted(tmp_path: Path) -> None:
    day = datetime(2024, 5, 1)
    lines = [
        f"{i % 20},{day + timedelta(days=i % 90)},{['food', ' tools', 'Food', ''][i % 4]}"
        for i in range(200)
    ]
    (tmp_path / "sales.csv").write_text("\n".join(["customer,time,Art", *lines]))
    contacts = [f"1,2024-05-01,{'Telefon' if i < 7 else 'phone'}" for i in range(10)]
    (tmp_path / "calls.csv").write_text("\n".join(["customer,time,channel", *contacts]))
    schema = schema_from_mapping(
        {
            "name": "lists",
            "id_column": "customer",
            "features": [
                {"name": name, "kind": "numeric", "lower": 0, "upper": 9}
                for name in ("category_share:food", "contacts:phone")
            ],
            "targets": [{"name": "churn", "kind": "binary", "positive": "yes", "negative": "no"}],
            "records": {
                "cutoff": date(2024, 6, 1),
                "horizon_days": 30,
                "categories": ["food", "tools"],
                "channels": ["phone"],
            },
        },
        "lists",
    )
    data = CrmData(
        transactions=TableSource(source=str(tmp_path / "sales.csv"), columns={"category": "Art"}),
        interactions=TableSource(source=str(tmp_path / "calls.csv")),
    )
    told = check_data(data, schema).sentences("warning", kinds=("unlisted-code",))
    assert [one.partition(";")[0] for one in told] == [
        "transactions: column Art: 50 of 200 rows hold a code that the schema does not list",
        "interactions: column channel: 7 of 10 rows hold a code that the schema does not list",
    ]


def test_the_form_of_dates_is_named(tmp_path: Path) -> None:
    data = records(tmp_path)
    assert data.transactions is not None
    plain = data.transactions.model_copy(update={"time_format": ""})
    report = check_data(data.model_copy(update={"transactions": plain}), records_schema())
    (fault,) = [one for _, one in report.all_findings() if one.kind == "not-a-time"]
    assert 'time_format = "%d.%m.%Y"' in fault.advice


def test_what_records_cannot_do_without_is_said(tmp_path: Path) -> None:
    data = records(tmp_path)
    assert data.transactions is not None
    assert data.customers is not None
    blank = data.transactions.model_copy(update={"columns": {"category": "Betrag"}})
    fewer = {k: v for k, v in data.customers.columns.items() if k != "income"}
    poor = data.customers.model_copy(update={"columns": fewer, "units": {}})
    changed = data.model_copy(update={"transactions": blank, "customers": poor})
    report = check_data(changed, records_schema())
    told = {one.what for _, one in report.all_findings() if one.kind == "not-mapped"}
    assert {f"nothing says which column holds {name}" for name in ("customer", "time")} < told
    assert ("absent", "income") in found(report)
    with pytest.raises(MissingColumnError):
        customer_table(changed, records_schema())


def test_an_absent_file_is_said_beside_what_is_wrong_in_the_others(tmp_path: Path) -> None:
    data = records(tmp_path, "1;x;1")
    (tmp_path / "people.csv").unlink()
    report = check_data(data, records_schema())
    assert ("not-a-time", "Datum") in found(report)
    assert any("there is no file" in line for line in report.sentences("fault"))
    with pytest.raises(DataError, match="there is no file"):
        customer_table(data, records_schema())


def test_public_lines_give_the_published_customers(public: Callable[[str], Path]) -> None:
    source = TableSource(
        source=str(public("online_retail/online_retail.parquet")),
        columns={
            "customer": "CustomerID",
            "time": "InvoiceDate",
            "quantity": "Quantity",
            "price": "UnitPrice",
            "product": "StockCode",
            "invoice": "InvoiceNo",
            "country": "Country",
        },
    )
    report = check_data(CrmData(transactions=source), load_schema("online-retail-records"))
    assert (report.ready, report.customers) == (True, 3370)
    classes = {one.name: one.classes for one in report.targets}
    assert classes["churn"] == {"no": 1921, "yes": 1449}
    assert found(report)["missing-id", "CustomerID"] == ("warning", 135_080)


# Parts ------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Africa/Casablanca", "Asia/Tokyo"]),
    moment=st.datetimes(datetime(1990, 1, 1), datetime(2035, 1, 1)),
)
def test_hours_that_a_clock_shows_twice_or_never_are_found(zone: str, moment: datetime) -> None:
    info = ZoneInfo(zone)
    hours = strange_hours(zone, moment - timedelta(days=200), moment + timedelta(days=200))
    probes = [moment + timedelta(minutes=17 * step) for step in range(-40, 40)]
    probes += [one + shift for pair in hours for one in pair for shift in SHIFTS]
    for probe in probes:
        early, late = (probe.replace(tzinfo=info, fold=fold).utcoffset() for fold in (0, 1))
        assert (early != late) == any(start <= probe < end for start, end in hours), probe


SHIFTS = (timedelta(seconds=-1), timedelta(0), timedelta(minutes=20))


def test_the_nearest_name_is_found_whatever_its_case_and_marks() -> None:
    names = ["Kunden-Nr", "Umsatz", "gekündigt"]
    assert nearest("kundennr", names) == "Kunden-Nr"
    assert nearest("umsaetze", names) == "Umsatz"
    assert nearest("xyz", names) == ""


def test_a_finding_is_one_line() -> None:
    finding = Finding("not-a-number", "fault", "Betrag", "are not numbers", 3, "do this")
    assert finding.sentence(10) == "column Betrag: 3 of 10 rows are not numbers; do this"
    assert (
        Finding("few", "fault", "", "the table has no rows").sentence() == "the table has no rows"
    )


def test_the_examples_of_the_documentation_are_configurations() -> None:
    page = Path(__file__).resolve().parent.parent / "docs" / "sources.md"
    text = page.read_text(encoding="utf-8")
    examples = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        CrmData.model_validate(tomllib.loads(example)["data"])
    cells = re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE)
    said = {component: re.findall(r"`(\w+)`", columns) for component, columns in cells}
    assert {name: tuple(columns) for name, columns in said.items()} == COMPONENT_COLUMNS


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no data": ({}, "either a table of features, or components"),
    "both": (
        {"table": {"source": "a.csv"}, "events": {"source": "b.csv"}},
        "either a table of features",
    ),
    "unknown column": (
        {"events": {"source": "a.csv", "columns": {"when": "x"}}},
        "events has no column when",
    ),
    "a file with a table": ({"table": {"source": "a.csv", "table": "t"}}, "a file has none"),
    "a database without": ({"table": {"source": "sqlite:///a.db"}}, "wants table"),
    "equal marks": (
        {"table": {"source": "a.csv", "decimal": ",", "thousands": ","}},
        "the same mark",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_configuration_that_cannot_be_is_refused(case: str) -> None:
    tree, message = WRONG[case]
    with pytest.raises(ValidationError, match=message):
        CrmData.model_validate(tree)
