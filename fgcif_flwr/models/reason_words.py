"""Attributions in the schema's words."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgcif_flwr.data.decoding import in_units, sensible_decimals
from fgcif_flwr.data.encoding import FIRST, MISSING, EncodedTable, feature_layout
from fgcif_flwr.data.schema import CategoricalFeature, Feature, NumericFeature, Schema
from fgcif_flwr.models.prediction_columns import Columns
from fgcif_flwr.models.reasons import Attributions, shares

LEAST_SHARE = 0.005
"""Of all that moved the score: less is no reason, and is not named."""


def reason_columns(
    schema: Schema, rows: EncodedTable, attributions: Attributions, what: str, most: int
) -> Columns:
    """Return the reasons of each row, the strongest first, as columns.

    Parameters
    ----------
    rows
        The rows that ``attributions`` are of, as encoded by ``schema``.
    what
        The target that they explain.
    most
        Reasons of a row, at least 1; of fewer features all.

    Returns
    -------
    dict
        For each place ``reason_1`` (text, null where there is no further reason) and
        ``reason_1_share`` (float64, below 0 where it lowers the score). The text is, for instance,
        ``recency_days = 312 days (time since the last purchase) raises churn: 34 %``.
    """
    moved = shares(attributions)
    order = np.argsort(-moved, axis=1, kind="stable")[:, :most]
    by_name = {feature.name: feature for feature in schema.features}
    # Words of a whole column at once: a feature has few distinct ones, a table many rows.
    states = [_states(schema, by_name[name], rows) for name in attributions.features]
    names = [_description(by_name[name]) for name in attributions.features]
    columns: Columns = {}
    index = np.arange(len(rows))
    for place in range(order.shape[1]):
        feature = order[:, place]
        share, value = moved[index, feature], attributions.values[index, feature]
        texts = [
            f"{attributions.features[f]}{states[f][row]}{names[f]} "
            f"{'raises' if value[row] > 0 else 'lowers'} {what}: {100 * share[row]:.0f} %"
            if share[row] >= LEAST_SHARE
            else None
            for row, f in enumerate(feature.tolist())
        ]
        columns[f"reason_{place + 1}"] = pa.array(texts, pa.string())
        signed = pa.array(share * np.sign(value))
        told = pa.array(share >= LEAST_SHARE)
        columns[f"reason_{place + 1}_share"] = pc.if_else(told, signed, None)
    return columns


def _description(feature: Feature) -> str:
    return f" ({feature.description})" if feature.description else ""


def _states(schema: Schema, feature: Feature, rows: EncodedTable) -> list[str]:
    """Say what each row has of a feature, as `` = 312 days``; where encoding lost it, nothing."""
    layout = feature_layout(schema)
    unit = f" {feature.unit}" if feature.unit else ""
    if isinstance(feature, NumericFeature):
        place = layout.numeric.index(feature.name)
        numbers = in_units(feature, rows.numeric[:, place].astype(np.float64))
        decimals = sensible_decimals(schema)[feature.name]
        missing = rows.missing[:, place] > 0
        return [
            " missing" if absent else f" = {_shortened(number, decimals)}{unit}"
            for number, absent in zip(numbers.tolist(), missing.tolist(), strict=True)
        ]
    codes = rows.categorical[:, layout.categorical.index(feature.name)]
    words = _words(feature, max(int(codes.max(initial=0)) + 1, FIRST))
    return [words[code] for code in codes.tolist()]


def _words(feature: Feature, codes: int) -> list[str]:
    known = ["no", "yes"]
    if isinstance(feature, CategoricalFeature):
        known = list(feature.vocabulary or [])
    words = [f" = {known[c - FIRST]}" if 0 <= c - FIRST < len(known) else "" for c in range(codes)]
    words[MISSING] = " missing"
    return words


def _shortened(number: float, decimals: int) -> str:
    """Return a number of so many decimals, without trailing zeros."""
    text = f"{number:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals else text
