"""``fgcif-client describe`` and ``features``: the enterprise's own table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from fgcif_flwr.cli.client.asking import ask
from fgcif_flwr.cli.client.options import (
    CONFIG_FILE,
    ConfigOption,
    CutoffOption,
    FormatOption,
    OutOption,
    OverwriteOption,
    plain_table,
    reporting,
    show_warnings,
)
from fgcif_flwr.cli.client.out_file import OutFile
from fgcif_flwr.cli.output import Format, emit
from fgcif_flwr.config.enterprise import load_enterprise
from fgcif_flwr.enterprise.operations.description import DescribeRequest
from fgcif_flwr.enterprise.operations.tables import FeaturesRequest


def day(given: datetime | None) -> date | None:
    """Return the day of an option."""
    return None if given is None else given.date()


def describe_command(
    cutoff: CutoffOption = None,
    config: ConfigOption = CONFIG_FILE,
    form: FormatOption = Format.TEXT,
) -> None:
    """Describe the own table through the schema: classes, missing, clipped and
    unseen values.

    Counts from 1 to 9 are not shown, nor those from which they could be told.

    Example:
    fgcif-client describe
    """
    with reporting("describe", form):
        answer = ask(load_enterprise(config), "describe", DescribeRequest(cutoff=day(cutoff)))
        result, warnings = answer.result, answer.warnings
        emit(
            form,
            "describe",
            result,
            lambda console: _show(result, warnings, console),
            warnings,
        )


def _show(result: Mapping[str, Any], warnings: Sequence[str], console: Console) -> None:
    rows = result["rows"]
    day_of = f", as of {result['cutoff']}" if result["cutoff"] else ""
    console.print(f"{rows} customers{day_of}", highlight=False)
    for target in result["targets"]:
        for name, count in target.get("classes", {}).items():
            if count != 0 or name != "missing":
                console.print(
                    f"{target['name']}: {name}: {_count(count, rows)}",
                    markup=False,
                    highlight=False,
                )
    console.print()
    table = plain_table("", "kind", ">missing", ">clipped", ">unseen")
    for one in (*result["features"], *(t for t in result["targets"] if t["kind"] == "numeric")):
        cells = (
            _count(one[key], rows) if key in one else ""
            for key in ("missing", "beyond_bounds", "unseen")
        )
        table.add_row(Text(one["name"]), one["kind"], *cells)
    console.print(table)
    console.print(
        "Clipped: beyond the schema's bounds. Unseen: not in its vocabulary.", highlight=False
    )
    show_warnings(warnings, console)


def _count(count: int | None, rows: int) -> str:
    if count is None:
        return "not shown"
    return f"{count} ({count / rows:.1%})" if count else "0"


def features_command(
    out: OutOption,
    cutoff: CutoffOption = None,
    targets: Annotated[
        bool, typer.Option("--targets/--no-targets", help="With the target columns or without.")
    ] = True,
    overwrite: OverwriteOption = False,
    config: ConfigOption = CONFIG_FILE,
    form: FormatOption = Format.TEXT,
) -> None:
    """Write the table of customers as the model reads it: one row each, the
    schema's columns.

    The file, which its owner alone may read, holds customers' data: keep it where theirs is kept.

    Example:
    fgcif-client features --out features.parquet
    """
    with reporting("features", form):
        request = FeaturesRequest(cutoff=day(cutoff), targets=targets)
        enterprise = load_enterprise(config)
        file = OutFile.of(out, enterprise, config, overwrite)
        answer = ask(enterprise, "features", request)
        assert answer.table is not None
        file.write_table(answer.table)
        result = {**answer.result, "out": str(out)}

        def show(console: Console) -> None:
            console.print(
                f"{result['rows']} customers, {len(result['columns'])} columns: {out}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
            show_warnings(answer.warnings, console)

        emit(form, "features", result, show, answer.warnings)
