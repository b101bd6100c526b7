"""Federations whose enterprises train beside synthetic rows, or start from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fgcif_flwr.config import unflatten
from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.enterprise.generator_tasks import with_synthetic_rows
from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.enterprise.tasks import Tasks
from fgcif_flwr.errors import DataError, SecureSumError
from fgcif_flwr.federation.generator_releases import (
    GENERATOR_ARRAY,
    generator_inputs,
    generator_layout,
    marginal_settings,
)
from fgcif_flwr.federation.records import INPUT
from fgcif_flwr.federation.releases import TRAIN, check_input
from fgcif_flwr.generative.artifact import load_generator
from fgcif_flwr.generative.marginals.learning import Learner
from fgcif_flwr.generative.marginals.measurements import MEASUREMENTS, ONE_WAY
from fgcif_flwr.models.network import build_network, parameter_count
from fgcif_flwr.models.parameters import named_arrays, to_vector
from tests.federation_rig import configured, federate

torch.set_num_threads(1)

MARGINALS = {"generator.kind": "marginals"}
NETWORKS = {
    "generator.kind": "federated-ctgan",
    "generator.rounds": 2,
    "generator.local_epochs": 2,
    "generator.hidden": "8",
}
OWN = {"generator.kind": "ctgan", "generator.steps": 3, "generator.hidden": "8"}


def learnt_from(config):
    """The generator that the rows of all enterprises together give, without any federation."""
    consortium = consortium_of(config)
    layout, settings = consortium.layout, marginal_settings(config)
    learner = Learner(layout, settings)
    for measurement in MEASUREMENTS:
        arrays = learner.input(measurement)
        tasks = [Tasks(config, layout, rows) for rows in consortium.enterprises]
        values = [one.compute(measurement, arrays) for one in tasks]
        sums = {name: sum(value[name] for value in values) for name in values[0]}
        learner.add(measurement, sums, dict.fromkeys(sums, 0.0))
    return learner, learner.generator()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return federate(configured(tmp_path_factory.mktemp("run"), MARGINALS))


def test_the_federations_generator_is_that_of_the_pooled_rows(run):
    """Counts are whole numbers, so that the secure sum changes not a bit of what is learnt."""
    config = unflatten(run.record["config"] | {"run.output": str(run.files.path)})
    _, pooled = learnt_from(config)
    loaded = load_generator(run.files.generator).generator
    for name, array in pooled.arrays().items():
        np.testing.assert_array_equal(loaded.arrays()[name], array)


def test_the_record_says_what_the_generator_cost(run):
    said = run.record["generator"]
    assert (said["kind"], said["use"]) == ("marginals", "augment")
    assert said["exchanges"] == 2 * len(MEASUREMENTS)
    assert said["bytes_up"] > 0


def test_counts_leave_by_the_door_under_their_names(run):
    logs = sorted((run.files.path / "releases").glob("*.jsonl"))
    assert len(logs) == 6
    for log in logs:
        text = log.read_text(encoding="utf-8")
        assert all(text.count(f'"{measurement}"') == 1 for measurement in MEASUREMENTS)


@pytest.mark.parametrize("kind", [MARGINALS, OWN], ids=["marginals", "ctgan"])
def test_each_round_has_new_synthetic_rows_beside_the_own_ones(kind, tmp_path):
    config = configured(tmp_path, {**kind, "generator.ratio": 1.5})
    consortium = consortium_of(config)
    rows, inputs = consortium.enterprises[0], {}
    if kind is MARGINALS:
        inputs = generator_inputs(learnt_from(config)[1])
    first, again, second = (
        with_synthetic_rows(
            config, consortium.layout, rows, {**inputs, "round": np.array([number])}
        )
        for number in (1, 1, 2)
    )
    own = len(rows.train)
    assert len(first) == own + round(1.5 * own)
    np.testing.assert_array_equal(first.numeric[:own], rows.train.numeric)
    np.testing.assert_array_equal(first.numeric, again.numeric)
    assert not np.array_equal(first.numeric[own:], second.numeric[own:])


def test_balanced_classes_are_balanced_among_the_synthetic_rows_only(tmp_path):
    config = configured(
        tmp_path, {**MARGINALS, "generator.ratio": 20.0, "generator.balance": "classes"}
    )
    consortium = consortium_of(config)
    rows = consortium.enterprises[1]
    inputs = generator_inputs(learnt_from(config)[1]) | {"round": np.array([1])}
    mixed = with_synthetic_rows(config, consortium.layout, rows, inputs)
    synthetic = mixed.targets["churn"][len(rows.train) :]
    # Standard deviation of a mean of some 500 coin flips: .022.
    assert np.nanmean(synthetic) == pytest.approx(0.5, abs=0.1)


def test_an_input_whose_generator_is_none_is_refused_before_a_slot_is_opened(tmp_path):
    config = configured(tmp_path, MARGINALS)
    features = feature_layout(load_schema("simulated"))
    size = parameter_count(features, config.model)
    network = build_network(features, config.model, 0)
    good = {
        "rows": np.array([100, 10, 10], np.int64),
        "round": np.array([1], np.int64),
        "model": to_vector(named_arrays(network)),
        **generator_inputs(learnt_from(config)[1]),
    }
    check_input(TRAIN, good, config, features, size)
    names = [name for name in good if name.startswith(GENERATOR_ARRAY)]
    for name in names:
        absent = {key: value for key, value in good.items() if key != name}
        shorter = good | {name: good[name][:-1]}
        for bad in (absent, shorter):
            with pytest.raises(SecureSumError, match="no marginals generator"):
                check_input(TRAIN, bad, config, features, size)
        if good[name].dtype.kind == "f":
            spoilt = good[name].copy()
            spoilt[0] = np.nan
            with pytest.raises(SecureSumError, match="no marginals generator"):
                check_input(TRAIN, good | {name: spoilt}, config, features, size)
    with pytest.raises(SecureSumError):
        check_input(TRAIN, good | {"generator/other": np.zeros(1)}, config, features, size)


def test_a_warm_start_sends_enterprises_no_generator_and_changes_the_first_model(tmp_path):
    models, names = {}, set()

    for use in ("none", "warm"):

        def watch(message, use=use):
            arrays = message.content.array_records.get(INPUT, {})
            if "model" in arrays and "round" in arrays:
                models.setdefault(use, arrays["model"].numpy())
                names.update(arrays)
            return False

        settings = {"run.rounds": 1}
        if use == "warm":
            settings |= {**MARGINALS, "generator.use": "warm-start", "generator.rows": 200}
        federate(configured(tmp_path / use, settings), lose_before=watch)
    assert not any(name.startswith(GENERATOR_ARRAY) for name in names)
    assert not np.array_equal(models["none"], models["warm"])


def test_a_federated_ctgan_trains_on_and_serves_every_round(tmp_path):
    sent = []

    def watch(message):
        arrays = message.content.array_records.get(INPUT, {})
        if "model" in arrays and "round" in arrays:
            sent.append(any(name.startswith(GENERATOR_ARRAY) for name in arrays))
        return False

    run = federate(configured(tmp_path, {**NETWORKS, "run.rounds": 2}), lose_before=watch)
    assert sent
    assert all(sent)
    said = run.record["generator"]
    assert len(said["diagnostics"]) == 2
    assert said["exchanges"] == 2 * (1 + 2)  # histograms, then the rounds
    rows = load_generator(run.files.generator).generator.sample(30, np.random.default_rng(1))
    assert len(rows) == 30


def test_half_of_the_enterprises_with_a_single_class_train_all_the_same(tmp_path, monkeypatch):
    from fgcif_flwr.enterprise import simulated

    config = configured(tmp_path, {**NETWORKS, "run.rounds": 1})
    whole = consortium_of(config)

    def one_class(index, rows):
        if index % 2:
            return rows
        return replace(rows, train=rows.train.take(rows.train.targets["churn"] == 0))

    enterprises = tuple(one_class(i, rows) for i, rows in enumerate(whole.enterprises))
    assert all(not enterprises[i].train.targets["churn"].any() for i in (0, 2, 4))
    skewed = replace(whole, enterprises=enterprises)
    monkeypatch.setattr(simulated, "consortium_of", lambda _: skewed)
    run = federate(config)
    assert run.record["status"] == "completed"
    assert any(diagnosis["healthy"] for diagnosis in run.record["generator"]["diagnostics"])


def test_a_generators_file_that_is_damaged_is_refused(run, tmp_path):
    content = run.files.generator.read_bytes()
    for place in (10, len(content) // 2):
        file = tmp_path / f"{place}.safetensors"
        file.write_bytes(content[:place])
        with pytest.raises(DataError, match="damaged"):
            load_generator(file)
    with pytest.raises(DataError, match="no generator of this framework"):
        load_generator(run.files.model)
    with pytest.raises(DataError, match="there is no generator file"):
        load_generator(Path("/nowhere"))


def test_the_layouts_words_hold_the_counts_of_all_rows(tmp_path):
    config = configured(tmp_path, MARGINALS)
    features = feature_layout(load_schema("simulated"))
    layout = generator_layout(ONE_WAY, config, features)
    assert all(field.exact and field.bound >= 1_000_000 for field in layout.fields)
