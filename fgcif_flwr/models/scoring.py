"""Scoring an enterprise's own customers: every target at once, with reasons where wanted."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fgcif_flwr.data.encoding import EncodedTable, Head, encode
from fgcif_flwr.errors import SchemaError
from fgcif_flwr.models.artifact import LoadedModel
from fgcif_flwr.models.network import MultiTaskNetwork
from fgcif_flwr.models.prediction_columns import (
    Columns,
    add_column,
    prediction_columns,
    with_id,
)
from fgcif_flwr.models.reason_words import reason_columns
from fgcif_flwr.models.reasons import attribute, mean_baseline

LIKELIEST = 3
"""Classes of a categorical target that are named."""


def score_customers(
    loaded: LoadedModel,
    table: pa.Table,
    *,
    explain: int = 0,
    target: str | None = None,
    compare_with: pa.Table | None = None,
) -> pa.Table:
    """Score ``table``; its target columns are neither needed nor read.

    Parameters
    ----------
    loaded
        From :func:`fgcif_flwr.models.artifact.load_model`.
    table
        Customers, with the schema's feature columns; others are ignored.
    explain
        Reasons to give for each customer, 0 for none.
    target
        The binary or numeric target that the reasons are of; left out, the first binary one, or
        else the first numeric one.
    compare_with
        Customers, for instance all of the enterprise's, whose mean the reasons compare with; left
        out, the public neutral row of :func:`fgcif_flwr.models.reasons.neutral_baseline`.

    Returns
    -------
    pyarrow.Table
        Rows as in ``table``: the id column where the table has it, then for a binary target
        ``NAME_probability``, for a numeric one ``NAME`` in its own unit, for a categorical one the
        three likeliest classes (see
        :func:`fgcif_flwr.models.prediction_columns.prediction_columns`). Where the model has
        learned segments, ``TARGET_assigned`` and ``TARGET_name`` are the class and the name of the
        segment whose released centre is nearest to the customer, null where nothing that segments
        are made by is known. With ``explain``
        ``reason_1``, ``reason_1_share``, ... (see
        :func:`fgcif_flwr.models.reason_words.reason_columns`).

    Raises
    ------
    MissingColumnError, ValueOutOfKindError
        As :func:`fgcif_flwr.data.encoding.encode`.
    SchemaError
        Where ``target`` is none that can be explained, or two columns would have one name.
    RunFailedError
        Where a diverged model cannot be explained.
    ValueError
        For a negative ``explain``.
    """
    if explain < 0:
        raise ValueError("explain wants a number of reasons, 0 or more")
    network = loaded.network
    what, column = explained_output(network, target) if explain else ("", 0)
    rows = encode(loaded.schema, table, targets=False)
    columns = prediction_columns(network, loaded.schema, network.outputs(rows), LIKELIEST)
    more = segment_columns(loaded, rows)
    if explain:
        baseline = None
        if compare_with is not None:
            baseline = mean_baseline(network, encode(loaded.schema, compare_with, targets=False))
        moved = attribute(network, rows, column, baseline)
        more |= reason_columns(loaded.schema, rows, moved, what, explain)
    for name, values in more.items():
        add_column(columns, name, values)
    return with_id(loaded.schema, table, columns)


def segment_columns(loaded: LoadedModel, rows: EncodedTable) -> Columns:
    """Return the segment that each row is in by the released centres; nothing without segments."""
    segments = loaded.segments
    if segments is None:
        return {}
    places = segments.assign(loaded.network.layout, rows)
    known = pa.array(np.where(places < 0, 0, places), mask=places < 0)
    words = pa.array([segment.word for segment in segments.segments], pa.string())
    return {
        f"{segments.target}_assigned": words.take(known),
        f"{segments.target}_name": pa.array(segments.names, pa.string()).take(known),
    }


def explained_output(network: MultiTaskNetwork, target: str | None = None) -> tuple[str, int]:
    """Return the target that reasons are given for, and its column of the network's outputs.

    Raises
    ------
    SchemaError
        Where no target, or not the named one, has a single output.
    """
    by_kind: dict[str, list[tuple[Head, int]]] = {"binary": [], "numeric": [], "categorical": []}
    for head, where in zip(network.layout.heads, network.head_slices, strict=True):
        by_kind[head.kind].append((head, where.start))
    single = [*by_kind["binary"], *by_kind["numeric"]]
    for head, column in single:
        if target in (None, head.name):
            return head.name, column
    names = ", ".join(head.name for head, _ in single) or "none of this model's"
    raise SchemaError(f"reasons are of a binary or numeric target: {names}")
