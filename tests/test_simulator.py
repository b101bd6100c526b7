"""The simulated CRM: seeded, consistent with its own records, and with a known ceiling.

Statistical checks use fixed seeds; each states how often it would fail for a fresh seed if the
code were right.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.metrics import roc_auc_score

from fgcif_flwr.config import SimulatorSection
from fgcif_flwr.data.encoding import encode, feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.data.simulator import SimulatedConsortium, customer_table, simulate
from fgcif_flwr.data.simulator.enterprises import draw_profile
from fgcif_flwr.data.simulator.outcomes import expected_auc
from fgcif_flwr.data.simulator.tables import ENTERPRISE_FEATURES, FEATURES

MISSING, UNSEEN = 0, 1
REFERENCE = 1_735_689_600
DAY = 86_400
COMPLETE = SimulatorSection(customers=400, missingness=0.0)


@pytest.fixture(scope="module")
def small() -> SimulatedConsortium:
    return simulate(COMPLETE, 3, seed=7)


@pytest.fixture(scope="module")
def large() -> SimulatedConsortium:
    return simulate(SimulatorSection(), 50, seed=1)


def churned(table: pa.Table) -> np.ndarray:
    return np.asarray(pc.equal(table["churn"], "yes").cast(pa.int64()))


def churn_rates(table: pa.Table) -> np.ndarray:
    enterprise = np.asarray(table["enterprise"])
    leaving = churned(table)
    return np.array([leaving[enterprise == name].mean() for name in np.unique(enterprise)])


def of_enterprises(table: pa.Table, last: str) -> pa.Table:
    return table.filter(pc.less(table["customer_id"].cast(pa.string()), last))


# Seeds


def test_same_seed_gives_identical_tables(small: SimulatedConsortium) -> None:
    again = simulate(COMPLETE, 3, seed=7)
    for name in ("customers", "transactions", "events", "interactions", "truth"):
        assert getattr(again, name).equals(getattr(small, name)), name
    assert again.ceiling == small.ceiling


def test_another_seed_gives_other_customers(small: SimulatedConsortium) -> None:
    other = customer_table(COMPLETE, 3, seed=8)
    assert not other["spend"].equals(small.customers["spend"])


def test_enterprises_do_not_change_when_others_join(small: SimulatedConsortium) -> None:
    more = simulate(COMPLETE, 5, seed=7)
    for name in ("customers", "transactions", "events", "interactions", "truth"):
        alone = getattr(small, name)
        joined = of_enterprises(getattr(more, name), "e03")
        assert joined.num_rows == alone.num_rows
        for column in alone.column_names:
            assert joined[column].to_pylist() == alone[column].to_pylist(), (name, column)


def test_customers_alone_are_the_customers_of_the_whole_consortium() -> None:
    config = SimulatorSection(customers=50, missingness=0.1)
    assert customer_table(config, 4, seed=3).equals(simulate(config, 4, seed=3).customers)


def test_no_enterprises_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        customer_table(COMPLETE, 0, seed=0)


# Tables


def test_ids_name_enterprise_and_customer(small: SimulatedConsortium) -> None:
    first = small.customers.slice(0, 1).to_pylist()[0]
    assert (first["customer_id"], first["enterprise"]) == ("e00-000000", "enterprise-00")
    assert len(set(small.customers["customer_id"].to_pylist())) == small.customers.num_rows


def test_features_are_those_of_the_schema(small: SimulatedConsortium) -> None:
    schema = load_schema("simulated")
    columns = ["customer_id", "enterprise", *FEATURES, "churn", "segment", "future_value"]
    assert small.customers.column_names == columns
    assert tuple(feature.name for feature in schema.features) == FEATURES
    assert {"customer_id", "enterprise"} <= set(schema.forbidden)


def test_values_are_in_the_vocabularies_and_mostly_inside_the_public_bounds(
    large: SimulatedConsortium,
) -> None:
    schema = load_schema("simulated")
    for feature in schema.features:
        values = large.customers[feature.name].drop_null()
        if feature.kind == "categorical":
            assert set(values.unique().to_pylist()) <= set(feature.vocabulary or ())
        elif feature.kind == "boolean":
            assert set(values.unique().to_pylist()) == {"yes", "no"}
        else:
            array = np.asarray(values)
            outside = np.mean((array < feature.lower) | (array > feature.upper))
            assert outside < 0.001, feature.name


def test_the_table_encodes_without_unseen_or_unexpected_values(large: SimulatedConsortium) -> None:
    schema = load_schema("simulated")
    encoded = encode(schema, large.customers)
    layout = feature_layout(schema)
    assert len(encoded) == large.customers.num_rows
    for index, name in enumerate(layout.categorical):
        codes = encoded.categorical[:, index]
        assert not (codes == UNSEEN).any(), name
        assert (codes == MISSING).sum() == large.customers[name].null_count
    for index, name in enumerate(layout.numeric):
        assert encoded.missing[:, index].sum() == large.customers[name].null_count
    assert np.array_equal(encoded.targets["churn"], churned(large.customers))
    assert encoded.targets["segment"].min() == 0
    assert encoded.targets["segment"].max() == 3


def test_records_lie_in_the_year_before_the_reference_time(small: SimulatedConsortium) -> None:
    for name in ("transactions", "events", "interactions"):
        time = np.asarray(getattr(small, name)["time"].cast(pa.int64()))
        assert time.min() >= REFERENCE - 365 * DAY
        assert time.max() < REFERENCE


def test_records_are_sorted_by_customer_and_time(small: SimulatedConsortium) -> None:
    for name in ("transactions", "events", "interactions"):
        table = getattr(small, name)
        keys = list(
            zip(
                table["customer_id"].to_pylist(),
                table["time"].cast(pa.int64()).to_pylist(),
                strict=True,
            )
        )
        assert keys == sorted(keys)


def test_what_customers_write_agrees_with_the_recorded_sentiment(
    small: SimulatedConsortium,
) -> None:
    rows = small.interactions.to_pylist()
    assert all(1 <= row["satisfaction"] <= 5 for row in rows)
    assert all(row["resolution_hours"] > 0 for row in rows)
    sentiments = defaultdict(set)
    for row in rows:
        sentiments[row["text"]].add(row["sentiment"])
    assert all(len(found) == 1 for found in sentiments.values())


# Features are the aggregates of the records


def records_of(table: pa.Table, customer: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.filter(
        pc.equal(table["customer_id"].cast(pa.string()), customer)
    ).to_pylist()
    return rows


def mean(values: list[float], of_none: float) -> float:
    return sum(values) / len(values) if values else of_none


def days_since_last(rows: list[dict[str, Any]]) -> float:
    return min((REFERENCE - row["time"].timestamp()) / DAY for row in rows) if rows else 365.0


def most_frequent(values: list[str], order: tuple[str, ...]) -> str:
    counts = Counter(values)
    return max(order, key=lambda value: counts[value]) if values else "none"


def recomputed(consortium: SimulatedConsortium, customer: str) -> dict[str, float | str]:
    bought = records_of(consortium.transactions, customer)
    events = records_of(consortium.events, customer)
    visits = [row for row in events if row["kind"] == "session"]
    shown = [row for row in events if row["kind"] == "campaign"]
    contacts = records_of(consortium.interactions, customer)
    sign = {"negative": -1, "neutral": 0, "positive": 1}
    spend = sum(row["amount"] for row in bought)
    recent = [row["time"].timestamp() >= REFERENCE - 90 * DAY for row in bought]
    return {
        "recency_days": days_since_last(bought),
        "purchases": len(bought),
        "spend": spend,
        "average_order": spend / len(bought) if bought else 0.0,
        "recent_share": mean(recent, 0.0),
        "discount_share": mean([row["discounted"] for row in bought], 0.0),
        "return_share": mean([row["returned"] for row in bought], 0.0),
        "favourite_category": most_frequent(
            [row["category"] for row in bought],
            ("basics", "comfort", "family", "travel", "technology", "services"),
        ),
        "main_channel": most_frequent(
            [row["channel"] for row in bought], ("web", "app", "store", "phone")
        ),
        "days_since_session": days_since_last(visits),
        "sessions": len(visits),
        "pages_per_session": mean([row["pages"] for row in visits], 0.0),
        "dwell_minutes": mean([row["dwell_seconds"] / 60 for row in visits], 0.0),
        "campaigns_shown": len(shown),
        "click_rate": mean([row["clicked"] for row in shown], 0.0),
        "contacts": len(contacts),
        "sentiment": mean([sign[row["sentiment"]] for row in contacts], 0.0),
        "resolution_hours": mean([row["resolution_hours"] for row in contacts], 0.0),
        "satisfaction": mean([row["satisfaction"] for row in contacts], 3.0),
    }


def test_features_are_aggregates_of_the_records(small: SimulatedConsortium) -> None:
    rows = small.customers.to_pylist()
    without_purchase = [row for row in rows if row["purchases"] == 0][:3]
    without_visit = [row for row in rows if row["sessions"] == 0][:3]
    assert without_purchase
    assert without_visit
    for row in rows[::60] + rows[-2:] + without_purchase + without_visit:
        for name, value in recomputed(small, row["customer_id"]).items():
            if isinstance(value, str):
                assert row[name] == value, name
            else:
                assert row[name] == pytest.approx(value, rel=1e-12, abs=1e-12), name


# Dials


def spread(rates: np.ndarray) -> float:
    return float(np.std(rates))


def test_label_skew_widens_the_spread_of_churn_rates() -> None:
    # The same draws, scaled by the dial. A rate of 400 customers has a standard error of .022.
    rates = [
        churn_rates(
            customer_table(
                SimulatorSection(customers=400, label_skew=skew, covariate_shift=0, size_skew=0),
                20,
                seed=5,
            )
        )
        for skew in (0.0, 1.0, 3.0)
    ]
    # Of 150 other seeds none passed .031, or fell below factors of 2.7 and 2.0.
    assert spread(rates[0]) < 0.04
    assert spread(rates[1]) > 2 * spread(rates[0])
    assert spread(rates[2]) > 1.5 * spread(rates[1])


@pytest.mark.parametrize("feature", ["spend", "purchases", "satisfaction"])
def test_covariate_shift_moves_enterprises_apart(feature: str) -> None:
    def between(shift: float) -> float:
        config = SimulatorSection(customers=400, covariate_shift=shift, size_skew=0, missingness=0)
        table = customer_table(config, 20, seed=5)
        values = np.log1p(np.asarray(table[feature]).astype(float)).reshape(20, 400)
        return float(values.mean(axis=1).std() / values.std())

    # At 0 the ratio is .05 +- .008. Of 150 other seeds none passed .07, or fell below a factor
    # of 1.8 between neighbouring dials.
    assert between(0.0) < 0.08
    assert between(0.3) > 1.5 * between(0.0)
    assert between(1.0) > 1.5 * between(0.3)


def test_without_dials_enterprises_differ_only_in_what_they_call_themselves() -> None:
    config = SimulatorSection(label_skew=0, covariate_shift=0, size_skew=0)
    one, other = (draw_profile(config, seed=2, index=index) for index in (0, 1))
    assert one.intercept == other.intercept == 0
    assert set(one.shifts.values()) == set(other.shifts.values()) == {0.0}
    assert np.array_equal(one.category_mix, other.category_mix)
    assert one.customers == other.customers == config.customers


def test_size_skew_is_the_sigma_of_log_normal_sizes() -> None:
    for sigma in (0.0, 0.3, 1.0):
        config = SimulatorSection(customers=10_000, size_skew=sigma)
        sizes = np.array([draw_profile(config, seed=4, index=k).customers for k in range(400)])
        # Standard error of a standard deviation: sigma / sqrt(800). Four of them: 6e-5 each.
        assert np.std(np.log(sizes)) == pytest.approx(sigma, abs=4 * sigma / math.sqrt(800) + 1e-3)
        # Var(size) / mean^2 = exp(sigma^2) - 1. Four standard errors: 6e-5 each.
        error = 10_000 * math.sqrt((math.exp(sigma**2) - 1) / 400)
        assert sizes.mean() == pytest.approx(10_000, abs=4 * error + 1)


def test_missingness_is_the_share_of_absent_feature_values() -> None:
    table = customer_table(SimulatorSection(customers=500, missingness=0.1), 5, seed=6)
    names = [name for name in FEATURES if name not in ENTERPRISE_FEATURES]
    error = math.sqrt(0.1 * 0.9 / table.num_rows)
    for name in names:
        # 4.5 standard errors, 23 columns: false alarm 2e-4.
        assert table[name].null_count / table.num_rows == pytest.approx(0.1, abs=4.5 * error)
    never = (*ENTERPRISE_FEATURES, "customer_id", "enterprise", "churn", "segment", "future_value")
    assert all(table[name].null_count == 0 for name in never)


def test_gaps_hide_values_and_change_nothing_else() -> None:
    with_gaps = customer_table(SimulatorSection(customers=200, missingness=0.3), 2, seed=6)
    complete = customer_table(SimulatorSection(customers=200, missingness=0.0), 2, seed=6)
    for name in complete.column_names:
        shown = with_gaps[name].is_valid()
        assert with_gaps[name].filter(shown).equals(complete[name].filter(shown))


# The generating process and its ceiling


def plain_churn_risk(row: dict[str, Any]) -> float:
    frequency = math.log1p(row["purchases"]) - math.log1p(8)
    order = math.log1p(row["average_order"]) - math.log1p(40)
    unhappy = 1 / (1 + math.exp(-2.5 * (3 - row["satisfaction"])))
    by_price = {"budget": -1.5, "standard": 0.0, "premium": 1.5}
    risk: float = (
        math.tanh((row["recency_days"] - 80) / 50)
        + 0.4 * math.tanh((row["days_since_session"] - 60) / 50)
        - (row["recent_share"] - 0.25)
        - 0.45 * (row["satisfaction"] - 3)
        - 0.3 * row["sentiment"]
        + 0.5 * unhappy * math.log1p(row["resolution_hours"] / 6)
        + 0.6 * math.exp(-row["tenure_months"] / 12)
        - 0.4 * (row["loyalty_card"] == "yes")
        - row["click_rate"] * (row["newsletter"] == "yes")
        + 0.5 * row["return_share"]
        - 0.25 * frequency
        - 0.3 * frequency * order
        + by_price[row["price_level"]] * (row["discount_share"] - 0.3)
    )
    return risk


def test_churn_depends_on_the_tables_features_and_one_number_of_the_enterprise(
    small: SimulatedConsortium,
) -> None:
    intercepts = defaultdict(list)
    truth = small.truth["churn"].to_pylist()
    for row, probability in zip(small.customers.to_pylist(), truth, strict=True):
        if 1e-6 < probability < 1 - 1e-6:
            logit = math.log(probability / (1 - probability))
            intercepts[row["enterprise"]].append(logit - 2.75 * (plain_churn_risk(row) - 0.55))
    for index, found in enumerate(intercepts.values()):
        intercept = draw_profile(COMPLETE, seed=7, index=index).intercept
        assert np.allclose(found, intercept, atol=1e-8)


def test_default_dials_give_the_figures_of_the_paper(large: SimulatedConsortium) -> None:
    assert large.ceiling.accuracy == pytest.approx(0.92, abs=0.01)
    assert large.ceiling.auc == pytest.approx(0.97, abs=0.01)
    assert large.ceiling.segment_accuracy == pytest.approx(0.86, abs=0.02)
    assert 0.25 < churned(large.customers).mean() < 0.30
    shares = pc.value_counts(large.customers["segment"]).field("counts").to_numpy()
    assert shares.min() / shares.sum() > 0.08


def test_accuracy_of_the_true_probabilities_is_the_ceiling(large: SimulatedConsortium) -> None:
    probability = np.asarray(large.truth["churn"])
    right = (probability > 0.5) == churned(large.customers)
    error = math.sqrt(np.mean(probability * (1 - probability)) / len(probability))
    # Three standard errors: false alarm 0.0027.
    assert right.mean() == pytest.approx(large.ceiling.accuracy, abs=3 * error)


def test_accuracy_of_the_likeliest_segment_is_the_ceiling(large: SimulatedConsortium) -> None:
    names = large.truth.column_names[2:]
    probability = np.stack([np.asarray(large.truth[name]) for name in names], axis=1)
    drawn = np.asarray(large.customers["segment"])
    right = np.asarray(names)[probability.argmax(axis=1)] == drawn
    best = probability.max(axis=1)
    error = math.sqrt(np.mean(best * (1 - best)) / len(best))
    # Three standard errors: false alarm 0.0027.
    assert right.mean() == pytest.approx(large.ceiling.segment_accuracy, abs=3 * error)


def test_segments_occur_as_often_as_their_probabilities_say(large: SimulatedConsortium) -> None:
    drawn = np.asarray(large.customers["segment"])
    for name in large.truth.column_names[2:]:
        probability = np.asarray(large.truth[name])
        error = math.sqrt(np.mean(probability * (1 - probability)) / len(probability))
        # Four standard errors, four segments: false alarm 2.5e-4.
        assert np.mean(drawn == name) == pytest.approx(probability.mean(), abs=4 * error)


def test_auc_of_the_true_probabilities_is_the_ceiling(large: SimulatedConsortium) -> None:
    probability = np.asarray(large.truth["churn"])
    sampled = roc_auc_score(churned(large.customers), probability)
    # Its standard error at 14 000 leavers and 37 000 stayers, AUC .97, is at most
    # sqrt(.97 * .03 / 14 000) = .0015. Three of them: false alarm 0.0027.
    assert sampled == pytest.approx(large.ceiling.auc, abs=0.0045)


def test_expected_auc_agrees_with_a_sum_over_all_pairs() -> None:
    rng = np.random.default_rng(0)
    probability = np.round(rng.random(60), 1)
    concordant = pairs = 0.0
    for i, leaver in enumerate(probability):
        for j, stayer in enumerate(probability):
            if i != j:
                weight = leaver * (1 - stayer)
                pairs += weight
                concordant += weight * ((leaver > stayer) + 0.5 * (leaver == stayer))
    assert expected_auc(probability) == pytest.approx(concordant / pairs, rel=1e-12)


def test_expected_auc_is_undefined_where_nobody_can_leave() -> None:
    assert math.isnan(expected_auc(np.zeros(5)))


def test_certain_classes_have_an_auc_of_one() -> None:
    assert expected_auc(np.array([0.0, 0.0, 1.0])) == 1.0


@pytest.mark.parametrize(
    "config",
    [
        SimulatorSection(customers=50, label_skew=3, covariate_shift=3, size_skew=2),
        SimulatorSection(customers=10, size_skew=0, missingness=0.5),
    ],
)
def test_dials_at_their_ends_give_finite_values(config: SimulatorSection) -> None:
    table = simulate(config, 6, seed=9).customers
    for column in table.columns:
        if pa.types.is_floating(column.type):
            assert np.isfinite(np.asarray(column.drop_null())).all()
    assert min(Counter(table["enterprise"].to_pylist()).values()) >= 10
