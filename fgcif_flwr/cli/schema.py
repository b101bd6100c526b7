"""``fgcif schema``: list, show and draft consortium schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fgcif_flwr.cli.output import Format, emit, reporting_errors, write_text
from fgcif_flwr.data.inference import Draft, draft
from fgcif_flwr.data.schema import Schema, builtin_names, load_schema
from fgcif_flwr.data.sources import read_table

app = typer.Typer(help="Consortium schemas: list, show, draft.", no_args_is_help=True)

_Form = Annotated[Format, typer.Option("--format", help="text or json.")]


@app.command("list")
def list_command(form: _Form = Format.TEXT) -> None:
    """List the built-in schemas."""
    with reporting_errors("schema list", form):
        schemas = [load_schema(name) for name in builtin_names()]
        rows = [
            {
                "name": s.name,
                "hash": s.hash,
                "features": len(s.features),
                "targets": [t.name for t in s.targets],
            }
            for s in schemas
        ]
        emit(
            form,
            "schema list",
            {"schemas": rows},
            lambda console: _show_list(console, schemas),
        )


def _show_list(console: Console, schemas: list[Schema]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("schema", no_wrap=True)
    table.add_column("features", justify="right", no_wrap=True)
    table.add_column("what it describes")
    for schema in schemas:
        table.add_row(Text(schema.name), str(len(schema.features)), Text(schema.description))
    console.print(table)


@app.command("show")
def show_command(
    schema: Annotated[str, typer.Argument(help="Built-in schema or a TOML file.")],
    form: _Form = Format.TEXT,
) -> None:
    """Print a schema as TOML, and its hash.

    SCHEMA is the name of a built-in schema or a TOML file.
    """
    with reporting_errors("schema show", form):
        loaded = load_schema(schema)
        result = {"name": loaded.name, "hash": loaded.hash, "toml": loaded.to_toml()}
        emit(
            form,
            "schema show",
            result,
            lambda _: typer.echo(f"# sha256 {loaded.hash}\n{loaded.to_toml()}"),
        )


@app.command("infer")
def infer_command(
    table: Annotated[Path, typer.Argument(help="CSV or Parquet, one row per customer.")],
    name: Annotated[str, typer.Option(help="Name that the schema gets.")] = "draft",
    target: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column to predict; left out, the first one named like a target (churn, ...).",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file to write; left out, the draft goes to stdout.",
            show_default=False,
        ),
    ] = None,
    form: _Form = Format.TEXT,
) -> None:
    """Draft a schema from a table, to be corrected and agreed on by the consortium.

    TABLE is a CSV or Parquet file, one row per customer.

    Columns that look like persons, identifiers or dates are left out, and so
    are those that cannot be used as they are; stderr tells why.

    Example:
    fgcif schema infer customers.csv --target churned --out draft.toml
    """
    # Click 8.5 drops the help that typer gives to an argument: the lines above tell it too.
    with reporting_errors("schema infer", form):
        drafted = draft(read_table(table), name, target)
        text = drafted.schema.to_toml()
        if out is not None:
            write_text(text, out)
        warnings = [] if drafted.schema.id_column is not None else ["no id column found"]
        if form is Format.TEXT:
            for line in (*_forbidden_lines(drafted), *warnings):
                typer.echo(line, err=True)
        result = {
            "name": drafted.schema.name,
            "hash": drafted.schema.hash,
            "toml": text,
            "forbidden": drafted.reasons,
        }
        emit(
            form,
            "schema infer",
            result,
            lambda _: typer.echo(text if out is None else str(out)),
            warnings,
        )


def _forbidden_lines(drafted: Draft) -> list[str]:
    id_column = drafted.schema.id_column
    return [
        f"forbidden: {_one_line(column)} ({reason}"
        + (", taken as the id column)" if column == id_column else ")")
        for column, reason in drafted.reasons.items()
    ]


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
