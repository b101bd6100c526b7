"""The release log: one line for everything that leaves an enterprise."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class LogEntry:
    """One line of the release log: what left, when, under which guarantee.

    ``unit`` is the privacy unit that was charged; ``none`` is an exact sum.
    """

    time: str
    run: str
    slot: int
    task: str
    numbers: int
    cohort: int
    unit: str
    guarantee: str


class ReleaseLog(Protocol):
    """Where the lines go."""

    def append(self, entry: LogEntry) -> None:
        """Write one line; it must be written when this returns."""


class FileLog:
    """A release log in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: LogEntry) -> None:
        """Append one line, durably; after one that was cut off it begins a line of its own."""
        line = json.dumps(asdict(entry)).encode() + b"\n"
        with self.path.open("a+b", buffering=0) as file:
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line
            if file.write(line) != len(line):
                raise OSError("the release log takes no whole line; see the disk")
            os.fsync(file.fileno())


class MemoryLog:
    """A release log in memory: for tests, and for simulations that write nothing."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []

    def append(self, entry: LogEntry) -> None:
        """Keep one line."""
        self.entries.append(entry)
