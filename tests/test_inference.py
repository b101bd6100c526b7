"""A drafted schema encodes its table, and repeats nothing rare from it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fgcif_flwr.cli.main import app
from fgcif_flwr.data.encoding import encode
from fgcif_flwr.data.inference import draft as draft_of
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
    table = pa.table({"x": [1, 2, 3] * 5, "Y": ["good", "bad", "good"] * 5})
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


# A draft of a table in German, French or Spanish.


def reason(name: str, values: Any) -> str | None:
    """Say why a column is forbidden in a draft; None for a feature."""
    base = {"churn": ["yes", "no", "no", "no"] * (ROWS // 4), "age": [20, 30, 40, 55] * (ROWS // 4)}
    drafted = draft_of(pa.table({**base, name: values}), "shop")
    assert set(drafted.reasons) == set(drafted.schema.forbidden)
    return drafted.reasons.get(name)


FEW = [f"w{i % 7}" for i in range(ROWS)]


@pytest.mark.parametrize(
    "name",
    [
        *("Nachname", "vorname", "NAME", "Kundenname", "Straße", "STRASSE", "strasse_2", "Adresse"),
        *("E-Mail", "Telefon", "telefonNr", "Handy", "mobil", "Geburtsdatum", "geb_datum"),
        *("geboren", "geboren am", "PLZ", "PLZOrt", "Postleitzahl", "Lieferadresse"),
        *("nom", "Prénom", "Pre\u0301nom", "Apellido", "correo", "Dirección", "Teléfono"),
    ],
)
def test_persons_are_found_in_european_names_however_few_the_words(name: str) -> None:
    assert reason(name, FEW) == "person"


def test_a_postcode_of_numbers_is_a_persons() -> None:
    assert reason("PLZ", [str(10_115 + i % 5) for i in range(ROWS)]) == "person"


@pytest.mark.parametrize("words", [("Yes", "No"), ("ja", "nein"), ("1", "0"), (True, False)])
def test_a_yes_or_no_about_a_person_is_a_feature(words: tuple[Any, Any]) -> None:
    assert reason("Telefon_erlaubt", [*words] * (ROWS // 2)) is None


@pytest.mark.parametrize(
    "name",
    [
        *("KundenNr", "Kunden-Nr.", "KUNDENNR", "Kundennummer", "nummer", "Kennung"),
        *("Vertragsnummer", "IDKunde", "RowNumber", "customerID2"),
    ],
)
def test_identifiers_are_found_in_german_names_also_where_they_repeat(name: str) -> None:
    assert reason(name, [f"K{i % 60:05}" for i in range(ROWS)]) == "identifier"
    assert reason(name, [str(17 * (i % 60)) for i in range(ROWS)]) == "identifier"


@pytest.mark.parametrize("name", ["umsatz", "vertragsart", "tarif", "ort", "number_of_calls"])
def test_other_german_and_english_names_are_features(name: str) -> None:
    assert reason(name, FEW) is None


@pytest.mark.parametrize(
    "values",
    [
        [f"K{i:05}" for i in range(ROWS)],
        [str(70_000 + 13 * i) for i in range(ROWS)],
        [70_000 + 13 * i for i in range(ROWS)],
    ],
)
def test_an_id_that_never_repeats_is_the_id_column_and_forbidden(values: list[Any]) -> None:
    found = draft(zeile=[*range(ROWS)], Notiz=[f"n{i}" for i in range(ROWS)], KundenNr=values)
    assert found.id_column == "KundenNr"
    assert set(found.forbidden) == {"zeile", "Notiz", "KundenNr"}


def test_a_customers_id_goes_before_the_number_of_the_row() -> None:
    rows = [str(i) for i in range(ROWS)]
    assert draft(RowNumber=rows, CustomerId=[f"c{i}" for i in rows]).id_column == "CustomerId"
    assert draft(RowNumber=rows).id_column == "RowNumber"


@pytest.mark.parametrize("name", ["TelefonNr", "E-Mail-Kennung"])
def test_what_identifies_a_person_is_not_the_id_column(name: str) -> None:
    found = draft(**{name: [f"{i:07}" for i in range(0, 7 * ROWS, 7)]})
    assert found.forbidden == (name,)
    assert found.id_column is None


def test_unique_text_of_another_name_is_forbidden_and_no_id_column() -> None:
    values = [f"free text {i}" for i in range(ROWS)]
    assert reason("remark", values) == "unique text"
    assert draft(remark=values).id_column is None


@pytest.mark.parametrize(
    "values",
    [
        [f"{i},{i % 90 + 10}" for i in range(ROWS)],
        ["19,99", "9,5", "0", ""] * (ROWS // 4),
        ["1.234,56", "-999,00", "12.345.678,90", "7"] * (ROWS // 4),
        ["1 234,56", "1\u202f234,56", "999,00", "k.A."] * (ROWS // 4),
        ["1,250", "1,5", "0,125", "2,0"] * (ROWS // 4),
    ],
)
def test_decimal_commas_are_left_out_with_what_to_do(values: list[str]) -> None:
    assert reason("umsatz", values) == "decimal comma: convert to a point"


@pytest.mark.parametrize("few", [("1,234", "12"), ("1,234.50", "999.99"), ("1.234.567", "12.500")])
def test_separators_that_are_no_decimal_commas_are_told_apart(few: tuple[str, str]) -> None:
    told = "separators in numbers: write plain decimals"
    assert reason("revenue", [*few] * (ROWS // 2)) == told


def test_lists_of_words_and_decimal_points_are_no_decimal_commas() -> None:
    assert reason("basket", ["a,b", "b,c"] * (ROWS // 2)) is None
    assert reason("umsatz", ["19.99", "0.5"] * (ROWS // 2)) is None


def test_dates_are_found_as_text_too() -> None:
    assert reason("vertragsbeginn", [f"{i % 28 + 1:02}.05.2024" for i in range(ROWS)]) == "date"
    assert reason("since", [f"2024-05-{i % 28 + 1:02}" for i in range(ROWS)]) == "date"
    assert reason("seen", ["2024-05-01T10:00:00Z", "2024-05-02 11:00"] * (ROWS // 2)) == "date"


REASONS = {
    "customerID": "identifier",
    "account_id": "identifier",
    "row": "identifier",
    "contact": "e-mail",
    "LastName": "person",
    "phone_number": "person",
    "remark": "unique text",
    "constant": "constant",
    "empty": "constant",
    "since": "date",
    "history": "neither text nor numbers",
    " padded": "white space around its name",
}


@pytest.mark.parametrize("name", REASONS)
def test_every_forbidden_column_has_its_reason(name: str) -> None:
    assert reason(name, FORBIDDEN.get(name, FEW)) == REASONS[name]


@pytest.mark.parametrize(
    "name", ["Kündigung", "kuendigung", "gekuendigt", "Geku\u0308ndigt", "STORNO", "abgewandert"]
)
def test_german_targets_are_found_by_name(name: str) -> None:
    values = ["nein", "ja", "ja"] * 5
    (found,) = infer_schema(pa.table({"x": [1, 2, 3] * 5, name: values}), "t").targets
    assert found == BinaryTarget(name=name, positive="ja", negative="nein")


def test_a_target_that_is_not_there_is_told_as_such() -> None:
    with pytest.raises(MissingColumnError, match="the table has no such column: nixda") as told:
        draft("nixda")
    assert "schema" not in str(told.value)
    with pytest.raises(MissingColumnError, match="did you mean churn"):
        draft("Churn")


def test_without_a_target_the_option_is_told() -> None:
    told = "say which column is to be predicted: --target COLUMN"
    with pytest.raises(SchemaError, match=told):
        infer_schema(pa.table({"a": [1, 2], "b": ["x", "z"]}), "t")


def test_a_target_with_decimal_commas_is_told_as_such() -> None:
    with pytest.raises(SchemaError, match="umsatz cannot be a target as it is: decimal comma"):
        draft("umsatz", umsatz=[f"{i},50" for i in range(ROWS)])


def test_a_table_without_features_is_told_column_by_column() -> None:
    table = pa.table({"y": ["a", "b"] * 20, "Name": FEW[:40], "umsatz": ["1,5", "2,75"] * 20})
    with pytest.raises(SchemaError, match=r"Name \(person\), umsatz \(decimal comma: convert"):
        infer_schema(table, "t")
    with pytest.raises(SchemaError, match="the table has the target alone"):
        infer_schema(table.select(["y"]), "t")


GERMAN = {
    "KundenNr": [f"K{i:05}" for i in range(ROWS)],
    "Nachname": [f"Geheim{i % 9}" for i in range(ROWS)],
    "Straße": [f"Geheimweg {i % 9}" for i in range(ROWS)],
    "Kontakt": [f"geheim{i % 60}@example.org" for i in range(ROWS)],
    "Beginn": [f"{i % 28 + 1:02}.05.2024" for i in range(ROWS)],
    "Land": ["DE"] * ROWS,
    "Notiz": [f"Geheimes {i}" for i in range(ROWS)],
    "Umsatz": [f"{i},{i % 90 + 10}" for i in range(ROWS)],
    "Alter": [str(20 + i % 50) for i in range(ROWS)],
    "Tarif": ["basis", "plus"] * (ROWS // 2),
    "gekündigt": ["ja", "nein", "nein", "nein"] * (ROWS // 4),
}
GERMAN_REASONS = {
    "KundenNr": "identifier",
    "Nachname": "person",
    "Straße": "person",
    "Kontakt": "e-mail",
    "Beginn": "date",
    "Land": "constant",
    "Notiz": "unique text",
    "Umsatz": "decimal comma: convert to a point",
}


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["schema", *arguments])


@pytest.fixture
def german(tmp_path: Path) -> Path:
    path = tmp_path / "kunden.csv"
    options = pa.csv.WriteOptions(delimiter=";")
    pa.csv.write_csv(pa.table(GERMAN), path, options)
    return path


def test_the_command_tells_each_forbidden_column_on_stderr(german: Path) -> None:
    result = run("infer", str(german))
    assert result.exit_code == 0, result.stderr
    told = dict.fromkeys(f"forbidden: {name} ({why})" for name, why in GERMAN_REASONS.items())
    lines = [line.replace(", taken as the id column", "") for line in result.stderr.splitlines()]
    assert lines == list(told)
    assert "forbidden: KundenNr (identifier, taken as the id column)" in result.stderr
    found = schema_from_toml(result.stdout, "stdout")
    assert found.id_column == "KundenNr"
    assert [part.name for part in found.features] == ["Alter", "Tarif"]
    assert "geheim" not in result.output.lower()


def test_the_command_gives_the_reasons_in_json(german: Path) -> None:
    result = run("infer", str(german), "--format", "json")
    printed = json.loads(result.stdout)
    assert printed["result"]["forbidden"] == GERMAN_REASONS
    assert printed["warnings"] == []
    assert result.stderr == ""
    assert "geheim" not in result.stdout.lower()


def test_the_command_tells_that_there_is_no_id_column(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    pa.csv.write_csv(pa.table({"Alter": GERMAN["Alter"], "storno": GERMAN["gekündigt"]}), path)
    assert run("infer", str(path)).stderr.splitlines() == ["no id column found"]
    printed = json.loads(run("infer", str(path), "--format", "json").stdout)
    assert printed["warnings"] == ["no id column found"]


def test_the_command_tells_of_a_target_that_is_not_there(german: Path) -> None:
    result = run("infer", str(german), "--target", "nixda")
    assert result.exit_code == MissingColumnError.exit_code
    assert "the table has no such column: nixda" in result.stderr


def test_the_list_breaks_no_name_and_no_number_of_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("list").stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    for name in ("simulated", "telco", "mlc-churn", "bank-marketing", "online-retail"):
        (line,) = [line for line in lines if line.split()[0] == name]
        assert line.split()[1] == str(len(load_schema(name).features))
    # What a description needs of further lines stands under its first one.
    start = lines[0].index("what it describes")
    further = [line for line in lines[1:] if line.startswith(" ")]
    assert further
    assert all(line[:start].isspace() and line[start] != " " for line in further)


def test_the_help_says_what_the_arguments_are() -> None:
    assert "TABLE is a CSV or Parquet file" in run("infer", "--help").stdout
    assert "SCHEMA is the name of a built-in schema or a TOML file" in run("show", "--help").stdout
