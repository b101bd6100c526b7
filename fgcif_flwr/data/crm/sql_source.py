"""Tables in SQL databases, read only, streamed in chunks.

One SELECT of named columns is all that is ever sent. A driver's message may quote the password,
the address or a value, and never gets further than this module: its class and SQLSTATE do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import duckdb
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.expression import TableClause

from fgcif_flwr.config.crm import TableSource
from fgcif_flwr.data.crm.conversion import Kind, RawColumn
from fgcif_flwr.data.crm.database import create_engine, database_url, password_from
from fgcif_flwr.data.crm.reading import Scan, nearest
from fgcif_flwr.data.crm.sql_values import Column, arrays, fields
from fgcif_flwr.errors import ConfigurationError, DataError

_ROWS: Final = 20_000
_VIEW: Final = "database_rows"
_SECONDS: Final = 10


class DatabaseTable:
    """A table or view of a database."""

    def __init__(self, source: TableSource) -> None:
        self._source = source
        self._engine = _engine(source)
        self._table: TableClause
        reason = None
        try:
            with self._engine.connect() as connection:
                inspector = sa.inspect(connection)
                schema, name = _found(inspector, source.table)
                self._names = [column["name"] for column in inspector.get_columns(name, schema)]
        except SQLAlchemyError as error:
            reason = _reason(error)
        finally:
            self._engine.dispose()
        if reason is not None:
            # Outside the handler, so that the driver's error is not even chained to it.
            raise _unread(source, reason)
        # Quoted whatever is in them, so that no name gets into the statement as anything else.
        self._table = sa.table(
            sa.quoted_name(name, True),
            *(sa.column(sa.quoted_name(one, True)) for one in self._names),
            schema=None if schema is None else sa.quoted_name(schema, True),
        )

    @property
    def names(self) -> Sequence[str]:
        """Names of the columns."""
        return tuple(self._names)

    @property
    def has_header_line(self) -> bool:
        """Names are the database's own."""
        return False

    @property
    def advice(self) -> str:
        """Nothing: columns are what the database says."""
        return ""

    @contextmanager
    def scan(
        self, connection: duckdb.DuckDBPyConnection, wanted: Mapping[str, frozenset[Kind]]
    ) -> Iterator[Scan]:
        """Open a pass over the table."""
        columns = [
            Column(name, f"c{place}", kinds) for place, (name, kinds) in enumerate(wanted.items())
        ]
        rows = _Rows(self._engine, self._source, self._table, columns)
        connection.register(_VIEW, rows.reader())
        try:
            named = {column.own: _raw(column) for column in columns}
            yield Scan(_VIEW, named, error=lambda: rows.error)
        finally:
            connection.unregister(_VIEW)
            self._engine.dispose()


class _Rows:
    """The rows of one SELECT as batches of Arrow."""

    def __init__(
        self,
        engine: sa.Engine,
        source: TableSource,
        table: TableClause,
        columns: Sequence[Column],
    ) -> None:
        self.error: str | None = None
        self._engine, self._source = engine, source
        self._columns = columns
        chosen = [table.c[column.own] for column in columns]
        self._query = sa.select(*chosen, *([] if chosen else [sa.literal(1)])).select_from(table)
        read = [field for column in columns for field in fields(column)]
        self._schema = pa.schema(read or [("c", pa.int8())])

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        reason = None
        try:
            with self._engine.connect() as connection:
                streamed = connection.execution_options(stream_results=True, max_row_buffer=_ROWS)
                with streamed.execute(self._query) as result:
                    for rows in result.partitions(_ROWS):
                        yield self._batch(rows)
        except DataError as error:
            self.error = str(error)
            raise
        except SQLAlchemyError as error:
            reason = _reason(error)
        except (UnicodeError, OverflowError, pa.ArrowException) as error:
            reason = f"a value cannot be taken over ({type(error).__name__})"
        if reason is not None:
            failed = _unread(self._source, reason)
            self.error = str(failed)
            raise failed

    def _batch(self, rows: Sequence[sa.Row[Any]]) -> pa.RecordBatch:
        if not self._columns:
            return pa.RecordBatch.from_arrays([pa.nulls(len(rows), pa.int8())], schema=self._schema)
        found = []
        for column, values in zip(self._columns, zip(*rows, strict=True), strict=True):
            found.extend(arrays(column, values, self._source.timezone))
        return pa.RecordBatch.from_arrays(found, schema=self._schema)


def _raw(column: Column) -> RawColumn:
    name, kinds = column.alias, column.kinds
    return RawColumn(
        text=f"{name}_s" if kinds & {"number", "time"} else name,
        number=f"{name}_n" if "number" in kinds else None,
        time=f"{name}_t" if "time" in kinds else None,
        zoned=f"{name}_z" if "time" in kinds else None,
        text_of=name,
    )


def _engine(source: TableSource) -> sa.Engine:
    """Return an engine that may only read, with the password in its place."""
    url = database_url(source.source, "source")
    options: dict[str, Any] = {"poolclass": sa.NullPool}
    backend = url.get_backend_name()
    if backend == "sqlite":
        return create_engine(sa.make_url("sqlite://"), creator=_sqlite(url), **options)
    url = url.set(password=password_from(source.password_env, source.password_file))
    if backend == "postgresql":
        own = url.query.get("options", "")
        own = own if isinstance(own, str) else " ".join(own)
        read_only = f"{own} -c default_transaction_read_only=on".strip()
        options["connect_args"] = {"options": read_only, "connect_timeout": _SECONDS}
    engine = create_engine(url, **options)
    if backend in ("mysql", "mariadb"):
        sa.event.listen(engine, "connect", _read_only_session)
    return engine


def _read_only_session(connection: Any, _: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION READ ONLY")


def _sqlite(url: sa.URL) -> Callable[[], sqlite3.Connection]:
    path = url.database or ""
    if not path or path == ":memory:" or path.startswith("file:") or url.query:
        raise ConfigurationError(
            "SQLite is named as sqlite:///path/of/the/file.db, with nothing after it"
        )
    if not Path(path).is_file():
        raise DataError(f"there is no file {path}")
    address = f"file:{quote(str(Path(path).absolute()))}?mode=ro"
    # DuckDB asks for rows from a thread of its own, one at a time.
    return lambda: sqlite3.connect(address, uri=True, check_same_thread=False)


def _found(inspector: sa.Inspector, wanted: str) -> tuple[str | None, str]:
    """Return schema and name of a table or view.

    Raises
    ------
    DataError
        If there is none of that name, with the nearest.
    """
    have = [*inspector.get_table_names(), *inspector.get_view_names()]
    if wanted in have:
        return None, wanted
    schema, dot, name = wanted.partition(".")
    if dot:
        have = []
        if schema in inspector.get_schema_names():
            have = [*inspector.get_table_names(schema), *inspector.get_view_names(schema)]
            if name in have:
                return schema, name
    near = nearest(name or wanted, have)
    hint = f"; did you mean {f'{schema}.' if dot else ''}{near}?" if near else ""
    raise DataError(f"the database has no table or view {wanted} that may be read{hint}")


def _unread(source: TableSource, reason: str) -> DataError:
    return DataError(
        f"table {source.table} of the database cannot be read: {reason}; see that address, user, "
        "password and rights are as the database wants them"
    )


def _reason(error: SQLAlchemyError) -> str:
    original = getattr(error, "orig", None)
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    kind = type(original or error).__name__
    return f"{kind}, SQLSTATE {state}" if state else kind
