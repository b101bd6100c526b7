"""The page and the command: all measures, nothing from elsewhere, nothing unescaped."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest
from typer.testing import CliRunner

from fgcif_flwr.cli.main import app
from fgcif_flwr.data.decoding import decode
from fgcif_flwr.data.encoding import EncodedTable, feature_layout
from fgcif_flwr.data.schema import Schema, load_schema, schema_from_mapping
from fgcif_flwr.generative.artifact import save_generator
from fgcif_flwr.generative.columns import columns_of
from fgcif_flwr.generative.federated_ctgan import Coordinator, FederatedCtganSettings
from fgcif_flwr.generative.fidelity import compare_tables
from fgcif_flwr.generative.marginals.grid import cells_of
from fgcif_flwr.reporting.fidelity_page import fidelity_page

HOSTILE = "<script>alert('x')</script>"


def schema() -> Schema:
    return schema_from_mapping(
        {
            "name": "shop",
            "description": f"a {HOSTILE} & more",
            "features": [
                {"kind": "numeric", "name": "age", "lower": 0, "upper": 100, "unit": "<u>"},
                {"kind": "numeric", "name": "spend", "lower": 0, "upper": 900, "log": True},
                {"kind": "categorical", "name": HOSTILE, "vocabulary": [HOSTILE, *"abcdefghij"]},
                {"kind": "categorical", "name": "city", "buckets": 12},
                {"kind": "boolean", "name": "member"},
            ],
            "targets": [
                {"kind": "binary", "name": "churn", "positive": '"yes"', "negative": "no"},
                {"kind": "categorical", "name": "segment", "classes": ["<low>", "high"]},
                {"kind": "numeric", "name": "value", "lower": 0, "upper": 10},
            ],
        },
        "test",
    )


def customers(rows: int, seed: int) -> EncodedTable:
    rng = np.random.default_rng(seed)
    codes = [rng.integers(2, codes, rows) for codes in feature_layout(schema()).cardinalities]
    numeric = rng.random((rows, 2)).astype(np.float32)
    return EncodedTable(
        numeric,
        np.zeros_like(numeric),
        np.stack(codes, axis=1),
        {
            "churn": (numeric[:, 0] > 0.6).astype(np.float32),
            "segment": (numeric[:, 1] > 0.5).astype(np.int64),
            "value": numeric[:, 0],
        },
    )


class Elements(HTMLParser):
    """Collects tags and texts, and refuses tags that are closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page() -> str:
    train, made, test = customers(200, 1), customers(150, 2), customers(80, 3)
    found = compare_tables(feature_layout(schema()), train, made, test, seed=0)
    return fidelity_page(schema(), train, made, found, f"epsilon = 1 {HOSTILE}")


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(page: str) -> None:
    parsed = Elements()
    parsed.feed(page)
    assert parsed.open == []
    assert {"script", "link", "img", "iframe", "u"}.isdisjoint(parsed.tags)
    assert not re.search(r"https?:|url\(|@import|\bsrc=|\bhref=|\son\w+=", page)
    assert "default-src 'none'" in page


def test_names_words_and_statements_are_escaped(page: str) -> None:
    parsed = Elements()
    parsed.feed(page)
    assert HOSTILE not in page
    assert parsed.text.count(HOSTILE) >= 4  # description, statement, name, hover texts
    assert "<low>" in parsed.text


def test_the_page_shows_every_column_pair_and_measure_and_where_it_belongs(page: str) -> None:
    parsed = Elements()
    parsed.feed(page)
    for words in (
        "Keep it where they are",
        "epsilon = 1",
        "Membership attack",
        "calibrated",
        "Exact copies",
        "trained on real",
        "gradient boosting",
        "Told apart",
        "segment and",
    ):
        assert words in parsed.text
    columns = len(feature_layout(schema()).cardinalities) + 2 + 3
    assert parsed.tags.count("figure") == columns + 3
    assert "nan" not in re.sub(r"[a-z-]*nan[a-z]+", "", parsed.text.lower())


def test_the_page_without_rows_held_out_says_what_is_not_measured() -> None:
    train, made = customers(60, 1), customers(5, 2)
    found = compare_tables(feature_layout(schema()), train, made, None, seed=0)
    text = fidelity_page(schema(), train, made, found)
    assert "Closeness was not measured" in text
    assert "No privacy statement came" in text


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    (folder / "shop.toml").write_text(schema().to_toml(), encoding="utf-8")
    for name, rows, seed in (("train", 200, 1), ("made", 150, 2), ("test", 80, 3)):
        table = decode(schema(), customers(rows, seed))
        pyarrow.csv.write_csv(table, folder / f"{name}.csv")
    return folder


def run(folder: Path, *arguments: str):
    told = [str(folder / name) for name in ("train.csv", "made.csv")]
    options = ["--schema", str(folder / "shop.toml"), *arguments]
    return CliRunner().invoke(app, ["fidelity", *told, *options])


def run_of(directory: Path, shape: Schema | None) -> Path:
    """The directory of a run, with a generator if it is of a schema."""
    directory.mkdir()
    (directory / "run.json").write_text('{"privacy": {"statement": "for each customer"}}')
    if shape is not None:
        layout, settings = feature_layout(shape), FederatedCtganSettings(hidden=(8,))
        cells = zip(columns_of(layout), cells_of(layout), strict=True)
        counts = {column.name: np.ones(size) for column, size in cells}
        generator = Coordinator(layout, settings, counts, seed=0).generator()
        save_generator(directory / "generator.safetensors", generator, settings, shape, {})
    return directory


def test_runs_that_cannot_have_made_the_rows_are_refused(files: Path, tmp_path: Path) -> None:
    bare = run(files, "--run", str(run_of(tmp_path / "bare", None)))
    assert (bare.exit_code, "made no generator" in bare.stderr) == (21, True)
    other = run(files, "--run", str(run_of(tmp_path / "other", load_schema("telco"))))
    assert (other.exit_code, "is of schema telco" in other.stderr) == (21, True)


def test_rows_held_out_that_were_learnt_from_are_refused(files: Path, tmp_path: Path) -> None:
    again = run(files, "--test", str(files / "train.csv"))
    assert again.exit_code == 21
    assert "200 of 200 rows of --test are also in REAL" in again.stderr
    # by ids, whatever else the rows say
    named = tmp_path / "named.toml"
    named.write_text('id_column = "id"\n' + schema().to_toml(), encoding="utf-8")
    for name, ids in (("train", range(200)), ("test", range(195, 275))):
        table = pyarrow.csv.read_csv(files / f"{name}.csv")
        table = table.append_column("id", [list(map(str, ids))])
        pyarrow.csv.write_csv(table, tmp_path / f"{name}.csv")
    tables = [str(tmp_path / "train.csv"), str(files / "made.csv")]
    options = ["--schema", str(named), "--test", str(tmp_path / "test.csv")]
    found = CliRunner().invoke(app, ["fidelity", *tables, *options])
    assert found.exit_code == 21
    assert "5 of 80 rows of --test are also in REAL" in found.stderr


def test_a_target_of_one_class_is_warned_of(files: Path, tmp_path: Path) -> None:
    made = customers(150, 2)
    made.targets["churn"][:] = 1
    pyarrow.csv.write_csv(decode(schema(), made), tmp_path / "one.csv")
    tables = [str(files / "train.csv"), str(tmp_path / "one.csv")]
    options = ["--schema", str(files / "shop.toml"), "--test", str(files / "test.csv")]
    found = CliRunner().invoke(app, ["fidelity", *tables, *options, "--format", "json"])
    told = json.loads(found.stdout)
    assert [warning.split(":")[0] for warning in told["warnings"]] == ["target churn"]
    assert told["result"]["utility"][0]["synthetic"]["auc"] is None


def test_the_command_prints_one_object_and_writes_the_page(files: Path, tmp_path: Path) -> None:
    run_directory = run_of(tmp_path / "run", schema())
    out = tmp_path / "page.html"
    result = run(
        files,
        *("--test", str(files / "test.csv"), "--out", str(out)),
        *("--run", str(run_directory), "--format", "json"),
    )
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert (printed["command"], printed["status"]) == ("fidelity", "ok")
    told = printed["result"]
    assert told["rows"] == {"real": 200, "synthetic": 150, "held_out": 80}
    assert told["privacy_statement"] == "for each customer"
    assert {"closeness", "membership", "utility", "discriminator", "pairs"} <= set(told)
    assert "for each customer" in out.read_text(encoding="utf-8")
    # decoding is exact, so the files measure as the arrays do
    expected = compare_tables(
        feature_layout(schema()), customers(200, 1), customers(150, 2), customers(80, 3), 0
    )
    assert told["shape_similarity"] == pytest.approx(expected.shape_similarity)


def test_text_fits_a_terminal_and_warns_where_nothing_is_held_out(files: Path) -> None:
    result = run(files)
    assert result.exit_code == 0, result.stderr
    assert "Warning: without --test" in result.stdout
    whole = run(files, "--test", str(files / "test.csv"))
    assert "calibrated attack, advantage" in whole.stdout
    assert "…" not in whole.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--test", "absent.csv"], 21, "absent.csv"),
        (["--run", "absent"], 21, "no run in absent"),
        (["--out", "absent/page.html"], 21, "cannot be written"),
        (["--schema", "telco"], 22, "train.csv: the table lacks"),
    ],
)
def test_mistakes_have_one_line_and_a_code(
    files: Path, arguments: list[str], code: int, words: str
) -> None:
    result = run(files, *arguments)
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr
