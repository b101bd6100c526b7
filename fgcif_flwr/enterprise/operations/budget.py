"""What was spent of an enterprise's privacy budget, in each run and over all of them."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel

from fgcif_flwr.enterprise.agent.operation import Answer
from fgcif_flwr.enterprise.operations.form import OperationRequest, json_values
from fgcif_flwr.enterprise.operations.releases import read_releases
from fgcif_flwr.enterprise.site import Site
from fgcif_flwr.privacy.ledger import SqliteLedger


class BudgetRequest(OperationRequest):
    """Asks for the privacy budget."""


def budget(site: Site, request: BaseModel) -> Answer:
    """Return the spent and the remaining budget, over all runs and in each.

    Epsilons are those of the customers who were charged most, at the policy's ``delta_total``, a
    run's at its ``delta_per_run``. Without a ledger nothing was ever charged; none is made.
    """
    policy = site.policy
    result: dict[str, Any] = {
        "epsilon_total": policy.epsilon_total,
        "delta_total": policy.delta_total,
        "epsilon_per_run": policy.epsilon_per_run,
        "delta_per_run": policy.delta_per_run,
        "spent": 0.0,
        "remaining": policy.epsilon_total,
        "releases": 0,
        "unfinished": 0,
        "stretches": [],
        "runs": [],
    }
    if site.ledger_path.exists():
        with SqliteLedger(site.ledger_path, site.name) as ledger:
            result |= _spent(ledger, site)
    exact = sum(entry.unit == "none" for entry in read_releases(site.release_log_path))
    result["exact_releases"] = exact
    warnings = []
    if exact:
        warnings.append(f"exact sums left, which no budget covers: {exact} (see the log)")
    if not math.isfinite(result["spent"]):
        warnings.append("the charges' own deltas take up delta_total: nothing is left")
    return Answer(json_values(result), warnings=tuple(warnings))


def _spent(ledger: SqliteLedger, site: Site) -> dict[str, Any]:
    policy = site.policy
    total = ledger.spent(policy.delta_total)
    runs = dict.fromkeys(entry.charge.run for entry in ledger.entries(policy.delta_total))
    return {
        "spent": total.epsilon,
        "remaining": max(0.0, policy.epsilon_total - total.epsilon),
        "releases": total.entries,
        "unfinished": total.reserved,
        "stretches": [
            {
                "from": one.lower,
                "to": one.upper,
                "epsilon": one.epsilon,
                "charges": one.charges,
            }
            for one in total.stretches
        ],
        "runs": [_run(ledger, run, policy.delta_per_run) for run in runs],
    }


def _run(ledger: SqliteLedger, run: str, delta: float) -> dict[str, Any]:
    spent = ledger.spent_in_run(run, delta)
    return {
        "run": run,
        "epsilon": spent.epsilon,
        "delta": delta,
        "releases": spent.entries,
        "tasks": ledger.slots_of(run),
    }
