"""A generator never voids a stated guarantee, and what it releases is charged like all else."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from fgcif_flwr.config import GeneratorSection, RunConfig, flatten, unflatten
from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.enterprise.private_tasks import PrivateTasks
from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.errors import ConfigurationError, PrivacyError, SecureSumError
from fgcif_flwr.federation.generator_releases import (
    GENERATOR,
    ROWS,
    check_generator_input,
    ctgan_settings,
    generator_shares,
)
from fgcif_flwr.federation.private_plan import check_epsilon, tasks_of
from fgcif_flwr.federation.private_releases import check_private_input
from fgcif_flwr.federation.records import INPUT
from fgcif_flwr.federation.releases import TRAIN
from fgcif_flwr.federation.terms import config_in, terms_of
from fgcif_flwr.generative.artifact import load_generator
from fgcif_flwr.generative.columns import columns_of
from fgcif_flwr.generative.federated_ctgan import Coordinator
from fgcif_flwr.generative.marginals.grid import cells_of
from fgcif_flwr.generative.marginals.measurements import CLIQUES, MEASUREMENTS, ONE_WAY, PAIRS
from fgcif_flwr.models.network import parameter_count
from fgcif_flwr.privacy import accounting
from fgcif_flwr.privacy.door import Door
from tests.federation_rig import Finished
from tests.private_rig import (
    CUSTOMER,
    ENTERPRISE,
    FIVE,
    LOCAL,
    charged_in,
    entries_in,
    features_of,
    filled,
    ledgers_in,
    plan_in,
    private,
    run_private,
)

torch.set_num_threads(1)

MARGINALS = {"generator.kind": "marginals"}
NETWORKS = {
    "generator.kind": "federated-ctgan",
    "generator.rounds": 2,
    "generator.hidden": "8",
}
STATED = {"privacy.epsilon": 1.0, "privacy.delta": 1e-5, "run.enterprises": FIVE}
UNITS = {"distributed": CUSTOMER, "local": LOCAL, "enterprise": ENTERPRISE}
units = pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)


@pytest.mark.parametrize("unit", [CUSTOMER, LOCAL], ids=["distributed", "local"])
def test_a_generator_without_noise_is_refused_beside_a_guarantee_for_customers(unit):
    with pytest.raises(PrivacyError, match="would not have the guarantee") as caught:
        unflatten({**STATED, **unit, "generator.kind": "ctgan"})
    assert caught.value.exit_code == 50


def test_enterprises_refuse_a_manifest_that_slips_one_in():
    # What a lying coordinator would send: a manifest that its own checks were taken out for.
    config = unflatten({**STATED, **CUSTOMER})
    terms = json.loads(terms_of(config, "hash"))
    terms["config"]["generator.kind"] = "ctgan"
    with pytest.raises(PrivacyError, match="would not have the guarantee"):
        config_in(json.dumps(terms))


def test_under_unit_enterprise_a_generator_that_never_leaves_its_house_is_free():
    config, plan = filled(
        unflatten({**STATED, **ENTERPRISE, "run.output": "/x", "generator.kind": "ctgan"})
    )
    assert generator_shares(config) == {}
    assert {one.task for one in plan.releases} == {"train", "validate", "evaluate"}


def test_a_ctgan_of_ones_own_cannot_start_the_coordinators_model():
    with pytest.raises(ConfigurationError, match="never leaves its enterprise"):
        unflatten({"generator.kind": "ctgan", "generator.use": "warm-start"})


@units
@pytest.mark.parametrize("kind", [MARGINALS, NETWORKS], ids=["marginals", "federated-ctgan"])
def test_every_release_of_a_shared_generator_is_in_the_plan_and_in_its_epsilon(unit, kind):
    config, plan = filled(unflatten({**STATED, **unit, **kind, "run.output": "/x"}))
    assert 0.98 < plan.epsilon <= 1
    check_epsilon(config, plan)
    tasks = {one.task for one in plan.releases}
    assert set(generator_shares(config)) <= tasks == set(tasks_of(config))
    # Taking the generator's releases out makes the rest cheaper: they are paid for.
    rest = tuple(one for one in plan.releases if one.task not in generator_shares(config))
    without = replace(plan, releases=rest)
    assert without.epsilon_of(plan.release(TRAIN).stretches[0]) < 0.9 * plan.epsilon
    # They concern the training rows and no others.
    for task in generator_shares(config):
        assert plan.release(task).stretches == plan.release(TRAIN).stretches


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_the_generator_takes_its_share_of_the_training_rows_budget(share):
    config, plan = filled(
        unflatten({**STATED, **CUSTOMER, **MARGINALS, "run.output": "/x", "generator.share": share})
    )
    # Order 2 of Renyi divergence adds up like variances, and is nearly proportional to the budget.
    at = list(accounting.ORDERS).index(2)
    spent = {one.task: one.slots * one.mechanism.curve[at] for one in plan.releases}
    generating = sum(spent[task] for task in MEASUREMENTS)
    assert generating / (generating + spent[TRAIN] + spent["statistics"]) == pytest.approx(
        share, abs=0.07
    )
    for task, part in generator_shares(config).items():
        assert spent[task] / generating == pytest.approx(part, rel=0.02)


def test_multipliers_that_cost_more_than_the_stated_epsilon_are_refused():
    with pytest.raises(PrivacyError, match="the multipliers that were set cost"):
        filled(
            unflatten(
                {
                    **STATED,
                    **CUSTOMER,
                    **MARGINALS,
                    "run.output": "/x",
                    "privacy.noise_multiplier": 50.0,
                    "privacy.statistics_multiplier": 50.0,
                    "privacy.evaluation_multiplier": 50.0,
                    "privacy.generator_multiplier": 0.5,
                }
            )
        )


@pytest.fixture(scope="module", params=UNITS.values(), ids=UNITS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    config = private(tmp_path_factory.mktemp("run"), request.param, MARGINALS)
    return run_private(config)


def test_every_ledger_was_charged_for_each_count_once(run):
    plan = plan_in(run)
    for path in ledgers_in(run.files.path / "ledgers"):
        charged = charged_in(path)
        assert [len(charged[task]) for task in MEASUREMENTS] == [1, 1, 1]
        for entry in entries_in(path):
            if entry.charge.task in MEASUREMENTS:
                mechanism = plan.release(entry.charge.task).mechanism
                np.testing.assert_allclose(entry.charge.curve, mechanism.curve)


def test_the_generators_file_carries_the_statement(run):
    loaded = load_generator(run.files.generator)
    assert loaded.statement == run.record["privacy"]
    assert loaded.statement["epsilon"] <= 1
    rows = loaded.generator.sample(50, np.random.default_rng(0))
    assert len(rows) == 50
    assert set(rows.targets) == {"churn", "segment", "future_value"}


@pytest.mark.parametrize("unit", [CUSTOMER, ENTERPRISE], ids=["distributed", "enterprise"])
def test_a_federated_ctgan_under_a_unit_is_charged_a_round(unit, tmp_path):
    run = run_private(private(tmp_path, unit, NETWORKS))
    for path in ledgers_in(run.files.path / "ledgers"):
        charged = charged_in(path)
        assert [len(charged[task]) for task in (ONE_WAY, GENERATOR)] == [1, 2]
        assert PAIRS not in charged
        assert CLIQUES not in charged
    assert len(run.record["generator"]["diagnostics"]) == 2


def test_where_counting_fails_noise_leaves_and_no_one_outside_sees(tmp_path, monkeypatch):
    from fgcif_flwr.enterprise import generator_tasks

    def fails(*_):
        raise ValueError("row 17 is odd")

    monkeypatch.setattr(generator_tasks.measurements, "places_of", fails)
    noisy: list[str] = []
    release = Door.release_noisily

    def watched(self, request, *rest):
        noisy.append(request.task)
        return release(self, request, *rest)

    monkeypatch.setattr(Door, "release_noisily", watched)
    run = run_private(private(tmp_path, CUSTOMER, MARGINALS))
    assert run.record["status"] == "completed"
    assert {ONE_WAY, PAIRS, CLIQUES} <= set(noisy)


def test_gradients_of_customers_are_asked_for_without_the_generator(tmp_path):
    """The synthetic part of a step is the coordinator's: nothing more leaves, or is sent."""
    inputs: list[set[str]] = []

    def watch(message):
        if message.metadata.message_type == "train.release":
            arrays = message.content.array_records[INPUT]
            if "model" in arrays:
                inputs.append(set(arrays))
        return False

    config = private(tmp_path, CUSTOMER, MARGINALS)
    run_private(config, lose_before=watch)
    assert inputs
    assert not any(name.startswith("generator/") for names in inputs for name in names)


def test_networks_under_a_unit_are_sent_no_number_of_rows():
    config = unflatten({**STATED, **ENTERPRISE, **NETWORKS})
    features = feature_layout(load_schema("simulated"))
    counts = {
        column.name: np.ones(cells)
        for column, cells in zip(columns_of(features), cells_of(features), strict=True)
    }
    arrays = Coordinator(features, ctgan_settings(config), counts, seed=0).input()
    check_generator_input(GENERATOR, arrays, config, features)
    with pytest.raises(SecureSumError, match="wants exactly"):
        check_generator_input(GENERATOR, arrays | {ROWS: np.array([9])}, config, features)


@pytest.mark.parametrize("key", ["generator.local_epochs", "generator.batch_size"])
def test_settings_of_local_training_are_refused_where_customers_gradients_are_summed(key):
    def settings(unit):
        return {**STATED, **unit, **NETWORKS, key: 7}

    with pytest.raises(ConfigurationError, match=rf"{key} has no effect"):
        unflatten(settings(CUSTOMER))
    assert flatten(unflatten(settings(ENTERPRISE)))[key] == 7


def test_a_configuration_survives_its_flat_form_with_its_generator():
    config = RunConfig(
        generator=GeneratorSection(
            kind="federated-ctgan", ratio=2.5, balance="classes", rounds=7, hidden=(16, 8)
        )
    )
    assert unflatten(flatten(config)) == config


def test_a_customers_gradient_of_the_critic_is_drawn_in_secret(tmp_path):
    """From the public input alone others' parts could be computed, and one customer's told."""
    config, _ = filled(private(tmp_path, CUSTOMER, NETWORKS))
    rows = consortium_of(config).enterprises[0]
    features = features_of(config)
    histograms = {
        column.name: np.ones(cells)
        for column, cells in zip(columns_of(features), cells_of(features), strict=True)
    }
    arrays = Coordinator(features, ctgan_settings(config), histograms, seed=1).input()
    tasks = PrivateTasks(config, features, rows)
    first, second = (
        np.concatenate([part["update"] for part in tasks.contributions(GENERATOR, arrays)])
        for _ in range(2)
    )
    assert first.shape == second.shape
    assert not np.array_equal(first, second)


def test_the_coordinator_cannot_ask_for_more_synthetic_rows_than_the_public_cap(tmp_path):
    config, _ = filled(private(tmp_path, LOCAL))
    features = features_of(config)
    size = parameter_count(features, config.model)
    asked = {
        "model": np.zeros(size, np.float32),
        "round": np.array([1], np.int64),
        "rows": np.array([float(config.privacy.rows_per_enterprise + 1)]),
    }
    with pytest.raises(SecureSumError, match="at most rows_per_enterprise = 4096"):
        check_private_input(TRAIN, asked, config, features, size)
    asked["rows"] -= 1
    check_private_input(TRAIN, asked, config, features, size)
