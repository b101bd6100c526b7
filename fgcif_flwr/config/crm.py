"""Where an enterprise's CRM data lies, and what its own names and codes mean.

Everything here is the enterprise's own matter: the consortium's schema says what a customer's row
holds, this says from which tables it is made. Passwords are named, never held.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, model_validator

_SQLITE: Final = "sqlite:///"
_PASSWORD: Final = re.compile(r"(password|passwd|passphrase|pwd)\s*=", re.IGNORECASE)

Component = Literal["customers", "transactions", "events", "interactions"]
"""The parts of CRM data: master data, purchases, behaviour logs, contacts with service."""

COMPONENT_COLUMNS: dict[Component, tuple[str, ...]] = {
    "customers": ("customer", "since", "contract_end", "churned"),
    "transactions": (
        "customer",
        "time",
        "amount",
        "quantity",
        "price",
        "category",
        "channel",
        "product",
        "invoice",
        "country",
        "returned",
        "discounted",
    ),
    "events": ("customer", "time", "kind", "session", "pages", "dwell_seconds", "clicked"),
    "interactions": (
        "customer",
        "time",
        "closed",
        "channel",
        "topic",
        "text",
        "sentiment",
        "satisfaction",
        "open_hours",
    ),
}
"""The project's names of each component's columns; ``customers`` takes any others besides."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class TableSource(_Part):
    """One table of the enterprise.

    Attributes
    ----------
    source
        A CSV or Parquet file (a pattern such as ``logs/*.parquet`` names many of one form), or a
        database as SQLAlchemy writes it, without a password.
    table
        Of a database: a table or view, with its schema where it is not the default one.
    password_env, password_file
        A database's password: the name of an environment variable, or a file.
    delimiter, decimal, thousands, encoding
        Of a CSV; the delimiter is taken from the header where it is empty.
    time_format
        How times are written where they are text and not ISO 8601, as strptime has it.
    timezone
        Of times without one; features are taken in it.
    columns
        The project's (or the schema's) name of a column: the table's own.
    words
        By column: the table's own code and the word of the schema that it means.
    units
        By column: what a number is multiplied by to be in the schema's unit (cents: 0.01).
    missing
        The table's own words for a missing value, beside those of the schema.
    """

    source: str = Field(min_length=1)
    table: str = ""
    password_env: str = ""
    password_file: str = ""
    delimiter: str = Field("", max_length=1)
    decimal: Literal[".", ","] = "."
    thousands: Literal["", ".", ",", " ", "'"] = ""
    encoding: str = "utf-8"
    time_format: str = ""
    timezone: str = "UTC"
    columns: dict[str, str] = Field(default_factory=dict)
    words: dict[str, dict[str, str]] = Field(default_factory=dict)
    units: dict[str, float] = Field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def is_database(self) -> bool:
        """Whether this is a table of a database."""
        return "://" in self.source

    def in_directory(self, base: Path) -> TableSource:
        """Return the source with its paths, where they are relative, taken from ``base``."""
        update: dict[str, str] = {}
        if not self.is_database:
            update["source"] = str(base / self.source)
        elif self.source.startswith(_SQLITE) and not self.source.startswith(f"{_SQLITE}/"):
            update["source"] = f"{_SQLITE}{base.absolute() / self.source.removeprefix(_SQLITE)}"
        if self.password_file:
            update["password_file"] = str(base / self.password_file)
        return self.model_copy(update=update)

    @model_validator(mode="after")
    def _parts_fit(self) -> TableSource:
        if self.is_database != bool(self.table):
            raise ValueError("a database wants table, the name of a table or view; a file has none")
        if self.password_env and self.password_file:
            raise ValueError("give password_env or password_file, one of the two")
        if self.thousands and self.thousands == self.decimal:
            raise ValueError("thousands and decimal are the same mark")
        if self.is_database and tells_password(self.source):
            raise ValueError(
                "source holds a password; leave it out, and give password_env or password_file"
            )
        return self


def tells_password(url: str) -> bool:
    """Whether a database's URL holds a password: before the host, or among the parameters."""
    address, _, query = url.partition("?")
    authority = address.partition("://")[2].rpartition("@")[0]
    # A parameter may hold a whole connection string of its own, as ODBC's do.
    return ":" in authority or _PASSWORD.search(unquote(query)) is not None


class CrmData(_Part):
    """An enterprise's data: either one ready ``table`` of features, or components to build from.

    Attributes
    ----------
    table
        One row for each customer, with the schema's columns (``columns`` renames them).
    customers, transactions, events, interactions
        Components from which the schema's ``[records]`` says how features are built.
    duplicates
        Rows of one customer in ``table`` or ``customers``: refused, or the last one is kept (of
        files: a database has no order of rows).
    unreadable
        Values that are no number, time, or yes or no where one is wanted: refused, or missing and
        counted.
    complete_until
        The components hold everything before this day. Without it, purchases on the last day of
        the schema's horizon must show that, which few customers may not have made.
    memory_mb
        Memory for reading and for building features, in MB; what is more goes to disk.
    """

    table: TableSource | None = None
    customers: TableSource | None = None
    transactions: TableSource | None = None
    events: TableSource | None = None
    interactions: TableSource | None = None
    duplicates: Literal["refuse", "last"] = "refuse"
    unreadable: Literal["refuse", "missing"] = "refuse"
    complete_until: date | None = None
    memory_mb: int = Field(2048, ge=128, le=1_048_576)

    @property
    def components(self) -> dict[Component, TableSource]:
        """The components that there are."""
        return {
            name: source
            for name in COMPONENT_COLUMNS
            if (source := getattr(self, name)) is not None
        }

    @model_validator(mode="after")
    def _one_of_the_two(self) -> CrmData:
        if (self.table is None) == (not self.components):
            raise ValueError("data wants either a table of features, or components to build them")
        for one in (self.table, self.customers):
            if self.duplicates == "last" and one is not None and one.is_database:
                raise ValueError(
                    'duplicates = "last" wants a file: rows of a database have no order; name a '
                    "view of it that has one row for each customer"
                )
        for name, source in self.components.items():
            known = COMPONENT_COLUMNS[name]
            strange = sorted({*source.columns, *source.words, *source.units} - set(known))
            if strange and name != "customers":
                raise ValueError(
                    f"{name} has no column {strange[0]}; its columns are {', '.join(known)}"
                )
        return self
