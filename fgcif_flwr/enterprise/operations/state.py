"""How an enterprise stands: who it is, what it was charged, what left it, which models it has."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from fgcif_flwr.enterprise.agent.operation import Answer
from fgcif_flwr.enterprise.operations.chosen_model import kept_models
from fgcif_flwr.enterprise.operations.form import OperationRequest, json_values
from fgcif_flwr.enterprise.operations.releases import read_releases
from fgcif_flwr.enterprise.site import Site
from fgcif_flwr.privacy.ledger import SqliteLedger

_MOST_MODELS = 10


class StatusRequest(OperationRequest):
    """Asks how the enterprise stands."""


def status(site: Site, request: BaseModel) -> Answer:
    """Return it without reading the enterprise's data."""
    policy = site.policy
    releases = list(read_releases(site.release_log_path))
    spent, charged = 0.0, 0
    if site.ledger_path.exists():
        with SqliteLedger(site.ledger_path, site.name) as ledger:
            total = ledger.spent(policy.delta_total)
            spent, charged = total.epsilon, total.entries
    kept = kept_models(site)
    result: dict[str, Any] = {
        "name": site.name,
        "public_key": site.identity.public.hex(),
        "directory": str(site.config.directory),
        "schema": {"name": site.schema.name, "hash": site.schema.hash},
        "enterprises": len(site.roster),
        "coordinator": site.coordinator.hex(),
        "budget": {
            "spent": spent,
            "epsilon_total": policy.epsilon_total,
            "delta_total": policy.delta_total,
            "charged_releases": charged,
        },
        "releases": len(releases),
        "last_release": releases[-1].time if releases else None,
        "models": kept[:_MOST_MODELS],
        "kept_models": len(kept),
    }
    return Answer(json_values(result))
