"""Noise from the cryptographic generator beside numpy's own: `python -m benchmarks.noise`.

For each variance, the milliseconds that a million Skellam values take on one core with ChaCha20,
with Philox and with PCG64, the best and the median of several, and how many times numpy's the
first is. Promised: at most 150 ms. Variances from 10 to 30 take longer, up to three times as long;
at a noise multiplier of 1 a share is as small only among tens of thousands of enterprises.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from fgcif_flwr.privacy.noise import cryptographic_generator, skellam

Row = dict[str, float | int]

VARIANCES = (100.0, 1e5, 1e7)
PROMISED_MS = 150.0
"""For a million values, at the default variances."""


def generators() -> dict[str, np.random.Generator]:
    """Ours, and those that it is held against."""
    return {
        "chacha20": cryptographic_generator(),
        "philox": np.random.Generator(np.random.Philox()),
        "pcg64": np.random.Generator(np.random.PCG64()),
    }


def measure(size: int, variance: float, repetitions: int) -> Row:
    """Time one variance, generators in turn, after a draw of each that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in generators()}
    for repetition in range(repetitions + 1):
        for name, generator in generators().items():
            started = time.perf_counter()
            skellam(size, variance, generator)
            if repetition:
                times[name].append(1e3 * (time.perf_counter() - started))
    row: Row = {"size": size, "variance": variance}
    for name, taken in times.items():
        row |= {f"{name}_best_ms": min(taken), f"{name}_median_ms": statistics.median(taken)}
    for name in ("philox", "pcg64"):
        row[f"over_{name}"] = row["chacha20_median_ms"] / row[f"{name}_median_ms"]
    return row


def main() -> None:
    """Print a row a variance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1_000_000, help="values (default: 1,000,000)")
    parser.add_argument(
        "--variance",
        type=float,
        action="append",
        help="of one value (default: 100, 1e5 and 1e7); may be repeated",
    )
    parser.add_argument("--repetitions", type=int, default=9, help="counted draws (default: 9)")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    asked = parser.parse_args()
    if asked.size < 1 or asked.repetitions < 1:
        parser.error("--size and --repetitions are at least 1")
    rows = []
    if asked.format == "text":
        print(
            f"{'values':>9} {'variance':>9}  {'chacha20 ms':>15} {'philox ms':>15} {'pcg64 ms':>15}"
            f"  {'/philox':>7} {'/pcg64':>7}"
        )
    for variance in asked.variance or VARIANCES:
        try:
            rows.append(measure(asked.size, variance, asked.repetitions))
        except ValueError as error:
            parser.error(f"--variance {variance:g}: {error}")
        if asked.format == "text":
            print(line(rows[-1]), flush=True)
    if asked.format == "json":
        print(json.dumps(rows, indent=2))
    else:
        print(
            "Each the best / the median. Ratios are of medians. "
            f"Promised for 1,000,000 values: at most {PROMISED_MS:.0f} ms."
        )


def line(row: Row) -> str:
    """One variance as a line of text."""
    text = f"{row['size']:>9} {row['variance']:>9g} "
    for name in generators():
        both = f"{row[f'{name}_best_ms']:.1f} / {row[f'{name}_median_ms']:.1f}"
        text += f" {both:>15}"
    return f"{text}  {row['over_philox']:>7.2f} {row['over_pcg64']:>7.2f}"


if __name__ == "__main__":
    main()
