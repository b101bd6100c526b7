"""One process at a time on an enterprise's state."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fgcif_flwr.errors import ConfigurationError


@contextmanager
def state_lock(directory: Path) -> Iterator[None]:
    """Hold an enterprise's state directory.

    Raises
    ------
    ConfigurationError
        If another process holds it, or it cannot be written.
    """
    path = directory / "agent.lock"
    try:
        file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"an agent runs on {directory} already; two would spend a slot twice"
            ) from None
        yield
    finally:
        os.close(file)
