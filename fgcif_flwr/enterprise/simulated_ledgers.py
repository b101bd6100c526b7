"""Ledgers of simulated enterprises: opened once in a process, since each opening reads the file.

A deployed enterprise's agent keeps its one ledger open; here some process answers for any of the
enterprises, whose ledgers other processes may have open as well.
"""

from __future__ import annotations

import atexit
import os
from collections import OrderedDict
from pathlib import Path

from fgcif_flwr.config import RunConfig
from fgcif_flwr.errors import LedgerError
from fgcif_flwr.federation.requests import Join, Release, Request
from fgcif_flwr.privacy.ledger import SqliteLedger, Witness
from fgcif_flwr.secagg.messages import AdvertiseRequest

LEDGER_DIRECTORY = "ledgers"
_MOST_OPEN = 128
_open: OrderedDict[tuple[Path, int], SqliteLedger] = OrderedDict()


def ledger_for(config: RunConfig, index: int, request: Request) -> SqliteLedger | None:
    """Return the ledger of enterprise ``index`` where a unit is stated, for what needs it."""
    if config.privacy.unit == "none" or not isinstance(request, Join | Release):
        return None
    path = _directory(config) / f"{index:04d}.db"
    population = f"enterprise {index}"
    if not path.exists():
        SqliteLedger(path, population).close()
    key = (path, path.stat().st_ino)  # a new run's file is not the one of before
    if key not in _open:
        _open[key] = SqliteLedger(path, population)
    _open.move_to_end(key)
    while len(_open) > _MOST_OPEN:
        _open.popitem(last=False)[1].close()
    return _open[key]


def witness_for(config: RunConfig, index: int, request: Request) -> Witness | None:
    """Return a new connection to what enterprise ``index`` saw of others' ledgers, where joins
    are shown to it."""
    if config.privacy.unit == "none" or not isinstance(request, AdvertiseRequest):
        return None
    if not request.joins:
        return None
    return Witness(_directory(config) / f"{index:04d}-others.db")


def _directory(config: RunConfig) -> Path:
    if not config.run.output:
        raise LedgerError("run.output: a simulation with a privacy unit wants a directory")
    directory = Path(config.run.output) / LEDGER_DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def close_all() -> None:
    """Close the ledgers that this process has open."""
    while _open:
        _open.popitem()[1].close()


atexit.register(close_all)
# A connection must not be used in a forked child: it opens its own.
os.register_at_fork(after_in_child=_open.clear)
