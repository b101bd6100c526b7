"""An agent's process for tests: ``python -m tests.agent_process CONFIGURATION``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from fgcif_flwr.config.enterprise import load_enterprise
from fgcif_flwr.enterprise.agent.server import serve
from fgcif_flwr.enterprise.site import Site


def main(path: str) -> None:
    torch.set_num_threads(1)
    serve(
        Site.open(load_enterprise(Path(path))),
        {},
        lambda customers: print(f"ready {customers}", flush=True),
    )


if __name__ == "__main__":
    main(sys.argv[1])
