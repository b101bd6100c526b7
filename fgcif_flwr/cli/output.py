"""What commands print: text for people or one JSON object, progress on stderr, exit codes."""

from __future__ import annotations

import os
import secrets
import signal
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import typer
from rich.console import Console

from fgcif_flwr.errors import DataError, FgcifError
from fgcif_flwr.reporting.run_directory import dumps


class Format(StrEnum):
    """How a command prints its result."""

    TEXT = "text"
    JSON = "json"


def envelope(
    command: str, result: Mapping[str, Any] | None, warnings: Sequence[str] = ()
) -> dict[str, object]:
    """Return the JSON object of a command that succeeded."""
    return {"command": command, "status": "ok", "result": result, "warnings": list(warnings)}


@contextmanager
def reporting_errors(command: str, form: Format, program: str = "fgcif") -> Iterator[None]:
    """Turn errors into one clear line and an exit code; in JSON also into one object on stdout.

    The line begins with the name of the program. An error of ours that is not a
    :class:`FgcifError` exits with 1, its traceback in a file.
    """
    try:
        yield
    except FgcifError as error:
        _fail(program, command, form, error.exit_code, str(error))
    except KeyboardInterrupt:
        _fail(program, command, form, 130, "interrupted")
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:  # a person gets one line; what broke is for a report to us
        with tempfile.NamedTemporaryFile(
            "w", prefix="fgcif-", suffix=".traceback", delete=False, encoding="utf-8"
        ) as file:
            traceback.print_exc(file=file)
        message = f"internal error ({type(error).__name__}); see {file.name}"
        _fail(program, command, form, 1, message)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command as an exception does, so that what it started ends.

    The exit code is 128 plus the signal's number, as shells have it.
    """

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write_table(table: pa.Table, out: Path) -> None:
    """Write Parquet where the file's name ends so, else CSV; DataError if it cannot be written."""
    with _writing(out):
        if out.suffix == ".parquet":
            pa.parquet.write_table(table, out)
        else:
            pa.csv.write_csv(table, out)


def write_text(text: str, out: Path, *, make_directory: bool = False) -> None:
    """Write text as UTF-8; DataError if it cannot be written."""
    with _writing(out):
        if make_directory:
            out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")


def write_table_of_customers(table: pa.Table, out: Path, *, overwrite: bool) -> None:
    """Write Parquet where the file's name ends so, else CSV, as a file of customers."""

    def write(file: IO[bytes]) -> None:
        if out.suffix.lower() == ".parquet":
            pa.parquet.write_table(table, file)
        else:
            pa.csv.write_csv(table, file)

    write_file_of_customers(out, write, overwrite=overwrite)


def write_file_of_customers(
    out: Path, write: Callable[[IO[bytes]], object], *, overwrite: bool
) -> None:
    """Write a file that its owner alone may read (mode 0600): whole, or not at all.

    It is made beside ``out`` and renamed, so that what is there stays until all is written, and no
    link is followed.

    Raises
    ------
    DataError
        If it cannot be written, or is there and is not to be overwritten.
    """
    refuse_existing(out, overwrite)
    new = out.with_name(f".{out.name[:100]}.{secrets.token_hex(8)}.part")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with _writing(out):
        descriptor = os.open(new, flags, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            refuse_existing(out, overwrite)  # the computing may have taken long
            new.replace(out)
        finally:
            new.unlink(missing_ok=True)


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Raise DataError where ``out`` is there, unless it is a file that is to be overwritten."""
    with _writing(out):
        try:
            mode = out.lstat().st_mode
        except FileNotFoundError:
            return
    if not overwrite:
        raise DataError(f"{out} is there already; name another file, or say --overwrite")
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise DataError(f"{out} is no file; name another one")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{out} cannot be written: {error.strerror or 'see its directory'}"
        ) from None


def _fail(program: str, command: str, form: Format, code: int, message: str) -> None:
    line = " ".join(message.split())
    if form is Format.JSON:
        failed = {
            "command": command,
            "status": "failed",
            "error": {"exit_code": code, "message": line},
            "warnings": [],
        }
        typer.echo(dumps(failed, indent=2))
    typer.echo(f"{program}: {line}", err=True)
    raise typer.Exit(code)


def emit(
    form: Format,
    command: str,
    result: Mapping[str, Any],
    show: Callable[[Console], None],
    warnings: Sequence[str] = (),
) -> None:
    """Print a result: as one JSON object, or as ``show`` prints it for people."""
    if form is Format.JSON:
        typer.echo(dumps(envelope(command, result, warnings), indent=2))
    else:
        show(Console())
