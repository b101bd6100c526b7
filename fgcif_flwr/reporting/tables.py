"""Results as tables for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from fgcif_flwr.models.numeric_counts import DECILE

_NAMES = {
    "centralized": "centralized",
    "logistic_regression": "logistic regression",
    "alone": "each alone (mean)",
    "federated": "federated",
    "released": "federated, as released",
    "ceiling": "ceiling",
}
_COLUMNS = ("accuracy", "precision", "recall", "f1", "auc")


def print_simulation(result: Mapping[str, Any], warnings: Sequence[str], console: Console) -> None:
    """Print a simulation's result: figures, what travelled, what is promised, where it lies."""
    metrics = result["metrics"]
    table = Table(title=f"{result['target']} on the federation's test rows", title_justify="left")
    table.add_column("")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for name, label in _NAMES.items():
        if name in metrics:
            figures = (metrics[name].get(column) for column in _COLUMNS)
            style = "bold" if name == "federated" else None
            table.add_row(label, *(_figure(value) for value in figures), style=style)
    console.print(table)
    if "released" in metrics:
        console.print(
            "Federated is exact here, as only a simulation can tell; as released are the noisy "
            "counts that a real run has."
        )
    for name, head in result["heads"]["federated"].items():
        if name != result["target"]:
            shown = ", ".join(
                f"{key} {_figure(value)}"
                for key, value in head.items()
                if key not in ("rows", "positives") and not key.startswith(DECILE)
            )
            console.print(f"{name} (federated): {shown}")
    moved = result["communication"]
    console.print(
        f"Each enterprise and round: {moved['bytes_up'] / 1000:.1f} kB up, "
        f"{moved['bytes_down'] / 1000:.1f} kB down; {moved['exchanges']} exchanges in all."
    )
    generator = result["generator"]
    if generator["exchanges"]:
        console.print(
            f"Of these the {generator['kind']} generator took {generator['exchanges']}, in all "
            f"{generator['bytes_up'] / 1000:.1f} kB up and {generator['bytes_down'] / 1000:.1f} kB "
            "down an enterprise."
        )
    engine = result["engine"]
    console.print(
        f"{result['rounds']} rounds in {result['seconds']:.0f} s, "
        f"{result['seconds_with_baselines']:.0f} s with reading and baselines "
        f"(engine {engine['name']}: {engine['status']})."
    )
    console.print(f"Privacy: {result['privacy']['statement']}")
    for warning in warnings:
        console.print(f"Warning: {warning}")
    console.print(f"Artefacts: {result['artifacts']['directory']}", soft_wrap=True)


def _figure(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
