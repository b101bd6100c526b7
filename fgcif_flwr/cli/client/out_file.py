"""Which file a command of ``fgcif-client`` may write, and how it is written.

A slip in ``--out`` must cost nobody a source, a key or a configuration.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path
from typing import Final

import pyarrow as pa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from fgcif_flwr.cli.output import refuse_existing, write_file_of_customers, write_table_of_customers
from fgcif_flwr.config.crm import TableSource
from fgcif_flwr.config.enterprise import EnterpriseConfig
from fgcif_flwr.errors import ConfigurationError

TABLES: Final = (".csv", ".parquet")


@dataclass(frozen=True)
class OutFile:
    """A file that may be written.

    Attributes
    ----------
    path : Path
    overwrite : bool
        Whether a file that is there goes.
    """

    path: Path
    overwrite: bool

    @classmethod
    def of(
        cls,
        path: Path,
        config: EnterpriseConfig,
        config_file: Path,
        overwrite: bool,
        endings: Sequence[str] = TABLES,
    ) -> OutFile:
        """Look at what ``--out`` names, before anything is computed.

        Raises
        ------
        ConfigurationError
            If the name has none of the ``endings``, or is a file that the configuration names, lies
            in the state directory or would be taken for a source.
        DataError
            If it is there and is not to be overwritten.
        """
        if path.suffix.lower() not in endings:
            raise ConfigurationError(
                f"--out {path}: the name of the file ends in {' or '.join(endings)}"
            )
        _refuse_configured(path, config, config_file)
        refuse_existing(path, overwrite)
        return cls(path, overwrite)

    def write_table(self, table: pa.Table) -> None:
        """Write a table of customers, CSV or Parquet; DataError if it cannot be written."""
        write_table_of_customers(table, self.path, overwrite=self.overwrite)

    def write_bytes(self, content: bytes) -> None:
        """Write bytes; DataError if they cannot be written."""
        write_file_of_customers(
            self.path, lambda file: file.write(content), overwrite=self.overwrite
        )


def _refuse_configured(path: Path, config: EnterpriseConfig, config_file: Path) -> None:
    places = {Path(os.path.abspath(path)), path.resolve()}
    state = config.directory
    for place in places:
        if place.is_relative_to(state) or place.is_relative_to(state.resolve()):
            raise ConfigurationError(
                f"--out {path} is in the enterprise's state directory; name another place"
            )
    for what, named in _configured(config, config_file):
        if places & {Path(os.path.abspath(named)), named.resolve()} or _same(path, named):
            raise ConfigurationError(f"--out {path} is {what}; name another file")
    for source in _sources(config):
        if has_magic(source.source) and any(_matches(one, source.source) for one in places):
            raise ConfigurationError(
                f"--out {path} would be taken for one of the source's files {source.source}; name "
                "another file"
            )


def _configured(config: EnterpriseConfig, config_file: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files that the configuration names, with what they are."""
    yield "the configuration", config_file
    yield "the policy", config.enterprise.policy
    yield "the roster", config.consortium.roster
    yield "the coordinator's key", config.consortium.coordinator
    yield "the schema", Path(config.consortium.schema_file)
    for own in (config.supernode.root_certificates, config.supernode.key):
        if own is not None:
            yield "a file of the SuperNode's", own
    for source in _sources(config):
        if source.password_file:
            yield "a password's file", Path(source.password_file)
        if not source.is_database:
            yield "a source of the data", Path(source.source)
        elif source.source.startswith("sqlite"):
            try:
                database = make_url(source.source).database
            except ArgumentError:
                continue  # reading the source says what is wrong with it
            if database:
                yield "a source of the data", Path(database.removeprefix("file:"))


def _sources(config: EnterpriseConfig) -> list[TableSource]:
    table = config.data.table
    return [*config.data.components.values(), *([] if table is None else [table])]


def _same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def _matches(place: Path, pattern: str) -> bool:
    """Whether a pattern of glob's names the place; with ``**``, or may name it."""
    if "**" in pattern:
        return fnmatchcase(str(place), pattern.replace("**/", "*"))
    parts = Path(pattern).parts
    return len(parts) == len(place.parts) and all(map(fnmatchcase, place.parts, parts))
