"""``fgcif-client``: the command of an enterprise."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

import fgcif_flwr
from fgcif_flwr.cli.client import policy, runs, schema
from fgcif_flwr.cli.client.check import check_command
from fgcif_flwr.cli.client.data import describe_command, features_command
from fgcif_flwr.cli.client.init import init_command
from fgcif_flwr.cli.client.models import (
    evaluate_command,
    export_command,
    personalize_command,
    score_command,
)
from fgcif_flwr.cli.client.options import PROGRAM
from fgcif_flwr.cli.client.serving import join_command, reload_command, serve_command
from fgcif_flwr.cli.client.state import budget_command, log_command, status_command
from fgcif_flwr.cli.client.synthesize import synthesize_command

_SETTING_UP = "Setting up"
_TAKING_PART = "Taking part"
_WHAT_LEFT = "What left the house"
_MODELS = "Data and models"

app = typer.Typer(
    name=PROGRAM,
    help="An enterprise's side of a federation: its data, its agent, its privacy budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("init", rich_help_panel=_SETTING_UP)(init_command)
app.command("check", rich_help_panel=_SETTING_UP)(check_command)
app.add_typer(schema.app, name="schema", rich_help_panel=_SETTING_UP)
app.add_typer(policy.app, name="policy", rich_help_panel=_SETTING_UP)
app.command("serve", rich_help_panel=_TAKING_PART)(serve_command)
app.command("reload", rich_help_panel=_TAKING_PART)(reload_command)
app.command("join", rich_help_panel=_TAKING_PART)(join_command)
app.add_typer(runs.app, name="runs", rich_help_panel=_TAKING_PART)
app.command("status", rich_help_panel=_WHAT_LEFT)(status_command)
app.command("budget", rich_help_panel=_WHAT_LEFT)(budget_command)
app.command("log", rich_help_panel=_WHAT_LEFT)(log_command)
app.command("describe", rich_help_panel=_MODELS)(describe_command)
app.command("features", rich_help_panel=_MODELS)(features_command)
app.command("evaluate", rich_help_panel=_MODELS)(evaluate_command)
app.command("score", rich_help_panel=_MODELS)(score_command)
app.command("personalize", rich_help_panel=_MODELS)(personalize_command)
app.command("synthesize", rich_help_panel=_MODELS)(synthesize_command)
app.command("export-model", rich_help_panel=_MODELS)(export_command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"{PROGRAM} {fgcif_flwr.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of all commands."""


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a word that the terminal lacks ends no command
            stream.reconfigure(errors="replace")
    app()
