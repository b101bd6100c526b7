"""Simulated enterprises: rows from one table, identities drawn at first contact.

All of them live in the simulation's processes. Nothing here holds in a deployment, where an
enterprise brings its own rows and key, and pins the roster.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path

import torch

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.consortium import Consortium, load_consortium
from fgcif_flwr.enterprise.enterprise import Enterprise
from fgcif_flwr.enterprise.simulated_ledgers import ledger_for, witness_for
from fgcif_flwr.federation.requests import Reply, Request
from fgcif_flwr.privacy.policy import Policy
from fgcif_flwr.privacy.release_log import FileLog, MemoryLog, ReleaseLog
from fgcif_flwr.secagg import Participant
from fgcif_flwr.secagg.keys import identity_from_seed
from fgcif_flwr.secagg.participant.snapshot import State, dump, load

LOG_DIRECTORY = "releases"
_MOST_STEPS = 1 << 62  # whoever simulates may wait
_MOST_EPSILON = 1e6  # where a simulation states only the noise


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
    ledger, witness = ledger_for(config, index, request), witness_for(config, index, request)
    with nullcontext() if witness is None else witness:
        policy = policy_of(config)
        enterprise = Enterprise(consortium.schema, rows, participant, policy, log, ledger, witness)
        reply = enterprise.answer(request)
    return reply, dump(participant)


def policy_of(config: RunConfig) -> Policy:
    """Return the policy of every simulated enterprise: what the run's configuration asks for.

    The budget is the run's, so that a run that costs more than it says is refused.
    """
    privacy = config.privacy
    if privacy.unit == "none":
        return Policy(
            minimum_colluders=1, units=frozenset({"none"}), maximum_local_steps=_MOST_STEPS
        )
    epsilon = math.inf if privacy.epsilon == "none" else privacy.epsilon
    delta = float(privacy.delta)
    most = min(epsilon * (1 + 1e-6), _MOST_EPSILON)
    return Policy(
        minimum_colluders=1,
        units=frozenset({privacy.unit}),
        epsilon_per_run=most,
        epsilon_total=most,
        delta_per_run=delta,
        delta_total=delta,
        maximum_local_steps=_MOST_STEPS,
    )


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
