"""A DuckDB connection that reads an enterprise's files and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from fgcif_flwr.config.crm import CrmData
from fgcif_flwr.data.crm.conversion import literal
from fgcif_flwr.data.crm.file_source import files_of, is_parquet
from fgcif_flwr.errors import DataError


@contextmanager
def open_connection(
    data: CrmData, scratch: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database in memory for the tables of ``data``.

    It opens no files but the Parquet files of ``data`` and its own temporary ones, loads no
    extension, and its settings are locked. (CSV files and databases are read outside it.)

    Parameters
    ----------
    data
        ``data.memory_mb`` bounds its memory; what is more goes to the temporary directory.
    scratch
        Where to make that directory, mode 0700, removed in the end; the system's place for such
        where it is not given. It holds rows of customers in the clear.
    """
    with tempfile.TemporaryDirectory(prefix="fgcif-", dir=scratch) as directory:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{data.memory_mb}MB",
            "temp_directory": directory,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        with duckdb.connect(":memory:", config=config) as connection:
            paths = ", ".join(literal(path) for path in _parquet_files(data))
            connection.execute(f"SET allowed_paths = [{paths}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            yield connection


def _parquet_files(data: CrmData) -> list[str]:
    found: list[str] = []
    for source in (*data.components.values(), *([data.table] if data.table else ())):
        if source.is_database:
            continue
        try:
            files = files_of(source)
        except DataError:
            continue  # told where the table is opened, with the others' faults
        if is_parquet(files):
            found += [str(file) for file in files]
    return found
