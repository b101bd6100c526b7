"""Federations of five under a privacy unit, and enterprises whose ledgers outlive a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message

from client_app.app import app as client_app
from fgcif_flwr.config import RunConfig, flatten, unflatten
from fgcif_flwr.data.consortium import EnterpriseRows
from fgcif_flwr.data.encoding import FeatureLayout, feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.enterprise.enterprise import Enterprise
from fgcif_flwr.enterprise.simulated import consortium_of, policy_of
from fgcif_flwr.federation.client import answer
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.private_plan import plan_of, with_noise
from fgcif_flwr.federation.private_strategy import noisy_layout
from fgcif_flwr.federation.records import payload_bytes, reply_from_records
from fgcif_flwr.federation.releases import MODEL, STATISTICS, TRAIN
from fgcif_flwr.federation.requests import Reply, Request
from fgcif_flwr.federation.session import SecureSumSession, SessionSettings, Task
from fgcif_flwr.federation.terms import terms_of
from fgcif_flwr.models.network import build_network, parameter_count
from fgcif_flwr.models.parameters import named_arrays, to_vector
from fgcif_flwr.privacy import noisy_sum
from fgcif_flwr.privacy.ledger import Entry, SqliteLedger, Witness
from fgcif_flwr.privacy.plan import PrivacyPlan
from fgcif_flwr.privacy.policy import Policy
from fgcif_flwr.privacy.release_log import MemoryLog
from fgcif_flwr.secagg import Participant
from fgcif_flwr.secagg.keys import identity_from_seed
from fgcif_flwr.secagg.participant.snapshot import dump, load
from tests.federation_rig import Fault, Finished, configured, federate_over
from tests.secure_sum_rig import stream

FIVE = 5
"""Threshold 4, one may be lost, one may collude; any sum covers 3 honest ones."""
SMALL: Mapping[str, object] = {
    "run.enterprises": FIVE,
    "run.rounds": 2,
    "simulator.customers": 30,
    "model.hidden": "4",
    "privacy.epsilon": 1.0,
    "privacy.delta": 1e-5,
    "privacy.spare_slots": 0,
}
CUSTOMER: Mapping[str, object] = {
    "privacy.unit": "customer",
    "privacy.clipping": "automatic",
    "training.algorithm": "fedsgd",
}
LOCAL: Mapping[str, object] = {"privacy.unit": "customer", "privacy.noise": "local"}
ENTERPRISE: Mapping[str, object] = {"privacy.unit": "enterprise", "privacy.clipping": "fixed"}


def private(output: Path, *settings: Mapping[str, object]) -> RunConfig:
    """The configuration of a small private run; later settings count."""
    merged: dict[str, object] = {**SMALL}
    for one in settings:
        merged |= one
    return configured(output, merged)


def run_private(config: RunConfig, app=client_app, **faults: Fault) -> Finished:
    return federate_over(InlineGrid(app, config.run.enterprises, flatten(config), **faults), config)


def features_of(config: RunConfig) -> FeatureLayout:
    return feature_layout(load_schema(config.data.schema_name))


def filled(config: RunConfig) -> tuple[RunConfig, PrivacyPlan]:
    """The configuration as the coordinator fills it in, and its plan."""
    features = features_of(config)
    size = parameter_count(features, config.model)
    secure_sum = SessionSettings.of(config).parameters(config.run.enterprises)
    config = with_noise(config, features, size, secure_sum)
    return config, plan_of(config, features, size, secure_sum.honest_in_any_sum)


def plan_in(run: Finished) -> PrivacyPlan:
    """The plan of a finished run, computed anew from what it wrote down."""
    return filled(unflatten(run.record["config"]))[1]


def ledgers_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.db") if "others" not in path.name)


def entries_in(path: Path) -> list[Entry]:
    with SqliteLedger(path) as ledger:
        return list(ledger.entries(1e-5))


def charged_in(path: Path) -> dict[str, list[int]]:
    """The slots that each task was charged for."""
    slots: dict[str, list[int]] = {}
    for entry in entries_in(path):
        slots.setdefault(entry.charge.task, []).append(entry.charge.slot)
    return slots


@contextmanager
def without_noise(offset: int = 0, of_size: int = 0) -> Iterator[None]:
    """Draw no noise; vectors ``of_size`` get a fixed ``offset`` from every enterprise instead."""

    def none(size: int, variance: float, generator: np.random.Generator) -> np.ndarray:
        return np.full(size, offset if size == of_size else 0, np.int64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noisy_sum, "skellam", none)
        yield


class Houses:
    """Enterprises as in a deployment: keys, ledgers and witnesses that outlive a run.

    ``policies`` and ``rows`` are those of single ones that differ; ``said`` is all that left.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self.policies: dict[int, Policy] = {}
        self.rows: dict[int, EnterpriseRows] = {}
        self.said: list[tuple[int, str, Reply, int]] = []

    def path(self, index: int) -> Path:
        return self.home / f"{index:04d}.db"

    @contextmanager
    def ledger(self, index: int) -> Iterator[SqliteLedger]:
        with SqliteLedger(self.path(index), f"customers of {index}") as ledger:
            yield ledger

    def app(self, message: Message, context: Context) -> Message:
        reply = answer(message, context, self._answer)
        index = int(context.node_config["partition-id"])
        said, size = reply_from_records(reply.content), payload_bytes(reply.content)
        self.said.append((index, message.metadata.message_type, said, size))
        return reply

    def _answer(self, config: RunConfig, index: int, request: Request, state):
        consortium = consortium_of(config)
        rows = self.rows.get(index, consortium.enterprises[index])
        name = consortium.enterprises[index].name
        identity = identity_from_seed(stream(f"house/{index}")(32))
        party = load(state) if state else Participant(name, identity)
        witness_path = self.home / f"{index:04d}-others.db"
        with self.ledger(index) as ledger, Witness(witness_path) as witness:
            policy = self.policies.get(index, roomy(config))
            enterprise = Enterprise(
                consortium.schema, rows, party, policy, MemoryLog(), ledger, witness
            )
            return enterprise.answer(request), dump(party)


def roomy(config: RunConfig) -> Policy:
    """What a run may cost, and budget for several runs."""
    return policy_of(config).model_copy(update={"epsilon_total": 100.0})


class PrivateJoined:
    """Enterprises that have joined a private run, and the coordinator's session."""

    def __init__(self, config: RunConfig, app=client_app, witness=None, **faults: Fault) -> None:
        self.config, self.plan = filled(config)
        self.features = features_of(config)
        enterprises = config.run.enterprises
        self.grid = InlineGrid(app, enterprises, flatten(config), **faults)
        terms = terms_of(self.config, load_schema(config.data.schema_name).hash)
        self.session = SecureSumSession(self.grid, SessionSettings.of(config), terms, witness)
        self.session.join()

    @property
    def model(self) -> np.ndarray:
        return to_vector(named_arrays(build_network(self.features, self.config.model, 0)))

    def inputs(self, task: str) -> dict[str, np.ndarray]:
        if task == STATISTICS:
            return {}
        return {MODEL: self.model} | ({"round": np.array([1])} if task == TRAIN else {})

    def task(self, name: str) -> Task:
        layout = noisy_layout(self.session, self.plan, name)
        return Task(name, layout, self.inputs(name), counts_failures=False)


def cut(rows: EnterpriseRows, train: int) -> EnterpriseRows:
    """The same enterprise with so many training rows; there are repeated ones if need be."""
    return replace(rows, train=rows.train.take(np.arange(train) % len(rows.train)))


def counted(path: Path) -> Counter[str]:
    """How often each task was charged."""
    return Counter({task: len(slots) for task, slots in charged_in(path).items()})
