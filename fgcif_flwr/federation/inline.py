"""The inline engine: ServerApp and ClientApp over an in-process grid."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fgcif_flwr.config import RunConfig, flatten
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.traffic import MeteredGrid


def run_inline(
    server: ServerApp, client: ClientApp, config: RunConfig, on_poll: Callable[[], None]
) -> None:
    """Run a federation of ``config.run.enterprises`` simulated enterprises in this process.

    ``on_poll`` is called before every exchange.
    """
    flat = flatten(config)
    grid = MeteredGrid(InlineGrid(client, config.run.enterprises, flat), on_exchange=on_poll)
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(flat)
    )
    server(grid, context)
