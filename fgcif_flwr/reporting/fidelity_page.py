"""The fidelity page: one HTML file that shows a synthetic table beside the real one.

It needs nothing from elsewhere: styles and charts are inline, and there is no script. It shows
exact figures of real rows, so it belongs where these rows do.
"""

from __future__ import annotations

import math
from html import escape

import numpy as np

from fgcif_flwr.data.encoding import EncodedTable
from fgcif_flwr.data.schema import Schema
from fgcif_flwr.generative.fidelity import Fidelity
from fgcif_flwr.reporting.fidelity_charts import colour_key, heat_map
from fgcif_flwr.reporting.fidelity_columns import column_charts
from fgcif_flwr.reporting.fidelity_style import STYLE
from fgcif_flwr.reporting.html_table import html_table

NO_STATEMENT = (
    "No privacy statement came with the synthetic table. The measures on this page are attacks "
    "that were tried, not a guarantee."
)

_DIFFERENCE_LIMIT = 0.3
_ROWS = {"real": "real training rows", "synthetic": "synthetic rows", "held_out": "rows held out"}
_NAMES = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "f1": "F1",
    "macro_f1": "macro F1",
    "r2": "R²",
    "mae": "mean absolute error",
}
_SIGNS = {
    "nearer": "synthetic rows are nearer to training rows than to others",
    "attack-nearest": "the nearest synthetic row tells training rows from others",
    "attack-calibrated": "the nearest synthetic row, set against usual distances, tells training "
    "rows from others",
}


def fidelity_page(
    schema: Schema,
    real: EncodedTable,
    synthetic: EncodedTable,
    fidelity: Fidelity,
    statement: str = NO_STATEMENT,
) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    schema
        Of both tables; all its names and words are shown.
    real, synthetic
        The tables that ``fidelity`` compares.
    statement
        The privacy statement that the synthetic table came with, as plain text.
    """
    name = escape(schema.name)
    rows = " · ".join(
        f"{count:,} {_ROWS[which]}" for which, count in fidelity.rows.items() if count
    )
    sections = [
        f"<header><h1>Synthetic beside real: {name}</h1><p>{escape(schema.description)}</p>"
        f'<p class="note">{rows}</p></header>',
        '<p class="warn">This page shows exact figures of real rows. Keep it where they are.</p>',
        f'<section class="tiles">{_tiles(fidelity)}</section>',
        _section("Privacy", f'<p class="statement">{escape(statement)}</p>{_privacy(fidelity)}'),
        _section("Usefulness", _usefulness(fidelity)),
        _section(
            "Columns",
            '<p class="note"><span class="swatch real"></span> real '
            '<span class="swatch made"></span> synthetic · targets first, then the least alike. '
            "KS is Kolmogorov and Smirnov's distance, TV total variation; 0 is alike. "
            "Missing: real → synthetic.</p>"
            f'<div class="grid">{column_charts(schema, real, synthetic, fidelity)}</div>',
        ),
        _section("Pairs of columns", _pairs(fidelity)),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Fidelity: {name}</title><style>{STYLE}</style></head>\n<body><main>"
        + "\n".join(sections)
        + "</main></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _tiles(fidelity: Fidelity) -> str:
    told = [
        (
            "Columns alike",
            f"{fidelity.shape_similarity:.1%}",
            _beside(fidelity.shape_similarity_held_out),
        ),
        (
            "Pairs alike",
            f"{fidelity.pair_similarity:.1%}",
            _beside(fidelity.pair_similarity_held_out),
        ),
    ]
    if fidelity.utility:
        task = fidelity.utility[0]
        metric = escape(_NAMES.get(task.metric, task.metric))
        told.append(
            (
                f"{metric}, trained on synthetic",
                _figure(task.synthetic[task.metric]),
                f"{_figure(task.real[task.metric])} trained on real ({escape(task.target)}, "
                f"{task.model})",
            )
        )
    told.append(
        (
            "Told apart from real",
            f"AUC {_figure(fidelity.discriminator.auc)}",
            f"{_interval(fidelity.discriminator.interval)}; .5 is guessing",
        )
    )
    if fidelity.membership:
        worst = max(fidelity.membership, key=lambda one: one.advantage)
        told.append(
            (
                "Membership advantage",
                f"{worst.advantage:.3f}",
                f"{_interval(worst.advantage_interval)}; 0 is guessing ({worst.attacker})",
            )
        )
    return "".join(
        f'<div class="card tile"><span>{title}</span><b>{value}</b><small>{note}</small></div>'
        for title, value, note in told
    )


def _beside(held_out: float | None) -> str:
    return "" if held_out is None else f"{held_out:.1%} for real rows held out"


def _privacy(fidelity: Fidelity) -> str:
    near = fidelity.closeness
    if near is None:
        return (
            '<p class="note">Closeness was not measured: it wants real rows that the generator '
            "never learnt from.</p>"
        )
    signs = fidelity.signs_of_memorisation
    if signs:
        found = "; ".join(_SIGNS[sign] for sign in signs)
        verdict = f'<p class="verdict bad">Training rows show through: {found}.</p>'
    else:
        verdict = (
            '<p class="verdict">Nothing here tells training rows from rows held out. That is no '
            "proof: other attacks may.</p>"
        )
    rows = [
        (
            "Median distance to the nearest training row",
            f"{near.median_synthetic:.4f}",
            f"{near.median_held_out:.4f}",
        ),
        (
            f"Rows within {near.threshold:.4f} of a training row",
            f"{near.close_synthetic:.1%}",
            f"{near.close_held_out:.1%}",
        ),
        (
            "Exact copies of a training row",
            f"{near.copies_synthetic:.2%}",
            f"{near.copies_held_out:.2%}",
        ),
        (
            "Nearer to training rows than to as many rows held out",
            f"{near.nearer:.1%} {_interval(near.nearer_interval, percent=True)}",
            f"50% by chance, {near.nearer_copied:.0%} for copies",
        ),
    ]
    attacks = [
        (
            one.attacker,
            f"{one.auc:.3f} {_interval(one.auc_interval)}",
            f"{one.advantage:.3f} {_interval(one.advantage_interval)}",
            f"{one.tpr:.1%} {_interval(one.tpr_interval, percent=True)}",
        )
        for one in fidelity.membership
    ]
    reading = (
        '<p class="note">Distances are means over columns, each in [0, 1]. Synthetic rows that are '
        "more typical than real ones are near to training rows without having copied any; the last "
        "line of the first table and the attacks, which compare with other real rows, tell the "
        "two apart. Intervals at 95 %.</p>"
    )
    return (
        verdict
        + html_table(("Closeness", "synthetic", "held out"), rows)
        + html_table(
            (
                "Membership attack",
                "AUC (guessing .5)",
                "advantage (guessing 0)",
                "found at 1 % false alarms (guessing 1 %)",
            ),
            attacks,
        )
        + reading
    )


def _usefulness(fidelity: Fidelity) -> str:
    if not fidelity.utility:
        return (
            '<p class="note">Not measured: it wants real rows that the generator never learnt '
            "from.</p>"
        )
    rows = [
        (
            escape(task.target),
            task.model,
            _NAMES[metric],
            _figure(task.real[metric]),
            _figure(task.synthetic[metric]),
            _difference(task.synthetic[metric] - task.real[metric]),
        )
        for task in fidelity.utility
        for metric in _NAMES
        if metric in task.real
    ]
    header = ("target", "model", "metric", "trained on real", "on synthetic", "difference")
    return (
        '<p class="note">Models trained on each table, both tested on the same real rows held '
        f"out.</p>{html_table(header, rows, words=3)}"
    )


def _difference(value: float) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else "–"


def _pairs(fidelity: Fidelity) -> str:
    names = [shape.name for shape in fidelity.shapes]
    if len(names) < 2:
        return '<p class="note">There is one column only.</p>'
    places = {name: place for place, name in enumerate(names)}
    real, synthetic = np.zeros((2, len(names), len(names)))
    for pair in fidelity.pairs:
        cell = places[pair.second], places[pair.first]
        real[cell], synthetic[cell] = pair.real, pair.synthetic
    maps = (
        ("real", real, 1.0, "real"),
        ("synthetic", synthetic, 1.0, "synthetic"),
        ("synthetic less real", synthetic - real, _DIFFERENCE_LIMIT, "difference"),
    )
    figures = "".join(
        f'<figure class="card"><figcaption><b>{title}</b>{colour_key(limit)}</figcaption>'
        f"{heat_map(names, values, limit, what)}</figure>"
        for title, values, limit, what in maps
    )
    worst = sorted(fidelity.pairs, key=lambda pair: pair.similarity)[:5]
    rows = [
        (
            f"{escape(pair.first)} and {escape(pair.second)}",
            pair.measure,
            f"{pair.real:.2f}",
            f"{pair.synthetic:.2f}",
            f"{pair.similarity:.1%}",
        )
        for pair in worst
    ]
    return (
        "<p class=\"note\">Spearman's correlation of two numbers, Cramér's V where one is a "
        f'category.</p><div class="maps">{figures}</div>'
        + html_table(("least alike", "measure", "real", "synthetic", "alike"), rows, words=2)
    )


def _figure(value: float) -> str:
    return "–" if not np.isfinite(value) else f"{value:.3f}"


def _interval(bounds: tuple[float, float], percent: bool = False) -> str:
    if not np.isfinite(bounds).all():
        return ""
    low, high = (f"{bound:.1%}" if percent else f"{bound:.3f}" for bound in bounds)
    return f"[{low}, {high}]"
