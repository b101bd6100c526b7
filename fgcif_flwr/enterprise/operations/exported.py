"""A model as files for use without this package."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

from pydantic import BaseModel

from fgcif_flwr.enterprise.agent.operation import Answer
from fgcif_flwr.enterprise.operations.chosen_model import PERSONAL, ModelRequest, load_chosen
from fgcif_flwr.enterprise.site import Site


class ExportRequest(ModelRequest):
    """Asks for a model as PyTorch's exported program."""


def export(site: Site, request: BaseModel) -> Answer:
    """Return the program and the description of its inputs, as base64, and the privacy promised."""
    assert isinstance(request, ExportRequest)
    from fgcif_flwr.models.export import export_model

    name, loaded = load_chosen(site, request)
    with tempfile.TemporaryDirectory(prefix="fgcif-") as directory:
        files = export_model(loaded, Path(directory) / "model.pt2")
        program, encoding = files.program.read_bytes(), files.encoding.read_bytes()
    warnings: tuple[str, ...] = ()
    if name.endswith(PERSONAL):
        warnings = (
            "this model was fine-tuned on this enterprise's own customers without differential "
            "privacy: keep it in the house",
        )
    return Answer(
        {
            "model": name,
            "program": base64.b64encode(program).decode("ascii"),
            "encoding": base64.b64encode(encoding).decode("ascii"),
        },
        warnings=warnings,
    )
