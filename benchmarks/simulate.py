"""Federations on public tables beside centralized models: `python -m benchmarks.simulate`.

For each table, over seeds, the federation's figures on its test rows, the centralized logistic
regression's, the pooled network's, and the time. Tables are found by FGCIF_DATA; those that are
absent are left out with a word.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from fgcif_flwr.cli.run_options import resolve
from fgcif_flwr.cli.simulate import Engine, run_simulation

DATA = Path(os.environ.get("FGCIF_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

CASES = {
    "telco": ("telco_ibm/Telco-Customer-Churn.csv", "telco", "iid", 50),
    "mlc-churn": ("mlc_churn/mlc_churn.csv", "mlc-churn", "splits/mlc_50.csv.gz", None),
    "bank-marketing": (
        "bank_marketing/bank-full.csv",
        "bank-marketing",
        "splits/bank_marketing_50.csv.gz",
        None,
    ),
}


def measure(case: str, engine: Engine, seed: int, rounds: int, settings: list[str]) -> dict:
    """Run one federation with its baselines and return one row of figures."""
    table, schema, partition, enterprises = CASES[case]
    asked: dict[str, object] = {
        "data.table": str(DATA / table),
        "data.schema": schema,
        "data.partition": partition if partition == "iid" else f"file:{DATA / partition}",
        "run.seed": seed,
        "run.rounds": rounds,
    }
    if enterprises is not None:
        asked["run.enterprises"] = enterprises
    asked.update(setting.split("=", 1) for setting in settings)
    with tempfile.TemporaryDirectory() as out:
        config, _ = resolve(asked, Path(out))
        started = time.perf_counter()
        result = run_simulation(config, engine)
        seconds = time.perf_counter() - started
    metrics = result["metrics"]
    return {
        "case": case,
        "engine": engine.value,
        "seed": seed,
        "enterprises": config.run.enterprises,
        "federated": metrics["federated"],
        "logistic_regression": metrics["logistic_regression"],
        "centralized": metrics["centralized"],
        "alone": metrics["alone"],
        "bytes_up": result["communication"]["bytes_up"],
        "bytes_down": result["communication"]["bytes_down"],
        "seconds": seconds,
        "model_sha256": result["model_sha256"],
    }


def main() -> None:
    """Print a row a run, and means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--engine", choices=[e.value for e in Engine], default="inline")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--format", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    rows = []
    for case in arguments.case or CASES:
        if not (DATA / CASES[case][0]).exists():
            print(f"{case}: {DATA / CASES[case][0]} is absent; set FGCIF_DATA", file=sys.stderr)
            continue
        for seed in range(arguments.seeds):
            engine = Engine(arguments.engine)
            rows.append(measure(case, engine, seed, arguments.rounds, arguments.settings))
            if arguments.format == "text":
                print(line(rows[-1]), flush=True)
        if arguments.format == "text":
            print(summary(case, [row for row in rows if row["case"] == case]), flush=True)
    if arguments.format == "json":
        print(json.dumps(rows, indent=2))


def line(row: dict) -> str:
    """One run as a line of text."""
    aucs = ", ".join(
        f"{label} {row[name]['auc']:.4f}"
        for name, label in (
            ("federated", "federated"),
            ("logistic_regression", "logistic"),
            ("centralized", "centralized"),
            ("alone", "alone"),
        )
    )
    return (
        f"{row['case']:15} seed {row['seed']} {row['engine']}: AUC {aucs}; federated accuracy "
        f"{row['federated']['accuracy']:.4f} F1 {row['federated']['f1']:.4f}; "
        f"{row['seconds']:.1f} s; {row['model_sha256'][:12]}"
    )


def summary(case: str, rows: list[dict]) -> str:
    """Means over seeds, and the distance from the logistic regression."""

    def mean(name: str) -> float:
        return statistics.mean(row[name]["auc"] for row in rows)

    return (
        f"{case:15} mean over {len(rows)} seeds: federated {mean('federated'):.4f}, logistic "
        f"{mean('logistic_regression'):.4f} (difference "
        f"{mean('federated') - mean('logistic_regression'):+.4f}), centralized "
        f"{mean('centralized'):.4f}, alone {mean('alone'):.4f}"
    )


if __name__ == "__main__":
    main()
