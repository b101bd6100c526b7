"""Which model an operation is about: one that the agent kept of a run, or one that is handed in."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Base64Bytes, Field

from fgcif_flwr.enterprise.operations.form import OperationRequest
from fgcif_flwr.enterprise.site import Site
from fgcif_flwr.errors import DataError, SchemaError

if TYPE_CHECKING:
    from fgcif_flwr.models.artifact import LoadedModel

SUFFIX = ".safetensors"
PERSONAL = ".personal"
"""Ends the name of a model that was fine-tuned on this enterprise's own rows."""


class ModelRequest(OperationRequest):
    """Names a model.

    Attributes
    ----------
    model
        Beginning of the name of a model that was kept; empty is the newest.
    content
        Bytes of a model file, of base64 in JSON; then ``model`` is what it is called. Whoever
        asks reads the file with their own rights, so that the agent opens none for them.
    """

    model: str = Field("", max_length=1000)
    content: Base64Bytes | None = None


def kept_models(site: Site) -> list[str]:
    """Return the names of the models that were kept, the newest first."""
    files = site.models_directory.glob(f"*{SUFFIX}")
    newest = sorted(files, key=lambda file: (file.stat().st_mtime_ns, file.name), reverse=True)
    return [file.name.removesuffix(SUFFIX) for file in newest]


def model_file(site: Site, name: str) -> Path:
    """Return where a model of this name is kept."""
    return site.models_directory / f"{name}{SUFFIX}"


def load_chosen(site: Site, request: ModelRequest) -> tuple[str, LoadedModel]:
    """Return the model's name and the model.

    Raises
    ------
    DataError
        If there is none of this name or several, or the file is no model.
    SchemaError
        If it is of another schema than the consortium's.
    """
    from fgcif_flwr.models.artifact import load_model

    if request.content is None:
        name = _only(kept_models(site), request.model)
        loaded = load_model(model_file(site, name))
    else:
        name = request.model or "model"
        with tempfile.NamedTemporaryFile(prefix="fgcif-", suffix=SUFFIX) as file:
            file.write(request.content)
            file.flush()
            try:
                loaded = load_model(Path(file.name))
            except DataError as error:
                raise DataError(str(error).replace(file.name, name)) from None
    if loaded.schema.hash != site.schema.hash:
        raise SchemaError(
            f"the model {name} is of schema {loaded.schema.name} {loaded.schema.hash[:12]}, the "
            f"consortium's is {site.schema.name} {site.schema.hash[:12]}; take a model of the "
            "consortium's schema"
        )
    return name, loaded


def _only(kept: list[str], beginning: str) -> str:
    if not kept and not beginning:
        raise DataError(
            "no model was kept yet: none of a run was evaluated here; name a model file by --model"
        )
    if not beginning:
        # A fine-tuned model is asked for by name: it is not what the consortium agreed on.
        joint = [name for name in kept if not name.endswith(PERSONAL)]
        return (joint or kept)[0]
    if beginning in kept:
        return beginning
    found = [name for name in kept if name.startswith(beginning)]
    names = ", ".join(name[:24] for name in kept[:8])
    if not found:
        raise DataError(
            f"{beginning} is neither a file, a run's directory nor the beginning of a kept model's "
            f"name; {f'kept are {names}' if kept else 'no model was kept yet'}"
        )
    if len(found) > 1:
        raise DataError(
            f"{len(found)} models that were kept have a name that begins with {beginning}; kept "
            f"are {names}"
        )
    return found[0]
