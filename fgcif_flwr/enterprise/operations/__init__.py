"""What an enterprise's own people can have done with its data, its state and its models.

Each is an operation of the agent, over the admin socket. Where no agent runs the command does it
itself, as the same user and with the same answer. None of them is reached from outside.
"""

from __future__ import annotations

from fgcif_flwr.enterprise.agent.operation import Operation, Operations
from fgcif_flwr.enterprise.operations.asked_runs import (
    ApproveRequest,
    RunsRequest,
    approve,
    runs,
)
from fgcif_flwr.enterprise.operations.budget import BudgetRequest, budget
from fgcif_flwr.enterprise.operations.description import DescribeRequest, describe
from fgcif_flwr.enterprise.operations.exported import ExportRequest, export
from fgcif_flwr.enterprise.operations.personal import PersonalizeRequest, personalize
from fgcif_flwr.enterprise.operations.readiness import CheckRequest, check
from fgcif_flwr.enterprise.operations.releases import LogRequest, log
from fgcif_flwr.enterprise.operations.rules import PolicyRequest, policy
from fgcif_flwr.enterprise.operations.scoring import EvaluateRequest, ScoreRequest, evaluate, score
from fgcif_flwr.enterprise.operations.state import StatusRequest, status
from fgcif_flwr.enterprise.operations.synthetic import SynthesizeRequest, synthesize
from fgcif_flwr.enterprise.operations.tables import FeaturesRequest, features

__all__ = ["OPERATIONS"]

OPERATIONS: Operations = {
    "approve": Operation(ApproveRequest, approve),
    "budget": Operation(BudgetRequest, budget),
    "check": Operation(CheckRequest, check),
    "describe": Operation(DescribeRequest, describe),
    "evaluate": Operation(EvaluateRequest, evaluate),
    "export-model": Operation(ExportRequest, export),
    "features": Operation(FeaturesRequest, features),
    "log": Operation(LogRequest, log),
    "personalize": Operation(PersonalizeRequest, personalize),
    "policy": Operation(PolicyRequest, policy),
    "runs": Operation(RunsRequest, runs),
    "score": Operation(ScoreRequest, score),
    "status": Operation(StatusRequest, status),
    "synthesize": Operation(SynthesizeRequest, synthesize),
}
