"""The policy of an enterprise, as it stands."""

from __future__ import annotations

from pydantic import BaseModel

from fgcif_flwr.data.schema import Schema
from fgcif_flwr.enterprise.agent.operation import Answer
from fgcif_flwr.enterprise.operations.form import OperationRequest
from fgcif_flwr.enterprise.site import Site
from fgcif_flwr.privacy.policy import Policy


class PolicyRequest(OperationRequest):
    """Asks for the policy."""


def policy(site: Site, request: BaseModel) -> Answer:
    """Return every rule with its value, and which of them are not the default."""
    return Answer({"rules": rules_of(site.policy), "changed": changed_rules(site.policy)})


def rules_of(policy: Policy) -> dict[str, object]:
    """Return the rules of a policy as JSON values, sets sorted."""
    rules: dict[str, object] = {}
    for name in Policy.model_fields:
        value = getattr(policy, name)
        rules[name] = sorted(value) if isinstance(value, frozenset) else value
    return rules


def changed_rules(policy: Policy) -> list[str]:
    """Return the names of the rules that are not the default."""
    default = Policy()
    return [name for name in Policy.model_fields if getattr(policy, name) != getattr(default, name)]


def unknown_features(policy: Policy, schema: Schema) -> list[str]:
    """Return the features that a policy allows and that are no column of a schema."""
    columns = {feature.column for feature in schema.features}
    columns |= {target.column or target.name for target in schema.targets}
    return sorted((policy.features or frozenset()) - columns)
