"""Synthetic customers from a generator that is trained on the enterprise's own rows."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from fgcif_flwr.enterprise.agent.operation import Answer
from fgcif_flwr.enterprise.operations.form import OperationRequest
from fgcif_flwr.enterprise.operations.tables import usable_customers
from fgcif_flwr.enterprise.site import Site

_EXACT = (
    "No differential privacy: these rows were learnt from customers' rows without noise, and some "
    "may be close to one. Keep them where the customers' rows are kept."
)


class SynthesizeRequest(OperationRequest):
    """Asks for synthetic customers.

    Attributes
    ----------
    rows
        How many.
    seed
        Decides all but the noise.
    steps
        Training steps of the CTGAN.
    noise_multiplier
        Of the noise on its gradients; None trains without.
    balance
        Whether the first target's classes get equal shares.
    """

    rows: int = Field(ge=1, le=10_000_000)
    seed: int = Field(0, ge=0, le=2**32 - 1)
    steps: int = Field(2000, ge=1, le=1_000_000)
    noise_multiplier: float | None = Field(None, ge=0.01)
    balance: bool = False


def synthesize(site: Site, request: BaseModel) -> Answer:
    """Return synthetic customers in the columns, units and words of the schema."""
    assert isinstance(request, SynthesizeRequest)
    import numpy as np

    from fgcif_flwr.data.decoding import decode, sensible_decimals
    from fgcif_flwr.data.encoding import encode, feature_layout
    from fgcif_flwr.generative.columns import balanced
    from fgcif_flwr.generative.ctgan import CriticPrivacy, CtganSettings, fit_ctgan

    table, warnings = usable_customers(site, None, targets=True)
    multiplier = request.noise_multiplier
    privacy = None if multiplier is None else CriticPrivacy(multiplier)
    settings = CtganSettings(steps=request.steps, privacy=privacy)
    own = encode(site.schema, table)
    generator = fit_ctgan(feature_layout(site.schema), own, settings, request.seed)
    classes = balanced(generator.layout) if request.balance else None
    made = generator.sample(request.rows, np.random.default_rng(request.seed), classes)
    statement = _EXACT
    if privacy is not None and generator.diagnostics is not None:
        statement = (
            f"epsilon = {generator.diagnostics.epsilon:.4g} at delta = {privacy.delta:g} for each "
            "customer of the table, over all that this training shows (one row's contribution "
            "replaced by zero). The privacy ledger was not charged: if these rows leave the house, "
            "what else is released about the same customers adds up."
        )
    result: dict[str, Any] = {
        "rows": request.rows,
        "learnt_from": len(own),
        "kind": generator.kind,
        "privacy": statement,
    }
    return Answer(result, decode(site.schema, made, sensible_decimals(site.schema)), warnings)
