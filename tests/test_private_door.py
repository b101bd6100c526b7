"""Under a privacy unit the door charges first, computes after, and always lets noise out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from fgcif_flwr.errors import (
    AuthenticationError,
    BudgetExhaustedError,
    FgcifError,
    LedgerError,
    PolicyError,
    PrivacyError,
    SlotSpentError,
)
from fgcif_flwr.federation.requests import Refusal
from fgcif_flwr.privacy.door import Door
from fgcif_flwr.privacy.ledger import Charge, SqliteLedger
from fgcif_flwr.privacy.mechanisms import Mechanism
from fgcif_flwr.privacy.noisy_sum import Block, NoisySum
from fgcif_flwr.privacy.plan import PlannedRelease, PrivacyPlan
from fgcif_flwr.privacy.policy import Policy
from fgcif_flwr.privacy.release_log import LogEntry, MemoryLog
from fgcif_flwr.privacy.statement import PrivacyStatement
from fgcif_flwr.secagg import (
    Field,
    Released,
    ReleaseRequest,
    SlotCollection,
    VectorLayout,
    wire,
)
from fgcif_flwr.secagg.masking import CHECK_WORDS
from tests.noise_checks import draws, variance_is
from tests.secure_sum_rig import INPUT_HASH, Consortium

WHO = "e001"
SIZE = 6000
HONEST = 2
"""Of four, as the secure sum promises: one may be lost, one may collude."""
SUM = NoisySum((Block("update", SIZE), Block("rows", 1)), contributions=40, noise_multiplier=2.0)
SHARE = SUM.variance / HONEST
Chunk = Mapping[str, np.ndarray]


def plan(slots: int = 3, honest: int = HONEST) -> PrivacyPlan:
    mechanism = Mechanism("customer", "distributed", SUM)
    release = PlannedRelease("test", slots, mechanism, ((0.3, 1.0),))
    return PrivacyPlan("customer", "distributed", 1e-5, honest, (release,))


def rows(count: int, value: float = 0.5) -> Chunk:
    update = np.zeros((count, SIZE))
    update[:, 0] = value
    return {"update": update, "rows": np.ones((count, 1))}


class Contributions:
    """What the door may ask for, once: counts the calls."""

    def __init__(self, *chunks: Chunk | Exception, events: list[str] | None = None) -> None:
        self.chunks = chunks or (rows(10),)
        self.calls = 0
        self.events = [] if events is None else events

    def __call__(self) -> Iterator[Chunk]:
        self.calls += 1
        self.events.append("compute")
        return self._chunks()

    def _chunks(self) -> Iterator[Chunk]:
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


class WatchedPolicy(Policy):
    def check(self, *arguments, **named) -> None:
        EVENTS.append("policy")
        super().check(*arguments, **named)


class WatchedLog(MemoryLog):
    def append(self, entry: LogEntry) -> None:
        EVENTS.append("log")
        super().append(entry)


class WatchedLedger:
    """A ledger that notes what is done with it, and fails where it is told to."""

    def __init__(self, ledger: SqliteLedger, failing: str = "") -> None:
        self.ledger, self.failing = ledger, failing

    def reserve(self, *arguments) -> int:
        EVENTS.append("reserve")
        self._fail("reserve")
        return self.ledger.reserve(*arguments)

    def commit(self, number: int) -> None:
        EVENTS.append("commit")
        self._fail("commit")
        self.ledger.commit(number)

    def _fail(self, step: str) -> None:
        if step == self.failing:
            raise LedgerError("/home/secret/ledger.db cannot be written: 917 entries")


EVENTS: list[str] = []


@dataclass
class PrivateDoorway:
    """One enterprise's door in a consortium of four, with a ledger."""

    ledger: SqliteLedger

    def __post_init__(self) -> None:
        EVENTS.clear()
        self.consortium = Consortium(4)
        self.party = self.consortium.participants[WHO]
        self.log = WatchedLog()
        self.statement = PrivacyStatement.of(plan(), self.party.parameters)
        self.door = Door(
            self.party,
            WatchedPolicy(epsilon_total=100.0),
            self.log,
            WatchedLedger(self.ledger),
            lambda: draws(1),
        )
        self.layout = SUM.layout(4, HONEST)
        for name in ("open_release", "mask"):
            setattr(self.party, name, self._watched(name, getattr(self.party, name)))

    @staticmethod
    def _watched(name: str, step: Callable) -> Callable:
        def watched(*arguments):
            EVENTS.append(name)
            return step(*arguments)

        return watched

    def open(self) -> tuple[SlotCollection, ReleaseRequest]:
        slot = self.consortium.collect(self.layout, self.consortium.advertise())
        EVENTS.clear()
        return slot, slot.release_request(WHO)

    def release(
        self, request: ReleaseRequest, contributions: Contributions, of: PrivacyPlan | None = None
    ) -> Released:
        return self.door.release_noisily(
            request, of or plan(), self.statement, self.layout, INPUT_HASH, contributions
        )

    def opened(self, slot: SlotCollection, vector: Released) -> Mapping[str, np.ndarray]:
        """The sum of this vector and three of zeros."""
        encoded = {name: np.zeros(SIZE + 1, np.int64) for name in self.consortium.participants}
        self.consortium.release(slot, encoded, lost=[WHO])
        slot.receive(vector)
        return self.consortium.unmask(slot).values

    def charged(self) -> int:
        return self.ledger.spent(1e-5).entries


@pytest.fixture
def doorway(tmp_path: Path) -> Iterator[PrivateDoorway]:
    with SqliteLedger(tmp_path / "ledger.db", "everybody") as ledger:
        yield PrivateDoorway(ledger)


# The order of the steps.


STEPS = ["policy", "open_release", "reserve", "log", "compute", "mask", "commit"]


def test_policy_then_slot_then_ledger_then_log_then_computing_then_mask_then_commit(doorway):
    _, request = doorway.open()
    doorway.release(request, Contributions(events=EVENTS))
    assert EVENTS == STEPS


def test_the_charge_is_durable_before_anything_is_computed_and_committed_when_it_returns(
    doorway, tmp_path
):
    seen = []

    class Looking(Contributions):
        def __call__(self) -> Iterator[Chunk]:
            with SqliteLedger(tmp_path / "ledger.db") as another:
                seen.append(another.spent(1e-5))
            return super().__call__()

    doorway.release(doorway.open()[1], Looking())
    (during,) = seen
    after = doorway.ledger.spent(1e-5)
    assert (during.entries, during.reserved) == (1, 1)
    assert (after.entries, after.reserved) == (1, 0)
    assert during.epsilon == after.epsilon > 0


def test_what_is_charged_is_the_plans_and_concerns_the_tasks_rows_alone(doorway):
    _, request = doorway.open()
    doorway.release(request, Contributions())
    (entry,) = doorway.ledger.entries(1e-5)
    assert doorway.party.manifest is not None
    run = doorway.party.manifest.run.hex()
    assert (entry.charge,) == plan().charges("test", run, request.slot)
    (stretch,) = doorway.ledger.spent(1e-5).stretches
    assert (stretch.lower, stretch.upper) == (0.3, 1.0)


def test_the_line_of_the_log_carries_the_guarantee(doorway):
    doorway.release(doorway.open()[1], Contributions())
    (entry,) = doorway.log.entries
    assert entry.guarantee == doorway.statement.in_words()
    assert "Differential privacy for each customer" in entry.guarantee
    assert entry.numbers == SIZE + 1


# Refusals: nothing is computed, and what is not released is not charged.


def forged(request: ReleaseRequest) -> ReleaseRequest:
    first = replace(request.members[0], round_public=bytes(range(32)))
    return replace(request, members=(first, *request.members[1:]))


def refused(
    doorway: PrivateDoorway, request: ReleaseRequest, error: type[FgcifError], **named
) -> FgcifError:
    """Let it be refused; nothing is computed or logged."""
    contributions = Contributions()
    with pytest.raises(error) as caught:
        doorway.release(request, contributions, **named)
    assert type(caught.value) is error
    assert contributions.calls == 0
    assert doorway.log.entries == []
    assert "mask" not in EVENTS
    return caught.value


@pytest.mark.parametrize(
    "rule",
    [
        {"units": frozenset({"none", "enterprise"})},
        {"tasks": frozenset({"train"})},
        {"minimum_cohort": 5},
        {"minimum_honest": 3},
        {"maximum_release_size": SIZE},
    ],
    ids=lambda rule: next(iter(rule)),
)
def test_what_policy_refuses_is_not_charged_and_leaves_the_slot(doorway, rule):
    _, request = doorway.open()
    policy = WatchedPolicy(**{"epsilon_total": 100.0, **rule})
    allowed = doorway.door
    doorway.door = replace(allowed, policy=policy)
    refused(doorway, request, PolicyError)
    assert EVENTS == ["policy"]
    assert doorway.charged() == 0
    doorway.door = allowed
    assert doorway.release(request, Contributions()).slot == 1


def test_what_the_check_of_the_cohort_refuses_is_not_charged_and_costs_the_slot(doorway):
    _, request = doorway.open()
    refused(doorway, forged(request), AuthenticationError)
    assert EVENTS == ["policy", "open_release"]
    assert doorway.charged() == 0
    refused(doorway, request, SlotSpentError)
    assert doorway.charged() == 0


def test_an_epoch_with_fewer_honest_than_the_noise_is_for_is_refused_and_leaves_the_slot(doorway):
    _, request = doorway.open()
    said = refused(doorway, request, PrivacyError, of=plan(honest=HONEST + 1))
    assert "at least 3 honest enterprises; this epoch could open one over 2" in str(said)
    assert doorway.charged() == 0
    assert doorway.release(request, Contributions()).slot == 1


def test_a_task_that_is_not_planned_is_refused_before_any_step(doorway):
    _, request = doorway.open()
    said = refused(doorway, replace(request, task="another"), PrivacyError)
    assert "task another is not in the privacy plan" in str(said)
    assert EVENTS == []
    assert doorway.charged() == 0


def test_without_a_ledger_nothing_leaves(doorway):
    _, request = doorway.open()
    doorway.door = replace(doorway.door, ledger=None)
    said = refused(doorway, request, LedgerError)
    assert "no privacy ledger" in str(said)


def test_a_budget_that_does_not_cover_the_release_refuses_it(doorway):
    _, request = doorway.open()
    once = plan(slots=1).epsilon
    policy = WatchedPolicy(epsilon_total=once * 1.5, delta_total=1e-5)
    doorway.door = replace(doorway.door, policy=policy)
    doorway.release(request, Contributions())
    assert doorway.charged() == 1
    doorway.log.entries.clear()
    _, request = doorway.open()
    other = Charge("another run", "test", 1, "customer", (0.01,) * len(SUM.curve()), 0.0)
    doorway.ledger.reserve((other,), 100.0, 1e-5)
    doorway.door = replace(doorway.door, policy=WatchedPolicy(epsilon_total=once, delta_total=1e-5))
    refused(doorway, request, BudgetExhaustedError)
    assert doorway.charged() == 2  # the first, and the other run's


def test_a_slot_beyond_those_planned_is_refused_although_the_budget_would_cover_it(doorway):
    for _ in range(2):
        doorway.release(doorway.open()[1], Contributions(), of=plan(slots=2))
    doorway.log.entries.clear()
    said = refused(doorway, doorway.open()[1], BudgetExhaustedError, of=plan(slots=2))
    assert "task test was charged 2 times in this run" in str(said)
    assert doorway.charged() == 2


def test_a_ledger_that_cannot_be_written_lets_nothing_out_and_its_words_stay_inside(doorway):
    _, request = doorway.open()
    doorway.door = replace(doorway.door, ledger=WatchedLedger(doorway.ledger, "reserve"))
    said = refused(doorway, request, LedgerError)
    assert EVENTS == ["policy", "open_release", "reserve"]
    assert said.told_outside is False
    told = Refusal.of(said)
    assert told.code == 53
    assert "917" not in told.reason
    assert "secret" not in told.reason
    doorway.door = replace(doorway.door, ledger=WatchedLedger(doorway.ledger))
    refused(doorway, request, SlotSpentError)  # the slot is gone
    assert doorway.charged() == 0


def test_a_damaged_ledger_file_lets_nothing_out(doorway, tmp_path):
    _, request = doorway.open()
    for file in tmp_path.glob("ledger.db*"):
        file.write_bytes(b"\0" * 8192)
    contributions = Contributions()
    with pytest.raises(LedgerError):
        doorway.release(request, contributions)
    assert contributions.calls == 0


def test_where_the_commit_fails_the_charge_stays_and_counts_once(doorway):
    _, request = doorway.open()
    doorway.door = replace(doorway.door, ledger=WatchedLedger(doorway.ledger, "commit"))
    with pytest.raises(LedgerError):
        doorway.release(request, Contributions())
    spent = doorway.ledger.spent(1e-5)
    assert (spent.entries, spent.reserved) == (1, 1)
    again = Contributions()
    assert doorway.release(request, again).slot == 1  # what it was charged for, masked before
    assert again.calls == 0
    assert doorway.charged() == 1


# The same request again.


def test_the_very_request_again_gets_the_same_bytes_and_no_new_charge(doorway):
    _, request = doorway.open()
    first = doorway.release(request, Contributions())
    EVENTS.clear()
    again = Contributions(rows(3))
    for _ in range(2):
        assert wire.encode(doorway.release(request, again)) == wire.encode(first)
    assert EVENTS == []
    assert (again.calls, doorway.charged(), len(doorway.log.entries)) == (0, 1, 1)


def test_another_request_for_the_slot_is_refused_and_not_charged(doorway):
    _, request = doorway.open()
    doorway.release(request, Contributions())
    doorway.log.entries.clear()
    EVENTS.clear()
    refused(doorway, replace(request, cohort=request.cohort[:-1]), SlotSpentError)
    assert doorway.charged() == 1


# What leaves.


def test_what_leaves_is_the_sum_and_this_enterprises_share_of_the_noise(doorway):
    slot, request = doorway.open()
    opened = doorway.opened(slot, doorway.release(request, Contributions(rows(10))))
    noise = opened["update"][1:]
    assert variance_is(noise, SHARE)  # false alarm 1e-6; a sixth missing is seen as surely
    decoded = SUM.decode(opened)
    far = 6 * SUM.noise_deviation("update", 1, HONEST)
    assert abs(decoded["update"][0] - 5.0) < far
    assert abs(decoded["rows"][0] - 10.0) < far


FAILURES: Mapping[str, tuple[Chunk | Exception, ...]] = {
    "raises": (ValueError("row 17"),),
    "raises after some rows": (rows(10, 1.0), ValueError("row 17")),
    "memory": (MemoryError(),),
    "ours": (PrivacyError("row 17"),),
    "block absent": ({"update": np.ones((5, SIZE))},),
    "shape": ({"update": np.ones((5, SIZE - 1)), "rows": np.ones((5, 1))},),
    "words": ({"update": np.full((5, SIZE), "x"), "rows": np.ones((5, 1))},),
}
failing = pytest.mark.parametrize("chunks", FAILURES.values(), ids=FAILURES)


@failing
def test_where_computing_fails_noise_leaves_alone_and_it_is_the_whole_share(doorway, chunks):
    slot, request = doorway.open()
    opened = doorway.opened(slot, doorway.release(request, Contributions(*chunks)))
    noise = np.concatenate([opened["update"], opened["rows"]])
    assert variance_is(noise, SHARE)  # false alarm 1e-6, over a fixed key
    assert abs(noise[0]) < 6 * SHARE**0.5
    assert doorway.charged() == 1


@failing
def test_a_failed_computation_is_seen_by_nobody_outside(doorway, tmp_path, chunks, caplog):
    # The rig's keys are drawn from names, so both doorways have the same masks.
    with SqliteLedger(tmp_path / "other.db", "others") as ledger:
        other = PrivateDoorway(ledger)
        good = other.release(other.open()[1], Contributions(rows(10)))
        (good_line,) = other.log.entries
    caplog.clear()
    _, request = doorway.open()
    bad = doorway.release(request, Contributions(*chunks))
    (line,) = doorway.log.entries
    assert replace(bad, words=b"") == replace(good, words=b"")
    assert len(bad.words) == len(good.words)
    assert replace(line, time="") == replace(good_line, time="")
    form = doorway.layout.form(4)
    for vector in (bad, good):
        masked = form.unpack(vector.words, SIZE + 1 + CHECK_WORDS)
        # Uniform words: a bit is set in half of them; false alarm 1e-6 at 4.9 deviations.
        top = int(np.count_nonzero(masked >> np.uint64(form.bits - 1)))
        count = len(masked)
        assert abs(top - count / 2) < 4.9 * (count / 4) ** 0.5
    assert "noise alone is released" in caplog.text  # its own log knows
    assert "row 17" not in json.dumps([vars(entry) for entry in doorway.log.entries])


def test_rows_that_are_not_finite_count_as_nothing_and_the_others_as_ever(doorway, caplog):
    bad = {name: block.copy() for name, block in rows(3).items()}
    bad["update"][0, 5], bad["update"][1, 7], bad["rows"][2, 0] = np.nan, np.inf, -np.inf
    results = []
    for chunks in ((bad, rows(10)), (rows(10),)):
        slot, request = doorway.open()
        results.append(doorway.opened(slot, doorway.release(request, Contributions(*chunks))))
    for name in ("update", "rows"):
        assert np.array_equal(results[0][name], results[1][name])  # the noise has one key
    assert caplog.records == []


def test_a_row_beyond_its_bound_moves_the_sum_by_no_more_than_the_sensitivity(doorway):
    huge = {"update": np.full((1, SIZE), 1e30), "rows": np.full((1, 1), 1e30)}
    results = []
    for chunks in ((huge,), (rows(0),)):
        slot, request = doorway.open()
        opened = doorway.opened(slot, doorway.release(request, Contributions(*chunks)))
        results.append(np.concatenate([opened["update"], opened["rows"]]))
    moved = np.linalg.norm(results[0] - results[1])
    assert 0.95 * SUM.l2 < moved <= SUM.l2


# Values that are private already.


TRAINED = VectorLayout((Field("update", 6, 2.0), Field("turned", 8, 1.0, rotated=True)), 22)
LOCAL_PLAN = replace(
    plan(),
    noise="local",
    releases=(
        PlannedRelease("test", 3, Mechanism("customer", "local", SUM, 0.5, 4), ((0.3, 1.0),)),
    ),
)


def trained(doorway: PrivateDoorway, train: Callable) -> Mapping[str, np.ndarray]:
    slot = doorway.consortium.collect(TRAINED, doorway.consortium.advertise())
    vector = doorway.door.release_trained(
        slot.release_request(WHO),
        LOCAL_PLAN,
        doorway.statement,
        TRAINED,
        INPUT_HASH,
        train,
        np.random.default_rng(0),
    )
    seed = doorway.party.rotation_seed(slot.slot, INPUT_HASH)
    nothing = {"update": np.zeros(6), "turned": np.zeros(8)}
    still = TRAINED.encode(nothing, np.random.default_rng(0), seed)
    doorway.consortium.release(slot, dict.fromkeys(slot.cohort, still), lost=[WHO])
    slot.receive(vector)
    return doorway.consortium.unmask(slot).values


def test_trained_values_are_cut_to_their_bounds_and_charged_for_all_their_steps(doorway):
    turned = np.arange(8.0)
    values = {"update": np.array([1.0, 5.0, -5.0, np.nan, np.inf, 0.5]), "turned": turned}
    opened = trained(doorway, lambda: values)
    assert np.allclose(opened["update"], [1.0, 2.0, -2.0, 0.0, 2.0, 0.5], atol=1e-3)
    assert np.allclose(opened["turned"], turned / np.linalg.norm(turned), atol=1e-3)
    assert set(opened) == {"update", "turned"}
    (entry,) = doorway.ledger.entries(1e-5)
    mechanism = LOCAL_PLAN.release("test").mechanism
    assert entry.charge.curve == tuple(mechanism.curve.tolist())
    assert entry.charge.delta == 4 * 2.0**-64


def test_where_training_fails_zeros_leave_in_the_same_form_and_are_charged(doorway, caplog):
    def fails() -> Mapping[str, np.ndarray]:
        raise ValueError("row 17")

    opened = trained(doorway, fails)
    assert np.allclose(opened["update"], 0, atol=1e-5)
    assert np.allclose(opened["turned"], 0, atol=1e-5)
    assert doorway.charged() == 1
    assert "zeros are released" in caplog.text


def test_trained_values_pass_the_same_steps(doorway):
    EVENTS.clear()

    def train() -> Mapping[str, np.ndarray]:
        EVENTS.append("compute")
        return {"update": np.zeros(6), "turned": np.zeros(8)}

    trained(doorway, train)
    mine = EVENTS[EVENTS.index("policy") :]
    assert mine[: len(STEPS)] == STEPS
