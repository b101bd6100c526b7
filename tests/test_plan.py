"""``fgcif plan`` shows what a run's secure sum would be, and refuses what the run would refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fgcif_flwr.cli.main import app
from fgcif_flwr.secagg.parameters import SecureSumParameters

DOCS = Path(__file__).resolve().parents[1] / "docs" / "cli.md"


def plan(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def planned(*arguments: str) -> dict[str, Any]:
    printed = json.loads(plan(*arguments, "--format", "json"))
    assert (printed["command"], printed["status"]) == ("plan", "ok")
    return {**printed["result"], "warnings": printed["warnings"]}


def honest_in(result: dict) -> tuple[int, int, int]:
    """h_min as planned, with the consistency exchange, and without."""
    names = ("honest_in_any_sum", "honest_with_consistency", "honest_without_consistency")
    return tuple(result[name] for name in names)


def test_the_plan_of_the_defaults_is_the_complete_graph_of_fifty():
    result = planned()
    assert (result["graph"], result["neighbours"], result["shares"]) == ("complete", 49, 50)
    assert (result["threshold"], result["exchanges_per_round"]) == (45, 2)
    assert honest_in(result) == (40, 40, 40)
    assert result["bits_per_word"] == 28
    assert result["log2_insecure"] is None
    assert result["warnings"] == []


def test_the_exchange_is_shown_beside_the_plan_without_it():
    result = planned(
        "--set", "secagg.threshold=40", "--set", "secagg.tolerated_dropouts=5",
        "--set", "secagg.consistency=true",
    )  # fmt: skip
    assert honest_in(result) == (35, 35, 34)
    assert result["exchanges_per_round"] == 3


def test_the_plan_of_a_thousand_is_a_regular_graph_with_the_exchange():
    result = planned("--enterprises", "1000")
    chosen = SecureSumParameters.choose(1000)
    assert result["graph"] == "k-regular"
    assert (result["neighbours"], result["threshold"]) == (chosen.neighbours, chosen.threshold)
    assert (result["consistency"], result["exchanges_per_round"]) == (True, 3)
    assert (result["consents"], result["consents_checked"]) == (950, chosen.consents_checked)
    assert honest_in(result) == (850, 850, 1)
    assert result["log2_insecure"] == chosen.log2_insecure <= -40
    assert result["log2_unopened"] == chosen.log2_unopened <= -20


def test_a_regular_graph_without_the_exchange_warns_of_a_lying_coordinator():
    result = planned("--enterprises", "1000", "--set", "secagg.consistency=false")
    assert result["withstands"] == "semi-honest coordinator"
    assert result["honest_in_any_sum"] == 850
    assert result["honest_with_consistency"] == 850
    assert "a coordinator that lies" in result["warnings"][0]


def test_bytes_follow_the_model_and_the_neighbours():
    small, large = (planned("--parameters", str(d))["bytes_up"] for d in (1000, 9000))
    assert large - small == 8000 * 28 // 8
    near = planned("--enterprises", "1000", "--parameters", "1000")["bytes_up"]
    all_others = planned(
        "--enterprises", "1000", "--parameters", "1000", "--set", "secagg.neighbours=999"
    )["bytes_up"]
    assert all_others > 5 * near


def test_the_schema_decides_the_model():
    telco = planned("--data", "customers.csv", "--schema", "telco")["parameters"]
    assert telco != planned()["parameters"]


def test_text_tells_people_the_same():
    text = plan("--enterprises", "1000")
    for words in (
        "k-regular: masks and shares with 96 neighbours",
        "76 of 97",
        "850 against a lying coordinator",
        "1 against a lying coordinator",
        "probability at most 2^-40",
    ):
        assert words in text


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    plan()
    plan("--table")
    assert list(tmp_path.iterdir()) == []


def test_the_table_gives_the_parameters_by_size():
    rows = json.loads(plan("--table", "--format", "json"))["result"]["rows"]
    assert [row["holders"] for row in rows][-1] == 10_000
    by_size = {row["holders"]: row for row in rows}
    assert by_size[1000]["lying"] == {"neighbours": 96, "threshold": 76}
    assert by_size[1000]["semi_honest"] == {"neighbours": 38, "threshold": 25}
    assert by_size[1000]["neighbours_ignoring_cuts"] < 96
    assert by_size[50]["lying"]["neighbours"] == 49
    lines = plan("--table").splitlines()
    assert len(lines) == 2 + len(rows)
    assert len({len(line) for line in lines}) == 1
    assert all(line.startswith("|") and line.endswith("|") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--set", "secagg.threshold=20"], 30, "too low"),
        (["--enterprises", "1000", "--set", "secagg.neighbours=40"], 30, "secagg.neighbours 40"),
        (["--set", "secagg.neighbours=1"], 10, "secagg.neighbours"),
        (["--set", "secagg.consistency=perhaps"], 10, "secagg.consistency"),
        (["--data", "absent.csv"], 10, "--schema"),
    ],
)
def test_what_a_run_would_refuse_the_plan_refuses(arguments, code, words):
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert result.exit_code == code
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("fgcif: ")]
    assert words in line


def test_the_page_on_commands_names_the_fields_of_the_plan():
    section = DOCS.read_text("utf-8").split("## `fgcif plan`")[1].split("## `fgcif predict`")[0]
    documented = json.loads(section.split("```json")[1].split("```")[0])
    result = json.loads(plan("--format", "json"))
    assert list(documented["result"]) == list(result["result"])
