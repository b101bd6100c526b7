"""What each task releases: the vector's layout, alike at coordinator and enterprise.

A task's name and input come with a request; everything else that shapes the vector comes from
the manifest that was accepted at join.

============== =========================================================================
task           fields
============== =========================================================================
statistics     rows of each split; training rows of each class of each head
train          weighted update, rows, weighted loss
train-evaluate the same, and counts of the received model's predictions on validation rows
evaluate       counts of the model's predictions on validation and on test rows
============== =========================================================================

A shared generator's tasks are in :mod:`fgcif_flwr.federation.generator_releases`, those by which
segments are learned in :mod:`fgcif_flwr.federation.segmentation_releases`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import FeatureLayout, Head
from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.federation.count_words import words_of
from fgcif_flwr.federation.generator_releases import (
    check_generator_input,
    generator_in,
    generator_layout,
    generator_slots,
    sends_generator,
    without_generator,
)
from fgcif_flwr.federation.segmentation_releases import (
    check_segmentation_input,
    checked_segments,
    segmentation_layout,
    segmentation_slots,
)
from fgcif_flwr.federation.task_input import ArrayMap
from fgcif_flwr.secagg.encoding import Field, VectorLayout

STATISTICS = "statistics"
TRAIN = "train"
TRAIN_EVALUATE = "train-evaluate"
EVALUATE = "evaluate"
MODEL = "model"
"""Name of the model's parameters in a task's input: float32 (d,), arrays joined in order."""
CLASS_WEIGHTS = "class_weights/"
"""Prefix of the heads' class weights in a task's input."""
TASKS = (STATISTICS, TRAIN, TRAIN_EVALUATE, EVALUATE)


@dataclass(frozen=True)
class FederationRows:
    """Rows of each split over the whole federation, as released by the statistics task."""

    train: int
    validation: int
    test: int

    def as_array(self) -> npt.NDArray[np.int64]:
        """Return the three numbers, as they travel."""
        return np.array([self.train, self.validation, self.test], dtype=np.int64)


def layout_of(
    task: str, config: RunConfig, features: FeatureLayout, parameters: int
) -> VectorLayout:
    """Return the layout of ``task``'s vector.

    Parameters
    ----------
    task
        One of ``TASKS``, or of the configured generator's or segmentation's.
    config
        The run's, from the manifest.
    features
        The schema's.
    parameters
        Number of the model's parameters (d).

    Raises
    ------
    ValueError
        For a task that does not exist.
    """
    if task in generator_slots(config):
        return generator_layout(task, config, features)
    if task in segmentation_slots(config):
        return segmentation_layout(task, config, features)
    bits = config.secagg.value_bits
    whole = float((1 << (bits - 1)) - 1)
    bound = config.secagg.value_bound
    if task == STATISTICS:
        fields = [Field("rows", 3, whole, exact=True)]
        fields += [
            Field(f"classes/{head.name}", classes_of(head), whole, exact=True)
            for head in features.heads
            if head.kind != "numeric"
        ]
    elif task in (TRAIN, TRAIN_EVALUATE):
        fields = [
            Field("update", parameters, bound, rotated=config.secagg.rotation),
            Field("rows", 1, whole, exact=True),
            Field("loss", 1, LOSS_BOUND),
        ]
        if task == TRAIN_EVALUATE:
            fields += _counts("validation", features, whole)
    elif task == EVALUATE:
        fields = _counts("validation", features, whole)
        fields += _counts("test", features, whole)
    else:
        raise ValueError(f"there is no task {task!r}; tasks are {', '.join(TASKS)}")
    return VectorLayout(tuple(fields), bits)


WEIGHT_CAP = 10.0
"""Largest weight of a class; a rare class could otherwise carry a whole batch."""
LOSS_BOUND = 1000.0
"""Bound of one enterprise's share of the mean training loss (a diverged model exceeds it)."""


def classes_of(head: Head) -> int:
    """Return the number of classes of a binary or categorical head."""
    return 2 if head.kind == "binary" else head.outputs


def _counts(split: str, features: FeatureLayout, whole: float) -> list[Field]:
    return [
        Field(f"{split}/{head.name}", words_of(head), whole, exact=True) for head in features.heads
    ]


def check_input(
    task: str, arrays: ArrayMap, config: RunConfig, features: FeatureLayout, parameters: int
) -> None:
    """Check a task's input by the manifest alone, before a slot is opened for it.

    What is refused here does not depend on anybody's rows.

    Raises
    ------
    SecureSumError
        Naming the part of the input that is absent, not wanted, of a wrong kind or shape, not
        finite, or beyond its bounds.
    """
    if task in segmentation_slots(config):
        check_segmentation_input(task, arrays, config, features)
        return
    arrays = checked_segments(arrays, config, features)
    if task in generator_slots(config):
        check_generator_input(task, arrays, config, features)
        return
    wanted: dict[str, tuple[str, int]] = {}
    if task != STATISTICS:
        wanted = {"rows": ("<i8", 3), MODEL: ("<f4", parameters)}
    if task in (TRAIN, TRAIN_EVALUATE):
        wanted["round"] = ("<i8", 1)
        wanted |= class_weight_arrays(config, features)
        arrays = checked_generator(arrays, config, features)
    check_arrays(task, arrays, wanted)
    if "rows" in wanted and (arrays["rows"].min() < 0 or arrays["rows"][0] < 1):
        raise SecureSumError("rows of a task wants counts, and training rows at least 1")


def checked_generator(
    arrays: ArrayMap, config: RunConfig, features: FeatureLayout
) -> Mapping[str, npt.NDArray[np.generic]]:
    """Check the generator in a training task's input, if one is wanted; return the rest."""
    if not sends_generator(config):
        return arrays
    generator_in(arrays, config, features)
    return without_generator(arrays)


def class_weight_arrays(config: RunConfig, features: FeatureLayout) -> dict[str, tuple[str, int]]:
    """Return type and size of the class weights that a training task's input has, by name."""
    if config.training.class_weighting == "none":
        return {}
    return {
        CLASS_WEIGHTS + head.name: ("<f8", classes_of(head))
        for head in features.heads
        if head.kind != "numeric"
    }


def check_arrays(task: str, arrays: ArrayMap, wanted: Mapping[str, tuple[str, int]]) -> None:
    """Raise SecureSumError unless a task's input is what is wanted: (type, size) by name.

    All numbers must be finite, and class weights within their bounds.
    """
    if set(arrays) != set(wanted):
        raise SecureSumError(
            f"the input of task {task} wants exactly {', '.join(wanted) or 'nothing'}"
        )
    for name, (kind, size) in wanted.items():
        array = arrays[name]
        if array.dtype.str != kind or array.shape != (size,):
            raise SecureSumError(f"{name} of task {task} wants {size} numbers of type {kind}")
        if not np.isfinite(array).all():
            raise SecureSumError(f"{name} of task {task} is not finite")
        if name.startswith(CLASS_WEIGHTS) and not (array.min() > 0 and array.max() <= WEIGHT_CAP):
            raise SecureSumError(f"{name} wants weights above 0 and at most {WEIGHT_CAP:g}")
