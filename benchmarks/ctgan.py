"""A CTGAN of public tables: `python -m benchmarks.ctgan`.

For each table, the area under the ROC curve on real test rows of models trained on the real rows,
on rows of SMOTE, and on rows of a CTGAN, as many each: logistic regression, and gradient boosting
(train on synthetic, test on real). Then the seconds of one core that training took, its steps
beside those of CTGAN's reference (300 epochs of rows / 500), and rows sampled in a second. With
several seeds all are means, with the AUC's standard deviation over seeds.

Promised: an AUC of CTGAN's rows within 0.05 of the real rows', and 200,000 rows in a second.
The tables are read from FGCIF_DATA (docs/data.md); seeds are those of the split and of the
training.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from fgcif_flwr.cli.run_options import resolve
from fgcif_flwr.data.consortium import Consortium, load_consortium
from fgcif_flwr.data.encoding import EncodedTable
from fgcif_flwr.generative.ctgan import CtganSettings, fit_ctgan
from fgcif_flwr.generative.fidelity.utility import utility
from fgcif_flwr.generative.smote import Smote

Row = dict[str, float | int | str]

TABLES = {
    "telco": ("telco_ibm/Telco-Customer-Churn.csv", "telco"),
    "bank-marketing": ("bank_marketing/bank-full.csv", "bank-marketing"),
}
"""Path under FGCIF_DATA, and schema."""

MODELS = ("linear", "gradient boosting")
REFERENCE_EPOCHS, REFERENCE_BATCH = 300, 500
SAMPLED = 200_000
"""Rows that are sampled for the time it takes."""

_DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def consortium(name: str, seed: int) -> Consortium:
    """Read a table and split it as a run of that seed does."""
    path, schema = TABLES[name]
    options = {
        "data.table": str(Path(os.environ.get("FGCIF_DATA", _DEFAULT_DATA)) / path),
        "data.schema": schema,
        "data.partition": "iid",
        "run.seed": seed,
    }
    with tempfile.TemporaryDirectory() as nowhere:
        config, _ = resolve(options, Path(nowhere))
    return load_consortium(config)


def measure(name: str, seed: int, rows: int | None, settings: CtganSettings) -> Row:
    """Train and sample once; ``rows`` cuts the training rows."""
    read = consortium(name, seed)
    train, test = read.pooled("train"), read.pooled("test")
    if rows is not None:
        train = train.take(np.arange(min(rows, len(train))))
    started = time.process_time()
    generator = fit_ctgan(read.layout, train, settings, seed)
    trained = time.process_time()
    generator.sample(SAMPLED, np.random.default_rng(seed))
    sampled = time.process_time()
    assert generator.diagnostics is not None
    row: Row = {
        "table": name,
        "seed": seed,
        "rows": len(train),
        "train_seconds": trained - started,
        "steps": generator.diagnostics.checks[-1].step,
        "reference_steps": REFERENCE_EPOCHS * math.ceil(len(train) / REFERENCE_BATCH),
        "rows_per_second": SAMPLED / (sampled - trained),
        "coverage": generator.diagnostics.checks[-1].coverage,
        "divergence": generator.diagnostics.divergence or "none",
    }
    random = np.random.default_rng(seed)
    made: dict[str, EncodedTable] = {
        "smote": Smote(read.layout, train).sample(len(train), random),
        "ctgan": generator.sample(len(train), random),
    }
    for kind, table in made.items():
        for one in utility(read.layout, train, table, test, seed):
            row[f"{one.model} {kind}"] = one.synthetic["auc"]
            row[f"{one.model} real"] = one.real["auc"]
    return row


def mean(rows: list[Row], column: str) -> float:
    """Mean of a column over seeds."""
    return statistics.fmean(float(row[column]) for row in rows)


def spread(rows: list[Row], column: str) -> float:
    """Standard deviation of a column over seeds; 0 of one."""
    return statistics.stdev(float(row[column]) for row in rows) if len(rows) > 1 else 0.0


def lines(rows: list[Row]) -> str:
    """One table's seeds as text."""
    text = [
        f"{rows[0]['table']}, {rows[0]['rows']} rows, {len(rows)} seeds: trained in "
        f"{mean(rows, 'train_seconds'):.0f} s, {mean(rows, 'steps'):.0f} steps "
        f"(reference {rows[0]['reference_steps']}), coverage {mean(rows, 'coverage'):.3f}, "
        f"{mean(rows, 'rows_per_second'):,.0f} rows/s"
    ]
    for model in MODELS:
        real, smote, ctgan = (f"{model} {kind}" for kind in ("real", "smote", "ctgan"))
        text.append(
            f"  {model:<18} real {mean(rows, real):.4f}  "
            f"smote {mean(rows, smote):.4f} ± {spread(rows, smote):.4f}  "
            f"ctgan {mean(rows, ctgan):.4f} ± {spread(rows, ctgan):.4f} "
            f"({mean(rows, ctgan) - mean(rows, real):+.4f})"
        )
    return "\n".join(text)


def main() -> None:
    """Print each table's figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="append", choices=TABLES, help="may be repeated")
    parser.add_argument("--seeds", type=int, default=3, help="0 to this, less one (default: 3)")
    parser.add_argument("--steps", type=int, default=CtganSettings.steps)
    parser.add_argument("--rows", type=int, help="training rows at most (default: all)")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    asked = parser.parse_args()
    if asked.seeds < 1 or asked.steps < 1 or (asked.rows is not None and asked.rows < 1):
        parser.error("--seeds, --steps and --rows are at least 1")
    torch.set_num_threads(1)
    settings = CtganSettings(steps=asked.steps)
    results: list[Row] = []
    for name in asked.table or TABLES:
        rows = [measure(name, seed, asked.rows, settings) for seed in range(asked.seeds)]
        results += rows
        if asked.format == "text":
            print(lines(rows), flush=True)
    if asked.format == "json":
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
