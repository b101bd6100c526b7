"""The schema's ``[records]``: how customers' rows are derived from purchases, events and contacts.

It holds dates, rules and public words only; which tables and columns of an enterprise they come
from is the enterprise's own configuration. See :mod:`fgcif_flwr.data.crm.features`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from datetime import date
from typing import Final, Literal

from pydantic import Field, model_validator

from fgcif_flwr.data.features import Name, Part, Words, check_words
from fgcif_flwr.errors import SchemaError

PURCHASE_COLUMNS: Final = (
    "recency_days",
    "frequency",
    "monetary",
    "average_order",
    "tenure_days",
    "mean_interpurchase_days",
    "interpurchase_trend",
    "spend_trend",
    "recent_share",
    "favourite_category",
    "main_channel",
    "discount_share",
    "returns",
    "return_share",
    "distinct_products",
    "country",
)
"""Features of purchases, beside ``category_share:<word>`` for each of the categories."""

BEHAVIOUR_COLUMNS: Final = (
    "sessions",
    "days_since_session",
    "pages_per_session",
    "dwell_minutes",
    "depth",
    "session_trend",
    "campaigns_shown",
    "click_rate",
)
"""Features of behaviour logs."""

CONTACT_COLUMNS: Final = ("contacts", "open_hours", "satisfaction", "sentiment")
"""Features of contacts, beside ``contacts:<channel>`` and ``topic:<bucket>``."""

OUTCOME_COLUMNS: Final = ("churn", "value", "next_category")
"""What happened after the cut-off: targets, and never features."""

CATEGORY_SHARE: Final = "category_share:"
CONTACTS_BY: Final = "contacts:"
TOPIC: Final = "topic:"


class Records(Part):
    """When, over what time and by which words the rows of customers are derived.

    Attributes
    ----------
    cutoff
        Features look back from the beginning of this day, targets forward from it.
    horizon_days
        Days from the cut-off in which targets are observed.
    history_days
        Days before the cut-off that features look at; all where it is not given.
    churn
        Who has churned: who bought nothing in the horizon, whose contract ended in it, or what
        the master data say.
    recent_days
        Length of the last and of the last but one period, which trends compare.
    session_gap_minutes
        A pause after which page views belong to another session.
    categories, channels
        Words that ``category_share:<word>`` and ``next_category``, and ``contacts:<channel>``
        are of. Others count as such and are in none of them.
    topic_buckets
        How many buckets the terms of contacts are hashed into, for ``topic:<bucket>``.
    master
        Columns of the customers' master data that features take as they are.
    currency
        Of every amount.
    """

    cutoff: date
    horizon_days: int = Field(ge=1, le=3660)
    history_days: int | None = Field(None, ge=1, le=36_600)
    churn: Literal["no-purchase", "contract-ended", "column"] = "no-purchase"
    recent_days: int = Field(90, ge=1, le=3660)
    session_gap_minutes: int = Field(30, ge=1, le=1440)
    categories: Words = ()
    channels: Words = ()
    topic_buckets: int = Field(0, ge=0, le=256)
    master: tuple[Name, ...] = ()
    currency: str = ""

    @model_validator(mode="after")
    def _words_are_distinct(self) -> Records:
        for key in ("categories", "channels", "master"):
            check_words("records", key, getattr(self, key), least=0)
        taken = sorted({*derived_columns(self), *OUTCOME_COLUMNS} & set(self.master))
        if taken:
            raise SchemaError(
                f"records: master names {taken[0]}, which is derived from records; remove it, or "
                "give the column of the master data another name"
            )
        return self


def derived_columns(records: Records) -> tuple[str, ...]:
    """Return every column that features may name as derived by ``records``."""
    return (
        *PURCHASE_COLUMNS,
        *(f"{CATEGORY_SHARE}{word}" for word in records.categories),
        *BEHAVIOUR_COLUMNS,
        *CONTACT_COLUMNS,
        *(f"{CONTACTS_BY}{word}" for word in records.channels),
        *(f"{TOPIC}{bucket}" for bucket in range(records.topic_buckets)),
    )


def check_derived(
    records: Records, features: Iterable[tuple[str, str]], targets: Iterable[tuple[str, str]]
) -> None:
    """Raise :class:`SchemaError` for a column that ``records`` and the master data do not give.

    ``features`` and ``targets`` are pairs of name and column.
    """
    derived = (*derived_columns(records), *records.master)
    for name, column in features:
        if column in OUTCOME_COLUMNS and column not in records.master:
            raise SchemaError(f"{name}: column {column} is known after the cut-off only; remove it")
        _check(name, column, derived)
    for name, column in targets:
        _check(name, column, (*OUTCOME_COLUMNS, *records.master))


def _check(name: str, column: str, known: tuple[str, ...]) -> None:
    if column in known:
        return
    near = difflib.get_close_matches(column, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise SchemaError(
        f"{name}: column {column} is none that [records] derives{hint} (a column of the customers' "
        "master data is to be named in records.master)"
    )
