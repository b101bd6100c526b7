"""Lies by which a coordinator could make a private run cost a customer more than is charged."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.errors import PolicyError, PrivacyError
from fgcif_flwr.federation.private_releases import VALIDATE
from fgcif_flwr.federation.releases import EVALUATE, TRAIN
from fgcif_flwr.federation.requests import Join, Refusal, Reply
from fgcif_flwr.federation.session import SessionSettings
from fgcif_flwr.federation.terms import terms_of
from fgcif_flwr.models import customer_gradients
from fgcif_flwr.models.network import build_network
from fgcif_flwr.privacy import accounting
from fgcif_flwr.privacy.ledger import SqliteLedger
from fgcif_flwr.privacy.statement import PrivacyStatement
from fgcif_flwr.secagg import JoinReply, Manifest
from fgcif_flwr.secagg.keys import identity_from_seed
from fgcif_flwr.secagg.messages import RUN_BYTES
from tests.private_rig import (
    CUSTOMER,
    ENTERPRISE,
    FIVE,
    Houses,
    features_of,
    filled,
    private,
    roomy,
)
from tests.secure_sum_rig import stream

torch.set_num_threads(1)

WHO = 0
RUN = os.urandom(RUN_BYTES)


class Asked:
    """One enterprise, the ledger that it keeps, and whatever manifests it is asked to join."""

    def __init__(self, home: Path, own: RunConfig) -> None:
        self.houses = Houses(home / "houses")
        self.own = own
        self.state: Mapping[str, object] = {}
        names = [one.name for one in consortium_of(own).enterprises]
        keys = [identity_from_seed(stream(f"house/{index}")(32)) for index in range(FIVE)]
        self.roster = tuple(sorted(zip(names, (key.public for key in keys), strict=True)))

    def manifest(self, config: RunConfig, epoch: int = 1, run: bytes = RUN) -> Manifest:
        terms = terms_of(filled(config)[0], load_schema(config.data.schema_name).hash)
        return SessionSettings.of(config).manifest(run, epoch, terms, self.roster)

    def join(self, manifest: Manifest) -> Reply:
        reply, self.state = self.houses._answer(self.own, WHO, Join(manifest), self.state)
        return reply

    def charge(self, config: RunConfig, *tasks: str, run: bytes = RUN) -> None:
        plan = filled(config)[1]
        with self.houses.ledger(WHO) as ledger:
            for task in tasks:
                ledger.reserve(plan.charges(task, run.hex(), 1), 100.0, 1e-4)


def refused(reply: Reply, kind: type, *words: str) -> None:
    assert isinstance(reply, Refusal)
    assert reply.code == kind.exit_code
    assert all(word in reply.reason for word in words)


@pytest.mark.parametrize("mode", [CUSTOMER, ENTERPRISE], ids=["customer", "enterprise"])
@pytest.mark.parametrize(
    "lie", [{"data.test_fraction": 0.3}, {"data.validation_fraction": 0.24}], ids=str
)
def test_a_run_that_would_charge_other_customers_than_it_releases_about_is_refused(
    tmp_path, mode, lie
):
    own = private(tmp_path, mode)
    asked = Asked(tmp_path, own)
    refused(asked.join(asked.manifest(private(tmp_path, mode, lie))), PrivacyError, *lie)
    assert isinstance(asked.join(asked.manifest(own)), JoinReply)


def test_one_run_cannot_cost_more_than_the_policy_allows_by_ever_new_plans_under_its_name(
    tmp_path,
):
    own = private(tmp_path, CUSTOMER, {"run.rounds": 1})
    asked = Asked(tmp_path, own)
    assert isinstance(asked.join(asked.manifest(own)), JoinReply)
    asked.charge(own, TRAIN)
    assert isinstance(asked.join(asked.manifest(own, epoch=2)), JoinReply)  # the same plan goes on
    longer = private(tmp_path, CUSTOMER, {"run.rounds": 2})
    refused(asked.join(asked.manifest(longer, epoch=3)), PolicyError, "epsilon_per_run")
    other = os.urandom(RUN_BYTES)  # as a run of its own it is within the budget of all runs
    assert isinstance(asked.join(asked.manifest(longer, run=other)), JoinReply)


def test_a_run_whose_slots_are_all_charged_is_joined_again_in_a_new_epoch(tmp_path):
    own = private(tmp_path, CUSTOMER)
    asked = Asked(tmp_path, own)
    plan = filled(own)[1]
    for planned in plan.releases:
        asked.charge(own, *[planned.task] * planned.slots)
    assert {TRAIN, VALIDATE, EVALUATE} <= {planned.task for planned in plan.releases}
    assert isinstance(asked.join(asked.manifest(own)), JoinReply)


def test_a_join_that_is_asked_for_again_and_again_adds_one_entry_to_the_ledger(tmp_path):
    """Else joins that nobody sees would push the seen ones out of what a witness can compare."""
    own = private(tmp_path, CUSTOMER)
    asked = Asked(tmp_path, own)
    said = [asked.join(asked.manifest(own)) for _ in range(3)]
    assert said[1:] == said[:1] * 2
    with SqliteLedger(asked.houses.path(WHO)) as ledger:
        assert ledger.head.length == 1
    assert isinstance(asked.join(asked.manifest(own, epoch=2)), JoinReply)
    with SqliteLedger(asked.houses.path(WHO)) as ledger:
        assert ledger.head.length == 2


def test_a_policy_that_names_columns_covers_the_targets_too(tmp_path):
    own = private(tmp_path, CUSTOMER)
    schema = load_schema(own.data.schema_name)
    features = {feature.column for feature in schema.features}
    targets = {target.column or target.name for target in schema.targets}
    asked = Asked(tmp_path, own)

    def allow(columns: set[str]) -> None:
        allowed = {"features": frozenset(columns)}
        asked.houses.policies[WHO] = roomy(own).model_copy(update=allowed)

    allow(features)
    refused(asked.join(asked.manifest(own)), PolicyError, *targets)
    allow(features | targets)
    assert isinstance(asked.join(asked.manifest(own)), JoinReply)


def test_gradients_of_a_large_model_are_taken_of_fewer_rows_at_once(tmp_path, monkeypatch):
    config = private(tmp_path, CUSTOMER)
    network = build_network(features_of(config), config.model, 0)
    data = consortium_of(config).pooled("train")
    (whole,) = customer_gradients.customer_gradients(network, data)
    monkeypatch.setattr(customer_gradients, "_LARGEST_PART", 3 * whole.shape[1])
    parts = list(customer_gradients.customer_gradients(network, data))
    assert max(map(len, parts)) == 3
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(customer_gradients, "_LARGEST_PART", 1)
    assert {len(part) for part in customer_gradients.customer_gradients(network, data)} == {1}


@pytest.mark.parametrize("held_by", [2, 3, 5])
def test_what_is_said_of_a_customer_of_several_enterprises_covers_what_the_accountant_finds(
    tmp_path, held_by
):
    own, plan = filled(private(tmp_path, CUSTOMER))
    secure_sum = SessionSettings.of(own).parameters(FIVE)
    words = PrivacyStatement.of(plan, secure_sum).in_words()
    assert "k times the epsilon and k exp((k - 1) epsilon) times the delta" in words
    curve = accounting.zero_curve()
    for planned in plan.releases:
        if planned.stretches[0][1] == 1.0:  # the training rows'
            one = planned.mechanism.sum
            together = accounting.skellam(held_by * one.l2, held_by * one.l1, one.variance)
            curve = curve + planned.slots * together
    found = accounting.delta_of(curve, held_by * plan.epsilon)
    assert plan.delta < found  # "k times the epsilon" alone would be too little
    assert found < held_by * math.exp((held_by - 1) * plan.epsilon) * plan.delta
