"""Features of records at scale, beside the same in plain pandas: `python -m benchmarks.features`.

Records are generated to Parquet in TMPDIR by a seed. Each way runs in a process of its own, whose
time and peak memory (VmHWM, all of Python included) are printed; the two tables are then compared.
pandas is no dependency of the project: without it only the project's own way runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fgcif_flwr.data.crm.features import build_features
from fgcif_flwr.data.schema import Schema, load_schema

CATEGORIES = ("basics", "comfort", "family", "travel", "technology", "services")
SHOP_CHANNELS = ("web", "app", "store", "phone")
SERVICE_CHANNELS = ("email", "phone", "chat", "store")
DAYS = 640
CHUNK = 1_000_000
END = np.datetime64("2025-01-01", "s")
WORDS = [
    "the",
    "my",
    "order",
    "parcel",
    "invoice",
    "delivery",
    "was",
    "late",
    "early",
    "good",
    "bad",
    "great",
    "terrible",
    "happy",
    "angry",
    "not",
    "very",
    "really",
    "refund",
    "account",
    "login",
    "payment",
    "quality",
    "broken",
    "perfect",
    "friendly",
    "slow",
    "quick",
    "again",
    "please",
    "help",
    "thanks",
    "problem",
    "never",
    "always",
    "contract",
    "price",
    "offer",
    "agent",
    "waiting",
    "days",
    "week",
    "but",
]

VIEWS = {
    "transactions": "category, channel, product, invoice, NULL::VARCHAR AS country, returned, "
    "discounted",
    "events": "kind, NULL::VARCHAR AS session, pages, dwell_seconds, clicked",
    "interactions": "closed, channel, NULL::VARCHAR AS topic, text, NULL::DOUBLE AS sentiment, "
    "satisfaction, NULL::DOUBLE AS open_hours",
}


def generate(folder: Path, sizes: dict[str, int], customers: int, seed: int) -> None:
    """Write the three components, in chunks, so that generating needs little memory."""
    for place, (component, rows) in enumerate(sizes.items()):
        writer = None
        for start in range(0, rows, CHUNK):
            rng = np.random.default_rng([seed, place, start])
            part = _rows(component, rng, min(CHUNK, rows - start), customers)
            writer = writer or pq.ParquetWriter(folder / f"{component}.parquet", part.schema)
            writer.write_table(part)
        if writer is not None:
            writer.close()


def _rows(component: str, rng: np.random.Generator, rows: int, customers: int) -> pa.Table:
    # Some customers are far more active than most, as everywhere.
    who = np.minimum((customers * rng.random(rows) ** 2).astype(np.int64), customers - 1)
    seconds = rng.integers(0, DAYS * 86_400, rows).astype("timedelta64[s]")
    at = (END - seconds).astype("datetime64[us]")
    columns: dict[str, object] = {
        "customer": pa.array(np.char.add("C", who.astype("U9"))),
        "time": pa.array(at),
    }

    def words(values: tuple[str, ...], shares: np.ndarray | None = None) -> pa.Array:
        codes = rng.choice(len(values), rows, p=shares)
        return pa.array(np.array(values, dtype=object)[codes])

    if component == "transactions":
        # About three lines an invoice: those of a customer on one day.
        day = at.astype("datetime64[W]").astype(np.int64)
        columns |= {
            "amount": np.round(rng.lognormal(3, 1, rows), 2),
            "category": words(CATEGORIES),
            "channel": words(SHOP_CHANNELS),
            "product": pa.array(np.char.add("P", rng.integers(0, 20_000, rows).astype("U5"))),
            "invoice": pa.array(np.char.add(np.char.add(who.astype("U9"), "-"), day.astype("U6"))),
            "returned": rng.random(rows) < 0.04,
            "discounted": rng.random(rows) < 0.2,
        }
    elif component == "events":
        kind = rng.choice(3, rows, p=[0.7, 0.2, 0.1])
        columns |= {
            "kind": pa.array(np.array(["view", "session", "campaign"], dtype=object)[kind]),
            "pages": pa.array(rng.integers(1, 20, rows).astype(float), mask=kind != 1),
            "dwell_seconds": pa.array(rng.integers(1, 900, rows).astype(float), mask=kind == 2),
            "clicked": pa.array(rng.random(rows) < 0.1, mask=kind != 2),
        }
    else:
        lengths = rng.integers(8, 25, rows)
        drawn = np.array(WORDS, dtype=object)[rng.integers(0, len(WORDS), int(lengths.sum()))]
        texts = [" ".join(part) for part in np.split(drawn, np.cumsum(lengths)[:-1])]
        columns |= {
            "closed": pa.array(at + rng.integers(0, 400_000, rows).astype("timedelta64[s]")),
            "channel": words(SERVICE_CHANNELS),
            "text": pa.array(texts),
            "satisfaction": rng.integers(1, 6, rows).astype(float),
        }
    return pa.table(columns)


def own(folder: Path, threads: int, memory: str) -> pa.Table:
    """Build by the project's way, within a limit of DuckDB's memory."""
    settings = {"threads": threads, "memory_limit": memory, "temp_directory": str(folder / "tmp")}
    with duckdb.connect(":memory:", config=settings) as connection:
        for component, columns in VIEWS.items():
            amount = "amount, " if component == "transactions" else ""
            connection.execute(
                f"CREATE VIEW {component} AS SELECT customer, time, {amount}{columns} "
                f"FROM '{folder / component}.parquet'"
            )
        return build_features(connection, schema())


def schema() -> Schema:
    """Return the built-in schema of CRM records."""
    return load_schema("crm")


def in_child(way: str, folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Run one way in a process of its own and return its figures."""
    command = [sys.executable, "-m", "benchmarks.features", "--way", way, "--folder", str(folder)]
    command += ["--threads", str(arguments.threads), "--memory", arguments.memory]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_way(way: str, folder: Path, threads: int, memory: str) -> dict[str, object]:
    """Build the table here, write it down and return time and peak memory."""
    started = time.perf_counter()
    if way == "pandas":
        from benchmarks.features_pandas import build

        table = build(folder, schema())
    else:
        table = own(folder, threads, memory)
    seconds = time.perf_counter() - started
    pq.write_table(table, folder / f"{way}.table.parquet")
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    gib = int(peak.split()[1]) / 2**20
    return {"way": way, "seconds": seconds, "peak_gib": gib, "customers": table.num_rows}


def largest_difference(folder: Path) -> tuple[str, float]:
    """Compare the two tables: the column that differs most, relatively, and by how much."""
    ours, theirs = (pq.read_table(folder / f"{way}.table.parquet") for way in ("own", "pandas"))
    worst = ("", 0.0)
    for name in ours.column_names:
        mine, other = ours[name].to_pylist(), theirs[name].to_pylist()
        if any((a is None) != (b is None) for a, b in zip(mine, other, strict=True)):
            return name, float("inf")
        for a, b in zip(mine, other, strict=True):
            if isinstance(a, str):
                gap = float(a != b)
            else:
                gap = 0.0 if a is None else abs(a - b) / max(1.0, abs(b))
            if gap > worst[1]:
                worst = name, gap
    return worst


def main() -> None:
    """Print a line for each way, and how far the tables differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transactions", type=int, default=10_000_000)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--interactions", type=int, default=200_000)
    parser.add_argument("--customers", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", default="1600MB", help="DuckDB's memory_limit")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    parser.add_argument("--without-pandas", action="store_true")
    parser.add_argument("--way", choices=["own", "pandas"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        result = run_way(arguments.way, arguments.folder, arguments.threads, arguments.memory)
        print(json.dumps(result))
        return
    sizes = {name: getattr(arguments, name) for name in VIEWS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        generate(folder, sizes, arguments.customers, arguments.seed)
        rows = [in_child("own", folder, arguments)]
        if arguments.without_pandas or importlib.util.find_spec("pandas") is None:
            print("pandas is left out", file=sys.stderr)
        else:
            rows.append(in_child("pandas", folder, arguments))
            rows[-1]["largest_difference"] = largest_difference(folder)
    if arguments.format == "json":
        print(json.dumps({"sizes": sizes, "ways": rows}, indent=2))
        return
    print(", ".join(f"{count:,} {name}" for name, count in sizes.items()))
    for row in rows:
        print(
            f"{row['way']:7} {row['seconds']:7.1f} s {row['peak_gib']:6.2f} GiB at most, "
            f"{row['customers']:,} customers"
        )
    if "largest_difference" in rows[-1]:
        print("largest relative difference: {1:.1e} ({0})".format(*rows[-1]["largest_difference"]))


if __name__ == "__main__":
    main()
