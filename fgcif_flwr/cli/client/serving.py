"""``fgcif-client serve`` and ``join``: the agent, and the SuperNode that carries its messages."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer
from rich.console import Console

from fgcif_flwr.cli.client.asking import use_one_thread
from fgcif_flwr.cli.client.options import (
    CONFIG_FILE,
    ConfigOption,
    FormatOption,
    reporting,
    show_warnings,
)
from fgcif_flwr.cli.output import Format, emit
from fgcif_flwr.config.enterprise import load_enterprise
from fgcif_flwr.enterprise.agent.admin import call
from fgcif_flwr.enterprise.operations import OPERATIONS
from fgcif_flwr.enterprise.operations.form import OperationRequest
from fgcif_flwr.enterprise.site import Site
from fgcif_flwr.errors import ConfigurationError


def serve_command(config: ConfigOption = CONFIG_FILE) -> None:
    """Run the agent: it alone holds the rows, the key and the ledger, and answers
    requests.

    It runs until SIGTERM or Ctrl-C, and finishes the request in work. What it
    did is in agent.log of the state directory. Run it as a user that the
    SuperNode does not run as.

    Example:
    fgcif-client serve
    """
    with reporting("serve", Format.TEXT):
        from fgcif_flwr.enterprise.agent.server import serve

        loaded = load_enterprise(config)
        section = loaded.agent
        use_one_thread()

        def ready(customers: int) -> None:
            typer.echo(
                f"ready: {customers} customers; SuperNode's socket {section.shared}, own "
                f"{section.admin}",
                err=True,
            )

        serve(Site.open(loaded), OPERATIONS, ready)


def reload_command(config: ConfigOption = CONFIG_FILE, form: FormatOption = Format.TEXT) -> None:
    """Have the running agent read the enterprise's data anew.

    Rows are read when the agent starts and at this command, never at a request.

    Example:
    fgcif-client reload
    """
    with reporting("reload", form):
        answer = call(load_enterprise(config), "reload", OperationRequest())

        def show(console: Console) -> None:
            console.print(f"{answer.result['customers']} customers loaded", highlight=False)
            show_warnings(answer.warnings, console)

        emit(form, "reload", answer.result, show, answer.warnings)


def join_command(
    agent: Annotated[
        bool,
        typer.Option("--agent/--no-agent", help="Whether to start the agent where none runs."),
    ] = True,
    config: ConfigOption = CONFIG_FILE,
) -> None:
    """Take part: run the SuperNode, and the agent unless one runs, and keep both
    running.

    Agent and SuperNode are different users (agent.user, agent.supernode_user):
    root starts both, or the SuperNode's user starts this beside an agent that
    runs. Where both would be one user it refuses. SIGTERM or Ctrl-C ends both.

    Example:
    fgcif-client join
    """
    with reporting("join", Format.TEXT):
        from fgcif_flwr.enterprise.agent.supervision import supervise

        loaded = load_enterprise(config)
        logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
        serving = [sys.executable, "-P", "-m", "fgcif_flwr.cli.client", "serve"]
        command = [*serving, "--config", str(config.absolute())] if agent else None
        try:
            supervise(loaded, command)
        except OSError as error:
            raise ConfigurationError(
                f"{error.filename or 'a process'} cannot be started: {error.strerror}; agent and "
                "SuperNode must both be able to read this installation"
            ) from None
