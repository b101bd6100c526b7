"""Federations under differential privacy, beside none: `python -m benchmarks.privacy`.

For each table and division, over seeds: the federation without a privacy unit (default settings and
its bounds), with customers' noise shared (docs/private.toml) at two epsilons, and with each
enterprise's own whole noise. Test figures are exact, which only a simulation can tell; those that
the run itself released with noise stand beside them. Tables are found by FGCIF_DATA; those that are
absent are left out with a word.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.simulate import CASES, DATA
from fgcif_flwr.cli.run_options import resolve
from fgcif_flwr.cli.simulate import Engine, run_simulation
from fgcif_flwr.config import read_toml

SHARED = Path(__file__).resolve().parents[1] / "docs" / "private.toml"
# DP-SGD inside each enterprise, one full-batch step a round: with few rows sampling gains little
LOCAL = {
    "run.rounds": 20,
    "training.algorithm": "fedavg",
    "training.server_learning_rate": 1.0,
    "training.optimizer": "sgd",
    "training.learning_rate": 0.5,
    "training.local_epochs": 1,
    "privacy.noise": "local",
}

KINDS: dict[str, dict[str, object]] = {
    "none": {},
    "distributed 1.0": {"privacy.epsilon": 1.0},
    "distributed 0.3": {"privacy.epsilon": 0.3},
    "local 1.0": {**LOCAL, "privacy.epsilon": 1.0},
}


def measure(case: str, partition: str | None, kind: str, seed: int, settings: list[str]) -> dict:
    """Run one federation and return one row of figures."""
    table, schema, own, enterprises = CASES[case]
    partition = partition or own
    asked: dict[str, object] = {} if kind == "none" else dict(read_toml(SHARED))
    asked |= KINDS[kind]
    asked |= {
        "data.table": str(DATA / table),
        "data.schema": schema,
        "data.partition": f"file:{DATA / partition}" if "/" in partition else partition,
        "run.seed": seed,
    }
    if enterprises is not None:
        asked["run.enterprises"] = enterprises
    if kind != "none":
        asked.update(setting.split("=", 1) for setting in settings)
    with tempfile.TemporaryDirectory() as out:
        config, _ = resolve(asked, Path(out))
        started = time.perf_counter()
        result = run_simulation(config, Engine.INLINE, with_baselines=kind == "none")
        seconds = time.perf_counter() - started
    return {
        "case": case,
        "partition": partition,
        "kind": kind,
        "seed": seed,
        "enterprises": config.run.enterprises,
        "rounds": config.run.rounds,
        "epsilon": result["privacy"]["epsilon"],
        "delta": result["privacy"]["delta"],
        "metrics": result["metrics"],
        "bytes_up": result["communication"]["bytes_up"],
        "seconds": seconds,
    }


def line(rows: list[dict]) -> str:
    """Means over seeds as a line of text."""

    def mean(who: str, what: str) -> str:
        values = [row["metrics"][who][what] for row in rows if who in row["metrics"]]
        return f"{statistics.mean(values):.4f}" if values else "  -   "

    first = rows[0]
    return (
        f"{first['case']:15} {first['partition']:28} {first['kind']:16} "
        f"AUC {mean('federated', 'auc')} accuracy {mean('federated', 'accuracy')} "
        f"F1 {mean('federated', 'f1')}; as released AUC {mean('released', 'auc')} accuracy "
        f"{mean('released', 'accuracy')}; logistic {mean('logistic_regression', 'auc')}; "
        f"epsilon {first['epsilon'] or 0:.4g}; {len(rows)} seeds, "
        f"{statistics.mean(row['seconds'] for row in rows):.0f} s each"
    )


def main() -> None:
    """Print a line a table, division and kind of privacy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--partition", action="append", help="default: the case's own")
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--format", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    everything = []
    for case in arguments.case or CASES:
        if not (DATA / CASES[case][0]).exists():
            print(f"{case}: {DATA / CASES[case][0]} is absent; set FGCIF_DATA", file=sys.stderr)
            continue
        for partition in arguments.partition or [None]:
            for kind in arguments.kind or KINDS:
                rows = [
                    measure(case, partition, kind, seed, arguments.settings)
                    for seed in range(arguments.seeds)
                ]
                everything += rows
                if arguments.format == "text":
                    print(line(rows), flush=True)
    if arguments.format == "json":
        print(json.dumps(everything, indent=2))


if __name__ == "__main__":
    main()
