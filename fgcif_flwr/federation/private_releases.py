"""What each task releases under a privacy unit: blocks of bounded contributions.

========== ============================================== =======================================
task       customer                                       enterprise
========== ============================================== =======================================
statistics training rows; classes, where they are weighed -
train      gradient of a row's loss (noise distributed),  the whole update
           or the update of private local training
validate   a validation row's part of the counts          mean of the validation rows' parts
evaluate   a test row's part of the counts                mean of the test rows' parts
========== ============================================== =======================================

Where clipping is adaptive, train also says of each contribution whether it was left unclipped
(Andrew et al. 2021). A row is in one split, so that validate and evaluate concern other customers
than train and each other.
"""

from __future__ import annotations

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.federation.generator_releases import (
    GENERATOR,
    check_generator_input,
    counting_blocks,
    generator_slots,
    update_size,
)
from fgcif_flwr.federation.releases import (
    EVALUATE,
    MODEL,
    STATISTICS,
    TRAIN,
    check_arrays,
    checked_generator,
    class_weight_arrays,
    classes_of,
)
from fgcif_flwr.federation.segmentation_releases import (
    check_segmentation_input,
    checked_segments,
    segmentation_blocks,
    segmentation_slots,
)
from fgcif_flwr.federation.task_input import ArrayMap
from fgcif_flwr.models.row_counts import row_count_size
from fgcif_flwr.privacy.noisy_sum import Block
from fgcif_flwr.secagg.encoding import Field, VectorLayout

VALIDATE = "validate"
UPDATE = "update"
UNCLIPPED = "unclipped"
ROWS = "rows"
CLASSES = "classes/"
CLIPPING_NORM = "clipping_norm"
"""Name of the clipping norm in a task's input, where clipping is adaptive: float64 (1,)."""

_UNCLIPPED_WEIGHT = 0.1  # of the noise's budget a hundredth; the fraction is needed roughly


def split_of(task: str) -> str:
    """Return the split whose rows a task is about."""
    return {VALIDATE: "validation", EVALUATE: "test"}.get(task, "train")


def trains_locally(config: RunConfig) -> bool:
    """Whether an enterprise's update is made private by its own training."""
    return config.privacy.unit == "customer" and config.privacy.noise == "local"


def blocks_of(
    task: str, config: RunConfig, features: FeatureLayout, parameters: int
) -> tuple[Block, ...]:
    """Return the blocks of a contribution to ``task``.

    Parameters
    ----------
    parameters
        Number of the model's parameters (d).

    Raises
    ------
    ValueError
        For a task that no private run has.
    """
    if task == GENERATOR and task in generator_slots(config):
        return (Block(UPDATE, update_size(config, features)),)
    if task in generator_slots(config):
        return tuple(Block(*block) for block in counting_blocks(task, config, features))
    if task in segmentation_slots(config):
        return tuple(Block(*block) for block in segmentation_blocks(task, config, features))
    if task == STATISTICS and config.privacy.unit == "customer":
        blocks = [Block(ROWS, 1)]
        if config.training.class_weighting != "none":
            blocks += [
                Block(CLASSES + head.name, classes_of(head))
                for head in features.heads
                if head.kind != "numeric"
            ]
        return tuple(blocks)
    if task == TRAIN:
        update = Block(UPDATE, parameters)
        if config.privacy.clipping == "adaptive":
            return update, Block(UNCLIPPED, 1, _UNCLIPPED_WEIGHT)
        return (update,)
    if task in (VALIDATE, EVALUATE):
        return tuple(Block(head.name, row_count_size(head)) for head in features.heads)
    raise ValueError(f"there is no task {task!r} in a run with privacy.unit")


def trained_layout(config: RunConfig, parameters: int) -> VectorLayout:
    """Return the layout of an update that private local training has made."""
    secagg = config.secagg
    field = Field(UPDATE, parameters, secagg.value_bound, rotated=secagg.rotation)
    return VectorLayout((field,), secagg.value_bits)


def check_private_input(
    task: str, arrays: ArrayMap, config: RunConfig, features: FeatureLayout, parameters: int
) -> None:
    """Check a task's input by the manifest alone, before a slot is opened for it.

    Raises
    ------
    SecureSumError
        As :func:`fgcif_flwr.federation.releases.check_input`.
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
        wanted = {MODEL: ("<f4", parameters)}
    if task == TRAIN:
        wanted |= {"round": ("<i8", 1)} | class_weight_arrays(config, features)
        if config.privacy.clipping == "adaptive":
            wanted[CLIPPING_NORM] = ("<f8", 1)
        if trains_locally(config):
            wanted[ROWS] = ("<f8", 1)
        arrays = checked_generator(arrays, config, features)
    check_arrays(task, arrays, wanted)
    for name in (CLIPPING_NORM, ROWS):
        if name in wanted and not arrays[name][0] > 0:
            raise SecureSumError(f"{name} of task {task} wants a number above 0")
    most = config.privacy.rows_per_enterprise
    if ROWS in wanted and arrays[ROWS][0] > most:
        raise SecureSumError(f"{ROWS} of task {task} wants at most rows_per_enterprise = {most}")
