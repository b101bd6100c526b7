"""``fgcif-client schema``: what the consortium agreed that a customer's row holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from fgcif_flwr.cli.client.options import (
    CONFIG_FILE,
    ConfigOption,
    FormatOption,
    plain_table,
    reporting,
)
from fgcif_flwr.cli.output import Format, emit
from fgcif_flwr.config.enterprise import load_enterprise
from fgcif_flwr.data.schema import (
    BooleanFeature,
    CategoricalFeature,
    CategoricalTarget,
    Feature,
    NumericFeature,
    Schema,
    Target,
    load_schema,
)

app = typer.Typer(help="What a customer's row holds: show.", no_args_is_help=True)


@app.command("show")
def show_command(
    schema: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_FILE",
            help="Built-in or TOML (default: the configuration's).",
            show_default=False,
        ),
    ] = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print the schema's file.")] = False,
    config: ConfigOption = CONFIG_FILE,
    form: FormatOption = Format.TEXT,
) -> None:
    """Show the features and targets of the consortium's schema, and its hash.

    Example:
    fgcif-client schema show
    """
    with reporting("schema show", form):
        loaded = load_schema(schema or load_enterprise(config).consortium.schema_file)
        result = {"name": loaded.name, "hash": loaded.hash, "toml": loaded.to_toml()}

        def show(console: Console) -> None:
            if toml:
                typer.echo(f"# sha256 {loaded.hash}\n{loaded.to_toml()}")
            else:
                _show(loaded, result, console)

        emit(form, "schema show", result, show)


def _show(schema: Schema, result: Mapping[str, Any], console: Console) -> None:
    console.print(f"{schema.name}, version {schema.version}", markup=False, highlight=False)
    console.print(f"sha256 {result['hash']}", markup=False, highlight=False, soft_wrap=True)
    if schema.description:
        console.print(schema.description, markup=False, highlight=False)
    if schema.id_column:
        console.print(f"customer's id: {schema.id_column}", markup=False, highlight=False)
    console.print()
    table = plain_table("column", "kind", "values")
    for part in (*schema.features, *schema.targets):
        target = part in schema.targets
        name = part.column or part.name
        table.add_row(Text(name), f"{part.kind}{', target' if target else ''}", Text(_values(part)))
    console.print(table)


def _values(part: Feature | Target) -> str:
    if isinstance(part, BooleanFeature):
        return f"{'/'.join(part.true)} or {'/'.join(part.false)}"
    if isinstance(part, CategoricalFeature):
        return ", ".join(part.vocabulary) if part.vocabulary else f"{part.buckets} buckets"
    if isinstance(part, CategoricalTarget):
        return ", ".join(part.classes)
    if part.kind == "binary":
        return f"{part.positive}, else {part.negative or 'any other word'}"
    unit = f" {part.unit}" if part.unit else ""
    scale = ", log" if part.log else ""
    bounds = f"{part.lower:g} to {part.upper:g}{unit}{scale}"
    return bounds if isinstance(part, NumericFeature) else f"{bounds} (to predict)"
