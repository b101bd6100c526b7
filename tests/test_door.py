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
    OutOfRangeError,
    PhaseError,
    SecureSumError,
    SlotSpentError,
)
from fgcif_flwr.privacy.door import (
    OUTCOMES,
    Door,
    FileLog,
    LogEntry,
    MemoryLog,
    Policy,
    with_outcome,
)
from fgcif_flwr.privacy.statement import PrivacyStatement
from fgcif_flwr.secagg import (
    Field,
    Participant,
    Released,
    ReleaseRequest,
    SlotCollection,
    SqliteJournal,
    UnmaskRequest,
    VectorLayout,
    WordFormat,
    wire,
)
from fgcif_flwr.secagg.masking import CHECK_WORDS
from tests.secure_sum_rig import INPUT_HASH, Consortium, stream

LAYOUT = VectorLayout((Field("update", 5, 4.0), Field("rows", 1, 1000, exact=True)), 22)
WHOLE = with_outcome(LAYOUT)
FORM = WordFormat(22, 4)
VALUES = {"update": np.array([0.5, -1.0, 3.25, 0.0, 2.0]), "rows": np.array([31.0])}
WHO = "e001"


class Compute:
    """What the door may call, once: counts the calls."""

    def __init__(self, values: Mapping[str, np.ndarray] | Exception | None = VALUES) -> None:
        self.values = values
        self.calls = 0

    def __call__(self) -> Mapping[str, np.ndarray] | None:
        self.calls += 1
        if isinstance(self.values, Exception):
            raise self.values
        return self.values


class Doorway:
    """One enterprise's door in a consortium of four, and the slots that are asked of it."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.consortium = Consortium(4)
        self.log = MemoryLog()
        self.party = self.consortium.participants[WHO]
        self.door = Door(self.party, policy or Policy(), self.log)

    def open(self) -> tuple[SlotCollection, ReleaseRequest]:
        self.ads = self.consortium.advertise()
        slot = self.consortium.collect(WHOLE, self.ads)
        return slot, slot.release_request(WHO)

    def release(
        self,
        request: ReleaseRequest,
        compute: Compute,
        statement: PrivacyStatement | None = None,
    ) -> Released:
        return self.door.release(
            request,
            statement or PrivacyStatement(),
            LAYOUT,
            INPUT_HASH,
            compute,
            np.random.default_rng(0),
        )


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
    assert entry.run == doorway.party.run_id.hex()[:16]
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


def sum_with(doorway: Doorway, slot: SlotCollection, vector: Released) -> Mapping[str, np.ndarray]:
    """The sum of this vector and three of zeros."""
    encoded = {name: np.zeros(WHOLE.size, np.int64) for name in doorway.consortium.participants}
    doorway.consortium.release(slot, encoded, lost=[WHO])
    slot.receive(vector)
    return doorway.consortium.unmask(slot).values


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
    arguments = (PrivacyStatement(), LAYOUT, INPUT_HASH, compute, np.random.default_rng(0))
    with pytest.raises(OSError, match="no space"):
        door.release(request, *arguments)
    assert compute.calls == 0
    with pytest.raises(SlotSpentError):
        doorway.release(request, Compute())


def test_a_cohort_below_the_policys_minimum_is_refused_before_anything_is_computed():
    doorway = Doorway(Policy(minimum_cohort=5))
    _, request = doorway.open()
    compute = Compute()
    with pytest.raises(SecureSumError, match=r"policy: a cohort of 4 is below.*minimum of 5"):
        doorway.release(request, compute)
    assert compute.calls == 0
    assert doorway.log.entries == []


def test_a_privacy_unit_that_the_policy_does_not_allow_is_refused_before_anything_is_computed(
    doorway,
):
    _, request = doorway.open()
    compute = Compute()
    statement = PrivacyStatement("customer", "distributed", 1.0, 1e-6)
    with pytest.raises(SecureSumError, match=r"policy: .* privacy\.unit = customer"):
        doorway.release(request, compute, statement)
    assert compute.calls == 0
    assert doorway.log.entries == []


def test_a_policy_that_wants_a_unit_refuses_a_release_without_one():
    doorway = Doorway(Policy(units=frozenset({"customer"})))
    compute = Compute()
    with pytest.raises(SecureSumError, match=r"policy: .* privacy\.unit = none"):
        doorway.release(doorway.open()[1], compute)
    assert compute.calls == 0


def test_a_refusal_by_policy_does_not_spend_the_slot(doorway):
    # Nothing was opened or computed for it, so the slot may still be asked for lawfully.
    _, request = doorway.open()
    with pytest.raises(SecureSumError, match="policy"):
        doorway.release(replace(request, cohort=request.cohort[:2]), Compute())
    assert doorway.release(request, Compute()).slot == 1
    assert len(doorway.log.entries) == 1


def test_the_policys_minimum_holds_where_the_threshold_would_allow_fewer():
    doorway = Doorway(Policy(minimum_cohort=4))
    slot, request = doorway.open()
    three = doorway.consortium.collect(WHOLE, doorway.ads[1:]).release_request(WHO)
    assert len(three.cohort) >= slot.epoch.parameters.smallest_cohort
    with pytest.raises(SecureSumError, match="policy"):
        doorway.release(three, Compute())
    assert doorway.release(request, Compute()).slot == 1


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
    arguments = (PrivacyStatement(), LAYOUT, b"\1" * 32, compute, np.random.default_rng(0))
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
    vector = doorway.door.release(slot.release_request(WHO), PrivacyStatement(), *arguments)
    zeros = {"update": np.zeros(5), **{name: np.zeros(1) for name in OUTCOMES}}
    still = with_outcome(rotated).encode(zeros, np.random.default_rng(0), seed)
    doorway.consortium.release(slot, dict.fromkeys(slot.cohort, still), lost=[WHO])
    slot.receive(vector)
    total = doorway.consortium.unmask(slot).values
    assert np.allclose(total["update"], VALUES["update"], atol=1e-4)
    assert total["failed"].tolist() == [0.0]


FAILURES = {
    "raises": (ValueError("row 17"), "failed"),
    "memory": (MemoryError(), "failed"),
    "ours": (SecureSumError("row 17"), "failed"),
    "range": (OutOfRangeError("row 17"), "out_of_range"),
    "bound": ({**VALUES, "update": np.full(5, 4.5)}, "out_of_range"),
    "not finite": ({**VALUES, "update": np.full(5, np.nan)}, "out_of_range"),
    "count bound": ({**VALUES, "rows": np.array([2000.0])}, "out_of_range"),
    "fraction": ({**VALUES, "rows": np.array([0.5])}, "out_of_range"),
    "size": ({**VALUES, "update": np.zeros(4)}, "failed"),
    "extra": ({**VALUES, "secret": np.zeros(1)}, "failed"),
    "absent": ({"rows": np.array([31.0])}, "failed"),
    "words": ({**VALUES, "rows": np.array(["many"])}, "failed"),
    "nothing": (None, "failed"),
}
failing = pytest.mark.parametrize(("values", "outcome"), FAILURES.values(), ids=FAILURES)


@failing
def test_where_computing_fails_zeros_leave_and_a_count_says_so_in_the_sum(doorway, values, outcome):
    slot, request = doorway.open()
    total = sum_with(doorway, slot, doorway.release(request, Compute(values)))
    assert {name: total[name].tolist() for name in OUTCOMES} == {
        name: [float(name == outcome)] for name in OUTCOMES
    }
    assert total["update"].tolist() == [0.0] * 5
    assert total["rows"].tolist() == [0.0]


@failing
def test_a_failed_computation_is_one_line_like_any_other_and_spends_the_slot(
    doorway, values, outcome
):
    other = Doorway()
    other.release(other.open()[1], Compute())
    _, request = doorway.open()
    failed = doorway.release(request, Compute(values))
    (line,), (good,) = doorway.log.entries, other.log.entries
    assert replace(line, time="") == replace(good, time="")
    again = Compute()
    assert doorway.release(request, again) == failed  # a retry cannot tell how it went
    with pytest.raises(SlotSpentError):
        doorway.release(replace(request, task="another"), again)
    assert again.calls == 0
    assert len(doorway.log.entries) == 1


def unpacked(vector: Released) -> np.ndarray:
    return FORM.unpack(vector.words, WHOLE.size + CHECK_WORDS)


@failing
def test_the_vector_of_a_failed_computation_differs_from_a_good_one_under_the_mask_only(
    doorway, values, outcome
):
    # The rig's keys are drawn from names: both doorways have the same masks.
    other = Doorway()
    good = other.release(other.open()[1], Compute())
    bad = doorway.release(doorway.open()[1], Compute(values))
    assert replace(bad, words=b"") == replace(good, words=b"")
    assert len(bad.words) == len(good.words)
    counts = {name: np.array([0.0]) for name in OUTCOMES}
    checks = np.ones(CHECK_WORDS, np.int64)
    plain = WHOLE.encode({**counts, **VALUES}, np.random.default_rng(0))
    plain = np.concatenate([plain, checks])
    said = np.concatenate([np.zeros(WHOLE.size, np.int64), checks])
    said[OUTCOMES.index(outcome)] = 1
    masked_difference = FORM.reduce(unpacked(good) - unpacked(bad))
    assert np.array_equal(masked_difference, FORM.reduce(FORM.words(plain - said)))
    mask = FORM.reduce(unpacked(bad) - FORM.words(said))
    # every word is masked, both counts and the check words too
    assert np.count_nonzero(mask) == len(set(mask.tolist())) == WHOLE.size + CHECK_WORDS


def test_a_failed_computation_is_told_to_the_enterprises_own_log_alone(doorway, caplog):
    doorway.release(doorway.open()[1], Compute(ValueError("row 17")))
    (record,) = caplog.records
    assert record.name == "fgcif_flwr.privacy.door"
    assert "row 17" in str(record.exc_info)
    assert "row 17" not in json.dumps([vars(entry) for entry in doorway.log.entries])


def test_after_a_failed_computation_the_unmask_exchange_and_the_next_slot_are_as_ever(doorway):
    slot, request = doorway.open()
    total = sum_with(doorway, slot, doorway.release(request, Compute(ValueError("row 17"))))
    assert total["failed"].tolist() == [1.0]
    lists = {"survivors": slot.cohort[:3], "dropped": slot.cohort[3:]}
    other = UnmaskRequest(slot.epoch.run_id, slot.slot, **lists)
    with pytest.raises(SlotSpentError):  # its shares were given once
        doorway.party.unmask(other)
    slot, request = doorway.open()
    total = sum_with(doorway, slot, doorway.release(request, Compute()))
    assert total["failed"].tolist() == [0.0]
    assert total["rows"].tolist() == [31.0]


def test_an_interruption_by_its_owner_is_no_failed_computation(doorway):
    _, request = doorway.open()

    def interrupted() -> Mapping[str, np.ndarray]:
        raise KeyboardInterrupt

    arguments = (PrivacyStatement(), LAYOUT, INPUT_HASH, interrupted, np.random.default_rng(0))
    with pytest.raises(KeyboardInterrupt):
        doorway.door.release(request, *arguments)
    with pytest.raises(SlotSpentError):
        doorway.release(request, Compute())


def test_after_a_refusal_by_policy_the_next_slot_is_served(doorway):
    _, request = doorway.open()
    with pytest.raises(SecureSumError):
        doorway.release(replace(request, cohort=request.cohort[:1]), Compute())
    _, later = doorway.open()
    assert doorway.release(later, Compute()).slot == 2


def test_the_log_file_gets_one_line_of_json_per_release(doorway, tmp_path):
    path = tmp_path / "releases.jsonl"
    door = replace(doorway.door, log=FileLog(path))
    for _ in range(2):
        request = doorway.open()[1]
        arguments = (PrivacyStatement(), LAYOUT, INPUT_HASH, Compute(), np.random.default_rng(0))
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
