"""Tables in files: which files a source names, and Parquet."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import duckdb

from fgcif_flwr.config.crm import TableSource
from fgcif_flwr.data.crm.conversion import Kind, RawColumn, identifier, literal
from fgcif_flwr.data.crm.reading import Scan
from fgcif_flwr.errors import DataError

CSV: Final = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
PARQUET: Final = (".parquet", ".pq")

_NUMBERS: Final = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "DECIMAL", "FLOAT")
_TIMES: Final = ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS")


def files_of(source: TableSource) -> tuple[Path, ...]:
    """Return the files that a source names, ordered by name.

    Raises
    ------
    DataError
        If there is none, or they are of an unknown kind or of several.
    """
    named = Path(source.source)
    if named.is_file():
        files: tuple[Path, ...] = (named,)
    else:
        files = tuple(sorted(Path(one) for one in glob.glob(source.source, recursive=True)))
        files = tuple(one for one in files if one.is_file())
    if not files:
        raise DataError(f"there is no file {source.source}")
    kinds = {kind for kind in (CSV, PARQUET) for one in files if one.name.lower().endswith(kind)}
    if len(kinds) != 1 or not all(one.name.lower().endswith(next(iter(kinds))) for one in files):
        raise DataError(
            f"{source.source}: files must all be CSV or all be Parquet; their names end in one "
            f"of {', '.join((*CSV, *PARQUET))}"
        )
    return files


def is_parquet(files: Sequence[Path]) -> bool:
    """Whether these files of one kind are Parquet."""
    return files[0].name.lower().endswith(PARQUET)


class ParquetTable:
    """Parquet files of one form, read by DuckDB with their own types."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, source: TableSource, files: Sequence[Path]
    ) -> None:
        for file in files:
            if set("*?[") & set(str(file)):
                # DuckDB takes these for a pattern, and may find another file.
                raise DataError(f"{file}: rename it, or its folder, so that no *, ? or [ is in it")
        paths = ", ".join(literal(str(file)) for file in files)
        self._relation = f"read_parquet([{paths}])"
        self._source = source
        try:
            rows = connection.execute(f"DESCRIBE SELECT * FROM {self._relation}").fetchall()
        except duckdb.Error:
            rows = None
        if rows is None:
            raise DataError(
                f"{source.source}: not Parquet, or broken, or files with different columns; write "
                "it again"
            )
        self._types: dict[str, str] = {name: kind for name, kind, *_ in rows}

    @property
    def names(self) -> Sequence[str]:
        """Names of the columns."""
        return tuple(self._types)

    @property
    def has_header_line(self) -> bool:
        """Names are the format's own."""
        return False

    @property
    def advice(self) -> str:
        """Nothing: columns are what the files say."""
        return ""

    @contextmanager
    def scan(
        self, connection: duckdb.DuckDBPyConnection, wanted: Mapping[str, frozenset[Kind]]
    ) -> Iterator[Scan]:
        """Open a pass over the files."""
        zone = literal(self._source.timezone)
        columns = {name: _typed(name, self._types[name], zone) for name in wanted}
        yield Scan(self._relation, columns)


def _typed(name: str, kind: str, zone: str) -> RawColumn:
    """Return a column by DuckDB's type of it.

    Raises
    ------
    DataError
        For lists, structures, bytes and others that are neither text, number nor time.
    """
    column = identifier(name)
    text = f"CAST({column} AS VARCHAR)"
    plain = kind.split("(")[0].removeprefix("U")
    if plain in ("VARCHAR", "ENUM") or kind == "UUID":
        return RawColumn(text=text, text_of=text)
    if plain in (*_NUMBERS, "DOUBLE"):
        return RawColumn(number=f"CAST({column} AS DOUBLE)", text_of=text)
    if plain in _TIMES:
        return RawColumn(time=f"CAST({column} AS TIMESTAMP)", text_of=text)
    if plain == "TIMESTAMP WITH TIME ZONE":
        return RawColumn(zoned=column, text_of=f"CAST(timezone({zone}, {column}) AS VARCHAR)")
    if plain == "BOOLEAN":
        return RawColumn(text_of=text)
    raise DataError(
        f"column {name} holds {plain.split('[')[0].lower()} values, which are neither text, "
        "numbers nor times; convert it"
    )
