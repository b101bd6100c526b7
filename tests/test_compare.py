"""Methods compared on the same seeds: figures, equal exchanges, refusals. Most runs are stubs."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fgcif_flwr.cli import compare
from fgcif_flwr.cli.main import app
from fgcif_flwr.cli.methods import BASELINES, DEFAULT, METHODS, methods_of, seeds_of
from fgcif_flwr.config import RunConfig, flatten, read_toml, unflatten
from fgcif_flwr.errors import ConfigurationError, RunFailedError
from fgcif_flwr.reporting.method_runs import MethodRun, spread, summary
from fgcif_flwr.reporting.method_table import print_comparison
from fgcif_flwr.reporting.run_directory import RunDirectory

DOCS = Path(__file__).resolve().parents[1] / "docs"

EXCHANGES_BESIDE_ROUNDS = {"fedavg": 7, "fedsgd": 16}  # the stub's: fedsgd's measures first


class StubbedRuns:
    """Runs whose AUC is .8 + seed/100, .05 less with fedsgd; remembers what was asked for."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.configs: list[RunConfig] = []
        self.bounded: list[RunConfig] = []
        self.fault = fault

    def simulation(self, config: RunConfig, engine: object, *, with_baselines: bool) -> Any:
        assert not with_baselines
        self.configs.append(config)
        if self.fault is not None:
            raise self.fault
        rounds, algorithm = config.run.rounds, config.training.algorithm
        private = config.privacy.unit != "none"
        auc = 0.8 + config.run.seed / 100 - (0.05 if algorithm == "fedsgd" else 0)
        directory = RunDirectory(Path(config.run.output))
        directory.clear()
        for number in range(1, rounds + 1):  # the received model is that of the round before
            learnt = {} if number == 1 else {"churn": {"auc": auc * (1 - 0.1 / number**2)}}
            row = {"round": number, "loss": 0.5, "dropped": 0, "received_model": learnt}
            directory.append_history(row)
        directory.write_record({"metrics": {"validation": {"churn": {"auc": auc}}}})
        figures = {"accuracy": 0.7, "f1": 0.5, "auc": auc, "recall": 0.4}
        return {
            "target": "churn",
            "metrics": {"federated": figures} | ({"released": {"auc": 0.6}} if private else {}),
            "communication": {
                "exchanges": EXCHANGES_BESIDE_ROUNDS[algorithm] + 2 * rounds,
                "total_bytes_up": 5 * 250_000,
                "total_bytes_down": 5 * 500_000,
            },
            "secure_sum": {"holders": 5, "consistency": False},
            "privacy": {
                "unit": config.privacy.unit,
                "epsilon": config.privacy.epsilon if private else None,
                "delta": config.privacy.delta if private else None,
                "statement": "as promised",
            },
            "rounds": rounds,
            "seconds": 3.0,
        }

    def baselines(self, config: RunConfig, _: object) -> Any:
        self.bounded.append(config)
        return {
            name: {"churn": {"accuracy": 0.8, "f1": 0.6, "auc": 0.8 + index / 100}}
            for index, name in enumerate(BASELINES)
        }


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> StubbedRuns:
    stub = StubbedRuns()
    monkeypatch.setattr(compare, "run_simulation", stub.simulation)
    monkeypatch.setattr(compare, "baselines", stub.baselines)
    monkeypatch.setattr(compare, "consortium_of", lambda _: None)
    return stub


def run(out: Path, *methods: str, more: tuple[str, ...] = ()) -> Any:
    """Compare on five small enterprises; return what the command printed, as JSON."""
    named = [word for method in methods for word in ("--method", method)]
    small = ["--enterprises", "5", "--rounds", "4", "--set", "simulator.customers=60"]
    command = ["compare", *small, *named, "--out", str(out), "--format", "json", *more]
    result = CliRunner().invoke(app, command)
    printed = json.loads(result.stdout)
    assert printed["status"] == ("ok" if result.exit_code == 0 else "failed"), result.output
    return printed


def test_every_method_is_a_configuration() -> None:
    assert set(DEFAULT) <= set(METHODS)
    for name, settings in METHODS.items():
        flat = flatten(unflatten(settings))
        for key, value in settings.items():
            assert flat[key] == value, name


def test_the_private_method_is_the_example_of_the_documents_but_for_its_rounds() -> None:
    example = read_toml(DOCS / "private.toml")
    del example["run.rounds"]
    assert dict(METHODS["private"]) == example


def test_figures_are_means_and_sample_deviations_over_the_seeds(
    runs: StubbedRuns, tmp_path: Path
) -> None:
    result = run(tmp_path, "fedavg", more=("--seeds", "1,2,6"))["result"]
    assert [config.run.seed for config in runs.configs] == [1, 2, 6]
    auc = result["methods"]["fedavg"]["auc"]
    assert auc["mean"] == pytest.approx(0.83)
    assert auc["sd"] == pytest.approx(math.sqrt((0.02**2 + 0.01**2 + 0.03**2) / 2))
    assert (tmp_path / "01-fedavg" / "seed-6" / "run.json").exists()
    assert json.loads((tmp_path / "comparison.json").read_text()) == result


def test_differences_are_taken_seed_by_seed(runs: StubbedRuns, tmp_path: Path) -> None:
    figures = run(tmp_path, "fedavg", "fedsgd", more=("--seeds", "3"))["result"]["methods"]
    apart = figures["fedsgd"]["differences"]["auc"]
    assert apart["mean"] == pytest.approx(-0.05)
    # The seeds' own spread, .01, is in both and leaves the difference.
    assert apart["half_width"] == pytest.approx(0, abs=1e-9)
    assert figures["fedsgd"]["auc"]["sd"] == pytest.approx(0.01)


def test_the_interval_of_a_difference_is_students() -> None:
    mine = [MethodRun(seed, {"auc": 0.8 + seed / 100}) for seed in (0, 1, 2)]
    other = [MethodRun(seed, {"auc": 0.8}) for seed in (0, 1, 2)]
    apart = summary(mine, other)["differences"]["auc"]
    assert apart["mean"] == pytest.approx(0.01)
    assert apart["half_width"] == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)
    one = summary(mine[:1], other[:1])["differences"]["auc"]
    assert (one["mean"], one["half_width"]) == (pytest.approx(0), None)


def test_a_figure_that_is_undefined_on_a_seed_is_left_out() -> None:
    assert spread([0.5, None, math.nan, 0.7])["mean"] == pytest.approx(0.6)
    assert spread([None]) == {"mean": None, "sd": None}


def test_a_received_model_counts_for_the_rounds_before_it(
    runs: StubbedRuns, tmp_path: Path
) -> None:
    (only,) = run(tmp_path, "fedavg", more=("--seeds", "0,"))["result"]["methods"]["fedavg"]["runs"]
    # Of the final AUC: round 2 received .975, 3 .9889, 4 .99375, which is 3 rounds' model.
    assert [rounds for rounds, _ in only["validation_auc"]] == [1, 2, 3, 4]
    assert only["rounds_to_99_percent"] == 3
    assert MethodRun(0, {}, validation_auc=((1, 0.5), (2, 0.8))).rounds_to_near_final == 2


def test_equal_exchanges_give_the_cheaper_method_more_rounds(
    runs: StubbedRuns, tmp_path: Path
) -> None:
    more = ("--seeds", "2", "--equal", "exchanges")
    figures = run(tmp_path, "fedavg", "fedsgd", "alone", more=more)["result"]["methods"]
    # fedsgd has 16 + 8, fedavg 7 + 8: four more rounds of two exchanges fit, not five.
    asked = [(one.training.algorithm, one.run.seed, one.run.rounds) for one in runs.configs]
    assert asked == [
        ("fedavg", 0, 4),
        ("fedsgd", 0, 4),
        ("fedavg", 0, 8),
        ("fedavg", 1, 8),
        ("fedsgd", 1, 4),
    ]
    assert (figures["fedavg"]["rounds"], figures["fedavg"]["exchanges"]) == (8, 23)
    assert (figures["fedsgd"]["rounds"], figures["fedsgd"]["exchanges"]) == (4, 24)
    assert figures["alone"]["rounds"] is None


def test_baselines_are_computed_once_a_seed_for_the_same_settings(
    runs: StubbedRuns, tmp_path: Path
) -> None:
    balanced = "centralized training.class_weighting=balanced"
    figures = run(tmp_path, *BASELINES, balanced, more=("--seeds", "2"))["result"]["methods"]
    weightings = [config.training.class_weighting for config in runs.bounded]
    assert weightings == ["none", "balanced"] * 2
    assert [figures[name]["auc"]["mean"] for name in BASELINES] == pytest.approx([0.8, 0.81, 0.82])
    assert figures["alone"]["exchanges"] is None


def test_a_private_method_is_compared_by_exact_figures_and_keeps_the_released(
    runs: StubbedRuns, tmp_path: Path
) -> None:
    printed = run(tmp_path, "private", "private privacy.epsilon=3", more=("--seeds", "0,"))
    first, second = printed["result"]["methods"].values()
    assert first["auc"]["mean"] == pytest.approx(0.75)
    assert first["runs"][0]["released"] == {"auc": 0.6}
    # What a private run counts of validation rows is noisy: nothing is read from it.
    assert first["runs"][0]["validation_auc"] == []
    assert first["rounds_to_99_percent"]["mean"] is None
    assert (first["epsilon"], second["epsilon"]) == (1.0, 3.0)


def test_one_method_may_have_settings_of_its_own_over_the_common_ones(
    runs: StubbedRuns, tmp_path: Path
) -> None:
    run(tmp_path, "fedprox training.proximal_mu=0.5 run.rounds=3", more=("--seeds", "0,"))
    (config,) = runs.configs
    assert (config.training.proximal_mu, config.run.rounds) == (0.5, 3)


def test_a_warning_says_of_which_methods_and_seeds_it_is(
    runs: StubbedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(_: object, metrics: Any) -> list[str]:
        return ["always"] + (["once"] if metrics["federated"]["auc"] > 0.805 else [])

    monkeypatch.setattr(compare, "cautions", told)
    printed = run(tmp_path, "fedavg", "fedsgd", "fedprox", more=("--seeds", "2"))
    assert printed["warnings"] == ["always", "fedavg, fedprox: once (only on seeds 1)"]


@pytest.mark.parametrize(
    ("method", "more", "code", "words"),
    [
        ("fedawg", (), 10, "did you mean fedavg?"),
        ("magic", (), 10, "known are fedavg"),
        ("fedavg nonsense", (), 10, "section.key=value"),
        ("fedavg training.learning_rat=1", (), 11, "did you mean training.learning_rate?"),
        ("fedavg", ("--method", "fedavg"), 10, "asked for twice"),
        ("fedavg", ("--set", "training.algorithm=fedsgd"), 10, "stands for fedavg"),
        ("fedavg", ("--set", "run.seed=3"), 10, "--seeds"),
        ("fedavg", ("--seeds", "some"), 10, "--seeds"),
        ("fedavg", ("--seeds", "0"), 10, "at least one seed"),
        ("fedavg", ("--seeds", "1,1"), 10, "none of them twice"),
        ("private privacy.delta=0.5", (), 50, "method private privacy.delta=0.5: "),
        ("fedavg", ("--set", "privacy.epsilon=1.0"), 10, "privacy.unit = none"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(
    runs: StubbedRuns, tmp_path: Path, method: str, more: tuple[str, ...], code: int, words: str
) -> None:
    printed = run(tmp_path / "out", "fedsgd", method, more=more)
    assert printed["error"]["exit_code"] == code
    assert words in printed["error"]["message"]
    assert runs.configs == []
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_ends_the_comparison_with_its_error_and_no_figures(
    runs: StubbedRuns, tmp_path: Path
) -> None:
    runs.fault = RunFailedError("the training loss is not finite")
    printed = run(tmp_path, "fedavg", "fedsgd")
    assert printed["error"] == {
        "exit_code": 40,
        "message": "method fedavg: the training loss is not finite",
    }
    assert len(runs.configs) == 1
    assert not (tmp_path / "comparison.json").exists()


def test_seeds_are_the_first_so_many_or_those_listed() -> None:
    assert seeds_of("3") == (0, 1, 2)
    assert seeds_of("3,") == (3,)
    assert seeds_of("7, 2") == (7, 2)
    for wrong in ("", ",", "-1", "1,,2", "٣"):
        with pytest.raises(ConfigurationError):
            seeds_of(wrong)


def test_the_table_fits_110_columns_with_whole_names_and_large_figures() -> None:
    dear = [
        MethodRun(
            seed,
            {"accuracy": 0.8 + seed / 9, "f1": 0.5 + seed / 9, "auc": 0.7 + seed / 9},
            validation_auc=((150 + seed, 0.8),),
            rounds=1000,
            exchanges=2345,
            bytes_up=123e6,
            bytes_down=456e6,
            seconds=3600.0,
            epsilon=0.125,
        )
        for seed in (0, 1)
    ]
    labels = [*(method.label for method in methods_of(list(METHODS))), "fedavg run.rounds=3"]
    result = {
        "target": "churn",
        "seeds": [0, 1],
        "equal": "exchanges",
        "reference": labels[0],
        "methods": {label: summary(dear, dear[::-1]) for label in labels},
        "directory": "out",
    }
    printed = io.StringIO()
    print_comparison(result, ["first: [x] is told"], Console(file=printed))
    lines = printed.getvalue().splitlines()
    assert max(map(len, lines)) <= 110
    for label in METHODS:
        line = next(one for one in lines if re.match(rf"{re.escape(label)} +\.8556±\.0786 ", one))
        assert "…" not in line
        assert "2345" in line
        assert "1000 150.5 2345 123 456 3600 .125" in re.sub(r" +", " ", line)
    assert "run.rounds=3" in printed.getvalue()
    assert "first: [x] is told" in printed.getvalue()


def test_the_json_has_the_names_that_the_page_on_commands_states(
    runs: StubbedRuns, tmp_path: Path
) -> None:
    section = (DOCS / "cli.md").read_text(encoding="utf-8").split("## `fgcif compare`")[1]
    section = section.split("\n## ")[0]
    block = re.search(r"```json\n(.*?)```", section, re.DOTALL)
    assert block is not None
    stated = json.loads(block[1])["result"]
    result = run(tmp_path, "fedavg")["result"]
    assert set(stated) == set(result)
    (figures,), found = stated["methods"].values(), result["methods"]["fedavg"]
    assert set(figures) == set(found)
    for name in ("accuracy", "rounds_to_99_percent"):
        assert set(figures[name]) == set(found[name])
    assert set(figures["differences"]["auc"]) == set(found["differences"]["auc"])
    assert set(figures["runs"][0]) == set(found["runs"][0])
    named = re.findall(r"^\| `([\w+-]+)` \|", section.split("### Methods")[1], re.MULTILINE)
    assert named == list(METHODS)


def test_a_real_federation_stands_beside_its_baselines(tmp_path: Path) -> None:
    more = ("--seeds", "1,", "--rounds", "2", "--set", "simulator.customers=100")
    printed = run(tmp_path, "fedavg", *BASELINES, more=more)
    figures = printed["result"]["methods"]
    assert printed["result"]["target"] == "churn"
    for name in ("fedavg", *BASELINES):
        assert 0 < figures[name]["auc"]["mean"] < 1
    # identify, join, advertise; statistics, two rounds and the evaluation at two exchanges each
    assert figures["fedavg"]["exchanges"] == 3 + 2 * (1 + 2 + 1)
    only = figures["fedavg"]["runs"][0]
    assert [rounds for rounds, _ in only["validation_auc"]] == [1, 2]
    assert only["bytes_up"] > 0
    assert Path(only["directory"], "model.safetensors").exists()
