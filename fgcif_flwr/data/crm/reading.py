"""What every kind of table is to the rest: names of columns, and one pass over its rows."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import duckdb

from fgcif_flwr.data.crm.conversion import Kind, RawColumn


def _none() -> int:
    return 0


def _no_error() -> str | None:
    return None


@dataclass(frozen=True)
class Scan:
    """One pass over a table's rows, in the order of the table.

    Attributes
    ----------
    relation : str
        SQL of what stands after FROM. It is read once.
    columns : dict
        Of the table's own names.
    rejected, error : callable
        How many lines could not be read as rows, and why the pass could not go on (None where it
        could); known after the pass. What DuckDB says of such a failure is not to be shown.
    """

    relation: str
    columns: Mapping[str, RawColumn]
    rejected: Callable[[], int] = _none
    error: Callable[[], str | None] = _no_error


class Table(Protocol):
    """A table of an enterprise, wherever it lies.

    ``names`` are its columns' own. Every method raises DataError where the table cannot be read,
    without a value in the message.
    """

    @property
    def names(self) -> Sequence[str]:
        """Names of the columns, each once."""

    @property
    def has_header_line(self) -> bool:
        """Whether ``names`` are a line of a text, which may hold a customer's values instead."""

    @property
    def advice(self) -> str:
        """What to do where wanted columns are not there; empty where nothing is known."""

    def scan(
        self, connection: duckdb.DuckDBPyConnection, wanted: Mapping[str, frozenset[Kind]]
    ) -> AbstractContextManager[Scan]:
        """Open a pass over the columns ``wanted``, by own name, with the kinds they become."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the name that is most like ``name``, empty where none is."""
    folded: dict[str, str] = {}
    for one in names:
        folded.setdefault(_folded(one), one)
    found = difflib.get_close_matches(_folded(name), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else ""


def _folded(name: str) -> str:
    return "".join(sign for sign in name.casefold() if sign.isalnum()) or name
