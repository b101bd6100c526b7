"""What an enterprise of the simulated consortium is, drawn from the simulator's dials.

With ``covariate_shift = 0`` and ``label_skew = 0`` all enterprises draw their customers from one
distribution, and sector and price level are columns that mean nothing. The dials open the gap:

``size_skew``
    customers of an enterprise = ``customers`` · exp(s z - s²/2), z ~ N(0, 1): the mean stays.
``covariate_shift``
    standard deviation of an enterprise's shifts of its customers' traits, and of the log-odds of
    its mixes of categories, channels and regions. Sector and price level carry part of it.
``label_skew``
    the churn logit's intercept has a standard deviation of about ``2 · label_skew``, about half
    of its variance from sector and price level (which a model may see), half the enterprise's
    own (which it may not).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from fgcif_flwr.config import SimulatorSection

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

SECTORS = ("retail", "telecom", "banking", "travel", "software", "energy")
PRICE_LEVELS = ("budget", "standard", "premium")
REGIONS = ("north", "south", "east", "west", "centre")
CATEGORIES = ("basics", "comfort", "family", "travel", "technology", "services")
CHANNELS = ("web", "app", "store", "phone")

FEWEST_CUSTOMERS = 10
INTERCEPT_SCALE = 2.0

_SECTOR_CHURN = (0.0, 0.9, -1.1, 1.2, -0.3, -0.7)
_PRICE_CHURN = (0.6, 0.0, -0.6)
_SECTOR_ACTIVITY = (0.8, 0.2, 0.5, -1.2, -0.4, 0.1)
_PRICE_SPEND = (-1.2, 0.0, 1.2)
_CATEGORY_LOG_ODDS = (0.6, 0.3, 0.1, -0.1, -0.3, -0.6)
_CHANNEL_LOG_ODDS = (0.6, 0.3, 0.2, -1.0)


class Stream(IntEnum):
    """The independent random streams of one enterprise.

    What one of them draws never moves another: a table without texts equals one with texts.
    """

    PROFILE = 0
    TRAITS = 1
    TRANSACTIONS = 2
    SESSIONS = 3
    CAMPAIGNS = 4
    INTERACTIONS = 5
    TEXTS = 6
    OUTCOMES = 7
    MISSINGNESS = 8


def stream(seed: int, enterprise: int, name: Stream) -> np.random.Generator:
    """Return a Philox generator that depends on these three alone.

    The spawn key makes enterprise k the same however many enterprises there are.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(enterprise, int(name)))
    return np.random.Generator(np.random.Philox(sequence))


@dataclass(frozen=True)
class EnterpriseProfile:
    """One enterprise's own constants.

    ``shifts`` are added to its customers' traits (mean 0, standard deviation 1 without shift);
    the mixes are probabilities; ``intercept`` is added to the churn logit.
    """

    index: int
    customers: int
    sector: int
    price_level: int
    intercept: float
    shifts: dict[str, float]
    category_mix: Floats
    channel_mix: Floats
    region_mix: Floats

    @property
    def name(self) -> str:
        """The value of the column ``enterprise``: ``enterprise-07``."""
        return f"enterprise-{self.index:02d}"

    def customer_ids(self) -> list[str]:
        """Ids unique in the consortium, in row order: ``e07-000123``."""
        return [f"e{self.index:02d}-{number:06d}" for number in range(self.customers)]


def draw_profile(config: SimulatorSection, seed: int, index: int) -> EnterpriseProfile:
    """Draw enterprise ``index`` (0-based).

    The same normal draws are scaled by the dials, so turning a dial widens the differences
    between the same enterprises instead of drawing others.
    """
    rng = stream(seed, index, Stream.PROFILE)
    sector = int(rng.integers(len(SECTORS)))
    price_level = int(rng.integers(len(PRICE_LEVELS)))
    size, own_churn = rng.standard_normal(2)
    activity, engagement, mood, spend, decline = rng.standard_normal(5)
    shift = config.covariate_shift
    known_churn = _SECTOR_CHURN[sector] + _PRICE_CHURN[price_level]
    mean_one = np.exp(config.size_skew * size - config.size_skew**2 / 2)
    return EnterpriseProfile(
        index=index,
        customers=max(FEWEST_CUSTOMERS, round(config.customers * float(mean_one))),
        sector=sector,
        price_level=price_level,
        intercept=float(
            INTERCEPT_SCALE * config.label_skew * np.sqrt(0.5) * (known_churn + own_churn)
        ),
        shifts={
            "activity": shift * (0.8 * activity + _SECTOR_ACTIVITY[sector]),
            "engagement": shift * engagement,
            "mood": shift * 0.7 * mood,
            "spend": shift * (0.8 * spend + _PRICE_SPEND[price_level]),
            "decline": shift * 0.5 * decline,
        },
        category_mix=_mix(_CATEGORY_LOG_ODDS, shift * rng.standard_normal(len(CATEGORIES))),
        channel_mix=_mix(_CHANNEL_LOG_ODDS, shift * rng.standard_normal(len(CHANNELS))),
        region_mix=_mix((0.0,) * len(REGIONS), 2 * shift * rng.standard_normal(len(REGIONS))),
    )


def _mix(log_odds: tuple[float, ...], shift: Floats) -> Floats:
    weights = np.exp(np.asarray(log_odds) + shift)
    mix: Floats = weights / weights.sum()
    return mix
