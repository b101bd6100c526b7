"""``fgcif-client check``: whether this enterprise is ready to take part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from fgcif_flwr.cli.client.connection import examine_connection, examine_supernode
from fgcif_flwr.cli.client.options import (
    CONFIG_FILE,
    ConfigOption,
    FormatOption,
    counted,
    plain_table,
    reporting,
)
from fgcif_flwr.cli.output import Format, emit
from fgcif_flwr.config.enterprise import EnterpriseConfig, load_enterprise
from fgcif_flwr.enterprise.agent.admin import call
from fgcif_flwr.enterprise.operations.readiness import Check, CheckRequest, examine
from fgcif_flwr.errors import AgentNotRunningError

NOT_READY = 4
"""Exit code of a check that found a fault."""
_NOBODY = "not running, or this user may not use it"
_STYLES = {"ok": "green", "warning": "yellow", "fault": "bold red", "not checked": "dim"}


def check_command(
    connection: Annotated[
        bool, typer.Option("--connection/--no-connection", help="Whether to try the SuperLink.")
    ] = True,
    config: ConfigOption = CONFIG_FILE,
    form: FormatOption = Format.TEXT,
) -> None:
    """Say whether this enterprise is ready: data, policy, keys, rights, roster,
    connection.

    Everything is looked at, whatever is found before. Exit code 0: ready, maybe
    with warnings; 4: not ready; others as for all commands.

    Example:
    fgcif-client check
    """
    with reporting("check", form):
        checks = _checks(load_enterprise(config), connection)
        faults = sum(one.state == "fault" for one in checks)
        result: dict[str, Any] = {
            "ready": not faults,
            "checks": [asdict(one) for one in checks],
        }
        emit(form, "check", result, lambda console: _show(checks, console))
        if faults:
            raise typer.Exit(NOT_READY)


def _checks(config: EnterpriseConfig, connection: bool) -> list[Check]:
    try:
        answer = call(config, "check", CheckRequest())
    except AgentNotRunningError:
        own = list(examine(config))
        own.append(Check("agent", "warning", _NOBODY, "fgcif-client serve starts it"))
    else:
        own = [Check(**one) for one in answer.result["checks"]]
        own.append(Check("agent", "ok", f"answers on {config.agent.admin}"))
    own.append(examine_supernode(config))
    return own + (list(examine_connection(config.supernode)) if connection else [])


def _show(checks: Sequence[Check], console: Console) -> None:
    table = plain_table("", "", "found")
    for one in checks:
        found = Text(one.found)
        if one.advice:
            found.append(f"\n-> {one.advice}", style="dim")
        table.add_row(Text(one.state, style=_STYLES[one.state]), one.name, found)
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    console.print(table)
    faults = sum(one.state == "fault" for one in checks)
    warnings = sum(one.state == "warning" for one in checks)
    ready = f"not ready: {counted(faults, 'fault')}" if faults else "ready"
    more = f", {counted(warnings, 'warning')}" if warnings else ""
    console.print(f"{ready}{more}", highlight=False)
