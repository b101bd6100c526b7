"""What features must not know: the future, the order of rows, and other customers."""

from __future__ import annotations

import os
import random
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.crm_records import CUTOFF, Components, Row, built, contact, day, event, line, schema

CUSTOMERS = ("ann", "bob", "cyd")
# Ann and bob are customers by every rule but that of contracts, and zoe by each; her last line is
# from after the horizon.
ALWAYS = [*(line(name, -1.0) for name in ("ann", "bob", "zoe")), line("zoe", 61.0)]

some = st.sampled_from
maybe = st.none() | st.booleans()
words = st.none() | some(["food", "tools", "toys"])
seconds = st.integers(-120 * 24 * 60, 60 * 24 * 60 - 1).map(lambda minutes: minutes / 24 / 60)
# Sums of such numbers, as floats, differ by their order.
amounts = st.integers(0, 10**8).map(lambda cents: cents / 100)
parts = st.integers(0, 10**4).map(lambda number: number / 100)

lines = st.builds(
    line,
    some(CUSTOMERS),
    seconds,
    st.none() | amounts,
    category=words,
    channel=words,
    product=words,
    invoice=words,
    country=words,
    returned=st.booleans(),
    discounted=maybe,
)
events = st.builds(
    event,
    some(CUSTOMERS),
    seconds,
    some(["view", "session", "campaign"]),
    session=st.none() | some(["s", "t"]),
    pages=st.none() | parts,
    dwell_seconds=st.none() | parts,
    clicked=maybe,
)


@st.composite
def contacts(draw: st.DrawFn) -> Row:
    row = contact(
        draw(some(CUSTOMERS)),
        draw(seconds),
        channel=draw(words),
        topic=draw(words),
        text=draw(st.none() | some(["I am not happy", "great help, thanks!", "the invoice"])),
        sentiment=draw(st.none() | st.floats(-1, 1)),
        satisfaction=draw(st.none() | parts),
        open_hours=draw(st.none() | parts),
    )
    if draw(st.booleans()):
        row["closed"] = row["time"] + timedelta(hours=draw(st.integers(0, 2000)))
    return row


def master(customer: str) -> st.SearchStrategy[Row]:
    days = st.none() | st.integers(-400, 400)
    return st.builds(
        lambda since, end, churned, plan: {
            "customer": customer,
            "since": None if since is None else day(since),
            "contract_end": None if end is None else day(end),
            "churned": churned,
            "plan": plan,
        },
        days,
        days,
        some(["yes", "no"]),
        words,
    )


crm = st.fixed_dictionaries(
    {
        "transactions": st.lists(lines, min_size=6, max_size=20),
        "events": st.lists(events, min_size=4, max_size=15),
        "interactions": st.lists(contacts(), min_size=4, max_size=10),
        "customers": st.tuples(*(master(name) for name in CUSTOMERS)).map(list),
    }
).map(
    lambda found: {
        **found,
        "transactions": [*found["transactions"], *ALWAYS],
        "customers": [*found["customers"], {"customer": "zoe"}],
    }
)
# A build is some thirty queries, so CI draws few; FGCIF_EXAMPLES asks for more.
few = settings(max_examples=int(os.environ.get("FGCIF_EXAMPLES", "8")), deadline=None)
RULES = ["no-purchase", "contract-ended", "column"]


def later(row: Row) -> bool:
    return bool(row["time"] >= CUTOFF)


def future_of(components: Components, rest: Components) -> Components:
    """The past of the one with the future of the other."""
    return {
        name: rows
        if name == "customers"
        else [*(r for r in rows if not later(r)), *(r for r in rest[name] if later(r))]
        for name, rows in components.items()
    }


def features(found: dict[str, Row]) -> dict[str, Row]:
    outcomes = ("churn", "value", "next_category")
    return {i: {k: v for k, v in row.items() if k not in outcomes} for i, row in found.items()}


@given(crm, crm, some(RULES))
@few
def test_nothing_from_the_cutoff_on_is_in_a_feature(
    one: Components, other: Components, rule: str
) -> None:
    chosen = schema(churn=rule, master=["plan"])
    before = built(one, chosen)
    after = built(future_of(one, other), chosen)
    assert features(before) == features(after)
    # Nor does it matter whether targets are asked for.
    assert features(built(one, chosen, targets=False)) == features(before)


@given(crm, crm)
@few
def test_how_a_contact_ended_after_the_cutoff_is_in_no_feature(
    one: Components, other: Components
) -> None:
    altered = []
    for row, instead in zip(one["interactions"], other["interactions"], strict=False):
        ended = row.get("closed")
        if ended is not None and ended >= CUTOFF:
            row = {**row, "closed": ended + timedelta(days=3)}
            row |= {key: instead[key] for key in ("satisfaction", "open_hours")}
        altered.append(row)
    rest = one["interactions"][len(altered) :]
    again = {**one, "interactions": [*altered, *rest]}
    assert features(built(one)) == features(built(again))


@given(crm, crm)
@few
def test_nothing_from_before_the_cutoff_is_in_a_target_of_purchases(
    one: Components, other: Components
) -> None:
    mixed = future_of(other, one)
    first, second = built(one), built(mixed)
    for customer in first.keys() & second.keys():
        for target in ("churn", "value", "next_category"):
            assert first[customer][target] == second[customer][target]


@given(crm, st.randoms(use_true_random=False), some(RULES))
@few
def test_the_order_of_rows_changes_nothing(
    one: Components, order: random.Random, rule: str
) -> None:
    chosen = schema(churn=rule, master=["plan"])
    shuffled = {name: order.sample(rows, len(rows)) for name, rows in one.items()}
    assert built(one, chosen) == built(shuffled, chosen)


@given(crm, crm, some(RULES))
@few
def test_the_rows_of_one_customer_change_no_other(
    one: Components, other: Components, rule: str
) -> None:
    def without(customer: str, rows: list[Row]) -> list[Row]:
        return [row for row in rows if row["customer"] != customer]

    def of(customer: str, rows: list[Row]) -> list[Row]:
        return [row for row in rows if row["customer"] == customer]

    chosen = schema(churn=rule, master=["plan"])
    mixed = {n: [*without("ann", one[n]), *of("ann", other[n])] for n in one}
    first, second = built(one, chosen), built(mixed, chosen)
    assert {k: v for k, v in first.items() if k != "ann"} == {
        k: v for k, v in second.items() if k != "ann"
    }


@given(crm)
@few
def test_only_the_history_is_looked_at(one: Components) -> None:
    chosen = schema(history_days=30)
    start = CUTOFF - timedelta(days=30)
    cut: dict[str, Any] = {
        name: rows if name == "customers" else [r for r in rows if r["time"] >= start]
        for name, rows in one.items()
    }
    assert built(one, chosen) == built(cut, chosen)
