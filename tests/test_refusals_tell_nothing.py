"""Whether an enterprise refuses says nothing of its rows, and no enterprise alone ends a run.

The attacks are those of a coordinator that lies: it chooses a task's input so that what it learns
is who could not compute. First it is shown that the questions would tell enterprises apart; then
that all enterprises answer alike, or refuse alike before the slot is opened. The last part is of
enterprises that lie.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client_app.app import app as client_app
from fgcif_flwr.config import RunConfig, flatten, unflatten
from fgcif_flwr.data.consortium import Consortium as Rows
from fgcif_flwr.data.consortium import EnterpriseRows
from fgcif_flwr.data.encoding import EncodedTable, feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.enterprise import simulated
from fgcif_flwr.enterprise.tasks import Tasks
from fgcif_flwr.errors import (
    AuthenticationError,
    CohortError,
    NotJoinedError,
    OutOfRangeError,
    PhaseError,
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
from fgcif_flwr.federation.releases import (
    CLASS_WEIGHTS,
    EVALUATE,
    MODEL,
    STATISTICS,
    TRAIN,
    TRAIN_EVALUATE,
    layout_of,
)
from fgcif_flwr.federation.requests import Identify, Identity, Join, Refusal, Release, Reply
from fgcif_flwr.federation.session import SecureSumSession, SessionSettings, Sum, Task
from fgcif_flwr.federation.terms import terms_of
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import named_arrays, to_vector
from fgcif_flwr.privacy import door
from fgcif_flwr.reporting.run_directory import RunDirectory
from fgcif_flwr.secagg import (
    Advertisement,
    AdvertiseRequest,
    JoinReply,
    Manifest,
    Participant,
    Released,
    SecureSumParameters,
    UnmaskReply,
    UnmaskRequest,
    fix_epoch,
    wire,
)
from fgcif_flwr.secagg.epoch import OPENED_BYTES, SEALED_BYTES
from fgcif_flwr.secagg.keys import KeyPair, identity_from_seed, sign
from fgcif_flwr.secagg.participant.snapshot import load
from server_app.stages import run_stages
from tests.secure_sum_rig import stream

torch.set_num_threads(1)

ENTERPRISES = 6
FIRST_NODE = 1000  # of InlineGrid; node 1000 + i is enterprise i
SCHEMA = load_schema("simulated")
FEATURES = feature_layout(SCHEMA)
LACKING = (5, 7)
"""A categorical feature and a code of it."""

Arrays = dict[str, np.ndarray]


def configured(output: Path, settings: Mapping[str, object] | None = None) -> RunConfig:
    return unflatten(
        {
            "run.enterprises": ENTERPRISES,
            "run.rounds": 2,
            "run.output": str(output),
            "simulator.customers": 60,
            "model.hidden": "8",
            **(settings or {}),
        }
    )


CONFIG = configured(Path("/nowhere"))


# Enterprises of very different rows, and a coordinator that asks them what it likes.


def splits(rows: EnterpriseRows, choose: Callable[[EncodedTable], EncodedTable]) -> EnterpriseRows:
    return dataclasses.replace(
        rows, **{name: choose(getattr(rows, name)) for name in ("train", "validation", "test")}
    )


def unlabelled(table: EncodedTable) -> EncodedTable:
    targets = {
        name: np.full_like(values, -1 if values.dtype.kind == "i" else np.nan)
        for name, values in table.targets.items()
    }
    return dataclasses.replace(table, targets=targets)


@cache
def uneven() -> Rows:
    """Six enterprises: no rows, one row, no labels, one that lacks a word, two whole."""
    whole = simulated.consortium_of(CONFIG)
    one = list(whole.enterprises)
    one[0] = splits(one[0], lambda table: table.take([]))
    one[1] = splits(one[1], lambda table: table.take([0]))
    one[2] = splits(one[2], unlabelled)
    feature, code = LACKING
    one[3] = splits(whole.enterprises[5], lambda t: t.take(t.categorical[:, feature] != code))
    one[3] = dataclasses.replace(one[3], name=whole.enterprises[3].name)
    return dataclasses.replace(whole, enterprises=tuple(one))


class Coordinator:
    """It joins as agreed, and then sends what inputs it likes."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.grid = InlineGrid(client_app, ENTERPRISES, flatten(config))
        terms = terms_of(config, SCHEMA.hash)
        self.session = SecureSumSession(self.grid, SessionSettings.of(config), terms)
        self.session.join()

    def task(self, name: str, arrays: Mapping[str, np.ndarray]) -> Task:
        size = sum(array.size for array in parts().values())
        return Task(name, layout_of(name, self.config, FEATURES, size), arrays)

    def send(self, messages: list[Message]) -> list[Message]:
        replies = list(self.grid.send_and_receive(messages))
        assert not any(reply.has_error() for reply in replies)
        assert len(replies) == len(messages)
        return replies

    def lines(self) -> list[int]:
        """Lines of each enterprise's release log."""
        directory = Path(self.config.run.output) / "releases"
        files = [directory / f"{index:04d}.jsonl" for index in range(ENTERPRISES)]
        return [
            len(file.read_text(encoding="utf-8").splitlines()) if file.exists() else 0
            for file in files
        ]


def parts() -> Arrays:
    """The network's parameters by name, all zero."""
    network = build_network(FEATURES, CONFIG.model, 0)
    return {name: np.zeros_like(array) for name, array in named_arrays(network).items()}


def model(**changes: Callable[[np.ndarray], None]) -> np.ndarray:
    """A model of zeros with some of its arrays changed; ``__`` in a name stands for a dot."""
    arrays = parts()
    for key, change in changes.items():
        change(arrays[key.replace("__", ".")])
    return to_vector(arrays)


def start() -> np.ndarray:
    return to_vector(named_arrays(build_network(FEATURES, CONFIG.model, 0)))


def row_of(feature: int, code: int) -> int:
    """The row of the shared embedding table that a word has."""
    return int(np.cumsum((0, *FEATURES.cardinalities))[feature]) + code


def asking_for(feature: int, code: int) -> np.ndarray:
    """A finite model that overflows for the rows that hold a word, and for no others."""

    def embedding(array: np.ndarray) -> None:
        array[row_of(feature, code)] = 3e38

    def trunk(array: np.ndarray) -> None:
        array[:] = 0
        width = CONFIG.model.embedding_dim * len(FEATURES.categorical)
        array[:, -width:] = 1e3

    asked = model(embedding__weight=embedding, trunk__0__weight=trunk)
    assert np.isfinite(asked).all()
    return asked


def inputs(name: str, **changes: np.ndarray) -> Arrays:
    """A task's input, whole but for the changes."""
    if name == STATISTICS:
        return {**changes}
    arrays = {"rows": np.array([200, 30, 60]), MODEL: start()}
    if name != EVALUATE:
        arrays["round"] = np.array([1])
    return {**arrays, **changes}


def shape_of(message: Message) -> object:
    """All that can be seen of a reply without keys: the class, its fields, the lengths of those.

    A refusal is seen whole, and so is who complains of whom. Who sent it is known anyway.
    """
    assert list(message.content) == [REPLY]
    assert list(message.content.config_records[REPLY]) == ["message"]
    said = reply_from_records(message.content)
    if isinstance(said, Refusal):
        return said

    def seen(value: object) -> object:
        if dataclasses.is_dataclass(value):
            fields = dataclasses.fields(value)
            told = {field.name: seen(getattr(value, field.name)) for field in fields}
            return {**told, "sender": None, "class": type(value).__name__}
        return len(value) if isinstance(value, bytes) else value

    blob = message.content.config_records[REPLY]["message"]
    return seen(said), len(blob)


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    rows = uneven()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated, "consortium_of", lambda config: rows)
        yield Coordinator(configured(tmp_path_factory.mktemp("uneven")))


def outcomes(name: str, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """How each enterprise would fail on an input, if at all: what the coordinator is after."""
    outcome = []
    layout = layout_of(name, CONFIG, FEATURES, len(start()))
    for rows in uneven().enterprises:
        try:
            values = Tasks(CONFIG, FEATURES, rows).compute(name, arrays)
            layout.encode(values, np.random.default_rng(0))
            outcome.append("")
        except OutOfRangeError:
            outcome.append("out_of_range")
        except Exception:
            outcome.append("failed")
    return outcome


# Questions that are lawful: what they would tell is now in the sum alone.


def asking_for_a_word() -> tuple[str, Arrays]:
    """Who has a training row with this word? (The model overflows for those rows.)"""
    return TRAIN, inputs(TRAIN, model=asking_for(*LACKING))


def asking_for_a_word_in_validation_and_test() -> tuple[str, Arrays]:
    return EVALUATE, inputs(EVALUATE, model=asking_for(*LACKING))


def asking_for_a_word_in_both() -> tuple[str, Arrays]:
    return TRAIN_EVALUATE, inputs(TRAIN_EVALUATE, model=asking_for(*LACKING))


def asking_for_a_number_of_labels() -> tuple[str, Arrays]:
    """Who has more than so many training rows without churn? (By the bound of the loss.)"""

    def bias(array: np.ndarray) -> None:
        array[0] = 1e8

    asked = model(heads__bias=bias)
    losses = [
        float(Tasks(CONFIG, FEATURES, rows).compute(TRAIN, whole)["loss"][0])
        for whole in [inputs(TRAIN, model=asked, rows=np.ones(3, np.int64))]
        for rows in uneven().enterprises
    ]
    second, first = sorted(losses)[-2:]
    total = int(np.sqrt(first * second) / 1000)
    return TRAIN, inputs(TRAIN, model=asked, rows=np.array([total, 1, 1]))


def asking_with_rows_of_one() -> tuple[str, Arrays]:
    """Who has more than one row? (By the bound of the counts, where it followed the rows.)"""
    return EVALUATE, inputs(EVALUATE, rows=np.array([1, 0, 0]))


def asking_with_a_model_of_the_largest_numbers() -> tuple[str, Arrays]:
    return TRAIN_EVALUATE, inputs(
        TRAIN_EVALUATE, model=np.full(len(start()), np.finfo(np.float32).max)
    )


def asking_with_rounds_of_any_number() -> tuple[str, Arrays]:
    return TRAIN, inputs(TRAIN, round=np.array([np.iinfo(np.int64).min]))


QUESTIONS = (
    asking_for_a_word,
    asking_for_a_word_in_validation_and_test,
    asking_for_a_word_in_both,
    asking_for_a_number_of_labels,
    asking_with_rows_of_one,
    asking_with_a_model_of_the_largest_numbers,
    asking_with_rounds_of_any_number,
)


@pytest.mark.parametrize(
    "question", [asking_for_a_word, asking_for_a_word_in_both, asking_for_a_number_of_labels]
)
def test_the_questions_would_tell_enterprises_apart_if_failing_were_seen(question):
    assert {bool(outcome) for outcome in outcomes(*question())} == {True, False}


def test_an_enterprise_whose_rows_lack_a_word_is_told_from_one_that_differs_in_nothing_else():
    told = outcomes(*asking_for_a_word())
    assert not told[3]
    assert told[5]


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_enterprise_answers_a_lawful_question_alike_whatever_its_rows(coordinator, question):
    name, arrays = question()
    before = coordinator.lines()
    replies = coordinator.send(coordinator.session.open(coordinator.task(name, arrays)))
    assert all(isinstance(reply_from_records(reply.content), Released) for reply in replies)
    shapes = [shape_of(reply) for reply in replies]
    assert all(shape == shapes[0] for shape in shapes)
    # And every release log has its line, of those too that could not compute.
    assert coordinator.lines() == [lines + 1 for lines in before]


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_sum_says_how_many_could_not_compute_and_not_which(coordinator, question):
    name, arrays = question()
    told = outcomes(name, arrays)
    out_of_range, failed = told.count("out_of_range"), told.count("failed")
    session = coordinator.session
    replies = coordinator.send(session.open(coordinator.task(name, arrays)))
    if out_of_range + failed <= 1:
        total: Sum = session.collect(replies)
        assert total.failed == out_of_range + failed
        assert len(total.survivors) == ENTERPRISES
        assert total.dropped == ()
        return
    with pytest.raises(SecureSumError) as caught:
        session.collect(replies)
    said = str(caught.value)
    if out_of_range > 1:
        assert isinstance(caught.value, OutOfRangeError)
        assert said.startswith(f"{out_of_range} of 6 enterprises have a value")
    else:
        assert not isinstance(caught.value, OutOfRangeError)
        assert f"of 6 enterprises could not compute task {name}" in said
    assert not any(holder in said for holder in session.epoch.holders)


def test_the_number_that_could_not_compute_counts_those_out_of_range_too(coordinator):
    name, arrays = asking_for_a_word_in_both()
    told = outcomes(name, arrays)
    assert (told.count("out_of_range"), told.count("failed")) == (1, 1)
    session = coordinator.session
    replies = coordinator.send(session.open(coordinator.task(name, arrays)))
    with pytest.raises(SecureSumError, match="2 of 6 enterprises could not compute"):
        session.collect(replies)


def test_a_sum_that_one_could_not_compute_for_holds_the_others_values(coordinator):
    name, arrays = asking_for_a_number_of_labels()
    failed = outcomes(name, arrays)
    assert failed.count("out_of_range") == 1
    assert failed.count("") == ENTERPRISES - 1
    session = coordinator.session
    total = session.collect(coordinator.send(session.open(coordinator.task(name, arrays))))
    rows = [len(one.train) for one in uneven().enterprises]
    assert total.values["rows"][0] == sum(n for n, bad in zip(rows, failed, strict=True) if not bad)


@pytest.mark.parametrize("error", [ValueError("row 17"), MemoryError(), OutOfRangeError("row 17")])
@pytest.mark.parametrize("name", [STATISTICS, TRAIN, EVALUATE])
def test_whatever_fails_in_computing_at_one_enterprise_its_answer_is_like_the_others(
    coordinator, monkeypatch, name, error
):
    compute = Tasks.compute

    def failing(self, task, arrays):
        if self.rows.name == uneven().enterprises[4].name:
            raise error
        return compute(self, task, arrays)

    monkeypatch.setattr(Tasks, "compute", failing)
    session = coordinator.session
    replies = coordinator.send(session.open(coordinator.task(name, inputs(name))))
    shapes = [shape_of(reply) for reply in replies]
    assert all(shape == shapes[0] for shape in shapes)
    assert isinstance(reply_from_records(replies[0].content), Released)
    assert session.collect(replies).failed == 1


def test_the_unmask_answer_of_one_that_could_not_compute_is_like_the_others(
    coordinator, monkeypatch
):
    name, arrays = asking_for_a_word()
    answers = []
    send = coordinator.grid.send_and_receive

    def listening(messages, *, timeout=None):
        replies = list(send(messages))
        answers.extend(replies)
        return replies

    session = coordinator.session
    replies = coordinator.send(session.open(coordinator.task(name, arrays)))
    monkeypatch.setattr(coordinator.grid, "send_and_receive", listening)
    with pytest.raises(SecureSumError):
        session.collect(replies)
    values = [reply_from_records(answer.content) for answer in answers]
    assert all(isinstance(value, UnmaskReply) for value in values)
    assert [len(value.shares) for value in values] == [OPENED_BYTES * ENTERPRISES] * ENTERPRISES


def test_a_question_that_comes_again_gets_the_first_answer_and_tells_nothing_more(
    coordinator, monkeypatch
):
    # Else a coordinator could ask twice, and compare what was computed or how long it took.
    computed = []
    compute = Tasks.compute

    def counting(self, task, arrays):
        computed.append(self.rows.name)
        return compute(self, task, arrays)

    monkeypatch.setattr(Tasks, "compute", counting)
    name, arrays = asking_for_a_word()
    messages = coordinator.session.open(coordinator.task(name, arrays))
    first = [blob_of(reply) for reply in coordinator.send(messages)]
    assert len(computed) == ENTERPRISES
    before = coordinator.lines()
    assert [blob_of(reply) for reply in coordinator.send(messages)] == first
    assert len(computed) == ENTERPRISES
    assert coordinator.lines() == before
    # Another question for the slot is refused alike by all, whatever became of the first one.
    others = [with_inputs(message, inputs(TRAIN)) for message in messages]
    replies = [reply_from_records(reply.content) for reply in coordinator.send(others)]
    assert {type(reply) for reply in replies} == {Refusal}
    assert len(set(replies)) == 1
    assert replies[0].code == SlotSpentError.exit_code


def blob_of(message: Message) -> bytes:
    return message.content.config_records[REPLY]["message"]


# Questions that are not: refused by the manifest alone, before the slot is opened.


def nan_in_one_embedding() -> np.ndarray:
    def embedding(array: np.ndarray) -> None:
        array[row_of(*LACKING)] = np.nan

    return model(embedding__weight=embedding)


def weights(value: float, head: str = "churn", classes: int = 2) -> Arrays:
    return {CLASS_WEIGHTS + head: np.full(classes, value)}


UNLAWFUL: dict[str, tuple[str, Arrays, str]] = {
    "NaN in an embedding": (EVALUATE, {MODEL: nan_in_one_embedding()}, "not finite"),
    "NaN in training": (TRAIN, {MODEL: nan_in_one_embedding()}, "not finite"),
    "infinite model": (TRAIN, {MODEL: np.full_like(start(), np.inf)}, "not finite"),
    "double model": (TRAIN, {MODEL: start().astype(np.float64)}, "wants .* numbers of type <f4"),
    "short model": (TRAIN, {MODEL: start()[:-1]}, "wants .* numbers of type <f4"),
    "matrix": (TRAIN, {MODEL: start()[None]}, "wants .* numbers of type <f4"),
    "no rows": (TRAIN, {"rows": np.array([0, 30, 60])}, "training rows at least 1"),
    "negative rows": (EVALUATE, {"rows": np.array([1, -1, 0])}, "wants counts"),
    "rows in reals": (TRAIN, {"rows": np.array([np.nan, 1, 1])}, "numbers of type <i8"),
    "weights nobody agreed to": (TRAIN, weights(1.0), "wants exactly"),
    "large weights nobody agreed to": (TRAIN, weights(1e15), "wants exactly"),
    "weights in an evaluation": (EVALUATE, weights(1.0), "wants exactly"),
    "a round in an evaluation": (EVALUATE, {"round": np.array([1])}, "wants exactly"),
    "a model in the statistics": (STATISTICS, {MODEL: start()}, "wants exactly nothing"),
    "a mask of rows": (TRAIN, {"only": np.array([17])}, "wants exactly"),
}


def refused_alike(coordinator: Coordinator, name: str, arrays: Arrays, words: str) -> None:
    """Ask; all refuse in the same words, no slot is opened, and the same slot then serves."""
    before = coordinator.lines()
    session = coordinator.session
    messages = session.open(coordinator.task(name, arrays))
    replies = coordinator.send(messages)
    refusals = [reply_from_records(reply.content) for reply in replies]
    assert all(isinstance(refusal, Refusal) for refusal in refusals)
    assert set(refusals) == {refusals[0]}
    assert refusals[0].code == SecureSumError.exit_code
    with pytest.raises(SecureSumError, match=words):
        raise refusals[0].as_error("who")
    assert coordinator.lines() == before
    balanced = coordinator.config.training.class_weighting != "none"
    lawful = all_weights(1.0) if balanced and name == TRAIN else {}
    again = [with_inputs(message, inputs(name, **lawful)) for message in messages]
    answers = [reply_from_records(reply.content) for reply in coordinator.send(again)]
    assert all(isinstance(answer, Released) for answer in answers)
    assert coordinator.lines() == [lines + 1 for lines in before]


def with_inputs(message: Message, arrays: Arrays) -> Message:
    content = RecordDict({REQUEST: message.content[REQUEST], INPUT: arrays_to_record(arrays)})
    return Message(content, message.metadata.dst_node_id, message.metadata.message_type)


def all_weights(value: float) -> Arrays:
    sizes = {head.name: max(2, head.outputs) for head in FEATURES.heads if head.kind != "numeric"}
    return {
        key: array
        for head, classes in sizes.items()
        for key, array in weights(value, head, classes).items()
    }


@pytest.mark.parametrize(("name", "changes", "words"), UNLAWFUL.values(), ids=UNLAWFUL)
def test_an_unlawful_input_is_refused_alike_by_all_before_the_slot_is_opened(
    coordinator, name, changes, words
):
    refused_alike(coordinator, name, inputs(name, **changes), words)


@pytest.mark.parametrize("absent", ["rows", "round", MODEL])
def test_an_input_that_lacks_a_part_is_refused_alike_by_all(coordinator, absent):
    arrays = inputs(TRAIN)
    del arrays[absent]
    refused_alike(coordinator, TRAIN, arrays, "wants exactly")


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    rows = uneven()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated, "consortium_of", lambda config: rows)
        directory = tmp_path_factory.mktemp("balanced")
        yield Coordinator(configured(directory, {"training.class_weighting": "balanced"}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (weights(1.0, classes=1), "wants 2 numbers"),
        (weights(1.0, classes=3), "wants 2 numbers"),
        (weights(-1.0), "weights above 0"),
        (weights(0.0), "weights above 0"),
        (weights(1e15), "at most 10"),
        (weights(np.nan), "not finite"),
        (weights(np.inf), "not finite"),
        ({CLASS_WEIGHTS + "churn": np.array([1, 10.5])}, "at most 10"),
        ({CLASS_WEIGHTS + "churn": np.ones(2, np.float32)}, "type <f8"),
        (weights(1.0, head="future_value"), "wants exactly"),
        (weights(1.0, head="nobody"), "wants exactly"),
    ],
    ids=str,
)
def test_class_weights_beyond_what_was_agreed_are_refused_alike_by_all(balanced, changes, words):
    refused_alike(balanced, TRAIN, inputs(TRAIN, **{**all_weights(1.0), **changes}), words)


def test_class_weights_that_were_agreed_and_are_not_sent_are_refused_alike_by_all(balanced):
    refused_alike(balanced, TRAIN, inputs(TRAIN), "wants exactly")


# A coordinator that lies about who takes part.


def roster_of(count: int) -> tuple[dict[str, KeyPair], tuple[tuple[str, bytes], ...]]:
    names = [f"e{i:02d}" for i in range(count)]
    identities = {name: identity_from_seed(stream(name)(32)) for name in names}
    return identities, tuple((name, identities[name].public) for name in names)


@pytest.mark.parametrize("colluders", [None, 2])
def test_a_victim_told_that_only_it_and_two_colluders_of_twenty_joined_refuses(colluders):
    identities, roster = roster_of(20)
    manifest = Manifest(1, "{}", roster, None, None, colluders)
    whole = manifest.parameters(20)
    assert (whole.tolerated_colluders, whole.honest_in_any_sum) == (2, 16)
    for name in list(identities)[2:]:
        group = {n: party_of(n, identities[n]) for n in ("e00", "e01", name)}
        joins = tuple(party.join(manifest) for party in group.values())
        victim = group[name]
        with pytest.raises(CohortError, match="3 of the 20 enterprises on the roster joined"):
            victim.begin(joins)
        with pytest.raises(NotJoinedError, match="not told who joined"):
            victim.advertise(AdvertiseRequest(1))
        with pytest.raises(CohortError, match="3 of the 20 enterprises on the roster joined"):
            victim.advertise(AdvertiseRequest(1, joins))


def party_of(name: str, identity: KeyPair) -> Participant:
    return Participant(name, identity, entropy=stream(name))


def test_as_many_as_may_be_lost_may_be_missing_at_join_and_not_one_more():
    identities, roster = roster_of(20)
    manifest = Manifest(1, "{}", roster)
    parties = [party_of(n, identities[n]) for n in identities]
    joins = [party.join(manifest) for party in parties]
    whole = manifest.parameters(20)
    assert whole.tolerated_dropouts == 2
    epoch = fix_epoch(manifest, joins[:-2])
    # Threshold and colluders are those of twenty; two are missing already, so none may be lost.
    assert epoch.parameters == SecureSumParameters(18, whole.threshold, 0, 2)
    with pytest.raises(CohortError, match="17 of the 20"):
        fix_epoch(manifest, joins[:-3])


def test_an_enterprise_refuses_such_a_join_over_the_grid(tmp_path):
    coordinator = Coordinator(configured(tmp_path))
    terms = terms_of(coordinator.config, SCHEMA.hash)
    manifest = Manifest(2, terms, coordinator_roster(coordinator))
    messages = [
        Message(request_to_records(Join(manifest)), FIRST_NODE + i, "query.join") for i in range(3)
    ]
    joins = [reply_from_records(reply.content) for reply in coordinator.send(messages)]
    assert all(isinstance(join, JoinReply) for join in joins)
    advertise = request_to_records(AdvertiseRequest(1, tuple(joins)))
    messages = [Message(advertise, FIRST_NODE + i, "query.advertise") for i in range(3)]
    for reply in coordinator.send(messages):
        refusal = reply_from_records(reply.content)
        assert refusal == Refusal(
            CohortError.exit_code,
            "3 of the 6 enterprises on the roster joined; secagg.tolerated_dropouts allows 1 "
            "to be missing",
        )


def coordinator_roster(coordinator: Coordinator) -> tuple[tuple[str, bytes], ...]:
    nodes = [FIRST_NODE + index for index in range(ENTERPRISES)]
    asked = [Message(request_to_records(Identify()), node, "query.identify") for node in nodes]
    found = [reply_from_records(reply.content) for reply in coordinator.send(asked)]
    assert all(isinstance(one, Identity) for one in found)
    return tuple(sorted((one.name, one.public) for one in found))


@dataclasses.dataclass(frozen=True)
class Forgery:
    """A manifest's fields in its order, without the manifest's own checks; see forged_join."""

    epoch: int
    terms: str
    roster: tuple[tuple[str, bytes], ...]
    threshold: int | None = None
    tolerated_dropouts: int | None = None
    tolerated_colluders: int | None = None
    consistency: bool | None = None
    neighbours: int | None = None


def forged_join(forgery: Forgery) -> bytes:
    """The bytes of a Join whose manifest no Manifest would be."""
    fields = wire.encode(forgery).removeprefix(b"\1\x07Forgery")
    blob = b"\1\4Join" + fields
    whole = Forgery(1, "{}", roster_of(4)[1])
    good = Join(Manifest(*(getattr(whole, f.name) for f in dataclasses.fields(whole))))
    assert wire.encode(good) == b"\1\4Join" + wire.encode(whole).removeprefix(b"\1\x07Forgery")
    return blob


@pytest.mark.parametrize(
    "spoil",
    [
        lambda roster: (roster[0], roster[0], *roster[1:]),
        lambda roster: (roster[0], (roster[0][0], roster[3][1]), *roster[1:3]),
        lambda roster: roster[::-1],
        lambda roster: (("a", roster[0][1]), *roster),
        lambda roster: ((roster[0][0], roster[0][1][:-1]), *roster[1:]),
        lambda roster: ((roster[0][0], roster[0][1] + b"0"), *roster[1:]),
    ],
    ids=["twice", "two keys", "unordered", "one key for two", "short key", "long key"],
)
def test_a_roster_of_two_meanings_is_no_manifest(spoil, tmp_path):
    _, roster = roster_of(4)
    good = Manifest(1, "{}", roster)
    with pytest.raises(AuthenticationError, match="roster"):
        dataclasses.replace(good, roster=spoil(roster))
    # An enterprise that is sent one refuses it.
    blob = forged_join(Forgery(1, "{}", spoil(roster)))
    grid = InlineGrid(client_app, ENTERPRISES, flatten(configured(tmp_path)))
    content = RecordDict({REQUEST: ConfigRecord({"message": blob})})
    (reply,) = grid.send_and_receive([Message(content, FIRST_NODE, "query.join")])
    assert reply_from_records(reply.content).code == AuthenticationError.exit_code


@pytest.mark.parametrize("epoch", [-1, 1 << 32, 1 << 63])
def test_an_epoch_that_could_never_be_followed_is_no_manifest(epoch):
    _, roster = roster_of(4)
    with pytest.raises(SecureSumError, match="an epoch is a number from 0"):
        Manifest(epoch, "{}", roster)
    if epoch < 1 << 63:  # more than that the wire does not carry
        with pytest.raises(SecureSumError, match="an epoch is a number from 0"):
            wire.decode(Join, forged_join(Forgery(epoch, "{}", roster)))


@pytest.mark.parametrize(
    ("holders", "threshold", "dropouts", "colluders"), [(3, 3, 0, 2), (6, 6, 0, 5), (9, 9, 0, 8)]
)
def test_limits_that_could_open_one_honest_enterprise_are_refused_by_an_enterprise(
    holders, threshold, dropouts, colluders
):
    with pytest.raises(CohortError, match="a single honest enterprise"):
        SecureSumParameters(holders, threshold, dropouts, colluders)
    identities, roster = roster_of(holders)
    manifest = Manifest(1, "{}", roster, threshold, dropouts, colluders)
    for name in identities:
        party = party_of(name, identities[name])
        with pytest.raises(CohortError, match="a single honest enterprise"):
            party.join(manifest)
        assert party.manifest is None  # nothing of it was accepted


def test_any_parameters_that_are_accepted_leave_two_honest_enterprises_in_any_sum():
    accepted = 0
    for holders in range(3, 16):
        for colluders in range(1, holders):
            for threshold in range(colluders + 1, holders + 1):
                for dropouts in range(holders - threshold + 1):
                    try:
                        chosen = SecureSumParameters(holders, threshold, dropouts, colluders)
                    except CohortError:
                        continue
                    accepted += 1
                    assert 2 <= chosen.honest_in_any_sum <= threshold - colluders
    assert accepted > 100


def low_order_join(manifest: Manifest, name: str, identity: KeyPair) -> JoinReply:
    """A join whose channel key agrees on no secret, and whose signature holds."""
    unsigned = JoinReply(name, bytes(32), bytes(32), bytes(32), b"")
    signature = sign(identity, unsigned.signed_bytes(manifest.hash()))
    return dataclasses.replace(unsigned, signature=signature)


def test_an_enterprise_that_is_shown_a_channel_key_of_low_order_refuses_and_keeps_nothing():
    identities, roster = roster_of(6)
    manifest = Manifest(1, "{}", roster)
    parties = [party_of(n, identities[n]) for n in list(identities)[:5]]
    joins = [party.join(manifest) for party in parties]
    bad = low_order_join(manifest, "e05", identities["e05"])
    for party in parties:
        with pytest.raises(AuthenticationError, match="not a valid X25519 key"):
            party.begin([*joins, bad])
        assert party.joined is None
        with pytest.raises(NotJoinedError):
            party.advertise(AdvertiseRequest(1))


# Enterprises that lie: each of these ends no run that tolerates the loss of one.

HOSTILE = 2


Tamper = Callable[[Reply, Message, Context], "Reply | bytes"]
"""What a hostile enterprise sends in place of its reply; bytes stand for the blob of one."""


def federate(config: RunConfig, tamper: Tamper) -> RunDirectory:
    """Run a federation of six, one of which alters its replies."""

    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.dst_node_id != FIRST_NODE + HOSTILE:
            return reply
        said = tamper(reply_from_records(reply.content), message, context)
        if isinstance(said, bytes):
            content = RecordDict({REPLY: ConfigRecord({"message": said})})
        else:
            content = reply_to_records(said)
        return Message(content, reply_to=message)

    run_stages(InlineGrid(app, ENTERPRISES, flatten(config)), config)
    return RunDirectory(Path(config.run.output))


def altering(kind: type, **changes: Callable[[object], object] | object) -> Tamper:
    """Change fields of one kind of reply, each by a function or to a value."""

    def tamper(said: Reply, message: Message, context: Context) -> Reply:
        if not isinstance(said, kind):
            return said
        changed = {
            key: change(getattr(said, key)) if callable(change) else change
            for key, change in changes.items()
        }
        return dataclasses.replace(said, **changed)

    return tamper


def advertising(*, signed: bool = False, **changes: Callable[[object], object] | object) -> Tamper:
    """Change fields of every advertisement, also within a release; signed anew or not."""
    alter = altering(Advertisement, **changes)

    def tamper(said: Reply, message: Message, context: Context) -> Reply:
        if isinstance(said, Released):
            return dataclasses.replace(said, next=tamper(said.next, message, context))
        altered = alter(said, message, context)
        if not signed or not isinstance(altered, Advertisement):
            return altered
        party = load(context.state["participant"])
        assert party.joined is not None
        covered = party.joined.epoch.advertised_bytes(
            altered.slot, altered.sender, altered.round_public, altered.rest()
        )
        return dataclasses.replace(altered, signature=sign(party.identity, covered))

    return tamper


def low_order_channel(said: Reply, message: Message, context: Context) -> Reply:
    if not isinstance(said, JoinReply):
        return said
    party = load(context.state["participant"])
    assert party.manifest is not None
    return low_order_join(party.manifest, party.name, party.identity)


def bytes_of(kind: type, change: Callable[[bytes], bytes]) -> Tamper:
    """Change the bytes of one kind of reply."""
    return lambda said, message, context: (
        change(wire.encode(said)) if isinstance(said, kind) else said
    )


LIES: dict[str, tuple[Tamper, int]] = {
    # What is sent, and how many are left in the sums of the rounds.
    "nothing": (lambda said, message, context: said, 6),
    "bad join signature": (altering(JoinReply, signature=bytes(64)), 5),
    "no join signature": (altering(JoinReply, signature=b""), 5),
    "another's join": (altering(JoinReply, name="enterprise-00"), 5),
    "another graph commitment": (altering(JoinReply, graph_commitment=bytes(32)), 5),
    "low-order channel key": (low_order_channel, 5),
    "short channel key": (altering(JoinReply, channel_public=bytes(31)), 5),
    "join cut off": (bytes_of(JoinReply, lambda blob: blob[:-1]), 5),
    "low-order round key": (advertising(signed=True, round_public=bytes(32)), 5),
    "low-order round key, one": (
        advertising(signed=True, round_public=b"\x01" + bytes(31)),
        5,
    ),
    "long round key": (advertising(signed=True, round_public=bytes(33)), 5),
    "round key that it did not sign": (advertising(round_public=b"\x09" + bytes(31)), 5),
    "no signature": (advertising(signature=b""), 5),
    "short seed commitment": (advertising(signed=True, seed_commitment=bytes(31)), 5),
    "short commitments": (advertising(signed=True, commitments=lambda all_: all_[:-1]), 5),
    "no commitments": (advertising(signed=True, commitments=b""), 5),
    "short shares": (advertising(signed=True, sealed=lambda all_: all_[:-1]), 5),
    "long shares": (advertising(signed=True, sealed=lambda all_: all_ + b"0"), 5),
    "large shares": (advertising(signed=True, sealed=bytes(1 << 19)), 5),
    "a share for itself": (
        advertising(signed=True, sealed=lambda all_: all_ + bytes(SEALED_BYTES)),
        5,
    ),
    "fewer shares": (advertising(signed=True, sealed=lambda all_: all_[SEALED_BYTES:]), 5),
    "shares that it did not sign": (advertising(sealed=lambda all_: bytes(len(all_))), 5),
    "huge slot": (advertising(slot=2**62), 5),
    "advertisement cut off": (bytes_of(Advertisement, lambda blob: blob[:-1]), 5),
    "release cut off": (bytes_of(Released, lambda blob: blob[:-1]), 5),
    "complaints of strangers": (altering(Released, complaints=("nobody", "nobody")), 6),
    "complaints of itself": (altering(Released, complaints=("enterprise-02",)), 6),
    "unmask of 3 bytes": (altering(UnmaskReply, shares=b"abc"), 6),
    "unmask of no bytes": (altering(UnmaskReply, shares=b""), 6),
    "fewer unmask shares": (altering(UnmaskReply, shares=lambda all_: all_[OPENED_BYTES:]), 6),
    "more unmask shares": (
        altering(UnmaskReply, shares=lambda all_: all_ + bytes(OPENED_BYTES)),
        6,
    ),
    "unmask for another": (altering(UnmaskReply, sender="enterprise-00"), 6),
    "unmask cut off": (bytes_of(UnmaskReply, lambda blob: blob[:-1]), 6),
    # Shares that are not those dealt to it: the sum is right, and it is left out from then on.
    "unmask not in the field": (altering(UnmaskReply, shares=lambda all_: b"\xff" * len(all_)), 5),
    "unmask of zeros": (altering(UnmaskReply, shares=lambda all_: bytes(len(all_))), 5),
    "one wrong unmask share": (
        altering(UnmaskReply, shares=lambda all_: bytes(OPENED_BYTES) + all_[OPENED_BYTES:]),
        5,
    ),
    "unmask of another's shares": (
        altering(UnmaskReply, shares=lambda all_: all_[OPENED_BYTES:] + all_[:OPENED_BYTES]),
        5,
    ),
}


@pytest.mark.parametrize(("tamper", "left"), LIES.values(), ids=LIES)
def test_what_one_enterprise_sends_wrong_ends_no_run_that_tolerates_its_loss(
    tmp_path, tamper, left
):
    run = federate(configured(tmp_path), tamper)
    assert run.read_record()["status"] == "completed"
    history = run.read_history()
    assert [row["round"] for row in history] == [1, 2]
    assert [row["survivors"] for row in history] == [left, left]
    assert [row["slot"] for row in history] == [2, 3]  # nor does it cost a slot


@pytest.mark.parametrize(
    ("shares", "slots", "left"),
    [
        # A slot is lost, and then its dealer is left out.
        (lambda all_: os.urandom(len(all_)), [3, 4], 5),
        (lambda all_: all_[SEALED_BYTES:] + all_[:SEALED_BYTES], [3, 4], 5),
        # One share that does not open is borne: the five others are enough.
        (lambda all_: all_[:-1] + bytes([all_[-1] ^ 1]), [2, 3], 6),
    ],
    ids=["noise", "each another's", "one wrong bit"],
)
def test_signed_shares_that_nobody_can_open_end_no_run(tmp_path, shares, slots, left):
    run = federate(configured(tmp_path), advertising(signed=True, sealed=shares))
    history = run.read_history()
    assert run.read_record()["status"] == "completed"
    assert [row["round"] for row in history] == [1, 2]
    assert [row["slot"] for row in history] == slots
    assert [row["survivors"] for row in history] == [left, left]


def test_words_of_ones_own_choice_spoil_the_sum_and_no_number_of_it_is_told(tmp_path):
    # Nobody knows whose they were; the chance that both check words come out is under 1e-12.
    tamper = altering(Released, words=lambda words: os.urandom(len(words)))
    with pytest.raises(
        SecureSumError, match=r"did not cancel.*nothing of this sum is used"
    ) as caught:
        federate(configured(tmp_path, {"run.retries": 0}), tamper)
    assert not isinstance(caught.value, OutOfRangeError)  # nothing that a setting would mend
    assert "could not compute" not in str(caught.value)


@pytest.mark.parametrize("claimed", [-1, 5, 1000])
def test_counts_that_cannot_be_of_the_survivors_are_not_told_as_a_number_of_enterprises(
    tmp_path, monkeypatch, claimed
):
    # One enterprise that masks lawfully may still encode what it likes.
    encode = door._encode

    def lying(whole, layout, compute, rounding, seed):
        words = encode(whole, layout, compute, rounding, seed)
        if liar[-1] == FIRST_NODE + HOSTILE:
            words[0], words[1] = claimed, 2
        return words

    liar = []

    def app(message: Message, context: Context) -> Message:
        liar.append(message.metadata.dst_node_id)
        return client_app(message, context)

    monkeypatch.setattr(door, "_encode", lying)
    config = configured(tmp_path, {"run.retries": 0})
    with pytest.raises(SecureSumError, match="the sum is spoilt") as caught:
        run_stages(InlineGrid(app, ENTERPRISES, flatten(config)), config)
    assert not isinstance(caught.value, OutOfRangeError)  # nothing that a setting would mend
    assert "of 6 enterprises" not in str(caught.value)


def test_the_parameters_of_a_run_that_one_did_not_join_are_those_of_the_roster(tmp_path):
    tamper, _ = LIES["bad join signature"]
    said = federate(configured(tmp_path), tamper).read_record()["secure_sum"]
    assert (said["holders"], said["threshold"], said["tolerated_dropouts"]) == (5, 5, 0)
    assert said["tolerated_colluders"] == 1


def test_a_refused_slot_is_spent_at_every_enterprise_that_refused_it(coordinator):
    session = coordinator.session
    messages = session.open(coordinator.task(STATISTICS, {}))
    forged = [
        with_request(message, cohort=request.cohort[:3], members=request.members[:3])
        for message in messages
        for request in [release_of(message)]
    ]
    replies = [reply_from_records(reply.content) for reply in coordinator.send(forged)]
    assert {reply.code for reply in replies} == {CohortError.exit_code}
    for again in (messages, forged):
        replies = [reply_from_records(reply.content) for reply in coordinator.send(again)]
        assert {reply.code for reply in replies} == {SlotSpentError.exit_code}
    # Its shares are erased too: nothing of the slot can be opened any more.
    cohort = release_of(messages[0]).cohort
    unmask = UnmaskRequest(session.epoch.run_id, release_of(messages[0]).slot, cohort, ())
    asked = [
        Message(request_to_records(unmask), FIRST_NODE + index, "query.unmask")
        for index in range(ENTERPRISES)
    ]
    replies = [reply_from_records(reply.content) for reply in coordinator.send(asked)]
    assert {reply.code for reply in replies} == {PhaseError.exit_code}


def release_of(message: Message):
    request = request_from_records(message.metadata.message_type, message.content)
    assert isinstance(request, Release)
    return request.request


def with_request(message: Message, **changes: object) -> Message:
    changed = dataclasses.replace(release_of(message), **changes)
    content = request_to_records(Release(changed), message.content.array_records[INPUT])
    return Message(content, message.metadata.dst_node_id, message.metadata.message_type)
