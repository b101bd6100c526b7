"""Whether rows that are said to be held out were learnt from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.generative.columns import to_columns
from fgcif_flwr.generative.fidelity.intervals import difference_interval

_LEAST_EXCESS = 0.1


def shared_ids(real: Sequence[str | None], held_out: Sequence[str | None]) -> int:
    """Return how many of the rows held out have an id that is also in ``real``."""
    known = set(real) - {None}
    return sum(name in known for name in held_out)


def shared_rows(layout: FeatureLayout, real: EncodedTable, held_out: EncodedTable) -> int:
    """Return how many of the rows held out are also in ``real``; 0 where chance explains them.

    Customers may be equal in all columns. As often as rows of ``real`` equal another of them, rows
    that were not learnt from equal one: copies count where they are more, by a tenth of the rows
    and beyond chance.
    """
    ours, others = _rows(layout, real), _rows(layout, held_out)
    times = Counter(ours)
    twins = sum(count for count in times.values() if count > 1)
    copies = sum(row in times for row in others)
    least = difference_interval(copies, len(others), twins, len(ours))[0]
    return copies if least > _LEAST_EXCESS else 0


def _rows(layout: FeatureLayout, table: EncodedTable) -> list[tuple[float, ...]]:
    # NaN, which is a missing number, equals nothing; below 0 is no number.
    columns = [
        [-1.0 if value != value else float(value) for value in values.tolist()]
        for values in to_columns(layout, table)
    ]
    return list(zip(*columns, strict=True))
