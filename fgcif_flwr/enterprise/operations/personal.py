"""A joint model fine-tuned on the enterprise's own rows; it stays in the house."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, Field

from fgcif_flwr.enterprise.agent.operation import Answer
from fgcif_flwr.enterprise.operations.chosen_model import PERSONAL, load_chosen, model_file
from fgcif_flwr.enterprise.operations.form import json_values
from fgcif_flwr.enterprise.operations.own_rows import SplitRequest, split_rows
from fgcif_flwr.enterprise.site import Site

_STATEMENT = (
    "Fine-tuned on this enterprise's own customers without differential privacy: the run's "
    "guarantee does not cover it. Keep it where the customers' rows are kept."
)


class PersonalizeRequest(SplitRequest):
    """Asks for fine-tuning; ``seed`` decides the order of rows and the drawings."""

    seed: int = Field(0, ge=0, le=2**32 - 1)


def personalize(site: Site, request: BaseModel) -> Answer:
    """Fine-tune a model, and keep the result if it is better by more than chance reaches."""
    assert isinstance(request, PersonalizeRequest)
    from fgcif_flwr.models import personalization
    from fgcif_flwr.models.artifact import save_model

    name, loaded = load_chosen(site, request)
    rows, warnings = split_rows(site, request, loaded)
    tuned = personalization.personalize(loaded, rows, seed=request.seed)
    gain = asdict(tuned.gain)
    result: dict[str, Any] = {
        "model": name,
        "kept": tuned.kept,
        "saved": None,
        "epochs": tuned.epochs,
        "rows": {"train": len(rows.train), "validation": len(rows.validation)},
        "gain": gain,
        "before": tuned.before,
        "after": tuned.after,
        "privacy": _STATEMENT,
    }
    if tuned.network is not None:
        site.models_directory.mkdir(mode=0o700, exist_ok=True)
        saved = f"{name.removesuffix(PERSONAL)}{PERSONAL}"
        statement = {**loaded.statement, "privacy": {"statement": _STATEMENT}, "gain": gain}
        save_model(model_file(site, saved), tuned.network, loaded.schema, statement)
        result["saved"] = saved
    return Answer(json_values(result), warnings=warnings)
