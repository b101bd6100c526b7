"""``fgcif-client evaluate``, ``score``, ``personalize`` and ``export-model``: using a model."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fgcif_flwr.cli.client.asking import ask, chosen
from fgcif_flwr.cli.client.data import day
from fgcif_flwr.cli.client.options import (
    CONFIG_FILE,
    ConfigOption,
    CutoffOption,
    FormatOption,
    ModelOption,
    OverwriteOption,
    SeedOption,
    plain_table,
    reporting,
    short_model,
    show_warnings,
)
from fgcif_flwr.cli.client.out_file import OutFile
from fgcif_flwr.cli.client.score_table import IfExists, TableTarget, write_to_database
from fgcif_flwr.cli.output import Format, emit
from fgcif_flwr.config.enterprise import load_enterprise
from fgcif_flwr.enterprise.operations.exported import ExportRequest
from fgcif_flwr.enterprise.operations.personal import PersonalizeRequest
from fgcif_flwr.enterprise.operations.scoring import EvaluateRequest, ScoreRequest
from fgcif_flwr.errors import ConfigurationError

_DECILES = "decile_"
"""Figures of which there are twenty: in JSON alone; ``calibration_gap`` sums them up."""

_FractionOption = Annotated[
    float | None, typer.Option(help="As the model's run had it.", show_default=False)
]


def evaluate_command(
    model: ModelOption = "",
    validation_fraction: _FractionOption = None,
    test_fraction: _FractionOption = None,
    cutoff: CutoffOption = None,
    config: ConfigOption = CONFIG_FILE,
    form: FormatOption = Format.TEXT,
) -> None:
    """Say how good a model is on this enterprise's own test customers.

    The figures are exact and stay here: told outside, they would be a release
    that no budget covers.

    Example:
    fgcif-client evaluate --model runs/telco
    """
    with reporting("evaluate", form):
        request = EvaluateRequest.model_validate(
            {
                **chosen(model),
                "validation_fraction": validation_fraction,
                "test_fraction": test_fraction,
                "cutoff": day(cutoff),
            }
        )
        answer = ask(load_enterprise(config), "evaluate", request)
        result, warnings = answer.result, answer.warnings

        def show(console: Console) -> None:
            console.print(
                f"model {short_model(result['model'])} on {result['rows']} own test customers "
                "(exact, not to be told outside)",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
            _show_metrics({"value": result["heads"]}, console)
            show_warnings(warnings, console)

        emit(form, "evaluate", result, show, warnings)


def _show_metrics(models: Mapping[str, Mapping[str, Mapping[str, Any]]], console: Console) -> None:
    """Print a line for each head's figure, a column for each model."""
    table = plain_table("target", "figure", *(f">{name}" for name in models))
    first = next(iter(models.values()))
    for head, figures in first.items():
        for name, value in figures.items():
            if name.startswith(_DECILES):
                continue
            if isinstance(value, int | float) or value is None:
                cells = (_figure(found[head].get(name)) for found in models.values())
                table.add_row(head, name, *cells)
    console.print(table)


def _figure(value: float | None) -> str:
    if value is None or value != value:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def score_command(
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV or Parquet to write.", show_default=False),
    ] = None,
    to_table: Annotated[
        str | None,
        typer.Option(
            metavar="URL#TABLE",
            help="Database and table to write, the URL without a password.",
            show_default=False,
        ),
    ] = None,
    if_exists: Annotated[
        IfExists, typer.Option(help="What to do where the table of --to-table is there.")
    ] = IfExists.REFUSE,
    password_env: Annotated[
        str, typer.Option(help="Environment variable with the database's password.")
    ] = "",
    password_file: Annotated[
        Path | None, typer.Option(help="File with the database's password.", show_default=False)
    ] = None,
    model: ModelOption = "",
    explain: Annotated[
        int, typer.Option(min=0, max=20, help="Reasons to give for each customer's score.")
    ] = 0,
    cutoff: CutoffOption = None,
    overwrite: OverwriteOption = False,
    config: ConfigOption = CONFIG_FILE,
    form: FormatOption = Format.TEXT,
) -> None:
    """Score all own customers by a model, into a file or a table of a database.

    Example:
    fgcif-client score --out scores.csv --explain 3
    """
    with reporting("score", form):
        if (out is None) == (to_table is None):
            raise ConfigurationError("give --out FILE or --to-table URL#TABLE, one of the two")
        enterprise = load_enterprise(config)
        target = file = None
        if out is not None:
            file = OutFile.of(out, enterprise, config, overwrite)
        if to_table is not None:  # what is wrong with it is said before anything is computed
            target = TableTarget.of(to_table, if_exists, password_env, password_file)
            target.refuse_own(enterprise)
        request = ScoreRequest.model_validate(
            {**chosen(model), "explain": explain, "cutoff": day(cutoff)}
        )
        answer = ask(enterprise, "score", request)
        assert answer.table is not None
        if target is not None:
            write_to_database(answer.table, target)
            where = f"table {target.table}"
        else:
            assert file is not None
            file.write_table(answer.table)
            where = str(out)
        result, warnings = {**answer.result, "out": where}, answer.warnings

        def show(console: Console) -> None:
            as_of = f" as of {result['cutoff']}" if result["cutoff"] else ""
            console.print(
                f"{result['rows']} customers scored by {short_model(result['model'])}{as_of}: "
                f"{where}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
            show_warnings(warnings, console)

        emit(form, "score", result, show, warnings)


def personalize_command(
    model: ModelOption = "",
    validation_fraction: _FractionOption = None,
    test_fraction: _FractionOption = None,
    cutoff: CutoffOption = None,
    seed: SeedOption = 0,
    config: ConfigOption = CONFIG_FILE,
    form: FormatOption = Format.TEXT,
) -> None:
    """Fine-tune a model on own customers; it is kept only if it is better on others
    of them.

    The kept model is named RUN.personal and used by --model; it never leaves the
    enterprise.

    Example:
    fgcif-client personalize
    """
    with reporting("personalize", form):
        request = PersonalizeRequest.model_validate(
            {
                **chosen(model),
                "validation_fraction": validation_fraction,
                "test_fraction": test_fraction,
                "cutoff": day(cutoff),
                "seed": seed,
            }
        )
        answer = ask(load_enterprise(config), "personalize", request)
        result, warnings = answer.result, answer.warnings
        emit(
            form,
            "personalize",
            result,
            lambda console: _show_personalized(result, warnings, console),
            warnings,
        )


def _show_personalized(
    result: Mapping[str, Any], warnings: Sequence[str], console: Console
) -> None:
    gain, rows = result["gain"], result["rows"]
    console.print(
        f"{result['epochs']} epochs on {rows['train']} own customers; {gain['figure']} on "
        f"{rows['validation']} others: {gain['gain']:+.4f}, at least {gain['lower']:+.4f}",
        markup=False,
        highlight=False,
    )
    _show_metrics({"joint": result["before"], "fine-tuned": result["after"]}, console)
    if result["kept"]:
        console.print(f"Kept as {short_model(result['saved'])}.", markup=False, highlight=False)
        console.print(result["privacy"], markup=False, highlight=False)
    else:
        console.print("Not kept: the gain may be chance. Use the joint model.", highlight=False)
    show_warnings(warnings, console)


def export_command(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Program to write (.pt2).")],
    model: ModelOption = "",
    overwrite: OverwriteOption = False,
    config: ConfigOption = CONFIG_FILE,
    form: FormatOption = Format.TEXT,
) -> None:
    """Write a model as a PyTorch program that needs nothing of this package.

    Beside it, as .json, is written what its inputs and outputs mean.

    Example:
    fgcif-client export-model --out churn.pt2
    """
    with reporting("export-model", form):
        enterprise = load_enterprise(config)
        beside = out.with_suffix(".json")
        program = OutFile.of(out, enterprise, config, overwrite, (".pt2",))
        encoding = OutFile.of(beside, enterprise, config, overwrite, (".json",))
        request = ExportRequest.model_validate(chosen(model))
        answer = ask(enterprise, "export-model", request)
        program.write_bytes(base64.b64decode(answer.result["program"]))
        encoding.write_bytes(base64.b64decode(answer.result["encoding"]))
        result = {"model": answer.result["model"], "out": str(out), "encoding": str(beside)}

        def show(console: Console) -> None:
            console.print(
                f"model {short_model(result['model'])}: {out}; its inputs and outputs: {beside}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
            show_warnings(answer.warnings, console)

        emit(form, "export-model", result, show, answer.warnings)
