"""Names of segments, by rule, from their released profile: "high value, cooling down".

A name has two parts. The first is the segment's value among all customers'. The second is what
sets it apart most, of features that a marketer has a word for; of any other feature it is the
feature's own name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fgcif_flwr.models.segmentation import CERTAIN, Reals

WORDS: dict[str, tuple[str, str]] = {
    "recency_days": ("cooling down", "active"),
    "recent_share": ("buying now", "cooling down"),
    "spend_trend": ("growing", "shrinking"),
    "tenure_days": ("long-standing", "new"),
    "tenure_months": ("long-standing", "new"),
    "tenure": ("long-standing", "new"),
    "days_since_session": ("rarely visiting", "often visiting"),
    "sessions": ("often visiting", "rarely visiting"),
    "average_order": ("large orders", "small orders"),
    "discount_share": ("buying at discounts", "paying full price"),
    "return_share": ("sending back", "keeping what they buy"),
    "satisfaction": ("satisfied", "dissatisfied"),
    "sentiment": ("satisfied", "dissatisfied"),
    "contacts": ("often in contact", "rarely in contact"),
    "click_rate": ("answering campaigns", "ignoring campaigns"),
}
"""What a feature above, and below, the mean of all customers is called."""

_LEVEL = 0.1  # of the coordinates' range
_NOTABLE = 0.03  # of a feature's public bounds


def names_of(
    values: Reals,
    shares: Reals,
    features: Sequence[str],
    chosen: Sequence[str],
    means: Reals,
    deviations: Reals,
) -> tuple[str, ...]:
    """Return a name for each segment, all different.

    Parameters
    ----------
    values : (segments,)
        Mean coordinate of each centre, in [0, 1].
    shares : (segments,)
        Of the customers.
    features
        Names of all numeric features.
    chosen
        Those that segments are made by: the value says what they would, but for those that have
        a word.
    means, deviations : (segments, features)
        Mean of each feature on [0, 1], NaN where unknown, and standard deviation of its noise.
    """
    weights = shares / shares.sum() if shares.sum() > 0 else np.full(len(shares), 1 / len(shares))
    overall = float(weights @ values)
    names: list[str] = []
    for segment, value in enumerate(values):
        level = "middle value"
        if value > overall + _LEVEL:
            level = "high value"
        elif value < overall - _LEVEL:
            level = "low value"
        phrases = _phrases(segment, weights, features, chosen, means, deviations)
        candidates = [f"{level}, {phrase}" for phrase in phrases]
        candidates += [f"{level}, {', '.join(phrases[:2])}", f"{level}, group {segment + 1}"]
        names.append(next(one for one in candidates if one not in names))
    return tuple(names)


def _phrases(
    segment: int,
    weights: Reals,
    features: Sequence[str],
    chosen: Sequence[str],
    means: Reals,
    deviations: Reals,
) -> list[str]:
    """Return what sets a segment apart, most first; "typical" where nothing does."""
    scores: dict[str, float] = {}
    for place, name in enumerate(features):
        column = means[:, place]
        known = np.isfinite(column)
        if not known[segment] or (name in chosen and name not in WORDS):
            continue
        middle = float(weights[known] @ column[known] / max(weights[known].sum(), 1e-12))
        apart = float(column[segment] - middle)
        if abs(apart) < max(_NOTABLE, CERTAIN * float(deviations[segment, place])):
            continue
        spread = float(np.sqrt(weights[known] @ (column[known] - middle) ** 2))
        plain = name.replace("_", " ")
        above, below = WORDS.get(name, (f"high {plain}", f"low {plain}"))
        phrase = above if apart > 0 else below
        score = abs(apart) / max(spread, _NOTABLE)
        if name in WORDS:  # a word of marketing comes before a mere feature
            score += 20.0 if name in chosen and score >= 1 else 10.0
        scores[phrase] = max(score, scores.get(phrase, 0.0))
    return sorted(scores, key=lambda phrase: -scores[phrase]) or ["typical"]
