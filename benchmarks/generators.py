"""Generators of rows beside SMOTE: fidelity, use, closeness. `python -m benchmarks.generators`.

For each table and kind of generator, means over seeds of: similarity of columns and of pairs, the
area under the ROC curve of a discriminator (.5: rows cannot be told from real ones), of a logistic
regression and of gradient boosting that were trained on the rows and tested on real ones, the share
of rows nearer to a training row than all but 5 % of held-out rows are, and what a distance-based
attack tells of membership (its own area; true positives at 1 % false ones). `real` are validation
rows, which no generator saw. Tables are found by FGCIF_DATA.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks import marginals
from benchmarks.ctgan import TABLES
from fgcif_flwr.cli.run_options import resolve
from fgcif_flwr.data.consortium import load_consortium
from fgcif_flwr.generative.ctgan import CtganSettings, fit_ctgan
from fgcif_flwr.generative.fidelity import Fidelity, compare_tables
from fgcif_flwr.generative.marginals import MarginalSettings
from fgcif_flwr.generative.smote import Smote

KINDS = ("real", "smote", "ctgan", "marginals", "marginals, epsilon 3", "marginals, epsilon 1")
COLUMNS = ("columns", "pairs", "told", "linear", "boosting", "near", "attack", "tpr")

_DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def measured(table: str, kind: str, seed: int) -> Fidelity:
    """Measure as many rows of a kind as there are training rows."""
    path, schema = TABLES[table]
    data = Path(os.environ.get("FGCIF_DATA", _DEFAULT_DATA)) / path
    options = {"data.table": str(data), "data.schema": schema, "data.partition": "iid"}
    with tempfile.TemporaryDirectory() as nowhere:
        config, _ = resolve({**options, "run.seed": seed}, Path(nowhere))
    read = load_consortium(config)
    train, random = read.pooled("train"), np.random.default_rng(seed)
    if kind == "real":
        rows = read.pooled("validation")
    elif kind == "smote":
        rows = Smote(read.layout, train).sample(len(train), random)
    elif kind == "ctgan":
        rows = fit_ctgan(read.layout, train, CtganSettings(), seed).sample(len(train), random)
    else:
        epsilon = float(kind.rpartition(" ")[2]) if "epsilon" in kind else 0.0
        learner = marginals.learn(table, epsilon, seed, 0, 1.0, MarginalSettings())
        rows = learner.generator().sample(len(train), random)
    return compare_tables(read.layout, train, rows, read.pooled("test"), seed)


def figures(fidelity: Fidelity) -> tuple[float, ...]:
    """Return the figures of :data:`COLUMNS`."""
    use = {one.model: one.synthetic["auc"] for one in fidelity.utility}
    assert fidelity.closeness is not None
    attack = fidelity.membership[-1]
    return (
        fidelity.shape_similarity,
        fidelity.pair_similarity,
        fidelity.discriminator.auc,
        use["linear"],
        use["gradient boosting"],
        fidelity.closeness.close_synthetic,
        attack.auc,
        attack.tpr,
    )


def main() -> None:
    """Print a line for each table and kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", choices=TABLES, action="append")
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = Path(os.environ.get("FGCIF_DATA", _DEFAULT_DATA))
    for table in asked.table or TABLES:
        if not (data / TABLES[table][0]).exists():
            print(f"{table}: {data / TABLES[table][0]} is absent; set FGCIF_DATA", file=sys.stderr)
            continue
        print(f"{table:22}" + "".join(f"{column:>9}" for column in COLUMNS), flush=True)
        for kind in asked.kind or KINDS:
            rows = [figures(measured(table, kind, seed)) for seed in range(asked.seeds)]
            means = [statistics.mean(column) for column in zip(*rows, strict=True)]
            print(f"{kind:22}" + "".join(f"{value:9.3f}" for value in means), flush=True)


if __name__ == "__main__":
    main()
