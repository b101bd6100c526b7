"""What the agent's process asks of the kernel before it holds a secret."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

from fgcif_flwr.errors import FgcifError

_SET_PDEATHSIG, _SET_DUMPABLE, _SET_NO_NEW_PRIVS = 1, 4, 38  # linux/prctl.h


def harden() -> None:
    """Keep other processes of the same user out of this one, and secrets off the disk.

    No core is dumped; nobody but root may trace the process or read its memory and environment
    under /proc; no program that it starts gains rights; files that it makes are its user's alone.

    Raises
    ------
    FgcifError
        If the kernel refuses.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_SET_DUMPABLE, 0)
    _prctl(_SET_NO_NEW_PRIVS, 1)


def die_with_parent() -> None:
    """Have this process end with the one that started it; to be called in the child."""
    _prctl(_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise FgcifError(f"the kernel refused prctl({option}): {os.strerror(ctypes.get_errno())}")
