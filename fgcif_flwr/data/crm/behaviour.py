"""Features of behaviour: sessions, made of page views where there are only these, and campaigns."""

from __future__ import annotations

from typing import Final

import duckdb

from fgcif_flwr.data.crm.exact_sums import UNITS, exact, refuse_out_of_range
from fgcif_flwr.data.crm.population import POPULATION
from fgcif_flwr.data.crm.purchases import days, trend
from fgcif_flwr.data.crm.window import Derived, Window
from fgcif_flwr.data.records import Records

_EVENTS: Final = "fgcif_built_events"
_SESSIONS: Final = "fgcif_built_sessions"
_VISITS: Final = "fgcif_built_visits"
_CAMPAIGNS: Final = "fgcif_built_campaigns"

# Rows with a session's name are one session, whatever their kinds; its own row knows best how
# many pages and seconds it had. Without a name a session row is one, and views are parted by
# pauses.
_QUERY_OF_SESSIONS: Final = f"""
CREATE TEMP TABLE {_SESSIONS} AS
WITH parted AS (
    SELECT *, CASE
        WHEN session IS NOT NULL OR kind = 'session' THEN 0
        WHEN time - lag(time) OVER in_time <= to_seconds($gap) THEN 0
        ELSE 1 END AS begins
    FROM {_EVENTS} WHERE kind IN ('session', 'view')
    WINDOW in_time AS (
        PARTITION BY code, (session IS NOT NULL OR kind = 'session') ORDER BY time
    )
),
numbered AS (
    SELECT *, sum(begins) OVER (PARTITION BY code ORDER BY time, begins DESC, place) AS part
    FROM parted
)
SELECT code, min(time) AS first_time, max(time) AS last_time,
    coalesce(sum(pages) FILTER (kind = 'session'),
        sum(coalesce(pages, {UNITS})) FILTER (kind = 'view')) AS pages,
    coalesce(sum(dwell) FILTER (kind = 'session'), sum(dwell) FILTER (kind = 'view'),
        CASE WHEN count(*) FILTER (kind = 'view') > 1
        THEN date_diff('second', min(time), max(time)) * {UNITS} END) AS dwell
FROM numbered
GROUP BY code, session,
    CASE WHEN session IS NULL AND kind = 'session' THEN place END,
    CASE WHEN session IS NULL AND kind = 'view' THEN part END
"""


def behaviour_features(
    connection: duckdb.DuckDBPyConnection, records: Records, window: Window
) -> list[Derived]:
    """Derive the features of behaviour from the view ``events``.

    Raises
    ------
    ValueOutOfKindError
        If pages or dwell times are infinite or too large (counted).
    """
    connection.execute(
        f"""
        CREATE TEMP TABLE {_EVENTS} AS
        SELECT p.code, row_number() OVER () AS place, e.time, coalesce(e.kind, 'view') AS kind,
            e.session, {exact("e.pages")} AS pages, {exact("e.dwell_seconds")} AS dwell,
            e.pages IS NOT NULL AS has_pages, e.dwell_seconds IS NOT NULL AS has_dwell, e.clicked
        FROM events e JOIN {POPULATION} p ON e.customer = p.customer
        WHERE e.time >= $start AND e.time < $cutoff
        """,
        window.times("start", "cutoff"),
    )
    flags = {
        "has_pages AND pages IS NULL": "pages",
        "has_dwell AND dwell IS NULL": "dwell_seconds",
    }
    refuse_out_of_range(connection, _EVENTS, flags, "events")
    connection.execute(_QUERY_OF_SESSIONS, {"gap": records.session_gap_minutes * 60})
    return [_visits(connection, window), _campaigns(connection)]


def _visits(connection: duckdb.DuckDBPyConnection, window: Window) -> Derived:
    connection.execute(
        f"""
        CREATE TEMP TABLE {_VISITS} AS
        SELECT code, count(*) AS number, max(last_time) AS last_time,
            sum(pages) AS pages, count(pages) AS pages_known, max(pages) AS most_pages,
            sum(dwell) AS dwell, count(dwell) AS dwell_known,
            count(*) FILTER (first_time >= $recent) AS recent,
            count(*) FILTER (first_time >= $prior AND first_time < $recent) AS prior
        FROM {_SESSIONS} GROUP BY code
        """,
        window.times("prior", "recent"),
    )
    cutoff = f"TIMESTAMP '{window.cutoff.isoformat(sep=' ')}'"
    return Derived(
        _VISITS,
        {
            "sessions": "coalesce(number, 0)",
            "days_since_session": days("last_time", cutoff),
            "pages_per_session": f"pages / {UNITS}.0 / nullif(pages_known, 0)",
            "dwell_minutes": f"dwell / {UNITS}.0 / 60.0 / nullif(dwell_known, 0)",
            "depth": f"most_pages / {UNITS}.0",
            "session_trend": trend("recent", "prior"),
        },
    )


def _campaigns(connection: duckdb.DuckDBPyConnection) -> Derived:
    connection.execute(
        f"""
        CREATE TEMP TABLE {_CAMPAIGNS} AS
        SELECT code, count(*) AS shown, count(clicked) AS known,
            count(*) FILTER (clicked) AS clicked
        FROM {_EVENTS} WHERE kind = 'campaign' GROUP BY code
        """
    )
    return Derived(
        _CAMPAIGNS,
        {
            "campaigns_shown": "coalesce(shown, 0)",
            "click_rate": "clicked::DOUBLE / nullif(known, 0)",
        },
    )
