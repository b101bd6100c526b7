"""Reading an enterprise's table from a file: CSV as text, Parquet with its types.

No value of a CSV is guessed: every column is read as text, and encoding converts it by the kind
that the schema names. (Guessing turns ``007`` into 7, and ``NO`` for Norway into false.)
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from fgcif_flwr.data.columns import check_table
from fgcif_flwr.data.schema import Schema
from fgcif_flwr.data.transactions import customer_table, is_transactions
from fgcif_flwr.errors import DataError

_DELIMITERS = (",", ";", "\t", "|")
_CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_PARQUET = (".parquet", ".pq")


def read_table(path: str | Path, schema: Schema | None = None) -> pa.Table:
    """Read a table from a CSV (also gzipped) or Parquet file.

    CSV wants UTF-8, a header line, and comma, semicolon, tab or bar as delimiter (the one that
    the header has most of). Where ``schema`` has a ``[transactions]`` section and the file holds
    such lines, the table of customers derived from them is returned; a table that already has the
    columns of the features is returned as it is.

    Raises
    ------
    DataError
        If there is no such file, it is of another kind, broken, without rows, or has two columns
        of one name. Messages name the file and count lines; they show none.
    """
    file = Path(path)
    name = file.name.lower()
    if not name.endswith((*_CSV, *_PARQUET)):
        raise DataError(f"{file} is of no known kind; {', '.join((*_CSV, *_PARQUET))} can be read")
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    try:
        table = _read_parquet(file) if name.endswith(_PARQUET) else _read_csv(file)
        check_table(table)
    except DataError as error:
        raise type(error)(f"{file}: {error}") from None
    except (OSError, EOFError) as error:
        # Only the system's word for it: Arrow's own text may quote what it read.
        reason = getattr(error, "strerror", None) or "the file is broken or cut off"
        raise DataError(f"{file} cannot be read: {reason}") from None
    if schema is not None and is_transactions(schema, table):
        return customer_table(schema, table)
    return table


def _read_parquet(file: Path) -> pa.Table:
    try:
        with pa_parquet.ParquetFile(file) as parquet:
            return parquet.read()
    except (pa.ArrowException, UnicodeDecodeError):
        raise DataError("not a Parquet file, or a broken one; write it again") from None


def _read_csv(file: Path) -> pa.Table:
    names, delimiter = _header(file)
    ragged = 0

    def count(row: Any) -> str:
        nonlocal ragged
        ragged += 1
        return "skip"

    try:
        with pa.input_stream(str(file), compression=_compression(file)) as stream:
            table = pa_csv.read_csv(
                stream,
                read_options=pa_csv.ReadOptions(use_threads=False),
                parse_options=pa_csv.ParseOptions(
                    delimiter=delimiter, newlines_in_values=True, invalid_row_handler=count
                ),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
                ),
            )
    except (pa.ArrowException, UnicodeDecodeError):
        raise DataError(
            "not a CSV file in UTF-8 with one header line; save it as CSV (UTF-8)"
        ) from None
    if ragged:
        raise DataError(
            f"{ragged} line(s) have more or fewer values than the header's {len(names)}; "
            "quote values that hold the delimiter"
        )
    if table.column_names != names:
        # A name over two lines; its column would have been given a guessed type.
        raise DataError("the names in the header line cannot be read; write them on one line")
    return table


def _header(file: Path) -> tuple[list[str], str]:
    """Return the names of the columns and the delimiter, from the first line."""
    with pa.input_stream(str(file), compression=_compression(file)) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        try:
            line = text.readline(1_000_000)
        except UnicodeDecodeError:
            raise DataError("not text in UTF-8; save it as CSV (UTF-8)") from None
    if not line.strip():
        raise DataError("the file is empty, or its first line is")
    try:
        fields = [(next(csv.reader([line], delimiter=mark)), mark) for mark in _DELIMITERS]
    except csv.Error:
        raise DataError("the header line is no CSV; write names of columns there") from None
    names, delimiter = max(fields, key=lambda field: len(field[0]))
    unnamed = sum(not name.strip() for name in names)
    if unnamed:
        raise DataError(f"{unnamed} column(s) have no name in the header line; name them")
    return names, delimiter


def _compression(file: Path) -> str | None:
    return "gzip" if file.name.lower().endswith(".gz") else None
