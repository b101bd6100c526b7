"""A federation runs end to end through both apps, and says so when it cannot."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import FedAvg, Strategy

from client_app.app import app as client_app
from fgcif_flwr.config import RunConfig, SimulatorSection, flatten, unflatten
from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.data.simulator import simulate_customers
from fgcif_flwr.enterprise import simulated
from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.enterprise.tasks import Tasks
from fgcif_flwr.errors import (
    ClassAbsentError,
    CohortError,
    FgcifError,
    NotAvailableError,
    NotJoinedError,
    OutOfRangeError,
    SecureSumError,
    SlotSpentError,
)
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.records import (
    INPUT,
    REPLY,
    REQUEST,
    arrays_to_record,
    reply_from_records,
    reply_to_records,
    request_from_records,
    request_to_records,
)
from fgcif_flwr.federation.releases import EVALUATE, MODEL, STATISTICS, TRAIN, layout_of
from fgcif_flwr.federation.requests import (
    Identify,
    Identity,
    Join,
    Refusal,
    Release,
    Reply,
    Request,
    Reveal,
)
from fgcif_flwr.federation.session import (
    SLOTS_BETWEEN_EPOCHS,
    SecureSumSession,
    SessionSettings,
    Task,
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
    Consent,
    ConsentRequest,
    GraphNonce,
    Participant,
    Released,
    ReleaseRequest,
    UnmaskReply,
    UnmaskRequest,
    shamir,
    wire,
)
from fgcif_flwr.secagg.epoch import SEALED_BYTES
from fgcif_flwr.secagg.participant import advertising
from fgcif_flwr.secagg.participant.snapshot import dump, load
from fgcif_flwr.seeds import seed_for
from server_app.app import app as server_app
from server_app.stages import run_stages

torch.set_num_threads(1)

# Six enterprises: threshold 5, one may be lost.
SMALL: Mapping[str, object] = {
    "run.enterprises": 6,
    "run.rounds": 3,
    "simulator.customers": 40,
    "model.hidden": "8",
}
FIRST_NODE = 1000  # of InlineGrid; node 1000 + i is enterprise i

Fault = Callable[[Message], bool]


@dataclass(frozen=True)
class Finished:
    """What a run left behind."""

    files: RunDirectory

    @property
    def record(self) -> dict:
        return self.files.read_record()

    @property
    def history(self) -> list[dict]:
        return self.files.read_history()

    @property
    def model(self) -> np.ndarray:
        return to_vector(named_arrays(load_model(self.files.model).network))

    @property
    def sha256(self) -> str:
        return self.record["model_sha256"]


def configured(output: Path, settings: Mapping[str, object] | None = None) -> RunConfig:
    return unflatten({**SMALL, "run.output": str(output), **(settings or {})})


def federate(config: RunConfig, app=client_app, **faults: Fault) -> Finished:
    return federate_over(InlineGrid(app, config.run.enterprises, flatten(config), **faults), config)


def federate_over(grid: InlineGrid, config: RunConfig) -> Finished:
    run_stages(grid, config)
    return Finished(RunDirectory(Path(config.run.output)))


def round_of(message: Message) -> int:
    """The training round that a release message belongs to; 0 for any other message."""
    if message.metadata.message_type != "train.release":
        return 0
    inputs = message.content.array_records[INPUT]
    return int(inputs["round"].numpy()[0]) if "round" in inputs else 0


def request_of(message: Message) -> Request:
    return request_from_records(message.metadata.message_type, message.content)


def slot_of(message: Message) -> int:
    """The slot that a message is about; 0 for those about none."""
    request = request_of(message)
    return getattr(request.request if isinstance(request, Release) else request, "slot", 0)


def node(index: int) -> int:
    return FIRST_NODE + index


def lost(*indices: int, in_round: int) -> Fault:
    nodes = {node(index) for index in indices}
    return lambda message: message.metadata.dst_node_id in nodes and round_of(message) == in_round


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


def test_an_update_out_of_range_ends_the_run_and_names_the_bound(tmp_path):
    slots = set()

    def seen(message: Message) -> bool:
        slots.add(slot_of(message))
        return False

    config = configured(tmp_path, {"secagg.value_bound": 1e-6})
    said = r"6 of 6 enterprises have a value for task train .* raise secagg\.value_bound \(1e-06\)"
    with pytest.raises(OutOfRangeError, match=said):
        federate(config, lose_before=seen)
    assert max(slots) == 2  # no other slot would help, so none is tried


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


def records_of(said: Reply | bytes | RecordDict) -> RecordDict:
    """Records of a reply; bytes stand for the blob of one."""
    if isinstance(said, RecordDict):
        return said
    if isinstance(said, bytes):
        return RecordDict({REPLY: ConfigRecord({"message": said})})
    return reply_to_records(said)


def altered(index: int, in_round: int, alter: Callable[[Reply], Reply | bytes | RecordDict]):
    """The ClientApp, but that one enterprise's reply in one round is altered on its way."""

    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if lost(index, in_round=in_round)(message):
            said = reply_from_records(reply.content)
            assert isinstance(said, Released)
            return Message(records_of(alter(said)), reply_to=message)
        return reply

    return app


@pytest.mark.parametrize(
    "alter",
    [
        lambda said: replace(said, words=said.words[:-1]),
        lambda said: replace(said, words=said.words + b"\0"),
        lambda said: replace(said, words=b""),
        lambda said: replace(said, slot=said.slot + 1),
        lambda said: replace(said, sender="another"),
        lambda said: replace(said, sender="enterprise-00"),
        lambda said: said.next,
        lambda said: UnmaskReply(said.sender, said.slot, said.words),
        lambda said: wire.encode(said)[:-1],
        lambda said: wire.encode(said) + b"\0",
        lambda said: b"",
        lambda said: RecordDict(),
        lambda said: RecordDict({REPLY: ConfigRecord({"message": "words"})}),
        lambda said: RecordDict({REPLY: arrays_to_record({"message": np.zeros(3)})}),
    ],
    ids=[
        "short vector",
        "long vector",
        "no vector",
        "wrong slot",
        "stranger's name",
        "another's name",
        "another kind",
        "another kind's fields",
        "cut off",
        "too long",
        "no bytes",
        "no record",
        "text",
        "array",
    ],
)
def test_an_enterprise_that_sends_what_cannot_be_read_counts_as_lost(tmp_path, alter):
    run = federate(configured(tmp_path), altered(1, 2, alter))
    assert (run.history[1]["survivors"], run.history[1]["dropped"]) == (5, 1)
    assert (run.history[2]["survivors"], run.history[2]["dropped"]) == (6, 0)


def test_one_enterprise_that_refuses_the_run_itself_is_left_out_and_does_not_end_it(tmp_path):
    refusal = Refusal(OutOfRangeError.exit_code, "too large")
    run = federate(configured(tmp_path), altered(1, 2, lambda said: refusal))
    assert (run.history[1]["survivors"], run.history[1]["dropped"]) == (5, 1)


def test_an_enterprise_that_shares_with_too_few_holders_does_not_end_the_run(tmp_path):
    def alter(said: Released) -> Released:
        return replace(said, next=replace(said.next, sealed=said.next.sealed[:-SEALED_BYTES]))

    run = federate(configured(tmp_path), altered(1, 2, alter))
    assert run.record["status"] == "completed"
    assert run.history[1]["survivors"] == 6
    assert run.history[2]["survivors"] == 6  # asked again, it said the whole of it


def test_a_malformed_round_key_costs_its_sender_and_not_the_round(tmp_path):
    def shortened(ad: Advertisement) -> Advertisement:
        return replace(ad, round_public=ad.round_public[:-1])

    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.dst_node_id != node(3) or slot_of(message) <= 1:
            return reply
        said = reply_from_records(reply.content)
        if isinstance(said, Released):
            said = replace(said, next=shortened(said.next))
        elif isinstance(said, Advertisement):
            said = shortened(said)
        return Message(records_of(said), reply_to=message)

    run = federate(configured(tmp_path), app)
    assert [row["survivors"] for row in run.history] == [6, 5, 5]
    assert [row["slot"] for row in run.history] == [2, 3, 4]


class Joined:
    """Enterprises that have joined, and a coordinator whose messages may be altered."""

    def __init__(self, output: Path) -> None:
        self.config = configured(output)
        self.schema = load_schema(self.config.data.schema_name)
        self.features = feature_layout(self.schema)
        self.grid = InlineGrid(client_app, 6, flatten(self.config))
        terms = terms_of(self.config, self.schema.hash)
        self.session = SecureSumSession(self.grid, SessionSettings.of(self.config), terms)
        self.session.join()

    def task(self) -> Task:
        return Task(STATISTICS, layout_of(STATISTICS, self.config, self.features, 0), {})

    def statistics(self) -> list[Message]:
        return self.session.open(self.task())

    def training(self, **inputs: np.ndarray) -> list[Message]:
        arrays = {
            "rows": np.array([100, 10, 10]),
            "round": np.array([1]),
            MODEL: self.model,
            **inputs,
        }
        layout = layout_of(TRAIN, self.config, self.features, len(self.model))
        return self.session.open(Task(TRAIN, layout, arrays))

    def ask(self, message: Message) -> Reply:
        return reply_from_records(self._answer(message))

    def blob(self, message: Message) -> bytes:
        return self._answer(message).config_records[REPLY]["message"]

    def other(self, message: Message) -> Message:
        """The same request for the slot with another lawful input: of another task."""
        arrays = {"rows": np.array([100, 10, 10]), MODEL: self.model}
        content = RecordDict(dict(copied(message, task=EVALUATE).content))
        content[INPUT] = arrays_to_record(arrays)
        return Message(content, message.metadata.dst_node_id, message.metadata.message_type)

    @property
    def model(self) -> np.ndarray:
        return to_vector(named_arrays(build_network(self.features, self.config.model, 0)))

    def _answer(self, message: Message) -> RecordDict:
        (reply,) = self.grid.send_and_receive([message])
        assert not reply.has_error()
        return reply.content


@pytest.fixture
def joined(tmp_path: Path) -> Joined:
    return Joined(tmp_path)


def copied(message: Message, **changes: object) -> Message:
    """The same message with fields of its release request changed."""
    request = request_of(message)
    assert isinstance(request, Release)
    return with_blob(message, wire.encode(replace(request.request, **changes)))


def with_blob(message: Message, blob: object) -> Message:
    """The same message with other bytes in place of its request; None for none."""
    content = RecordDict(dict(message.content))
    content[REQUEST] = ConfigRecord({} if blob is None else {"message": blob})
    return Message(content, message.metadata.dst_node_id, message.metadata.message_type)


SECURE_SUM_CODES = range(30, 38)


def test_a_whole_message_is_answered(joined):
    assert isinstance(joined.ask(joined.statistics()[0]), Released)


def test_an_unknown_task_is_refused_by_name(joined):
    refusal = joined.ask(copied(joined.statistics()[0], task="dump-rows"))
    assert refusal == Refusal(
        SecureSumError.exit_code, "there is no task 'dump-rows' in the manifest"
    )


UNLAWFUL_CHANGES = {
    "another run": lambda one: {"run_id": bytes(32)},
    "no run": lambda one: {"run_id": b""},
    "slot 0": lambda one: {"slot": 0},
    "slot not advertised": lambda one: {"slot": 2},
    "far slot": lambda one: {"slot": 2**62},
    "last slot": lambda one: {"slot": 2**63 - 1},
    "slot below 0": lambda one: {"slot": -1},
    "least slot": lambda one: {"slot": -(2**63)},
    "no task": lambda one: {"task": ""},
    "another task's name": lambda one: {"task": "statistics\0"},
    "no cohort": lambda one: {"cohort": ()},
    "cohort too small": lambda one: {"cohort": one.cohort[:3], "members": one.members[:3]},
    "cohort without it": lambda one: {"cohort": one.cohort[1:], "members": one.members[1:]},
    "a name twice": lambda one: {"cohort": (one.cohort[0], *one.cohort)},
    "unordered": lambda one: {"cohort": one.cohort[::-1], "members": one.members[::-1]},
    "a stranger for a member": lambda one: {
        "cohort": (*one.cohort[:-1], "zz"),
        "members": one.members,
    },
    "a stranger more": lambda one: {"cohort": (*one.cohort, "zz")},
    "no members": lambda one: {"members": ()},
    "a member less": lambda one: {"members": one.members[:-1]},
    "a member twice": lambda one: {"members": (*one.members, one.members[-1])},
    "a member's other name": lambda one: {
        "members": (replace(one.members[0], name="zz"), *one.members[1:])
    },
    "no key": lambda one: {
        "members": (replace(one.members[0], round_public=b""), *one.members[1:])
    },
    "key of zeros": lambda one: {"members": with_key(one.members, bytes(32))},
    "another key": lambda one: {"members": with_key(one.members, b"\x09" + bytes(31))},
    "one key for two": lambda one: {"members": with_key(one.members, one.members[2].round_public)},
}


@pytest.mark.parametrize("change", UNLAWFUL_CHANGES.values(), ids=UNLAWFUL_CHANGES)
def test_a_release_request_that_is_not_lawful_is_refused_and_reveals_nothing(joined, change):
    message = joined.statistics()[0]
    request = request_of(message).request
    refusal = joined.ask(copied(message, **change(request)))
    assert isinstance(refusal, Refusal)
    assert refusal.code in SECURE_SUM_CODES


def with_key(members, key: bytes):
    """The members with another round key for the second."""
    return (members[0], replace(members[1], round_public=key), *members[2:])


UNREADABLE = {
    "absent": lambda blob: None,
    "number": lambda blob: 1.5,
    "truth": lambda blob: True,
    "text": lambda blob: "word",
    "list": lambda blob: [blob],
    "list of numbers": lambda blob: [1, 2],
    "empty": lambda blob: b"",
    "octets": lambda blob: b"octets",
    "cut off": lambda blob: blob[:-1],
    "half": lambda blob: blob[: len(blob) // 2],
    "without its head": lambda blob: blob[1:],
    "longer": lambda blob: blob + b"\0",
    "another version": lambda blob: b"\2" + blob[1:],
    "another class": lambda blob: blob.replace(b"ReleaseRequest", b"releaseRequest"),
    "not UTF-8": lambda blob: blob.replace(b"statistics", b"\xff\xfetistics"),
    "a length beyond its end": lambda blob: blob[:16] + b"\xff\xff\xff\xff" + blob[20:],
    "another request": lambda blob: wire.encode(AdvertiseRequest(1)),
    "another slot's request": lambda blob: wire.encode(UnmaskRequest(bytes(32), 1, (), ())),
}


@pytest.mark.parametrize("spoil", UNREADABLE.values(), ids=UNREADABLE)
def test_a_release_request_that_cannot_be_read_is_refused_and_costs_no_slot(joined, spoil):
    message = joined.statistics()[0]
    blob = message.content.config_records[REQUEST]["message"]
    refusal = joined.ask(with_blob(message, spoil(blob)))
    assert isinstance(refusal, Refusal)
    assert refusal.code == SecureSumError.exit_code
    assert "malformed" in refusal.reason
    assert isinstance(joined.ask(message), Released)


MALFORMED_REQUESTS = {
    "join of nothing": ("query.join", b""),
    "join without a manifest": ("query.join", b"\1\4Join"),
    "join that is an advertise request": ("query.join", wire.encode(AdvertiseRequest(1))),
    "reveal of no joins": ("query.reveal", wire.encode(Reveal(()))),
    "advertise slot 0": ("query.advertise", wire.encode(AdvertiseRequest(0))),
    "advertise below 0": ("query.advertise", wire.encode(AdvertiseRequest(-1))),
    "advertise after others": (
        "query.advertise",
        wire.encode(AdvertiseRequest(0, (), (GraphNonce("a", b""),))),
    ),
    "consent in another run": ("query.consent", wire.encode(ConsentRequest(b"", 1, ("a",), ()))),
    "unmask in another run": ("query.unmask", wire.encode(UnmaskRequest(b"", 1, ("a",), ()))),
    "unmask below 0": ("query.unmask", wire.encode(UnmaskRequest(b"", -1, ("a",), ()))),
    "unmask cut off": ("query.unmask", wire.encode(UnmaskRequest(b"", 1, ("a",), ()))[:-1]),
    "unmask that is a consent": ("query.unmask", wire.encode(ConsentRequest(b"", 1, ("a",), ()))),
    "release of nothing": ("train.release", b""),
    "release without an input": (
        "train.release",
        wire.encode(ReleaseRequest(bytes(32), 1, STATISTICS, ("a",), ())),
    ),
}


@pytest.mark.parametrize(("kind", "blob"), MALFORMED_REQUESTS.values(), ids=MALFORMED_REQUESTS)
def test_a_malformed_request_of_any_kind_is_refused(joined, kind, blob):
    content = RecordDict({REQUEST: ConfigRecord({"message": blob})})
    refusal = joined.ask(Message(content, node(0), kind))
    assert isinstance(refusal, Refusal)
    assert refusal.code in SECURE_SUM_CODES


@pytest.mark.parametrize(
    "kind",
    [
        "query.identify",
        "query.join",
        "query.reveal",
        "query.advertise",
        "query.consent",
        "query.unmask",
        "train.release",
    ],
)
def test_a_message_without_any_record_is_refused(joined, kind):
    refusal = joined.ask(Message(RecordDict(), node(0), kind))
    assert isinstance(refusal, Refusal)
    assert refusal.code == SecureSumError.exit_code


@pytest.mark.parametrize(
    "inputs",
    [
        {"rows": np.array([1, 2])},
        {"rows": np.array([-1, 2, 3])},
        {"rows": np.array([0, 2, 3])},
        {"round": np.array([1, 2])},
        {"round": np.array([np.inf])},
        {MODEL: np.zeros(3, np.float32)},
    ],
    ids=str,
)
def test_an_input_that_is_not_of_its_task_is_refused_in_words(joined, inputs):
    refusal = joined.ask(joined.training(**inputs)[0])
    assert isinstance(refusal, Refusal)
    assert refusal.code != 1


def test_an_input_that_is_no_array_is_refused(joined):
    message = joined.statistics()[0]
    content = RecordDict(dict(message.content))
    content[INPUT] = ConfigRecord({"rows": b"\x00"})
    altered_message = Message(content, node(0), "train.release")
    assert joined.ask(altered_message).code == SecureSumError.exit_code


@pytest.mark.parametrize("octets", [b"", b"\x93NUMPY", b"PK\x03\x04", b"junk"])
def test_an_array_that_cannot_be_read_is_refused(joined, octets):
    message = joined.training()[0]
    record = ArrayRecord(dict(message.content.array_records[INPUT]))
    record["rows"] = arrays_to_record({"rows": np.zeros(3)})["rows"]
    record["rows"].data = octets
    content = RecordDict(dict(message.content))
    content[INPUT] = record
    refusal = joined.ask(Message(content, message.metadata.dst_node_id, "train.release"))
    assert isinstance(refusal, Refusal)
    assert refusal.code == SecureSumError.exit_code


def failing_at(*indices: int, error: Exception, task: str = TRAIN):
    """Tasks.compute, but that it fails at some enterprises in round 2 (or in another task)."""
    compute = Tasks.compute

    def failing(self, asked, arrays):
        number = int(self.rows.name.rpartition("-")[2])
        hit = arrays["round"][0] == 2 if "round" in arrays and task == TRAIN else asked == task
        if number in indices and hit:
            raise error
        return compute(self, asked, arrays)

    return failing


@pytest.mark.parametrize("error", [ValueError("row 17"), OutOfRangeError("row 17")])
def test_an_enterprise_that_cannot_compute_counts_as_zeros_and_as_dropped(
    tmp_path, monkeypatch, error
):
    monkeypatch.setattr(Tasks, "compute", failing_at(1, error=error))
    run = federate(configured(tmp_path))
    assert [(row["survivors"], row["dropped"]) for row in run.history] == [(6, 0), (5, 1), (6, 0)]
    assert [row["slot"] for row in run.history] == [2, 3, 4]  # no slot was tried again
    monkeypatch.undo()
    lost_instead = federate(configured(tmp_path / "lost"), lose_before=lost(1, in_round=2))
    # Zeros add nothing: the model is that of the five others, as if the sixth had been lost.
    assert run.sha256 == lost_instead.sha256


def test_more_that_cannot_compute_than_may_be_lost_fail_the_slot_with_their_number(
    tmp_path, monkeypatch
):
    slots = set()

    def seen(message: Message) -> bool:
        slots.add(slot_of(message))
        return False

    monkeypatch.setattr(Tasks, "compute", failing_at(1, 4, error=ValueError("row 17")))
    with pytest.raises(SecureSumError, match="2 of 6 enterprises could not compute task train"):
        federate(configured(tmp_path, {"run.retries": 1}), lose_before=seen)
    assert max(slots) == 4  # rounds 1 and 2 in slots 2 and 3, and one retry


def test_more_out_of_range_than_may_be_lost_end_the_run_with_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(Tasks, "compute", failing_at(1, 4, error=OutOfRangeError("row 17")))
    with pytest.raises(OutOfRangeError, match="2 of 6 enterprises have a value for task train"):
        federate(configured(tmp_path))


def test_one_that_cannot_compute_and_one_out_of_range_are_two(tmp_path, monkeypatch):
    compute = Tasks.compute

    def failing(self, task, arrays):
        errors = {"enterprise-01": ValueError("row 17"), "enterprise-04": OutOfRangeError("row 17")}
        if task == TRAIN and self.rows.name in errors:
            raise errors[self.rows.name]
        return compute(self, task, arrays)

    monkeypatch.setattr(Tasks, "compute", failing)
    with pytest.raises(SecureSumError, match="could not compute task train"):
        federate(configured(tmp_path, {"run.retries": 0}))


@pytest.mark.parametrize("task", [STATISTICS, EVALUATE])
def test_statistics_and_the_last_evaluation_bear_one_that_cannot_compute(
    tmp_path, monkeypatch, task
):
    monkeypatch.setattr(Tasks, "compute", failing_at(1, error=ValueError("row 17"), task=task))
    run = federate(configured(tmp_path))
    assert run.record["status"] == "completed"
    test_rows = [len(one.test) for one in consortium_of(configured(tmp_path)).enterprises]
    counted = {
        STATISTICS: run.record["federation_rows"]["test"],
        EVALUATE: run.record["metrics"]["test"]["churn"]["rows"],
    }
    assert counted[task] <= sum(test_rows) - test_rows[1]


def test_a_sum_says_how_many_could_not_compute_and_leaves_their_counts_out(joined, monkeypatch):
    with monkeypatch.context() as patch:
        failing = failing_at(3, error=ValueError("row 17"), task=STATISTICS)
        patch.setattr(Tasks, "compute", failing)
        total = joined.session.sum(joined.task())
    rows = [len(one.train) for one in consortium_of(joined.config).enterprises]
    assert total.failed == 1
    assert (len(total.survivors), total.dropped) == (6, ())
    assert "failed" not in total.values
    assert "out_of_range" not in total.values
    assert total.values["rows"][0] == sum(rows) - rows[3]
    assert joined.session.sum(joined.task()).failed == 0


def test_an_enterprise_that_fails_in_its_own_code_releases_without_words(joined, monkeypatch):
    def failing(self, task, arrays):
        raise ValueError("customer 4711 spent 815.25")

    monkeypatch.setattr(Tasks, "compute", failing)
    first, second = joined.statistics()[:2]
    failed = joined.ask(first)
    monkeypatch.undo()
    good = joined.ask(second)
    assert isinstance(failed, Released)
    assert isinstance(good, Released)
    assert len(wire.encode(failed)) == len(wire.encode(good))
    assert failed.complaints == good.complaints == ()
    assert failed.next.slot == good.next.slot == failed.slot + 1


def test_a_failure_outside_computing_is_refused_without_words(joined, monkeypatch):
    def failing(self, encoded, layout):
        raise ValueError("customer 4711 spent 815.25")

    message = joined.statistics()[0]
    monkeypatch.setattr(Participant, "mask", failing)
    assert joined.ask(message) == Refusal.internal()


def test_rows_that_cannot_be_loaded_are_refused_without_words(tmp_path, monkeypatch):
    def failing(config):
        raise ValueError("customer 4711 spent 815.25")

    config = configured(tmp_path)
    monkeypatch.setattr(simulated, "consortium_of", failing)
    grid = InlineGrid(client_app, 6, flatten(config))
    content = request_to_records(Identify())
    (reply,) = grid.send_and_receive([Message(content, node(0), "query.identify")])
    assert reply_from_records(reply.content) == Refusal.internal()


def test_a_slot_whose_computation_failed_is_spent(joined, monkeypatch):
    def failing(self, task, arrays):
        raise ValueError("customer 4711 spent 815.25")

    message = joined.statistics()[0]
    with monkeypatch.context() as patch:
        patch.setattr(Tasks, "compute", failing)
        failed = joined.ask(message)
    assert isinstance(failed, Released)
    # Now that it could compute, the same vector still says that it could not.
    assert joined.ask(message) == failed
    assert joined.ask(copied(message, task=EVALUATE)).code == SecureSumError.exit_code
    assert joined.ask(joined.other(message)).code == SlotSpentError.exit_code


# Messages that come again.


def test_a_release_that_is_asked_for_again_gets_the_identical_bytes_and_computes_nothing(
    joined, monkeypatch
):
    computed = counted_computations(monkeypatch)
    message = joined.statistics()[0]
    replies = [joined.blob(message) for _ in range(3)]
    assert replies[0] == replies[1] == replies[2]
    assert computed == [STATISTICS]
    log = joined.config.run.output + "/releases/0000.jsonl"
    assert len(Path(log).read_text(encoding="utf-8").splitlines()) == 1


def test_any_other_release_of_a_slot_is_refused_once_it_is_spent(joined, monkeypatch):
    message = joined.statistics()[0]
    released = joined.ask(message)
    assert isinstance(released, Released)
    computed = counted_computations(monkeypatch)
    request = request_of(message).request
    others = [
        joined.other(message),
        copied(message, cohort=request.cohort[:-1], members=request.members[:-1]),
        copied(message, members=with_key(request.members, bytes(32))),
    ]
    for other in others:
        refusal = joined.ask(other)
        assert refusal.code == SlotSpentError.exit_code
        assert "spent" in refusal.reason
    assert joined.ask(message) == released
    assert computed == []


def counted_computations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks that are computed from now on."""
    compute, computed = Tasks.compute, []

    def counting(self, task, arrays):
        computed.append(task)
        return compute(self, task, arrays)

    monkeypatch.setattr(Tasks, "compute", counting)
    return computed


def repeated(app):
    """The ClientApp, but that each message comes twice and must be answered alike."""

    def twice(message: Message, context: Context) -> Message:
        first, second = app(message, context), app(message, context)
        assert first.content[REPLY] == second.content[REPLY]
        return second

    return twice


@pytest.mark.parametrize("consistency", [False, True])
def test_a_run_whose_every_message_comes_twice_is_the_run_whose_messages_come_once(
    baseline, tmp_path, consistency
):
    run = federate(configured(tmp_path, {"secagg.consistency": consistency}), repeated(client_app))
    assert run.sha256 == baseline.sha256
    assert [row["survivors"] for row in run.history] == [6, 6, 6]


def test_a_reply_that_was_lost_is_told_again_where_the_same_message_comes_again(tmp_path):
    # The first reply to every release of node 3 is lost, and a transport that sends again what
    # was not answered gets it: nobody is lost to the round.
    config = configured(tmp_path)
    run = federate_over(SendsAgain(client_app, 6, flatten(config), lose_after=first_of(3)), config)
    assert [(row["survivors"], row["dropped"]) for row in run.history] == [(6, 0)] * 3


class SendsAgain(InlineGrid):
    """Sends once more what was not answered."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        sent = list(messages)
        replies = list(super().send_and_receive(sent))
        answered = {reply.metadata.src_node_id for reply in replies}
        again = [message for message in sent if message.metadata.dst_node_id not in answered]
        return replies + list(super().send_and_receive(again))


def first_of(index: int) -> Fault:
    """True of each message to a node once."""
    seen: set[bytes] = set()

    def fault(message: Message) -> bool:
        blob = message.content.config_records[REQUEST]["message"]
        if message.metadata.dst_node_id != node(index) or blob in seen:
            return False
        seen.add(blob)
        return True

    return fault


# Enterprises that lose their keys, or come late.


def epochs_and_refusals(into: dict[str, list]):
    """The ClientApp, and on the way what the enterprises were asked to join and refused."""

    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        request, said = request_of(message), reply_from_records(reply.content)
        if isinstance(request, Join):
            into.setdefault("epochs", []).append(request.manifest.epoch)
        if isinstance(said, Refusal):
            into.setdefault("refused", []).append((message.metadata.dst_node_id, said.code))
        return reply

    return app


def restarted(context: Context, *, keeps_identity: bool = True) -> None:
    """Let an enterprise forget everything, or everything but who it is."""
    party = load(context.state["participant"])
    del context.state["participant"]
    if keeps_identity:
        fresh = Participant(party.name, party.identity, semi_honest=True)
        context.state["participant"] = ConfigRecord({**dump(fresh)})


def restarting(app, index: int, in_round: int, **how: bool):
    """The ClientApp, but that one enterprise is restarted as a round's message reaches it."""
    pending = [lost(index, in_round=in_round)]

    def restarts(message: Message, context: Context) -> Message:
        if pending and pending[0](message):
            pending.clear()
            restarted(context, **how)
        return app(message, context)

    return restarts


def test_a_restarted_enterprise_joins_again_in_a_later_epoch_and_takes_part(tmp_path):
    seen: dict[str, list] = {}
    app = restarting(epochs_and_refusals(seen), 2, in_round=2)
    run = federate(configured(tmp_path, {"run.rounds": 11}), app)
    assert run.record["status"] == "completed"
    # Round r is slot r + 1. Joining costs all of them two exchanges, so that it has to wait.
    rejoined = 1 + SLOTS_BETWEEN_EPOCHS
    assert [(row["slot"], row["survivors"], row["dropped"]) for row in run.history] == [
        (slot, 6, 0) if slot < 3 or slot >= rejoined else (slot, 5, int(slot == 3))
        for slot in range(2, 13)
    ]
    assert seen["epochs"] == [1] * 6 + [2] * 6
    assert set(seen["refused"]) == {(node(2), NotJoinedError.exit_code)}


def test_a_restarted_enterprise_joins_again_at_once_where_the_others_are_too_few(
    baseline, tmp_path
):
    seen: dict[str, list] = {}
    app = restarting(epochs_and_refusals(seen), 2, in_round=2)
    run = federate(configured(tmp_path, {"secagg.tolerated_dropouts": 0}), app)
    assert [(row["slot"], row["survivors"]) for row in run.history] == [(2, 6), (4, 6), (5, 6)]
    assert seen["epochs"] == [1] * 6 + [2] * 6
    # New keys and a retried round leave no trace in the model.
    assert run.sha256 == baseline.sha256


def test_an_enterprise_that_lost_its_identity_too_stays_out_and_does_not_end_the_run(tmp_path):
    app = restarting(client_app, 2, in_round=2, keeps_identity=False)
    run = federate(configured(tmp_path, {"run.rounds": 11}), app)
    assert run.record["status"] == "completed"
    assert [row["survivors"] for row in run.history] == [6] + [5] * 10


class Growing(InlineGrid):
    """Some of the nodes connect only later."""

    connected = 5

    def get_node_ids(self) -> Iterable[int]:
        return list(super().get_node_ids())[: self.connected]


def pinned(output: Path, alter: Callable[[list[tuple[str, bytes]]], None] = lambda roster: None):
    """A session over a growing grid with the roster agreed beforehand, and its task."""
    config = configured(output, {"run.timeout": 0.01})
    schema = load_schema(config.data.schema_name)
    grid = Growing(client_app, 6, flatten(config))
    asked = [Message(request_to_records(Identify()), node(i), "query.identify") for i in range(6)]
    identities = [reply_from_records(one.content) for one in grid.send_and_receive(asked)]
    assert all(isinstance(one, Identity) for one in identities)
    roster = [(one.name, one.public) for one in identities]
    alter(roster)
    settings = replace(SessionSettings.of(config), roster=tuple(roster))
    session = SecureSumSession(grid, settings, terms_of(config, schema.hash))
    task = Task(STATISTICS, layout_of(STATISTICS, config, feature_layout(schema), 0), {})
    return grid, session, task


def test_an_enterprise_of_the_roster_that_connects_late_joins_the_next_epoch(tmp_path):
    grid, session, task = pinned(tmp_path)
    assert session.join().holders == tuple(f"enterprise-0{i}" for i in range(5))
    assert len(session.sum(task).survivors) == 5
    grid.connected = 6
    sums = [session.sum(task) for _ in range(SLOTS_BETWEEN_EPOCHS)]
    late = [total.slot for total in sums if "enterprise-05" in total.survivors]
    assert late == [1 + SLOTS_BETWEEN_EPOCHS]
    assert len(sums[-1].survivors) == 6
    assert session.epoch.manifest.epoch == 2


def test_a_node_that_has_a_name_of_the_roster_and_another_key_stays_out(tmp_path, caplog):
    def alter(roster: list[tuple[str, bytes]]) -> None:
        roster[2] = (roster[2][0], bytes(range(32)))

    grid, session, task = pinned(tmp_path, alter)
    grid.connected = 6
    assert "enterprise-02" not in session.join().holders
    assert len(session.sum(task).survivors) == 5
    assert "node 1002 is not on the roster; it stays out" in caplog.text


# The consistency exchange, and rotated updates.


def test_the_consistency_exchange_costs_one_exchange_a_slot_and_changes_no_model(
    baseline, tmp_path
):
    consented: list[int] = []

    def seen(message: Message) -> bool:
        if message.metadata.message_type == "query.consent":
            consented.append(slot_of(message))
        return False

    run = federate(configured(tmp_path, {"secagg.consistency": True}), lose_before=seen)
    assert run.sha256 == baseline.sha256
    assert run.record["metrics"] == baseline.record["metrics"]
    assert run.record["communication"]["exchanges"] == 3 + 5 * 3
    assert consented == [slot for slot in (1, 2, 3, 4, 5) for _ in range(6)]


def test_fewer_consents_than_the_quorum_fail_the_slot_and_it_is_tried_again(tmp_path):
    # Of six with one colluder, four must sign the same list.
    def silent(message: Message) -> bool:
        return (
            message.metadata.message_type == "query.consent"
            and slot_of(message) == 3
            and message.metadata.dst_node_id in (node(0), node(1), node(2))
        )

    settings = {"secagg.consistency": True}
    run = federate(configured(tmp_path, settings), lose_before=silent)
    assert [row["slot"] for row in run.history] == [2, 4, 5]
    with pytest.raises(SecureSumError, match=r"3 enterprises consented .*; 4 are needed"):
        federate(configured(tmp_path / "no", {**settings, "run.retries": 0}), lose_before=silent)


def test_a_forged_consent_is_left_out_and_the_others_are_enough(tmp_path):
    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        said = reply_from_records(reply.content)
        if isinstance(said, Consent) and message.metadata.dst_node_id == node(1):
            return Message(records_of(replace(said, signature=bytes(64))), reply_to=message)
        return reply

    run = federate(configured(tmp_path, {"secagg.consistency": True}), app)
    assert [row["survivors"] for row in run.history] == [6, 6, 6]


ROTATED = {"secagg.rotation": True, "secagg.value_bits": 16}


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return federate(configured(tmp_path_factory.mktemp("rotated"), ROTATED))


def test_a_run_with_rotated_updates_trains(baseline, rotated):
    assert rotated.record["status"] == "completed"
    assert np.isfinite(rotated.model).all()
    numbers = [
        value
        for split in rotated.record["metrics"].values()
        for metrics in split.values()
        for value in metrics.values()
    ]
    assert numbers
    assert np.isfinite(numbers).all()
    # It is the model of the run without rotation, but for the rounding.
    assert 0 < np.abs(rotated.model - baseline.model).max() < 0.05


def test_a_run_with_rotated_updates_is_deterministic(rotated, tmp_path):
    again = federate(configured(tmp_path, ROTATED))
    assert again.sha256 == rotated.sha256
    assert again.record["metrics"] == rotated.record["metrics"]


# Enterprises that break the protocol of the secure sum.

LIAR = 2


def dealing(monkeypatch: pytest.MonkeyPatch, **lies: tuple[object, str, Callable]) -> None:
    """Let one enterprise deal its shares with functions of the dealing module replaced."""
    advertise = advertising.advertise

    def lying(name, *arguments):
        if name != f"enterprise-0{LIAR}":
            return advertise(name, *arguments)
        with monkeypatch.context() as patch:
            for where, attribute, lie in lies.values():
                patch.setattr(where, attribute, lie)
            return advertise(name, *arguments)

    monkeypatch.setattr(advertising, "advertise", lying)


def noise(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    return os.urandom(SEALED_BYTES)


def false_commitment(*arguments: object) -> bytes:
    return os.urandom(24)


def shares_of_nothing(secrets, threshold, points, entropy) -> np.ndarray:
    shape = (len(points), len(secrets), shamir.LIMBS)
    return np.random.default_rng(1).integers(0, shamir.PRIME, shape).astype("<u4")


DEALERS = {
    "seals noise": (advertising.keys, "seal", noise),
    "commits falsely": (advertising, "commit_share", false_commitment),
    "deals shares of nothing": (shamir, "split", shares_of_nothing),
}


@pytest.mark.parametrize("lie", DEALERS.values(), ids=DEALERS)
def test_a_dealer_that_lies_costs_a_slot_is_named_and_is_left_out_from_then_on(
    tmp_path, monkeypatch, caplog, lie
):
    dealing(monkeypatch, lie=lie)
    with caplog.at_level(logging.WARNING):
        run = federate(configured(tmp_path))
    assert run.record["status"] == "completed"
    # Slot 1, the statistics, is lost; afterwards nobody else is accused, and no slot is lost.
    assert [row["slot"] for row in run.history] == [3, 4, 5]
    assert [(row["survivors"], row["dropped"]) for row in run.history] == [(5, 0)] * 3
    assert accused(caplog) == ["enterprise-02"]


def test_one_that_lies_at_unmask_is_named_and_left_out_and_costs_no_slot(tmp_path, caplog):
    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        said = reply_from_records(reply.content)
        if not isinstance(said, UnmaskReply) or message.metadata.dst_node_id != node(LIAR):
            return reply
        lie = replace(said, shares=os.urandom(len(said.shares)))
        return Message(records_of(lie), reply_to=message)

    with caplog.at_level(logging.WARNING):
        run = federate(configured(tmp_path), app)
    assert run.record["status"] == "completed"
    assert run.record["federation_rows"]["train"] == sum(
        len(one.train) for one in consortium_of(configured(tmp_path)).enterprises
    )
    assert [row["slot"] for row in run.history] == [2, 3, 4]
    assert [(row["survivors"], row["dropped"]) for row in run.history] == [(5, 0)] * 3
    assert accused(caplog) == ["enterprise-02"]


def test_one_that_complains_of_all_others_without_reason_loses_its_own_place_only(tmp_path, caplog):
    # One may lie (c = 1), and of two accused dealers one at least is honest.
    everybody = tuple(f"enterprise-0{index}" for index in range(6))

    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        said = reply_from_records(reply.content)
        if not isinstance(said, Released) or message.metadata.dst_node_id != node(LIAR):
            return reply
        return Message(records_of(replace(said, complaints=everybody)), reply_to=message)

    with caplog.at_level(logging.WARNING):
        run = federate(configured(tmp_path), app)
    assert [(row["survivors"], row["dropped"]) for row in run.history] == [(5, 0)] * 3
    assert accused(caplog) == ["enterprise-02"]


def test_a_false_complaint_about_one_costs_nobody_its_place(tmp_path, caplog):
    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        said = reply_from_records(reply.content)
        if not isinstance(said, Released) or message.metadata.dst_node_id != node(LIAR):
            return reply
        return Message(records_of(replace(said, complaints=("enterprise-04",))), reply_to=message)

    with caplog.at_level(logging.WARNING):
        run = federate(configured(tmp_path), app)
    assert [(row["survivors"], row["dropped"]) for row in run.history] == [(6, 0)] * 3
    assert accused(caplog) == []


def accused(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Who was said aloud to be left out."""
    said = [record.getMessage() for record in caplog.records]
    return [line.split(": ")[1].split(";")[0] for line in said if line.startswith("left out from")]


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
    reply = client_app(Message(request_to_records(Identify()), 7, "query.identify"), context)
    assert reply_from_records(reply.content).code == NotAvailableError.exit_code


def test_secure_fedavg_is_a_fedavg_whose_start_is_flowers_own():
    assert issubclass(SecureFedAvg, FedAvg)
    assert SecureFedAvg.start is Strategy.start
