"""The inline engine: ServerApp and ClientApp over a local grid, without Flower's processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

from fgcif_flwr.config import RunConfig, flatten
from fgcif_flwr.federation.process_grid import ProcessGrid
from fgcif_flwr.federation.traffic import MeteredGrid


def run_inline(
    server: ServerApp, client: str, config: RunConfig, on_poll: Callable[[], None], log: Path
) -> None:
    """Run a federation of ``config.run.enterprises`` simulated enterprises on all cores.

    Parameters
    ----------
    server : ServerApp
        Runs in this process.
    client : str
        Where the ClientApp is, ``package.module:name``; the workers import it.
    on_poll : callable
        Called before every exchange.
    log : Path
        Where the enterprises' processes log.
    """
    flat = flatten(config)
    enterprises = config.run.enterprises
    processes = min(usable_cores(), enterprises)
    with ProcessGrid(client, enterprises, flat, processes=processes, log=log) as grid:
        context = Context(
            run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(flat)
        )
        server(MeteredGrid(grid, on_exchange=on_poll), context)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux; a container may have fewer than the machine
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
