"""``fgcif schema``: list, show and draft consortium schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fgcif_flwr.cli.output import Format, emit, reporting_errors
from fgcif_flwr.data.inference import infer_schema
from fgcif_flwr.data.schema import builtin_names, load_schema
from fgcif_flwr.data.sources import read_table
from fgcif_flwr.errors import DataError

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
            lambda console: console.print(
                "\n".join(
                    f"{s.name:16} {len(s.features):3} features  {s.description}" for s in schemas
                )
            ),
        )


@app.command("show")
def show_command(
    schema: Annotated[str, typer.Argument(help="Built-in name or a TOML file.")],
    form: _Form = Format.TEXT,
) -> None:
    """Print a schema as TOML, and its hash."""
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
    table: Annotated[Path, typer.Argument(help="CSV or Parquet table.")],
    name: Annotated[str, typer.Option(help="Name of the schema.")] = "draft",
    target: Annotated[
        str | None, typer.Option(help="Column to predict.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write [default: stdout]", show_default=False)
    ] = None,
    form: _Form = Format.TEXT,
) -> None:
    """Draft a schema from a table, to be corrected and agreed on by the consortium."""
    with reporting_errors("schema infer", form):
        draft = infer_schema(read_table(table), name, target)
        text = draft.to_toml()
        if out is not None:
            try:
                out.write_text(text, encoding="utf-8")
            except OSError as error:
                raise DataError(f"{out} cannot be written: {error.strerror}") from None
        result = {"name": draft.name, "hash": draft.hash, "toml": text}
        emit(form, "schema infer", result, lambda _: typer.echo(text if out is None else str(out)))
