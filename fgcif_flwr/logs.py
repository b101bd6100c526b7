"""Where the log of a run goes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOGGERS = ("flwr", "fgcif_flwr", "server_app", "client_app")


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Send the log of Flower and of this project to a file, away from the terminal."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    before = {}
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        before[name] = (logger.handlers, logger.propagate, logger.level)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for name, (handlers, propagate, level) in before.items():
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()
