"""How well models of marginals' synthetic rows predict: `python -m benchmarks.marginals`.

For each table and epsilon, over seeds and draws of the noise: the AUC on real test rows of a
logistic regression that was fitted to synthetic rows, less that of one fitted to the real
training rows (mean and 95 % interval of the mean over seeds), the seconds of the fit, and the rows
sampled in a second. Noise is Gaussian, of the deviation that the three sums have together at the
epsilon and delta 10^-5; with `--price 1.118` it is what noise shared among 50 enterprises, of which
40 are honest, adds up to. Epsilon 0 stands for no noise. Tables are found by FGCIF_DATA; those that
are absent are left out with a word.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import scipy.stats

from benchmarks.simulate import CASES, DATA
from fgcif_flwr.cli.run_options import resolve
from fgcif_flwr.data.consortium import SIMULATED, load_consortium
from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.generative.marginals import MarginalSettings
from fgcif_flwr.generative.marginals.learning import Learner
from fgcif_flwr.generative.marginals.measurements import MEASUREMENTS, blocks, places_of
from fgcif_flwr.models.baselines import logistic_regression
from fgcif_flwr.privacy import accounting
from fgcif_flwr.privacy.noisy_sum import Block, NoisySum

DELTA = 1e-5
ROWS = 20_000
"""Synthetic rows that a model is fitted to."""


@cache
def rows(case: str, seed: int) -> tuple[FeatureLayout, EncodedTable, EncodedTable]:
    """Return the layout, and all enterprises' training and test rows."""
    asked: dict[str, object] = {"run.seed": seed}
    if case != SIMULATED:
        table, schema, partition, enterprises = CASES[case]
        asked |= {
            "data.table": str(DATA / table),
            "data.schema": schema,
            "data.partition": partition if partition == "iid" else f"file:{DATA / partition}",
        }
        if enterprises is not None:
            asked["run.enterprises"] = enterprises
    with tempfile.TemporaryDirectory() as out:
        config, _ = resolve(asked, Path(out))
        consortium = load_consortium(config)
    return consortium.layout, consortium.pooled("train"), consortium.pooled("test")


@cache
def multiplier(epsilon: float, case: str, seed: int, settings: MarginalSettings) -> float:
    """Return the noise multiplier of all three sums together, as the plan of a run computes it."""
    layout = rows(case, seed)[0]
    sums = [
        tuple(Block(name, size, weight) for name, size, weight in blocks(one, layout, settings))
        for one in MEASUREMENTS
    ]

    def curve(multiplier: float) -> accounting.Curve:
        return accounting.compose(
            *(
                NoisySum(own, 4096, multiplier / math.sqrt(share)).curve()
                for own, share in zip(sums, settings.shares, strict=True)
            )
        )

    return accounting.calibrate(curve, epsilon, DELTA)


def learn(
    case: str, epsilon: float, seed: int, draw: int, price: float, settings: MarginalSettings
) -> Learner:
    """Return a learner that was given all three sums under one draw of the noise."""
    layout, train, _ = rows(case, seed)
    random = np.random.default_rng([seed, draw, round(1000 * epsilon)])
    whole = price * multiplier(epsilon, case, seed, settings) if epsilon else 0.0
    learner = Learner(layout, settings)
    for share, measurement in zip(settings.shares, MEASUREMENTS, strict=True):
        wanted = blocks(measurement, layout, settings)
        sums = {name: np.zeros(size) for name, size, _ in wanted}
        for chunk in places_of(measurement, learner.input(measurement), layout, settings, train):
            for name, places in chunk.items():
                sums[name] += np.bincount(places, minlength=len(sums[name]))
        norm = math.sqrt(sum(weight**2 for *_, weight in wanted))
        deviations = {name: whole / math.sqrt(share) * norm / weight for name, _, weight in wanted}
        for name, size, _ in wanted:
            sums[name] += deviations[name] * random.standard_normal(size)
        learner.add(measurement, sums, deviations)
    return learner


def measure(
    case: str, epsilon: float, seed: int, draw: int, price: float, settings: MarginalSettings
) -> dict:
    """Learn, sample, and return one row of figures."""
    layout, train, test = rows(case, seed)
    learner = learn(case, epsilon, seed, draw, price, settings)
    started = time.perf_counter()
    generator = learner.generator()
    fitted = time.perf_counter()
    synthetic = generator.sample(ROWS, np.random.default_rng([seed, draw]))
    sampled = time.perf_counter()
    head = next(head.name for head in layout.heads if head.kind == "binary")
    real = logistic_regression(train, test, layout)[1].metrics[head]["auc"]
    ours = logistic_regression(synthetic, test, layout)[1].metrics[head]["auc"]
    return {
        "case": case,
        "epsilon": epsilon,
        "seed": seed,
        "draw": draw,
        "rows": len(train),
        "real": real,
        "synthetic": ours,
        "fit_seconds": fitted - started,
        "rows_per_second": ROWS / (sampled - fitted),
    }


def summary(figures: list[dict]) -> str:
    """Return one line about one table and epsilon; its interval is Student's, over the seeds."""
    by_seed: dict[int, list[float]] = {}
    for row in figures:
        by_seed.setdefault(row["seed"], []).append(row["synthetic"] - row["real"])
    means = [statistics.mean(gaps) for gaps in by_seed.values()]
    half = math.nan
    if len(means) > 1:
        quantile = scipy.stats.t.ppf(0.975, len(means) - 1)
        half = quantile * statistics.stdev(means) / math.sqrt(len(means))
    return (
        f"{figures[0]['case']:15} eps {figures[0]['epsilon']:4g}  "
        f"gap {statistics.mean(means):+.4f} +- {half:.4f}  "
        f"(real {statistics.mean(row['real'] for row in figures):.4f}, {len(figures)} runs)  "
        f"fit {statistics.median(row['fit_seconds'] for row in figures):.1f} s  "
        f"{statistics.median(row['rows_per_second'] for row in figures):,.0f} rows/s"
    )


def main() -> None:
    """Print a line a table and epsilon, or a row of JSON a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    cases = (*CASES, SIMULATED)
    parser.add_argument("--case", action="append", choices=cases, help="may be repeated")
    parser.add_argument("--epsilon", type=float, action="append", help="0: none; may be repeated")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="tune on 100 and above")
    parser.add_argument("--draws", type=int, default=3, help="of the noise, a seed")
    parser.add_argument("--price", type=float, default=1.0, help="the deviation times this")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    for case in arguments.case or cases:
        if case != SIMULATED and not (DATA / CASES[case][0]).exists():
            print(f"{case}: no table at {DATA / CASES[case][0]}", file=sys.stderr)
            continue
        for epsilon in arguments.epsilon or (0.0, 3.0, 1.0, 0.5, 0.3):
            figures = []
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                for draw in range(arguments.draws if epsilon else 1):
                    row = measure(case, epsilon, seed, draw, arguments.price, MarginalSettings())
                    figures.append(row)
                    if arguments.format == "json":
                        print(json.dumps(row), flush=True)
            if arguments.format == "text":
                print(summary(figures), flush=True)


if __name__ == "__main__":
    main()
