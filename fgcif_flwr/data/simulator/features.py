"""From one enterprise's records to one row of features a customer.

Every numeric feature but the tenure is an aggregate of the records of the last year, and says
what it is for a customer who has none of them, so a complete row has no gaps. Bounds and units
are in ``schemas/simulated.toml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fgcif_flwr.data.simulator.enterprises import (
    CATEGORIES,
    CHANNELS,
    PRICE_LEVELS,
    REGIONS,
    SECTORS,
    EnterpriseProfile,
    Flags,
    Floats,
    Ints,
)
from fgcif_flwr.data.simulator.records import (
    REFERENCE_TIME,
    SECONDS_PER_DAY,
    WINDOW_DAYS,
    Campaigns,
    Customers,
    Interactions,
    Sessions,
    Transactions,
)

NONE = "none"
VOCABULARIES: Mapping[str, tuple[str, ...]] = {
    "sector": SECTORS,
    "price_level": PRICE_LEVELS,
    "region": REGIONS,
    "favourite_category": (*CATEGORIES, NONE),
    "main_channel": (*CHANNELS, NONE),
}
COUNTS = ("purchases", "sessions", "campaigns_shown", "contacts")
NEUTRAL_SATISFACTION = 3.0
RECENT_DAYS = 90
DAYS_PER_MONTH = 365.25 / 12


@dataclass(frozen=True)
class CustomerFeatures:
    """Complete features, each array of shape (customers,).

    ``codes`` index ``VOCABULARIES``; the four ``COUNTS`` among ``numeric`` are whole numbers.
    """

    numeric: dict[str, Floats]
    codes: dict[str, Ints]
    flags: dict[str, Flags]


def customer_features(
    profile: EnterpriseProfile,
    customers: Customers,
    transactions: Transactions,
    sessions: Sessions,
    campaigns: Campaigns,
    interactions: Interactions,
) -> CustomerFeatures:
    """Aggregate the records of one enterprise."""
    n = len(customers)
    purchases = np.bincount(transactions.customer, minlength=n)
    visits = np.bincount(sessions.customer, minlength=n)
    shown = np.bincount(campaigns.customer, minlength=n)
    contacts = np.bincount(interactions.customer, minlength=n)
    spend = np.bincount(transactions.customer, transactions.amount, minlength=n)
    recent = transactions.time >= REFERENCE_TIME - RECENT_DAYS * SECONDS_PER_DAY

    def mean(customer: Ints, values: Ints | Floats | Flags, count: Ints, of_none: float) -> Floats:
        sums = np.bincount(customer, values, minlength=n)
        return np.where(count > 0, sums / np.maximum(count, 1), of_none)

    buyer, visitor, caller = transactions.customer, sessions.customer, interactions.customer
    numeric = {
        "tenure_months": customers.tenure_days / DAYS_PER_MONTH,
        "recency_days": _days_since_last(buyer, transactions.time, n),
        "purchases": purchases.astype(np.float64),
        "spend": spend,
        "average_order": np.where(purchases > 0, spend / np.maximum(purchases, 1), 0.0),
        "recent_share": mean(buyer, recent, purchases, 0.0),
        "discount_share": mean(buyer, transactions.discounted, purchases, 0.0),
        "return_share": mean(buyer, transactions.returned, purchases, 0.0),
        "days_since_session": _days_since_last(visitor, sessions.time, n),
        "sessions": visits.astype(np.float64),
        "pages_per_session": mean(visitor, sessions.pages, visits, 0.0),
        "dwell_minutes": mean(visitor, sessions.dwell_seconds / 60.0, visits, 0.0),
        "campaigns_shown": shown.astype(np.float64),
        "click_rate": mean(campaigns.customer, campaigns.clicked, shown, 0.0),
        "contacts": contacts.astype(np.float64),
        "sentiment": mean(caller, interactions.sentiment - 1, contacts, 0.0),
        "resolution_hours": mean(caller, interactions.resolution_hours, contacts, 0.0),
        "satisfaction": mean(caller, interactions.satisfaction, contacts, NEUTRAL_SATISFACTION),
    }
    codes = {
        "sector": np.full(n, profile.sector),
        "price_level": np.full(n, profile.price_level),
        "region": customers.region,
        "favourite_category": _most_frequent(buyer, transactions.category, n, len(CATEGORIES)),
        "main_channel": _most_frequent(buyer, transactions.channel, n, len(CHANNELS)),
    }
    flags = {"newsletter": customers.newsletter, "loyalty_card": customers.loyalty_card}
    return CustomerFeatures(numeric, codes, flags)


def _days_since_last(customer: Ints, time: Ints, n: int) -> Floats:
    last = np.full(n, REFERENCE_TIME - WINDOW_DAYS * SECONDS_PER_DAY)
    np.maximum.at(last, customer, time)
    days: Floats = (REFERENCE_TIME - last) / SECONDS_PER_DAY
    return days


def _most_frequent(customer: Ints, value: Ints, n: int, kinds: int) -> Ints:
    """Return the most frequent value (the first on a tie), or ``kinds`` for a customer of none."""
    table = np.bincount(customer * kinds + value, minlength=n * kinds).reshape(n, kinds)
    return np.where(table.sum(axis=1) > 0, table.argmax(axis=1), kinds)
