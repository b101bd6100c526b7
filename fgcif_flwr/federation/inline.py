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

_CLIENT_APP = "client_app.app:app"


def run_inline(
    server: ServerApp, config: RunConfig, on_poll: Callable[[], None], log: Path
) -> None:
    """Run a federation of ``config.run.enterprises`` simulated enterprises on all cores.

    Parameters
    ----------
    server : ServerApp
        Runs in this process.
    on_poll : callable
        Called before every exchange.
    log : Path
        Where the enterprises' processes log.
    """
    flat = flatten(config)
    enterprises = config.run.enterprises
    processes = min(os.cpu_count() or 1, enterprises)
    with ProcessGrid(_CLIENT_APP, enterprises, flat, processes=processes, log=log) as grid:
        context = Context(
            run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(flat)
        )
        server(MeteredGrid(grid, on_exchange=on_poll), context)
