"""Which enterprise owns a row: real divisions by a column or a file, and drawn ones.

``column:NAME``     one enterprise per value of a column of the table
``file:PATH``       a CSV (or .csv.gz) with the columns row and enterprise
``iid``             equal sizes, rows at random
``dirichlet:A``     each class of the label divided by Dirichlet(A) (Li et al. 2022, NIID-Bench);
                    small A gives enterprises of few classes and of different sizes
``label-skew:A``    equal sizes, shares of positives from Beta(A p, A (1 - p)), p the overall share

The drawn ones (:mod:`fgcif_flwr.data.skews`) are functions of specification, table and seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from fgcif_flwr.data import skews
from fgcif_flwr.data.columns import as_text, check_columns
from fgcif_flwr.data.membership import customer_ids, whole_number_text
from fgcif_flwr.data.schema import BinaryTarget, CategoricalTarget, Schema
from fgcif_flwr.errors import MissingColumnError, PartitionError

SPECS = ("column:NAME", "file:PATH", "iid", "dirichlet:A", "label-skew:A")

# One stream of randomness for each kind, so that they never share draws under one seed.
_IID, _DIRICHLET, _LABEL_SKEW = 1, 2, 3

# Only blanks: NA and None are words that an enterprise may be called by.
_NAMELESS = ("",)

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Partition:
    """Rows divided among enterprises.

    Attributes
    ----------
    names
        One name per enterprise, in their fixed order.
    assignment
        int64 (rows,): index into ``names``, or -1 for a row that nobody uses.
    """

    names: tuple[str, ...]
    assignment: Indices

    def rows(self, enterprise: int) -> Indices:
        """Return the rows of the enterprise with this index, in the table's order."""
        return np.flatnonzero(self.assignment == enterprise)

    def sizes(self) -> Indices:
        """Return the number of rows of every enterprise, int64 (enterprises,)."""
        return np.bincount(self.assignment[self.assignment >= 0], minlength=len(self.names))


def partition_rows(
    spec: str, table: pa.Table, schema: Schema, enterprises: int, seed: int
) -> Partition:
    """Divide the rows of ``table`` among ``enterprises`` enterprises.

    Parameters
    ----------
    spec
        One of ``SPECS``. In a file, ``row`` is an id of the schema's id column if all its values
        are such ids, and the 0-based row number otherwise; rows that it leaves out are not used.
    enterprises
        How many there must be; for ``column`` and ``file`` it must be the number found, whose
        names are then sorted.
    seed
        Non-negative; no effect on ``column`` and ``file``.

    Raises
    ------
    PartitionError
        For an unknown specification, a number of enterprises other than the one found, an
        enterprise without rows, or a file that does not fit the table.
    MissingColumnError
        If the table lacks the column that is divided by, the id's or the label's.
    DataError
        If rows have no customer id where the file goes by ids.
    """
    if enterprises < 1:
        raise PartitionError(f"run.enterprises must be at least 1 (given: {enterprises})")
    kind, _, argument = spec.partition(":")
    if kind == "column" and argument:
        return _by_column(argument, table, enterprises)
    if kind == "file" and argument:
        return _by_file(Path(argument), table, schema, enterprises)
    if spec == "iid":
        rng = _generator(seed, _IID)
        assignment = skews.deal_evenly(table.num_rows, enterprises, rng)
    elif kind == "dirichlet" and argument:
        concentration = _concentration(spec, argument)
        labels = _labels(table, schema, spec, ("binary", "categorical"))
        rng = _generator(seed, _DIRICHLET)
        assignment = skews.dirichlet(labels, concentration, enterprises, rng)
    elif kind == "label-skew" and argument:
        concentration = _concentration(spec, argument)
        labels = _labels(table, schema, spec, ("binary",))
        rng = _generator(seed, _LABEL_SKEW)
        assignment = skews.label_skew(labels, concentration, enterprises, rng)
    else:
        raise PartitionError(
            f"data.partition = {spec!r} is none of the known divisions: {', '.join(SPECS)}"
        )
    width = max(2, len(str(enterprises - 1)))
    names = tuple(f"enterprise-{index:0{width}d}" for index in range(enterprises))
    return Partition(names, assignment)


def count_enterprises(spec: str, table: pa.Table) -> int:
    """Return how many enterprises ``column:NAME`` or ``file:PATH`` names.

    Raises
    ------
    PartitionError, MissingColumnError
        As :func:`partition_rows`.
    """
    kind, _, argument = spec.partition(":")
    if kind == "file":
        owners = _read_division(Path(argument))["enterprise"]
        return len(pc.unique(as_text(owners, (), "enterprise")))
    if argument not in table.column_names:
        raise MissingColumnError(
            f"the table has no column {argument!r} to divide by (data.partition = {spec})"
        )
    return len(pc.unique(as_text(table[argument], (), argument)))


def _generator(seed: int, tag: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, tag]))


def _by_column(name: str, table: pa.Table, enterprises: int) -> Partition:
    if name not in table.column_names:
        raise MissingColumnError(
            f"the table has no column {name} to divide by (data.partition = column:{name})"
        )
    owners = as_text(table[name], _NAMELESS, name)
    if owners.null_count:
        raise PartitionError(
            f"column {name} names no enterprise in {owners.null_count} of {len(owners)} rows; "
            "fill them in, or divide by a file that leaves these rows out"
        )
    names = _expected_names(owners, f"column {name}", enterprises)
    return Partition(names, _positions(owners, pa.array(names, pa.large_string())))


def _by_file(path: Path, table: pa.Table, schema: Schema, enterprises: int) -> Partition:
    file = _read_division(path)
    owners = as_text(file["enterprise"], _NAMELESS, "enterprise")
    listed = whole_number_text(as_text(file["row"], (), "row"))
    if owners.null_count:
        raise PartitionError(
            f"{path}: {owners.null_count} rows have no enterprise; name one, or leave them out"
        )
    repeated = len(listed) - len(pc.unique(listed))
    if repeated:
        raise PartitionError(f"{path}: {repeated} rows are listed more than once; list each once")
    names = _expected_names(owners, str(path), enterprises)
    owner_of_listed = _positions(owners, pa.array(names, pa.large_string()))
    place = _positions(_row_keys(path, listed, table, schema), listed)
    # Place -1 is the entry appended here: a row of the table that the file leaves out. Every
    # listed row is in the table, so no enterprise is without rows.
    return Partition(names, np.append(owner_of_listed, -1)[place])


def _read_division(path: Path) -> pa.Table:
    text = {"row": pa.string(), "enterprise": pa.string()}
    try:
        file = pa.csv.read_csv(
            path, convert_options=pa.csv.ConvertOptions(column_types=text, include_columns=[*text])
        )
    except FileNotFoundError:
        raise PartitionError(f"there is no file {path} (data.partition = file:{path})") from None
    except KeyError:
        raise PartitionError(f"{path}: wants the columns row and enterprise") from None
    except (pa.ArrowInvalid, OSError):
        # The reader's own words would quote the offending line.
        raise PartitionError(
            f"{path} cannot be read as CSV or .csv.gz with the columns row and enterprise"
        ) from None
    return file


def _row_keys(path: Path, listed: pa.Array, table: pa.Table, schema: Schema) -> pa.Array:
    """Return, for every row of the table, the text by which the file lists it."""
    by_id = ""
    if schema.id_column is not None:
        by_id = f"ids of column {schema.id_column} or "
        ids = pa.array(customer_ids(table, schema), pa.large_string())
        if not np.any(_positions(listed, ids) < 0):
            return ids
    numbers = pa.array(np.arange(table.num_rows)).cast(pa.large_string())
    unknown = int(np.count_nonzero(_positions(listed, numbers) < 0))
    if unknown:
        raise PartitionError(
            f"{path}: {unknown} of {len(listed)} rows are not in the table; column row wants "
            f"{by_id}row numbers from 0 to {table.num_rows - 1}"
        )
    return numbers


def _expected_names(owners: pa.Array, where: str, enterprises: int) -> tuple[str, ...]:
    names = tuple(sorted(pc.unique(owners).to_pylist()))
    if len(names) != enterprises:
        raise PartitionError(
            f"{where} divides the rows among {len(names)} enterprises, but run.enterprises is "
            f"{enterprises}; set run.enterprises to {len(names)} (--enterprises {len(names)})"
        )
    return names


def _positions(values: pa.Array, among: pa.Array) -> Indices:
    """Return the position of every value in ``among``, -1 where it is not there."""
    found = pc.fill_null(pc.index_in(values, value_set=among), -1)
    return np.asarray(found, dtype=np.int64)


def _concentration(spec: str, argument: str) -> float:
    try:
        value = float(argument)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        kind = spec.partition(":")[0]
        raise PartitionError(
            f"data.partition = {spec!r}: A of {kind}:A must be a finite number above 0"
        )
    return value


def _labels(table: pa.Table, schema: Schema, spec: str, kinds: tuple[str, ...]) -> Indices:
    """Return the class of every row by the first target of these kinds, -1 where missing."""
    target = next((one for one in schema.targets if one.kind in kinds and one.column), None)
    if target is None or not target.column:
        raise PartitionError(
            f"data.partition = {spec!r} wants a {' or '.join(kinds)} target that is a column of "
            f"the table; schema {schema.name} has none"
        )
    check_columns(table, [target.column])
    words = as_text(table[target.column], schema.missing, target.column)
    if isinstance(target, CategoricalTarget):
        return _positions(words, pa.array(target.classes, pa.large_string()))
    if not isinstance(target, BinaryTarget):
        raise TypeError(f"target {target.name} has no classes")
    positive = _positions(words, pa.array([target.positive], pa.large_string())) == 0
    return np.where(np.asarray(pc.is_null(words)), -1, positive.astype(np.int64))
