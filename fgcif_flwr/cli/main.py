"""``fgcif``: the command of coordinators and researchers."""

from __future__ import annotations

from typing import Annotated

import typer

import fgcif_flwr
from fgcif_flwr.cli import schema
from fgcif_flwr.cli.compare import compare
from fgcif_flwr.cli.fidelity import fidelity_command
from fgcif_flwr.cli.plan import plan
from fgcif_flwr.cli.predict import predict_command
from fgcif_flwr.cli.simulate import simulate
from fgcif_flwr.cli.synthesize import synthesize

app = typer.Typer(
    name="fgcif",
    help="Several enterprises learn from their customers together without showing each other one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("simulate")(simulate)
app.command("compare")(compare)
app.command("plan")(plan)
app.command("predict")(predict_command)
app.command("synthesize")(synthesize)
app.command("fidelity")(fidelity_command)
app.add_typer(schema.app, name="schema")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fgcif {fgcif_flwr.__version__}")
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
    app()
