"""Whether an enterprise refuses says nothing of its rows.

The attacks are those of a coordinator that lies: it chooses a task's input so that what it learns
is who could not compute. First it is shown that the questions would tell enterprises apart; then
that all enterprises answer alike, or refuse alike before the slot is opened.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from flwr.app import Message

from fgcif_flwr.enterprise import simulated
from fgcif_flwr.enterprise.tasks import Tasks
from fgcif_flwr.errors import (
    CohortError,
    OutOfRangeError,
    PhaseError,
    SecureSumError,
    SlotSpentError,
)
from fgcif_flwr.federation.records import (
    INPUT,
    reply_from_records,
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
)
from fgcif_flwr.federation.requests import Refusal, Release
from fgcif_flwr.federation.session import Sum
from fgcif_flwr.secagg import (
    Released,
    UnmaskReply,
    UnmaskRequest,
)
from fgcif_flwr.secagg.epoch import OPENED_BYTES
from tests.federation_rig import FIRST_NODE
from tests.uneven_enterprises import (
    CONFIG,
    ENTERPRISES,
    FEATURES,
    LACKING,
    Arrays,
    Coordinator,
    asking_for,
    blob_of,
    configured,
    inputs,
    model,
    outcomes,
    row_of,
    shape_of,
    start,
    uneven,
    with_inputs,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    rows = uneven()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated, "consortium_of", lambda config: rows)
        yield Coordinator(configured(tmp_path_factory.mktemp("uneven")))


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


# A slot that was refused once it was open.


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
