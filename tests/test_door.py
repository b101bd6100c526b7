"""Nothing leaves an enterprise but through its door, and the door writes down what left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
import pytest

from fgcif_flwr.errors import (
    AuthenticationError,
    CohortError,
    OutOfRangeError,
    SecureSumError,
    SlotSpentError,
)
from fgcif_flwr.privacy.door import Door, FileLog, LogEntry, MemoryLog, Policy
from fgcif_flwr.privacy.statement import PrivacyStatement
from fgcif_flwr.secagg import Field, MaskedVector, SlotCoordinator, VectorLayout
from fgcif_flwr.secagg.messages import ReleaseRequest
from tests.secure_sum_rig import INPUT_HASH, Consortium

LAYOUT = VectorLayout((Field("update", 5, 4.0), Field("rows", 1, 1000, exact=True)), 22)
VALUES = {"update": np.array([0.5, -1.0, 3.25, 0.0, 2.0]), "rows": np.array([31.0])}
WHO = "e001"


class Compute:
    """What the door may call, once: counts the calls."""

    def __init__(self, values: Mapping[str, np.ndarray] | Exception = VALUES) -> None:
        self.values = values
        self.calls = 0

    def __call__(self) -> Mapping[str, np.ndarray]:
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

    def open(self) -> tuple[SlotCoordinator, ReleaseRequest]:
        slot = self.consortium.open_slot(LAYOUT)
        return slot, slot.release_request(WHO)

    def release(
        self,
        request: ReleaseRequest,
        compute: Compute,
        statement: PrivacyStatement | None = None,
    ) -> MaskedVector:
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
    assert vector.sender == WHO
    (entry,) = doorway.log.entries
    assert (entry.slot, entry.task, entry.numbers, entry.cohort) == (1, "test", 6, 4)
    assert entry.octets == len(vector.words)
    assert entry.run == doorway.party.run_id.hex()[:16]
    assert entry.guarantee == PrivacyStatement().in_words()


def test_every_release_is_one_line(doorway):
    for _ in range(3):
        doorway.release(doorway.open()[1], Compute())
    assert [entry.slot for entry in doorway.log.entries] == [1, 2, 3]


def test_what_left_is_in_the_sum_and_a_line_is_written_before_it_leaves(doorway):
    slot, request = doorway.open()
    encoded = {name: np.zeros(6, np.int64) for name in doorway.consortium.participants}
    doorway.consortium.release(slot, encoded, lost=[WHO])
    slot.receive(doorway.release(request, Compute()))
    doorway.consortium.unmask(slot)
    total = slot.finish()
    assert total["rows"].tolist() == [31.0]
    assert np.allclose(total["update"], VALUES["update"], atol=1e-5)


def test_a_log_that_cannot_be_written_lets_nothing_out(doorway):
    class Full(MemoryLog):
        def append(self, entry: LogEntry) -> None:
            raise OSError("no space left")

    _, request = doorway.open()
    door = replace(doorway.door, log=Full())
    arguments = (PrivacyStatement(), LAYOUT, INPUT_HASH, Compute(), np.random.default_rng(0))
    with pytest.raises(OSError, match="no space"):
        door.release(request, *arguments)
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
    three = tuple(member for member in request.cohort if member.name != "e000")
    assert len(three) >= slot.epoch.parameters.smallest_cohort
    with pytest.raises(SecureSumError, match="policy"):
        doorway.release(replace(request, cohort=three), Compute())


def forged_key(request: ReleaseRequest) -> ReleaseRequest:
    first = replace(request.cohort[0], round_public=bytes(range(32)))
    return replace(request, cohort=(first, *request.cohort[1:]))


def without_me(request: ReleaseRequest) -> ReleaseRequest:
    return replace(request, cohort=tuple(m for m in request.cohort if m.name != WHO))


def with_a_repetition(request: ReleaseRequest) -> ReleaseRequest:
    return replace(request, cohort=(request.cohort[0], *request.cohort))


@pytest.mark.parametrize(
    ("forge", "error"),
    [
        (forged_key, AuthenticationError),
        (without_me, CohortError),
        (with_a_repetition, CohortError),
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
    compute = Compute()
    with pytest.raises(SlotSpentError):
        doorway.release(request, compute)
    assert compute.calls == 0
    assert len(doorway.log.entries) == 1


def test_a_slot_that_was_never_advertised_lets_nothing_out(doorway):
    _, request = doorway.open()
    compute = Compute()
    with pytest.raises(SlotSpentError):
        doorway.release(replace(request, slot=9), compute)
    assert compute.calls == 0
    assert doorway.log.entries == []


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (ValueError("row 17"), ValueError),
        (MemoryError(), MemoryError),
        ({**VALUES, "update": np.full(5, 4.5)}, OutOfRangeError),
        ({**VALUES, "update": np.full(5, np.nan)}, OutOfRangeError),
        ({**VALUES, "rows": np.array([2000.0])}, OutOfRangeError),
        ({**VALUES, "rows": np.array([0.5])}, OutOfRangeError),
        ({**VALUES, "update": np.zeros(4)}, SecureSumError),
        ({**VALUES, "secret": np.zeros(1)}, SecureSumError),
        ({"rows": np.array([31.0])}, SecureSumError),
    ],
    ids=[
        "raises",
        "memory",
        "bound",
        "not finite",
        "count bound",
        "fraction",
        "size",
        "extra",
        "absent",
    ],
)
def test_a_computation_that_fails_lets_nothing_out_and_spends_the_slot(doorway, values, error):
    _, request = doorway.open()
    with pytest.raises(error):
        doorway.release(request, Compute(values))
    assert doorway.log.entries == []
    again = Compute()
    with pytest.raises(SlotSpentError):
        doorway.release(request, again)
    assert again.calls == 0


def test_after_a_computation_that_failed_no_share_of_the_slot_is_given(doorway):
    slot, request = doorway.open()
    encoded = {name: np.zeros(6, np.int64) for name in doorway.consortium.participants}
    doorway.consortium.release(slot, encoded, lost=[WHO])
    with pytest.raises(ValueError, match="row 17"):
        doorway.release(request, Compute(ValueError("row 17")))
    unmask = slot.close()
    assert unmask.dropped == (WHO,)
    with pytest.raises(SlotSpentError):
        doorway.party.unmask(unmask)


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
