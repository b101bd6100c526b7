"""Ways in which a private run could tell more than it promises, each of them closed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fgcif_flwr.cli import simulate
from fgcif_flwr.enterprise import private_tasks
from fgcif_flwr.enterprise.private_tasks import PrivateTasks
from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.federation.private_plan import tasks_of
from fgcif_flwr.federation.private_releases import (
    CLIPPING_NORM,
    ROWS,
    UNCLIPPED,
    UPDATE,
    VALIDATE,
    check_private_input,
    trained_layout,
)
from fgcif_flwr.federation.releases import EVALUATE, MODEL, STATISTICS, TRAIN
from fgcif_flwr.models.artifact import load_model
from fgcif_flwr.models.baselines import metrics_on
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import named_arrays, to_vector
from fgcif_flwr.privacy.ledger import SqliteLedger
from fgcif_flwr.privacy.outcomes import OUTCOMES
from fgcif_flwr.reporting.run_directory import RunDirectory
from fgcif_flwr.secagg import Released
from fgcif_flwr.seeds import seed_for
from tests.federation_rig import Finished, lost, node
from tests.noise_checks import draws, variance_is
from tests.private_rig import (
    CUSTOMER,
    ENTERPRISE,
    FIVE,
    LOCAL,
    Houses,
    PrivateJoined,
    cut,
    entries_in,
    features_of,
    filled,
    ledgers_in,
    plan_in,
    private,
    run_private,
    without_noise,
)

torch.set_num_threads(1)

MODES = {"customer": CUSTOMER, "local": LOCAL, "enterprise": ENTERPRISE}
modes = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def start_of(config) -> np.ndarray:
    network = build_network(features_of(config), config.model, seed_for(config, "model"))
    return to_vector(named_arrays(network)).astype(np.float64)


def tasks_for(config, index: int = 0, **rows: int) -> PrivateTasks:
    own = consortium_of(config).enterprises[index]
    if rows:
        own = cut(own, rows["train"])
    return PrivateTasks(config, features_of(config), own)


# How many rows an enterprise has.


@modes
def test_three_rows_look_like_three_hundred_in_everything_that_leaves(tmp_path, mode):
    houses = Houses(tmp_path / "houses")
    config = private(tmp_path / "run", mode)
    enterprises = consortium_of(config).enterprises
    houses.rows = {
        1: cut(enterprises[1], 3),
        2: cut(enterprises[2], 300),
        3: cut(enterprises[3], 0),
    }
    done = run_private(config, houses.app)
    assert [row["survivors"] for row in done.history] == [FIVE, FIVE]
    forms = []
    for index in range(4):
        said = [one for one in houses.said if one[0] == index]
        form = []
        for _, kind, reply, size in said:
            parts = {}
            for field in fields(reply):
                value = getattr(reply, field.name)
                parts[field.name] = len(value) if isinstance(value, bytes | str | tuple) else None
            form.append((kind, type(reply).__name__, size, tuple(parts.items())))
        forms.append(form)
    assert len(forms[0]) > 10
    assert any(kind == "train.release" for kind, *_ in forms[0])
    assert forms[1:] == [forms[0]] * 3


@modes
def test_the_layout_of_what_leaves_comes_from_the_manifest_and_has_no_words_of_outcomes(
    tmp_path, mode
):
    joined = PrivateJoined(private(tmp_path, mode))
    for name in tasks_of(joined.config):
        task = joined.task(name)
        if mode is LOCAL and name == TRAIN:
            released = trained_layout(joined.config, len(joined.model))
            task = replace(task, layout=released)
        assert task.released == task.layout
        assert not {field.name for field in task.released.fields} & set(OUTCOMES)
        blocks = {block.name for block in joined.plan.release(name).mechanism.sum.blocks}
        assert {field.name for field in task.layout.fields} == blocks
        assert "loss" not in blocks
        if name == TRAIN:
            assert ROWS not in blocks


@modes
def test_no_request_or_record_of_a_private_run_holds_exact_numbers_of_rows(tmp_path, mode):
    config = private(tmp_path, mode)
    done = run_private(config)
    train = len(consortium_of(config).pooled("train"))
    assert done.record["federation_rows"]["train"] != train
    assert set(done.record["federation_rows"]) == {"train"}
    if mode is ENTERPRISE:
        assert done.record["federation_rows"]["train"] == 0
    assert all(row["loss"] is None for row in done.history)
    assert "loss" not in done.record["metrics"]


def test_rows_beyond_the_public_cap_are_not_used_and_the_log_of_their_owner_alone_says_so(
    tmp_path, caplog
):
    config = private(tmp_path / "run", CUSTOMER, {"privacy.rows_per_enterprise": 10})
    houses = Houses(tmp_path / "houses")
    with without_noise():
        done = run_private(config, houses.app)
    assert all(len(rows.train) > 10 for rows in consortium_of(config).enterprises)
    assert done.record["federation_rows"]["train"] == pytest.approx(10 * FIVE, rel=1e-3)
    told = [one for one in caplog.records if "rows_per_enterprise" in one.getMessage()]
    assert {one.name for one in told} == {"fgcif_flwr.enterprise.private_tasks"}
    assert {type(said).__name__ for _, _, said, _ in houses.said} == {
        "Identity",
        "JoinReply",
        "Advertisement",
        "Released",
        "UnmaskReply",
    }
    for _, _, said, _ in houses.said:
        assert "rows_per_enterprise" not in repr(said)


def test_the_warning_about_the_cap_does_not_count_the_rows(tmp_path, caplog):
    tasks = tasks_for(private(tmp_path, CUSTOMER, {"privacy.rows_per_enterprise": 7}), train=291)
    (chunk,) = tasks.contributions(STATISTICS, {})
    assert len(chunk[ROWS]) == 7
    assert "= 7" in caplog.text
    assert "291" not in caplog.text


# What is divided by.


def released_rows(offset: int, done: Finished, config) -> float:
    """The noisy number of rows where the noise is ``offset`` rows from each enterprise."""
    rows = len(consortium_of(config).pooled("train")) + offset * FIVE
    assert done.record["federation_rows"]["train"] == pytest.approx(rows, rel=1e-3)
    return rows


class Everybody:
    """A generator that draws everybody into every sample."""

    def random(self, size: int) -> np.ndarray:
        return np.zeros(size)


@pytest.mark.parametrize(("rate", "gone"), [(1.0, 0), (1.0, 1), (0.25, 0)])
def test_the_model_moves_by_the_sum_over_the_released_number_of_rows(
    tmp_path, monkeypatch, rate, gone
):
    # Noise is none but 20 rows more from each enterprise, so the exact number would show; and
    # everybody is sampled, so that what the sum is divided by does.
    monkeypatch.setattr(private_tasks, "cryptographic_generator", Everybody)
    settings = {
        **CUSTOMER,
        "privacy.clipping": "fixed",
        "privacy.clipping_norm": 0.5,
        "privacy.sampling_rate": rate,
        "run.rounds": 1,
    }
    config = private(tmp_path, settings)
    statistics = filled(config)[1].release(STATISTICS).mechanism.sum
    with without_noise(20 * statistics.resolution, statistics.size):
        done = run_private(config, lose_before=lost(*range(FIVE - gone, FIVE), in_round=1))
    rows = released_rows(20, done, config)
    survivors = FIVE - gone
    start = start_of(config)
    arrays = {MODEL: start.astype(np.float32), "round": np.array([1])}
    total = np.zeros(len(start))
    for index in range(survivors):
        for chunk in tasks_for(config, index).contributions(TRAIN, arrays):
            norms = np.linalg.norm(chunk[UPDATE], axis=1)
            assert norms.max() <= 1 + 1e-6
            total += chunk[UPDATE].sum(axis=0)
    # Which enterprises' rows are missing is nobody's to know: all count alike.
    expected = -0.5 * total / (rows * rate * survivors / FIVE)
    moved = done.model - start
    assert np.linalg.norm(moved - expected) < 0.01 * np.linalg.norm(expected)


@pytest.mark.parametrize("lost_one", [False, True])
def test_under_unit_enterprise_the_mean_is_over_those_that_are_seen_to_take_part(
    tmp_path, lost_one
):
    settings = {**ENTERPRISE, "training.algorithm": "fedsgd", "run.rounds": 1}
    config = private(tmp_path, settings, {"privacy.clipping_norm": 0.01})

    def fault(message) -> bool:
        kind = message.metadata.message_type
        return lost_one and kind == "train.release" and message.metadata.dst_node_id == node(4)

    with without_noise():
        done = run_private(config, lose_before=fault)
    survivors = FIVE - lost_one
    start = start_of(config)
    arrays = {MODEL: start.astype(np.float32), "round": np.array([1])}
    total = sum(
        next(tasks_for(config, index).contributions(TRAIN, arrays))[UPDATE][0]
        for index in range(survivors)
    )
    # The update of fedsgd is what the server steps by, as in a run without a unit.
    expected = 0.01 * total / survivors
    moved = done.model - start
    assert np.linalg.norm(moved - expected) < 0.01 * np.linalg.norm(expected)


@pytest.mark.parametrize("gone", [0, 1])
def test_updates_of_private_local_training_are_averaged_over_those_that_take_part(tmp_path, gone):
    config, plan = filled(private(tmp_path, LOCAL, {"run.rounds": 1}))
    with without_noise():
        done = run_private(config, lose_before=lost(*range(FIVE - gone, FIVE), in_round=1))
        start = start_of(config)
        arrays = {
            MODEL: start.astype(np.float32),
            "round": np.array([1]),
            ROWS: np.array([done.record["federation_rows"]["train"] / FIVE]),
        }
        updates = [
            tasks_for(config, index).train(arrays, plan.release(TRAIN).mechanism)[UPDATE]
            for index in range(FIVE - gone)
        ]
    expected = np.mean(updates, axis=0)
    assert np.linalg.norm(done.model - start - expected) < 0.01 * np.linalg.norm(expected)


def test_an_enterprises_rows_do_not_weigh_its_update(tmp_path):
    config = private(tmp_path, {**ENTERPRISE, "training.algorithm": "fedsgd"})
    arrays = {MODEL: start_of(config).astype(np.float32), "round": np.array([1])}
    for rows in (3, 300):
        (chunk,) = tasks_for(config, train=rows).contributions(TRAIN, arrays)
        assert chunk[UPDATE].shape == (1, len(arrays[MODEL]))
        assert np.linalg.norm(chunk[UPDATE]) <= 1 + 1e-9
    for task in (VALIDATE, EVALUATE):
        (chunk,) = tasks_for(config).contributions(task, arrays)
        assert all(block.shape[0] == 1 for block in chunk.values())
        assert all(np.linalg.norm(block) <= 1 + 1e-9 for block in chunk.values())


# Seeds.


@modes
def test_two_runs_of_one_seed_differ_because_noise_does_not_come_from_it(tmp_path, mode):
    one, other = (
        run_private(private(tmp_path / name, mode, {"run.rounds": 1})) for name in ("a", "b")
    )
    assert one.record["config"]["run.seed"] == other.record["config"]["run.seed"]
    assert one.sha256 != other.sha256
    assert one.record["metrics"] != other.record["metrics"]


def test_without_noise_and_sampling_two_runs_of_one_seed_are_the_same(tmp_path):
    # So that the test above, and the one below, see noise and sampling alone.
    with without_noise():
        models = [
            run_private(private(tmp_path / name, CUSTOMER, {"run.rounds": 1})).sha256
            for name in ("a", "b")
        ]
    assert models[0] == models[1]


def test_who_is_sampled_does_not_come_from_the_seed_and_has_the_stated_rate(tmp_path):
    config = private(tmp_path, CUSTOMER, {"privacy.sampling_rate": 0.25})
    tasks = tasks_for(config, train=400)
    arrays = {MODEL: start_of(config).astype(np.float32), "round": np.array([1])}
    sampled = [
        sum(len(chunk[UPDATE]) for chunk in tasks.contributions(TRAIN, arrays)) for _ in range(25)
    ]
    assert len(set(sampled)) > 1
    # 10,000 draws at a quarter; false alarm 1e-6 at 4.9 deviations.
    assert abs(sum(sampled) - 2500) < 4.9 * (10_000 * 0.25 * 0.75) ** 0.5


def test_local_training_samples_and_draws_noise_by_no_seed_either(tmp_path, monkeypatch):
    config, plan = filled(private(tmp_path, LOCAL, {"privacy.sampling_rate": 0.5}))
    mechanism = plan.release(TRAIN).mechanism
    start = start_of(config).astype(np.float32)
    arrays = {MODEL: start, "round": np.array([1]), ROWS: np.array([20.0])}
    with without_noise():  # what differs is who was sampled
        sampled = [tasks_for(config).train(arrays, mechanism)[UPDATE] for _ in range(2)]
    assert not np.array_equal(*sampled)
    whole = replace(mechanism, sampling_rate=1.0)  # what differs is the noise
    noisy = [tasks_for(config).train(arrays, whole)[UPDATE] for _ in range(2)]
    assert not np.array_equal(*noisy)


@pytest.mark.parametrize("fails", [False, True])
def test_local_training_has_the_whole_noise_in_every_step(tmp_path, monkeypatch, caplog, fails):
    # Plain steps of SGD without rows: the update is minus the rate times the sum of their noises.
    # So it is where rows make the computation fail: that must not show.
    settings = {
        **LOCAL,
        "training.optimizer": "sgd",
        "training.learning_rate": 0.5,
        "training.local_epochs": 3,
        "privacy.clipping_norm": 2.0,
        "model.hidden": "16,16",
    }
    config, plan = filled(private(tmp_path, settings))
    mechanism = plan.release(TRAIN).mechanism
    assert mechanism.steps == 3
    arrays = {
        MODEL: start_of(config).astype(np.float32),
        "round": np.array([1]),
        ROWS: np.array([10.0]),
    }
    if fails:

        def bounded(*_):
            raise ValueError("row 17")

        monkeypatch.setattr("fgcif_flwr.models.private_training.bounded", bounded)
    rows = 20 if fails else 0
    update = tasks_for(config, train=rows).train(arrays, mechanism)[UPDATE]
    assert ("noise alone" in caplog.text) == fails
    step = 0.5 * 2.0 / 10.0
    noise = update / step * mechanism.sum.resolution
    assert variance_is(noise, 3 * mechanism.sum.variance)  # false alarm 1e-6


# Which rows a release concerns.


def test_evaluation_is_charged_to_those_it_is_about_and_so_composes_in_parallel(tmp_path):
    done = run_private(private(tmp_path, CUSTOMER))
    plan = plan_in(done)
    (path, *_) = ledgers_in(tmp_path / "ledgers")
    stretches = {
        task: {
            (one.charge.lower, one.charge.upper)
            for one in entries_in(path)
            if one.charge.task == task
        }
        for task in (STATISTICS, TRAIN, VALIDATE, EVALUATE)
    }
    held_out = 0.2 + 0.1
    assert stretches == {
        STATISTICS: {(held_out, 1.0)},
        TRAIN: {(held_out, 1.0)},
        VALIDATE: {(0.2, held_out)},
        EVALUATE: {(0.0, 0.2)},
    }
    with SqliteLedger(path) as ledger:
        spent = ledger.spent(1e-5)
    each = [one.epsilon for one in spent.stretches]
    assert len(each) == 3
    assert spent.epsilon == max(each) == pytest.approx(plan.epsilon)
    assert sum(each) > 2 * spent.epsilon


def test_a_task_reads_the_rows_of_its_stretch_alone(tmp_path):
    config = private(tmp_path, CUSTOMER)
    rows = consortium_of(config).enterprises[0]
    arrays = {MODEL: start_of(config).astype(np.float32), "round": np.array([1])}
    reads = {STATISTICS: "train", TRAIN: "train", VALIDATE: "validation", EVALUATE: "test"}
    for task, split in reads.items():
        nobody = {
            other: getattr(rows, other).take([])
            for other in ("train", "validation", "test")
            if other != split
        }
        alone = PrivateTasks(config, features_of(config), replace(rows, **nobody))
        whole = PrivateTasks(config, features_of(config), rows)
        chunks = zip(
            alone.contributions(task, arrays), whole.contributions(task, arrays), strict=True
        )
        for one, other in chunks:
            assert set(one) == set(other)
            assert all(np.array_equal(one[name], other[name]) for name in one)
            assert all(len(block) == len(getattr(rows, split)) for block in one.values())


def test_under_unit_enterprise_every_release_is_charged_to_everybody(tmp_path):
    run_private(private(tmp_path, ENTERPRISE))
    (path, *_) = ledgers_in(tmp_path / "ledgers")
    charges = [one.charge for one in entries_in(path)]
    assert {(one.lower, one.upper, one.unit) for one in charges} == {(0.0, 1.0, "enterprise")}


# What is shown.


def test_exact_test_metrics_of_a_simulation_are_labelled_and_stand_beside_the_released(tmp_path):
    config = private(tmp_path, CUSTOMER)
    done = run_private(config)
    directory, consortium = RunDirectory(Path(config.run.output)), consortium_of(config)
    result = simulate._result(directory, consortium, {}, 0.0)
    assert result["test_metrics"] == "exact, known to a simulation only"
    exact = metrics_on(load_model(done.files.model).network, consortium.pooled("test"))
    assert result["heads"]["federated"]["churn"] == exact["churn"]
    assert result["heads"]["released"] == done.record["metrics"]["test"]
    assert set(result["metrics"]) >= {"federated", "released"}
    # What the run itself wrote down holds the noisy ones alone.
    assert done.record["metrics"]["test"]["churn"] != exact["churn"]
    assert str(exact["churn"]["auc"]) not in done.files.card.read_text(encoding="utf-8")


def test_the_statement_speaks_of_groups_and_of_what_it_does_not_cover(tmp_path):
    words = {}
    for name, mode in MODES.items():
        done = run_private(private(tmp_path / name, mode, {"run.rounds": 1}))
        words[name] = done.record["privacy"]["statement"]
    for name in ("customer", "local"):
        assert "at k times the epsilon" in words[name]
    assert "k times" not in words["enterprise"]
    assert "That an enterprise takes part can be seen." in words["enterprise"]
    assert all("looking at the same rows is not covered" in one for one in words.values())


def test_a_failure_behind_the_door_ends_no_private_run_and_shows_nowhere(
    tmp_path, monkeypatch, caplog
):
    houses = Houses(tmp_path / "houses")
    config = private(tmp_path / "run", CUSTOMER)
    contributions = PrivateTasks.contributions

    def fails(self, task, arrays):
        if self.rows.name == "enterprise-02":
            raise ValueError("row 17 is odd")
        return contributions(self, task, arrays)

    monkeypatch.setattr(PrivateTasks, "contributions", fails)
    caplog.set_level(logging.INFO)
    done = run_private(config, houses.app)
    assert [(row["survivors"], row["dropped"]) for row in done.history] == [(FIVE, 0)] * 2
    sizes = {}
    for index, _, said, size in houses.said:
        if isinstance(said, Released):
            sizes.setdefault(index, []).append(size)
    assert len(set(map(tuple, sizes.values()))) == 1
    charged = {len(entries_in(houses.path(index))) for index in range(FIVE)}
    assert charged == {5}
    outside = [one for one in caplog.records if not one.name.startswith("fgcif_flwr.privacy")]
    assert not any("row 17" in one.getMessage() for one in outside)


# What the coordinator may say in a task's input.


def lawful(config, task: str) -> Mapping[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    if task != STATISTICS:
        arrays[MODEL] = start_of(config).astype(np.float32)
    if task == TRAIN:
        arrays["round"] = np.array([1])
    return arrays


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ({**CUSTOMER, "privacy.clipping": "adaptive"}, CLIPPING_NORM),
        ({**ENTERPRISE, "privacy.clipping": "adaptive"}, CLIPPING_NORM),
        (LOCAL, ROWS),
    ],
    ids=["customer", "enterprise", "local"],
)
def test_a_norm_or_a_number_of_rows_that_is_none_is_refused_before_a_slot_opens(
    tmp_path, mode, name, bad
):
    config = private(tmp_path, mode)
    features = features_of(config)
    arrays = {**lawful(config, TRAIN), name: np.array([1.0])}
    size = len(arrays[MODEL])
    check_private_input(TRAIN, arrays, config, features, size)
    with pytest.raises(SecureSumError, match=name):
        check_private_input(TRAIN, {**arrays, name: np.array([bad])}, config, features, size)
    with pytest.raises(SecureSumError, match="wants exactly"):
        check_private_input(TRAIN, lawful(config, TRAIN), config, features, size)


@pytest.mark.parametrize("norm", [1e-300, 1e-30, 1.0, 1e30, 1e300])
@pytest.mark.parametrize("mode", [CUSTOMER, ENTERPRISE], ids=["customer", "enterprise"])
def test_whatever_norm_the_coordinator_says_no_contribution_exceeds_its_bound(tmp_path, mode, norm):
    config, plan = filled(private(tmp_path, mode, {"privacy.clipping": "adaptive"}))
    mechanism = plan.release(TRAIN).mechanism
    arrays = {**lawful(config, TRAIN), CLIPPING_NORM: np.array([norm])}
    rows = consortium_of(config).enterprises[0]
    one = PrivateTasks(config, features_of(config), replace(rows, train=rows.train.take([0])))
    none = PrivateTasks(config, features_of(config), replace(rows, train=rows.train.take([])))
    encoded = [
        mechanism.sum.encode(tasks.contributions(TRAIN, arrays), 1, draws(3))
        for tasks in (one, none)
    ]
    assert UNCLIPPED in {block.name for block in mechanism.sum.blocks}
    moved = encoded[0] - encoded[1]
    bound = mechanism.sum.l2 * (1 if mode is CUSTOMER else 2)
    assert np.linalg.norm(moved.astype(np.float64)) <= bound
