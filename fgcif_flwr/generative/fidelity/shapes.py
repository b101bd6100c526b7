"""Whether single columns look alike: distances of one-way distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import ks_2samp

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.generative.columns import columns_of, to_columns


@dataclass(frozen=True)
class ColumnShape:
    """One column of two tables.

    Attributes
    ----------
    name : str
    kind : str
        ``numeric`` or ``categorical``; binary and categorical targets are categorical.
    target : bool
    distance : float
        In [0, 1], 0 for equal distributions. Numbers: Kolmogorov and Smirnov's statistic of the
        rows that are not missing; 1 where one of the tables has none of these and the other some.
        Categories: the total variation distance, missing and unseen being categories too.
    missing_real, missing_synthetic : float
        Shares of rows, in [0, 1].
    """

    name: str
    kind: Literal["numeric", "categorical"]
    target: bool
    distance: float
    missing_real: float
    missing_synthetic: float

    @property
    def similarity(self) -> float:
        """One less the distance, and less the difference of missing shares of numbers; >= 0."""
        if self.kind == "categorical":
            return 1 - self.distance
        return max(0.0, 1 - self.distance - abs(self.missing_real - self.missing_synthetic))


def column_shapes(
    layout: FeatureLayout, real: EncodedTable, synthetic: EncodedTable
) -> tuple[ColumnShape, ...]:
    """Compare every column, features and targets; both tables have at least one row."""
    pairs = zip(to_columns(layout, real), to_columns(layout, synthetic), strict=True)
    shapes = []
    for column, (ours, theirs) in zip(columns_of(layout), pairs, strict=True):
        if column.numeric:
            gone, also_gone = np.isnan(ours), np.isnan(theirs)
            distance = _kolmogorov_smirnov(ours[~gone], theirs[~also_gone])
        else:
            gone, also_gone = ours == 0, theirs == 0
            distance = _total_variation(ours, theirs, column.codes)
        shapes.append(
            ColumnShape(
                column.name,
                "numeric" if column.numeric else "categorical",
                column.target,
                distance,
                float(gone.mean()),
                float(also_gone.mean()),
            )
        )
    return tuple(shapes)


def mean_similarity(shapes: Sequence[ColumnShape]) -> float:
    """Return the mean over columns, in [0, 1]."""
    return float(np.mean([shape.similarity for shape in shapes]))


def _kolmogorov_smirnov(ours: npt.NDArray[np.generic], theirs: npt.NDArray[np.generic]) -> float:
    if not len(ours) or not len(theirs):
        return float(len(ours) != len(theirs))
    return float(ks_2samp(ours, theirs, method="asymp").statistic)


def _total_variation(
    ours: npt.NDArray[np.generic], theirs: npt.NDArray[np.generic], codes: int
) -> float:
    shares = [
        np.bincount(values.astype(np.int64), minlength=codes) / len(values)
        for values in (ours, theirs)
    ]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)
