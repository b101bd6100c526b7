"""One small chart for every column of a fidelity page, in the schema's units and words."""

from __future__ import annotations

from html import escape

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.decoding import in_units
from fgcif_flwr.data.encoding import EncodedTable, feature_layout
from fgcif_flwr.data.schema import (
    BooleanFeature,
    CategoricalFeature,
    NumericFeature,
    NumericTarget,
    Schema,
)
from fgcif_flwr.generative.columns import Values, columns_of, to_columns
from fgcif_flwr.generative.fidelity import ColumnShape, Fidelity
from fgcif_flwr.reporting.fidelity_charts import bars, histogram

Reals = npt.NDArray[np.float64]
Part = NumericFeature | NumericTarget

_BINS = 30
_TAIL = 0.005
_MOST_WORDS = 8


def column_charts(
    schema: Schema, real: EncodedTable, synthetic: EncodedTable, fidelity: Fidelity
) -> str:
    """Return HTML: a figure for every column, worst first, targets before features."""
    layout = feature_layout(schema)
    pairs = zip(to_columns(layout, real), to_columns(layout, synthetic), strict=True)
    parts = {part.name: part for part in (*schema.features, *schema.targets)}
    figures = []
    for column, shape, (ours, theirs) in zip(
        columns_of(layout), fidelity.shapes, pairs, strict=True
    ):
        part = parts[column.name]
        if isinstance(part, Part):
            chart = _numbers(part, ours, theirs)
        else:
            chart = _words(_labels(schema, column.name, column.codes), ours, theirs)
        place = (not column.target, shape.similarity)
        unit = part.unit + (", log scale" if isinstance(part, Part) and part.log else "")
        figures.append((place, _figure(shape, unit.removeprefix(", "), chart)))
    return "".join(figure for _, figure in sorted(figures, key=lambda pair: pair[0]))


def _figure(shape: ColumnShape, unit: str, chart: str) -> str:
    measure = "KS" if shape.kind == "numeric" else "TV"
    notes = [f"{measure} {shape.distance:.3f}"]
    if shape.missing_real or shape.missing_synthetic:
        notes.append(f"missing {shape.missing_real:.1%} → {shape.missing_synthetic:.1%}")
    target = ' <span class="tag">target</span>' if shape.target else ""
    told = f' <span class="unit">{escape(unit)}</span>' if unit else ""
    return (
        f'<figure class="card"><figcaption><b>{escape(shape.name)}</b>{told}{target}'
        f'<span class="note">{" · ".join(notes)}</span></figcaption>{chart}</figure>'
    )


def _numbers(part: Part, real: Values, synthetic: Values) -> str:
    known = [np.asarray(values[~np.isnan(values)], np.float64) for values in (real, synthetic)]
    together = np.concatenate(known)
    if not len(together):
        return '<p class="note">no number is there</p>'
    # Cut at the tails of either table, so that one giant does not flatten the rest of the picture.
    low = min(float(np.quantile(values, _TAIL)) for values in known if len(values))
    high = max(float(np.quantile(values, 1 - _TAIL)) for values in known if len(values))
    if high <= low:
        low, high = float(together.min()), max(float(together.max()), float(together.min()) + 1e-6)
    shares = []
    for values in known:
        counts = np.histogram(np.clip(values, low, high), _BINS, (low, high))[0]
        shares.append(counts / max(1, len(values)))
    ends = in_units(part, np.array([low, high]))
    return histogram(shares[0], shares[1], (f"{ends[0]:,.4g}", f"{ends[1]:,.4g}"))


def _words(words: list[str], real: Values, synthetic: Values) -> str:
    ours, theirs = (
        np.bincount(values.astype(np.int64), minlength=len(words)) / len(values)
        for values in (real, synthetic)
    )
    met = np.flatnonzero((ours > 0) | (theirs > 0))
    order = met[np.argsort(-ours[met], kind="stable")]
    shown, rest = order[:_MOST_WORDS], order[_MOST_WORDS:]
    labels = [words[code] for code in shown]
    if len(rest):
        labels.append(f"{len(rest)} others")
        ours = np.append(ours[shown], ours[rest].sum())
        theirs = np.append(theirs[shown], theirs[rest].sum())
    else:
        ours, theirs = ours[shown], theirs[shown]
    return bars(labels, ours, theirs)


def _labels(schema: Schema, name: str, codes: int) -> list[str]:
    """Return a word for every code of a column with categories."""
    for feature in schema.features:
        if feature.name != name:
            continue
        if isinstance(feature, BooleanFeature):
            return ["missing", "unseen", feature.false[0], feature.true[0]]
        if isinstance(feature, CategoricalFeature) and feature.vocabulary is not None:
            return ["missing", "unseen", *feature.vocabulary]
        return ["missing", "unseen", *(f"bucket {place}" for place in range(codes - 2))]
    head = next(head for head in feature_layout(schema).heads if head.name == name)
    return ["missing", *head.classes]
