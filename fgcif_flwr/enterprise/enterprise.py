"""What runs inside one enterprise: it answers requests, and guards its rows and its keys.

It knows nothing of Flower. Everything it computes from rows leaves through the one door.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.consortium import EnterpriseRows
from fgcif_flwr.data.encoding import FeatureLayout, feature_layout
from fgcif_flwr.data.schema import Schema
from fgcif_flwr.enterprise.tasks import Tasks
from fgcif_flwr.errors import FgcifError, NotJoinedError, SecureSumError
from fgcif_flwr.federation import answering
from fgcif_flwr.federation.releases import (
    TASKS,
    check_input,
    layout_of,
)
from fgcif_flwr.federation.requests import (
    Join,
    Refusal,
    Release,
    Reply,
    Request,
)
from fgcif_flwr.federation.task_input import input_hash
from fgcif_flwr.federation.terms import check_schema, config_in
from fgcif_flwr.models.network import parameter_count
from fgcif_flwr.privacy.door import Door, Policy, ReleaseLog
from fgcif_flwr.privacy.statement import PrivacyStatement
from fgcif_flwr.secagg import Participant, Released
from fgcif_flwr.seeds import seed_for

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Enterprise:
    """One enterprise for one message: rows and schema of its own, its party, its policy.

    Attributes
    ----------
    schema : Schema
    rows : EnterpriseRows
    participant : Participant
        Changed by :meth:`answer`; the caller keeps it for the next message.
    policy : Policy
    log : ReleaseLog
    """

    schema: Schema
    rows: EnterpriseRows
    participant: Participant
    policy: Policy
    log: ReleaseLog

    def answer(self, request: Request) -> Reply:
        """Answer a request, or refuse it with a reason that holds nothing of a customer."""
        try:
            return self._answer(request)
        except FgcifError as error:
            logger.warning("%s refused: %s", self.participant.name, error)
            return Refusal.of(error)
        except Exception:  # the door must stand whatever fails behind it, and its slot be spent
            logger.exception("%s failed on a request", self.participant.name)
            return Refusal.internal()

    def _answer(self, request: Request) -> Reply:
        if isinstance(request, Join):
            check_schema(request.manifest.terms, self.schema.hash)
            self.policy.check_manifest(request.manifest)
            config_in(request.manifest.terms)  # refuses what this version does not carry out
            return self.participant.join(request.manifest)
        if isinstance(request, Release):
            return self._release(request)
        return answering.answer(self.participant, request)

    def _release(self, release: Release) -> Released:
        manifest = self.participant.manifest
        if manifest is None:
            raise NotJoinedError(f"{self.participant.name} has not joined a run")
        request = release.request
        if request.task not in TASKS:
            raise SecureSumError(f"there is no task {request.task!r} in the manifest")
        config = config_in(manifest.terms)
        features, parameters = _shape(self.schema, config)
        tasks = Tasks(config, features, self.rows)
        check_input(request.task, release.arrays, config, features, parameters)
        hashed = input_hash(release.arrays)
        rounding = seed_for(config, "rounding", self.rows.name, request.task, hashed.hex())
        door = Door(self.participant, self.policy, self.log)
        return door.release(
            request,
            PrivacyStatement.of(config.privacy),
            layout_of(request.task, config, features, parameters),
            hashed,
            lambda: tasks.compute(request.task, release.arrays),
            np.random.default_rng(rounding),
        )


@lru_cache(maxsize=4)
def _shape(schema: Schema, config: RunConfig) -> tuple[FeatureLayout, int]:
    """Return the schema's features and the number of the model's parameters."""
    features = feature_layout(schema)
    return features, parameter_count(features, config.model)
