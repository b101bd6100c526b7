"""The fgcif command: one object on stdout in JSON, one clear line and its own code on errors."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest
from typer.testing import CliRunner

from fgcif_flwr.cli.main import app
from fgcif_flwr.config import SimulatorSection
from fgcif_flwr.data.simulator import customer_table

SMALL = [
    "simulate",
    "--engine",
    "inline",
    "--enterprises",
    "5",
    "--rounds",
    "2",
    "--set",
    "simulator.customers=60",
]


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("run")
    result = run(*SMALL, "--out", str(out), "--format", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout), out


def test_simulate_prints_one_object_with_the_documented_names(simulated):
    printed, out = simulated
    assert set(printed) == {"command", "status", "result", "warnings"}
    assert (printed["command"], printed["status"]) == ("simulate", "ok")
    result = printed["result"]
    assert {"metrics", "privacy", "communication", "model_sha256", "rounds", "seconds"} <= set(
        result
    )
    for arm in ("federated", "centralized", "alone"):
        assert {"accuracy", "precision", "recall", "f1", "auc"} <= set(result["metrics"][arm])
    assert {"unit", "noise", "epsilon", "delta"} <= set(result["privacy"])
    assert result["privacy"]["unit"] == "none"
    assert {"bytes_up", "bytes_down", "exchanges"} <= set(result["communication"])
    # identify, join, advertise; statistics, two rounds and the evaluation at two exchanges each
    assert result["communication"]["exchanges"] == 3 + 2 * (1 + 2 + 1)
    assert result["rounds"] == 2
    assert result["artifacts"]["directory"] == str(out)


def test_the_directory_of_a_run_holds_what_is_documented(simulated):
    printed, out = simulated
    record = json.loads((out / "run.json").read_text())
    assert record["model_sha256"] == printed["result"]["model_sha256"]
    assert record["config"]["run.enterprises"] == 5
    assert len(record["schema"]["hash"]) == 64
    assert record["versions"]["flwr"].startswith("1.41")
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 2]
    assert (out / "model.safetensors").stat().st_size > 0
    assert "No differential privacy is claimed" in (out / "MODEL_CARD.md").read_text()
    assert (out / "run.log").stat().st_size > 0
    logs = sorted((out / "releases").glob("*.jsonl"))
    assert len(logs) == 5
    # statistics, two rounds, evaluation: a line each in every enterprise's release log
    assert {len(log.read_text().splitlines()) for log in logs} == {4}


def test_text_is_for_people_and_says_that_no_privacy_is_claimed(tmp_path: Path):
    result = run(*SMALL, "--out", str(tmp_path), "--no-baselines")
    assert result.exit_code == 0
    assert "federated" in result.stdout
    assert "No differential privacy is claimed" in " ".join(result.stdout.split())
    assert str(tmp_path) in result.stdout


def test_the_consistency_exchange_is_a_third_one_and_changes_nothing_of_the_model(
    simulated, tmp_path: Path
):
    printed, _ = simulated
    signed = ["--set", "secagg.consistency=true", "--no-baselines", "--format", "json"]
    result = run(*SMALL, "--out", str(tmp_path), *signed)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)["result"]
    # a list of survivors to sign, once in each of the four slots
    assert told["communication"]["exchanges"] == 3 + 3 * (1 + 2 + 1)
    assert told["model_sha256"] == printed["result"]["model_sha256"]


def test_predict_scores_a_table_without_its_targets(simulated, tmp_path: Path):
    _, out = simulated
    customers = customer_table(SimulatorSection(customers=20), 3, 9)
    table = tmp_path / "customers.csv"
    pa.csv.write_csv(customers.drop_columns(["churn", "segment", "future_value"]), table)
    scores = tmp_path / "scores.csv"
    result = run("predict", str(out), str(table), "--out", str(scores), "--format", "json")
    assert result.exit_code == 0, result.stderr
    written = pa.csv.read_csv(scores)
    assert written.num_rows == customers.num_rows == json.loads(result.stdout)["result"]["rows"]
    probabilities = written["churn_probability"].to_pylist()
    assert all(0 <= p <= 1 for p in probabilities)
    shown = run("predict", str(out / "model.safetensors"), str(table))
    assert shown.stdout.splitlines()[0].split(",")[0].strip('"') == "customer_id"


def test_schema_commands_list_show_and_draft(tmp_path: Path):
    listed = json.loads(run("schema", "list", "--format", "json").stdout)["result"]["schemas"]
    assert {row["name"] for row in listed} == {
        "simulated",
        "telco",
        "mlc-churn",
        "bank-marketing",
        "online-retail",
        "online-retail-records",
        "crm",
    }
    assert "[[features]]" in run("schema", "show", "telco").stdout
    table = tmp_path / "t.csv"
    table.write_text(
        "id,age,plan,churn\n"
        + "".join(f"{i},{20 + i},a,no\n{i + 50},{i},b,yes\n" for i in range(20))
    )
    drafted = run(
        "schema", "infer", str(table), "--target", "churn", "--out", str(tmp_path / "draft.toml")
    )
    assert drafted.exit_code == 0, drafted.stderr
    assert run("schema", "show", str(tmp_path / "draft.toml")).exit_code == 0


SECRET = "jane.doe@example.org"

PRIVATE = [
    "--set",
    "privacy.unit=customer",
    "--set",
    "training.algorithm=fedsgd",
    "--set",
    "privacy.epsilon=1.0",
    "--set",
    "privacy.delta=1e-5",
]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--set", "training.learning_rat=1"], 11, "did you mean training.learning_rate?"),
        (["--set", "training.learning_rate=-1"], 10, "training.learning_rate"),
        (["--set", "nonsense"], 10, "section.key=value"),
        (["--set", "privacy.unit=customer"], 10, "wants an epsilon"),
        (["--set", "privacy.unit=household"], 10, "privacy.unit"),
        ([*PRIVATE, "--set", "privacy.epsilon=-1"], 10, "privacy.epsilon"),
        ([*PRIVATE, "--set", "privacy.clipping_norm=0"], 10, "privacy.clipping_norm"),
        ([*PRIVATE, "--set", "privacy.delta=0.5"], 50, "privacy.rows_per_enterprise"),
        ([*PRIVATE, "--set", "training.algorithm=fedavg"], 50, "use fedsgd, or privacy.noise"),
        ([*PRIVATE, "--set", "generator.kind=ctgan"], 50, "would not have the guarantee"),
        (["--set", "generator.ratio=2"], 10, "no effect while generator.kind = none"),
        (["--set", "privacy.epsilon=1.0"], 10, "no effect while privacy.unit = none"),
        (["--schema", "telko"], 20, "telco"),
        (["--partition", "dirichlet:0"], 25, "above 0"),
        (["--partition", "by-moon"], 25, "label-skew"),
        (["--enterprises", "2"], 10, "run.enterprises"),
        (["--set", "secagg.threshold=2"], 30, "too low"),
        (["--set", "secagg.neighbours=3"], 30, "secagg.neighbours"),
        (["--set", "secagg.tolerated_colluders=0"], 10, "secagg.tolerated_colluders"),
        (["--set", "secagg.consistency=perhaps"], 10, "secagg.consistency"),
        (["--set", "secagg.value_bound=1e-7", "--set", "run.retries=0"], 32, "secagg.value_bound"),
        (["--data", "absent.csv", "--schema", "telco"], 21, "absent.csv"),
        (["--data", "absent.csv"], 10, "--schema"),
        (["--config", "absent.toml"], 10, "absent.toml"),
    ],
)
def test_every_mistake_has_one_clear_line_and_its_own_code(
    tmp_path: Path, arguments: list[str], code: int, words: str
):
    result = run(*SMALL, "--out", str(tmp_path), *arguments)
    assert result.exit_code == code, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("fgcif: ")]
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in result.stderr + result.stdout


def write_telco(path: Path, change) -> Path:
    header = (
        "customerID,gender,SeniorCitizen,Partner,Dependents,tenure,PhoneService,MultipleLines,"
        "InternetService,OnlineSecurity,OnlineBackup,DeviceProtection,TechSupport,StreamingTV,"
        "StreamingMovies,Contract,PaperlessBilling,PaymentMethod,MonthlyCharges,TotalCharges,Churn"
    )
    rows = []
    for i in range(120):
        row = dict(
            zip(
                header.split(","),
                f"{SECRET}-{i},Female,0,Yes,No,{i % 70},Yes,No,DSL,No,Yes,No,No,No,No,One year,Yes,"
                f"Mailed check,{20 + i % 50},{100 + i},{'Yes' if i % 4 == 0 else 'No'}".split(","),
                strict=True,
            )
        )
        rows.append(change(i, row))
    keys = list(rows[0])
    text = ",".join(keys) + "\n" + "\n".join(",".join(row[k] for k in keys) for row in rows) + "\n"
    path.write_text(text)
    return path


def without(row: dict[str, str], key: str) -> dict[str, str]:
    return {k: v for k, v in row.items() if k != key}


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda i, row: without(row, "tenure"), 22, "tenure"),
        (lambda i, row: row | {"tenure": SECRET} if i == 3 else row, 23, "tenure"),
        (lambda i, row: row | {"Churn": SECRET} if i == 3 else row, 23, "Churn"),
        (lambda i, row: row | {"Churn": "No"}, 24, "churn"),
        (lambda i, row: row | {"customerID": SECRET}, 21, "customerID"),
    ],
)
def test_a_faulty_table_is_refused_by_column_and_count_and_never_by_value(
    tmp_path: Path, change, code: int, words: str
):
    table = write_telco(tmp_path / "telco.csv", change)
    result = run(
        "simulate",
        "--engine",
        "inline",
        "--data",
        str(table),
        "--schema",
        "telco",
        "--enterprises",
        "4",
        "--rounds",
        "1",
        "--out",
        str(tmp_path / "out"),
        "--format",
        "json",
    )
    assert result.exit_code == code, result.stderr
    failed = json.loads(result.stdout)
    assert failed["status"] == "failed"
    assert failed["error"]["exit_code"] == code
    assert words in failed["error"]["message"]
    everything = result.stdout + result.stderr
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file():
            everything += file.read_text(errors="replace")
    assert SECRET not in everything


def test_configuration_file_flags_and_assignments_agree(tmp_path: Path):
    file = tmp_path / "run.toml"
    file.write_text(
        "[run]\nenterprises = 5\nrounds = 9\n[simulator]\ncustomers = 60\n[model]\nhidden = [8]\n"
    )
    out = tmp_path / "out"
    result = run(
        "simulate",
        "--config",
        str(file),
        "--rounds",
        "1",
        "--set",
        "run.seed=3",
        "--engine",
        "inline",
        "--no-baselines",
        "--out",
        str(out),
        "--format",
        "json",
    )
    assert result.exit_code == 0, result.stderr
    config = json.loads((out / "run.json").read_text())["config"]
    assert (config["run.rounds"], config["run.seed"], config["model.hidden"]) == (1, 3, "8")
