"""Tables in CSV files: every value as text, exactly as it is written.

Arrow's streaming reader takes the files apart block by block, so that a file may be larger than
the memory, and decodes any encoding; DuckDB's own stops at line breaks of two kinds in one file,
as spreadsheets write them.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.csv as pa_csv

from fgcif_flwr.config.crm import TableSource
from fgcif_flwr.data.crm.conversion import Kind, RawColumn
from fgcif_flwr.data.crm.reading import Scan
from fgcif_flwr.errors import ConfigurationError, DataError

_DELIMITERS: Final = (",", ";", "\t", "|")
_VIEW: Final = "csv_lines"
_BLOCK: Final = 8 << 20


class CsvTable:
    """CSV files with the same header line each."""

    def __init__(self, source: TableSource, files: Sequence[Path]) -> None:
        try:
            self._encoding = codecs.lookup(source.encoding).name
        except LookupError:
            raise ConfigurationError(
                f"encoding {source.encoding} is unknown; try utf-8, cp1252 or latin-1"
            ) from None
        self._files = files
        self._names, self._delimiter = _header(files[0], self._encoding, source.delimiter)
        self._chosen = bool(source.delimiter)
        others = [one for one in files[1:] if self._header_of(one) != self._names]
        if others:
            raise DataError(
                f"{len(others)} of {len(files)} files have another header line than {files[0]}; "
                "write the same columns in the same order"
            )

    @property
    def names(self) -> Sequence[str]:
        """Names of the columns."""
        return self._names

    @property
    def has_header_line(self) -> bool:
        """Names are of the first line, whatever it holds."""
        return True

    @property
    def advice(self) -> str:
        """Whether another delimiter than the one that is set makes more columns."""
        if not self._chosen:
            return ""
        names, mark = _header(self._files[0], self._encoding, "")
        if len(names) <= len(self._names):
            return ""
        return f'with delimiter = "{mark}" the header line has {len(names)} names'

    def _header_of(self, file: Path) -> tuple[str, ...]:
        return _header(file, self._encoding, self._delimiter)[0]

    @contextmanager
    def scan(
        self, connection: duckdb.DuckDBPyConnection, wanted: Mapping[str, frozenset[Kind]]
    ) -> Iterator[Scan]:
        """Open a pass over the files."""
        own = list(wanted)
        lines = _Lines(self._files, self._names, self._delimiter, self._encoding, own)
        columns = {
            name: RawColumn(text=f"c{place}", text_of=f"c{place}") for place, name in enumerate(own)
        }
        connection.register(_VIEW, lines.reader())
        try:
            yield Scan(_VIEW, columns, lambda: lines.rejected, lambda: lines.error)
        finally:
            connection.unregister(_VIEW)


class _Lines:
    """The lines of files as batches of columns ``c0``, ``c1``, ... of text."""

    def __init__(
        self,
        files: Sequence[Path],
        names: Sequence[str],
        delimiter: str,
        encoding: str,
        own: Sequence[str],
    ) -> None:
        self.rejected = 0
        self.error: str | None = None
        self._files = files
        self._delimiter, self._encoding = delimiter, encoding
        # Without a wanted column rows are still to be counted.
        self._own = list(own) or [names[0]]
        # A quote that is never closed swallows the rest: seen in the last column of all.
        self._last = names[-1]
        self._read = list(dict.fromkeys([*self._own, self._last]))
        self._schema = pa.schema([(f"c{i}", pa.string()) for i in range(len(self._own))])

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for file in self._files:
            try:
                yield from self._batches_of(file)
            except DataError as error:
                self.error = str(error)
                raise
            except (pa.ArrowException, UnicodeError, OSError, EOFError):
                self.error = (
                    f"{file}: not a CSV file in {self._encoding} with one header line, or broken; "
                    "name its encoding (cp1252 is usual of spreadsheets), or save it as CSV (UTF-8)"
                )
                raise

    def _batches_of(self, file: Path) -> Iterator[pa.RecordBatch]:
        last = ""
        with pa.input_stream(str(file), compression=compression(file)) as stream:
            reader = pa_csv.open_csv(
                stream,
                read_options=pa_csv.ReadOptions(
                    use_threads=False, block_size=_BLOCK, encoding=self._encoding
                ),
                parse_options=pa_csv.ParseOptions(
                    delimiter=self._delimiter,
                    newlines_in_values=True,
                    invalid_row_handler=self._count,
                ),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(self._read, pa.string()),
                    include_columns=self._read,
                    strings_can_be_null=False,
                ),
            )
            for batch in reader:
                if batch.num_rows:
                    last = batch.column(self._read.index(self._last))[-1].as_py()
                    columns = [batch.column(i) for i in range(len(self._own))]
                    yield pa.RecordBatch.from_arrays(columns, schema=self._schema)
        if ("\n" in last or "\r" in last) and not _ends_in_quote(file, self._encoding):
            raise DataError(
                f"{file}: a quotation mark is opened and never closed, so that the lines after it "
                "cannot be told apart; double it, or remove it"
            )

    def _count(self, row: Any) -> str:
        self.rejected += 1
        return "skip"


def compression(file: Path) -> str | None:
    """Return Arrow's name of a file's compression, by the file's name."""
    return "gzip" if file.name.lower().endswith(".gz") else None


def _ends_in_quote(file: Path, encoding: str) -> bool:
    tail = b""
    with pa.input_stream(str(file), compression=compression(file)) as stream:
        while block := stream.read(_BLOCK):
            tail = (tail + block)[-64:]
    # 64 bytes are whole characters in encodings of 1, 2 and 4 bytes.
    return tail.decode(encoding, errors="ignore").rstrip("\r\n\0").endswith('"')


def _header(file: Path, encoding: str, delimiter: str) -> tuple[tuple[str, ...], str]:
    """Return the names of the columns and the delimiter, from the first line."""
    decoded = "utf-8-sig" if encoding == "utf-8" else encoding
    line = None
    try:
        with (
            pa.input_stream(str(file), compression=compression(file)) as stream,
            io.TextIOWrapper(stream, encoding=decoded, newline="") as text,
        ):
            line = text.readline(1_000_000)
    except (UnicodeError, EOFError):
        pass  # said below, with nothing chained that shows the bytes
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or 'it is broken'}") from None
    if line is None:
        raise DataError(
            f"{file}: not text in {encoding}; name its encoding (cp1252 is usual of spreadsheets)"
        )
    if not line.strip():
        raise DataError(f"{file}: the file is empty, or its first line is")
    marks = (delimiter,) if delimiter else _DELIMITERS
    try:
        fields = [(next(csv.reader([line], delimiter=mark)), mark) for mark in marks]
    except csv.Error:
        raise DataError(
            f"{file}: the header line is no CSV; write names of columns there"
        ) from None
    names, mark = max(fields, key=lambda field: len(field[0]))
    _refuse_names(file, names)
    return tuple(names), mark


def _refuse_names(file: Path, names: Sequence[str]) -> None:
    unnamed = sum(not name.strip() for name in names)
    if unnamed:
        raise DataError(f"{file}: {unnamed} column(s) have no name in the header line; name them")
    if any("\n" in name or "\r" in name for name in names):
        raise DataError(f"{file}: a name in the header line is on two lines; write it on one")
    places = [str(place) for place, name in enumerate(names, 1) if names.count(name) > 1]
    if places:
        # Places, not names: of a file without a header line the "names" are a customer's values.
        raise DataError(
            f"{file}: columns {', '.join(places)} of {len(names)} share a name with another; "
            "rename all but one of each, and see that the file has a header line"
        )
