"""The raw CRM records of one enterprise: purchases, behaviour, and contacts with service.

Every customer has traits that nobody sees (activity, engagement, mood, spend, decline) and
master data that the CRM holds (tenure, region, newsletter, loyalty card). Records of the last
``WINDOW_DAYS`` days follow from them; what a model sees is aggregated from the records alone.
Arrays of records are sorted by customer, then time; ``customer`` is a row number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fgcif_flwr.data.simulator.enterprises import (
    CATEGORIES,
    CHANNELS,
    REGIONS,
    EnterpriseProfile,
    Flags,
    Floats,
    Ints,
    Stream,
    stream,
)

REFERENCE_TIME = 1_735_689_600  # 2025-01-01T00:00:00Z, when the features are taken
SECONDS_PER_DAY = 86_400
WINDOW_DAYS = 365
LONGEST_TENURE_DAYS = 3652
SERVICE_CHANNELS = ("email", "phone", "chat", "store")
TOPICS = ("delivery", "billing", "quality", "account", "advice")
SENTIMENTS = ("negative", "neutral", "positive")

_TIME_BITS = 25  # a year has fewer than 2^25 seconds
_MOST_A_YEAR = 200.0


@dataclass(frozen=True)
class Customers:
    """Traits and master data, each of shape (customers,). ``tenure_days`` is at least 30."""

    activity: Floats
    engagement: Floats
    mood: Floats
    spend: Floats
    decline: Floats
    bargain: Floats
    tenure_days: Ints
    region: Ints
    newsletter: Flags
    loyalty_card: Flags

    def __len__(self) -> int:
        """Return the number of customers."""
        return len(self.activity)


@dataclass(frozen=True)
class Transactions:
    """Purchases. ``amount`` in currency units, two decimals, at least 0.5."""

    customer: Ints
    time: Ints
    amount: Floats
    category: Ints
    channel: Ints
    discounted: Flags
    returned: Flags


@dataclass(frozen=True)
class Sessions:
    """Visits. ``pages`` at least 1; ``dwell_seconds`` of the whole visit."""

    customer: Ints
    time: Ints
    pages: Ints
    dwell_seconds: Floats


@dataclass(frozen=True)
class Campaigns:
    """Campaigns shown, each clicked or not."""

    customer: Ints
    time: Ints
    clicked: Flags


@dataclass(frozen=True)
class Interactions:
    """Contacts with service. ``sentiment`` indexes SENTIMENTS; ``satisfaction`` is 1 to 5."""

    customer: Ints
    time: Ints
    channel: Ints
    topic: Ints
    sentiment: Ints
    resolution_hours: Floats
    satisfaction: Ints


def draw_customers(profile: EnterpriseProfile, seed: int) -> Customers:
    """Draw traits and master data of one enterprise's customers."""
    rng = stream(seed, profile.index, Stream.TRAITS)
    n = profile.customers
    activity, engagement, mood, spend, decline, bargain = rng.standard_normal((6, n))
    shifts = profile.shifts
    mood = mood + shifts["mood"]
    activity = activity + shifts["activity"]
    tenure = 30 + rng.exponential(900.0, n).astype(np.int64)
    return Customers(
        activity=activity,
        engagement=0.6 * activity + 0.8 * engagement + shifts["engagement"],
        mood=mood,
        spend=spend + shifts["spend"],
        # Unhappy customers fade out: what makes recency and mood tell of the same thing.
        decline=0.9 * decline - 0.5 * mood + shifts["decline"],
        bargain=bargain,
        tenure_days=np.minimum(tenure, LONGEST_TENURE_DAYS),
        region=rng.choice(len(REGIONS), n, p=profile.region_mix),
        newsletter=rng.random(n) < _sigmoid(0.3 + 0.5 * engagement),
        loyalty_card=rng.random(n) < _sigmoid(-0.4 + 0.6 * activity),
    )


def draw_transactions(profile: EnterpriseProfile, customers: Customers, seed: int) -> Transactions:
    """Draw purchases: about 11 a year for a customer, log-normal amounts around 40."""
    rng = stream(seed, profile.index, Stream.TRANSACTIONS)
    n = len(customers)
    favourite_category = rng.choice(len(CATEGORIES), n, p=profile.category_mix)
    favourite_channel = rng.choice(len(CHANNELS), n, p=profile.channel_mix)
    rate = 8.0 * np.exp(0.8 * customers.activity)
    customer, time = _occurrences(rng, rate, customers.tenure_days, customers.decline)
    total = len(customer)
    log_amount = np.log(40.0) + 0.5 * customers.spend[customer] + 0.5 * rng.standard_normal(total)
    habit = rng.random((2, total)) < 0.5
    other_category = _choose(rng, profile.category_mix, total)
    other_channel = _choose(rng, profile.channel_mix, total)
    return Transactions(
        customer=customer,
        time=time,
        amount=np.maximum(np.round(np.exp(log_amount), 2), 0.5),
        category=np.where(habit[0], favourite_category[customer], other_category),
        channel=np.where(habit[1], favourite_channel[customer], other_channel),
        discounted=rng.random(total) < _sigmoid(-1.0 + 1.2 * customers.bargain)[customer],
        returned=rng.random(total) < _sigmoid(-2.2 - 0.5 * customers.mood)[customer],
    )


def draw_sessions(profile: EnterpriseProfile, customers: Customers, seed: int) -> Sessions:
    """Draw visits: about 15 a year for a customer, about four pages each."""
    rng = stream(seed, profile.index, Stream.SESSIONS)
    rate = 11.0 * np.exp(0.8 * customers.engagement)
    customer, time = _occurrences(rng, rate, customers.tenure_days, 0.7 * customers.decline)
    interest = np.exp(np.minimum(1.0 + 0.3 * customers.engagement, 3.0))
    pages = 1 + rng.poisson(interest[customer])
    seconds_per_page = 35.0 * np.exp(0.5 * rng.standard_normal(len(customer)))
    return Sessions(customer, time, pages, np.round(pages * seconds_per_page, 1))


def draw_campaigns(profile: EnterpriseProfile, customers: Customers, seed: int) -> Campaigns:
    """Draw campaigns: about 12 a year for readers of the newsletter, 4 for others."""
    rng = stream(seed, profile.index, Stream.CAMPAIGNS)
    rate = np.where(customers.newsletter, 12.0, 4.0)
    customer, time = _occurrences(rng, rate, customers.tenure_days, np.zeros(len(customers)))
    liking = _sigmoid(-1.2 + 0.8 * customers.engagement + 0.3 * customers.mood)
    return Campaigns(customer, time, rng.random(len(customer)) < liking[customer])


def draw_interactions(profile: EnterpriseProfile, customers: Customers, seed: int) -> Interactions:
    """Draw contacts with service: about two a year, more from unhappy customers."""
    rng = stream(seed, profile.index, Stream.INTERACTIONS)
    rate = 1.8 * np.exp(-0.3 * customers.mood)
    customer, time = _occurrences(rng, rate, customers.tenure_days, np.zeros(len(customers)))
    total = len(customer)
    mood = customers.mood[customer]
    hours = np.exp(np.log(18.0) - 0.3 * mood + 0.8 * rng.standard_normal(total))
    feeling = mood + 0.8 * rng.standard_normal(total)
    sentiment = 1 + (feeling > 0.5).astype(np.int64) - (feeling < -0.5)
    rating = 3.3 + 0.7 * mood + 0.5 * (sentiment - 1) - 0.3 * np.log(hours / 18.0)
    rating = rating + 0.5 * rng.standard_normal(total)
    return Interactions(
        customer=customer,
        time=time,
        channel=_choose(rng, np.array([0.4, 0.25, 0.25, 0.1]), total),
        topic=_choose(rng, np.array([0.3, 0.25, 0.2, 0.15, 0.1]), total),
        sentiment=sentiment,
        resolution_hours=np.maximum(np.round(hours, 1), 0.1),
        satisfaction=np.clip(np.rint(rating), 1, 5).astype(np.int64),
    )


def _occurrences(
    rng: np.random.Generator, rate: Floats, tenure_days: Ints, decline: Floats
) -> tuple[Ints, Ints]:
    """Draw a Poisson number of moments for every customer: (customer, time), both (total,).

    ``rate`` is per year of tenure. Moments lie at the fraction U^exp(decline) of the customer's
    window, so a positive decline moves them to its beginning.
    """
    window = np.minimum(tenure_days, WINDOW_DAYS)
    counts = rng.poisson(np.minimum(rate, _MOST_A_YEAR) * window / WINDOW_DAYS)
    customer = np.repeat(np.arange(len(counts)), counts)
    fraction = rng.random(len(customer)) ** np.exp(decline)[customer]
    seconds = window[customer] * SECONDS_PER_DAY
    ago = np.clip(((1.0 - fraction) * seconds).astype(np.int64), 1, seconds)
    # All else is drawn without regard to time, so sorting the moments alone is enough.
    key = np.sort((customer << _TIME_BITS) | ((1 << _TIME_BITS) - ago))
    time = REFERENCE_TIME - (1 << _TIME_BITS) + (key & ((1 << _TIME_BITS) - 1))
    return customer, time


def _choose(rng: np.random.Generator, mix: Floats, size: int) -> Ints:
    choice: Ints = np.searchsorted(np.cumsum(mix)[:-1], rng.random(size), side="right")
    return choice


def _sigmoid(value: Floats) -> Floats:
    probability: Floats = 1.0 / (1.0 + np.exp(-value))
    return probability
