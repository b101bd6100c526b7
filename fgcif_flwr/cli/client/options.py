"""What the commands of ``fgcif-client`` share: options, and how they report errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from fgcif_flwr.cli.output import Format, reporting_errors

PROGRAM = "fgcif-client"
CONFIG_FILE = Path("fgcif-client.toml")
SHOWN_DIGITS = 8
"""Of the name of a run."""
_RUN_DIGITS = 32

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config",
        envvar="FGCIF_CLIENT_CONFIG",
        help="The enterprise's configuration.",
        metavar="FILE",
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", help="text or json.")]
CutoffOption = Annotated[
    datetime | None,
    typer.Option(
        formats=["%Y-%m-%d"],
        metavar="DATE",
        help="Build features as of this day (default: the schema's cut-off).",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        metavar="RUN_OR_FILE",
        help="The beginning of a run's name, of those whose model the agent kept, or a model "
        "file (default: the newest that was kept).",
        show_default=False,
    ),
]
OutOption = Annotated[Path, typer.Option(metavar="FILE", help="CSV or Parquet to write.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace the file of --out where it is there.")
]
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Decides what is drawn.")]


def reporting(command: str, form: Format) -> AbstractContextManager[None]:
    """Turn errors into one line of this program and an exit code."""
    return reporting_errors(command, form, PROGRAM)


def plain_table(*columns: str) -> Table:
    """Return a table without frame; a column whose name begins with ``>`` holds numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        table.add_column(column.removeprefix(">"), justify=justify)
    return table


def show_pairs(pairs: Mapping[str, Any], console: Console) -> None:
    """Print names and values, one pair a line."""
    width = max((len(name) for name in pairs), default=0) + 2
    for name, value in pairs.items():
        console.print(f"{name:<{width}}{value}", markup=False, highlight=False, soft_wrap=True)


def show_warnings(warnings: Sequence[str], console: Console) -> None:
    """Print warnings, one a line."""
    for warning in warnings:
        console.print(f"Warning: {warning}", markup=False, highlight=False)


def bar(share: float, console: Console, width: int = 30) -> str:
    """Return a bar of ``width`` signs, of which ``share`` (cut to [0, 1]) is full."""
    full = round(min(max(share, 0.0), 1.0) * width)
    done, left = ("█", "░") if console.encoding.startswith("utf") else ("#", ".")
    return done * full + left * (width - full)


def counted(number: int, what: str) -> str:
    """Return a number with the word for what it counts: ``1 fault``, ``2 faults``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def short_model(name: str) -> str:
    """Return a model's name with the run's name in it cut to its first digits."""
    run, dot, rest = name.partition(".")
    is_run = len(run) >= _RUN_DIGITS and not set(run) - set("0123456789abcdef")
    return f"{run[:SHOWN_DIGITS]}{dot}{rest}" if is_run else name
