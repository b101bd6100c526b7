"""Arrays of simulated enterprises as Arrow tables, end to end in the order of enterprises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fgcif_flwr.data.simulator.enterprises import (
    CATEGORIES,
    CHANNELS,
    EnterpriseProfile,
    Flags,
    Ints,
    Stream,
    stream,
)
from fgcif_flwr.data.simulator.features import COUNTS, VOCABULARIES, CustomerFeatures
from fgcif_flwr.data.simulator.outcomes import SEGMENTS, Outcomes
from fgcif_flwr.data.simulator.records import (
    SENTIMENTS,
    SERVICE_CHANNELS,
    TOPICS,
    Campaigns,
    Interactions,
    Sessions,
    Transactions,
)
from fgcif_flwr.data.simulator.texts import all_texts

ENTERPRISE_FEATURES = ("sector", "price_level")
FEATURES = (
    "sector",
    "price_level",
    "region",
    "newsletter",
    "loyalty_card",
    "tenure_months",
    "recency_days",
    "purchases",
    "spend",
    "average_order",
    "recent_share",
    "discount_share",
    "return_share",
    "favourite_category",
    "main_channel",
    "days_since_session",
    "sessions",
    "pages_per_session",
    "dwell_minutes",
    "campaigns_shown",
    "click_rate",
    "contacts",
    "sentiment",
    "resolution_hours",
    "satisfaction",
)
_NO_YES = ("no", "yes")

_Part = TypeVar("_Part")
_Array = NDArray[Any]


class _Records(Protocol):
    @property
    def customer(self) -> Ints: ...

    @property
    def time(self) -> Ints: ...


def customers_table(
    profiles: Sequence[EnterpriseProfile],
    features: Sequence[CustomerFeatures],
    outcomes: Sequence[Outcomes],
    missingness: float,
    seed: int,
) -> pa.Table:
    """Return one row a customer; each feature value but the enterprise's own may be absent.

    Values are missing completely at random with probability ``missingness``. Sector and price
    level, which an enterprise knows of itself, and the targets are never missing.
    """
    absent = _absent(profiles, missingness, seed)
    columns: dict[str, pa.Array] = {
        "customer_id": pa.array(_customer_ids(profiles), pa.string()),
        "enterprise": pa.array(np.repeat([one.name for one in profiles], _sizes(profiles))),
    }
    for name in FEATURES:
        values = np.concatenate([_feature(part, name) for part in features])
        columns[name] = _feature_column(name, values, absent.get(name))
    columns["churn"] = _named(_NO_YES, _end_to_end(outcomes, lambda part: part.churn))
    columns["segment"] = _named(SEGMENTS, _end_to_end(outcomes, lambda part: part.segment))
    columns["future_value"] = pa.array(_end_to_end(outcomes, lambda part: part.future_value))
    return pa.table(columns)


def transactions_table(
    profiles: Sequence[EnterpriseProfile], parts: Sequence[Transactions]
) -> pa.Table:
    """Return all purchases: who, when, how much, what, where, discounted, returned."""
    return pa.table(
        {
            "customer_id": _customer_column(profiles, _global_customer(profiles, parts)),
            "time": _time(_end_to_end(parts, lambda part: part.time)),
            "amount": _end_to_end(parts, lambda part: part.amount),
            "category": _coded(CATEGORIES, _end_to_end(parts, lambda part: part.category)),
            "channel": _coded(CHANNELS, _end_to_end(parts, lambda part: part.channel)),
            "discounted": _end_to_end(parts, lambda part: part.discounted),
            "returned": _end_to_end(parts, lambda part: part.returned),
        }
    )


def events_table(
    profiles: Sequence[EnterpriseProfile],
    sessions: Sequence[Sessions],
    campaigns: Sequence[Campaigns],
) -> pa.Table:
    """Return the behaviour log: ``kind`` session (pages, dwell) or campaign (clicked or not)."""
    visitor, shown_to = _global_customer(profiles, sessions), _global_customer(profiles, campaigns)
    customer = np.concatenate((visitor, shown_to))
    time = np.concatenate([part.time for part in sessions] + [part.time for part in campaigns])
    order = np.lexsort((time, customer))
    is_campaign = (np.arange(len(customer)) >= len(visitor))[order]

    def spread(values: _Array, of_campaigns: bool) -> pa.Array:
        rest = np.zeros(len(customer) - len(values), dtype=values.dtype)
        both = np.concatenate((rest, values) if of_campaigns else (values, rest))
        return pa.array(both[order], mask=is_campaign != of_campaigns)

    return pa.table(
        {
            "customer_id": _customer_column(profiles, customer[order]),
            "time": _time(time[order]),
            "kind": _coded(("session", "campaign"), is_campaign.astype(np.int64)),
            "pages": spread(_end_to_end(sessions, lambda part: part.pages), False),
            "dwell_seconds": spread(_end_to_end(sessions, lambda part: part.dwell_seconds), False),
            "clicked": spread(_end_to_end(campaigns, lambda part: part.clicked), True),
        }
    )


def interactions_table(
    profiles: Sequence[EnterpriseProfile], parts: Sequence[Interactions], texts: Sequence[Ints]
) -> pa.Table:
    """Return all contacts with service, with what the customer wrote."""
    return pa.table(
        {
            "customer_id": _customer_column(profiles, _global_customer(profiles, parts)),
            "time": _time(_end_to_end(parts, lambda part: part.time)),
            "channel": _coded(SERVICE_CHANNELS, _end_to_end(parts, lambda part: part.channel)),
            "topic": _coded(TOPICS, _end_to_end(parts, lambda part: part.topic)),
            "text": _coded(all_texts(), np.concatenate(texts)),
            "sentiment": _coded(SENTIMENTS, _end_to_end(parts, lambda part: part.sentiment)),
            "resolution_hours": _end_to_end(parts, lambda part: part.resolution_hours),
            "satisfaction": _end_to_end(parts, lambda part: part.satisfaction),
        }
    )


def truth_table(profiles: Sequence[EnterpriseProfile], parts: Sequence[Outcomes]) -> pa.Table:
    """Return the true probabilities: ``churn``, then one column a segment."""
    segments = np.concatenate([part.segment_probability for part in parts])
    return pa.table(
        {
            "customer_id": pa.array(_customer_ids(profiles), pa.string()),
            "churn": _end_to_end(parts, lambda part: part.churn_probability),
            **{name: segments[:, index] for index, name in enumerate(SEGMENTS)},
        }
    )


def _absent(
    profiles: Sequence[EnterpriseProfile], missingness: float, seed: int
) -> dict[str, Flags]:
    names = [name for name in FEATURES if name not in ENTERPRISE_FEATURES]
    draws = [
        stream(seed, one.index, Stream.MISSINGNESS).random((one.customers, len(names)))
        for one in profiles
    ]
    masks = np.concatenate(draws) < missingness
    return {name: masks[:, index] for index, name in enumerate(names)}


def _feature(features: CustomerFeatures, name: str) -> _Array:
    if name in features.numeric:
        return features.numeric[name]
    return features.codes[name] if name in features.codes else features.flags[name]


def _feature_column(name: str, values: _Array, absent: Flags | None) -> pa.Array:
    if name in VOCABULARIES:
        return _named(VOCABULARIES[name], values, absent)
    if values.dtype == np.bool_:
        return _named(_NO_YES, values.astype(np.int64), absent)
    return pa.array(values.astype(np.int64) if name in COUNTS else values, mask=absent)


def _end_to_end(parts: Sequence[_Part], array: Callable[[_Part], _Array]) -> _Array:
    return np.concatenate([array(part) for part in parts])


def _sizes(profiles: Sequence[EnterpriseProfile]) -> list[int]:
    return [one.customers for one in profiles]


def _customer_ids(profiles: Sequence[EnterpriseProfile]) -> list[str]:
    return [identifier for one in profiles for identifier in one.customer_ids()]


def _global_customer(profiles: Sequence[EnterpriseProfile], parts: Sequence[_Records]) -> Ints:
    """Number customers through the consortium instead of through their enterprise."""
    first = np.cumsum([0, *_sizes(profiles)])
    return np.concatenate(
        [part.customer + start for part, start in zip(parts, first[:-1], strict=True)]
    )


def _customer_column(profiles: Sequence[EnterpriseProfile], customer: Ints) -> pa.Array:
    return _coded(_customer_ids(profiles), customer)


def _coded(names: Sequence[str], codes: _Array, absent: Flags | None = None) -> pa.Array:
    indices = pa.array(codes.astype(np.int32), mask=absent)
    return pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string()))


def _named(names: Sequence[str], codes: _Array, absent: Flags | None = None) -> pa.Array:
    return _coded(names, codes, absent).cast(pa.string())


def _time(seconds: Ints) -> pa.Array:
    return pa.array(seconds).cast(pa.timestamp("s", tz="UTC"))
