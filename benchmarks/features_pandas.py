"""The features of the schema `crm` in plain pandas, as an analyst would write them.

It is a second opinion on what the project derives, and a yardstick of its time and memory. Texts
are read by the project's own functions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from fgcif_flwr.data.crm.sentiment import sentiment_scores
from fgcif_flwr.data.crm.topics import WHOLE, topic_shares
from fgcif_flwr.data.records import Records
from fgcif_flwr.data.schema import Schema

DAY = 86_400.0


def build(folder: Path, schema: Schema) -> pa.Table:
    """Return the table of customers from the three Parquet files in ``folder``."""
    records = schema.records
    assert records is not None
    assert schema.id_column is not None
    cutoff = pd.Timestamp(records.cutoff)
    lines = pd.read_parquet(folder / "transactions.parquet")
    until = cutoff + pd.Timedelta(days=records.horizon_days)
    begin = cutoff - pd.Timedelta(days=records.history_days or 10_000)
    ahead = lines[(lines.time >= cutoff) & (lines.time < until) & ~lines.returned]
    lines = lines[(lines.time < cutoff) & (lines.time >= begin)]
    table = _purchases(lines, cutoff, records)
    del lines
    events = pd.read_parquet(folder / "events.parquet")
    events = events[(events.time < cutoff) & (events.time >= begin)]
    events = events[events.customer.isin(table.index)]
    table = table.join(_behaviour(events, cutoff, records))
    contacts = pd.read_parquet(folder / "interactions.parquet")
    contacts = contacts[(contacts.time < cutoff) & (contacts.time >= begin)]
    contacts = contacts[contacts.customer.isin(table.index)]
    table = table.join(_contacts(contacts, cutoff, records))
    counted = ["sessions", "campaigns_shown", "contacts"]
    counted += [f"contacts:{word}" for word in records.channels]
    table[counted] = table[counted].fillna(0)
    table["churn"] = np.where(table.index.isin(ahead.customer.unique()), "no", "yes")
    table["value"] = ahead.groupby("customer").amount.sum().reindex(table.index).fillna(0.0)
    first = ahead[ahead.category.isin(records.categories)].sort_values(["time", "category"])
    table["next_category"] = first.groupby("customer").category.first().reindex(table.index)
    table = table.sort_index()
    names = [part.column for part in (*schema.features, *schema.targets)]
    columns = {
        str(name): pa.array(
            table[name].astype(object).to_numpy()
            if table[name].dtype.kind in "OUT"
            else table[name].to_numpy(np.float64),
            from_pandas=True,
        )
        for name in names
    }
    ids = pa.array(table.index.astype(str).to_numpy(object))
    return pa.table({schema.id_column: ids, **columns})


def _purchases(lines: pd.DataFrame, cutoff: pd.Timestamp, records: Records) -> pd.DataFrame:
    bought = lines[~lines.returned]
    recent = cutoff - pd.Timedelta(days=records.recent_days)
    prior = cutoff - pd.Timedelta(days=2 * records.recent_days)
    by_customer = bought.groupby("customer")
    table = pd.DataFrame(index=by_customer.size().index)
    count = by_customer.size()
    first, last = by_customer.time.min(), by_customer.time.max()
    spend = by_customer.amount.sum()
    occasions = bought.groupby(["customer", "invoice"]).time.min().reset_index()
    occasions = occasions.sort_values(["customer", "time"])
    number = occasions.groupby("customer").size()
    place = occasions.groupby("customer").cumcount()
    middle_place = (occasions.customer.map(number) - 1) // 2
    middle = occasions[place == middle_place].set_index("customer").time
    # An occasion is at the time of its first line; the last line may be later.
    by_occasion = occasions.groupby("customer").time
    first_one, last_one = by_occasion.min(), by_occasion.max()
    table["recency_days"] = _seconds(cutoff - last) / DAY
    table["tenure_days"] = _seconds(cutoff - first) / DAY
    table["frequency"] = number
    table["monetary"] = spend
    table["average_order"] = spend / number
    gaps = (number - 1).where(number > 1)
    table["mean_interpurchase_days"] = _seconds(last_one - first_one) / DAY / gaps
    early = (number - 1) // 2
    earlier = _seconds(middle - first_one) / early.where(early > 0)
    later = _seconds(last_one - middle) / (number // 2)
    table["interpurchase_trend"] = ((later - earlier) / (later + earlier)).where(early > 0)
    now = bought[bought.time >= recent].groupby("customer").amount.sum().reindex(table.index)
    then = bought[(bought.time >= prior) & (bought.time < recent)]
    before = then.groupby("customer").amount.sum().reindex(table.index)
    now, before = now.fillna(0), before.fillna(0)
    table["spend_trend"] = (now - before) / (now + before)
    table["recent_share"] = now / spend
    for column, name in (("category", "favourite_category"), ("channel", "main_channel")):
        counts = bought.groupby(["customer", column]).size().rename("n").reset_index()
        counts = counts.sort_values(["customer", "n", column], ascending=[True, False, True])
        table[name] = counts.drop_duplicates("customer").set_index("customer")[column]
    shares = bought.groupby(["customer", "category"]).size().unstack(fill_value=0)
    for word in records.categories:
        table[f"category_share:{word}"] = shares[word] / count
    table["discount_share"] = by_customer.discounted.mean()
    returned = lines[lines.returned].groupby("customer").size().reindex(table.index).fillna(0)
    table["return_share"] = returned / (returned + count)
    table["distinct_products"] = by_customer["product"].nunique()
    return table


def _behaviour(events: pd.DataFrame, cutoff: pd.Timestamp, records: Records) -> pd.DataFrame:
    views = events[events.kind == "view"].sort_values(["customer", "time"])
    pause = views.time.diff() > pd.Timedelta(minutes=records.session_gap_minutes)
    new = pause | (views.customer != views.customer.shift())
    parts = views.assign(part=new.cumsum(), pages=views.pages.fillna(1.0)).groupby("part")
    seen = pd.DataFrame(
        {
            "customer": parts.customer.first(),
            "begin": parts.time.min(),
            "end": parts.time.max(),
            "pages": parts.pages.sum(),
            "dwell": parts.dwell_seconds.sum(min_count=1),
        }
    )
    rows = events[events.kind == "session"]
    rows = rows.assign(begin=rows.time, end=rows.time, dwell=rows.dwell_seconds)
    sessions = pd.concat([seen, rows[["customer", "begin", "end", "pages", "dwell"]]])
    by_customer = sessions.groupby("customer")
    recent = cutoff - pd.Timedelta(days=records.recent_days)
    prior = cutoff - pd.Timedelta(days=2 * records.recent_days)
    now = (sessions.begin >= recent).groupby(sessions.customer).sum()
    before = ((sessions.begin >= prior) & (sessions.begin < recent)).groupby(sessions.customer)
    table = pd.DataFrame(
        {
            "sessions": by_customer.size(),
            "days_since_session": _seconds(cutoff - by_customer.end.max()) / DAY,
            "pages_per_session": by_customer.pages.mean(),
            "dwell_minutes": by_customer.dwell.mean() / 60,
            "depth": by_customer.pages.max(),
            "session_trend": (now - before.sum()) / (now + before.sum()),
        }
    )
    shown = events[events.kind == "campaign"].groupby("customer")
    campaigns = {"campaigns_shown": shown.size(), "click_rate": shown.clicked.mean()}
    return table.join(pd.DataFrame(campaigns).astype(float), how="outer")


def _contacts(contacts: pd.DataFrame, cutoff: pd.Timestamp, records: Records) -> pd.DataFrame:
    closed = contacts.closed < cutoff
    texts = pd.Index(contacts.text.unique())
    scores = pd.Series(sentiment_scores(pa.array(texts.to_numpy(object), pa.string())), texts)
    hours = _seconds(contacts.closed - contacts.time) / 3600
    contacts = contacts.assign(
        sentiment=contacts.text.map(scores),
        hours=hours.where(closed),
        satisfaction=contacts.satisfaction.where(closed),
    )
    by_customer = contacts.groupby("customer")
    table = pd.DataFrame(
        {
            "contacts": by_customer.size(),
            "open_hours": by_customer.hours.mean(),
            "satisfaction": by_customer.satisfaction.mean(),
            "sentiment": by_customer.sentiment.mean(),
        }
    )
    channels = contacts.groupby(["customer", "channel"]).size().unstack(fill_value=0)
    for word in records.channels:
        table[f"contacts:{word}"] = channels.get(word, 0)
    buckets = records.topic_buckets
    place, found, shares = topic_shares(pa.array(texts.to_numpy(object), pa.string()), buckets)
    matrix = np.zeros((len(texts), buckets))
    matrix[place, found] = shares / WHOLE
    of_text = pd.DataFrame(matrix, index=texts, columns=[f"topic:{b}" for b in range(buckets)])
    spread = of_text.loc[contacts.text].set_axis(contacts.customer.to_numpy())
    return table.join(spread.groupby(level=0).mean())


def _seconds(span: pd.Series) -> pd.Series:
    """Whole seconds, as a clock that is read at both ends shows them."""
    return span.dt.total_seconds()
