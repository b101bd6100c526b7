"""``fgcif-client``: an enterprise's own table, and models used on it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from fgcif_flwr.config import ModelSection, unflatten
from fgcif_flwr.config.enterprise import load_enterprise
from fgcif_flwr.data.encoding import encode, feature_layout
from fgcif_flwr.data.membership import TEST, membership
from fgcif_flwr.data.schema import schema_from_toml
from fgcif_flwr.data.sources import read_table
from fgcif_flwr.enterprise.agent.kept_models import keep_model
from fgcif_flwr.enterprise.agent.limits import AgentState
from fgcif_flwr.enterprise.site import Site
from fgcif_flwr.federation.releases import MODEL
from fgcif_flwr.federation.segmentation_releases import segment_inputs
from fgcif_flwr.federation.session import SessionSettings
from fgcif_flwr.federation.terms import terms_of
from fgcif_flwr.models.artifact import load_model, save_model
from fgcif_flwr.models.metrics import metrics_from_counts
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import named_arrays, to_vector
from fgcif_flwr.models.segmentation import Space
from fgcif_flwr.models.training import evaluate_counts
from fgcif_flwr.privacy.ledger import SqliteLedger
from tests.client_rig import (
    COLUMNS,
    RUN,
    SCHEMA,
    Client,
    customers,
    enterprise,
    error_line,
    write_csv,
)

PASSWORD = "hunter2-Zq8"
FRACTIONS = ("--validation-fraction", "0.1", "--test-fraction", "0.2")


@pytest.fixture
def client(tmp_path: Path) -> Client:
    made = enterprise(tmp_path)
    made.keep_model()
    return made


# the table


def test_describe_counts_what_is_missing_clipped_and_unseen(client: Client):
    rows = customers(300)
    for row in rows[:20]:
        row["spend"] = ""
    for row in rows[20:50]:
        row["spend"] = 5000
    for row in rows[50:62]:
        row["plan"] = "gold"
    for row in rows[62:65]:
        row["age"] = ""
    write_csv(client.directory / "customers.csv", rows)
    result = client.told("describe")
    features = {one["name"]: one for one in result["features"]}
    assert result["rows"] == 300
    assert (features["spend"]["missing"], features["spend"]["beyond_bounds"]) == (20, 30)
    assert features["plan"]["unseen"] == 12
    assert features["age"]["missing"] is None  # three customers are too few to be shown
    classes = result["targets"][0]["classes"]
    assert classes == {
        "yes": sum(row["churn"] == "yes" for row in rows),
        "no": sum(row["churn"] == "no" for row in rows),
        "missing": 0,
    }
    text = client.run("describe").stdout
    assert "few" not in text
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())


def test_a_rare_class_is_not_counted_nor_to_be_told_from_the_rest(client: Client):
    rows = customers(300)
    for index, row in enumerate(rows):
        row["churn"] = "yes" if index < 4 else "no"
    write_csv(client.directory / "customers.csv", rows)
    classes = client.told("describe")["targets"][0]["classes"]
    assert classes == {"yes": None, "no": None, "missing": 0}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_features_are_the_table_that_the_model_reads(client: Client, tmp_path: Path, ending: str):
    out = tmp_path / f"features.{ending}"
    told = client.told("features", "--out", str(out))
    written = read_table(out)
    assert told["rows"] == written.num_rows == 300
    assert set(written.column_names) == set(COLUMNS)
    own = encode(client.schema, written)
    given = encode(client.schema, read_table(client.directory / "customers.csv"))
    np.testing.assert_array_equal(own.numeric, given.numeric)
    np.testing.assert_array_equal(own.categorical, given.categorical)


def test_features_without_targets_want_none(client: Client, tmp_path: Path):
    drop_targets(client)
    out = tmp_path / "f.csv"
    client.told("features", "--no-targets", "--out", str(out))
    assert "churn" not in read_table(out).column_names
    assert client.run("features", "--overwrite", "--out", str(out)).exit_code == 22


def drop_targets(client: Client) -> None:
    rows = customers(300)
    write_csv(
        client.directory / "customers.csv",
        [{k: v for k, v in row.items() if k not in ("churn", "next", "value")} for row in rows],
    )


# evaluate


def own_metrics(client: Client, fractions: tuple[float, float], name: str = RUN):
    """Compute on the split that the ledger's key makes, without the command."""
    table = read_table(client.directory / "customers.csv")
    with SqliteLedger(client.state / "ledger.db", "acme") as ledger:
        split = membership(table["customer"].to_pylist(), ledger.population_key, *fractions)
    test = encode(client.schema, table).take(np.flatnonzero(split == TEST))
    network = load_model(client.state / "models" / f"{name}.safetensors").network
    counts = evaluate_counts(network, test)
    return len(test), {
        head.name: metrics_from_counts(head, counts[head.name]) for head in network.layout.heads
    }


def test_evaluate_gives_the_exact_figures_of_the_own_test_customers(client: Client):
    told = client.told("evaluate", *FRACTIONS)
    rows, metrics = own_metrics(client, (0.1, 0.2))
    assert told["rows"] == rows
    for head, figures in metrics.items():
        for name, value in figures.items():
            if isinstance(value, int | float) and value == value:
                assert told["heads"][head][name] == pytest.approx(value), (head, name)
    text = client.run("evaluate", *FRACTIONS).stdout
    assert "auc" in text
    assert "not to be told outside" in " ".join(text.split())


def test_evaluate_splits_as_the_models_run_did(client: Client):
    with AgentState(client.state / "agent.db") as state, state._transaction():
        terms = json.dumps({"config": {"data.validation_fraction": 0.2, "data.test_fraction": 0.4}})
        state._run(
            "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, NULL, ?)",
            *(RUN, "cd" * 32, terms, "none", 0.0, 1.0, 0),
        )
    result = client.run("evaluate", "--format", "json")
    printed = json.loads(result.stdout)
    assert printed["warnings"] == []
    assert printed["result"]["rows"] == own_metrics(client, (0.2, 0.4))[0]


def test_a_split_that_is_assumed_is_said(client: Client):
    printed = json.loads(client.run("evaluate", "--format", "json").stdout)
    assert "assumed: validation fraction 0.1, test fraction 0.2" in printed["warnings"][0]


# which model


def test_a_model_is_taken_by_name_by_file_or_the_newest(client: Client, tmp_path: Path):
    client.keep_model("cd" * 32, seed=5)
    assert client.told("evaluate", *FRACTIONS)["model"] == "cd" * 32
    first = client.told("evaluate", *FRACTIONS, "--model", "abab")
    assert first["model"] == RUN
    file = tmp_path / "model.safetensors"
    file.write_bytes((client.state / "models" / f"{RUN}.safetensors").read_bytes())
    for given in (file, tmp_path):
        by_file = client.told("evaluate", *FRACTIONS, "--model", str(given))
        assert by_file["heads"] == first["heads"]


def test_a_model_that_is_none_is_refused(client: Client, tmp_path: Path):
    unknown = client.run("score", "--out", "x.csv", "--model", "ffff")
    assert unknown.exit_code == 21
    assert "ffff is neither a file, a run's directory nor the beginning" in error_line(unknown)
    client.keep_model("abcd" * 16)
    ambiguous = client.run("score", "--out", "x.csv", "--model", "ab")
    assert "2 models" in error_line(ambiguous)
    assert client.run("score", "--out", "x.csv", "--model", "./absent").exit_code == 21
    broken = tmp_path / "broken.safetensors"
    broken.write_text("nothing")
    refused = client.run("score", "--out", "x.csv", "--model", str(broken))
    assert refused.exit_code == 21
    assert str(broken) in error_line(refused)


def test_a_model_of_another_schema_is_refused(client: Client, tmp_path: Path):
    other = schema_from_toml(SCHEMA.replace("upper = 500", "upper = 600"), "other")
    network = build_network(feature_layout(other), ModelSection(hidden=(8,)), 0)
    save_model(tmp_path / "other.safetensors", network, other)
    refused = client.run("evaluate", "--model", str(tmp_path / "other.safetensors"))
    assert refused.exit_code == 20
    assert "schema" in error_line(refused)


# score


def test_scores_are_alike_in_every_form_and_want_no_target(client: Client, tmp_path: Path):
    drop_targets(client)
    client.told("score", "--out", str(tmp_path / "s.csv"), "--explain", "2")
    client.told("score", "--out", str(tmp_path / "s.parquet"), "--explain", "2")
    database = f"sqlite:///{tmp_path / 's.db'}#scores"
    client.told("score", "--to-table", database, "--explain", "2")
    table = pa.parquet.read_table(tmp_path / "s.parquet")
    as_csv = pa.csv.read_csv(tmp_path / "s.csv")
    assert as_csv.column_names == table.column_names
    connection = sqlite3.connect(tmp_path / "s.db")
    rows = connection.execute("SELECT * FROM scores").fetchall()
    connection.close()
    assert rows == [tuple(row.values()) for row in table.to_pylist()]
    assert table.num_rows == 300
    for name in ("customer", "churn_probability", "value", "reason_1", "reason_2"):
        assert name in table.column_names
    loaded = load_model(client.state / "models" / f"{RUN}.safetensors")
    outputs = loaded.network.outputs(
        encode(client.schema, read_table(client.directory / "customers.csv"), targets=False)
    )
    expected = 1 / (1 + np.exp(-outputs[:, 0].astype(float)))
    by_id = dict(
        zip(table["customer"].to_pylist(), table["churn_probability"].to_pylist(), strict=True)
    )
    given = read_table(client.directory / "customers.csv")["customer"].to_pylist()
    np.testing.assert_allclose([by_id[one] for one in given], expected, rtol=1e-6)


def test_a_table_that_is_there_is_kept_replaced_or_added_to_as_told(client: Client, tmp_path: Path):
    database = f"sqlite:///{tmp_path / 's.db'}#scores"

    def rows() -> int:
        connection = sqlite3.connect(tmp_path / "s.db")
        count = connection.execute("SELECT COUNT(*) FROM scores").fetchone()[0]
        connection.close()
        return int(count)

    client.told("score", "--to-table", database)
    refused = client.run("score", "--to-table", database)
    assert refused.exit_code == 21
    assert "--if-exists" in error_line(refused)
    assert rows() == 300
    client.told("score", "--to-table", database, "--if-exists", "append")
    assert rows() == 600
    client.told("score", "--to-table", database, "--if-exists", "replace")
    assert rows() == 300
    wider = client.run("score", "--to-table", database, "--if-exists", "append", "--explain", "1")
    assert wider.exit_code == 21
    assert "reason_1" in error_line(wider)
    assert rows() == 300


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 10),
        (["--out", "s.csv", "--to-table", "sqlite:///x#y"], 10),
        (["--to-table", f"postgresql://u:{PASSWORD}@db/x#y"], 10),
        (["--to-table", f"{PASSWORD}"], 10),
        (["--to-table", "sqlite:///x#y", "--password-env", "FGCIF_NO_SUCH"], 10),
        (["--to-table", "sqlite:////no/such/directory/x#y"], 21),
        (["--to-table", "nosuchdatabase://db/x#y"], 10),
    ],
)
def test_a_database_that_cannot_be_used_is_said_without_its_address(
    client: Client, arguments: list[str], code: int
):
    result = client.run("score", *arguments)
    assert result.exit_code == code, result.stderr
    assert PASSWORD not in error_line(result)


# personalize, synthesize, export-model


def test_a_personal_model_is_kept_beside_the_joint_one_and_used_by_name(client: Client):
    write_csv(client.directory / "customers.csv", customers(1500))
    told = client.told("personalize", *FRACTIONS, "--seed", "3")
    models = {file.name for file in (client.state / "models").iterdir()}
    personal = f"{RUN}.personal"
    assert told["kept"] == (f"{personal}.safetensors" in models)
    assert told["kept"], "an untrained model is easily bettered"
    assert told["gain"]["lower"] > 0
    assert told["after"]["churn"]["auc"] > told["before"]["churn"]["auc"]
    scored = client.told("evaluate", *FRACTIONS, "--model", personal)
    assert scored["model"] == personal
    assert client.told("evaluate", *FRACTIONS)["model"] == RUN  # the joint one, unless it is named
    statement = load_model(client.state / "models" / f"{personal}.safetensors").statement
    assert "without differential privacy" in json.dumps(statement)
    assert "Kept as" in client.run("personalize", *FRACTIONS, "--seed", "3").stdout


def test_synthetic_customers_have_the_schemas_columns_and_a_word_of_what_they_reveal(
    client: Client, tmp_path: Path
):
    out = tmp_path / "synthetic.csv"
    arguments = ["synthesize", "--rows", "40", "--steps", "5", "--out", str(out)]
    told = client.told(*arguments)
    made = read_table(out)
    assert made.num_rows == 40
    assert set(made.column_names) == set(COLUMNS) - {"customer"}
    encode(client.schema, made)
    assert "No differential privacy" in told["privacy"]
    assert told["learnt_from"] == 300
    noisy = client.told(*arguments, "--overwrite", "--noise-multiplier", "5")
    assert "epsilon" in noisy["privacy"]
    assert "ledger was not charged" in noisy["privacy"]


def test_an_exported_model_gives_the_same_outputs(client: Client, tmp_path: Path):
    out = tmp_path / "churn.pt2"
    told = client.told("export-model", "--out", str(out))
    program = torch.export.load(out).module()
    rows = encode(client.schema, read_table(client.directory / "customers.csv"), targets=False)
    arrays = (rows.numeric, rows.missing, rows.categorical)
    given = program(*(torch.from_numpy(np.array(one)) for one in arrays)).detach().numpy()
    loaded = load_model(client.state / "models" / f"{RUN}.safetensors")
    np.testing.assert_allclose(given, loaded.network.outputs(rows), rtol=1e-5, atol=1e-6)
    described = json.loads(Path(told["encoding"]).read_text())
    assert described["schema_hash"] == client.schema.hash
    assert client.run("export-model", "--out", "x.onnx").exit_code == 10


def test_no_operation_on_models_changes_what_was_charged(client: Client, tmp_path: Path):
    client.told("score", "--out", str(tmp_path / "s.csv"))
    client.told("evaluate", *FRACTIONS)
    assert client.told("budget")["spent"] == 0
    assert load_enterprise(client.config).enterprise.name == "acme"


# a learned target

CENTRES = np.array([[0.9], [0.6], [0.4], [0.1]])


@pytest.fixture
def segmented(tmp_path: Path) -> Client:
    """An enterprise whose agent kept the model of a run that learned four segments by spend."""
    made = enterprise(tmp_path)
    schema = tmp_path / "shop.toml"
    text = schema.read_text(encoding="utf-8")
    learned = 'name = "next"\nkind = "categorical"\n'
    assert learned in text
    schema.write_text(text.replace(learned, f'{learned}source = "learned"\n'), encoding="utf-8")
    site = Site.open(load_enterprise(made.config))
    config = unflatten(
        {
            "model.hidden": "8",
            "segmentation.target": "next",
            "segmentation.features": "spend",
            "run.enterprises": 4,
        }
    )
    manifest = SessionSettings.of(config).manifest(
        bytes.fromhex(RUN)[:16], 1, terms_of(config, site.schema.hash), site.roster
    )
    network = build_network(feature_layout(site.schema), config.model, 0)
    space = Space(np.zeros(1), np.ones(1), np.full(1, 0.5))
    arrays = {MODEL: to_vector(named_arrays(network)), **segment_inputs(space, CENTRES)}
    keep_model(site, manifest, arrays)
    return made


def segments_by_spend(table: pa.Table) -> np.ndarray:
    spend = np.array(table["spend"].to_pylist(), float) / 1000
    return np.abs(spend[:, np.newaxis] - CENTRES[:, 0]).argmin(axis=1)


def test_a_model_that_the_agent_kept_says_which_segment_a_customer_is_in(
    segmented: Client, tmp_path: Path
):
    segmented.told("score", "--out", str(tmp_path / "s.parquet"))
    scores = pa.parquet.read_table(tmp_path / "s.parquet")
    table = read_table(segmented.directory / "customers.csv")
    words = np.array(["food", "toys", "books", "tools"])[segments_by_spend(table)]
    expected = dict(zip(table["customer"].to_pylist(), words.tolist(), strict=True))
    for column in ("next_assigned", "next_name"):
        given = zip(scores["customer"].to_pylist(), scores[column].to_pylist(), strict=True)
        assert dict(given) == expected


def test_evaluate_labels_the_test_customers_by_the_released_centres(segmented: Client):
    told = segmented.told("evaluate", *FRACTIONS)
    table = read_table(segmented.directory / "customers.csv")
    with SqliteLedger(segmented.state / "ledger.db", "acme") as ledger:
        split = membership(table["customer"].to_pylist(), ledger.population_key, 0.1, 0.2)
    where = np.flatnonzero(split == TEST)
    loaded = load_model(next((segmented.state / "models").glob("*.safetensors")))
    outputs = loaded.network.outputs(encode(segmented.schema, table).take(where))
    place = [head.name for head in loaded.network.layout.heads].index("next")
    said = outputs[:, loaded.network.head_slices[place]].argmax(axis=1)
    figures = told["heads"]["next"]
    assert figures["rows"] == len(where) == told["rows"]
    assert figures["accuracy"] == pytest.approx((said == segments_by_spend(table)[where]).mean())


def test_a_model_without_segments_is_not_evaluated_on_a_learned_target_and_says_so(
    segmented: Client,
):
    segmented.keep_model("ef" * 32)
    result = segmented.run("evaluate", *FRACTIONS, "--model", "efef", "--format", "json")
    printed = json.loads(result.stdout)
    assert printed["result"]["heads"]["next"]["rows"] == 0
    assert any("next is learned, and is not evaluated" in one for one in printed["warnings"])


def test_a_personal_model_keeps_the_segments(segmented: Client):
    write_csv(segmented.directory / "customers.csv", customers(1500))
    told = segmented.told("personalize", *FRACTIONS, "--seed", "3")
    assert told["kept"], "an untrained model is easily bettered"
    assert told["before"]["next"]["rows"] == told["rows"]["validation"]
    assert told["after"]["next"]["accuracy"] > told["before"]["next"]["accuracy"]
    personal = load_model(segmented.state / "models" / f"{told['saved']}.safetensors")
    assert personal.segments is not None
    assert personal.segments.names == ("food", "toys", "books", "tools")


def test_scores_go_neither_into_a_source_nor_into_the_enterprises_state(client: Client):
    crm = client.directory / "crm.db"
    with sqlite3.connect(crm) as connection:
        connection.execute("CREATE TABLE customers (x TEXT)")
    connection.close()
    text = client.config.read_text(encoding="utf-8")
    (line,) = (one for one in text.splitlines() if one.startswith("source = "))
    client.edit(line, f'source = "sqlite:///{crm}"\ntable = "customers"')
    before = crm.read_bytes()
    for database in (f"sqlite:///{crm}#customers", f"sqlite:///{client.state}/ledger.db#scores"):
        refused = client.run("score", "--to-table", database, "--if-exists", "append")
        assert refused.exit_code == 10
        assert "--to-table" in error_line(refused)
    assert crm.read_bytes() == before
