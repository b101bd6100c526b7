"""A table as one list of columns, features and targets alike: what a generator learns jointly.

Numbers are in [0, 1] with NaN where missing. Categories are codes with missing as code 0: a
feature's as :class:`~fgcif_flwr.data.encoding.EncodedTable` has them, a target's one more than its
class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout, Head
from fgcif_flwr.errors import ConfigurationError

Values = npt.NDArray[np.float64] | npt.NDArray[np.int64]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes
    ----------
    name : str
    numeric : bool
    codes : int
        Number of codes of a categorical column, missing (and unseen) included; 0 of a numeric one.
    target : bool
    """

    name: str
    numeric: bool
    codes: int
    target: bool


def columns_of(layout: FeatureLayout) -> tuple[Column, ...]:
    """Return numeric features, categorical features, then targets, in the layout's order."""
    return (
        *(Column(name, True, 0, False) for name in layout.numeric),
        *(
            Column(name, False, codes, False)
            for name, codes in zip(layout.categorical, layout.cardinalities, strict=True)
        ),
        *(Column(head.name, head.kind == "numeric", _codes(head), True) for head in layout.heads),
    )


def to_columns(layout: FeatureLayout, table: EncodedTable) -> list[Values]:
    """Return a table's columns, each (rows,): float64 with NaN, or int64 codes."""
    columns: list[Values] = [
        np.where(table.missing[:, i] > 0, np.nan, table.numeric[:, i].astype(np.float64))
        for i in range(len(layout.numeric))
    ]
    columns += [table.categorical[:, i] for i in range(len(layout.categorical))]
    for head in layout.heads:
        values = table.targets[head.name]
        if head.kind == "numeric":
            columns.append(values.astype(np.float64))
        else:
            columns.append(np.where(values >= 0, np.nan_to_num(values) + 1, 0).astype(np.int64))
    return columns


def from_columns(layout: FeatureLayout, columns: Sequence[Values]) -> EncodedTable:
    """Return the table whose columns these are; numbers beyond [0, 1] are clipped."""
    rows = len(columns[0])
    first, second = len(layout.numeric), len(layout.numeric) + len(layout.categorical)
    numeric = np.stack(columns[:first], axis=1) if first else np.zeros((rows, 0))
    missing = np.isnan(numeric)
    codes = np.stack(columns[first:second], axis=1) if second > first else np.zeros((rows, 0))
    targets: dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]] = {}
    for head, values in zip(layout.heads, columns[second:], strict=True):
        if head.kind == "numeric":
            targets[head.name] = np.clip(values, 0, 1).astype(np.float32)
        elif head.kind == "binary":
            targets[head.name] = np.where(values > 0, values - 1.0, np.nan).astype(np.float32)
        else:
            targets[head.name] = values.astype(np.int64) - 1
    return EncodedTable(
        np.where(missing, 0.0, np.clip(numeric, 0, 1)).astype(np.float32),
        missing.astype(np.float32),
        codes.astype(np.int64),
        targets,
    )


def balanced(layout: FeatureLayout) -> Mapping[str, npt.NDArray[np.float64]]:
    """Return equal proportions of the classes of the first target that has classes, by its name."""
    for head in layout.heads:
        if head.kind != "numeric":
            classes = _codes(head) - 1
            return {head.name: np.full(classes, 1 / classes)}
    return {}


def wanted_proportions(
    layout: FeatureLayout, classes: Mapping[str, npt.NDArray[np.float64]]
) -> tuple[str, npt.NDArray[np.float64]]:
    """Return the one target whose proportions are given, and these, float64 (classes,).

    Raises
    ------
    ConfigurationError
        If there are those of several targets or of one without classes, or they are not one finite
        number of at least 0 for each class, one of them above 0.
    """
    sizes = {head.name: _codes(head) - 1 for head in layout.heads if head.kind != "numeric"}
    if len(classes) != 1 or next(iter(classes)) not in sizes:
        raise ConfigurationError(
            "proportions can be given for one target that has classes, not for "
            + ", ".join(classes)
        )
    name, given = next(iter(classes.items()))
    shares = np.asarray(given, dtype=np.float64)
    if (
        shares.shape != (sizes[name],)
        or not (shares >= 0).all()
        or not 0 < float(shares.sum()) < np.inf
    ):
        raise ConfigurationError(
            f"target {name}: proportions are {sizes[name]} finite numbers of at least 0, one for "
            "each class and one of them above 0"
        )
    return name, shares


def _codes(head: Head) -> int:
    return {"binary": 3, "categorical": 1 + head.outputs, "numeric": 0}[head.kind]
