"""A whole consortium: every enterprise simulated on its own, then laid end to end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fgcif_flwr.config import SimulatorSection
from fgcif_flwr.data.simulator.enterprises import EnterpriseProfile, Stream, draw_profile, stream
from fgcif_flwr.data.simulator.features import CustomerFeatures, customer_features
from fgcif_flwr.data.simulator.outcomes import (
    BayesCeiling,
    Outcomes,
    bayes_ceiling,
    draw_outcomes,
)
from fgcif_flwr.data.simulator.records import (
    Campaigns,
    Interactions,
    Sessions,
    Transactions,
    draw_campaigns,
    draw_customers,
    draw_interactions,
    draw_sessions,
    draw_transactions,
)
from fgcif_flwr.data.simulator.tables import (
    customers_table,
    events_table,
    interactions_table,
    transactions_table,
    truth_table,
)
from fgcif_flwr.data.simulator.texts import draw_texts


@dataclass(frozen=True)
class SimulatedConsortium:
    """The consortium's tables, in the order of enterprises, and what is known about them.

    ``customers``
        one row a customer: ``customer_id``, ``enterprise``, features (with gaps), targets.
    ``transactions``, ``events``, ``interactions``
        raw records by ``customer_id``, sorted by customer and time; dictionary-encoded strings.
    ``truth``
        the probabilities that the targets of each customer were drawn from.
    ``ceiling``
        the best figures on these customers, given complete features and the enterprise.
    """

    customers: pa.Table
    transactions: pa.Table
    events: pa.Table
    interactions: pa.Table
    truth: pa.Table
    ceiling: BayesCeiling


@dataclass(frozen=True)
class _Enterprise:
    profile: EnterpriseProfile
    transactions: Transactions
    sessions: Sessions
    campaigns: Campaigns
    interactions: Interactions
    features: CustomerFeatures
    outcomes: Outcomes


def simulate(config: SimulatorSection, enterprises: int, seed: int) -> SimulatedConsortium:
    """Simulate a consortium with all its records.

    The same arguments give identical tables, and enterprise k is the same for every number of
    ``enterprises`` above k.

    Raises
    ------
    ValueError
        If ``enterprises`` is below 1 or ``seed`` negative.
    """
    simulated = _enterprises(config, enterprises, seed)
    profiles = [one.profile for one in simulated]
    texts = [
        draw_texts(stream(seed, one.profile.index, Stream.TEXTS), one.interactions)
        for one in simulated
    ]
    return SimulatedConsortium(
        customers=_customers(config, simulated, seed),
        transactions=transactions_table(profiles, [one.transactions for one in simulated]),
        events=events_table(
            profiles, [one.sessions for one in simulated], [one.campaigns for one in simulated]
        ),
        interactions=interactions_table(profiles, [one.interactions for one in simulated], texts),
        truth=truth_table(profiles, [one.outcomes for one in simulated]),
        ceiling=_ceiling(simulated),
    )


def customer_table(config: SimulatorSection, enterprises: int, seed: int) -> pa.Table:
    """Return ``simulate(...).customers`` alone, without building the tables of records.

    Raises
    ------
    ValueError
        If ``enterprises`` is below 1 or ``seed`` negative.
    """
    return _customers(config, _enterprises(config, enterprises, seed), seed)


def simulate_customers(
    config: SimulatorSection, enterprises: int, seed: int
) -> tuple[pa.Table, BayesCeiling]:
    """Return ``customers`` and ``ceiling`` of :func:`simulate`, without the tables of records."""
    simulated = _enterprises(config, enterprises, seed)
    return _customers(config, simulated, seed), _ceiling(simulated)


def _ceiling(simulated: list[_Enterprise]) -> BayesCeiling:
    return bayes_ceiling(
        np.concatenate([one.outcomes.churn_probability for one in simulated]),
        np.concatenate([one.outcomes.segment_probability for one in simulated]),
    )


def _customers(config: SimulatorSection, simulated: list[_Enterprise], seed: int) -> pa.Table:
    return customers_table(
        [one.profile for one in simulated],
        [one.features for one in simulated],
        [one.outcomes for one in simulated],
        config.missingness,
        seed,
    )


def _enterprises(config: SimulatorSection, enterprises: int, seed: int) -> list[_Enterprise]:
    if enterprises < 1:
        raise ValueError(f"enterprises must be at least 1, not {enterprises}")
    return [_enterprise(config, seed, index) for index in range(enterprises)]


def _enterprise(config: SimulatorSection, seed: int, index: int) -> _Enterprise:
    profile = draw_profile(config, seed, index)
    customers = draw_customers(profile, seed)
    transactions = draw_transactions(profile, customers, seed)
    sessions = draw_sessions(profile, customers, seed)
    campaigns = draw_campaigns(profile, customers, seed)
    interactions = draw_interactions(profile, customers, seed)
    features = customer_features(
        profile, customers, transactions, sessions, campaigns, interactions
    )
    outcomes = draw_outcomes(profile, features, seed)
    return _Enterprise(profile, transactions, sessions, campaigns, interactions, features, outcomes)
