"""Synthetic rows beside own ones.

Under label skew local training drifts to each enterprise's own classes, and the mean of the
drifted models can be worse than any constant. With rows of the global distribution beside its own
ones every enterprise descends nearly the same loss.
"""

from __future__ import annotations

import numpy as np

from fgcif_flwr.data.encoding import EncodedTable
from fgcif_flwr.generative.columns import balanced
from fgcif_flwr.generative.generator import Generator


def augmented(
    table: EncodedTable,
    generator: Generator,
    ratio: float,
    random: np.random.Generator,
    *,
    balance: bool = False,
) -> EncodedTable:
    """Return ``table`` followed by ``ratio`` synthetic rows for each of its rows.

    Parameters
    ----------
    ratio
        Above 0; the number of synthetic rows is rounded.
    random
        Decides the synthetic rows.
    balance
        Whether the classes of the first target that has any get equal proportions among the
        synthetic rows; else they are as the generator learnt them.
    """
    rows = round(ratio * len(table))
    if rows == 0:
        return table
    classes = balanced(generator.layout) if balance else None
    return EncodedTable.concatenate([table, generator.sample(rows, random, classes)])
