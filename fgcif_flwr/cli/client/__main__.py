"""``python -m fgcif_flwr.cli.client``: as ``fgcif-client``, where that is not on the path."""

from __future__ import annotations

from fgcif_flwr.cli.client.main import main

if __name__ == "__main__":
    main()
