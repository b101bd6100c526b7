"""The release log of an enterprise: everything that ever left it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from fgcif_flwr.enterprise.agent.operation import Answer
from fgcif_flwr.enterprise.operations.form import OperationRequest
from fgcif_flwr.enterprise.site import Site
from fgcif_flwr.errors import DataError
from fgcif_flwr.privacy.release_log import LogEntry

_ENTRY = TypeAdapter(LogEntry)


class LogRequest(OperationRequest):
    """Asks for releases.

    Attributes
    ----------
    run
        Only those of runs whose name begins so.
    since
        Only those since then; UTC where it has no time zone.
    last
        Only the last so many of them.
    """

    run: str = Field("", max_length=64)
    since: datetime | None = None
    last: int | None = Field(None, ge=1)


def log(site: Site, request: BaseModel) -> Answer:
    """Return the releases asked for, oldest first, and how many there are in all."""
    assert isinstance(request, LogRequest)
    entries = list(read_releases(site.release_log_path))
    chosen = [entry for entry in entries if entry.run.startswith(request.run[:_RUN_DIGITS])]
    if request.since is not None:
        since = request.since
        since = since.replace(tzinfo=UTC) if since.tzinfo is None else since
        chosen = [entry for entry in chosen if _time(entry, site.release_log_path) >= since]
    if request.last is not None:
        chosen = chosen[-request.last :]
    return Answer({"releases": [asdict(entry) for entry in chosen], "total": len(entries)})


_RUN_DIGITS = 16  # the log names a run by its first digits


def read_releases(path: Path) -> Iterator[LogEntry]:
    """Yield the lines of a release log; a log that is not there has none.

    Raises
    ------
    DataError
        If a line is damaged, with its number, or the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield _ENTRY.validate_python(json.loads(line))
                except (ValueError, ValidationError):
                    raise DataError(
                        f"line {number} of the release log {path} is damaged; keep a copy, and "
                        "find out what wrote there"
                    ) from None
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"the release log {path} cannot be read: {error.strerror}") from None


def _time(entry: LogEntry, path: Path) -> datetime:
    try:
        time = datetime.fromisoformat(entry.time)
    except ValueError:
        raise DataError(f"the release log {path} is damaged: a time of it is none") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
