"""Nothing leaves an enterprise but through its door, and the door writes down what left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from fgcif_flwr.errors import (
    AuthenticationError,
    CohortError,
    NotJoinedError,
    PhaseError,
    SlotSpentError,
)
from fgcif_flwr.privacy.outcomes import OUTCOMES, with_outcome
from fgcif_flwr.privacy.release_log import FileLog, LogEntry, MemoryLog
from fgcif_flwr.privacy.statement import PrivacyStatement
from fgcif_flwr.secagg import Field, Participant, ReleaseRequest, SqliteJournal, VectorLayout, wire
from fgcif_flwr.secagg.masking import CHECK_WORDS
from tests.doorway import FORM, LAYOUT, VALUES, WHO, WHOLE, Compute, Doorway, sum_with
from tests.secure_sum_rig import INPUT_HASH, stream


@pytest.fixture
def doorway() -> Doorway:
    return Doorway()


def test_a_release_lets_out_a_masked_vector_and_writes_one_line(doorway):
    _, request = doorway.open()
    compute = Compute()
    vector = doorway.release(request, compute)
    assert compute.calls == 1
    assert (vector.sender, vector.slot) == (WHO, 1)
    assert len(vector.words) == FORM.packed_bytes(WHOLE.size + CHECK_WORDS)
    assert (vector.complaints, vector.next.slot) == ((), 2)
    (entry,) = doorway.log.entries
    assert (entry.slot, entry.task, entry.numbers, entry.cohort) == (1, "test", 8, 4)
    assert entry.run == doorway.party.manifest.run.hex()[:16]
    assert entry.guarantee == PrivacyStatement().in_words()


def test_every_release_is_one_line(doorway):
    for _ in range(3):
        doorway.release(doorway.open()[1], Compute())
    assert [entry.slot for entry in doorway.log.entries] == [1, 2, 3]


def test_the_line_is_written_before_anything_is_computed(doorway):
    class Looking(Compute):
        def __call__(self) -> Mapping[str, np.ndarray] | None:
            self.lines = len(doorway.log.entries)
            return super().__call__()

    compute = Looking()
    doorway.release(doorway.open()[1], compute)
    assert compute.lines == 1


def test_what_left_is_in_the_sum_after_two_counts_of_nothing(doorway):
    slot, request = doorway.open()
    total = sum_with(doorway, slot, doorway.release(request, Compute()))
    assert list(total)[:2] == list(OUTCOMES) == ["out_of_range", "failed"]
    assert [total[name].tolist() for name in OUTCOMES] == [[0.0], [0.0]]
    assert total["rows"].tolist() == [31.0]
    assert np.allclose(total["update"], VALUES["update"], atol=1e-5)


def test_the_counts_are_whole_words_of_one_before_the_tasks_fields():
    assert WHOLE.fields[2:] == LAYOUT.fields
    assert WHOLE.value_bits == LAYOUT.value_bits
    assert [(f.name, f.size, f.bound, f.exact) for f in WHOLE.fields[:2]] == [
        ("out_of_range", 1, 1.0, True),
        ("failed", 1, 1.0, True),
    ]


def test_a_log_that_cannot_be_written_lets_nothing_out(doorway):
    class Full(MemoryLog):
        def append(self, entry: LogEntry) -> None:
            raise OSError("no space left")

    _, request = doorway.open()
    door = replace(doorway.door, log=Full())
    compute = Compute()
    arguments = (LAYOUT, INPUT_HASH, compute, np.random.default_rng(0))
    with pytest.raises(OSError, match="no space"):
        door.release(request, *arguments)
    assert compute.calls == 0
    with pytest.raises(SlotSpentError):
        doorway.release(request, Compute())


def forged_key(request: ReleaseRequest) -> ReleaseRequest:
    first = replace(request.members[0], round_public=bytes(range(32)))
    return replace(request, members=(first, *request.members[1:]))


def without_me(request: ReleaseRequest) -> ReleaseRequest:
    return replace(
        request,
        cohort=tuple(name for name in request.cohort if name != WHO),
        members=tuple(member for member in request.members if member.name != WHO),
    )


def with_a_repetition(request: ReleaseRequest) -> ReleaseRequest:
    return replace(request, cohort=(request.cohort[0], *request.cohort))


def with_one_hidden(request: ReleaseRequest) -> ReleaseRequest:
    return replace(request, members=request.members[:-1])


def with_a_stranger(request: ReleaseRequest) -> ReleaseRequest:
    return replace(request, cohort=(*request.cohort, "e009"))


@pytest.mark.parametrize(
    ("forge", "error"),
    [
        (forged_key, AuthenticationError),
        (without_me, CohortError),
        (with_a_repetition, CohortError),
        (with_one_hidden, CohortError),
        (with_a_stranger, CohortError),
    ],
)
def test_a_forged_cohort_is_refused_before_anything_is_computed_and_costs_the_slot(
    doorway, forge, error
):
    _, request = doorway.open()
    compute = Compute()
    with pytest.raises(error):
        doorway.release(forge(request), compute)
    with pytest.raises(SlotSpentError):
        doorway.release(request, compute)
    assert compute.calls == 0
    assert doorway.log.entries == []


def test_a_slot_lets_out_one_vector_and_is_computed_once(doorway):
    _, request = doorway.open()
    doorway.release(request, Compute())
    for other in (replace(request, task="another"), forged_key(request), without_me(request)):
        compute = Compute()
        with pytest.raises(SlotSpentError):
            doorway.release(other, compute)
        assert compute.calls == 0
    assert len(doorway.log.entries) == 1


def test_the_very_request_again_gets_the_same_bytes_and_nothing_is_computed_or_logged(doorway):
    slot, request = doorway.open()
    first = doorway.release(request, Compute())
    compute = Compute({**VALUES, "rows": np.array([99.0])})
    for _ in range(2):
        assert wire.encode(doorway.release(request, compute)) == wire.encode(first)
    assert compute.calls == 0
    assert len(doorway.log.entries) == 1
    assert sum_with(doorway, slot, first)["rows"].tolist() == [31.0]
    assert wire.encode(doorway.release(request, compute)) == wire.encode(first)


def test_another_input_for_a_slot_that_let_its_vector_out_is_refused(doorway):
    _, request = doorway.open()
    doorway.release(request, Compute())
    compute = Compute()
    arguments = (LAYOUT, b"\1" * 32, compute, np.random.default_rng(0))
    with pytest.raises(SlotSpentError, match="by another request"):
        doorway.door.release(request, *arguments)
    assert compute.calls == 0
    assert len(doorway.log.entries) == 1


def test_after_a_restart_the_door_gives_the_stored_vector_and_computes_nothing(tmp_path: Path):
    doorway = Doorway()
    identity = doorway.consortium.identities[WHO]
    with SqliteJournal(tmp_path / "journal") as journal:
        party = Participant(WHO, identity, journal=journal, entropy=stream(WHO))
        party.join(doorway.consortium.manifest)
        party.begin(doorway.consortium.joins)
        doorway.consortium.participants[WHO] = party
        doorway.door = replace(doorway.door, participant=party)
        _, request = doorway.open()
        first = doorway.release(request, Compute())
    with SqliteJournal(tmp_path / "journal") as journal:
        restarted = Participant(WHO, identity, journal=journal)
        doorway.door = replace(doorway.door, participant=restarted)
        compute = Compute()
        assert wire.encode(doorway.release(request, compute)) == wire.encode(first)
        with pytest.raises(SlotSpentError):
            doorway.release(replace(request, task="another"), compute)
        with pytest.raises(NotJoinedError):
            doorway.release(replace(request, slot=2), compute)
    assert compute.calls == 0
    assert len(doorway.log.entries) == 1


def test_a_slot_that_was_never_advertised_lets_nothing_out(doorway):
    _, request = doorway.open()
    compute = Compute()
    with pytest.raises(PhaseError, match="slot 9 was not advertised"):
        doorway.release(replace(request, slot=9), compute)
    assert compute.calls == 0
    assert doorway.log.entries == []
    assert doorway.release(request, compute).slot == 1


def test_a_request_of_another_epoch_lets_nothing_out_and_costs_nothing(doorway):
    _, request = doorway.open()
    compute = Compute()
    with pytest.raises(NotJoinedError):
        doorway.release(replace(request, run_id=bytes(32)), compute)
    assert compute.calls == 0
    assert doorway.log.entries == []
    assert doorway.release(request, compute).slot == 1


def test_a_rotated_field_leaves_rotated_by_the_slots_public_seed():
    doorway = Doorway()
    rotated = VectorLayout((Field("update", 5, 8.0, rotated=True),), 22)
    doorway.ads = doorway.consortium.advertise()
    slot = doorway.consortium.collect(with_outcome(rotated), doorway.ads)
    seed = doorway.party.rotation_seed(slot.slot, INPUT_HASH)
    values = {"update": VALUES["update"]}
    arguments = (rotated, INPUT_HASH, lambda: values, np.random.default_rng(0))
    vector = doorway.door.release(slot.release_request(WHO), *arguments)
    zeros = {"update": np.zeros(5), **{name: np.zeros(1) for name in OUTCOMES}}
    still = with_outcome(rotated).encode(zeros, np.random.default_rng(0), seed)
    doorway.consortium.release(slot, dict.fromkeys(slot.cohort, still), lost=[WHO])
    slot.receive(vector)
    total = doorway.consortium.unmask(slot).values
    assert np.allclose(total["update"], VALUES["update"], atol=1e-4)
    assert total["failed"].tolist() == [0.0]


def test_the_log_file_gets_one_line_of_json_per_release(doorway, tmp_path):
    path = tmp_path / "releases.jsonl"
    door = replace(doorway.door, log=FileLog(path))
    for _ in range(2):
        request = doorway.open()[1]
        arguments = (LAYOUT, INPUT_HASH, Compute(), np.random.default_rng(0))
        door.release(request, *arguments)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["slot"] for line in lines] == [1, 2]
    assert all(set(json.loads(line)) == {f.name for f in fields(LogEntry)} for line in lines)


def test_a_line_of_the_log_holds_nothing_that_was_computed(doorway):
    values = {"update": np.full(5, 3.14159), "rows": np.array([917.0])}
    doorway.release(doorway.open()[1], Compute(values))
    line = json.dumps([vars(entry) for entry in doorway.log.entries])
    assert "3.14" not in line
    assert "917" not in line
