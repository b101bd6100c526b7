"""What the commands that are about a run share: its options, and the configuration they make."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from fgcif_flwr.config import RunConfig, parse_assignments, read_toml, unflatten
from fgcif_flwr.data.consortium import SIMULATED
from fgcif_flwr.data.partitions import count_enterprises
from fgcif_flwr.data.schema import builtin_names, load_schema
from fgcif_flwr.data.sources import read_table
from fgcif_flwr.errors import ConfigurationError

DataOption = Annotated[
    str | None, typer.Option(help="CSV or Parquet table, or 'simulated'.", show_default=False)
]
SchemaOption = Annotated[
    str | None,
    typer.Option(help="Built-in schema or a schema file (TOML).", show_default=False),
]
PartitionOption = Annotated[
    str | None,
    typer.Option(
        help="column:NAME | file:PATH | iid | dirichlet:A | label-skew:A", show_default=False
    ),
]
EnterprisesOption = Annotated[
    int | None, typer.Option(help="Number of enterprises.", show_default=False)
]
ConfigOption = Annotated[
    Path | None, typer.Option(help="Configuration file (TOML).", show_default=False)
]
AssignmentsOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.key=value; may be repeated.", show_default=False),
]


def asked_of(
    config: Path | None, assignments: Sequence[str] | None, flags: Mapping[str, object]
) -> dict[str, object]:
    """Return the keys that were set: in the file, by ``--set`` over it, by flags over both."""
    asked = dict(read_toml(config)) if config is not None else {}
    asked |= parse_assignments(assignments or [])
    return asked | {key: value for key, value in flags.items() if value is not None}


def resolve(asked: Mapping[str, object], out: Path | None) -> tuple[RunConfig, list[str]]:
    """Fill in what the table decides, and make paths absolute; return also what was assumed."""
    flat = dict(asked)
    warnings: list[str] = []
    config = unflatten(flat)
    table = config.data.table
    if table != SIMULATED:
        if "data.schema" not in flat:
            raise ConfigurationError(
                f"data.schema: say which schema describes the table (--schema; built in are "
                f"{', '.join(builtin_names())})"
            )
        flat["data.table"] = str(Path(table).expanduser().resolve())
        if "data.partition" not in flat:
            flat["data.partition"] = "iid"
            warnings.append("data.partition was not set: rows are divided evenly (iid)")
    elif "data.schema" not in flat:
        flat["data.schema"] = SIMULATED
    name = str(flat["data.schema"])
    if name not in builtin_names():
        flat["data.schema"] = str(Path(name).expanduser().resolve())
    kind, _, argument = str(flat.get("data.partition", "")).partition(":")
    if kind == "file" and argument:
        flat["data.partition"] = f"file:{Path(argument).expanduser().resolve()}"
    if kind in ("file", "column") and table != SIMULATED and "run.enterprises" not in flat:
        rows = read_table(str(flat["data.table"]), load_schema(str(flat["data.schema"])))
        flat["run.enterprises"] = count_enterprises(str(flat["data.partition"]), rows)
    if config.run.roster or config.run.identity:
        raise ConfigurationError(
            "run.roster and run.identity are for enterprises with agents of their own; simulated "
            "ones draw their keys: remove them"
        )
    if config.run.witness:
        flat["run.witness"] = str(Path(config.run.witness).expanduser().resolve())
    directory = str(out) if out is not None else config.run.output
    flat["run.output"] = str(
        Path(directory or tempfile.mkdtemp(prefix="fgcif-run-")).expanduser().resolve()
    )
    return unflatten(flat), warnings
