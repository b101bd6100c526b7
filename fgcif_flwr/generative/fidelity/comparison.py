"""All measures of a synthetic table, beside the real one that it was learnt from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import DataError
from fgcif_flwr.generative.fidelity import pairs, shapes
from fgcif_flwr.generative.fidelity.closeness import Closeness, closeness
from fgcif_flwr.generative.fidelity.discriminator import Discriminator, discriminate
from fgcif_flwr.generative.fidelity.distances import RowSpace
from fgcif_flwr.generative.fidelity.membership import MembershipAttack, membership_attacks
from fgcif_flwr.generative.fidelity.pairs import PairTrend, pair_trends
from fgcif_flwr.generative.fidelity.shapes import ColumnShape, column_shapes
from fgcif_flwr.generative.fidelity.utility import ModelUtility, utility

LEAST_HELD_OUT = 20
"""Rows held out, below which nothing can be said by them."""


@dataclass(frozen=True)
class Fidelity:
    """What was measured. All figures are of real rows, exact: for those who may see the rows.

    Attributes
    ----------
    rows : int by table
        Of ``real``, ``synthetic`` and ``held_out`` (0 where there are none).
    shapes : tuple of ColumnShape
        Synthetic against training rows, numeric features first, targets last.
    pairs : tuple of PairTrend
        The same, in that order.
    shape_similarity, pair_similarity : float
        Means of the above, in [0, 1].
    shape_similarity_held_out, pair_similarity_held_out : float or None
        The same of held-out rows against training rows: what a perfect generator can be expected
        to reach with a table as small as the held-out one.
    discriminator : Discriminator
        Against held-out rows, where there are any; else against training rows.
    utility : tuple of ModelUtility
        Empty without held-out rows, as ``closeness`` and ``membership`` are None and empty.
    closeness : Closeness or None
    membership : tuple of MembershipAttack
    """

    rows: dict[str, int]
    shapes: tuple[ColumnShape, ...]
    pairs: tuple[PairTrend, ...]
    shape_similarity: float
    pair_similarity: float
    shape_similarity_held_out: float | None
    pair_similarity_held_out: float | None
    discriminator: Discriminator
    utility: tuple[ModelUtility, ...]
    closeness: Closeness | None
    membership: tuple[MembershipAttack, ...]

    @property
    def signs_of_memorisation(self) -> tuple[str, ...]:
        """Measures whose whole interval lies beyond chance.

        ``nearer`` of :class:`Closeness`, ``attack-nearest`` and ``attack-calibrated``.

        Each gives a false alarm with a probability of about 3 %. None found proves nothing.
        """
        nearer = self.closeness is not None and self.closeness.nearer_interval[0] > 0.5
        attacks = (one for one in self.membership if one.advantage_interval[0] > 0)
        return (*(("nearer",) if nearer else ()), *(f"attack-{one.attacker}" for one in attacks))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; undefined figures are NaN."""
        tree = asdict(self)
        for told, shape in zip(tree["shapes"], self.shapes, strict=True):
            told["similarity"] = shape.similarity
        for told, task in zip(tree["utility"], self.utility, strict=True):
            told |= {"metric": task.metric, "gap": task.gap}
        return {**tree, "signs_of_memorisation": list(self.signs_of_memorisation)}


def compare_tables(
    layout: FeatureLayout,
    real_train: EncodedTable,
    synthetic: EncodedTable,
    real_test: EncodedTable | None,
    seed: int,
) -> Fidelity:
    """Measure how like the real rows the synthetic ones are, how useful, and how close.

    Parameters
    ----------
    layout
        Of all three tables.
    real_train
        The rows that the generator learnt from.
    synthetic
        Rows that it made; as many as ``real_train`` make the fairest comparison.
    real_test
        Rows of the same population that it did not learn from, drawn at random; None without:
        usefulness and closeness mean nothing then and are left out.
    seed
        Decides all that is drawn.

    Raises
    ------
    DataError
        If a table has no rows, or fewer than 20 are held out.
    """
    for name, table in (("real", real_train), ("synthetic", synthetic)):
        if not len(table):
            raise DataError(f"the {name} table has no rows; nothing can be compared")
    if real_test is not None and len(real_test) < LEAST_HELD_OUT:
        raise DataError(
            f"{len(real_test)} rows are held out, at least {LEAST_HELD_OUT} are wanted; hold out "
            "more, or compare without"
        )
    # A stream for each measure, so that one more draw in one does not change the next.
    streams = np.random.default_rng(seed).spawn(3)
    ours, trends = _marginals(layout, real_train, synthetic)
    chance = None if real_test is None else _marginals(layout, real_train, real_test)
    fresh = real_train if real_test is None else real_test
    space = RowSpace(layout, real_train)
    near: Closeness | None = None
    tasks: tuple[ModelUtility, ...] = ()
    attacks: tuple[MembershipAttack, ...] = ()
    if real_test is not None:
        tasks = utility(layout, real_train, synthetic, real_test, seed)
        near = closeness(space, real_train, real_test, synthetic, streams[1])
        if len(real_train) >= LEAST_HELD_OUT:
            attacks = membership_attacks(space, real_train, real_test, synthetic, streams[2])
    return Fidelity(
        rows={
            "real": len(real_train),
            "synthetic": len(synthetic),
            "held_out": 0 if real_test is None else len(real_test),
        },
        shapes=ours,
        pairs=trends,
        shape_similarity=shapes.mean_similarity(ours),
        pair_similarity=pairs.mean_similarity(trends),
        shape_similarity_held_out=None if chance is None else shapes.mean_similarity(chance[0]),
        pair_similarity_held_out=None if chance is None else pairs.mean_similarity(chance[1]),
        discriminator=discriminate(layout, fresh, synthetic, streams[0]),
        utility=tasks,
        closeness=near,
        membership=attacks,
    )


def _marginals(
    layout: FeatureLayout, real: EncodedTable, other: EncodedTable
) -> tuple[tuple[ColumnShape, ...], tuple[PairTrend, ...]]:
    return column_shapes(layout, real, other), pair_trends(layout, real, other)
