"""``fgcif-client synthesize``: rows that are nobody's, learnt from the own table."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from fgcif_flwr.cli.client.asking import ask
from fgcif_flwr.cli.client.options import (
    CONFIG_FILE,
    ConfigOption,
    FormatOption,
    OutOption,
    OverwriteOption,
    SeedOption,
    reporting,
    show_warnings,
)
from fgcif_flwr.cli.client.out_file import OutFile
from fgcif_flwr.cli.output import Format, emit
from fgcif_flwr.config.enterprise import load_enterprise
from fgcif_flwr.enterprise.operations.synthetic import SynthesizeRequest


def synthesize_command(
    rows: Annotated[int, typer.Option(min=1, max=10_000_000, help="Rows to make.")],
    out: OutOption,
    steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Training steps.")] = 2000,
    noise_multiplier: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Train by noisy gradients; epsilon is printed.", show_default=False
        ),
    ] = None,
    balance: Annotated[
        bool, typer.Option("--balance", help="Give the first target's classes equal shares.")
    ] = False,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    config: ConfigOption = CONFIG_FILE,
    form: FormatOption = Format.TEXT,
) -> None:
    """Write synthetic customers of a CTGAN that is trained on the own table, here
    and now.

    What they reveal is printed with them. No budget is charged: they are for
    this house, unless it is decided otherwise.

    Example:
    fgcif-client synthesize --rows 10000 --out synthetic.csv
    """
    with reporting("synthesize", form):
        request = SynthesizeRequest(
            rows=rows, seed=seed, steps=steps, noise_multiplier=noise_multiplier, balance=balance
        )
        enterprise = load_enterprise(config)
        file = OutFile.of(out, enterprise, config, overwrite)
        answer = ask(enterprise, "synthesize", request)
        assert answer.table is not None
        file.write_table(answer.table)
        result = {**answer.result, "out": str(out)}

        def show(console: Console) -> None:
            console.print(
                f"{rows} rows of a {result['kind']} learnt from {result['learnt_from']} customers: "
                f"{out}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
            console.print(str(result["privacy"]), markup=False, highlight=False)
            show_warnings(answer.warnings, console)

        emit(form, "synthesize", result, show, answer.warnings)
