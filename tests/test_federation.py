"""A federation runs end to end through both apps, and says so when it cannot."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.serverapp.strategy import FedAvg, Strategy

from client_app.app import app as client_app
from fgcif_flwr.config import SimulatorSection, flatten
from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.data.simulator import simulate_customers
from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.enterprise.tasks import Tasks
from fgcif_flwr.errors import (
    ClassAbsentError,
    CohortError,
    FgcifError,
    NotAvailableError,
    OutOfRangeError,
    SecureSumError,
)
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.records import (
    reply_from_records,
    request_to_records,
)
from fgcif_flwr.federation.releases import MODEL, TRAIN
from fgcif_flwr.federation.session import (
    SecureSumSession,
    SessionSettings,
)
from fgcif_flwr.federation.strategy import SecureFedAvg
from fgcif_flwr.federation.terms import terms_of
from fgcif_flwr.models.artifact import load_model, model_sha256
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import named_arrays, to_vector
from fgcif_flwr.reporting.run_directory import RunDirectory
from fgcif_flwr.secagg import (
    Advertisement,
    AdvertiseRequest,
)
from fgcif_flwr.seeds import seed_for
from server_app.app import app as server_app
from server_app.stages import run_stages
from tests.federation_rig import (
    Finished,
    Joined,
    challenge,
    configured,
    federate,
    lost,
    node,
    round_of,
    slot_of,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return federate(configured(tmp_path_factory.mktemp("baseline")))


def test_a_run_writes_its_record_history_model_and_card(baseline):
    record, history = baseline.record, baseline.history
    assert record["status"] == "completed"
    assert record["rounds"] == len(history) == 3
    assert [row["round"] for row in history] == [1, 2, 3]
    assert all((row["survivors"], row["dropped"]) == (6, 0) for row in history)
    assert set(record["metrics"]) == {"validation", "test"}
    assert set(record["metrics"]["test"]) == {"churn", "segment", "future_value"}
    loaded = load_model(baseline.files.model).network
    assert model_sha256(named_arrays(loaded)) == record["model_sha256"]
    assert record["model_sha256"] in baseline.files.card.read_text(encoding="utf-8")
    assert not baseline.files.failure.exists()


def test_the_rows_in_the_record_are_those_of_all_enterprises_together(baseline):
    rows = consortium_of(configured(baseline.files.path)).enterprises
    assert baseline.record["federation_rows"] == {
        split: sum(len(getattr(one, split)) for one in rows)
        for split in ("train", "validation", "test")
    }


def test_the_same_seed_gives_the_identical_model_although_all_keys_differ(baseline, tmp_path):
    again = federate(configured(tmp_path))
    assert again.sha256 == baseline.sha256
    assert again.record["metrics"] == baseline.record["metrics"]
    one, other = (run.record["secure_sum"]["run_id"] for run in (again, baseline))
    assert one != other


def test_another_seed_gives_another_model(baseline, tmp_path):
    assert federate(configured(tmp_path, {"run.seed": 1})).sha256 != baseline.sha256


def test_a_round_takes_two_exchanges_once_it_is_steady(tmp_path):
    # identify, join, advertise; statistics, three rounds and the evaluation at two each.
    assert federate(configured(tmp_path)).record["communication"]["exchanges"] == 3 + 5 * 2


@pytest.mark.parametrize("gone", [None, 2])
def test_the_model_is_the_mean_of_the_survivors_updates_weighted_by_their_rows(tmp_path, gone):
    config = configured(tmp_path, {"run.rounds": 1})
    faults = {} if gone is None else {"lose_before": lost(gone, in_round=1)}
    federated = federate(config, **faults).model

    consortium = consortium_of(config)
    network = build_network(consortium.layout, config.model, seed_for(config, "model"))
    start = named_arrays(network)
    total = sum(len(rows.train) for rows in consortium.enterprises)
    inputs = {
        "rows": np.array([total, 1, 1]),
        "round": np.array([1]),
        MODEL: to_vector(start),
    }
    values = [
        Tasks(config, consortium.layout, rows).compute(TRAIN, inputs)
        for index, rows in enumerate(consortium.enterprises)
        if index != gone
    ]
    share = sum(float(value["rows"][0]) for value in values) / total
    mean = sum(value["update"] for value in values) / share
    # Each enterprise rounds to a step of bound / (2^21 - 1); the model itself is float32.
    step = config.secagg.value_bound / (2 ** (config.secagg.value_bits - 1) - 1)
    tolerance = len(values) * step / share + 1e-6
    assert np.abs(federated - (to_vector(start) + mean)).max() < tolerance
    assert np.abs(mean).max() > 10 * tolerance


@pytest.mark.parametrize("when", ["lose_before", "lose_after"])
def test_losing_an_enterprise_costs_neither_the_round_nor_the_run(baseline, tmp_path, when):
    run = federate(configured(tmp_path), **{when: lost(1, in_round=2)})
    assert run.record["status"] == "completed"
    assert (run.history[1]["survivors"], run.history[1]["dropped"]) == (5, 1)
    assert run.sha256 != baseline.sha256


@pytest.mark.parametrize("when", ["lose_before", "lose_after"])
def test_an_enterprise_that_was_lost_comes_back_in_the_next_round(tmp_path, when):
    run = federate(configured(tmp_path), **{when: lost(1, in_round=2)})
    assert (run.history[2]["survivors"], run.history[2]["dropped"]) == (6, 0)


def test_an_enterprise_whose_clientapp_raises_counts_as_lost(tmp_path):
    def raising(message: Message, context: Context) -> Message:
        if lost(2, in_round=2)(message):
            raise RuntimeError("row 17 is odd")
        return client_app(message, context)

    run = federate(configured(tmp_path), raising)
    assert [row["survivors"] for row in run.history] == [6, 5, 6]


def test_an_enterprise_lost_during_the_unmask_exchange_is_still_in_the_sum(baseline, tmp_path):
    def silent(message: Message) -> bool:
        kind = message.metadata.message_type
        return kind == "query.unmask" and message.metadata.dst_node_id == node(3)

    run = federate(configured(tmp_path), lose_before=silent)
    assert run.sha256 == baseline.sha256


def test_more_lost_than_tolerated_fails_the_run_and_says_how_many_were_needed(tmp_path):
    with pytest.raises(SecureSumError, match="4 of 6 vectors arrived; 5 are needed"):
        federate(configured(tmp_path), lose_before=lost(1, 4, in_round=2))
    files = RunDirectory(tmp_path)
    assert len(files.read_history()) == 1
    assert not files.record.exists()
    assert not files.model.exists()


def test_a_failed_run_leaves_its_exit_code_and_reason_beside_its_artefacts(tmp_path):
    config = configured(tmp_path, {"run.retries": 0})
    flat = flatten(config)
    grid = InlineGrid(client_app, 6, flat, lose_before=lost(1, 4, in_round=2))
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=flat)
    with pytest.raises(SecureSumError):
        server_app(grid, context)
    failure = json.loads((tmp_path / "failure.json").read_text(encoding="utf-8"))
    assert failure["exit_code"] == SecureSumError.exit_code
    assert "5 are needed" in failure["message"]
    assert not (tmp_path / "run.json").exists()


def test_the_serverapp_completes_a_run_without_a_failure(tmp_path):
    config = configured(tmp_path, {"run.rounds": 1})
    flat = flatten(config)
    grid = InlineGrid(client_app, 6, flat)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=flat)
    server_app(grid, context)
    assert Finished(RunDirectory(tmp_path)).record["status"] == "completed"
    assert not (tmp_path / "failure.json").exists()


@pytest.mark.parametrize("when", ["lose_before", "lose_after"])
def test_a_slot_that_fails_once_is_retried_in_a_new_slot(baseline, tmp_path, when):
    def fault(message: Message) -> bool:
        return lost(1, 4, in_round=2)(message) and slot_of(message) == 3

    run = federate(configured(tmp_path), **{when: fault})
    assert run.record["status"] == "completed"
    assert [row["slot"] for row in run.history] == [2, 4, 5]
    assert run.history[2]["survivors"] == 6


def test_a_retried_round_with_all_present_gives_the_model_that_no_fault_gives(baseline, tmp_path):
    def fault(message: Message) -> bool:
        return lost(1, 4, in_round=2)(message) and slot_of(message) == 3

    assert federate(configured(tmp_path), lose_before=fault).sha256 == baseline.sha256


@pytest.mark.parametrize("when", ["lose_before", "lose_after"])
def test_the_statistics_and_the_last_evaluation_are_retried_too(baseline, tmp_path, when):
    def fault(message: Message) -> bool:
        # Slot 1 is the statistics, 3 to 5 the rounds, 6 the evaluation.
        return (
            message.metadata.message_type == "train.release"
            and message.metadata.dst_node_id in (node(0), node(5))
            and slot_of(message) in (1, 6)
        )

    run = federate(configured(tmp_path), **{when: fault})
    assert run.record["status"] == "completed"


@pytest.mark.parametrize("when", ["lose_before", "lose_after"])
def test_an_enterprise_lost_when_the_epoch_begins_comes_back(tmp_path, when):
    heard: list[str] = []

    def first(message: Message) -> bool:
        if message.metadata.dst_node_id != node(2):
            return False
        heard.append(message.metadata.message_type)
        return heard.count("query.advertise") == 1 and heard[-1] == "query.advertise"

    run = federate(configured(tmp_path), **{when: first})
    assert run.history[-1]["survivors"] == 6


def test_an_advertisement_asked_for_again_is_the_same_one(tmp_path):
    joined = Joined(tmp_path)
    content = request_to_records(AdvertiseRequest(1))
    one, other = (joined.ask(Message(content, node(0), "query.advertise")) for _ in range(2))
    assert isinstance(one, Advertisement)
    assert one == other


def test_without_retries_a_failed_slot_ends_the_run(tmp_path):
    def fault(message: Message) -> bool:
        return lost(1, 4, in_round=2)(message) and slot_of(message) == 3

    with pytest.raises(SecureSumError, match="5 are needed"):
        federate(configured(tmp_path, {"run.retries": 0}), lose_before=fault)


def test_enterprises_that_advertise_late_are_waited_for_by_a_retry(tmp_path):
    # Two are lost in round 2, and once more while they are asked back for round 3.
    asked: dict[int, int] = {}

    def fault(message: Message) -> bool:
        number = message.metadata.dst_node_id
        if number not in (node(1), node(4)):
            return False
        if message.metadata.message_type == "query.advertise" and slot_of(message) > 1:
            asked[number] = asked.get(number, 0) + 1
            return asked[number] == 1
        return round_of(message) == 2 and slot_of(message) == 3

    run = federate(configured(tmp_path), lose_before=fault)
    assert run.record["status"] == "completed"


@pytest.mark.parametrize(
    "settings",
    [
        {"training.server_optimizer": "momentum"},
        {"training.server_optimizer": "adam", "training.server_learning_rate": 0.01},
        {"training.proximal_mu": 1.0, "training.local_epochs": 2},
        {"training.local_epochs": 3},
        {"training.class_weighting": "balanced"},
        {"training.optimizer": "sgd", "training.learning_rate": 0.01},
        {"training.weight_decay": 1.0},
        {"model.numeric_encoding": "standardised"},
        {"model.dropout": 0.2},
    ],
    ids=lambda settings: ",".join(f"{key}={value}" for key, value in settings.items()),
)
def test_a_training_setting_runs_and_changes_the_model(baseline, tmp_path, settings):
    run = federate(configured(tmp_path, settings))
    assert run.record["status"] == "completed"
    assert np.isfinite(run.model).all()
    assert run.sha256 != baseline.sha256


def test_the_proximal_term_holds_the_model_nearer_to_the_one_received(tmp_path):
    moved = []
    for mu in (0.0, 10.0):
        settings = {"training.proximal_mu": mu, "training.local_epochs": 4, "run.rounds": 1}
        config = configured(tmp_path / str(mu), settings)
        layout = feature_layout(load_schema("simulated"))
        start = build_network(layout, config.model, seed_for(config, "model"))
        moved.append(np.linalg.norm(federate(config).model - to_vector(named_arrays(start))))
    assert moved[1] < moved[0]


@pytest.mark.parametrize(("every", "counted"), [(0, []), (1, [2, 3, 4, 5]), (2, [3, 5]), (3, [4])])
def test_validation_rows_are_counted_every_so_many_rounds(tmp_path, every, counted):
    # The model that a round receives is counted in it, so round r + 1 counts the model of r.
    run = federate(configured(tmp_path, {"evaluation.every": every, "run.rounds": 5}))
    assert [row["round"] for row in run.history if row["received_model"]] == counted
    assert run.record["metrics"]["validation"]["churn"]["rows"] > 0
    assert run.record["metrics"]["test"]["churn"]["rows"] > 0


def test_counting_validation_rows_changes_no_more_of_the_model_than_its_rounding(
    baseline, tmp_path
):
    run = federate(configured(tmp_path, {"evaluation.every": 0}))
    assert np.abs(run.model - baseline.model).max() < 1e-3


def test_updates_out_of_range_end_the_run_once_retried_and_the_bound_is_named(tmp_path):
    slots = set()

    def seen(message: Message) -> bool:
        slots.add(slot_of(message))
        return False

    config = configured(tmp_path, {"secagg.value_bound": 1e-6})
    said = r"6 of 6 enterprises have a value for task train .* raise secagg\.value_bound \(1e-06\)"
    with pytest.raises(OutOfRangeError, match=said):
        federate(config, lose_before=seen)
    # It may be one of them that says so in the others' place: so it is tried again.
    assert max(slots) == 2 + config.run.retries


def test_counts_that_do_not_fit_the_words_end_the_run_with_the_bits_to_set(tmp_path):
    said = r"6 of 6 enterprises .* task statistics .* secagg\.value_bits \(8\) for counts"
    with pytest.raises(OutOfRangeError, match=said):
        federate(configured(tmp_path, {"secagg.value_bits": 8, "simulator.customers": 400}))


@pytest.mark.parametrize(
    ("column", "word", "head"), [("churn", "no", "churn"), ("segment", "loyal", "segment")]
)
def test_a_class_that_no_enterprise_has_is_an_error_that_names_target_and_class(
    tmp_path, column, word, head
):
    table, _ = simulate_customers(SimulatorSection(customers=40), 6, 0)
    only = pa.array([word] * len(table))
    table = table.set_column(table.column_names.index(column), column, only)
    pq.write_table(table, tmp_path / "crm.parquet")
    config = configured(tmp_path / "out", {"data.table": str(tmp_path / "crm.parquet")})
    with pytest.raises(ClassAbsentError, match=f"target {head}: no enterprise has"):
        federate(config)


class FewerConnected(InlineGrid):
    """Only the first five nodes are there."""

    def get_node_ids(self) -> Iterable[int]:
        return list(super().get_node_ids())[:5]


def test_too_few_enterprises_connected_is_an_error_that_counts_them(tmp_path):
    config = configured(tmp_path, {"run.timeout": 0.01})
    started = time.monotonic()
    with pytest.raises(CohortError, match=r"5 of 6 enterprises connected.*run\.timeout"):
        run_stages(FewerConnected(client_app, 6, flatten(config)), config)
    assert time.monotonic() - started < 10


def test_enterprises_that_connect_and_say_nothing_are_an_error_that_counts_them(tmp_path):
    with pytest.raises(CohortError, match="4 of 6 enterprises answered"):
        federate(
            configured(tmp_path),
            lose_before=lambda message: message.metadata.dst_node_id in (node(0), node(1)),
        )


def test_a_run_under_another_schema_is_refused_at_join(tmp_path):
    config = configured(tmp_path)
    grid = InlineGrid(client_app, 6, flatten(config))
    session = SecureSumSession(grid, SessionSettings.of(config), terms_of(config, "0" * 64))
    with pytest.raises(FgcifError, match="all must use the same schema file"):
        session.join()


def test_a_node_that_is_no_simulated_enterprise_refuses_in_words(tmp_path):
    config = configured(tmp_path)
    InlineGrid(client_app, 6, flatten(config))
    context = Context(
        run_id=1, node_id=7, node_config={}, state=RecordDict(), run_config=flatten(config)
    )
    reply = client_app(Message(request_to_records(challenge(7)), 7, "query.identify"), context)
    assert reply_from_records(reply.content).code == NotAvailableError.exit_code


def test_secure_fedavg_is_a_fedavg_whose_start_is_flowers_own():
    assert issubclass(SecureFedAvg, FedAvg)
    assert SecureFedAvg.start is Strategy.start
