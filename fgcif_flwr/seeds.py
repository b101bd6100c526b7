"""Seeds for everything in a run that is drawn, but for keys, masks and noise."""

from __future__ import annotations

import hashlib
import json

from fgcif_flwr.config import RunConfig


def seed_for(config: RunConfig, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose, from the run's seed.

    Different purposes give independent seeds; the same one gives the same in every process.
    """
    text = json.dumps([config.run.seed, *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
