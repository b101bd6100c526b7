"""Features of purchases: how recent, how often, how much, of what, by which channel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import duckdb

from fgcif_flwr.data.crm.exact_sums import UNITS, exact, refuse_out_of_range
from fgcif_flwr.data.crm.population import POPULATION
from fgcif_flwr.data.crm.window import Derived, Window
from fgcif_flwr.data.records import CATEGORY_SHARE, Records

LINES: Final = "fgcif_built_lines"
"""Lines of the population from the history and the horizon."""

_SUMS: Final = "fgcif_built_sums"
_OCCASIONS: Final = "fgcif_built_occasions"
_PRODUCTS: Final = "fgcif_built_products"
_COUNTRIES: Final = "fgcif_built_countries"
_BOUGHT: Final = "time < $cutoff AND NOT returned"

_OF_OCCASIONS: Final = (
    "frequency",
    "average_order",
    "mean_interpurchase_days",
    "interpurchase_trend",
)


def load_lines(
    connection: duckdb.DuckDBPyConnection, window: Window, wanted: Collection[str]
) -> None:
    """Make the table :data:`LINES`, with the columns that the ``wanted`` ones are derived from.

    Raises
    ------
    ValueOutOfKindError
        If amounts are infinite or too large (counted).
    """
    asked = set(wanted)
    shares = any(column.startswith(CATEGORY_SHARE) for column in asked)
    optional = {
        "nullif(trim(t.category), '') AS category": shares
        or bool(asked & {"favourite_category", "next_category"}),
        "nullif(trim(t.channel), '') AS channel": "main_channel" in asked,
        "nullif(trim(t.country), '') AS country": "country" in asked,
        # What matters is whether two of one customer are the same; 64 bits tell that.
        "CASE WHEN t.product IS NOT NULL THEN hash(t.product) END AS product": (
            "distinct_products" in asked
        ),
        "CASE WHEN t.invoice IS NULL THEN hash(t.time) ELSE hash(t.invoice) END AS occasion": bool(
            asked & {*_OF_OCCASIONS}
        ),
    }
    columns = "".join(f", {column}" for column, needed in optional.items() if needed)
    connection.execute(
        f"""
        CREATE TEMP TABLE {LINES} AS
        SELECT p.code, t.time, {exact("t.amount")} AS amount, t.amount IS NOT NULL AS has_amount,
            coalesce(t.returned, false) AS returned, t.discounted {columns}
        FROM transactions t JOIN {POPULATION} p ON t.customer = p.customer
        WHERE t.time >= $start AND t.time < $until
        """,
        window.times("start", "until"),
    )
    flags = {"has_amount AND amount IS NULL": "amount"}
    refuse_out_of_range(connection, LINES, flags, "transactions")


def purchase_features(
    connection: duckdb.DuckDBPyConnection,
    records: Records,
    window: Window,
    wanted: Collection[str],
) -> list[Derived]:
    """Derive the ``wanted`` features of purchases from :data:`LINES`."""
    asked = set(wanted)
    found = [_sums(connection, window)]
    if asked & {*_OF_OCCASIONS}:
        found.append(_occasions(connection, window))
    if "favourite_category" in asked or any(c.startswith(CATEGORY_SHARE) for c in asked):
        found.append(_words(connection, window, "category", records.categories))
    if "main_channel" in asked:
        found.append(_words(connection, window, "channel", ()))
    if "distinct_products" in asked:
        found.append(_distinct_products(connection, window))
    if "country" in asked:
        found.append(_country(connection, window))
    return found


def days(since: str, until: str) -> str:
    """Return the SQL of the days from one time to another, exact to the second."""
    return f"(date_diff('second', {since}, {until}) / 86400.0)"


def trend(later: str, earlier: str) -> str:
    """Return the SQL of (later - earlier) / (later + earlier), from -1 to 1, null for 0 and 0."""
    return f"(({later}) - ({earlier}))::DOUBLE / nullif(({later}) + ({earlier}), 0)"


def _sums(connection: duckdb.DuckDBPyConnection, window: Window) -> Derived:
    connection.execute(
        f"""
        CREATE TEMP TABLE {_SUMS} AS
        SELECT code, max(time) FILTER (NOT returned) AS last_time,
            min(time) FILTER (NOT returned) AS first_time,
            sum(amount) FILTER (NOT returned) AS spend,
            coalesce(sum(amount) FILTER (NOT returned AND time >= $recent), 0) AS recent_spend,
            coalesce(sum(amount) FILTER (NOT returned AND time >= $prior AND time < $recent), 0)
                AS prior_spend,
            count(*) FILTER (NOT returned) AS bought,
            count(*) FILTER (returned) AS returns,
            count(*) FILTER (NOT returned AND discounted) AS discounted,
            count(discounted) FILTER (NOT returned) AS discount_known
        FROM {LINES} WHERE time < $cutoff GROUP BY code
        """,
        window.times("prior", "recent", "cutoff"),
    )
    cutoff = f"TIMESTAMP '{window.cutoff.isoformat(sep=' ')}'"
    # No purchase at all is nothing spent; purchases without any amount are an unknown sum.
    spend = f"(CASE WHEN coalesce(bought, 0) = 0 THEN 0 ELSE spend END / {UNITS}.0)"
    return Derived(
        _SUMS,
        {
            "recency_days": days("last_time", cutoff),
            "tenure_days": days("first_time", cutoff),
            "monetary": spend,
            "recent_share": "recent_spend::DOUBLE / nullif(spend, 0)",
            "spend_trend": trend("recent_spend", "prior_spend"),
            "discount_share": "discounted::DOUBLE / nullif(discount_known, 0)",
            "returns": "coalesce(returns, 0)",
            "return_share": "returns::DOUBLE / nullif(returns + bought, 0)",
        },
    )


def _occasions(connection: duckdb.DuckDBPyConnection, window: Window) -> Derived:
    """Derive features of occasions: an invoice, or all lines of one time where there is none.

    Of n gaps between occasions, the earlier (n / 2, rounded down) end at the middle occasion.
    """
    connection.execute(
        f"""
        CREATE TEMP TABLE {_OCCASIONS} AS
        SELECT code, count(*) AS number, min(time) AS first_time, max(time) AS last_time,
            quantile_disc(time, 0.5) AS middle_time, sum(amount) AS spend
        FROM (
            SELECT code, min(time) AS time, sum(amount) AS amount
            FROM {LINES} WHERE {_BOUGHT} GROUP BY code, occasion
        ) GROUP BY code
        """,
        window.times("cutoff"),
    )
    earlier = f"{days('first_time', 'middle_time')} / nullif((number - 1) // 2, 0)"
    later = f"{days('middle_time', 'last_time')} / nullif(number // 2, 0)"
    return Derived(
        _OCCASIONS,
        {
            "frequency": "coalesce(number, 0)",
            "average_order": f"spend / {UNITS}.0 / number",
            "mean_interpurchase_days": (
                f"{days('first_time', 'last_time')} / nullif(number - 1, 0)"
            ),
            "interpurchase_trend": trend(later, earlier),
        },
    )


def _words(
    connection: duckdb.DuckDBPyConnection, window: Window, column: str, words: Sequence[str]
) -> Derived:
    """Derive the commonest word of a column (the first of the alphabet on a tie) and shares."""
    table = f"fgcif_built_words_of_{column}"
    shares = "".join(
        f", coalesce(sum(number) FILTER (place = {place}), 0)::DOUBLE / sum(number) "
        f"AS share_{place}"
        for place in range(1, len(words) + 1)
    )
    place = f"list_position($words::VARCHAR[], {column})" if words else "NULL"
    parameters = window.times("cutoff") | ({"words": list(words)} if words else {})
    connection.execute(
        f"""
        CREATE TEMP TABLE {table} AS
        SELECT code, min({{'rank': -number, 'word': {column}}}).word AS favourite {shares}
        FROM (
            SELECT code, {column}, {place} AS place, number FROM (
                SELECT code, {column}, count(*) AS number
                FROM {LINES} WHERE {_BOUGHT} AND {column} IS NOT NULL GROUP BY code, {column}
            )
        ) GROUP BY code
        """,
        parameters,
    )
    favourite = "favourite_category" if column == "category" else "main_channel"
    expressions = {f"{CATEGORY_SHARE}{w}": f"share_{place}" for place, w in enumerate(words, 1)}
    return Derived(table, {favourite: "favourite", **expressions})


def _distinct_products(connection: duckdb.DuckDBPyConnection, window: Window) -> Derived:
    connection.execute(
        f"""
        CREATE TEMP TABLE {_PRODUCTS} AS SELECT code, count(product) AS number
        FROM (SELECT DISTINCT code, product FROM {LINES} WHERE {_BOUGHT}) GROUP BY code
        """,
        window.times("cutoff"),
    )
    return Derived(_PRODUCTS, {"distinct_products": "coalesce(number, 0)"})


def _country(connection: duckdb.DuckDBPyConnection, window: Window) -> Derived:
    """Derive the country of the last purchase that has one; of two, the last of the alphabet."""
    connection.execute(
        f"""
        CREATE TEMP TABLE {_COUNTRIES} AS
        SELECT code, max({{'time': time, 'word': country}}).word AS country
        FROM {LINES} WHERE {_BOUGHT} AND country IS NOT NULL GROUP BY code
        """,
        window.times("cutoff"),
    )
    return Derived(_COUNTRIES, {"country": "country"})
