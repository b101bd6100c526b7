"""What an agent counts of a run before it joins it: which one it is, and what it would cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import Schema
from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.federation.private_plan import plan_of
from fgcif_flwr.federation.terms import config_in
from fgcif_flwr.models.network import parameter_count
from fgcif_flwr.secagg import Manifest

_NOBODY = b"\0"
_LONGEST_TERMS = 1 << 18


@dataclass(frozen=True)
class RunLimits:
    """Limits of 24 hours, and whether a person approves each run.

    ``runs`` is at least 1; ``epsilon`` is above 0, the sum of what the runs' plans cost.
    """

    runs: int
    epsilon: float
    approval: bool


@dataclass(frozen=True)
class RunAsked:
    """A run that a coordinator asked to join.

    Attributes
    ----------
    run : str
        Its name, hexadecimal digits; the coordinator's choice.
    terms : str
        Hash of all that was agreed, 64 hexadecimal digits; see :func:`terms_hash`.
    text : str
        The terms themselves, JSON.
    unit : str
    epsilon : float
        What its plan costs; 0 without a privacy unit.
    asked, joined : float, float or None
        Seconds since 1970: when it was first asked for, and first joined.
    state : "joined", "approved", "waiting" or "refused"
        What the agent would say: it waits for approval, or was refused last for another reason.
    """

    run: str
    terms: str
    text: str
    unit: str
    epsilon: float
    asked: float
    joined: float | None
    state: Literal["joined", "approved", "waiting", "refused"]


def check_length(manifest: Manifest) -> None:
    """Raise SecureSumError if a run's terms are longer than any configuration."""
    if len(manifest.terms) > _LONGEST_TERMS:
        raise SecureSumError(f"terms of a run have at most {_LONGEST_TERMS} characters")


def terms_hash(manifest: Manifest) -> str:
    """Return the hash of all that a run is but its name and epoch, 64 hexadecimal digits.

    A run that was refused until somebody approves it is started anew under another name.
    """
    return replace(manifest, run=_NOBODY * len(manifest.run), epoch=1).hash().hex()


def epsilon_of(manifest: Manifest, schema: Schema) -> float:
    """Return what the plan of a manifest's run costs; 0 without a privacy unit.

    Raises
    ------
    ConfigurationError, PrivacyError, CohortError
        If the manifest has no such plan.
    """
    config = config_in(manifest.terms)
    if config.privacy.unit == "none":
        return 0.0
    features = feature_layout(schema)
    parameters = parameter_count(features, config.model)
    honest = manifest.parameters(len(manifest.roster)).honest_in_any_sum
    return plan_of(config, features, parameters, honest).epsilon
