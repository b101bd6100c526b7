"""From an online shop's purchases to a federation: `python -m benchmarks.online_retail`.

Features are derived from the lines of UCI's Online Retail (found by FGCIF_DATA) by the schema
``online-retail-records``; customers are divided among ten enterprises by the month of their first
purchase, so that enterprises differ in who has churned. Printed are, over seeds, the federation's
figures beside the centralized ones.
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

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from fgcif_flwr.cli.run_options import resolve
from fgcif_flwr.cli.simulate import Engine, run_simulation
from fgcif_flwr.data.crm.features import build_features
from fgcif_flwr.data.schema import load_schema

DATA = Path(os.environ.get("FGCIF_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
LINES = DATA / "online_retail" / "online_retail.parquet"
SPLIT = DATA / "splits" / "online_retail_10.csv.gz"
SCHEMA = "online-retail-records"
SETTINGS = {
    "model.hidden": "16",
    "training.local_epochs": "1",
    "training.average_last": "0.5",
}
_VIEW = """
CREATE VIEW transactions AS
SELECT CAST(CustomerID AS VARCHAR) AS customer, InvoiceDate AS time,
    Quantity * UnitPrice AS amount, NULL::VARCHAR AS category, NULL::VARCHAR AS channel,
    StockCode AS product, InvoiceNo AS invoice, Country AS country, Quantity < 0 AS returned,
    NULL::BOOLEAN AS discounted
FROM lines WHERE CustomerID IS NOT NULL
"""


def customers_of(lines: Path) -> pa.Table:
    """Return the table of customers at the schema's cut-off, from a Parquet file of lines."""
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.register("lines", pq.read_table(lines))
        connection.execute(_VIEW)
        return build_features(connection, load_schema(SCHEMA))


def measure(table: Path, seed: int, rounds: int, settings: dict[str, str]) -> dict:
    """Run one federation with its baselines and return the figures of churn."""
    asked: dict[str, object] = {
        "data.table": str(table),
        "data.schema": SCHEMA,
        "data.partition": f"file:{SPLIT}",
        "run.seed": seed,
        "run.rounds": rounds,
        **settings,
    }
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        config, _ = resolve(asked, Path(out))
        result = run_simulation(config, Engine.INLINE)
    return {
        "seed": seed,
        "seconds": time.perf_counter() - started,
        **{
            name: result["metrics"][name]
            for name in ("federated", "logistic_regression", "centralized", "alone")
        },
    }


def main() -> None:
    """Print the table's size, a line for each seed, and means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--format", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    if not LINES.exists():
        raise SystemExit(f"{LINES} is absent; set FGCIF_DATA")
    table = customers_of(LINES)
    churned = sum(word == "yes" for word in table["churn"].to_pylist()) / table.num_rows
    print(f"{table.num_rows:,} customers, {churned:.1%} churned", file=sys.stderr)
    settings = {**SETTINGS, **dict(text.split("=", 1) for text in arguments.settings)}
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "customers.parquet"
        pq.write_table(table, file)
        for seed in range(arguments.seeds):
            rows.append(measure(file, seed, arguments.rounds, settings))
            if arguments.format == "text":
                print(f"seed {seed}: {_line(rows[-1:])}; {rows[-1]['seconds']:.0f} s", flush=True)
    if arguments.format == "json":
        print(json.dumps({"customers": table.num_rows, "churned": churned, "runs": rows}, indent=2))
    else:
        print(f"mean: {_line(rows)}")


def _line(rows: list[dict]) -> str:
    names = {"federated": "federated", "centralized": "centralized"}
    names |= {"logistic_regression": "logistic regression", "alone": "alone"}
    figures = {name: statistics.mean(row[name]["auc"] for row in rows) for name in names}
    gap = figures["federated"] - figures["centralized"]
    text = ", ".join(f"{names[name]} {value:.4f}" for name, value in figures.items())
    return f"AUC {text}; federated less centralized {gap:+.4f}"


if __name__ == "__main__":
    main()
