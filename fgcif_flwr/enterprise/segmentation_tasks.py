"""What an enterprise does for the federation's segments, and the labels that it reads by them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from threading import Lock
from weakref import ref

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
from fgcif_flwr.models.segmentation import NOWHERE, Segment, Segmentation, nearest, with_labels

Arrays = Mapping[str, npt.NDArray[np.generic]]
Values = dict[str, npt.NDArray[np.float64]]
Rows = Mapping[str, npt.NDArray[np.generic]]

_SplitLabels = tuple[npt.NDArray[np.int16], npt.NDArray[np.int16], npt.NDArray[np.int16]]
_Labelled = ref[EnterpriseRows]

_CHUNK_NUMBERS = 1 << 22
_HELD = 2  # segmentations of the same rows: a run, and one beside it


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
    return _held_labels(rows).labelled(config, layout, rows, arrays), without_segments(arrays)


def segmentation_in(arrays: Arrays, config: RunConfig, layout: FeatureLayout) -> Segmentation:
    """Return the segments in a later task's input, by which rows are labelled.

    The input holds no profile: each is called by its class, its share is NaN.

    Raises
    ------
    SecureSumError
        If they are absent or not lawful.
    """
    space, centres = segments_in(arrays, config, layout)
    head = learned_head(config, layout)
    by = tuple((one.name, one.lower_is_better) for one in chosen_features(config, layout))
    return Segmentation(head.name, by, space, centres, tuple(map(Segment, head.classes)))


class _HeldLabels:
    """Labels of one enterprise's rows by the segments of the last runs, the same in every round.

    Held are labels of two bytes. The labelled rows themselves are held weakly: they are the same
    object as long as anybody has them, so that what is fitted to them stays fitted.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, bytes], tuple[_SplitLabels, _Labelled]] = {}
        self._lock = Lock()

    def labelled(
        self, config: RunConfig, layout: FeatureLayout, rows: EnterpriseRows, arrays: Arrays
    ) -> EnterpriseRows:
        by_centres = {name: arrays[name] for name in (SPACE, CENTRES)}
        key = config.segmentation.model_dump_json(), input_hash(by_centres)
        with self._lock:
            held = self._held.pop(key, None)
            found = None if held is None else held[1]()
            if held is None or found is None:
                segments = segmentation_in(arrays, config, layout)
                labels = held[0] if held else _labels_of(segments, layout, rows)
                found = _with_split_labels(rows, segments.target, labels)
                held = labels, ref(found)
            while len(self._held) >= _HELD:
                del self._held[next(iter(self._held))]
            self._held[key] = held
        return found


_of_rows: dict[int, tuple[ref[EnterpriseRows], _HeldLabels]] = {}


def _held_labels(rows: EnterpriseRows) -> _HeldLabels:
    """Return what is held of these very rows; it goes when they do, as at a reload."""
    known = _of_rows.get(id(rows))
    if known is not None and known[0]() is rows:
        return known[1]
    place, mine = id(rows), _HeldLabels()

    def forget(gone: ref[EnterpriseRows]) -> None:
        held = _of_rows.get(place)
        if held is not None and held[0] is gone:
            del _of_rows[place]

    _of_rows[place] = ref(rows, forget), mine
    return mine


def _labels_of(segments: Segmentation, layout: FeatureLayout, rows: EnterpriseRows) -> _SplitLabels:
    train, validation, test = (
        segments.assign(layout, data).astype(np.int16)
        for data in (rows.train, rows.validation, rows.test)
    )
    return train, validation, test


def _with_split_labels(rows: EnterpriseRows, target: str, labels: _SplitLabels) -> EnterpriseRows:
    train, validation, test = labels
    return replace(
        rows,
        train=with_labels(rows.train, target, train),
        validation=with_labels(rows.validation, target, validation),
        test=with_labels(rows.test, target, test),
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
