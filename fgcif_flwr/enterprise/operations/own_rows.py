"""The enterprise's rows, split as the agent splits them for releases."""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING, Any

from pydantic import Field

from fgcif_flwr.config import DataSection
from fgcif_flwr.data.consortium import EnterpriseRows
from fgcif_flwr.enterprise.operations.chosen_model import ModelRequest
from fgcif_flwr.enterprise.operations.tables import usable_customers
from fgcif_flwr.enterprise.site import Site

if TYPE_CHECKING:
    from fgcif_flwr.models.artifact import LoadedModel


class SplitRequest(ModelRequest):
    """Names a model, and how customers are split; left out, as in the model's run.

    Attributes
    ----------
    validation_fraction, test_fraction
        As ``data.validation_fraction`` and ``data.test_fraction`` of a run.
    cutoff
        Day as of which the features are built.
    """

    validation_fraction: float | None = Field(None, ge=0, lt=0.5)
    test_fraction: float | None = Field(None, gt=0, lt=0.5)
    cutoff: date | None = None


def split_rows(
    site: Site, request: SplitRequest, loaded: LoadedModel
) -> tuple[EnterpriseRows, tuple[str, ...]]:
    """Return the rows by split, and warnings: those of the data, and what was assumed."""
    fractions, warnings = _fractions(request, _run_of(site, loaded.statement))
    table, left_out = usable_customers(site, request.cutoff, targets=True)
    with site.open_ledger() as ledger:
        key = ledger.population_key
    return site.rows(table, key, fractions), (*left_out, *warnings)


def _run_of(site: Site, statement: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the run that a model is of, as the agent was asked to join it.

    Empty where the model names none, or one that this enterprise was not asked for.
    """
    from fgcif_flwr.enterprise.agent.limits import AgentState

    run = statement.get("run")
    if not isinstance(run, str) or not site.state_path.exists():
        return {}
    with AgentState(site.state_path) as state:
        texts = [asked.text for asked in state.runs() if asked.run == run]
    return dict(json.loads(texts[0]).get("config", {})) if texts else {}


def _fractions(
    request: SplitRequest, configuration: dict[str, Any]
) -> tuple[tuple[float, float], tuple[str, ...]]:
    """Take each fraction from the request, else from the run, else the usual one, and say so."""
    usual = DataSection()
    chosen, assumed = [], []
    for name in ("validation_fraction", "test_fraction"):
        value = getattr(request, name)
        if value is None:
            value = configuration.get(f"data.{name}")
        if not isinstance(value, int | float):
            value = getattr(usual, name)
            assumed.append(f"{name.replace('_', ' ')} {value:g}")
        chosen.append(float(value))
    if not assumed:
        return (chosen[0], chosen[1]), ()
    return (chosen[0], chosen[1]), (
        f"how the model's run split customers is not known here; assumed: {', '.join(assumed)}. "
        "With another split than the run's, rows that it was trained on are among those tested",
    )
