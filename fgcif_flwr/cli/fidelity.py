"""``fgcif fidelity``: set a synthetic table beside the real one that it was learnt from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fgcif_flwr.cli.output import Format, emit, reporting_errors, write_text
from fgcif_flwr.data.columns import as_text
from fgcif_flwr.data.encoding import EncodedTable, encode, feature_layout
from fgcif_flwr.data.membership import whole_number_text
from fgcif_flwr.data.schema import Schema, load_schema
from fgcif_flwr.data.sources import read_table
from fgcif_flwr.errors import DataError
from fgcif_flwr.generative.artifact import load_generator
from fgcif_flwr.generative.fidelity import Fidelity, compare_tables
from fgcif_flwr.generative.fidelity.overlap import shared_ids, shared_rows
from fgcif_flwr.generative.fidelity.utility import teaches
from fgcif_flwr.reporting.fidelity_page import NO_STATEMENT, fidelity_page

_WITHOUT_TEST = (
    "without --test usefulness and closeness are not measured: they want real rows that the "
    "generator never learnt from"
)
_LEARNT_FROM = (
    "rows of --test are also in REAL; usefulness and closeness mean nothing for rows that were "
    "learnt from: take them out of REAL"
)


def fidelity_command(
    real: Annotated[Path, typer.Argument(help="CSV or Parquet: the rows that were learnt from.")],
    synthetic: Annotated[Path, typer.Argument(help="CSV or Parquet: the rows that were made.")],
    schema: Annotated[
        str, typer.Option(metavar="NAME_OR_FILE", help="Built-in schema or a TOML file.")
    ],
    test: Annotated[
        Path | None,
        typer.Option(
            metavar="HELD_OUT",
            help="CSV or Parquet: real rows that were not learnt from.",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The run that made the generator; its privacy statement goes onto the page.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PAGE.html", help="Page to write.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides what is drawn.")] = 0,
    form: Annotated[Format, typer.Option("--format", help="text or json.")] = Format.TEXT,
) -> None:
    """Measure how like REAL the rows of SYNTHETIC are, how useful, and how close.

    REAL are the rows that the generator learnt from, SYNTHETIC those that it made, both CSV or
    Parquet with the columns of the schema. The figures are exact: show them to
    those who may see the real rows.

    Example:
    fgcif fidelity train.csv synthetic.csv --schema telco --test held_out.csv --out page.html
    """
    with reporting_errors("fidelity", form):
        torch.set_num_threads(1)
        agreed = load_schema(schema)
        layout = feature_layout(agreed)
        statement = NO_STATEMENT if run is None else _statement(run, agreed)
        (ours, our_ids), (theirs, _) = _encoded(agreed, real), _encoded(agreed, synthetic)
        held_out = None
        warnings = [_WITHOUT_TEST]
        if test is not None:
            held_out, other_ids = _encoded(agreed, test)
            if our_ids is not None and other_ids is not None:
                shared = shared_ids(our_ids, other_ids)
            else:
                shared = shared_rows(layout, ours, held_out)
            if shared:
                raise DataError(f"{shared} of {len(held_out)} {_LEARNT_FROM}")
            warnings = [
                f"target {head.name}: {file} has a single value of it, or none; no model can "
                "learn it there"
                for head in layout.heads
                for file, table in ((real, ours), (synthetic, theirs))
                if not teaches(head, table)
            ]
        measured = compare_tables(layout, ours, theirs, held_out, seed)
        if out is not None:
            write_text(fidelity_page(agreed, ours, theirs, measured, statement), out)
        result: dict[str, object] = {
            "schema": agreed.name,
            **measured.as_dict(),
            "privacy_statement": None if run is None else statement,
            "out": None if out is None else str(out),
        }
        emit(
            form,
            "fidelity",
            result,
            lambda console: _show(console, measured, warnings, out),
            warnings,
        )


def _encoded(schema: Schema, file: Path) -> tuple[EncodedTable, list[str | None] | None]:
    """Return the table, and its ids (None where a row has none) where any are there."""
    table = read_table(file, schema)
    try:
        encoded = encode(schema, table)
        if schema.id_column is None or schema.id_column not in table.column_names:
            return encoded, None
        ids = as_text(table[schema.id_column], schema.missing, schema.id_column)
        known: list[str | None] = whole_number_text(ids).to_pylist()
        return encoded, known if ids.null_count < len(ids) else None
    except DataError as error:
        # Three tables are read: say which of them it is.
        raise type(error)(f"{file}: {error}") from None


def _statement(run: Path, schema: Schema) -> str:
    record, file = run / "run.json", run / "generator.safetensors"
    try:
        read: Any = json.loads(record.read_text(encoding="utf-8"))
        statement = str(read["privacy"]["statement"])
    except OSError:
        raise DataError(f"there is no run in {run}: {record} cannot be read") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{record} is no record of a run; give the directory of one") from None
    if not file.is_file():
        raise DataError(
            f"the run in {run} made no generator: there is no {file.name}; give the run that the "
            "synthetic rows are of"
        )
    made_for = load_generator(file).schema
    if made_for.hash != schema.hash:
        same = " in another version" if made_for.name == schema.name else ""
        raise DataError(
            f"the run in {run} is of schema {made_for.name}{same}, not of {schema.name} as "
            "--schema says; give the run that the synthetic rows are of"
        )
    return statement


def _show(console: Console, measured: Fidelity, warnings: list[str], out: Path | None) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("synthetic", justify="right", no_wrap=True)
    table.add_column("to compare", no_wrap=True)
    for name, value, beside in _lines(measured):
        table.add_row(Text(name), value, Text(beside))
    console.print(table)
    if measured.closeness is not None:
        signs = ", ".join(measured.signs_of_memorisation)
        console.print(f"Signs of memorisation: {signs or 'none found, which is no proof'}.")
    for warning in warnings:
        console.print(f"Warning: {warning}")
    if out is not None:
        console.print(f"Page: {out}", soft_wrap=True)


def _lines(measured: Fidelity) -> list[tuple[str, str, str]]:
    apart, near = measured.discriminator, measured.closeness
    lines = [
        (
            "columns alike",
            _of(measured.shape_similarity),
            _held(measured.shape_similarity_held_out),
        ),
        ("pairs alike", _of(measured.pair_similarity), _held(measured.pair_similarity_held_out)),
        ("told apart, AUC", _of(apart.auc), f"{_range(apart.interval)}.5 by guessing"),
    ]
    lines += [
        (
            f"{task.target} {task.metric}, {task.model.removeprefix('gradient ')}",
            _of(task.synthetic[task.metric]),
            f"{_of(task.real[task.metric])} trained on real rows",
        )
        for task in measured.utility
    ]
    if near is not None:
        chance = f"{_range(near.nearer_interval)}{near.nearer_copied:.2f} if all copied"
        lines += [
            ("close to a training row", _of(near.close_synthetic), _held(near.close_held_out)),
            ("equal to one", _of(near.copies_synthetic), _held(near.copies_held_out)),
            ("nearer to training rows", _of(near.nearer), chance),
        ]
    for one in measured.membership:
        attack = f"{one.attacker} attack"
        alarms, advantage = _range(one.tpr_interval), _range(one.advantage_interval)
        lines += [
            (f"{attack}, advantage", _of(one.advantage), f"{advantage}0 by guessing"),
            (f"{attack} at 1 % FPR", _of(one.tpr), f"{alarms}.01 by guessing"),
        ]
    return lines


def _of(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _held(value: float | None) -> str:
    return "" if value is None else f"{value:.3f} for rows held out"


def _range(bounds: tuple[float, float]) -> str:
    return "" if math.isnan(bounds[0]) else f"{bounds[0]:.3f} to {bounds[1]:.3f}; "
