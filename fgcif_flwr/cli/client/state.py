"""``fgcif-client status``, ``budget`` and ``log``: how the enterprise stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from fgcif_flwr.cli.client.asking import ask, ask_whom
from fgcif_flwr.cli.client.options import (
    CONFIG_FILE,
    SHOWN_DIGITS,
    ConfigOption,
    FormatOption,
    bar,
    plain_table,
    reporting,
    short_model,
    show_pairs,
    show_warnings,
)
from fgcif_flwr.cli.output import Format, emit
from fgcif_flwr.config.enterprise import load_enterprise
from fgcif_flwr.enterprise.agent.admin import call
from fgcif_flwr.enterprise.operations.budget import BudgetRequest
from fgcif_flwr.enterprise.operations.form import OperationRequest
from fgcif_flwr.enterprise.operations.releases import LogRequest
from fgcif_flwr.enterprise.operations.state import StatusRequest


def status_command(config: ConfigOption = CONFIG_FILE, form: FormatOption = Format.TEXT) -> None:
    """Say who this enterprise is, whether its agent runs, and what was spent and
    released.

    Example:
    fgcif-client status
    """
    with reporting("status", form):
        loaded = load_enterprise(config)
        answer, running = ask_whom(loaded, "status", StatusRequest())
        agent = call(loaded, "agent", OperationRequest()).result if running else None
        result = {**answer.result, "agent": agent}
        emit(form, "status", result, lambda console: _show_status(result, console))


def _show_status(result: Mapping[str, Any], console: Console) -> None:
    budget, schema, agent = result["budget"], result["schema"], result["agent"]
    members, coordinator = result["enterprises"], result["coordinator"]
    running = "not running"
    if agent is not None:
        running = f"process {agent['process']}, {agent['customers']} customers loaded"
    last = f", the last at {result['last_release']}" if result["last_release"] else ""
    models = ", ".join(short_model(name) for name in result["models"]) or "none"
    show_pairs(
        {
            "enterprise": result["name"],
            "agent": running,
            "schema": f"{schema['name']} ({schema['hash'][:16]})",
            "roster": f"{members} enterprises" if members else "none yet",
            "coordinator": f"{coordinator[:16]}..." if coordinator else "none yet",
            "public key": result["public_key"],
            "state": result["directory"],
            "releases": f"{result['releases']}{last}",
            "budget": f"epsilon {_epsilon(budget['spent']):.4g} of "
            f"{budget['epsilon_total']:g} spent",
            "models": f"{result['kept_models']}: {models}" if result["kept_models"] else models,
        },
        console,
    )


def budget_command(config: ConfigOption = CONFIG_FILE, form: FormatOption = Format.TEXT) -> None:
    """Show the privacy budget: what each run has cost, what is spent, what remains.

    An epsilon is that of the customers who were charged most. A refused run
    costs nothing; a release counts from when it was begun.

    Example:
    fgcif-client budget --format json
    """
    with reporting("budget", form):
        answer = ask(load_enterprise(config), "budget", BudgetRequest())
        result, warnings = answer.result, answer.warnings
        emit(
            form,
            "budget",
            result,
            lambda console: _show_budget(result, warnings, console),
            warnings,
        )


def _show_budget(result: Mapping[str, Any], warnings: tuple[str, ...], console: Console) -> None:
    total, spent = result["epsilon_total"], _epsilon(result["spent"])
    share = min(spent / total, 1.0)
    console.print(
        f"{bar(share, console)} {share:.0%}", markup=False, highlight=False, style=_colour(share)
    )
    show_pairs(
        {
            "spent": f"epsilon {spent:.4g} of {total:g} at delta {result['delta_total']:g}",
            "remaining": f"epsilon {max(0.0, total - spent):.4g}",
            "releases": f"{result['releases']} charged"
            + (f", {result['unfinished']} of them not finished" if result["unfinished"] else ""),
            "limit of one run": f"epsilon {result['epsilon_per_run']:g} at delta "
            f"{result['delta_per_run']:g}",
        },
        console,
    )
    if result["runs"]:
        console.print()
        table = plain_table("run", ">epsilon", "", ">releases", "tasks")
        for run in result["runs"]:
            tasks = ", ".join(f"{task} {count}" for task, count in run["tasks"].items())
            table.add_row(
                run["run"][:SHOWN_DIGITS],
                f"{_epsilon(run['epsilon']):.4g}",
                bar(_epsilon(run["epsilon"]) / result["epsilon_per_run"], console, 12),
                str(run["releases"]),
                tasks,
            )
        console.print(table)
    if len(result["stretches"]) > 1:
        console.print()
        table = plain_table("customers whose hash is in", ">epsilon", ">charges")
        for one in result["stretches"]:
            table.add_row(
                f"[{one['from']:.3g}, {one['to']:.3g})",
                f"{_epsilon(one['epsilon']):.4g}",
                str(one["charges"]),
            )
        console.print(table, markup=False)
    if warnings:
        console.print()
    show_warnings(warnings, console)


def _epsilon(told: float | None) -> float:
    """Return an epsilon; null stands for one without bound."""
    return math.inf if told is None else told


def _colour(share: float) -> str:
    return "green" if share < 0.5 else "yellow" if share < 0.9 else "red"


def log_command(
    run: Annotated[
        str, typer.Option(help="Only runs whose name begins so.", show_default=False)
    ] = "",
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"],
            metavar="TIME",
            help="Only since this day or time (UTC).",
            show_default=False,
        ),
    ] = None,
    last: Annotated[
        int | None, typer.Option(min=1, help="Only the last so many.", show_default=False)
    ] = None,
    config: ConfigOption = CONFIG_FILE,
    form: FormatOption = Format.TEXT,
) -> None:
    """Show what left this enterprise: when, how many numbers, under which
    guarantee.

    Example:
    fgcif-client log --since 2026-01-01 --last 20
    """
    with reporting("log", form):
        request = LogRequest(run=run, since=since, last=last)
        answer = ask(load_enterprise(config), "log", request)
        result = answer.result
        emit(form, "log", result, lambda console: _show_log(result, console))


def _show_log(result: Mapping[str, Any], console: Console) -> None:
    releases = result["releases"]
    if not releases:
        console.print(
            "No release is of that run or time." if result["total"] else "Nothing left this house."
        )
        return
    guarantees: dict[str, int] = {}
    table = plain_table("time (UTC)", "run", ">slot", "task", ">numbers", ">sum of", ">guarantee")
    for one in releases:
        number = guarantees.setdefault(one["guarantee"], len(guarantees) + 1)
        table.add_row(
            one["time"].removesuffix("Z").replace("T", " "),
            one["run"][:SHOWN_DIGITS],
            str(one["slot"]),
            one["task"],
            str(one["numbers"]),
            str(one["cohort"]),
            f"({number})",
        )
    console.print(table)
    console.print()
    for words, number in guarantees.items():
        console.print(f"({number}) {words}", markup=False, highlight=False)
    console.print(
        f"{len(releases)} of {result['total']} releases, each hidden in the sum of as many "
        "enterprises.",
        highlight=False,
    )
