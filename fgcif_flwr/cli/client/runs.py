"""``fgcif-client runs``: what a coordinator asked to join, and who approves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from fgcif_flwr.cli.client.asking import ask
from fgcif_flwr.cli.client.options import (
    CONFIG_FILE,
    SHOWN_DIGITS,
    ConfigOption,
    FormatOption,
    plain_table,
    reporting,
    show_warnings,
)
from fgcif_flwr.cli.output import Format, emit
from fgcif_flwr.config.enterprise import load_enterprise
from fgcif_flwr.enterprise.agent.limits import LEAST_DIGITS
from fgcif_flwr.enterprise.operations.asked_runs import ApproveRequest, RunsRequest
from fgcif_flwr.errors import ConfigurationError

app = typer.Typer(help="Runs that were asked for: list, approve.", no_args_is_help=True)

_TERMS_DIGITS = 12


@app.command("list")
def list_command(config: ConfigOption = CONFIG_FILE, form: FormatOption = Format.TEXT) -> None:
    """List the runs that a coordinator asked to join, the newest first.

    Example:
    fgcif-client runs list
    """
    with reporting("runs list", form):
        result = ask(load_enterprise(config), "runs", RunsRequest()).result
        emit(form, "runs list", result, lambda console: _show(result, console))


def _show(result: Mapping[str, Any], console: Console) -> None:
    if not result["runs"]:
        console.print("No run was asked for.")
        return
    table = plain_table("asked (UTC)", "state", "unit", ">epsilon", ">rounds", "run", "terms")
    for run in result["runs"]:
        rounds = run["configuration"].get("run.rounds", "")
        table.add_row(
            run["asked"][:16].replace("T", " "),
            run["state"],
            run["unit"],
            f"{run['epsilon']:.4g}" if run["unit"] != "none" else "-",
            str(rounds),
            run["run"][:SHOWN_DIGITS],
            run["terms"][:_TERMS_DIGITS],
        )
    console.print(table)
    if result["approval"]:
        waiting = dict.fromkeys(run["terms"] for run in result["runs"] if run["state"] == "waiting")
        for terms in waiting:
            console.print(f"fgcif-client runs approve {terms[:LEAST_DIGITS]}", highlight=False)
    else:
        console.print("Runs are joined without approval (agent.approval).", highlight=False)


@app.command("approve")
def approve_command(
    terms: Annotated[str, typer.Argument(help="A run's terms, as runs list shows them.")],
    config: ConfigOption = CONFIG_FILE,
    form: FormatOption = Format.TEXT,
) -> None:
    """Let a run be joined the next time that it is asked for.

    TERMS is the hash that runs list shows, or its first 32 digits or more. It
    holds for one run with exactly these terms.

    Example:
    fgcif-client runs approve 3f2a9c01b5d24e7796a0c1f8e4d35b62
    """
    with reporting("runs approve", form):
        if not LEAST_DIGITS <= len(terms) <= 64 or set(terms.lower()) - set("0123456789abcdef"):
            raise ConfigurationError("TERMS wants 32 to 64 hexadecimal digits, as runs list shows")
        answer = ask(load_enterprise(config), "approve", ApproveRequest(terms=terms))
        result, warnings = answer.result, answer.warnings
        emit(
            form,
            "runs approve",
            result,
            lambda console: _show_approved(result["terms"], warnings, console),
            warnings,
        )


def _show_approved(terms: str, warnings: Sequence[str], console: Console) -> None:
    console.print(f"approved: one run with terms {terms[:_TERMS_DIGITS]}", highlight=False)
    show_warnings(warnings, console)
