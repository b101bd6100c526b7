"""``fgcif synthesize``: a table of rows that are nobody's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console

from fgcif_flwr.cli.output import Format, emit, reporting_errors, write_table
from fgcif_flwr.data.decoding import decode, sensible_decimals
from fgcif_flwr.data.encoding import encode, feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.data.sources import read_table
from fgcif_flwr.errors import ConfigurationError, DataError
from fgcif_flwr.generative.artifact import load_generator
from fgcif_flwr.generative.columns import balanced
from fgcif_flwr.generative.ctgan import CriticPrivacy, Ctgan, CtganSettings, fit_ctgan

_STEPS = 2000
_EXACT = (
    "No differential privacy: these rows were learnt from customers' rows without noise, and some "
    "may be close to one. Keep them where the customers' rows are kept."
)


def synthesize(
    rows: Annotated[int, typer.Option(min=1, help="Rows to make.")],
    out: Annotated[Path, typer.Option(help="CSV or Parquet to write.")],
    run: Annotated[
        Path | None,
        typer.Argument(help="A run's directory, or its generator.safetensors.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Instead of a run: one's own table, for a CTGAN.", show_default=False),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_FILE", help="Of --data: built-in or a TOML file.", show_default=False
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Training steps of the CTGAN (default: {_STEPS}).", show_default=False
        ),
    ] = None,
    noise_multiplier: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Train the CTGAN by noisy gradients; the epsilon is printed.",
            show_default=False,
        ),
    ] = None,
    balance: Annotated[
        bool, typer.Option("--balance", help="Give the first target's classes equal shares.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Decides the rows.")] = 0,
    form: Annotated[Format, typer.Option("--format", help="text or json.")] = Format.TEXT,
) -> None:
    """Write synthetic customers in the columns, units and words of the schema.

    From a run's shared generator nothing more is spent: its statement covers whatever is made of
    it. From one's own table (--data) a CTGAN is trained first, here and now.

    Example:
    fgcif synthesize runs/telco --rows 10000 --out synthetic.csv
    """
    with reporting_errors("synthesize", form):
        torch.set_num_threads(1)
        if (run is None) == (data is None):
            raise ConfigurationError("give either a run's directory or --data, one of the two")
        if run is not None:
            if not (schema is None and steps is None and noise_multiplier is None):
                raise ConfigurationError(
                    "--schema, --steps and --noise-multiplier go with --data: a run has its own"
                )
            loaded = load_generator(_file_of(run))
            generator, shape = loaded.generator, loaded.schema
            if "statement" not in loaded.statement:
                raise DataError(f"{run} is damaged: it has no privacy statement in words")
            statement = str(loaded.statement["statement"])
        else:
            assert data is not None
            if schema is None:
                raise ConfigurationError("--data wants --schema, which names its columns")
            shape = load_schema(schema)
            privacy = None if noise_multiplier is None else CriticPrivacy(noise_multiplier)
            settings = CtganSettings(steps=steps or _STEPS, privacy=privacy)
            own = encode(shape, read_table(data, shape))
            generator = fit_ctgan(feature_layout(shape), own, settings, seed)
            statement = _statement(generator, privacy)
        classes = balanced(generator.layout) if balance else None
        made = generator.sample(rows, np.random.default_rng(seed), classes)
        write_table(decode(shape, made, sensible_decimals(shape)), out)
        result: dict[str, Any] = {
            "rows": rows,
            "out": str(out),
            "kind": generator.kind,
            "schema": shape.name,
            "privacy": statement,
        }
        emit(form, "synthesize", result, lambda console: _show(console, result))


def _file_of(run: Path) -> Path:
    """Return a run's generator; DataError where it has none, with what to do."""
    if not run.exists():
        raise DataError(f"there is no run's directory or generator file {run}")
    if not run.is_dir():
        return run
    file = run / "generator.safetensors"
    if not file.exists():
        raise DataError(
            f"{run} has no shared generator: run again with --set generator.kind=marginals, or "
            "give --data for a CTGAN of your own table (a run's ctgan never leaves its enterprise)"
        )
    return file


def _statement(generator: Ctgan, privacy: CriticPrivacy | None) -> str:
    epsilon = None if generator.diagnostics is None else generator.diagnostics.epsilon
    if privacy is None or epsilon is None:
        return _EXACT
    return (
        f"epsilon = {epsilon:.4g} at delta = {privacy.delta:g} for each row of the table, over all "
        "that this training shows (one row's contribution replaced by zero; Skellam noise on sums "
        "of clipped gradients). No ledger was charged: what else is released about the same "
        "customers adds up."
    )


def _show(console: Console, result: dict[str, Any]) -> None:
    console.print(f"{result['rows']} rows of a {result['kind']} generator: {result['out']}")
    console.print(result["privacy"])
