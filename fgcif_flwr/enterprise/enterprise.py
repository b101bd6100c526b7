"""What runs inside one enterprise: it answers requests, and guards its rows and its keys.

It knows nothing of Flower. Everything it computes from rows leaves through the one door.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.consortium import EnterpriseRows
from fgcif_flwr.data.encoding import FeatureLayout, feature_layout
from fgcif_flwr.data.schema import CategoricalTarget, Schema
from fgcif_flwr.enterprise.private_tasks import PrivateTasks
from fgcif_flwr.enterprise.tasks import Tasks
from fgcif_flwr.errors import (
    BudgetExhaustedError,
    FgcifError,
    LedgerError,
    NotJoinedError,
    PolicyError,
    PrivacyError,
    SecureSumError,
)
from fgcif_flwr.federation import answering
from fgcif_flwr.federation.local_work import local_steps
from fgcif_flwr.federation.private_plan import (
    check_epsilon,
    check_secure_sum,
    plan_of,
    tasks_of,
)
from fgcif_flwr.federation.private_releases import (
    check_private_input,
    trained_layout,
    trains_locally,
)
from fgcif_flwr.federation.releases import TRAIN, check_input, layout_of
from fgcif_flwr.federation.requests import (
    Join,
    Refusal,
    Release,
    Reply,
    Request,
)
from fgcif_flwr.federation.segmentation_releases import check_learned
from fgcif_flwr.federation.task_input import input_hash
from fgcif_flwr.federation.terms import check_schema, config_in
from fgcif_flwr.models.network import parameter_count
from fgcif_flwr.privacy.door import Door
from fgcif_flwr.privacy.ledger import Ledger, Witness
from fgcif_flwr.privacy.plan import PrivacyPlan
from fgcif_flwr.privacy.policy import Policy
from fgcif_flwr.privacy.release_log import ReleaseLog
from fgcif_flwr.privacy.statement import PrivacyStatement
from fgcif_flwr.secagg import Manifest, Participant, Released
from fgcif_flwr.secagg.messages import JoinReply
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
    ledger : Ledger or None
        Of the population whose rows these are; without one no run with a privacy unit is joined.
    witness : Witness or None
        Remembers the ledgers that other enterprises showed at joins.
    """

    schema: Schema
    rows: EnterpriseRows
    participant: Participant
    policy: Policy
    log: ReleaseLog
    ledger: Ledger | None = None
    witness: Witness | None = None

    def answer(self, request: Request) -> Reply:
        """Answer a request, or refuse it with a reason that holds nothing of a customer."""
        if self.witness is not None:
            self.participant.examine = self._examine
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
            return self._join(request)
        if isinstance(request, Release):
            return self._release(request)
        return answering.answer(self.participant, request)

    def _join(self, request: Join) -> JoinReply:
        """Accept a manifest, if policy and ledger let the whole of its run pass."""
        manifest = request.manifest
        check_schema(manifest.terms, self.schema.hash)
        self.policy.check_manifest(manifest)
        config = config_in(manifest.terms)  # refuses what this version does not carry out
        check_learned(config, feature_layout(self.schema))
        plan = self._plan(config, manifest)
        columns = [feature.column for feature in self.schema.features]
        columns += [
            target.column or target.name
            for target in self.schema.targets
            if not (isinstance(target, CategoricalTarget) and target.source == "learned")
        ]
        self.policy.check_run(plan, columns)
        self.policy.check_work(local_steps(config))
        if self.ledger is None:
            if plan is not None:
                raise LedgerError("there is no privacy ledger, so no run with a unit is joined")
            return self.participant.join(manifest)
        if self.participant.joining is not None and manifest == self.participant.manifest:
            return self.participant.join(manifest)  # the answer was lost: no join but the first
        run = manifest.run.hex()
        if plan is not None:
            self._check_budget(plan, self.ledger, run)
        self.ledger.record_join(run)
        return self.participant.join(manifest, self.ledger.attestation())

    def _check_budget(self, plan: PrivacyPlan, ledger: Ledger, run: str) -> None:
        """Raise unless all that is left of a plan fits, in the run and over all runs.

        The coordinator names the run: under one name it may have had another plan before.
        """
        left = plan.remaining(ledger.slots_of(run), run)
        most = self.policy.epsilon_per_run * (1 + 1e-9)
        try:
            ledger.check(left, most, self.policy.delta_per_run, run)
        except BudgetExhaustedError:
            raise PolicyError(
                "policy: with what this run has released before, its plan would cost more than "
                f"this enterprise's epsilon_per_run of {self.policy.epsilon_per_run:g}"
            ) from None
        ledger.check(left, self.policy.epsilon_total, self.policy.delta_total)

    def _examine(self, joins: Sequence[JoinReply]) -> None:
        """Take part in no epoch with a ledger that was put back; PrivacyError names whose."""
        manifest = self.participant.manifest
        if self.witness is None or manifest is None:
            return
        self.witness.seen_together(
            (join.name, manifest.identities[join.name], join.attestation) for join in joins
        )

    def _release(self, release: Release) -> Released:
        manifest = self.participant.manifest
        if manifest is None:
            raise NotJoinedError(f"{self.participant.name} has not joined a run")
        config = config_in(manifest.terms)
        if release.request.task not in tasks_of(config):
            raise SecureSumError(f"there is no task {release.request.task!r} in the manifest")
        plan = self._plan(config, manifest)
        door = Door(self.participant, self.policy, self.log, self.ledger)
        if plan is None:
            return self._release_exactly(door, release, config)
        return self._release_privately(door, release, config, manifest, plan)

    def _release_exactly(self, door: Door, release: Release, config: RunConfig) -> Released:
        request = release.request
        features, parameters = _shape(self.schema, config)
        tasks = Tasks(config, features, self.rows)
        check_input(request.task, release.arrays, config, features, parameters)
        hashed = input_hash(release.arrays)
        return door.release(
            request,
            layout_of(request.task, config, features, parameters),
            hashed,
            lambda: tasks.compute(request.task, release.arrays),
            self._rounding(config, request.task, hashed),
        )

    def _release_privately(
        self,
        door: Door,
        release: Release,
        config: RunConfig,
        manifest: Manifest,
        plan: PrivacyPlan,
    ) -> Released:
        request = release.request
        features, parameters = _shape(self.schema, config)
        tasks = PrivateTasks(config, features, self.rows)
        check_private_input(request.task, release.arrays, config, features, parameters)
        hashed = input_hash(release.arrays)
        roster = len(manifest.roster)
        statement = PrivacyStatement.of(plan, manifest.parameters(roster))
        mechanism = plan.release(request.task).mechanism
        if request.task == TRAIN and trains_locally(config):
            return door.release_trained(
                request,
                plan,
                statement,
                trained_layout(config, parameters),
                hashed,
                lambda: tasks.train(release.arrays, mechanism),
                self._rounding(config, request.task, hashed),
            )
        return door.release_noisily(
            request,
            plan,
            statement,
            mechanism.sum.layout(roster, mechanism.sharers(plan.honest)),
            hashed,
            lambda: tasks.contributions(request.task, release.arrays),
        )

    def _plan(self, config: RunConfig, manifest: Manifest) -> PrivacyPlan | None:
        """Compute for oneself what a run would cost; None without a privacy unit.

        Raises
        ------
        PrivacyError
            If it costs more than the manifest says, the noise is shared where a lying coordinator
            could open a single enterprise's vector, or the rows are split otherwise.
        """
        if config.privacy.unit == "none":
            return None
        told = (config.data.validation_fraction, config.data.test_fraction)
        if told != (self.rows.validation_fraction, self.rows.test_fraction):
            raise PrivacyError(
                f"data.validation_fraction and data.test_fraction are {told[0]:g} and {told[1]:g}, "
                "which is not how this enterprise's customers are split: others would be charged "
                "than those released about"
            )
        features, parameters = _shape(self.schema, config)
        secure_sum = manifest.parameters(len(manifest.roster))
        check_secure_sum(config, secure_sum)
        plan = plan_of(config, features, parameters, secure_sum.honest_in_any_sum)
        check_epsilon(config, plan)
        return plan

    def _rounding(self, config: RunConfig, task: str, hashed: bytes) -> np.random.Generator:
        seed = seed_for(config, "rounding", self.rows.name, task, hashed.hex())
        return np.random.default_rng(seed)


@lru_cache(maxsize=4)
def _shape(schema: Schema, config: RunConfig) -> tuple[FeatureLayout, int]:
    """Return the schema's features and the number of the model's parameters."""
    features = feature_layout(schema)
    return features, parameter_count(features, config.model)
