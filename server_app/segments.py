"""The first stage after the join: segments that a learned target's classes are read by."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.decoding import in_units
from fgcif_flwr.data.encoding import FeatureLayout, feature_layout
from fgcif_flwr.data.schema import NumericFeature, Schema
from fgcif_flwr.errors import ClassAbsentError, DataError
from fgcif_flwr.federation.segmentation_releases import (
    ABSENT,
    CELL,
    CELLS_OF,
    COLUMNS,
    COUNTS,
    GRID,
    OFFSETS,
    PROFILE,
    ROWS,
    STEP,
    VALUES,
    chosen_features,
    learned_head,
    learns_segments,
    segment_inputs,
    segmentation_iterations,
    space_inputs,
)
from fgcif_flwr.federation.task_input import ArrayMap
from fgcif_flwr.models import segment_learning as learning
from fgcif_flwr.models.segment_names import names_of
from fgcif_flwr.models.segmentation import CERTAIN, Reals, Segment, Segmentation, Space
from fgcif_flwr.privacy.plan import PrivacyPlan
from fgcif_flwr.seeds import seed_for
from server_app.sums import TaskSums

Summed = Callable[[str, ArrayMap], TaskSums]

logger = logging.getLogger(__name__)

_FEWEST = 10.0  # customers of a segment: a centre of fewer would be near to a single one's numbers
_FEWEST_SHARE = 0.01  # of the enterprises' means, where those are summed
_SETTLED = 1e-4


def learn_segments(
    summed: Summed, config: RunConfig, schema: Schema, plan: PrivacyPlan | None
) -> Segmentation | None:
    """Learn the configured target's segments; None where the run learns none.

    Parameters
    ----------
    summed
        Gives the sums of a task over the enterprises, by its name and its input.
    plan
        The run's; None without a privacy unit.

    Raises
    ------
    DataError
        If there is no training row at any enterprise.
    ClassAbsentError
        If exact counts find a segment of fewer than 10 customers, however it was seeded.
    """
    if not learns_segments(config):
        return None
    return _Stage(summed, config, feature_layout(schema), schema, plan).learn()


@dataclass(frozen=True)
class _Stage:
    summed: Summed
    config: RunConfig
    features: FeatureLayout
    schema: Schema
    plan: PrivacyPlan | None

    def learn(self) -> Segmentation:
        chosen = chosen_features(self.config, self.features)
        columns = self.summed(COLUMNS, {})
        histograms = [columns.values[f"{CELLS_OF}{place}"] for place in range(len(chosen))]
        deviation = columns.deviations[f"{CELLS_OF}0"]
        total = float(np.mean([histogram.sum() for histogram in histograms]))
        if self.plan is None and total < 1:
            raise DataError(
                "there are no training rows at any enterprise; use a larger table or change "
                "data.test_fraction"
            )
        space = learning.space_of(histograms, deviation, [one.lower_is_better for one in chosen])
        grid = self.summed(GRID, space_inputs(space))
        lower = [one.lower_is_better for one in chosen]
        prior = max(total, 0.0) * learning.independence_prior(histograms, deviation, space, lower)
        weights = learning.grid_weights(grid.values[CELL], grid.deviations[CELL], prior)
        centres = self._centres(space, weights, total)
        return self._described(space, centres, total)

    def _centres(self, space: Space, weights: Reals, total: float) -> Reals:
        """Seed on the grid, then let customers move the centres."""
        dimensions, segments = len(space.low), learned_head(self.config, self.features).outputs
        seed = seed_for(self.config, "segments")
        centres = learning.initial_centres(weights, dimensions, segments, seed)
        for number in range(1, segmentation_iterations(self.config) + 1):
            sums = self.summed(STEP, self._input(space, centres, total))
            counts, offsets = sums.values[COUNTS], self._offsets(sums, dimensions, total)
            noise = CERTAIN * sums.deviations[COUNTS]
            least = self._fewest(sums)
            moved, still = learning.lloyd_step(centres, offsets, counts, max(least, noise))
            # a count within its noise says nothing; a small one above it says that few are there
            emptied = [one for one in still if counts[one] < least and noise < total / segments / 4]
            if emptied:
                logger.info("step %d: segments %s are reinitialised", number, emptied)
                moved = learning.reinitialised(moved, emptied, weights)
            change = float(np.abs(moved - centres).max())
            centres = moved
            logger.info("segments, step %d: centres moved by at most %.4f", number, change)
            if change < _SETTLED:
                break
        return learning.by_value(centres)

    def _described(self, space: Space, centres: Reals, total: float) -> Segmentation:
        """Ask for the segments' profile, and name them by it."""
        head = learned_head(self.config, self.features)
        chosen = chosen_features(self.config, self.features)
        sums = self.summed(PROFILE, self._input(space, centres, total))
        counts = np.maximum(sums.values[COUNTS], 0.0)
        small = [
            word for word, n in zip(head.classes, counts, strict=True) if n < self._fewest(sums)
        ]
        if small and self.plan is None:
            raise ClassAbsentError(
                f"target {head.name}: {len(small)} of {head.outputs} segments have fewer than "
                f"{_FEWEST:.0f} customers; give the target fewer classes, or other "
                "segmentation.features"
            )
        if small:
            logger.warning("segments %s: hardly anybody is seen above the noise", small)
        means, noise = self._means(sums, total)
        shares = counts / counts.sum() if counts.sum() > 0 else np.zeros(len(counts))
        names = names_of(
            centres.mean(axis=1),
            shares,
            self.features.numeric,
            [one.name for one in chosen],
            means,
            noise,
        )
        numeric = [one for one in self.schema.features if isinstance(one, NumericFeature)]
        segments = tuple(
            Segment(
                word,
                name,
                float(share),
                {
                    feature.name: float(in_units(feature, np.array([mean]))[0])
                    for feature, mean in zip(numeric, own, strict=True)
                },
            )
            for word, name, share, own in zip(head.classes, names, shares, means, strict=True)
        )
        by = tuple((one.name, one.lower_is_better) for one in chosen)
        return Segmentation(head.name, by, space, centres, segments)

    def _means(self, sums: TaskSums, total: float) -> tuple[Reals, Reals]:
        """Return each segment's mean of each feature on [0, 1], and the noise in it."""
        width = len(self.features.numeric)
        counts = sums.values[COUNTS][:, np.newaxis]
        values, absent = (sums.values[name].reshape(-1, width) for name in (VALUES, ABSENT))
        root = math.sqrt(width)
        there = counts - (absent if self.plan is None else root * absent)
        deviation = math.hypot(sums.deviations[COUNTS], root * sums.deviations[ABSENT])
        least = max(self._fewest(sums), CERTAIN * deviation)
        known = there >= least
        there = np.where(known, there, 1.0)
        means = values * total / there if self.plan is None else (1 + root * values / there) / 2
        noise = root * sums.deviations[VALUES] / there / 2
        return np.where(known, np.clip(means, 0.0, 1.0), np.nan), noise

    def _offsets(self, sums: TaskSums, dimensions: int, total: float) -> Reals:
        """Return the sums of coordinates minus their centre's, (segments, features)."""
        offsets = sums.values[OFFSETS].reshape(-1, dimensions)
        if self.plan is None:
            return np.asarray(offsets * total)
        return np.asarray(offsets * learning.RADIUS * math.sqrt(dimensions))

    def _fewest(self, sums: TaskSums) -> float:
        """Return the least that a segment must have, in the unit of its counts."""
        if self.config.privacy.unit == "enterprise":
            return _FEWEST_SHARE * sums.survivors
        return _FEWEST

    def _input(self, space: Space, centres: Reals, total: float) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = dict(segment_inputs(space, centres))
        if self.plan is None:
            arrays[ROWS] = np.array([round(total)], dtype=np.int64)
        return arrays
