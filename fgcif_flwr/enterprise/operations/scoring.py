"""Using a model on the enterprise's own customers: scores, and how good they are."""

from __future__ import annotations

from datetime import date
from typing import Any

from pydantic import BaseModel, Field

from fgcif_flwr.enterprise.agent.operation import Answer
from fgcif_flwr.enterprise.operations.chosen_model import ModelRequest, load_chosen
from fgcif_flwr.enterprise.operations.form import json_values
from fgcif_flwr.enterprise.operations.own_rows import SplitRequest, split_rows
from fgcif_flwr.enterprise.operations.tables import cutoff_of, usable_customers
from fgcif_flwr.enterprise.site import Site
from fgcif_flwr.errors import DataError

_FEW_ROWS = 100  # an AUC of fewer says little


class ScoreRequest(ModelRequest):
    """Asks for scores of all customers.

    Attributes
    ----------
    cutoff
        Day as of which the features are built; None is the schema's.
    explain
        How many reasons are given for each customer's score.
    """

    cutoff: date | None = None
    explain: int = Field(0, ge=0, le=20)


class EvaluateRequest(SplitRequest):
    """Asks how good a model is on the enterprise's own test rows."""


def score(site: Site, request: BaseModel) -> Answer:
    """Return a row of scores for each customer; target columns are not read."""
    assert isinstance(request, ScoreRequest)
    from fgcif_flwr.models.scoring import score_customers

    name, loaded = load_chosen(site, request)
    table, warnings = usable_customers(site, request.cutoff, targets=False)
    scores = score_customers(loaded, table, explain=request.explain)
    if site.schema.id_column is None:
        warnings += ("the schema names no id column; scores are in the table's order",)
    result: dict[str, Any] = {
        "rows": scores.num_rows,
        "columns": scores.column_names,
        "model": name,
        "cutoff": cutoff_of(site, request.cutoff),
    }
    return Answer(json_values(result), scores, warnings)


def evaluate(site: Site, request: BaseModel) -> Answer:
    """Return each head's exact metrics on the own test rows, which no training has seen.

    The labels of a learned target are those of the model's released centres.
    """
    assert isinstance(request, EvaluateRequest)
    from fgcif_flwr.models.metrics import metrics_from_counts
    from fgcif_flwr.models.personalization import labelled
    from fgcif_flwr.models.training import evaluate_counts

    name, loaded = load_chosen(site, request)
    rows, warnings = split_rows(site, request, loaded)
    if len(rows.test) == 0:
        raise DataError("there are no test rows: too few customers for the test fraction")
    counts = evaluate_counts(loaded.network, labelled(loaded, rows.test))
    if len(rows.test) < _FEW_ROWS:
        warnings += (f"{len(rows.test)} test rows are few: the figures are uncertain",)
    if loaded.segments is None:
        warnings += tuple(
            f"the model holds no segments: {head.name} is learned, and is not evaluated"
            for head in loaded.network.layout.heads
            if head.learned
        )
    result: dict[str, Any] = {
        "model": name,
        "rows": len(rows.test),
        "heads": {
            head.name: {"kind": head.kind, **metrics_from_counts(head, counts[head.name])}
            for head in loaded.network.layout.heads
        },
    }
    return Answer(json_values(result), warnings=warnings)
