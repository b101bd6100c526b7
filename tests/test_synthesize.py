"""``fgcif synthesize``: rows of a run's generator or of one's own table, and their promise."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from fgcif_flwr.cli.main import app
from fgcif_flwr.config import SimulatorSection
from fgcif_flwr.data.encoding import encode
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.data.simulator import simulate_customers
from tests.federation_rig import configured, federate


def synthesize(*arguments: object):
    return CliRunner().invoke(app, ["synthesize", *map(str, arguments)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = configured(tmp_path_factory.mktemp("run"), {"generator.kind": "marginals"})
    return federate(config).files.path


@pytest.fixture(scope="module")
def customers(tmp_path_factory):
    table, _ = simulate_customers(SimulatorSection(customers=60), 3, 0)
    path = tmp_path_factory.mktemp("own") / "customers.parquet"
    pa.parquet.write_table(table, path)
    return path


def test_rows_of_a_run_are_a_table_of_its_schema_and_cost_nothing_more(run, tmp_path):
    out = tmp_path / "rows.csv"
    done = synthesize(run, "--rows", 200, "--out", out, "--format", "json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)["result"]
    assert (said["kind"], said["rows"], said["schema"]) == ("marginals", 200, "simulated")
    assert said["privacy"].startswith("No differential privacy is claimed")
    table = pyarrow.csv.read_csv(out)
    assert table.num_rows == 200
    assert len(encode(load_schema("simulated"), table)) == 200
    again = tmp_path / "again.csv"
    assert synthesize(run / "generator.safetensors", "--rows", 200, "--out", again).exit_code == 0
    assert again.read_bytes() == out.read_bytes()
    other = tmp_path / "other.csv"
    assert synthesize(run, "--rows", 200, "--out", other, "--seed", 1).exit_code == 0
    assert other.read_bytes() != out.read_bytes()


def test_balanced_classes_are_what_was_asked_for(run, tmp_path):
    out = tmp_path / "rows.parquet"
    assert synthesize(run, "--rows", 1000, "--out", out, "--balance").exit_code == 0
    churn = load_schema("simulated").targets[0]
    labels = pyarrow.parquet.read_table(out)[churn.column].to_pylist()
    # Standard deviation of a fair share of 1,000: .016.
    assert 0.4 < labels.count(churn.positive) / 1000 < 0.6


def test_rows_of_ones_own_table_say_that_they_promise_nothing(customers, tmp_path):
    out = tmp_path / "rows.csv"
    own = ("--data", customers, "--schema", "simulated", "--steps", 3)
    done = synthesize("--rows", 20, "--out", out, *own)
    assert done.exit_code == 0, done.output
    assert "No differential privacy" in done.stdout
    assert pyarrow.csv.read_csv(out).num_rows == 20


def test_noisy_gradients_of_ones_own_table_state_their_epsilon(customers, tmp_path):
    out = tmp_path / "rows.csv"
    own = ("--data", customers, "--schema", "simulated", "--steps", 3)
    done = synthesize("--rows", 20, "--out", out, *own, "--noise-multiplier", 20)
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "epsilon = " in said
    assert "No ledger was charged" in said
    epsilon = float(said.split("epsilon = ")[1].split()[0])
    assert 0.1 < epsilon < 5


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 10, "one of the two"),
        (("RUN", "--data", "x.csv"), 10, "one of the two"),
        (("--data", "x.csv"), 10, "--data wants --schema"),
        (("RUN", "--schema", "telco"), 10, "a run has its own"),
        (("RUN", "--steps", 3), 10, "a run has its own"),
        (("/nowhere",), 21, "there is no run's directory"),
        (("EMPTY",), 21, "has no shared generator"),
    ],
)
def test_what_makes_no_sense_is_one_line_with_what_to_do(run, arguments, code, said, tmp_path):
    empty = tmp_path / "run"
    empty.mkdir()
    places = {"RUN": run, "EMPTY": empty}
    given = (places.get(argument, argument) for argument in arguments)
    done = synthesize(*given, "--rows", 5, "--out", tmp_path / "rows.csv")
    assert done.exit_code == code
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "rows.csv").exists()
