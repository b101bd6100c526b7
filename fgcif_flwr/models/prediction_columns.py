"""A network's outputs as columns for people: probabilities, words, and numbers in their units."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fgcif_flwr.data.decoding import in_units
from fgcif_flwr.data.schema import NumericTarget, Schema
from fgcif_flwr.errors import SchemaError
from fgcif_flwr.models.network import MultiTaskNetwork

Columns = dict[str, object]


def prediction_columns(
    network: MultiTaskNetwork, schema: Schema, outputs: NDArray[np.floating], likeliest: int
) -> Columns:
    """Return the columns that a network's ``outputs`` (rows, outputs) stand for.

    Parameters
    ----------
    likeliest
        Classes of a categorical target to name, at least 1; of fewer classes all.

    Returns
    -------
    dict
        For a binary target ``NAME_probability``, of the positive class. For a numeric one
        ``NAME``, in its own unit and within its bounds. For a categorical one ``NAME`` and
        ``NAME_probability`` (the likeliest class), then ``NAME_2``, ``NAME_2_probability``, ...

    Raises
    ------
    SchemaError
        Where two columns would have one name.
    """
    scores = outputs.astype(np.float64)
    columns: Columns = {}
    targets = {target.name: target for target in schema.targets}
    for head, where in zip(network.layout.heads, network.head_slices, strict=True):
        target = targets[head.name]
        if head.kind == "binary":
            add_column(columns, f"{head.name}_probability", _sigmoid(scores[:, where.start]))
        elif isinstance(target, NumericTarget):
            add_column(columns, head.name, in_units(target, scores[:, where.start]))
        else:
            shares = softmax(scores[:, where])
            order = np.argsort(-shares, axis=1, kind="stable")[:, :likeliest]
            for place in range(order.shape[1]):
                name = head.name if place == 0 else f"{head.name}_{place + 1}"
                chosen = order[:, place]
                add_column(
                    columns, name, pa.array(head.classes, pa.string()).take(pa.array(chosen))
                )
                probability = np.take_along_axis(shares, chosen[:, np.newaxis], axis=1)[:, 0]
                add_column(columns, f"{name}_probability", probability)
    return columns


def with_id(schema: Schema, table: pa.Table, columns: Columns) -> pa.Table:
    """Return ``columns`` as a table, after the id column where ``table`` has it.

    Raises
    ------
    SchemaError
        Where the id column has the name of another.
    """
    together: Columns = {}
    if schema.id_column is not None and schema.id_column in table.column_names:
        together[schema.id_column] = table[schema.id_column]
    for name, values in columns.items():
        add_column(together, name, values)
    return pa.table(together)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities of logits (rows, classes), by row."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    probabilities: NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
    return probabilities


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    return probabilities


def add_column(columns: Columns, name: str, values: object) -> None:
    """Put a column beside the others.

    Raises
    ------
    SchemaError
        Where there is one of this name.
    """
    if name in columns:
        raise SchemaError(
            f"two columns of the predictions would be named {name}; rename a target in the schema"
        )
    columns[name] = values
