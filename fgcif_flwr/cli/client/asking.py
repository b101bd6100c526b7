"""How a command has an operation done: by the running agent, or here where none runs."""

from __future__ import annotations

import base64
import os
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from fgcif_flwr.config.enterprise import EnterpriseConfig
from fgcif_flwr.enterprise.agent.admin import call
from fgcif_flwr.enterprise.agent.operation import Answer
from fgcif_flwr.enterprise.agent.state_lock import state_lock
from fgcif_flwr.enterprise.operations import OPERATIONS
from fgcif_flwr.enterprise.operations.chosen_model import ModelRequest
from fgcif_flwr.enterprise.operations.form import OperationRequest
from fgcif_flwr.enterprise.operations.readiness import user_name
from fgcif_flwr.enterprise.operations.synthetic import SynthesizeRequest
from fgcif_flwr.enterprise.site import Site
from fgcif_flwr.errors import AgentNotRunningError, ConfigurationError, DataError


def ask(config: EnterpriseConfig, name: str, request: OperationRequest) -> Answer:
    """Have an operation done, and return its answer; errors as :func:`ask_whom`.

    On a terminal a spinner on stderr says meanwhile that it is being done.
    """
    console = Console(stderr=True)
    with console.status(f"{name} ...") if console.is_terminal else nullcontext():
        return ask_whom(config, name, request)[0]


def ask_whom(config: EnterpriseConfig, name: str, request: OperationRequest) -> tuple[Answer, bool]:
    """Have an operation done, and return its answer and whether it is the agent's.

    Raises
    ------
    ConfigurationError
        Where no agent runs and this is not the user whose files the state's are: files that
        another user makes there, the agent could not use.
    FgcifError
        What the operation was refused with.
    """
    try:
        return call(config, name, request), True
    except AgentNotRunningError:
        check_owner(config)
        _check_no_agent(config)
    if isinstance(request, ModelRequest | SynthesizeRequest):
        use_one_thread()
    return OPERATIONS[name].run(Site.open(config, takes_part=False), request), False


def use_one_thread() -> None:
    """Have PyTorch compute in one thread: the models are small, and sums come out alike."""
    import torch

    torch.set_num_threads(1)


def check_owner(config: EnterpriseConfig) -> None:
    """Raise ConfigurationError unless the state directory is this user's own."""
    try:
        owner = config.directory.stat().st_uid
    except OSError as error:
        raise ConfigurationError(
            f"the state directory {config.directory} cannot be used: {error.strerror}; "
            "fgcif-client init makes it"
        ) from None
    if owner != os.geteuid():
        name = user_name(owner)
        raise ConfigurationError(
            f"the state directory {config.directory} belongs to {name} and no agent answers on "
            f"{config.agent.admin}, or this user may not use it; run this as {name}, or start "
            "the agent"
        )


def _check_no_agent(config: EnterpriseConfig) -> None:
    try:
        with state_lock(config.directory):
            pass  # not held on: what operations do beside each other, the files themselves order
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error}; nothing answers on {config.agent.admin}: wait while it starts, or read its "
            "log"
        ) from None


def chosen(model: str) -> dict[str, object]:
    """Return the fields of a model's request for what ``--model`` was given.

    A file, or a run's directory, is read here: with the rights of whoever asks.
    """
    path = Path(model)
    if not model or not path.exists():
        if "/" in model or model.endswith(".safetensors"):
            raise DataError(f"there is no model file {model}")
        return {"model": model}
    file = path / "model.safetensors" if path.is_dir() else path
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    return {"model": str(path), "content": base64.b64encode(content)}
