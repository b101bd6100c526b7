"""Progress on stderr: bars on a terminal, a line now and then where there is none."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

_LINES = 10


class RunProgress:
    """The stages of a command, one after the other; a context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars: Progress | None = None
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._console,
            )
        self._task: TaskID | None = None
        self._name, self._total, self._told = "", 1, 0

    def __enter__(self) -> RunProgress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def stage(self, name: str, total: int = 1) -> None:
        """Begin a stage of ``total`` steps."""
        self._name, self._total, self._told = name, total, 0
        if self._bars is not None:
            self._task = self._bars.add_task(name, total=total)
        else:
            self._console.print(name)

    def update(self, done: int) -> None:
        """Say how many steps of the stage are done."""
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=done)
        elif self._total > 1 and done * _LINES // self._total > self._told:
            self._told = done * _LINES // self._total
            self._console.print(f"{self._name}: {done}/{self._total}")

    def done(self) -> None:
        """End the stage."""
        self.update(self._total)
