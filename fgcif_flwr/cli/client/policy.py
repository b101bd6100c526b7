"""``fgcif-client policy``: what this enterprise lets out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fgcif_flwr.cli.client.options import (
    CONFIG_FILE,
    ConfigOption,
    FormatOption,
    plain_table,
    reporting,
)
from fgcif_flwr.cli.output import Format, emit
from fgcif_flwr.config.enterprise import load_enterprise
from fgcif_flwr.enterprise.agent.admin import call
from fgcif_flwr.enterprise.operations.rules import PolicyRequest, changed_rules, rules_of
from fgcif_flwr.errors import AgentNotRunningError
from fgcif_flwr.privacy.policy import load_policy

app = typer.Typer(help="What this enterprise lets out: show, check.", no_args_is_help=True)


@app.command("show")
def show_command(config: ConfigOption = CONFIG_FILE, form: FormatOption = Format.TEXT) -> None:
    """Show every rule as the agent follows it, those that are not the default
    marked.

    Example:
    fgcif-client policy show
    """
    with reporting("policy show", form):
        loaded = load_enterprise(config)
        try:
            result = call(loaded, "policy", PolicyRequest()).result
        except AgentNotRunningError:  # one that starts would follow the file as it stands
            policy = load_policy(loaded.enterprise.policy)
            result = {"rules": rules_of(policy), "changed": changed_rules(policy)}
        emit(form, "policy show", result, lambda console: _show(result, console))


@app.command("check")
def check_command(
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Instead of the configuration's policy.", show_default=False
        ),
    ] = None,
    config: ConfigOption = CONFIG_FILE,
    form: FormatOption = Format.TEXT,
) -> None:
    """Read a policy file, and say what is wrong with it, or what it holds.

    A running agent keeps the policy that it started with.

    Example:
    fgcif-client policy check --policy new-policy.toml
    """
    with reporting("policy check", form):
        path = policy if policy is not None else load_enterprise(config).enterprise.policy
        loaded = load_policy(path)
        result = {"rules": rules_of(loaded), "changed": changed_rules(loaded), "file": str(path)}
        emit(form, "policy check", result, lambda console: _show(result, console))


def _show(result: Mapping[str, Any], console: Console) -> None:
    table = plain_table("rule", "value", "")
    for name, value in result["rules"].items():
        mark = "own" if name in result["changed"] else ""
        table.add_row(name, _in_words(name, value), mark)
    console.print(table, markup=False)


def _in_words(name: str, value: object) -> str:
    if value is None:
        return "a tenth of the roster" if name == "minimum_colluders" else "all"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none at all"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
