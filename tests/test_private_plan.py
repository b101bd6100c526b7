"""From an epsilon to noise and back, and the settings that are refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from client_app.app import app as client_app
from fgcif_flwr.config import RunConfig, flatten, unflatten
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.enterprise.enterprise import Enterprise
from fgcif_flwr.enterprise.private_tasks import PrivateTasks
from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.errors import (
    ConfigurationError,
    FgcifError,
    PolicyError,
    PrivacyError,
)
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.private_plan import check_epsilon, tasks_of
from fgcif_flwr.federation.private_releases import VALIDATE
from fgcif_flwr.federation.releases import EVALUATE, STATISTICS, TRAIN
from fgcif_flwr.federation.requests import Join, Refusal
from fgcif_flwr.federation.session import SecureSumSession, SessionSettings
from fgcif_flwr.federation.terms import terms_of
from fgcif_flwr.privacy.ledger import SqliteLedger
from fgcif_flwr.privacy.plan import PrivacyPlan
from fgcif_flwr.privacy.policy import Policy
from fgcif_flwr.privacy.release_log import MemoryLog
from fgcif_flwr.secagg import Participant
from fgcif_flwr.secagg.keys import identity_from_seed
from server_app.app import app as server_app
from tests.private_rig import (
    CUSTOMER,
    ENTERPRISE,
    FIVE,
    LOCAL,
    Houses,
    charged_in,
    entries_in,
    filled,
    ledgers_in,
    private,
    roomy,
)
from tests.secure_sum_rig import stream

ADAPTIVE = {**ENTERPRISE, "privacy.clipping": "adaptive"}
MODES: Mapping[str, Mapping[str, object]] = {
    "customer": CUSTOMER,
    "sampled": {**CUSTOMER, "privacy.sampling_rate": 0.1, "privacy.clipping": "adaptive"},
    "local": {**LOCAL, "privacy.sampling_rate": 0.25},
    "enterprise": ADAPTIVE,
}
modes = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def planned(tmp_path: Path, *settings: Mapping[str, object]) -> tuple[RunConfig, PrivacyPlan]:
    return filled(private(tmp_path, *settings))


@modes
@pytest.mark.parametrize(
    ("epsilon", "delta", "rounds", "enterprises"),
    [(0.3, 1e-6, 2, 5), (1.0, 1e-5, 40, 12), (8.0, 1e-8, 3, 40), (1.0, 1e-5, 200, 5)],
)
def test_the_noise_that_is_filled_in_costs_the_epsilon_asked_for_and_hardly_less(
    tmp_path, mode, epsilon, delta, rounds, enterprises
):
    asked = {
        "privacy.epsilon": epsilon,
        "privacy.delta": delta,
        "run.rounds": rounds,
        "run.enterprises": enterprises,
        "privacy.spare_slots": "auto",
    }
    config, plan = planned(tmp_path, mode, asked)
    assert 0.98 * epsilon <= plan.epsilon <= epsilon
    assert config.privacy.epsilon == epsilon
    for one in ("noise", "statistics", "evaluation"):
        assert isinstance(getattr(config.privacy, f"{one}_multiplier"), float)
    assert config.privacy.spare_slots == max(1, rounds // 20)
    # The stretches that other tasks leave free are used up as well.
    for stretch in plan.stretches:
        if any(one.task == TRAIN and stretch in one.stretches for one in plan.releases):
            assert plan.epsilon_of(stretch) >= 0.98 * epsilon


@modes
def test_what_is_filled_in_once_stays_as_it_is(tmp_path, mode):
    config, plan = planned(tmp_path, mode)
    again, same = filled(config)
    assert (again, same) == (config, plan)


@modes
def test_a_noise_multiplier_alone_gives_the_epsilon_that_it_costs(tmp_path, mode):
    settings = {"privacy.epsilon": "none", "privacy.noise_multiplier": 3.0}
    config, plan = planned(tmp_path, mode, settings)
    assert config.privacy.noise_multiplier == 3.0
    assert plan.epsilon <= config.privacy.epsilon <= plan.epsilon * 1.001
    more = planned(tmp_path, mode, {**settings, "privacy.noise_multiplier": 6.0})[1]
    assert more.epsilon < 0.6 * plan.epsilon


def test_a_multiplier_that_was_set_is_kept_and_the_others_make_up_for_it(tmp_path):
    config, plan = planned(tmp_path, CUSTOMER, {"privacy.statistics_multiplier": 50.0})
    assert config.privacy.statistics_multiplier == 50.0
    assert 0.98 < plan.epsilon <= 1
    free = planned(tmp_path, CUSTOMER)[0]
    assert config.privacy.noise_multiplier != free.privacy.noise_multiplier


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"privacy.noise_multiplier": 1.0}, r"epsilon is 1, but the multipliers .* cost \d"),
        ({"privacy.evaluation_multiplier": 0.5}, r"epsilon is 1, but the multipliers .* cost \d"),
        ({"privacy.statistics_multiplier": 0.5}, r"no noise|cost|multiplier"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_multipliers_that_cost_more_than_the_epsilon_are_refused(tmp_path, settings, said):
    with pytest.raises(PrivacyError, match=said):
        planned(tmp_path, CUSTOMER, settings)


def test_a_delta_that_the_tail_of_the_noise_takes_up_is_refused(tmp_path):
    with pytest.raises(PrivacyError, match="delta"):
        planned(tmp_path, CUSTOMER, {"privacy.delta": 1e-19})


@modes
@pytest.mark.parametrize("delta", [3e-14, 1.4e-14, 1e-14])
def test_a_delta_of_the_order_of_the_tail_still_gives_noise_that_keeps_the_epsilon(
    tmp_path, mode, delta
):
    plan = planned(tmp_path, mode, {"privacy.delta": delta, "run.rounds": 1000})[1]
    assert 0.98 <= plan.epsilon <= 1


def test_a_plan_takes_the_tail_of_the_noise_off_delta(tmp_path):
    plan = planned(tmp_path, CUSTOMER)[1]
    (stretch,) = plan.release(VALIDATE).stretches
    assert plan.epsilon_of(stretch, 1.5 * 2.0**-64) > plan.epsilon_of(stretch, 1e-15)
    with pytest.raises(PrivacyError, match="taken up by the noise's tail"):
        plan.epsilon_of(stretch, 2.0**-64)


def test_the_fewer_honest_there_are_the_less_the_noise_is_shared(tmp_path):
    few = planned(tmp_path, CUSTOMER, {"run.enterprises": 5})[1]
    many = planned(tmp_path, CUSTOMER, {"run.enterprises": 20})[1]
    sharers = [plan.release(TRAIN).mechanism.sharers(plan.honest) for plan in (few, many)]
    assert sharers == [few.honest, many.honest]
    assert few.honest < many.honest
    assert planned(tmp_path, LOCAL)[1].release(TRAIN).mechanism.sharers(9) == 1
    # What a customer is promised does not depend on it.
    assert few.release(TRAIN).mechanism == many.release(TRAIN).mechanism


def test_local_training_makes_as_many_steps_as_its_epochs_have_samples_and_pays_for_all(tmp_path):
    settings = {"privacy.sampling_rate": 0.3, "training.local_epochs": 3}
    plan = planned(tmp_path, LOCAL, settings)[1]
    mechanism = plan.release(TRAIN).mechanism
    assert mechanism.steps == 3 * 4  # samples of three tenths: four, to be an epoch
    assert mechanism.sampling_rate == 0.3
    once = replace(mechanism, steps=1)
    assert np.allclose(mechanism.curve, 12 * once.curve)
    assert once.curve[0] < replace(once, sampling_rate=1.0).curve[0]
    assert mechanism.tail == 12 * once.tail


def test_the_tasks_of_a_manifest_are_those_of_its_plan(tmp_path):
    for mode, settings, tasks in (
        (CUSTOMER, {}, {STATISTICS, TRAIN, VALIDATE, EVALUATE}),
        (CUSTOMER, {"data.validation_fraction": 0.0}, {STATISTICS, TRAIN, EVALUATE}),
        (ENTERPRISE, {}, {TRAIN, VALIDATE, EVALUATE}),
    ):
        config, plan = planned(tmp_path, mode, settings)
        assert set(tasks_of(config)) == {one.task for one in plan.releases} == tasks


# What an enterprise refuses at join.


def joining(tmp_path: Path, lie: Mapping[str, object], houses: Houses, *settings):
    """Propose a manifest whose privacy section was changed after the noise was filled in."""
    config = private(tmp_path / "run", CUSTOMER, *settings)
    told = filled(config)[0]
    told = told.model_copy(update={"privacy": told.privacy.model_copy(update=lie)})
    grid = InlineGrid(houses.app, FIVE, flatten(config))
    terms = terms_of(told, load_schema("simulated").hash)
    SecureSumSession(grid, SessionSettings.of(config), terms).join()


@pytest.mark.parametrize(
    ("lie", "error", "said"),
    [
        ({"noise_multiplier": 5.0}, PrivacyError, "multipliers that were set cost"),
        ({"epsilon": 0.5}, PrivacyError, "multipliers that were set cost"),
        ({"evaluation_multiplier": 1.0}, PrivacyError, "multipliers that were set cost"),
        ({"sampling_rate": 1.0, "noise_multiplier": 2.0}, PrivacyError, "cost"),
        ({"spare_slots": 50}, PrivacyError, "multipliers that were set cost"),
        ({"epsilon": 2.0, "noise_multiplier": 5.0}, PolicyError, "epsilon_per_run"),
        ({"delta": 1e-4}, PolicyError, "delta_per_run"),
        ({"noise_multiplier": "auto"}, PrivacyError, "manifest wants a number"),
        ({"spare_slots": "auto"}, PrivacyError, "manifest wants a number"),
        ({"epsilon": "none"}, PrivacyError, "manifest wants a number"),
    ],
    ids=str,
)
def test_a_manifest_that_costs_more_than_it_says_or_than_policy_allows_is_not_joined(
    tmp_path, monkeypatch, lie, error, said
):
    computed: list[str] = []
    monkeypatch.setattr(PrivateTasks, "contributions", lambda *_: computed.append("rows"))
    houses = Houses(tmp_path / "houses")
    with pytest.raises(error, match=said) as caught:
        joining(tmp_path, lie, houses, {"privacy.rows_per_enterprise": 1000})
    assert type(caught.value) is error
    assert computed == []
    for path in ledgers_in(houses.home):
        assert entries_in(path) == []


def test_a_budget_that_cannot_hold_the_whole_run_is_refused_at_join(tmp_path):
    houses = Houses(tmp_path / "houses")
    config = private(tmp_path / "run", CUSTOMER)
    little = roomy(config).model_copy(update={"epsilon_total": 0.9})
    houses.policies = dict.fromkeys(range(FIVE), little)
    with pytest.raises(PrivacyError, match="budget"):
        joining(tmp_path, {}, houses)
    for path in ledgers_in(houses.home):
        assert charged_in(path) == {}
        with SqliteLedger(path) as ledger:
            assert ledger.head.length == 0


# Clear refusals of a configuration.

REFUSED: Mapping[str, tuple[Mapping[str, object], type[FgcifError], str]] = {
    "unknown unit": ({"privacy.unit": "row"}, ConfigurationError, "privacy.unit"),
    "unknown noise": ({**CUSTOMER, "privacy.noise": "none"}, ConfigurationError, "privacy.noise"),
    "negative epsilon": ({**CUSTOMER, "privacy.epsilon": -1.0}, ConfigurationError, "epsilon"),
    "zero epsilon": ({**CUSTOMER, "privacy.epsilon": 0.0}, ConfigurationError, "epsilon"),
    "epsilon beyond reason": ({**CUSTOMER, "privacy.epsilon": 2000.0}, ConfigurationError, "1000"),
    "true for epsilon": ({**CUSTOMER, "privacy.epsilon": True}, ConfigurationError, "epsilon"),
    "no epsilon": ({**CUSTOMER, "privacy.epsilon": "none"}, ConfigurationError, "wants an epsilon"),
    "no delta": ({**CUSTOMER, "privacy.delta": "none"}, ConfigurationError, "wants a delta"),
    "zero delta": ({**CUSTOMER, "privacy.delta": 0.0}, ConfigurationError, "delta"),
    "delta of one": ({**CUSTOMER, "privacy.delta": 1.0}, ConfigurationError, "delta"),
    "delta of a customer": (
        {**CUSTOMER, "privacy.delta": 1e-3, "privacy.rows_per_enterprise": 1000},
        PrivacyError,
        r"less than 1 / privacy\.rows_per_enterprise = 0\.001",
    ),
    "delta of an enterprise": (
        {**ENTERPRISE, "privacy.delta": 0.2},
        PrivacyError,
        r"less than 1 / run\.enterprises = 0\.2",
    ),
    "clipping norm": ({**CUSTOMER, "privacy.clipping_norm": 0.0}, ConfigurationError, "clipping"),
    "fedavg of customers": (
        {**CUSTOMER, "training.algorithm": "fedavg"},
        PrivacyError,
        "after local steps an update is no sum over customers",
    ),
    "fedsgd and local": (
        {**CUSTOMER, "privacy.noise": "local"},
        PrivacyError,
        "each round would carry every enterprise's whole noise",
    ),
    "enterprise and local": (
        {**ENTERPRISE, "privacy.noise": "local"},
        PrivacyError,
        "each update would drown",
    ),
    "adaptive and local": (
        {**LOCAL, "privacy.clipping": "adaptive"},
        PrivacyError,
        "adaptive does not go with privacy.noise = local",
    ),
    "automatic for enterprises": (
        {**ENTERPRISE, "privacy.clipping": "automatic"},
        PrivacyError,
        "use fixed or adaptive",
    ),
    "sampling of enterprises": (
        {**ENTERPRISE, "privacy.sampling_rate": 0.5},
        PrivacyError,
        "enterprises that take part are seen",
    ),
    "dropout": ({**CUSTOMER, "model.dropout": 0.1}, ConfigurationError, "model.dropout"),
    "balanced classes of enterprises": (
        {**ENTERPRISE, "training.class_weighting": "balanced"},
        ConfigurationError,
        "training.class_weighting",
    ),
    "no unit": (
        {"privacy.clipping_norm": 2.0},
        ConfigurationError,
        "no effect while privacy.unit = none",
    ),
    "generator": (
        {**CUSTOMER, "generator.kind": "ctgan"},
        PrivacyError,
        "generator.kind = ctgan learns from customers' rows without noise",
    ),
}


@pytest.mark.parametrize(("settings", "error", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_promised_is_refused_with_the_reason(settings, error, said):
    asked = {"privacy.epsilon": 1.0, "privacy.delta": 1e-5, "run.enterprises": FIVE}
    if "privacy.unit" not in settings:
        asked = {}
    with pytest.raises(error, match=said) as caught:
        unflatten({**asked, **settings})
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


SPARSE = {"run.enterprises": 150, "secagg.consistency": False}


def test_shared_noise_wants_a_graph_in_which_a_liar_opens_no_single_vector(tmp_path):
    with pytest.raises(PrivacyError, match=r"k-regular graph wants secagg\.consistency") as caught:
        planned(tmp_path, CUSTOMER, SPARSE)
    assert caught.value.exit_code == 50
    planned(tmp_path, CUSTOMER, {**SPARSE, "secagg.consistency": "auto"})
    # The whole noise of one's own hides one's vector anyway.
    planned(tmp_path, LOCAL, SPARSE)


def test_an_enterprise_checks_that_for_itself(tmp_path):
    # The coordinator fills in the noise with the exchange, and then proposes a run without.
    config = filled(private(tmp_path, CUSTOMER, {**SPARSE, "secagg.consistency": "auto"}))[0]
    settings = SessionSettings.of(private(tmp_path, CUSTOMER, SPARSE))
    identities = [identity_from_seed(stream(f"house/{index}")(32)) for index in range(150)]
    roster = tuple((f"e{index:03d}", one.public) for index, one in enumerate(identities))
    terms = terms_of(config, load_schema("simulated").hash)
    consortium = consortium_of(private(tmp_path, CUSTOMER))
    party = Participant("e000", identities[0], semi_honest=True)
    policy = Policy(epsilon_total=100.0, minimum_colluders=1)
    with SqliteLedger(tmp_path / "ledger.db", "everybody") as ledger:
        enterprise = Enterprise(
            consortium.schema, consortium.enterprises[0], party, policy, MemoryLog(), ledger
        )
        manifest = settings.manifest(bytes(16), 1, terms, roster)
        said = enterprise.answer(Join(manifest))
        assert isinstance(said, Refusal)
        assert (said.code, "k-regular graph wants" in said.reason) == (50, True)
        assert ledger.head.length == 0
        honest = replace(manifest, consistency=None)
        assert not isinstance(enterprise.answer(Join(honest)), Refusal)


def test_a_run_that_cannot_be_private_ends_with_its_exit_code_and_reason(tmp_path):
    config = private(tmp_path, CUSTOMER, {"privacy.noise_multiplier": 1.0})
    flat = flatten(config)
    grid = InlineGrid(client_app, FIVE, flat)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=flat)
    with pytest.raises(PrivacyError):
        server_app(grid, context)
    left = json.loads((tmp_path / "failure.json").read_text(encoding="utf-8"))
    assert left["exit_code"] == PrivacyError.exit_code == 50
    assert "multipliers that were set cost" in left["message"]
    assert not (tmp_path / "run.json").exists()


# Composition.


def test_releases_about_other_rows_compose_in_parallel_and_about_the_same_in_turn(tmp_path):
    plan = planned(tmp_path, CUSTOMER)[1]
    each = [plan.epsilon_of(stretch) for stretch in plan.stretches]
    assert len(each) == 3
    assert plan.epsilon == max(each) < 0.5 * sum(each)
    train = plan.release(TRAIN)
    twice = replace(
        plan,
        releases=tuple(
            replace(one, slots=2 * one.slots) if one is train else one for one in plan.releases
        ),
    )
    assert twice.epsilon_of(train.stretches[0]) > 1.3 * plan.epsilon_of(train.stretches[0])
    assert twice.epsilon_of((0.0, 0.2)) == plan.epsilon_of((0.0, 0.2))


def test_under_unit_enterprise_all_releases_are_about_the_same_enterprises(tmp_path):
    plan = planned(tmp_path, ENTERPRISE)[1]
    assert plan.stretches == ((0.0, 1.0),)
    alone = replace(plan, releases=(plan.release(TRAIN),))
    assert alone.epsilon < plan.epsilon


def test_check_epsilon_takes_the_plan_at_its_word_and_not_the_sections(tmp_path):
    config, plan = planned(tmp_path, CUSTOMER)
    check_epsilon(config, plan)
    dearer = replace(
        plan, releases=tuple(replace(one, slots=one.slots + 1) for one in plan.releases)
    )
    with pytest.raises(PrivacyError, match="raise it or them"):
        check_epsilon(config, dearer)


def test_a_task_of_runs_without_a_unit_is_in_no_plan(tmp_path):
    config, plan = planned(tmp_path, CUSTOMER)
    with pytest.raises(PrivacyError, match="train-evaluate is not in the privacy plan"):
        plan.release("train-evaluate")
    assert "train-evaluate" not in tasks_of(config)
