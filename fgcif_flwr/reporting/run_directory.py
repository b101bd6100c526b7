"""The directory of a run: what was asked, what happened, what came out.

run.json            configuration, schema, versions, seed, secure sum, privacy, metrics
history.jsonl       one line a round
model.safetensors   the model, with its schema
generator.safetensors   the shared generator, if there is one
MODEL_CARD.md       the model in words
failure.json        instead of the last three, when the run failed
run.log             the log
releases/           one file an enterprise: what left it
ledgers/            one file an enterprise: what it was charged, under a privacy unit
witness.db          what the ledgers showed at joins
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fgcif_flwr.errors import DataError, FgcifError

Json = Mapping[str, object]


class RunDirectory:
    """Files of one run.

    Parameters
    ----------
    path : Path
        Made if it is not there.

    Raises
    ------
    DataError
        If it cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"the run's directory {path} cannot be made: {error.strerror}"
            ) from None

    @property
    def model(self) -> Path:
        """The model's file."""
        return self.path / "model.safetensors"

    @property
    def generator(self) -> Path:
        """The shared generator's file."""
        return self.path / "generator.safetensors"

    @property
    def card(self) -> Path:
        """The model card."""
        return self.path / "MODEL_CARD.md"

    @property
    def log(self) -> Path:
        """The log."""
        return self.path / "run.log"

    @property
    def history(self) -> Path:
        """One JSON line a round."""
        return self.path / "history.jsonl"

    @property
    def record(self) -> Path:
        """The run's record."""
        return self.path / "run.json"

    @property
    def failure(self) -> Path:
        """Why the run failed."""
        return self.path / "failure.json"

    @property
    def witness(self) -> Path:
        """What the enterprises' ledgers showed at joins."""
        return self.path / "witness.db"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the directory; DataError if one is in it."""
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(
                    f"another run is writing to {self.path}; wait for it or choose another --out"
                ) from None
            yield

    def clear(self) -> None:
        """Remove what an earlier run left, so that nothing stale is read as this run's.

        The log stays: whoever runs may be writing it already.
        """
        for file in (
            self.model,
            self.generator,
            self.card,
            self.history,
            self.record,
            self.failure,
        ):
            file.unlink(missing_ok=True)
        for pattern in ("releases/*.jsonl", "ledgers/*.db*", "witness.db*"):
            for file in self.path.glob(pattern):
                file.unlink()

    def append_history(self, row: Json) -> None:
        """Append one round."""
        with self.history.open("a", encoding="utf-8") as file:
            file.write(dumps(row) + "\n")

    def read_history(self) -> list[dict[str, object]]:
        """Return the rounds so far; a line that is still being written is left for later."""
        return list(self._history_lines())

    def _history_lines(self) -> Iterator[dict[str, object]]:
        if not self.history.exists():
            return
        for line in self.history.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)

    def write_record(self, record: Json) -> None:
        """Write the run's record, whole or not at all."""
        _write(self.record, dumps(record, indent=2) + "\n")

    def read_record(self) -> dict[str, object]:
        """Return the run's record."""
        read: dict[str, object] = json.loads(self.record.read_text(encoding="utf-8"))
        return read

    def write_failure(self, error: FgcifError) -> None:
        """Write why the run failed: exit code and message."""
        _write(self.failure, dumps({"exit_code": error.exit_code, "message": str(error)}) + "\n")

    def write_card(self, text: str) -> None:
        """Write the model card."""
        _write(self.card, text)


def dumps(value: object, indent: int | None = None) -> str:
    """Return strict JSON: undefined figures (NaN) become null."""
    return json.dumps(_without_nan(value), indent=indent, allow_nan=False)


def _without_nan(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
