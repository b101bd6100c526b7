"""The coordinator's way into Flower: reads the run's configuration and walks its stages."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fgcif_flwr.config import unflatten
from fgcif_flwr.errors import FgcifError
from server_app.stages import run_stages, write_failure

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the stages; a failure is written beside the artefacts and ends the run as failed."""
    config = unflatten(context.run_config)
    try:
        run_stages(grid, config)
    except FgcifError as error:
        write_failure(config, error)
        raise
    except Exception as error:  # Flower says only that it failed: leave word of it, and raise
        write_failure(config, FgcifError(f"internal error ({type(error).__name__}); see the log"))
        raise
