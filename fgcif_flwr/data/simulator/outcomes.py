"""The known generating process of the targets, and the best that any model can reach on it.

With features x (complete, as in the table without its gaps) and the enterprise's intercept b:

churn
    P(yes | x, b) = sigmoid(CHURN_SCALE · (risk(x) - CHURN_CENTRE) + b); see :func:`churn_risk`.
segment
    P(s | x) = softmax(SEGMENT_SCALE · score_s(x)); see :func:`segment_scores`.
future_value
    expected_value(x) · exp(0.3 z - 0.045), z ~ N(0, 1), clipped to [0, 20 000].

The risk saturates in recency and tenure and has products of features, so a linear model comes
near the ceiling and a network nearer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fgcif_flwr.data.simulator.enterprises import EnterpriseProfile, Floats, Ints, Stream, stream
from fgcif_flwr.data.simulator.features import CustomerFeatures

SEGMENTS = ("champions", "loyal", "at-risk", "occasional")
VALUE_BOUND = 20_000.0
CHURN_SCALE = 2.75
CHURN_CENTRE = 0.55
SEGMENT_SCALE = 4.0
VALUE_SIGMA = 0.3

# Discounts bind customers of a budget brand, and announce the leaving of a premium one's.
_DISCOUNT_BY_PRICE = np.array([-1.5, 0.0, 1.5])


@dataclass(frozen=True)
class Outcomes:
    """Drawn targets and the probabilities they were drawn from.

    ``churn`` is 0 or 1, ``segment`` indexes SEGMENTS, ``future_value`` is in currency units;
    ``churn_probability`` has shape (customers,), ``segment_probability`` (customers, 4).
    """

    churn: Ints
    segment: Ints
    future_value: Floats
    churn_probability: Floats
    segment_probability: Floats


@dataclass(frozen=True)
class BayesCeiling:
    """Expected figures of the best classifier that knows complete features and the enterprise.

    That classifier knows the true probabilities p of the customers at hand, not their labels:
    ``accuracy`` is the mean of max(p, 1 - p), ``auc`` the ratio of expected concordant pairs
    (leaver above stayer, ties half) to expected pairs, ``segment_accuracy`` the mean of the
    largest class probability. A model that sees gaps (``missingness``) or no enterprise
    (the schema forbids that column) cannot be expected to do better, and in general does worse.
    """

    accuracy: float
    auc: float
    segment_accuracy: float


def churn_risk(features: CustomerFeatures) -> Floats:
    """Return the risk of leaving, shape (customers,), before scale, centre and intercept."""
    x, flags = features.numeric, features.flags
    unhappy = _sigmoid(2.5 * (3.0 - x["satisfaction"]))
    order = np.log1p(x["average_order"]) - np.log1p(40.0)
    frequency = np.log1p(x["purchases"]) - np.log1p(8.0)
    discount = _DISCOUNT_BY_PRICE[features.codes["price_level"]] * (x["discount_share"] - 0.3)
    risk: Floats = (
        1.0 * np.tanh((x["recency_days"] - 80.0) / 50.0)
        + 0.4 * np.tanh((x["days_since_session"] - 60.0) / 50.0)
        - 1.0 * (x["recent_share"] - 0.25)
        - 0.45 * (x["satisfaction"] - 3.0)
        - 0.3 * x["sentiment"]
        + 0.5 * unhappy * np.log1p(x["resolution_hours"] / 6.0)
        + 0.6 * np.exp(-x["tenure_months"] / 12.0)
        - 0.4 * flags["loyalty_card"]
        - 1.0 * x["click_rate"] * flags["newsletter"]
        + 0.5 * x["return_share"]
        - 0.25 * frequency
        - 0.3 * frequency * order
        + discount
    )
    return risk


def churn_probability(features: CustomerFeatures, intercept: float) -> Floats:
    """Return P(churn = yes), shape (customers,), given complete features and the enterprise."""
    return _sigmoid(CHURN_SCALE * (churn_risk(features) - CHURN_CENTRE) + intercept)


def segment_scores(features: CustomerFeatures) -> Floats:
    """Return one score for each of SEGMENTS, shape (customers, 4): recency, frequency, money."""
    x = features.numeric
    frequency = np.log1p(x["purchases"]) - np.log1p(8.0)
    money = np.log1p(x["spend"]) - np.log1p(350.0)
    absent = np.tanh((x["recency_days"] - 90.0) / 60.0)
    engaged = np.log1p(x["sessions"]) - np.log1p(11.0)
    return np.stack(
        (
            1.0 * money + 0.6 * frequency + 0.3 * engaged - 0.8 - 0.3 * absent,
            0.5 * frequency + 0.4 * features.flags["loyalty_card"] - 0.5 * absent - 0.2,
            1.3 * absent - 0.3 * (x["satisfaction"] - 3.0) + 0.3 * money + 0.4,
            -1.0 * frequency - 0.4 * money - 0.3 * engaged - 0.1,
        ),
        axis=1,
    )


def segment_probability(features: CustomerFeatures) -> Floats:
    """Return P(segment), shape (customers, 4), given complete features."""
    scores = SEGMENT_SCALE * segment_scores(features)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    probability: Floats = weights / weights.sum(axis=1, keepdims=True)
    return probability


def expected_value(features: CustomerFeatures) -> Floats:
    """Return the next year's expected spend, currency units, shape (customers,)."""
    x = features.numeric
    change = (
        0.15 * (x["satisfaction"] - 3.0)
        - 0.8 * np.tanh(x["recency_days"] / 180.0)
        + 0.2 * features.flags["loyalty_card"]
        + 0.3 * x["click_rate"]
    )
    value: Floats = (20.0 + x["spend"]) * np.exp(change)
    return value


def draw_outcomes(profile: EnterpriseProfile, features: CustomerFeatures, seed: int) -> Outcomes:
    """Draw the three targets of one enterprise's customers from their complete features."""
    rng = stream(seed, profile.index, Stream.OUTCOMES)
    leaving = churn_probability(features, profile.intercept)
    segments = segment_probability(features)
    n = len(leaving)
    churn = (rng.random(n) < leaving).astype(np.int64)
    below = rng.random((n, 1)) >= np.cumsum(segments, axis=1)[:, :-1]
    noise = np.exp(VALUE_SIGMA * rng.standard_normal(n) - VALUE_SIGMA**2 / 2)
    value: Floats = np.clip(expected_value(features) * noise, 0.0, VALUE_BOUND)
    return Outcomes(
        churn=churn,
        segment=below.sum(axis=1),
        future_value=np.round(value, 2),
        churn_probability=leaving,
        segment_probability=segments,
    )


def bayes_ceiling(churn: Floats, segment: Floats) -> BayesCeiling:
    """Return the ceiling for true probabilities of shapes (customers,) and (customers, 4)."""
    return BayesCeiling(
        accuracy=float(np.maximum(churn, 1.0 - churn).mean()),
        auc=expected_auc(churn),
        segment_accuracy=float(segment.max(axis=1).mean()),
    )


def expected_auc(probability: Floats) -> float:
    """Return expected concordant pairs over expected pairs, for scores equal to the truth.

    Σ_{i≠j} p_i (1 - p_j) [p_i > p_j] + ½ [p_i = p_j], over Σ_{i≠j} p_i (1 - p_j): exact, by one
    sort. NaN where no pair of a leaver and a stayer can occur.
    """
    scores, group = np.unique(probability, return_inverse=True)
    leavers = np.bincount(group, probability, minlength=len(scores))
    stayers = np.bincount(group, 1.0 - probability, minlength=len(scores))
    itself = float(np.sum(probability * (1.0 - probability)))
    below = np.cumsum(stayers) - stayers
    pairs = float(leavers.sum() * stayers.sum()) - itself
    if pairs <= 0.0:
        return float("nan")
    concordant = float(np.sum(leavers * (below + 0.5 * stayers))) - 0.5 * itself
    return concordant / pairs


def _sigmoid(value: Floats) -> Floats:
    # exp of a large positive number overflows; both branches below stay within [0, 1].
    decay = np.exp(-np.abs(value))
    probability: Floats = np.where(value >= 0, 1.0, decay) / (1.0 + decay)
    return probability
