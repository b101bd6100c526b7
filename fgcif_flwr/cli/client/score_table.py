"""Scores into a table of the enterprise's own database."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sql
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from fgcif_flwr.config.enterprise import EnterpriseConfig
from fgcif_flwr.data.crm.database import (
    create_engine,
    database_url,
    password_from,
    split_table,
)
from fgcif_flwr.errors import ConfigurationError, DataError

_BATCH = 5_000


class IfExists(StrEnum):
    """What becomes of a table that is there already."""

    REFUSE = "refuse"
    REPLACE = "replace"
    APPEND = "append"


@dataclass(frozen=True)
class TableTarget:
    """Where scores go.

    Attributes
    ----------
    url : sqlalchemy.engine.URL
        With the password, if one was named; never shown.
    table : str
        Name, with the database's schema before a dot if it has one.
    if_exists : IfExists
        With ``replace`` its rows go in one transaction with the new ones' coming.
    """

    url: URL = field(repr=False)
    table: str
    if_exists: IfExists

    @classmethod
    def of(
        cls, given: str, if_exists: IfExists, password_env: str, password_file: Path | None
    ) -> TableTarget:
        """Read ``URL#TABLE``; ConfigurationError with what is wrong, without showing the URL."""
        address, table = split_table(given, "--to-table")
        url = database_url(address, "--to-table")
        password = password_from(password_env, password_file or "")
        return cls(url if password is None else url.set(password=password), table, if_exists)

    def refuse_own(self, config: EnterpriseConfig) -> None:
        """Raise ConfigurationError for a table that is read from, or a database of the state."""
        for source in (config.data.table, *config.data.components.values()):
            if source is None or not source.is_database or source.table != self.table:
                continue
            if _place(database_url(source.source, "source")) == _place(self.url):
                raise ConfigurationError(
                    f"--to-table: {self.table} is a table that this enterprise's data is read from"
                )
        file = self.url.database if self.url.get_backend_name() == "sqlite" else None
        if file and Path(file).resolve().is_relative_to(config.directory.resolve()):
            raise ConfigurationError("--to-table: this lies in the enterprise's own state")


def _place(url: URL) -> tuple[object, ...]:
    """Return where a database is, whoever asks."""
    if url.get_backend_name() == "sqlite":
        return ("sqlite", Path(url.database or "").resolve())
    return (url.get_backend_name(), url.host, url.port, url.database)


def write_to_database(scores: pa.Table, target: TableTarget) -> None:
    """Write scores, all rows or none.

    Raises
    ------
    DataError
        If the table is there and is to be refused, has other columns, or the database fails; its
        own words, which may quote values, are not shown.
    """
    engine = create_engine(target.url)
    try:
        with engine.begin() as connection:
            _write(connection, scores, target)
    except SQLAlchemyError as error:
        raise DataError(
            f"table {target.table} cannot be written ({type(error).__name__}); look at the "
            "database's address, the user's rights and the table's columns"
        ) from None
    finally:
        engine.dispose()


def _write(connection: sql.Connection, scores: pa.Table, target: TableTarget) -> None:
    schema, _, name = target.table.rpartition(".")
    columns = [sql.Column(field.name, _type_of(field.type)) for field in scores.schema]
    table = sql.Table(name, sql.MetaData(), *columns, schema=schema or None)
    found = sql.inspect(connection)
    if found.has_table(name, schema=schema or None):
        if target.if_exists is IfExists.REFUSE:
            raise DataError(
                f"table {target.table} is there already; say --if-exists replace or append"
            )
        existing = {one["name"] for one in found.get_columns(name, schema=schema or None)}
        absent = [column for column in scores.column_names if column not in existing]
        if absent:
            raise DataError(f"table {target.table} has no column {', '.join(absent)}; add them")
        if target.if_exists is IfExists.REPLACE:
            connection.execute(table.delete())
    else:
        table.create(connection)
    for batch in scores.to_batches(_BATCH):
        if batch.num_rows:
            connection.execute(table.insert(), batch.to_pylist())


def _type_of(kind: pa.DataType) -> type[sql.types.TypeEngine[Any]]:
    if pa.types.is_floating(kind):
        return sql.Double
    if pa.types.is_integer(kind):
        return sql.BigInteger
    return sql.Text
