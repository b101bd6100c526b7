"""From a German spreadsheet's export to scores, by the commands alone."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.csv
import pytest

from tests.client_rig import Client, customers, enterprise, error_line

NAMES = "Kundennr;Alter;Umsatz;Tarif;Clubmitglied;Gekündigt;Nächster Kauf;Wert;Land;Seit"
MAPPING = """\
decimal = ","
thousands = "."
encoding = "latin-1"
missing = ["k. A."]

[data.table.columns]
customer = "Kundennr"
age = "Alter"
spend = "Umsatz"
plan = "Tarif"
member = "Clubmitglied"
churn = "Gekündigt"
next = "Nächster Kauf"
value = "Wert"

[data.table.words.member]
"J" = "yes"
"N" = "no"

[data.table.words.churn]
"ja" = "yes"
"nein" = "no"
"""
YES, LEFT = {"yes": "J", "no": "N"}, {"yes": "ja", "no": "nein"}
FAULTY_AGE = "dreißig-geheim"


def number(value: object) -> str:
    """German: a point between thousands, a comma before decimals."""
    return f"{float(str(value)):,.2f}".replace(",", " ").replace(".", ",").replace(" ", ".")


def line(row: dict[str, object]) -> list[str]:
    return [
        str(row["customer"]),
        str(row["age"]),
        number(row["spend"]),
        str(row["plan"]),
        YES[str(row["member"])],
        LEFT[str(row["churn"])],
        str(row["next"]),
        number(row["value"]),
        "Deutschland",
        "03.10.2019",
    ]


def write(path: Path, lines: list[list[str]]) -> None:
    text = "\n".join([NAMES, *(";".join(cells) for cells in lines)]) + "\n"
    path.write_bytes(text.encode("latin-1"))


@pytest.fixture
def german(tmp_path: Path) -> Client:
    made = enterprise(tmp_path)
    write(tmp_path / "customers.csv", [line(row) for row in customers(200)])
    return made


def map_columns(client: Client) -> None:
    text = client.config.read_text(encoding="utf-8")
    source = next(part for part in text.splitlines() if part.startswith("source = "))
    client.edit(source, f"{source}\n{MAPPING}")


def found(client: Client) -> list[dict[str, str]]:
    result = client.run("check", "--format", "json")
    assert result.exit_code == 4, result.stdout
    checks = json.loads(result.stdout)["result"]["checks"]
    return [one for one in checks if one["name"].startswith("data") and one["state"] != "ok"]


def test_the_encoding_is_asked_for_and_then_the_columns(german: Client):
    assert "encoding" in " ".join(one["found"] for one in found(german))
    text = german.config.read_text(encoding="utf-8")
    source = next(part for part in text.splitlines() if part.startswith("source = "))
    german.edit(source, f'{source}\nencoding = "latin-1"')
    said = " ".join(one["found"] + one["advice"] for one in found(german))
    for column in ("age", "spend", "plan", "churn"):
        assert column in said


def test_once_mapped_it_is_checked_described_and_scored(german: Client, tmp_path: Path):
    map_columns(german)
    checked = german.told("check")
    assert checked["ready"], checked
    described = german.told("describe")
    assert described["rows"] == 200
    assert {one["name"]: one.get("missing") for one in described["features"]} == dict.fromkeys(
        ("age", "spend", "plan", "member"), 0
    )
    german.told("features", "--out", str(tmp_path / "f.csv"))
    built = pyarrow.csv.read_csv(tmp_path / "f.csv").to_pylist()
    by_id = {str(row["customer"]): row for row in built}
    for row in customers(200):
        assert by_id[str(row["customer"])]["spend"] == pytest.approx(row["spend"])
        assert str(by_id[str(row["customer"])]["churn"]) == row["churn"]
    german.keep_model()
    scored = german.told("score", "--out", str(tmp_path / "s.csv"))
    assert scored["rows"] == 200


def test_each_fault_is_said_with_column_and_count_and_no_value(german: Client):
    map_columns(german)
    lines = [line(row) for row in customers(200)]
    for cells in lines[:3]:
        cells[1] = FAULTY_AGE
    for cells in lines[10:14]:
        cells[0] = ""
    for cells in lines[20:22]:
        cells[4] = "vielleicht-geheim"
    doubled = [*lines, list(lines[50]), list(lines[51])]
    write(german.directory / "customers.csv", doubled)
    said = {(one["found"], one["state"]) for one in found(german)}
    text = " ".join(sorted(words for words, _ in said))
    for column, count in (("Alter", "3"), ("Kundennr", "4"), ("Clubmitglied", "2")):
        assert any(column in words and count in words for words, _ in said), (column, text)
    refused = german.run("describe")
    assert refused.exit_code in (21, 22, 23)
    everything = german.run("check").stdout + text + error_line(refused)
    assert "geheim" not in everything
    assert str(customers(200)[50]["customer"]) not in everything
