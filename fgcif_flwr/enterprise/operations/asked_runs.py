"""The runs that a coordinator asked this enterprise to join, and a person's approval of one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from fgcif_flwr.enterprise.agent.operation import Answer
from fgcif_flwr.enterprise.operations.form import OperationRequest
from fgcif_flwr.enterprise.site import Site

if TYPE_CHECKING:
    from fgcif_flwr.enterprise.agent.runs import RunAsked


class RunsRequest(OperationRequest):
    """Asks for the runs."""


class ApproveRequest(OperationRequest):
    """Approves runs with the terms of this hash (or its first 32 digits or more)."""

    terms: str = Field(pattern=r"^[0-9a-fA-F]{32,64}$")


def runs(site: Site, request: BaseModel) -> Answer:
    """Return the runs that were asked for, the newest first, with what each of them is."""
    from fgcif_flwr.enterprise.agent.limits import AgentState

    asked: tuple[RunAsked, ...] = ()
    if site.state_path.exists():
        with AgentState(site.state_path) as state:
            asked = state.runs()
    approval = site.config.agent.approval
    return Answer({"approval": approval, "runs": [_as_json(one) for one in asked]})


def approve(site: Site, request: BaseModel) -> Answer:
    """Let a run be joined the next time that it is asked for."""
    assert isinstance(request, ApproveRequest)
    from fgcif_flwr.enterprise.agent.limits import AgentState

    with AgentState(site.state_path) as state:
        whole = state.approve(request.terms)
    warnings: tuple[str, ...] = ()
    if not site.config.agent.approval:
        warnings = ("agent.approval is false: runs are joined without approval",)
    return Answer({"terms": whole}, warnings=warnings)


def _as_json(asked: RunAsked) -> dict[str, Any]:
    return {
        "run": asked.run,
        "terms": asked.terms,
        "unit": asked.unit,
        "epsilon": asked.epsilon,
        "asked": _time(asked.asked),
        "joined": None if asked.joined is None else _time(asked.joined),
        "state": asked.state,
        "configuration": json.loads(asked.text).get("config", {}),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
