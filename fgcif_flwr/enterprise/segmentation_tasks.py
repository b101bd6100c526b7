"""What an enterprise does for the federation's segments, and the labels that it reads by them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.consortium import EnterpriseRows
from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.federation.segmentation_releases import (
    ABSENT,
    CELL,
    CELLS_OF,
    CENTRES,
    COLUMNS,
    COUNTS,
    GRID,
    OFFSETS,
    ROWS,
    SPACE,
    STEP,
    VALUES,
    chosen_features,
    learned_head,
    learns_segments,
    segmentation_blocks,
    segments_in,
    space_in,
    without_segments,
)
from fgcif_flwr.federation.task_input import input_hash
from fgcif_flwr.models.segment_learning import CELLS, RADIUS, grid_places
from fgcif_flwr.models.segmentation import NOWHERE, assign, nearest

Arrays = Mapping[str, npt.NDArray[np.generic]]
Values = dict[str, npt.NDArray[np.float64]]
Rows = Mapping[str, npt.NDArray[np.generic]]

_CHUNK_NUMBERS = 1 << 22


def exact_segment_values(
    task: str, arrays: Arrays, config: RunConfig, layout: FeatureLayout, rows: EnterpriseRows
) -> Values:
    """Return the values of a segmentation task's fields, where there is no privacy unit.

    Counts are of rows; offsets and values are sums over the federation's rows, in [-1, 1].
    """
    sums = {name: np.zeros(size) for name, size, _ in segmentation_blocks(task, config, layout)}
    for part in _chunks(rows.train, config, layout):
        if task in (COLUMNS, GRID):
            for name, places in _places(task, arrays, config, layout, part).items():
                sums[name] += np.bincount(places[places >= 0], minlength=len(sums[name]))
            continue
        for name, numbers in _parts(task, arrays, config, layout, part, bounded=False).items():
            sums[name] += numbers.sum(axis=0)
    for name in (OFFSETS, VALUES):
        if name in sums:
            sums[name] /= float(arrays[ROWS][0])
    return sums


def customer_segment_contributions(
    task: str, arrays: Arrays, config: RunConfig, layout: FeatureLayout, data: EncodedTable
) -> Iterator[Rows]:
    """Yield each customer's part of a segmentation task, chunk by chunk, norm at most 1 a block.

    A customer of whom nothing is known has zeros (a place that is none): the row stays.
    """
    for part in _chunks(data, config, layout):
        if task in (COLUMNS, GRID):
            yield _places(task, arrays, config, layout, part)
        else:
            yield _parts(task, arrays, config, layout, part, bounded=True)


def enterprise_segment_contribution(
    task: str, arrays: Arrays, config: RunConfig, layout: FeatureLayout, rows: EnterpriseRows
) -> Rows:
    """Return the enterprise's one contribution: the mean of its customers' bounded parts."""
    blocks = segmentation_blocks(task, config, layout)
    sums = {name: np.zeros(size) for name, size, _ in blocks}
    for chunk in customer_segment_contributions(task, arrays, config, layout, rows.train):
        for name, part in chunk.items():
            if part.ndim == 1:
                places = part.astype(np.int64)
                sums[name] += np.bincount(places[places >= 0], minlength=len(sums[name]))
            else:
                sums[name] += part.sum(axis=0)
    return {name: (whole / max(1, len(rows.train)))[np.newaxis] for name, whole in sums.items()}


def with_learned_labels(
    config: RunConfig, layout: FeatureLayout, rows: EnterpriseRows, arrays: Arrays
) -> tuple[EnterpriseRows, Arrays]:
    """Return the rows with a learned target's labels, and the input without the segments.

    Parameters
    ----------
    arrays
        Input of a task that comes after the segmentation; it has passed its checks. Without a
        segmentation both are returned as they are.
    """
    if not learns_segments(config):
        return rows, arrays
    segments = {name: arrays[name] for name in (SPACE, CENTRES)}
    labelled = _labelled(config, layout, _Read(rows, segments))
    return labelled, without_segments(arrays)


class _Read:
    """An enterprise's rows and the segments that they are read by, as one key.

    The rows are the very same object, the segments equal by their hash.
    """

    def __init__(self, rows: EnterpriseRows, segments: Arrays) -> None:
        self.rows = rows
        self.segments = segments
        self._digest = input_hash(segments)

    def __hash__(self) -> int:
        return hash((id(self.rows), self._digest))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Read) and self.rows is other.rows and self._digest == other._digest
        )


@lru_cache(maxsize=256)  # the same in every round: what is fitted to the rows stays fitted
def _labelled(config: RunConfig, layout: FeatureLayout, read: _Read) -> EnterpriseRows:
    space, centres = segments_in(read.segments, config, layout)
    chosen, name = chosen_features(config, layout), learned_head(config, layout).name

    def with_labels(data: EncodedTable) -> EncodedTable:
        labels = assign(space, centres, chosen, data)
        return replace(data, targets={**data.targets, name: labels})

    rows = read.rows
    return replace(
        rows,
        train=with_labels(rows.train),
        validation=with_labels(rows.validation),
        test=with_labels(rows.test),
    )


def _places(
    task: str, arrays: Arrays, config: RunConfig, layout: FeatureLayout, data: EncodedTable
) -> dict[str, npt.NDArray[np.int64]]:
    """Return where each row's single 1 is in every block, (rows,); -1 for nowhere."""
    chosen = chosen_features(config, layout)
    if task == GRID:
        coordinates, known = space_in(arrays, config, layout).coordinates(chosen, data)
        return {CELL: np.where(known, grid_places(coordinates), NOWHERE)}
    places = {}
    for number, feature in enumerate(chosen):
        values, absent = _numbers(data, [feature.place])
        cells = np.minimum((values[:, 0] * CELLS).astype(np.int64), CELLS - 1)
        places[f"{CELLS_OF}{number}"] = np.where(absent[:, 0], CELLS, cells)
    return places


def _parts(
    task: str,
    arrays: Arrays,
    config: RunConfig,
    layout: FeatureLayout,
    data: EncodedTable,
    *,
    bounded: bool,
) -> Values:
    """Return each row's part of a step or a profile, (rows, size) a block.

    ``bounded`` parts have norm at most 1 a block: an offset is shortened to the radius, and a
    value says how far it is above the middle of its bounds.
    """
    chosen = chosen_features(config, layout)
    space, centres = segments_in(arrays, config, layout)
    coordinates, known = space.coordinates(chosen, data)
    labels = nearest(coordinates, centres)
    rows, segments = len(data), len(centres)

    def in_segment(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        spread = np.zeros((rows, segments, numbers.shape[1]))
        spread[np.flatnonzero(known), labels[known]] = numbers[known]
        return spread.reshape(rows, -1)

    parts = {COUNTS: in_segment(np.ones((rows, 1)))}
    if task == STEP:
        offsets = coordinates - centres[labels]
        if bounded:
            offsets /= RADIUS * math.sqrt(len(chosen))
            lengths = np.sqrt((offsets**2).sum(axis=1, keepdims=True))
            offsets /= np.maximum(lengths, 1.0)
        parts[OFFSETS] = in_segment(offsets)
        return parts
    values, absent = _numbers(data, list(range(len(layout.numeric))))
    missing = absent.astype(np.float64)
    if bounded:
        root = math.sqrt(len(layout.numeric))
        values, missing = (2 * values - 1) / root, missing / root
    parts[VALUES] = in_segment(np.where(absent, 0.0, values))
    parts[ABSENT] = in_segment(missing)
    return parts


def _numbers(
    data: EncodedTable, places: list[int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return encoded numbers in [0, 1], (rows, places), and which are missing or not finite."""
    values = data.numeric[:, places].astype(np.float64)
    absent = (data.missing[:, places] != 0) | ~np.isfinite(values)
    return np.clip(np.where(absent, 0.0, values), 0.0, 1.0), absent


def _chunks(data: EncodedTable, config: RunConfig, layout: FeatureLayout) -> Iterator[EncodedTable]:
    """Divide rows so that a chunk's parts are at most some 32 MB."""
    segments = learned_head(config, layout).outputs
    step = max(1, _CHUNK_NUMBERS // (segments * max(1, len(layout.numeric))))
    for start in range(0, len(data), step):
        yield data.take(np.arange(start, min(start + step, len(data))))
