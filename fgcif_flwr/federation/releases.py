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
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import FeatureLayout, Head
from fgcif_flwr.models.metrics import count_shape
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

ArrayMap = Mapping[str, npt.NDArray[np.generic]]


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
    task: str, config: RunConfig, features: FeatureLayout, parameters: int, rows: FederationRows
) -> VectorLayout:
    """Return the layout of ``task``'s vector.

    Parameters
    ----------
    task
        One of ``TASKS``.
    config
        The run's, from the manifest.
    features
        The schema's.
    parameters
        Number of the model's parameters (d).
    rows
        Released before; ignored by the statistics task.

    Raises
    ------
    ValueError
        For a task that does not exist.
    """
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
            Field("update", parameters, bound),
            Field("rows", 1, whole, exact=True),
            Field("loss", 1, LOSS_BOUND),
        ]
        if task == TRAIN_EVALUATE:
            fields += _counts("validation", features, rows.validation, whole)
    elif task == EVALUATE:
        fields = _counts("validation", features, rows.validation, whole)
        fields += _counts("test", features, rows.test, whole)
    else:
        raise ValueError(f"there is no task {task!r}; tasks are {', '.join(TASKS)}")
    return VectorLayout(tuple(fields), bits)


LOSS_BOUND = 1000.0
"""Bound of one enterprise's share of the mean training loss (a diverged model exceeds it)."""


def classes_of(head: Head) -> int:
    """Return the number of classes of a binary or categorical head."""
    return 2 if head.kind == "binary" else head.outputs


def _counts(split: str, features: FeatureLayout, rows: int, whole: float) -> list[Field]:
    return [
        Field(
            f"{split}/{head.name}",
            count_shape(head),
            max(1.0, float(rows)) if head.kind == "numeric" else whole,
            exact=head.kind != "numeric",
        )
        for head in features.heads
    ]


def input_hash(arrays: ArrayMap) -> bytes:
    """Return SHA-256 over names, types, shapes and bytes of a task's input, in name order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        head = f"{name}\0{array.dtype.str}\0{array.shape}\0".encode()
        digest.update(len(head).to_bytes(4, "big") + head)
        digest.update(array.data)
    return digest.digest()
