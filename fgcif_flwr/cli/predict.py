"""``fgcif predict``: score a table by a trained model."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.csv
import torch
import typer
from rich.console import Console

from fgcif_flwr.cli.output import Format, emit, reporting_errors, write_table
from fgcif_flwr.data.sources import read_table
from fgcif_flwr.models.artifact import load_model, predict


def predict_command(
    model: Annotated[Path, typer.Argument(help="model.safetensors, or a run's directory.")],
    table: Annotated[Path, typer.Argument(help="CSV or Parquet; target columns are not read.")],
    out: Annotated[
        Path | None,
        typer.Option(help="CSV or Parquet to write (default: CSV on stdout)", show_default=False),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="text or json.")] = Format.TEXT,
) -> None:
    """Score every row of TABLE by MODEL.

    MODEL is model.safetensors or a run's directory; TABLE is CSV or Parquet, and its target
    columns are not read.

    Example:
    fgcif predict runs/telco customers.csv --out scores.csv
    """
    with reporting_errors("predict", form):
        torch.set_num_threads(1)
        loaded = load_model(model / "model.safetensors" if model.is_dir() else model)
        scores = predict(loaded, read_table(table, loaded.schema))
        if loaded.schema.id_column is None:
            typer.echo(
                "fgcif: the schema names no id column; scores are in the table's order", err=True
            )
        if out is None and form is Format.TEXT:
            buffer = io.BytesIO()
            pa.csv.write_csv(scores, buffer)
            typer.echo(buffer.getvalue().decode(), nl=False)
            return
        if out is not None:
            write_table(scores, out)
        result: dict[str, object] = {
            "rows": scores.num_rows,
            "columns": scores.column_names,
            "out": None if out is None else str(out),
            "schema": loaded.schema.name,
        }
        if out is None:
            result["scores"] = scores.to_pylist()
        emit(form, "predict", result, lambda console: _show(console, scores.num_rows, out))


def _show(console: Console, rows: int, out: Path | None) -> None:
    console.print(f"{rows} rows scored: {out}", soft_wrap=True)
