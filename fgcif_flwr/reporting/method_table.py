"""A comparison of methods as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH = 110  # where there is no terminal whose width would say
_LABEL = 22  # fedavg+federated-ctgan


def print_comparison(result: Mapping[str, Any], warnings: Sequence[str], console: Console) -> None:
    """Print methods beside each other: figures, what they took, what they promise."""
    if not console.is_terminal:
        console.width = _WIDTH
    seeds, reference = result["seeds"], result["reference"]
    table = Table(
        title=f"{result['target']} on the federation's test rows; mean ± sd over "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    table.add_column("", overflow="fold", width=_LABEL)
    for column in ("accuracy", "F1", "AUC", "AUC diff.", "rounds", "99 %", "exch."):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("MB up", "down", "s", "eps"):
        table.add_column(column, justify="right", no_wrap=True)
    for label, figures in result["methods"].items():
        table.add_row(
            Text(label.replace(" ", "\n")),
            _spread(figures["accuracy"], 4),
            _spread(figures["f1"], 3),
            _spread(figures["auc"], 4),
            "-" if label == reference else _signed(figures["differences"]["auc"]),
            _plain(figures["rounds"], ".0f"),
            _plain(figures["rounds_to_99_percent"]["mean"], ".1f"),
            _plain(figures["exchanges"], ".0f"),
            _megabytes(figures["bytes_up"]),
            _megabytes(figures["bytes_down"]),
            _plain(figures["seconds"], ".0f"),
            _plain(figures["epsilon"], ".3g"),
        )
    console.print(table)
    console.print(
        f"AUC diff.: mean difference from {reference} on the same seeds, ± half its 95 % "
        "interval. 99 %: rounds after which validation AUC first was 99 % of the method's own "
        "final one. MB: of one enterprise in the whole run. Figures of private runs are exact, as "
        "only a simulation can tell.",
        markup=False,
    )
    for label, figures in result["methods"].items():
        if figures["epsilon"] is not None:
            statement = figures["runs"][0]["statement"]
            console.print(f"{label}: {statement}", markup=False)
    if result["equal"] == "exchanges":
        console.print(
            "Rounds were added to the cheaper methods for as many exchanges as the dearest."
        )
    for warning in warnings:
        console.print(f"Warning: {warning}", markup=False)
    console.print(f"Artefacts: {result['directory']}", soft_wrap=True)


def _spread(figure: Mapping[str, float | None], decimals: int) -> str:
    form = f".{decimals}f"
    return _plain(figure["mean"], form) + _plain(figure["sd"], form, "±", absent="")


def _signed(figure: Mapping[str, float | None]) -> str:
    return _plain(figure["mean"], "+.4f") + _plain(figure["half_width"], ".4f", "±", absent="")


def _plain(value: float | None, form: str, before: str = "", absent: str = "-") -> str:
    """Format a number, without the zero before a fraction's point."""
    if value is None:
        return absent
    text = format(value, form)
    for sign in ("", "+", "-"):
        if text.startswith(f"{sign}0."):
            text = sign + text[len(sign) + 1 :]
    return before + text


def _megabytes(value: float | None) -> str:
    if value is None:
        return "-"
    millions = value / 1e6
    return _plain(millions, f".{0 if millions >= 100 else 1 if millions >= 10 else 2}f")
