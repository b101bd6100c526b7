"""Where an enterprise cannot compute, zeros leave by its door and nothing else tells of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from fgcif_flwr.errors import OutOfRangeError, SecureSumError, SlotSpentError
from fgcif_flwr.privacy.outcomes import OUTCOMES
from fgcif_flwr.secagg import Released, UnmaskRequest
from fgcif_flwr.secagg.masking import CHECK_WORDS
from tests.doorway import FORM, LAYOUT, VALUES, WHOLE, Compute, Doorway, sum_with
from tests.secure_sum_rig import INPUT_HASH


@pytest.fixture
def doorway() -> Doorway:
    return Doorway()


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

    arguments = (LAYOUT, INPUT_HASH, interrupted, np.random.default_rng(0))
    with pytest.raises(KeyboardInterrupt):
        doorway.door.release(request, *arguments)
    with pytest.raises(SlotSpentError):
        doorway.release(request, Compute())
