"""Counts at the head of every release: how many enterprises sent zeros in place of values, and why.

They are masked like the rest, so that only their sum is known.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fgcif_flwr.secagg.encoding import Field, VectorLayout

OUTCOMES = ("out_of_range", "failed")
"""Names of the counts that precede every release's fields."""


def with_outcome(layout: VectorLayout) -> VectorLayout:
    """Return the layout as it leaves: two counts of enterprises, then the fields.

    ``out_of_range`` counts those whose values did not fit, ``failed`` those that could not
    compute; the fields of both are zeros.
    """
    counts = tuple(Field(name, 1, 1.0, exact=True) for name in OUTCOMES)
    return VectorLayout((*counts, *layout.fields), layout.value_bits, layout.noise)


def outcome_values(happened: str | None) -> dict[str, npt.NDArray[np.float64]]:
    """Return the counts of one enterprise: all zeros, or 1 for what happened."""
    return {name: np.array([float(name == happened)]) for name in OUTCOMES}
