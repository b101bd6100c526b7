"""Features of contacts with service: how many, by which channel, in what mood, about what."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa

from fgcif_flwr.data.crm.exact_sums import UNITS, exact, refuse_out_of_range
from fgcif_flwr.data.crm.population import POPULATION
from fgcif_flwr.data.crm.sentiment import sentiment_scores
from fgcif_flwr.data.crm.topics import WHOLE, topic_shares
from fgcif_flwr.data.crm.window import Derived, Window
from fgcif_flwr.data.crm.words_of_texts import LONGEST_TEXT, Integers
from fgcif_flwr.data.encoding import bucket
from fgcif_flwr.data.records import CONTACTS_BY, TOPIC, Records

_CONTACTS: Final = "fgcif_built_contacts"
_TEXTS: Final = "fgcif_built_texts"
_SENTIMENTS: Final = "fgcif_built_sentiments"
_TOPICS: Final = "fgcif_built_topics"
_SUMS: Final = "fgcif_built_contact_sums"
_TOPIC_SUMS: Final = "fgcif_built_topic_sums"

CHARACTERS_AT_ONCE: Final = 4_000_000
"""Of texts that are taken apart together; each counts as at least :data:`_SHORT` characters."""
_SHORT: Final = 200


def contact_features(
    connection: duckdb.DuckDBPyConnection,
    records: Records,
    window: Window,
    wanted: Collection[str],
) -> list[Derived]:
    """Derive the ``wanted`` features of contacts from the view ``interactions``.

    Raises
    ------
    ValueOutOfKindError
        If hours, ratings or sentiments are infinite or too large (counted).
    """
    topics = any(column.startswith(TOPIC) for column in wanted)
    sentiment = "sentiment" in wanted
    _load(connection, window, with_text=topics or sentiment)
    if topics or sentiment:
        _read_texts(connection, records.topic_buckets if topics else 0, sentiment)
    found = [_sums(connection, records, sentiment)]
    if topics:
        found.append(_topic_sums(connection, records.topic_buckets))
    return found


def _load(connection: duckdb.DuckDBPyConnection, window: Window, with_text: bool) -> None:
    # A contact that was closed after the cut-off was open then: how long it took, and what the
    # customer thought of it in the end, was not known.
    text, topic = (f"left(trim({one}), {LONGEST_TEXT})" for one in ("i.text", "i.topic"))
    said = f", nullif({text}, '') AS text, nullif(lower({topic}), '') AS topic"
    known = "(i.closed IS NULL OR i.closed < $cutoff)"
    hours = "coalesce(i.open_hours, greatest(date_diff('second', i.time, i.closed), 0) / 3600.0)"
    connection.execute(
        f"""
        CREATE TEMP TABLE {_CONTACTS} AS
        SELECT *, {exact("raw_hours")} AS hours, {exact("raw_satisfaction")} AS satisfaction,
            {exact("raw_sentiment")} AS sentiment
        FROM (
            SELECT p.code, i.channel, CASE WHEN {known} THEN i.satisfaction END
                AS raw_satisfaction, CASE WHEN {known} THEN {hours} END AS raw_hours,
                i.sentiment AS raw_sentiment {said if with_text else ""}
            FROM interactions i JOIN {POPULATION} p ON i.customer = p.customer
            WHERE i.time >= $start AND i.time < $cutoff
        )
        """,
        window.times("start", "cutoff"),
    )
    columns = {"hours": "open_hours", "satisfaction": "satisfaction", "sentiment": "sentiment"}
    flags = {f"raw_{name} IS NOT NULL AND {name} IS NULL": c for name, c in columns.items()}
    refuse_out_of_range(connection, _CONTACTS, flags, "interactions")


def _read_texts(connection: duckdb.DuckDBPyConnection, buckets: int, sentiment: bool) -> None:
    """Make tables of what the distinct texts and topics say, a part of the texts at a time."""
    # Where sentiment and topic are mapped, a text has nothing to add.
    reasons = [
        *(["raw_sentiment IS NULL"] if sentiment else ()),
        *(["topic IS NULL"] if buckets else ()),
    ]
    connection.execute(
        f"CREATE TEMP TABLE {_TEXTS} AS SELECT text, sum(greatest(length(text), {_SHORT})) OVER "
        f"(ROWS UNBOUNDED PRECEDING) // {CHARACTERS_AT_ONCE} AS part FROM "
        f"(SELECT DISTINCT text FROM {_CONTACTS} WHERE text IS NOT NULL "
        f"AND ({' OR '.join(reasons)}))"
    )
    connection.execute(f"CREATE TEMP TABLE {_SENTIMENTS} (text VARCHAR, score BIGINT)")
    connection.execute(
        f"CREATE TEMP TABLE {_TOPICS} (said VARCHAR, is_topic BOOLEAN, bucket BIGINT, share BIGINT)"
    )
    parts = connection.execute(f"SELECT DISTINCT part FROM {_TEXTS} ORDER BY part").fetchall()
    for (part,) in parts:
        texts = (
            connection.sql(f"SELECT text FROM {_TEXTS} WHERE part = $part", params={"part": part})
            .to_arrow_table()["text"]
            .combine_chunks()
        )
        if sentiment:
            scores = np.round(sentiment_scores(texts) * UNITS).astype(np.int64)
            _insert(connection, _SENTIMENTS, pa.table({"text": texts, "score": scores}))
        if buckets:
            places, found, shares = topic_shares(texts, buckets)
            said = texts.take(pa.array(places))
            _insert(connection, _TOPICS, _topic_rows(said, False, found, shares))
    if buckets:
        topics = connection.sql(
            f"SELECT DISTINCT topic FROM {_CONTACTS} WHERE topic IS NOT NULL"
        ).to_arrow_table()["topic"]
        found = np.array([bucket(topic, buckets) for topic in topics.to_pylist()], np.int64)
        shares = np.full(len(topics), WHOLE)
        _insert(connection, _TOPICS, _topic_rows(topics, True, found, shares))


def _topic_rows(said: pa.Array, is_topic: bool, found: Integers, shares: Integers) -> pa.Table:
    return pa.table(
        {
            "said": said,
            "is_topic": pa.repeat(is_topic, len(said)),
            "bucket": found,
            "share": shares,
        }
    )


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    name = f"{table}_part"
    connection.register(name, rows)
    try:
        connection.execute(f"INSERT INTO {table} SELECT * FROM {name}")
    finally:
        connection.unregister(name)


def _sums(connection: duckdb.DuckDBPyConnection, records: Records, from_texts: bool) -> Derived:
    by_channel = "".join(
        f", count(*) FILTER (place = {place}) AS by_{place}"
        for place in range(1, len(records.channels) + 1)
    )
    place = "list_position($channels::VARCHAR[], trim(c.channel))" if by_channel else "NULL"
    score, join = "c.sentiment", ""
    if from_texts:
        score = "coalesce(c.sentiment, s.score)"
        join = f"LEFT JOIN {_SENTIMENTS} s ON s.text = c.text AND c.raw_sentiment IS NULL"
    connection.execute(
        f"""
        CREATE TEMP TABLE {_SUMS} AS
        SELECT code, count(*) AS number, sum(hours) AS hours, count(hours) AS hours_known,
            sum(satisfaction) AS satisfaction, count(satisfaction) AS satisfaction_known,
            sum(score) AS sentiment, count(score) AS sentiment_known {by_channel}
        FROM (
            SELECT c.code, c.hours, c.satisfaction, {score} AS score, {place} AS place
            FROM {_CONTACTS} c {join}
        ) GROUP BY code
        """,
        {"channels": list(records.channels)} if by_channel else {},
    )
    means = {"open_hours": "hours", "satisfaction": "satisfaction", "sentiment": "sentiment"}
    return Derived(
        _SUMS,
        {
            "contacts": "coalesce(number, 0)",
            **{name: f"{c} / {UNITS}.0 / nullif({c}_known, 0)" for name, c in means.items()},
            **{
                f"{CONTACTS_BY}{word}": f"coalesce(by_{place}, 0)"
                for place, word in enumerate(records.channels, 1)
            },
        },
    )


def _topic_sums(connection: duckdb.DuckDBPyConnection, buckets: int) -> Derived:
    """Derive each bucket's mean share over a customer's contacts that say anything of a topic."""
    sums = ", ".join(
        f"coalesce(sum(share) FILTER (bucket = {place}), 0)::DOUBLE / sum(share) AS of_{place}"
        for place in range(buckets)
    )
    connection.execute(
        f"""
        CREATE TEMP TABLE {_TOPIC_SUMS} AS SELECT code, {sums}
        FROM (
            SELECT c.code, t.bucket, t.share FROM {_CONTACTS} c JOIN {_TOPICS} t
            ON t.said = coalesce(c.topic, c.text) AND t.is_topic = (c.topic IS NOT NULL)
        ) GROUP BY code
        """
    )
    return Derived(_TOPIC_SUMS, {f"{TOPIC}{place}": f"of_{place}" for place in range(buckets)})
