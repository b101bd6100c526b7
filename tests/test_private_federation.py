"""Federations under a privacy unit run end to end, and every ledger holds what they cost."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from flwr.app import Message

from fgcif_flwr.enterprise.private_tasks import PrivateTasks
from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.errors import BudgetExhaustedError, LedgerRolledBackError
from fgcif_flwr.federation.private_releases import CLIPPING_NORM, VALIDATE
from fgcif_flwr.federation.records import INPUT
from fgcif_flwr.federation.releases import CLASS_WEIGHTS, EVALUATE, STATISTICS, TRAIN
from fgcif_flwr.federation.requests import Refusal
from fgcif_flwr.models.artifact import load_model
from fgcif_flwr.models.network import head_slices
from fgcif_flwr.models.row_counts import row_counts
from fgcif_flwr.models.training import balanced_class_weights
from fgcif_flwr.privacy.ledger import SqliteLedger, Witness
from fgcif_flwr.secagg import Participant
from tests.federation_rig import Finished, accused, lost, node, round_of, slot_of
from tests.noise_checks import values_needed, variance_is
from tests.private_rig import (
    CUSTOMER,
    ENTERPRISE,
    FIVE,
    LOCAL,
    Houses,
    PrivateJoined,
    charged_in,
    counted,
    entries_in,
    filled,
    ledgers_in,
    plan_in,
    private,
    roomy,
    run_private,
    without_noise,
)

torch.set_num_threads(1)

MODES: Mapping[str, Mapping[str, object]] = {
    "customer, automatic": CUSTOMER,
    "customer, fixed, sampled": {
        **CUSTOMER,
        "privacy.clipping": "fixed",
        "privacy.sampling_rate": 0.5,
    },
    "customer, adaptive, sampled": {
        **CUSTOMER,
        "privacy.clipping": "adaptive",
        "privacy.sampling_rate": 0.5,
    },
    "customer, local, rotated": {**LOCAL, "secagg.rotation": True},
    "enterprise, fixed": ENTERPRISE,
    "enterprise, adaptive": {
        **ENTERPRISE,
        "privacy.clipping": "adaptive",
        "training.algorithm": "fedsgd",
    },
}


@pytest.fixture(scope="module", params=MODES.values(), ids=MODES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run_private(private(tmp_path_factory.mktemp("private"), request.param))


def test_a_private_run_ends_with_a_model_a_history_and_noisy_metrics_of_every_head(run):
    assert run.record["status"] == "completed"
    assert [row["survivors"] for row in run.history] == [FIVE, FIVE]
    assert np.isfinite(run.model).all()
    for split in ("validation", "test"):
        assert set(run.record["metrics"][split]) == {"churn", "segment", "future_value"}


def test_every_artefact_carries_the_statement_of_the_plan(run):
    stated, plan = run.record["privacy"], plan_in(run)
    assert (stated["unit"], stated["noise"]) == (plan.unit, plan.noise)
    assert (stated["epsilon"], stated["delta"]) == (plan.epsilon, 1e-5)
    assert 0.98 < stated["epsilon"] <= 1
    assert stated["adjacency"] == f"one {plan.unit}'s contribution replaced by zero"
    sampled = plan.release(TRAIN).mechanism.sampling_rate < 1
    assert ("Poisson-sampled" in stated["mechanism"]) == sampled
    assert "Skellam" in stated["mechanism"]
    assert "RDP" in stated["accountant"]
    if plan.noise == "local":
        assert "everybody outside the enterprise" in stated["trust"]
    else:
        assert "lying coordinator in league with up to 1 enterprises" in stated["trust"]
        assert "any sum over 3 honest enterprises" in stated["trust"]
    card = run.files.card.read_text(encoding="utf-8")
    assert stated["statement"] in " ".join(card.split())
    promised = load_model(run.files.model).statement["privacy"]
    assert promised == stated
    for log in (run.files.path / "releases").glob("*.jsonl"):
        for line in log.read_text(encoding="utf-8").splitlines():
            assert json.loads(line)["guarantee"] == stated["statement"]


def test_every_ledger_has_exactly_the_charges_of_the_plan_all_released(run):
    plan = plan_in(run)
    ledgers = ledgers_in(run.files.path / "ledgers")
    assert len(ledgers) == FIVE
    for path in ledgers:
        entries = entries_in(path)
        assert all(entry.committed for entry in entries)
        assert counted(path) == Counter({one.task: one.slots for one in plan.releases})
        run_of = {entry.charge.run for entry in entries}
        assert len(run_of) == 1
        for entry in entries:
            charge = entry.charge
            assert plan.charges(charge.task, charge.run, charge.slot) == (charge,)


def test_what_the_ledger_says_was_spent_is_what_was_stated_and_no_more(run):
    # No spare slots: all that were planned are used.
    stated = run.record["privacy"]["epsilon"]
    for path in ledgers_in(run.files.path / "ledgers"):
        with SqliteLedger(path) as ledger:
            spent = ledger.spent(1e-5)
        assert spent.reserved == 0
        assert spent.epsilon <= run.record["config"]["privacy.epsilon"]
        assert spent.epsilon == pytest.approx(stated, rel=1e-9)


def test_unused_spare_slots_are_in_the_plan_and_not_in_the_ledger(tmp_path):
    done = run_private(private(tmp_path, CUSTOMER, {"privacy.spare_slots": 2}))
    plan = plan_in(done)
    assert {one.task: one.slots for one in plan.releases} == {
        STATISTICS: 2,
        TRAIN: 4,
        VALIDATE: 2,
        EVALUATE: 2,
    }
    path = ledgers_in(tmp_path / "ledgers")[0]
    assert counted(path) == {STATISTICS: 1, TRAIN: 2, VALIDATE: 1, EVALUATE: 1}
    with SqliteLedger(path) as ledger:
        assert ledger.spent(1e-5).epsilon < 0.9 * done.record["privacy"]["epsilon"]


@pytest.mark.parametrize(
    ("settings", "charged"),
    [
        ({"evaluation.every": 0, "run.rounds": 3}, {TRAIN: [2, 3, 4], VALIDATE: [5]}),
        ({"evaluation.every": 2, "run.rounds": 3}, {TRAIN: [2, 3, 5], VALIDATE: [4, 6]}),
        ({"evaluation.every": "auto"}, {TRAIN: [2, 3], VALIDATE: [4]}),
        ({"data.validation_fraction": 0.0}, {TRAIN: [2, 3]}),
    ],
    ids=["0", "2", "auto", "no validation rows"],
)
def test_validation_rows_are_counted_on_schedule_and_the_test_rows_last(
    tmp_path, settings, charged
):
    done = run_private(private(tmp_path, CUSTOMER, settings))
    slots = charged_in(ledgers_in(tmp_path / "ledgers")[2])
    last = max(slot for of_task in charged.values() for slot in of_task)
    assert slots == {STATISTICS: [1], **charged, EVALUATE: [last + 1]}
    wanted = {"validation", "test"} if VALIDATE in charged else {"test"}
    assert set(done.record["metrics"]) == wanted


def train_inputs(seen: list[Mapping[str, np.ndarray]]) -> Callable[[Message], bool]:
    """A fault that loses nothing and notes what each round of training is told."""

    def fault(message: Message) -> bool:
        if round_of(message) and message.metadata.dst_node_id == node(0):
            records = message.content.array_records[INPUT]
            seen.append({name: array.numpy() for name, array in records.items()})
        return False

    return fault


@pytest.mark.parametrize("mode", [CUSTOMER, LOCAL], ids=["distributed", "local"])
def test_balanced_classes_are_weighted_by_noisy_counts(tmp_path, mode):
    # Noise is replaced by 3 customers for every class, and for all of them, from each enterprise.
    settings = {**mode, "training.class_weighting": "balanced", "run.rounds": 1}
    config = private(tmp_path, settings)
    statistics = filled(config)[1].release(STATISTICS).mechanism.sum
    offset = 3 * round(statistics.scale("rows"))
    seen: list[Mapping[str, np.ndarray]] = []
    with without_noise(offset, statistics.size):
        done = run_private(config, lose_before=train_inputs(seen))
    consortium = consortium_of(config)
    train = consortium.pooled("train")
    assert done.record["federation_rows"]["train"] == pytest.approx(len(train) + 3 * FIVE, rel=0.01)
    churn = np.bincount(train.targets["churn"].astype(int), minlength=2) + 3 * FIVE
    expected = balanced_class_weights(churn)
    assert seen[0][CLASS_WEIGHTS + "churn"] == pytest.approx(expected, rel=0.01)


def test_adaptive_clipping_moves_the_norm_by_the_share_that_was_not_clipped(tmp_path):
    # The norm is beyond all gradients, so the share is 1; Andrew et al. 2021, geometric update.
    settings = {
        **CUSTOMER,
        "privacy.clipping": "adaptive",
        "privacy.clipping_norm": 1e4,
        "privacy.target_unclipped": 0.25,
    }
    seen: list[Mapping[str, np.ndarray]] = []
    with without_noise():
        run_private(private(tmp_path, settings), lose_before=train_inputs(seen))
    norms = [float(inputs[CLIPPING_NORM][0]) for inputs in seen]
    assert norms == pytest.approx([1e4, 1e4 * math.exp(-0.2 * 0.75)], rel=1e-3)


def test_without_noise_the_released_metrics_are_those_of_the_test_rows(tmp_path):
    config = private(tmp_path, CUSTOMER)
    with without_noise():
        done = run_private(config)
    consortium = consortium_of(config)
    network = load_model(done.files.model).network
    rows = consortium.pooled("test")
    heads = consortium.layout.heads
    for head, columns in zip(heads, head_slices(heads), strict=True):
        counts = row_counts(head, network.outputs(rows)[:, columns], rows.targets[head.name])
        known = np.count_nonzero(counts.any(axis=1))
        released = done.record["metrics"]["test"][head.name]
        assert released["rows"] == pytest.approx(known, abs=1)


# The noise of what is opened.


SEVEN = {
    "run.enterprises": 7,
    "secagg.tolerated_dropouts": 2,
    "run.retries": 0,
    "model.hidden": "24,8",
}
SLOTS = 4


def opened_noise(joined: PrivateJoined, task: str, slots: int) -> tuple[np.ndarray, float]:
    """The noise in opened sums, slot after slot, and the variance that it should have."""
    mechanism = joined.plan.release(task).mechanism
    tasks = {
        rows.name: PrivateTasks(joined.config, joined.features, rows)
        for rows in consortium_of(joined.config).enterprises
    }
    arrays, generator = joined.inputs(task), np.random.default_rng(0)
    with without_noise():
        exact = {
            name: mechanism.sum.encode(one.contributions(task, arrays), 1, generator)
            for name, one in tasks.items()
        }
    noise, survivors = [], 0
    for _ in range(slots):
        total = joined.session.sum(joined.task(task))
        released = np.concatenate([total.values[block.name] for block in mechanism.sum.blocks])
        noise.append(released - sum(exact[name] for name in total.survivors))
        survivors = len(total.survivors)
    variance = mechanism.sum.variance * survivors / mechanism.sharers(joined.plan.honest)
    return np.concatenate(noise), variance


@pytest.mark.parametrize("when", ["lose_before", "lose_after"])
@pytest.mark.parametrize("gone", [0, 1, 2])
def test_opened_sums_have_the_promised_noise_whoever_is_lost(tmp_path, gone, when):
    # False alarm 1e-6; the share of one of seven, missing, is seen as surely.
    settings = {**CUSTOMER, **SEVEN, "privacy.spare_slots": SLOTS, "run.rounds": 1}
    nodes = {node(index) for index in range(gone)}

    def fault(message: Message) -> bool:
        return round_of(message) > 0 and message.metadata.dst_node_id in nodes

    joined = PrivateJoined(private(tmp_path, settings), **{when: fault})
    noise, variance = opened_noise(joined, TRAIN, SLOTS)
    mechanism = joined.plan.release(TRAIN).mechanism
    assert variance == pytest.approx(mechanism.sum.variance * (7 - gone) / joined.plan.honest)
    assert variance >= mechanism.sum.variance  # never less than what is charged
    assert len(noise) > values_needed(1 / 7, variance)
    assert variance_is(noise, variance)
    slots = noise.reshape(SLOTS, -1)
    between = np.corrcoef(slots)[np.triu_indices(SLOTS, 1)]  # each slot's noise is fresh
    assert np.abs(between).max() < 5.5 / slots.shape[1] ** 0.5  # false alarm below 1e-6


def test_an_enterprise_lost_before_the_unmask_exchange_leaves_its_noise_in_the_sum(tmp_path):
    def silent(message: Message) -> bool:
        kind = message.metadata.message_type
        return kind == "query.unmask" and message.metadata.dst_node_id in (node(0), node(1))

    settings = {**CUSTOMER, **SEVEN, "privacy.spare_slots": SLOTS, "run.rounds": 1}
    joined = PrivateJoined(private(tmp_path, settings), lose_before=silent)
    noise, variance = opened_noise(joined, TRAIN, SLOTS)
    assert variance == pytest.approx(
        joined.plan.release(TRAIN).mechanism.sum.variance * 7 / joined.plan.honest
    )
    assert variance_is(noise, variance)


@pytest.mark.parametrize(
    ("mode", "task"),
    [(ENTERPRISE, EVALUATE), (LOCAL, EVALUATE)],
    ids=["enterprise", "local"],
)
def test_the_noise_of_other_units_is_as_promised_too(tmp_path, mode, task):
    settings = {**mode, "privacy.spare_slots": 1}
    joined = PrivateJoined(private(tmp_path, settings))
    noise, variance = opened_noise(joined, task, 2)
    sharers = 1 if mode is LOCAL else 3
    whole = joined.plan.release(task).mechanism.sum.variance
    assert variance == pytest.approx(whole * FIVE / sharers)
    assert variance_is(noise, variance)


# Retries.


def test_a_retried_slot_is_charged_anew_and_has_fresh_noise(tmp_path, monkeypatch):
    encoded: dict[tuple[str, int], np.ndarray] = {}
    mask = Participant.mask

    def watched(party, vector, layout):
        encoded[party.name, party.opened.slot] = vector
        return mask(party, vector, layout)

    monkeypatch.setattr(Participant, "mask", watched)

    def fault(message: Message) -> bool:
        return lost(1, 4, in_round=1)(message) and slot_of(message) == 2

    config = private(tmp_path, CUSTOMER, {"privacy.spare_slots": 1, "run.rounds": 1})
    done = run_private(config, lose_before=fault)
    assert [row["slot"] for row in done.history] == [3]
    paths = ledgers_in(tmp_path / "ledgers")
    assert [charged_in(path)[TRAIN] for path in paths] == [[2, 3], [3], [2, 3], [2, 3], [3]]
    stated = done.record["privacy"]["epsilon"]
    for path in paths:
        with SqliteLedger(path) as ledger:
            assert ledger.spent(1e-5).epsilon <= stated * (1 + 1e-9)
    # The same rows and model twice: only the two shares of noise differ.
    difference = encoded["enterprise-00", 3] - encoded["enterprise-00", 2]
    mechanism = plan_in(done).release(TRAIN).mechanism
    assert variance_is(difference, 2 * mechanism.sum.variance / 3)


TOLD = "enterprise-00: An enterprise's privacy budget does not cover what is asked of it; "
"""All that leaves an enterprise of its budget: what is spent is other runs' matter."""


def test_when_the_planned_slots_are_used_up_enterprises_refuse_and_say_why_in_their_own_log(
    tmp_path, caplog
):
    houses = Houses(tmp_path / "houses")
    config = private(tmp_path / "run", CUSTOMER, {"privacy.spare_slots": 1, "run.rounds": 1})
    with pytest.raises(BudgetExhaustedError, match=TOLD) as told:
        run_private(config, houses.app, lose_after=lost(1, 4, in_round=1))
    assert "charged" not in str(told.value)
    said = "enterprise-00 refused: task train was charged 2 times in this run, as often as its plan"
    assert said in caplog.text
    for index in range(FIVE):
        assert charged_in(houses.path(index)) == {STATISTICS: [1], TRAIN: [2, 3]}


def test_a_simulated_enterprise_has_no_budget_beyond_the_run_it_is_in(tmp_path, caplog):
    config = private(tmp_path, CUSTOMER, {"privacy.spare_slots": 1, "run.rounds": 1})
    with pytest.raises(BudgetExhaustedError, match=TOLD):
        run_private(config, lose_after=lost(1, 4, in_round=1))
    assert "enterprise-00 refused: the privacy budget does not cover this" in caplog.text
    for path in ledgers_in(tmp_path / "ledgers"):
        with SqliteLedger(path) as ledger:
            assert ledger.spent(1e-5).epsilon <= 1


# Budgets.


def poor(config, epsilon: float = 0.5):
    return roomy(config).model_copy(update={"epsilon_total": epsilon})


def test_one_enterprise_without_budget_refuses_and_the_others_go_on(tmp_path):
    houses, config = Houses(tmp_path / "houses"), private(tmp_path / "run", CUSTOMER)
    houses.policies[2] = poor(config)
    done = run_private(config, houses.app)
    assert [row["survivors"] for row in done.history] == [4, 4]
    refusals = [said for index, _, said, _ in houses.said if isinstance(said, Refusal)]
    assert {one.code for one in refusals} == {BudgetExhaustedError.exit_code}
    assert entries_in(houses.path(2)) == []
    assert len(entries_in(houses.path(1))) == 5


def test_more_without_budget_than_may_be_lost_fail_the_run_and_what_is_spent_stays_inside(
    tmp_path, caplog
):
    houses, config = Houses(tmp_path / "houses"), private(tmp_path / "run", CUSTOMER)
    houses.policies = {0: poor(config), 2: poor(config)}
    with pytest.raises(BudgetExhaustedError, match=TOLD) as told:
        run_private(config, houses.app)
    assert not any(digit in str(told.value).partition(": ")[2] for digit in "0123456789")
    assert "enterprise-02 refused: the privacy budget does not cover this" in caplog.text
    assert all(entries_in(houses.path(index)) == [] for index in range(FIVE))


def test_a_budget_that_another_run_uses_up_meanwhile_costs_one_enterprise_only(tmp_path):
    houses, config = Houses(tmp_path / "houses"), private(tmp_path / "run", CUSTOMER)
    houses.policies[2] = poor(config, 1.01)
    plan = filled(config)[1]

    def meanwhile(message: Message) -> bool:
        if round_of(message) == 2 and message.metadata.dst_node_id == node(2):
            with houses.ledger(2) as ledger:
                ledger.reserve(plan.charges(TRAIN, "another run", 1), 100.0, 0.5)
        return False

    done = run_private(config, houses.app, lose_before=meanwhile)
    assert [row["survivors"] for row in done.history] == [5, 4]
    assert charged_in(houses.path(2))[TRAIN] == [2, 1]
    with houses.ledger(2) as ledger:
        assert ledger.spent(1e-5).epsilon <= 1.01


def test_a_second_run_is_refused_where_it_no_longer_fits_and_joined_where_it_does(tmp_path):
    houses = Houses(tmp_path / "houses")
    config = private(tmp_path / "run", CUSTOMER)
    run_private(config, houses.app)
    run_private(config, houses.app)
    with houses.ledger(0) as ledger:
        both = ledger.spent(1e-5).epsilon
    assert 1.3 < both < 2  # two runs compose to less than twice, and to more than one
    houses.policies = {index: poor(config, both * 1.05) for index in range(FIVE)}
    with pytest.raises(BudgetExhaustedError):
        run_private(config, houses.app)


# Ledgers that were put back.


def put_back(houses: Houses, index: int, copy) -> None:
    """Put an old copy of a closed ledger in its place."""
    for leftover in houses.home.glob(f"{index:04d}.db*"):
        leftover.unlink()
    shutil.copy(copy, houses.path(index))


def test_a_ledger_that_was_put_back_is_found_by_the_coordinator_and_the_others_go_on(
    tmp_path, caplog
):
    houses = Houses(tmp_path / "houses")
    settings = {**CUSTOMER, "run.witness": str(tmp_path / "coordinator.db"), "run.rounds": 1}
    config = private(tmp_path / "run", settings)
    run_private(config, houses.app)
    copy = tmp_path / "old.db"
    shutil.copy(houses.path(3), copy)
    run_private(config, houses.app)
    put_back(houses, 3, copy)
    caplog.clear()
    done = run_private(config, houses.app)
    assert accused(caplog) == ["enterprise-03"]
    assert "the privacy ledger of enterprise-03 is not the one it showed before" in caplog.text
    assert [row["survivors"] for row in done.history] == [4]
    assert counted(houses.path(3))[TRAIN] == 1  # nothing more left it
    assert counted(houses.path(0))[TRAIN] == 3


def test_where_the_coordinator_forgets_the_other_enterprises_find_it_and_take_no_part(tmp_path):
    houses = Houses(tmp_path / "houses")
    config = private(tmp_path / "run", CUSTOMER, {"run.rounds": 1})
    run_private(config, houses.app)
    copy = tmp_path / "old.db"
    shutil.copy(houses.path(3), copy)
    run_private(config, houses.app)
    put_back(houses, 3, copy)
    said = "the privacy ledger of enterprise-03 is not the one it showed before"
    with pytest.raises(LedgerRolledBackError, match=said):
        run_private(config, houses.app)
    refusing = [index for index, _, said, _ in houses.said if getattr(said, "code", 0) == 54]
    assert set(refusing) >= {0, 1, 2, 4}
    assert all(counted(houses.path(index))[TRAIN] == 2 for index in (0, 1, 2, 4))


def test_a_ledger_that_is_put_back_within_a_run_is_found_at_the_next_epoch(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("fgcif_flwr.federation.epochs.SLOTS_BETWEEN_EPOCHS", 1)
    houses = Houses(tmp_path / "houses")
    config = private(tmp_path / "run", CUSTOMER, {"privacy.spare_slots": 9})
    copy = tmp_path / "old.db"
    with houses.ledger(3) as ledger:
        ledger.record_join("an earlier run")
    shutil.copy(houses.path(3), copy)
    with Witness(tmp_path / "coordinator.db") as witness:
        joined = PrivateJoined(config, houses.app, witness.seen)
        assert len(joined.session.sum(joined.task(TRAIN)).survivors) == FIVE
        put_back(houses, 3, copy)
        # It loses its keys, so that all join anew once that is noticed.
        joined.grid._nodes._contexts[node(3)].state.clear()
        for _ in range(3):
            survivors = joined.session.sum(joined.task(TRAIN)).survivors
            assert "enterprise-03" not in survivors
            assert len(survivors) == FIVE - 1
    assert accused(caplog) == ["enterprise-03"]
    assert counted(houses.path(3)) == {}


def test_a_ledger_put_back_to_just_after_its_last_join_is_found_by_the_releases_since(
    tmp_path, caplog
):
    houses = Houses(tmp_path / "houses")
    changed = {"run.witness": str(tmp_path / "witness.db"), "run.rounds": 1}
    config = private(tmp_path / "run", CUSTOMER, changed)
    old = tmp_path / "old.db"

    def copying(message):
        if message.metadata.message_type == "query.advertise" and not old.exists():
            shutil.copy(houses.path(3), old)  # the join is in it, no release yet
        return False

    run_private(config, houses.app, lose_before=copying)
    assert sum(counted(houses.path(3)).values()) > 1
    put_back(houses, 3, old)
    caplog.clear()
    run_private(config, houses.app)
    assert accused(caplog) == ["enterprise-03"]
