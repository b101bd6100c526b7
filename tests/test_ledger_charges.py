"""What releases come to for the customers they are about, and when that is too much."""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgcif_flwr.errors import BudgetExhaustedError, PrivacyError
from fgcif_flwr.privacy.accounting import ORDERS, epsilon_of, zero_curve
from fgcif_flwr.privacy.ledger import Charge, SqliteLedger
from fgcif_flwr.privacy.ledger.charges import (
    Total,
    added,
    by_place,
    decode_charges,
    encode_charges,
)

DELTA = 1e-5
CURVE = np.array(ORDERS) * 1e-3


def charge(times: float = 1.0, lower: float = 0.0, upper: float = 1.0, **values: object) -> Charge:
    given_values = {"run": "run", "task": "task", "slot": 1, "unit": "customer", "delta": 0.0}
    given_values |= {"curve": times * CURVE, "lower": lower, "upper": upper, **values}
    return Charge(**given_values)


@pytest.fixture
def ledger(tmp_path):
    with SqliteLedger(tmp_path / "ledger", "customers") as opened:
        yield opened


def test_nothing_is_spent_at_first(ledger):
    spent = ledger.spent(DELTA)
    assert (spent.epsilon, spent.stretches, spent.entries, spent.reserved) == (0.0, (), 0, 0)


def test_releases_about_the_same_customers_add_up(ledger):
    for slot in range(3):
        ledger.reserve([charge(slot=slot, delta=1e-6)], 10, DELTA)
    assert ledger.spent(DELTA).epsilon == pytest.approx(epsilon_of(3 * CURVE, 7e-6), rel=1e-9)


def test_releases_about_others_do_not(ledger):
    ledger.reserve([charge(2, 0.0, 0.5), charge(1, 0.5, 0.75)], 10, DELTA)
    spent = ledger.spent(DELTA)
    assert [(one.lower, one.upper, one.charges) for one in spent.stretches] == [
        (0.0, 0.5, 1),
        (0.5, 0.75, 1),
    ]
    assert spent.epsilon == spent.stretches[0].epsilon == epsilon_of(2 * CURVE, DELTA)
    assert spent.stretches[1].epsilon == epsilon_of(CURVE, DELTA)


def test_stretches_that_overlap_are_charged_both_where_they_do(ledger):
    ledger.reserve([charge(1, 0.0, 0.6), charge(2, 0.4, 1.0)], 10, DELTA)
    parts = {(one.lower, one.upper): one.epsilon for one in ledger.spent(DELTA).stretches}
    assert parts == {
        (0.0, 0.4): epsilon_of(CURVE, DELTA),
        (0.4, 0.6): pytest.approx(epsilon_of(3 * CURVE, DELTA)),
        (0.6, 1.0): epsilon_of(2 * CURVE, DELTA),
    }


def test_a_charge_for_the_enterprise_counts_for_every_customer(ledger):
    ledger.reserve([charge(1, 0.0, 0.5)], 10, DELTA)
    ledger.reserve([charge(2, 0.5, 0.6, unit="enterprise")], 10, DELTA)
    ledger.reserve([charge(2, 0.0, 0.1, unit="enterprise")], 10, DELTA)
    parts = {(one.lower, one.upper): one.epsilon for one in ledger.spent(DELTA).stretches}
    assert parts == {
        (0.0, 0.5): pytest.approx(epsilon_of(5 * CURVE, DELTA)),
        (0.5, 1.0): pytest.approx(epsilon_of(4 * CURVE, DELTA)),
    }


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 7), st.integers(1, 8), st.integers(1, 50)).filter(
            lambda one: one[0] < one[1]
        ),
        max_size=12,
    )
)
def test_each_place_has_been_charged_what_the_definition_says(rows):
    totals = added({}, [charge(cost, low / 8, high / 8, delta=1e-9) for low, high, cost in rows])
    places = by_place(totals)
    for eighth in range(8):
        here = [cost for low, high, cost in rows if low <= eighth < high]
        found = [
            total for (low, high), total in places if low <= eighth / 8 and (eighth + 1) / 8 <= high
        ]
        assert len(found) == bool(here)
        for total in found:
            assert total.charges == len(here)
            np.testing.assert_allclose(total.curve, sum(here) * CURVE, rtol=1e-12)
            assert total.tail == pytest.approx(1e-9 * len(here))


def test_sums_are_never_below_the_exact_ones():
    rng = np.random.default_rng(11)
    total, exact = Total(zero_curve()), [Fraction(0)] * len(ORDERS)
    tail = Fraction(0)
    for _ in range(200):
        curve = rng.exponential(size=len(ORDERS))
        total = total.plus(curve, 1e-9)
        exact = [one + Fraction(value) for one, value in zip(exact, curve.tolist(), strict=True)]
        tail += Fraction(1e-9)
    plain = [Fraction(value) for value in total.curve.tolist()]
    assert all(one >= other for one, other in zip(plain, exact, strict=True))
    assert Fraction(total.tail) >= tail
    np.testing.assert_allclose(total.curve, [float(one) for one in exact], rtol=1e-12)


def test_what_would_pass_the_limit_is_refused_and_not_charged(ledger):
    limit = epsilon_of(2.5 * CURVE, DELTA)
    ledger.reserve([charge(slot=1)], limit, DELTA)
    ledger.reserve([charge(slot=2)], limit, DELTA)
    before = ledger.head
    with pytest.raises(BudgetExhaustedError) as caught:
        ledger.reserve([charge(slot=3)], limit, DELTA)
    spent, alone, reached = (epsilon_of(times * CURVE, DELTA) for times in (2, 1, 3))
    assert str(caught.value) == (
        f"the privacy budget does not cover this: epsilon {spent:.4g} is spent, this alone is "
        f"{alone:.4g}, with it {reached:.4g} would be spent, and the total limit is {limit:.4g}, "
        "all at delta 1e-05; release nothing more, or raise the limit knowingly"
    )
    assert ledger.head == before
    ledger.reserve([charge(0.25, slot=3)], limit, DELTA)


def test_a_limit_that_is_reached_exactly_is_kept(ledger):
    ledger.reserve([charge()], epsilon_of(CURVE, DELTA), DELTA)
    with pytest.raises(BudgetExhaustedError):
        ledger.reserve([charge(1e-6)], ledger.spent(DELTA).epsilon, DELTA)


def test_tails_that_take_up_delta_exhaust_the_budget(ledger):
    ledger.reserve([charge(delta=9e-6)], 10, DELTA)
    for tail in (1e-6, 0.5):
        with pytest.raises(BudgetExhaustedError, match="with it inf would be spent"):
            ledger.reserve([charge(delta=tail)], 10, DELTA)
    assert ledger.spent(8e-6).epsilon == math.inf


def test_a_curve_without_a_claim_fits_no_budget(ledger):
    with pytest.raises(BudgetExhaustedError, match="this alone is inf"):
        ledger.reserve([charge(math.inf)], 1e9, DELTA)


def test_asking_whether_charges_would_fit_charges_nothing(ledger):
    limit = epsilon_of(2.5 * CURVE, DELTA)
    ledger.check([charge(), charge(task="other", slot=2)], limit, DELTA)
    with pytest.raises(BudgetExhaustedError):
        ledger.check([charge()] * 3, limit, DELTA)
    assert ledger.head.length == 0


def test_a_task_is_charged_as_often_as_its_plan_says(ledger):
    for slot in (1, 2):
        ledger.reserve([charge(slot=slot)], 10, DELTA, 2)
    with pytest.raises(BudgetExhaustedError, match="task was charged 2 times in this run"):
        ledger.reserve([charge(slot=3)], 10, DELTA, 2)
    ledger.reserve([charge(task="other")], 10, DELTA, 2)
    ledger.reserve([charge(run="other")], 10, DELTA, 2)
    assert ledger.head.length == 4


def test_a_reservation_counts_whether_or_not_it_is_released(ledger):
    first = ledger.reserve([charge(slot=1)], 10, DELTA)
    second = ledger.reserve([charge(slot=2)], 10, DELTA)
    reserved = ledger.spent(DELTA)
    ledger.commit(first)
    ledger.commit(first)
    released = ledger.spent(DELTA)
    assert (first, second) == (1, 2)
    assert (reserved.entries, reserved.reserved) == (2, 2)
    assert (released.entries, released.reserved) == (2, 1)
    assert reserved.epsilon == released.epsilon == pytest.approx(epsilon_of(2 * CURVE, DELTA))


def test_only_what_was_reserved_can_be_marked_as_released(ledger):
    ledger.record_join("run")
    for number in (0, 1, 2):
        with pytest.raises(ValueError, match=f"no reservation {number}"):
            ledger.commit(number)


def test_what_a_run_spent_is_told_apart(ledger):
    ledger.reserve([charge(1, run="first")], 10, DELTA)
    ledger.commit(ledger.reserve([charge(2, run="second")], 10, DELTA))
    one, other = ledger.spent_in_run("first", DELTA), ledger.spent_in_run("second", DELTA)
    assert (one.epsilon, one.entries, one.reserved) == (epsilon_of(CURVE, DELTA), 1, 1)
    assert (other.epsilon, other.entries, other.reserved) == (epsilon_of(2 * CURVE, DELTA), 1, 0)
    assert ledger.spent_in_run("third", DELTA).entries == 0


def test_an_auditor_reads_what_was_charged(ledger):
    many = [
        [charge(slot=slot, delta=1e-7), charge(2, 0.5, 1.0, slot=slot, unit="enterprise")]
        for slot in range(3)
    ]
    for one in many:
        ledger.reserve(one, 1e3, DELTA)
    ledger.record_join("run")
    ledger.commit(2)
    found = list(ledger.entries(DELTA))
    assert [one.charge for one in found] == [each for one in many for each in one]
    assert [(one.number, one.committed) for one in found] == [
        *[(1, False)] * 2,
        *[(2, True)] * 2,
        *[(3, False)] * 2,
    ]
    assert found[0].epsilon == epsilon_of(CURVE, DELTA - 1e-7)
    assert found[1].epsilon == epsilon_of(2 * CURVE, DELTA)


def test_an_auditor_reads_a_long_ledger_to_its_end(ledger, monkeypatch):
    monkeypatch.setattr("fgcif_flwr.privacy.ledger.sqlite._BATCH", 3)
    for slot in range(7):
        ledger.reserve([charge(slot=slot)], 1e3, DELTA)
    assert [one.charge.slot for one in ledger.entries(DELTA)] == list(range(7))


def test_charges_are_read_as_they_were_written():
    many = [charge(0.5, 0.25, 0.75, slot=(1 << 63) - 1, delta=1e-9), charge(unit="enterprise")]
    read = [
        Charge("run", "task", one.slot, one.unit, one.curve, one.delta, one.lower, one.upper)
        for one in decode_charges(encode_charges(many))
    ]
    assert read == many
    assert encode_charges(read) == encode_charges(many)


def test_equal_charges_have_equal_bytes():
    zero = np.zeros(len(ORDERS))
    plain = charge(curve=zero)
    other = charge(curve=-zero, lower=-0.0, upper=1, delta=-0.0)
    assert encode_charges([plain]) == encode_charges([other])


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": ""},
        {"task": ""},
        {"slot": -1},
        {"slot": 1 << 63},
        {"unit": "none"},
        {"delta": -1e-9},
        {"delta": math.nan},
        {"delta": 1.0},
        {"lower": 0.5, "upper": 0.5},
        {"lower": -0.1},
        {"upper": 1.1},
        {"upper": math.nan},
    ],
)
def test_what_cannot_be_a_charge_is_refused(wrong):
    with pytest.raises(ValueError, match=r"charge|slot|unit|delta|stretch"):
        charge(**wrong)


@pytest.mark.parametrize("curve", [CURVE[:-1], -CURVE, np.full(len(ORDERS), np.nan)])
def test_what_is_no_curve_is_refused(curve):
    with pytest.raises(PrivacyError, match="privacy curve"):
        charge(curve=curve)


def test_a_reservation_is_of_one_release_and_under_a_limit(ledger):
    for wrong in ([], [charge(slot=1), charge(slot=2)], [charge(), charge(task="other")]):
        with pytest.raises(ValueError, match="one release"):
            ledger.reserve(wrong, 1.0, DELTA)
    for epsilon, delta in [(math.nan, DELTA), (math.inf, DELTA), (-1.0, DELTA), (1.0, 0.0)]:
        with pytest.raises(ValueError, match="total limit"):
            ledger.reserve([charge()], epsilon, delta)
    assert ledger.head.length == 0


def test_a_ledger_that_was_open_at_a_fork_is_not_used_in_the_child(ledger, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(PrivacyError, match="opened before a fork"):
        ledger.reserve([charge()], 10, DELTA)
