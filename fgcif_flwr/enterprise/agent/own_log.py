"""The agent's own log: JSON lines of what was asked, answered and refused.

Of an exception it takes the class and where it was raised, never the text: a library's words may
quote a cell.
"""

from __future__ import annotations

import json
import logging
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fgcif_flwr.errors import DataError

EVENT = "event"
"""Name of the attribute of a log record that holds an event's fields."""
_LARGEST = 16 * 2**20
_KEPT = 9
_LONGEST_TEXT = 500
_QUIET = ("httpx", "httpcore", "asyncio", "uvicorn")


def log_event(logger: logging.Logger, event: str, **fields: object) -> None:
    """Write one event; ``fields`` are JSON values, none of them of a customer's row."""
    level = logging.WARNING if fields.get("outcome") == "refused" else logging.INFO
    logger.log(level, "%s", event, extra={EVENT: {"event": event, **fields}})


class JsonLines(logging.Formatter):
    """Formats log records as JSON objects, one line each."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
        }
        fields = getattr(record, EVENT, None)
        if isinstance(fields, dict):
            line |= {key: _short(value) for key, value in fields.items()}
        else:
            line |= {"event": "log", "of": record.name, "text": _short(record.getMessage())}
        if record.exc_info and record.exc_info[0] is not None:
            line["raised"] = record.exc_info[0].__name__
            line["at"] = [
                f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(record.exc_info[2])
            ][-8:]
        return json.dumps(line)


@contextmanager
def logging_to_own_file(path: Path) -> Iterator[None]:
    """Send all logs of this process to ``path`` alone, a file of mode 0600.

    At 16 MiB the file is set aside as ``path.1``, and nine of these are kept: whoever floods the
    agent with requests fills no disk.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW, 0o600))
        handler = RotatingFileHandler(path, maxBytes=_LARGEST, backupCount=_KEPT, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from None
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    before, level = root.handlers, root.level
    quiet = {name: logging.getLogger(name).level for name in _QUIET}
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.handlers = before
        root.setLevel(level)
        for name, old in quiet.items():
            logging.getLogger(name).setLevel(old)
        handler.close()


def _short(value: object) -> object:
    """Keep a stranger's words from flooding the log, and from a terminal's control characters."""
    if not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() else "?" for c in value[:_LONGEST_TEXT])
