"""What the tasks release by which segments are learned, and the segments in later tasks' inputs.

================= ================================================== ==========================
task              released                                           input
================= ================================================== ==========================
segments-columns  counts of each chosen feature's cells              -
segments-grid     counts of the joint grid's cells                   the space
segments-step     customers of each centre, sums of their offsets    the space, centres
segments-profile  customers of each segment, sums of all numeric     the space, centres
                  features, values that are missing
================= ================================================== ==========================

All are about training rows. Without a privacy unit counts are exact, and sums are weighted by the
federation's rows, which the input states. Under ``customer`` a row's part is bounded block by
block; under ``enterprise`` it is the mean of the rows' parts.

Every task after these has the space and the centres in its input: a learned target's labels are
read by them, by all enterprises alike.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import FeatureLayout, Head
from fgcif_flwr.errors import ConfigurationError, SecureSumError
from fgcif_flwr.federation.task_input import ArrayMap
from fgcif_flwr.models.segment_learning import CELLS, MOST_FEATURES, grid_side
from fgcif_flwr.models.segmentation import ChosenFeature, Reals, Space, fault_in
from fgcif_flwr.secagg.encoding import Field, VectorLayout

COLUMNS, GRID, STEP, PROFILE = SEGMENT_TASKS = (
    "segments-columns",
    "segments-grid",
    "segments-step",
    "segments-profile",
)
PREFIX = "segments/"
SPACE, CENTRES = PREFIX + "space", PREFIX + "centres"
"""Names in a task's input: float64 (3 features,) of low, width and missing_value, and
(segments features,) row by row."""
ROWS = "rows"
"""Name of the federation's training rows in a task's input, int64 (1,); without a unit only."""
CELLS_OF, CELL, COUNTS, OFFSETS, VALUES, ABSENT = (
    "column-",
    "cell",
    "counts",
    "offsets",
    "values",
    "absent",
)

VALUE_FEATURES: tuple[tuple[str, bool], ...] = (
    ("recency_days", True),
    ("frequency", False),
    ("purchases", False),
    ("monetary", False),
    ("spend", False),
)
"""Recency, frequency and money by name; of recency less is more value."""

_FIRST_NUMERIC = 4
_SHARES = {COLUMNS: 0.15, GRID: 0.3, STEP: 0.4, PROFILE: 0.15}
_COUNTS_WEIGHT = 0.5  # a count only divides offsets, which are small near the end
_ITERATIONS = {"none": 10, "customer": 4, "enterprise": 2}


def learns_segments(config: RunConfig) -> bool:
    """Whether the run learns a target's classes before it trains."""
    return bool(config.segmentation.target)


def check_learned(config: RunConfig, features: FeatureLayout) -> None:
    """Raise unless the schema's learned target is what the segmentation learns.

    Raises
    ------
    ConfigurationError
        If a learned target is left unlearned, or the section names what is no learned target or
        no numeric feature.
    """
    learned = [head.name for head in features.heads if head.learned]
    target = config.segmentation.target
    if len(learned) > 1:
        raise ConfigurationError(
            f"the schema has {len(learned)} learned targets ({', '.join(learned)}); a run learns "
            "one: take the others out"
        )
    if learned and not target:
        raise ConfigurationError(
            f"the schema's target {learned[0]} is learned, and the run learns none; set "
            f"segmentation.target = {learned[0]}"
        )
    if target:
        learned_head(config, features)
        chosen_features(config, features)


def learned_head(config: RunConfig, features: FeatureLayout) -> Head:
    """Return the head whose classes are learned; ConfigurationError if it is none of the schema."""
    target = config.segmentation.target
    for head in features.heads:
        if head.name == target and head.learned:
            return head
    raise ConfigurationError(
        f"segmentation.target = {target} is no learned target of the schema (categorical, "
        'source = "learned"); name one, or remove it'
    )


@lru_cache(maxsize=8)
def chosen_features(config: RunConfig, features: FeatureLayout) -> tuple[ChosenFeature, ...]:
    """Return the features that segments are made by, in their order.

    Those that ``segmentation.features`` names; else recency, frequency and money where the schema
    has two of :data:`VALUE_FEATURES` or more; else its first four numeric ones.

    Raises
    ------
    ConfigurationError
        For a name that is no numeric feature, or where there is none.
    """
    named = config.segmentation.features
    if named:
        wanted = [
            (name, False) if name in features.numeric else (name.removeprefix("-"), True)
            for name in named
        ]
        for name, _ in wanted:
            if name not in features.numeric:
                raise ConfigurationError(
                    f"segmentation.features names {name}, which is no numeric feature of the "
                    f"schema; it has {', '.join(features.numeric) or 'none'}"
                )
    else:
        wanted = [(name, lower) for name, lower in VALUE_FEATURES if name in features.numeric]
        if len(wanted) < 2:
            by_name = dict(VALUE_FEATURES)
            first = features.numeric[:_FIRST_NUMERIC]
            wanted = [(name, by_name.get(name, False)) for name in first]
    if not 0 < len(wanted) <= MOST_FEATURES:
        raise ConfigurationError(
            f"segmentation wants 1 to {MOST_FEATURES} numeric features; the schema has "
            f"{len(features.numeric)}"
        )
    return tuple(ChosenFeature(n, features.numeric.index(n), lower) for n, lower in wanted)


def segmentation_iterations(config: RunConfig) -> int:
    """Return the most steps of Lloyd's."""
    if config.segmentation.iterations != "auto":
        return config.segmentation.iterations
    return _ITERATIONS[config.privacy.unit]


def segmentation_slots(config: RunConfig) -> dict[str, int]:
    """Return how often each segmentation task may be released; none is tried again where noise
    is charged, since a run that loses too many at its beginning is cheaply begun again."""
    if not learns_segments(config):
        return {}
    return {COLUMNS: 1, GRID: 1, STEP: segmentation_iterations(config), PROFILE: 1}


def segmentation_shares(config: RunConfig) -> dict[str, float]:
    """Return what part of the segmentation's budget each of its tasks has; their sum is 1."""
    return dict(_SHARES) if learns_segments(config) else {}


def segmentation_layout(task: str, config: RunConfig, features: FeatureLayout) -> VectorLayout:
    """Return the layout of a segmentation task's vector where there is no privacy unit."""
    bits = config.secagg.value_bits
    whole = float((1 << (bits - 1)) - 1)
    fields = []
    for name, size, _ in segmentation_blocks(task, config, features):
        counted = name not in (OFFSETS, VALUES)
        fields.append(Field(name, size, whole if counted else 1.0, exact=counted))
    return VectorLayout(tuple(fields), bits)


def segmentation_blocks(
    task: str, config: RunConfig, features: FeatureLayout
) -> tuple[tuple[str, int, float], ...]:
    """Return name, size and weight of each block of a task, in their order."""
    chosen = len(chosen_features(config, features))
    segments = learned_head(config, features).outputs
    if task == COLUMNS:
        return tuple((f"{CELLS_OF}{place}", CELLS + 1, 1.0) for place in range(chosen))
    if task == GRID:
        return ((CELL, grid_side(chosen) ** chosen, 1.0),)
    if task == STEP:
        return (COUNTS, segments, _COUNTS_WEIGHT), (OFFSETS, segments * chosen, 1.0)
    numbers = segments * len(features.numeric)
    return (COUNTS, segments, _COUNTS_WEIGHT), (VALUES, numbers, 1.0), (ABSENT, numbers, 0.5)


def check_segmentation_input(
    task: str, arrays: ArrayMap, config: RunConfig, features: FeatureLayout
) -> None:
    """Check a segmentation task's input by the manifest alone; SecureSumError if it is wrong."""
    wanted = {COLUMNS: (), GRID: (SPACE,)}.get(task, (SPACE, CENTRES))
    if config.privacy.unit == "none" and task in (STEP, PROFILE):
        wanted = (*wanted, ROWS)
        rows = arrays.get(ROWS)
        if rows is None or rows.dtype.str != "<i8" or rows.shape != (1,) or rows[0] < 1:
            raise SecureSumError(f"{ROWS} of task {task} wants the number of training rows")
    if set(arrays) != set(wanted):
        raise SecureSumError(
            f"the input of task {task} wants exactly {', '.join(wanted) or 'nothing'}"
        )
    if SPACE in wanted:
        _read(arrays, config, features, centred=CENTRES in wanted)


def checked_segments(arrays: ArrayMap, config: RunConfig, features: FeatureLayout) -> ArrayMap:
    """Check the segments in the input of a task that comes after them; return the rest.

    Raises
    ------
    SecureSumError
        If the manifest wants segments and they are absent or not lawful. Where it wants none the
        input is returned as it is, for the task's own check to find what is too much.
    """
    if not learns_segments(config):
        return arrays
    _read(arrays, config, features, centred=True)
    return without_segments(arrays)


def without_segments(arrays: ArrayMap) -> dict[str, npt.NDArray[np.generic]]:
    """Return a task's input without the space and the centres."""
    return {name: array for name, array in arrays.items() if name not in (SPACE, CENTRES)}


def segments_in(
    arrays: ArrayMap, config: RunConfig, features: FeatureLayout
) -> tuple[Space, Reals]:
    """Return the space and the centres, (segments, features), that a task's input holds.

    Raises
    ------
    SecureSumError
        If they are absent or not lawful.
    """
    return _read(arrays, config, features, centred=True)


def space_in(arrays: ArrayMap, config: RunConfig, features: FeatureLayout) -> Space:
    """Return the space that the input of ``segments-grid`` holds."""
    return _read(arrays, config, features, centred=False)[0]


def space_inputs(space: Space) -> dict[str, npt.NDArray[np.float64]]:
    """Return a space as a task's input names it."""
    return {SPACE: np.concatenate([space.low, space.width, space.missing_value])}


def segment_inputs(space: Space, centres: Reals) -> dict[str, npt.NDArray[np.float64]]:
    """Return the space and the centres as a task's input names them."""
    return {**space_inputs(space), CENTRES: centres.reshape(-1)}


def _read(
    arrays: ArrayMap, config: RunConfig, features: FeatureLayout, *, centred: bool
) -> tuple[Space, Reals]:
    chosen = len(chosen_features(config, features))
    segments = learned_head(config, features).outputs if centred else 1
    sizes = {SPACE: 3 * chosen} | ({CENTRES: segments * chosen} if centred else {})
    for name, size in sizes.items():
        array = arrays.get(name)
        if array is None or array.dtype.str != "<f8" or array.shape != (size,):
            raise SecureSumError(f"the task's input wants {name}, {size} numbers of type <f8")
    low, width, missing_value = np.asarray(arrays[SPACE], np.float64).reshape(3, chosen)
    space = Space(low, width, missing_value)
    centres = np.asarray(arrays[CENTRES] if centred else np.zeros(chosen), np.float64)
    centres = centres.reshape(segments, chosen)
    fault = fault_in(space, centres, chosen, segments)
    if fault:
        raise SecureSumError(f"the segments in the task's input are not lawful: {fault}")
    return space, centres
