"""Simulated enterprises: rows from one table, identities drawn at first contact.

All of them live in the simulation's processes. Nothing here holds in a deployment, where an
enterprise brings its own rows and key, and pins the roster.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.consortium import Consortium, load_consortium
from fgcif_flwr.enterprise.enterprise import Enterprise
from fgcif_flwr.federation.requests import Reply, Request
from fgcif_flwr.privacy.door import FileLog, MemoryLog, Policy, ReleaseLog
from fgcif_flwr.secagg import Participant
from fgcif_flwr.secagg.keys import identity_from_seed
from fgcif_flwr.secagg.participant.snapshot import State, dump, load

LOG_DIRECTORY = "releases"
_POLICY = Policy(minimum_colluders=1)  # the run's configuration is the simulation's own


def answer(
    config: RunConfig, index: int, request: Request, state: Mapping[str, object]
) -> tuple[Reply, State]:
    """Let enterprise number ``index`` answer; return its reply and its state for the next time.

    Parameters
    ----------
    config
        The simulation's: says which rows there are and how they are divided.
    index
        0 <= index < config.run.enterprises.
    state
        As returned the last time; empty at first.
    """
    torch.set_num_threads(1)  # many enterprises share the cores
    consortium = consortium_of(config)
    rows = consortium.enterprises[index]
    if state:
        participant = load(state)
    else:
        # All enterprises and the coordinator are one process here: it is trusted anyway.
        participant = Participant(rows.name, identity_from_seed(os.urandom(32)), semi_honest=True)
    log = _log(config.run.output, index)
    enterprise = Enterprise(consortium.schema, rows, participant, _POLICY, log)
    reply = enterprise.answer(request)
    return reply, dump(participant)


@lru_cache(maxsize=2)
def consortium_of(config: RunConfig) -> Consortium:
    """Load the rows once in each process."""
    return load_consortium(config)


def _log(output: str, index: int) -> ReleaseLog:
    if not output:
        return MemoryLog()
    directory = Path(output) / LOG_DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    return FileLog(directory / f"{index:04d}.jsonl")
