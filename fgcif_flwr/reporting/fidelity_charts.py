"""Charts of a fidelity page, as inline SVG: no script, no file from elsewhere.

Colours are classes of the page's style sheet (``real``, ``made``, ``axis``), except the cells' of
heat maps. Names and words come from schemas, and are escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]

_WIDTH, _HEIGHT = 300, 110
_BAR, _WORD = 18, 108
_LETTERS = 17
_NEGATIVE, _POSITIVE = (33, 102, 172), (202, 90, 30)


def histogram(real: Reals, synthetic: Reals, labels: tuple[str, str]) -> str:
    """Draw two histograms over the same bins: the real one filled, the synthetic one as a line.

    Parameters
    ----------
    real, synthetic
        Shares of rows, (bins,), in [0, 1].
    labels
        Beneath the first and the last bin.
    """
    top = max(float(real.max()), float(synthetic.max()), 1e-9)
    base = _HEIGHT - 16
    step = _WIDTH / len(real)

    def height(share: float) -> float:
        return base - (base - 6) * share / top

    bars = "".join(
        f'<rect class="real" x="{place * step:.1f}" y="{height(share):.1f}" '
        f'width="{max(step - 0.6, 0.5):.1f}" height="{base - height(share):.1f}"/>'
        for place, share in enumerate(real)
    )
    corners = [f"M0 {base}"]
    for place, share in enumerate(synthetic):
        y = height(share)
        corners.append(f"L{place * step:.1f} {y:.1f}L{(place + 1) * step:.1f} {y:.1f}")
    corners.append(f"L{_WIDTH} {base}")
    low, high = (escape(label) for label in labels)
    return (
        f'<svg viewBox="-2 0 {_WIDTH + 4} {_HEIGHT}" role="img">{bars}'
        f'<path class="made" d="{"".join(corners)}"/>'
        f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{base}" y2="{base}"/>'
        f'<text x="0" y="{_HEIGHT - 3}">{low}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 3}" text-anchor="end">{high}</text></svg>'
    )


def bars(words: Sequence[str], real: Reals, synthetic: Reals) -> str:
    """Draw a pair of bars a word, the real one above; shares of rows, (words,), in [0, 1]."""
    top = max(float(real.max()), float(synthetic.max()), 1e-9)
    scale = (_WIDTH - _WORD - 34) / top
    lines = []
    for place, (word, ours, theirs) in enumerate(zip(words, real, synthetic, strict=True)):
        y = place * _BAR
        lines.append(
            f"<g><title>{escape(word)}: real {ours:.1%}, synthetic {theirs:.1%}</title>"
            f'<text x="{_WORD - 6}" y="{y + 12}" text-anchor="end">{escape(_short(word))}</text>'
            f'<rect class="real" x="{_WORD}" y="{y + 2}" width="{ours * scale:.1f}" height="7"/>'
            f'<rect class="made-bar" x="{_WORD}" y="{y + 9}" width="{theirs * scale:.1f}" '
            f'height="6"/><text x="{_WORD + max(ours, theirs) * scale + 4:.1f}" y="{y + 12}">'
            f"{theirs:.0%}</text></g>"
        )
    height = _BAR * len(words) + 2
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{"".join(lines)}</svg>'


def heat_map(names: Sequence[str], values: Reals, limit: float, what: str) -> str:
    """Draw the lower half of a symmetric matrix.

    Parameters
    ----------
    names
        Of rows and columns.
    values
        (names, names); the part above the diagonal, and the diagonal, are not read.
    limit
        The absolute value, above 0, at which colours are full.
    what
        What a value is, for the text that shows over a cell.
    """
    count = len(names)
    cell = max(8.0, min(26.0, 380 / count))
    left, size = 118.0, cell * count
    cells = []
    for row in range(1, count):
        for column in range(row):
            value = float(values[row, column])
            colour = _colour(value / limit)
            cells.append(
                f'<rect x="{left + column * cell:.1f}" y="{row * cell:.1f}" '
                f'width="{cell - 0.7:.1f}" height="{cell - 0.7:.1f}" fill="{colour}">'
                f"<title>{escape(names[row])} and {escape(names[column])}: {what} {value:.2f}"
                "</title></rect>"
            )
    middle = cell * 0.7
    texts = [
        f'<text x="{left - 5}" y="{place * cell + middle:.1f}" text-anchor="end">'
        f"{escape(_short(name))}</text>"
        for place, name in enumerate(names)
        if place > 0
    ]
    texts += [
        f'<text transform="translate({left + place * cell + middle:.1f} {size + 5:.1f}) '
        f'rotate(-90)" text-anchor="end">{escape(_short(name))}</text>'
        for place, name in enumerate(names)
        if place < count - 1
    ]
    return (
        f'<svg viewBox="0 0 {left + size:.0f} {size + 112:.0f}" role="img">'
        f"{''.join(cells)}{''.join(texts)}</svg>"
    )


def colour_key(limit: float) -> str:
    """Draw the scale of a heat map's colours, from -limit to limit."""
    steps = 41
    parts = "".join(
        f'<rect x="{40 + place * 4}" y="2" width="4.3" height="10" '
        f'fill="{_colour(2 * place / (steps - 1) - 1)}"/>'
        for place in range(steps)
    )
    end = 40 + 4 * steps
    return (
        f'<svg class="key" viewBox="0 0 {end + 40} 15" role="img">{parts}'
        f'<text x="36" y="11" text-anchor="end">{-limit:g}</text>'
        f'<text x="{end + 5}" y="11">{limit:g}</text></svg>'
    )


def _colour(value: float) -> str:
    """Return a colour from blue, -1, over near-white to orange, 1; grey where undefined."""
    if not np.isfinite(value):
        return "#bbb"
    full = _POSITIVE if value > 0 else _NEGATIVE
    share = min(1.0, abs(value)) ** 0.8
    mixed = (round(246 + (part - 246) * share) for part in full)
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"
