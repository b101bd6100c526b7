"""What a coordinator, or a customer's own values, could do to the sums that segments come from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fgcif_flwr.config import unflatten
from fgcif_flwr.data.encoding import EncodedTable
from fgcif_flwr.enterprise.private_tasks import PrivateTasks
from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.errors import (
    BudgetExhaustedError,
    ConfigurationError,
    PolicyError,
    PrivacyError,
    SecureSumError,
)
from fgcif_flwr.federation.private_plan import plan_of, tasks_of, with_noise
from fgcif_flwr.federation.private_releases import VALIDATE, check_private_input
from fgcif_flwr.federation.releases import EVALUATE, MODEL, STATISTICS, TRAIN, check_input
from fgcif_flwr.federation.segmentation_releases import (
    GRID,
    ROWS,
    SEGMENT_TASKS,
    SPACE,
    STEP,
    check_learned,
    segmentation_slots,
)
from fgcif_flwr.federation.session import SessionSettings
from fgcif_flwr.models.network import parameter_count
from fgcif_flwr.privacy.noisy_sum import NoisySum
from tests.private_rig import CUSTOMER, ENTERPRISE, FIVE, LOCAL, PrivateJoined, private
from tests.segment_rig import (
    inputs_of,
    layout_for,
    privately_segmented,
    segmented,
    segments,
    settings,
)

torch.set_num_threads(1)

MODES = {"customer": CUSTOMER, "local": LOCAL, "enterprise": ENTERPRISE}


@pytest.fixture
def still(monkeypatch):
    """Sums without noise, so that one contribution's part can be seen."""
    from fgcif_flwr.privacy import noisy_sum

    monkeypatch.setattr(noisy_sum, "skellam", lambda size, *_: np.zeros(size, np.int64))


def prepared(path, mode, more=None):
    """The configuration with numbers for noise, its plan and layout, and an enterprise's rows."""
    config = privately_segmented(path, mode, more)
    features = layout_for(config)
    size = parameter_count(features, config.model)
    secure_sum = SessionSettings.of(config).parameters(FIVE)
    config = with_noise(config, features, size, secure_sum)
    plan = plan_of(config, features, size, secure_sum.honest_in_any_sum)
    return config, plan, features, consortium_of(config).enterprises[0]


def hostile(rows: EncodedTable) -> EncodedTable:
    """Rows as no encoding gives them: beyond bounds, infinite, not a number, all or none there."""
    numeric, missing = rows.numeric.copy(), rows.missing.copy()
    for place, value in enumerate((np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, 1.0)):
        numeric[place] = value
        missing[place] = 0.0
    missing[7], missing[8] = 1.0, np.nan
    return replace(rows, numeric=numeric, missing=missing)


def summed(config, plan, features, rows, task) -> np.ndarray:
    noisy: NoisySum = plan.release(task).mechanism.sum
    tasks = PrivateTasks(config, features, rows)
    chunks = tasks.contributions(task, inputs_of(task, config))
    return noisy.encode(chunks, 3, np.random.default_rng(0))


@pytest.mark.parametrize("mode", ["customer", "local"])
@pytest.mark.parametrize("task", SEGMENT_TASKS)
def test_a_customer_moves_no_sum_by_more_than_its_bound(tmp_path, still, mode, task):
    config, plan, features, rows = prepared(tmp_path, MODES[mode])
    noisy = plan.release(task).mechanism.sum
    whole = replace(rows, train=hostile(rows.train))
    together = summed(config, plan, features, whole, task)
    for one in range(len(whole.train)):
        others = np.flatnonzero(np.arange(len(whole.train)) != one)
        without = replace(whole, train=whole.train.take(others))
        moved = together - summed(config, plan, features, without, task)
        assert np.sqrt(float(moved @ moved)) <= noisy.l2
        assert np.abs(moved).sum() <= noisy.l1


@pytest.mark.parametrize("task", SEGMENT_TASKS)
def test_an_ordinary_customers_part_of_each_block_is_within_norm_1_before_it_is_clipped(
    tmp_path, task
):
    """Clipping protects; but what it cut regularly would be a sum of something else."""
    config, _, features, rows = prepared(tmp_path, CUSTOMER)
    tasks = PrivateTasks(config, features, rows)
    for chunk in tasks.contributions(task, inputs_of(task, config)):
        for part in chunk.values():
            if part.ndim == 1:  # places of a single 1
                assert part.dtype.kind == "i"
                continue
            assert np.isfinite(part).all()
            norms = np.linalg.norm(part, axis=1)
            assert norms.max() <= 1 + 1e-6
            assert norms.max() > 0


@pytest.mark.parametrize("task", SEGMENT_TASKS)
def test_a_customer_of_whom_nothing_is_known_keeps_the_place_under_the_cap(tmp_path, task):
    """Left out, it would let another one in: two customers would change, not one."""
    config, _, features, rows = prepared(tmp_path, CUSTOMER, {"privacy.rows_per_enterprise": 9})
    blind = replace(rows.train, missing=np.ones_like(rows.train.missing))
    tasks = PrivateTasks(config, features, replace(rows, train=blind))
    seen = 0
    for chunk in tasks.contributions(task, inputs_of(task, config)):
        seen += len(next(iter(chunk.values())))
        if task != SEGMENT_TASKS[0]:  # the first one counts missing values as such
            for part in chunk.values():
                assert (part == -1).all() if part.ndim == 1 else not part.any()
    assert seen == 9


@pytest.mark.parametrize("task", SEGMENT_TASKS)
def test_an_enterprise_moves_no_sum_by_more_than_its_bound_however_many_rows_it_has(
    tmp_path, still, task
):
    config, plan, features, rows = prepared(tmp_path, ENTERPRISE)
    noisy = plan.release(task).mechanism.sum
    some = replace(rows, train=rows.train.take(np.zeros(5000, np.int64)))
    for train in (rows.train, hostile(rows.train), some.train, rows.train.take(np.arange(0))):
        moved = summed(config, plan, features, replace(rows, train=train), task)
        assert np.sqrt(float(moved @ moved)) <= noisy.l2
        assert np.abs(moved).sum() <= noisy.l1


@pytest.mark.parametrize("task", SEGMENT_TASKS)
def test_an_enterprises_part_is_a_mean_which_tells_nothing_of_the_number_of_its_rows(
    tmp_path, task
):
    config, _, features, rows = prepared(tmp_path, ENTERPRISE)
    twice = replace(rows, train=EncodedTable.concatenate([rows.train] * 7))
    parts = [
        next(PrivateTasks(config, features, one).contributions(task, inputs_of(task, config)))
        for one in (rows, twice)
    ]
    for name, part in parts[0].items():
        assert 0 < np.linalg.norm(part) <= 1 + 1e-6
        np.testing.assert_allclose(part, parts[1][name], atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_the_plan_charges_every_segmentation_task_to_the_training_customers(tmp_path, mode):
    config, plan, _, _ = prepared(tmp_path, MODES[mode])
    without = private(tmp_path / "other", MODES[mode])
    wanted = segmentation_slots(config)
    assert set(wanted) == set(SEGMENT_TASKS)
    for task, slots in wanted.items():
        planned = plan.release(task)
        assert planned.slots == slots
        (stretch,) = planned.stretches
        assert stretch == plan.release(TRAIN).stretches[0]
        assert len(plan.charges(task, "run", 1)) == 1
    assert plan.epsilon <= 1.0 * (1 + 1e-9)
    assert not set(SEGMENT_TASKS) & set(tasks_of(unfilled(without)))
    # what the segments cost, training no longer has
    features_without = layout_for(without)
    size = parameter_count(features_without, without.model)
    secure_sum = SessionSettings.of(without).parameters(FIVE)
    filled = with_noise(without, features_without, size, secure_sum)
    assert config.privacy.noise_multiplier > filled.privacy.noise_multiplier


def unfilled(config):
    """The same with a number of spare slots, so that its tasks can be listed."""
    return config.model_copy(
        update={"privacy": config.privacy.model_copy(update={"spare_slots": 0})}
    )


def test_a_multiplier_that_costs_more_than_epsilon_says_is_refused(tmp_path):
    with pytest.raises(PrivacyError, match=r"privacy.epsilon|multiplier"):
        prepared(
            tmp_path,
            CUSTOMER,
            {"segmentation.multiplier": 0.5, "privacy.noise_multiplier": 20.0},
        )


def test_segments_are_no_task_of_a_run_without_them(tmp_path):
    joined = PrivateJoined(private(tmp_path, CUSTOMER))
    with pytest.raises(PrivacyError, match="not in the privacy plan"):
        joined.plan.release(GRID)
    task = joined.task(STATISTICS)
    for name in SEGMENT_TASKS:
        with pytest.raises(SecureSumError, match="there is no task"):
            joined.session.sum(replace(task, name=name), attempts=1)


def test_a_segmentation_task_is_released_as_often_as_is_planned_and_charged(tmp_path):
    config = privately_segmented(tmp_path, CUSTOMER, {"segmentation.iterations": 1})
    joined = PrivateJoined(config)
    task = replace(joined.task(GRID), arrays=inputs_of(GRID, config))
    joined.session.sum(task, attempts=1)
    with pytest.raises((BudgetExhaustedError, PolicyError, SecureSumError)) as refused:
        joined.session.sum(task, attempts=1)
    assert "slots" in str(refused.value) or "budget" in str(refused.value)


def spoilt(arrays, name, change):
    array = arrays[name].copy()
    array[...] = change(array) if callable(change) else array
    return {**arrays, name: array}


def unlawful(arrays):
    """Inputs that are near the lawful one, and not lawful."""
    for name in arrays:
        yield {key: value for key, value in arrays.items() if key != name}
        yield {**arrays, name: arrays[name][:-1]}
        yield {**arrays, name: np.append(arrays[name], arrays[name][-1:])}
        yield {**arrays, name: arrays[name].reshape(1, -1)}
        yield {**arrays, name: arrays[name].astype(np.float32)}
        if arrays[name].dtype.kind == "f":
            for value in (np.nan, np.inf, -0.1, 1.1):
                bad = arrays[name].copy()
                bad[-1] = value
                yield {**arrays, name: bad}
        else:
            yield {**arrays, name: np.zeros_like(arrays[name])}
    yield {**arrays, "segments/other": np.zeros(1)}
    if SPACE in arrays:
        narrow = arrays[SPACE].copy()
        narrow[len(narrow) // 3] = 0.0  # a width of nothing
        yield {**arrays, SPACE: narrow}


@pytest.mark.parametrize("unit", ["none", *MODES])
@pytest.mark.parametrize("task", SEGMENT_TASKS)
def test_an_unlawful_input_of_a_segmentation_task_is_refused_by_the_manifest_alone(
    tmp_path, unit, task
):
    if unit == "none":
        config, check = segmented(tmp_path), check_input
        features = layout_for(config)
    else:
        (config, _, features, _), check = prepared(tmp_path, MODES[unit]), check_private_input
    good = inputs_of(task, config)
    check(task, good, config, features, 10)
    for bad in unlawful(good):
        with pytest.raises(SecureSumError):
            check(task, bad, config, features, 10)


@pytest.mark.parametrize("unit", ["none", "customer"])
def test_later_tasks_want_the_segments_and_lawful_ones(tmp_path, unit):
    if unit == "none":
        config, features = segmented(tmp_path), layout_for(segmented(tmp_path))
        rest = {"rows": np.array([9, 1, 1]), MODEL: np.zeros(10, np.float32)}
        tasks = {
            STATISTICS: {},
            TRAIN: rest | {"round": np.array([1])},
            "train-evaluate": rest | {"round": np.array([1])},
            EVALUATE: rest,
        }
        check = check_input
    else:
        config, _, features, _ = prepared(tmp_path, CUSTOMER)
        model = {MODEL: np.zeros(10, np.float32)}
        tasks = {TRAIN: model | {"round": np.array([1])}, VALIDATE: model, EVALUATE: model}
        tasks[STATISTICS] = {}
        check = check_private_input
    for task, arrays in tasks.items():
        check(task, {**arrays, **segments()}, config, features, 10)
        with pytest.raises(SecureSumError):
            check(task, arrays, config, features, 10)
        for bad in unlawful(segments()):
            with pytest.raises(SecureSumError):
                check(task, {**arrays, **bad}, config, features, 10)


def test_segments_are_refused_where_the_manifest_has_none(tmp_path):
    config = unflatten({"run.enterprises": 6})
    features = layout_for(config)
    with pytest.raises(SecureSumError):
        check_input(STATISTICS, segments(), config, features, 10)


def test_a_lying_number_of_rows_makes_no_value_leave_its_bound_unseen(tmp_path):
    """Weights over too few rows would pass the field's bound, which the door says in the sum."""
    from fgcif_flwr.enterprise.tasks import Tasks
    from fgcif_flwr.federation.releases import layout_of

    config = segmented(tmp_path)
    features = layout_for(config)
    rows = consortium_of(config).enterprises[0]
    arrays = inputs_of(STEP, config)
    values = Tasks(config, features, rows).compute(STEP, arrays | {ROWS: np.array([1000])})
    layout_of(STEP, config, features, 10).encode(values, np.random.default_rng(0), b"")
    for field in layout_of(STEP, config, features, 10).fields:
        assert np.abs(values[field.name]).max() <= field.bound


def test_a_learned_target_and_the_segmentation_that_gives_it_belong_together(tmp_path):
    config = segmented(tmp_path)
    features = layout_for(config)
    check_learned(config, features)
    flat = {"data.schema": config.data.schema_name}
    with pytest.raises(ConfigurationError, match=r"segmentation.target = group"):
        check_learned(unflatten(flat), features)
    other = unflatten(flat | {"segmentation.target": "churn"})
    with pytest.raises(ConfigurationError, match="churn"):
        check_learned(other, features)
    plain = unflatten({"segmentation.target": "churn"})
    with pytest.raises(ConfigurationError, match="learned"):
        check_learned(plain, layout_for(plain))
    absent = unflatten(settings(tmp_path, {"segmentation.features": "recency_days,recency"}))
    with pytest.raises(ConfigurationError, match="recency_days"):
        check_learned(absent, features)


def test_every_enterprise_refuses_a_manifest_whose_learned_target_nobody_learns(tmp_path):
    config = privately_segmented(tmp_path, CUSTOMER)
    flat_config = config.model_copy(update={"segmentation": type(config.segmentation)()})
    with pytest.raises(ConfigurationError, match="learned"):
        PrivateJoined(flat_config)
