"""What each feature and target of CRM records means, by small examples worked by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.online_retail import customers_of
from fgcif_flwr.config import SimulatorSection
from fgcif_flwr.data.crm import contacts
from fgcif_flwr.data.crm.features import build_features
from fgcif_flwr.data.crm.outcome import refuse_short_horizon
from fgcif_flwr.data.crm.sentiment import sentiment_scores
from fgcif_flwr.data.crm.topics import WHOLE, topic_shares
from fgcif_flwr.data.crm.window import Window
from fgcif_flwr.data.encoding import bucket, encode
from fgcif_flwr.data.schema import Schema, load_schema, schema_from_toml
from fgcif_flwr.data.simulator import simulate
from fgcif_flwr.errors import DataError, MissingColumnError, SchemaError, ValueOutOfKindError
from tests.crm_records import CUTOFF, Row, attached, built, contact, day, event, line, schema

LATE = line("zoe", 61.0)
BOUGHT = [line("ann", -1.0), LATE]


def one(component: str, rows: list[Row], *columns: str, **more: Any) -> Row:
    """Ann's features from rows of one component (and a purchase, so that she is a customer)."""
    purchases = rows if component == "transactions" else BOUGHT
    components = {"transactions": [*purchases, LATE], **({component: rows} if rows else {})}
    components["transactions"] = [*purchases, LATE]
    return built(components, schema(columns, targets=("churn",), **more))["ann"]


def test_purchases_by_hand() -> None:
    rows = [
        line("ann", -100, 10.0, invoice="1", category="food", channel="web", product="p"),
        line("ann", -100, 5.0, invoice="1", category="food", channel="phone", product="q"),
        line("ann", -80, 20.0, invoice="2", category="tools", channel="web", product="p"),
        line("ann", -20, 65.0, invoice="3", category="toys", channel="shop", product=None),
        line("ann", -10, -65.0, invoice="4", category="toys", returned=True, product="r"),
        line("ann", 5, 999.0, invoice="5", category="tools"),
    ]
    for row, discounted in zip(rows, (True, None, False, False, True, True), strict=True):
        row["discounted"] = discounted
    found = built({"transactions": [*rows, LATE]})["ann"]
    assert found["recency_days"] == 20
    assert found["frequency"] == 3
    assert found["monetary"] == 100
    assert found["average_order"] == pytest.approx(100 / 3)
    assert found["tenure_days"] == 100
    assert found["mean_interpurchase_days"] == 40
    assert found["interpurchase_trend"] == (60 - 20) / (60 + 20)
    assert found["recent_share"] == 0.85
    assert found["spend_trend"] == pytest.approx((85 - 15) / 100)
    assert found["category_share:food"] == 0.5
    assert found["category_share:tools"] == 0.25
    assert found["favourite_category"] == "food"
    assert found["main_channel"] == "web"
    assert found["discount_share"] == pytest.approx(1 / 3)
    assert found["returns"] == 1
    assert found["return_share"] == 0.2
    assert found["distinct_products"] == 2
    assert (found["churn"], found["value"], found["next_category"]) == ("no", 999.0, "tools")


def test_without_invoices_a_purchase_is_what_was_bought_at_one_time() -> None:
    rows = [line("ann", -5), line("ann", -5), line("ann", -3)]
    assert one("transactions", rows, "frequency")["frequency"] == 2


def test_of_a_huge_text_the_beginning_is_read_and_parts_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = "great " * 5
    rows = [
        contact("ann", -9, text=good + "x" * 10_000 + " terrible" * 1000),
        *(contact("ann", -8, text=f"happy word{chr(97 + i)}") for i in range(20)),
    ]
    whole = one("interactions", rows, "sentiment", "topic:0")
    short = [contact("ann", -9, text=good), *rows[1:]]
    assert whole["sentiment"] == one("interactions", short, "sentiment")["sentiment"]
    monkeypatch.setattr(contacts, "CHARACTERS_AT_ONCE", 500)
    assert one("interactions", rows, "sentiment", "topic:0") == whole


def test_sums_are_exact_in_any_order() -> None:
    amounts = (0.1, 0.2, 0.3, 1e9, 0.7)
    for order in (amounts, amounts[::-1], sorted(amounts)):
        rows = [line("ann", -2, amount) for amount in order]
        assert one("transactions", rows, "monetary")["monetary"] == 1_000_000_001.3


def test_equally_common_words_give_the_first_of_the_alphabet() -> None:
    rows = [line("ann", -2, category="tools"), line("ann", -3, category="food")]
    found = one("transactions", rows, "favourite_category")
    assert found["favourite_category"] == "food"


def test_the_country_is_that_of_the_last_purchase() -> None:
    rows = [line("ann", -2, country="AT"), line("ann", -9, country="BE"), line("ann", -1)]
    assert one("transactions", rows, "country")["country"] == "AT"


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 10**6)), min_size=1, max_size=40))
def test_occasions_and_sums_agree_with_plain_python(purchases: list[tuple[int, int]]) -> None:
    rows = [line("ann", -days, cents / 100, invoice=str(days)) for days, cents in purchases]
    columns = ("frequency", "monetary", "interpurchase_trend", "mean_interpurchase_days")
    found = one("transactions", rows, *columns)
    times = sorted({-days for days, _ in purchases})
    assert found["frequency"] == len(times)
    assert found["monetary"] == sum(cents for _, cents in purchases) / 100
    gaps = np.diff(times)
    if len(gaps) == 0:
        assert found["mean_interpurchase_days"] is None
    else:
        assert found["mean_interpurchase_days"] == pytest.approx(gaps.mean())
    if len(gaps) < 2:
        assert found["interpurchase_trend"] is None
    else:
        early, late = gaps[: len(gaps) // 2].mean(), gaps[len(gaps) // 2 :].mean()
        assert found["interpurchase_trend"] == pytest.approx((late - early) / (late + early))


def test_views_become_sessions_by_pauses_and_by_name() -> None:
    minute = 1 / 24 / 60
    rows = [
        event("ann", -50),
        event("ann", -50 + 20 * minute),
        event("ann", -50 + 50 * minute, pages=2.0),  # exactly 30 minutes later: still the same
        event("ann", -50 + 81 * minute),  # 31 minutes later: another
        event("ann", -120, session="s", dwell_seconds=30.0),
        event("ann", -119, session="s", dwell_seconds=30.0),
        event("bob", -50 + 10 * minute),
    ]
    found = one("events", rows, "sessions", "pages_per_session", "depth", "dwell_minutes",
                "days_since_session", "session_trend")  # fmt: skip
    assert found["sessions"] == 3
    assert found["depth"] == 4
    assert found["pages_per_session"] == pytest.approx((4 + 1 + 2) / 3, abs=1e-4)
    assert found["dwell_minutes"] == (50 + 1) / 2  # a session of one view has no known length
    assert found["days_since_session"] == pytest.approx(50 - 81 * minute, abs=1e-4)
    assert found["session_trend"] == pytest.approx((2 - 1) / 3)


def test_a_row_of_a_session_knows_best_and_its_views_add_no_other() -> None:
    rows = [
        event("ann", -5, "session", session="s", pages=7.0, dwell_seconds=120.0),
        event("ann", -5, session="s"),
        event("ann", -3, "session", pages=1.0),
        event("ann", -3, "session", pages=4.0),
    ]
    found = one("events", rows, "sessions", "depth", "pages_per_session", "dwell_minutes")
    assert found["sessions"] == 3
    assert found["depth"] == 7
    assert found["pages_per_session"] == 4
    assert found["dwell_minutes"] == 2


def test_campaigns_are_counted_apart_from_sessions() -> None:
    rows = [event("ann", -5, "campaign", clicked=clicked) for clicked in (True, False, None)]
    found = one("events", rows, "campaigns_shown", "click_rate", "sessions", "session_trend")
    assert found["campaigns_shown"] == 3
    assert found["click_rate"] == 0.5
    assert found["sessions"] == 0
    assert found["session_trend"] is None


def test_contacts_by_hand() -> None:
    rows = [
        contact("ann", -9, channel="web", open_hours=4.0, satisfaction=5.0, sentiment=0.5),
        contact("ann", -8, channel="phone", closed=day(-7), sentiment=-0.25, text="great"),
        contact("ann", -1, channel="fax", closed=day(1), satisfaction=1.0, open_hours=48.0),
    ]
    found = one("interactions", rows, "contacts", "contacts:web", "contacts:phone", "open_hours",
                "satisfaction", "sentiment")  # fmt: skip
    assert found["contacts"] == 3
    assert (found["contacts:web"], found["contacts:phone"]) == (1, 1)
    assert found["open_hours"] == (4 + 24) / 2  # the third was still open at the cut-off
    assert found["satisfaction"] == 5
    assert found["sentiment"] == 0.125  # as mapped; a text adds nothing to it


def test_a_text_says_how_the_customer_feels_where_nothing_else_does() -> None:
    rows = [contact("ann", -9, text="This is a terrible, terrible problem.")]
    (score,) = sentiment_scores(pa.array([rows[0]["text"]]))
    assert one("interactions", rows, "sentiment")["sentiment"] == pytest.approx(score, abs=1e-4)
    assert score < -0.5


def test_topics_are_buckets_of_terms_or_of_the_topic_where_it_is_known() -> None:
    rows = [
        contact("ann", -9, text="Invoice, the invoice: my PARCEL was ok"),
        contact("ann", -8, topic=" Billing ", text="words that are not looked at"),
        contact("ann", -7, text="ok"),
    ]
    found = one("interactions", rows, *(f"topic:{b}" for b in range(4)))
    expected = np.zeros(4)
    expected[bucket("invoice", 4)] += 2 / 3
    expected[bucket("parcel", 4)] += 1 / 3
    expected[bucket("billing", 4)] += 1
    assert [found[f"topic:{b}"] for b in range(4)] == pytest.approx(expected / 2, abs=1e-5)


def test_a_customer_without_records_has_counts_of_0_and_no_means() -> None:
    others = {"events": [event("bob", -1)], "interactions": [contact("bob", -1)]}
    found = built({"transactions": BOUGHT, **others})["ann"]
    for column in ("sessions", "campaigns_shown", "contacts", "contacts:web", "returns"):
        assert found[column] == 0
    for column in ("days_since_session", "click_rate", "sentiment", "topic:0", "open_hours"):
        assert found[column] is None


def test_features_of_a_component_that_is_not_there_are_missing() -> None:
    found = built({"transactions": BOUGHT})["ann"]
    assert found["sessions"] is None
    assert found["contacts"] is None
    assert found["frequency"] == 1


def test_the_table_has_the_columns_of_the_schema_in_order_by_id() -> None:
    chosen = schema(["recency_days", "monetary"], targets=("value", "churn"))
    rows = [line("b", -1), line("a", -1), line("B", -1), LATE]
    with attached({"transactions": rows}) as connection:
        table = build_features(connection, chosen)
        left = connection.execute("SELECT count(*) FROM duckdb_tables()").fetchone()
    assert table.column_names == ["id", "recency_days", "monetary", "value", "churn"]
    assert table["id"].to_pylist() == ["B", "a", "b"]
    assert left == (0,)


def test_who_counts_as_a_customer_by_each_rule() -> None:
    people = [
        {"customer": "new", "since": day(0)},
        {"customer": "gone", "since": day(-99), "contract_end": day(-1)},
        {"customer": "ends", "since": day(-99), "contract_end": day(0), "churned": "no"},
        {"customer": "later", "since": day(-99), "contract_end": day(60), "churned": "yes"},
        {"customer": "open", "churned": "no"},
    ]
    components = {"customers": people, "transactions": [line("ends", -1), line("new", 1), LATE]}
    by_contract = built(components, schema(churn="contract-ended"))
    assert {i: row["churn"] for i, row in by_contract.items()} == {
        "ends": "yes",
        "later": "no",
        "open": "no",
    }
    by_column = built(components, schema(churn="column"))
    assert {i: row["churn"] for i, row in by_column.items()} == {
        "gone": None,
        "ends": "no",
        "later": "yes",
        "open": "no",
    }
    assert set(built(components)) == {"ends"}
    assert by_contract["ends"]["tenure_days"] == 99
    assert by_contract["open"]["tenure_days"] is None


def test_the_next_category_is_one_of_the_agreed_words() -> None:
    rows = [line("ann", -1), line("ann", 2, category="toys"), line("ann", 3, category="tools")]
    rows += [line("bob", -1), line("bob", 70, category="food"), LATE]
    found = built({"transactions": rows})
    assert found["ann"]["next_category"] == "tools"
    assert found["bob"]["next_category"] is None
    assert (found["bob"]["churn"], found["bob"]["value"]) == ("yes", 0.0)


def test_master_data_pass_through_under_any_name() -> None:
    name = 'plan" FROM nowhere; --'
    chosen = schema(["frequency"], targets=("churn",), master=[name])
    tree = chosen.model_dump(exclude_none=True)
    tree["features"] = [
        *tree["features"],
        {"name": "p", "column": name, "kind": "categorical", "buckets": 4},
    ]
    chosen = Schema.model_validate(tree)
    with attached({"transactions": BOUGHT}) as connection:
        connection.register("customers", pa.table(
            {"customer": ["ann"], "since": pa.nulls(1, pa.timestamp("us")), name: ["gold"]}
        ))  # fmt: skip
        table = build_features(connection, chosen)
    assert table[name].to_pylist() == ["gold"]


def test_another_cutoff_moves_everything() -> None:
    rows = [line("ann", -40, 7.0), line("ann", -10, 5.0), line("ann", 61, 1.0)]
    earlier = (CUTOFF - timedelta(days=30)).date()
    found = built({"transactions": rows}, cutoff=earlier)["ann"]
    assert found["recency_days"] == 10
    assert found["value"] == 5.0


def test_scoring_needs_no_horizon_and_training_does() -> None:
    components = {"transactions": [line("ann", -1)]}
    assert "churn" not in built(components, targets=False)["ann"]
    with pytest.raises(DataError, match="end before the 60 days from the cut-off 2024-07-01"):
        built(components)
    last_day = {"transactions": [line("ann", -1), line("bob", 59.0)]}
    assert built(last_day)["ann"]["churn"] == "yes"


@pytest.mark.parametrize(
    ("components", "records", "error", "words"),
    [
        ({"events": []}, {}, DataError, "no-purchase, wants transactions"),
        ({"transactions": BOUGHT}, {"churn": "column"}, DataError, "column, wants customers"),
        (
            {"customers": [{"customer": "ann"}]},
            {"churn": "contract-ended"},
            DataError,
            "targets want transactions",
        ),
        ({"transactions": [LATE]}, {}, DataError, "no customer has a purchase before"),
        (
            {"transactions": BOUGHT, "customers": [{"customer": "ann"}, {"customer": "ann"}]},
            {},
            DataError,
            "1 customers are there more than once",
        ),
        ({"transactions": BOUGHT}, {"master": ["plan"]}, MissingColumnError, "lack|wants plan"),
        (
            {"transactions": BOUGHT, "customers": [{"customer": "ann"}]},
            {"master": ["plam"]},
            MissingColumnError,
            r"lack plam \(there is plan\)",
        ),
        (
            {"transactions": [line("ann", -1, float("inf")), LATE]},
            {},
            ValueOutOfKindError,
            "transactions, amount: 1 of 1 rows",
        ),
        (
            {"transactions": BOUGHT, "events": [event("ann", -1, pages=1e300)]},
            {},
            ValueOutOfKindError,
            "events, pages: 1 of 1 rows",
        ),
        (
            {"transactions": BOUGHT, "interactions": [contact("ann", -1, satisfaction=1e13)]},
            {},
            ValueOutOfKindError,
            "interactions, satisfaction: 1 of 1 rows",
        ),
    ],
)
def test_what_cannot_be_derived_is_refused_with_what_to_do(
    components: dict[str, list[Row]], records: dict[str, Any], error: type[Exception], words: str
) -> None:
    chosen = schema(**records)
    if "master" in records:
        tree = chosen.model_dump(exclude_none=True)
        (name,) = records["master"]
        more = {"name": "m", "column": name, "kind": "categorical", "buckets": 4}
        tree["features"] = [*tree["features"], more]
        chosen = Schema.model_validate(tree)
    with pytest.raises(error, match=words) as caught:
        built(components, chosen)
    assert "ann" not in str(caught.value)


def test_an_error_of_the_engine_quotes_no_value() -> None:
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE VIEW transactions AS SELECT 'jane.doe' AS customer, "
            "CAST('jane.doe' AS TIMESTAMP) AS time, 1.0 AS amount, false AS returned"
        )
        with pytest.raises(DataError, match="ConversionException") as caught:
            build_features(connection, schema(["monetary"], targets=("churn",)))
    assert "jane" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("columns", "records", "words"),
    [
        (["recency_day"], {}, "column recency_day is none .* did you mean recency_days?"),
        (["category_share:toys"], {}, "did you mean category_share:tools"),
        (["topic:4"], {}, "column topic:4 is none"),
        (["plan"], {}, "to be named in records.master"),
        (["value"], {}, "known after the cut-off only"),
        (["frequency"], {"master": ["churn"]}, "master names churn"),
        (["frequency"], {"categories": ["a", "a"]}, "categories names a word twice"),
        (["frequency"], {"horizon_days": 0}, "horizon_days"),
        (["frequency"], {"horizon": 5}, "did you mean horizon_days?"),
    ],
)
def test_a_schema_names_what_is_derived_or_is_refused(
    columns: list[str], records: dict[str, Any], words: str
) -> None:
    with pytest.raises(SchemaError, match=words):
        schema(columns, targets=("churn",), **records)


def test_a_schema_of_records_wants_an_id_and_no_transactions() -> None:
    text = load_schema("online-retail-records").to_toml()
    with pytest.raises(SchemaError, match="wants an id_column"):
        schema_from_toml(text.replace('id_column = "CustomerID"', ""), "test")
    both = load_schema("online-retail").model_dump() | {
        "records": load_schema("online-retail-records").records
    }
    with pytest.raises(SchemaError, match="one of the two"):
        Schema.model_validate(both)


def test_records_are_in_the_hash_and_leave_other_hashes_alone() -> None:
    assert load_schema("telco").hash.startswith("69abc0cb851e61cf")
    assert load_schema("online-retail").hash.startswith("5a6abec5b002aadb")
    assert schema().hash != schema(recent_days=91).hash
    for name in ("crm", "online-retail-records"):
        loaded = load_schema(name)
        again = schema_from_toml(loaded.to_toml(), "again")
        assert (again, again.hash) == (loaded, loaded.hash)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("good", "bad"),
        ("good", "not good"),
        ("very good", "good"),
        ("good!", "good"),
        ("not bad", "bad"),
        ("I don’t like it, but the help was great", "the help was great, but I don't like it"),
        ("good", ""),
    ],
)
def test_sentiment_follows_negation_strength_and_contrast(better: str, worse: str) -> None:
    scores = sentiment_scores(pa.array([better, worse]))
    assert scores[0] > scores[1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=40) | st.just("not very good but fine!"), max_size=8))
def test_a_texts_sentiment_and_topics_depend_on_itself_alone(texts: list[str]) -> None:
    scores = sentiment_scores(pa.array(texts, pa.string()))
    assert np.all(np.abs(scores) < 1)
    place, _, shares = topic_shares(pa.array(texts, pa.string()), 8)
    sums = np.bincount(place, shares, minlength=len(texts))
    for index, text in enumerate(texts):
        assert sentiment_scores(pa.array([text]))[0] == scores[index]
        assert sums[index] == 0 or abs(sums[index] - WHOLE) <= 8


def test_topics_hash_as_the_encoding_does() -> None:
    place, found, shares = topic_shares(pa.array(["parcel PARCEL", "a an"]), 64)
    assert (place.tolist(), found.tolist(), shares.tolist()) == (
        [0],
        [bucket("parcel", 64)],
        [WHOLE],
    )


def test_the_simulators_records_become_customers_of_the_crm_schema() -> None:
    records = simulate(SimulatorSection(customers=150), enterprises=2, seed=3)
    chosen = load_schema("crm")
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        for name in ("transactions", "events", "interactions"):
            connection.register(f"{name}_raw", getattr(records, name))
        connection.execute(
            "CREATE VIEW transactions AS SELECT customer_id AS customer, time::TIMESTAMP AS time, "
            "amount, category, channel, NULL::VARCHAR AS product, NULL::VARCHAR AS invoice, "
            "NULL::VARCHAR AS country, returned, discounted FROM transactions_raw"
        )
        connection.execute(
            "CREATE VIEW events AS SELECT customer_id AS customer, time::TIMESTAMP AS time, kind, "
            "NULL::VARCHAR AS session, pages, dwell_seconds, clicked FROM events_raw"
        )
        connection.execute(
            "CREATE VIEW interactions AS SELECT customer_id AS customer, time::TIMESTAMP AS time, "
            "NULL::TIMESTAMP AS closed, channel, topic, text, NULL::DOUBLE AS sentiment, "
            "satisfaction, resolution_hours AS open_hours FROM interactions_raw"
        )
        table = build_features(connection, chosen)
        mood = connection.execute(
            "SELECT sentiment, count(*), list(DISTINCT text) FROM interactions_raw GROUP BY 1"
        ).fetchall()
    encoded = encode(chosen, table)
    assert len(encoded) > 100
    assert 0.05 < np.mean(encoded.targets["churn"]) < 0.8
    assert np.all(encoded.categorical[:, 0] != 1)
    means = {word: sentiment_scores(pa.array(texts)).mean() for word, _, texts in mood}
    assert means["negative"] < means["neutral"] < means["positive"]


def test_online_retail_has_the_customers_that_it_is_known_for(
    public: Callable[[str], Path],
) -> None:
    file = public("online_retail/online_retail.parquet")
    chosen = load_schema("online-retail-records")
    assert chosen.records is not None
    assert chosen.records.cutoff == date(2011, 9, 10)
    table = customers_of(file)
    assert table.num_rows == 3370
    encoded = encode(chosen, table)
    assert encoded.targets["churn"].sum() == 1449
    assert np.all(encoded.categorical >= 2)


def test_an_enterprise_may_say_up_to_when_its_records_are_complete():
    window = Window.of(load_schema("crm").records, None, True)
    with duckdb.connect(":memory:") as connection:
        connection.execute("CREATE TABLE transactions AS SELECT TIMESTAMP '2000-01-01' AS time")
        with pytest.raises(DataError, match="complete_until"):
            refuse_short_horizon(connection, window, None)
        with pytest.raises(DataError, match="before the horizon ends"):
            refuse_short_horizon(connection, window, window.until.date() - timedelta(days=1))
        refuse_short_horizon(connection, window, window.until.date())
