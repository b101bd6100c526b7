"""A table of figures as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """Return a table: ``words`` columns of text on the left (class w), then figures (class n).

    Cells are HTML; what is not the project's own text is escaped by the caller.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = ("w" if place < words else "n" for place in range(len(cells)))
        return "".join(
            f'<{tag} class="{kind}">{cell}</{tag}>' for kind, cell in zip(kinds, cells, strict=True)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return (
        f'<div class="wide"><table><thead><tr>{line(header, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
