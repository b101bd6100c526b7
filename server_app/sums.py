"""One task's sums as the stages before training read them: exact, or with noise of known size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.federation.private_strategy import noisy_layout
from fgcif_flwr.federation.releases import layout_of
from fgcif_flwr.federation.session import SecureSumSession, Task
from fgcif_flwr.federation.task_input import ArrayMap
from fgcif_flwr.privacy.plan import PrivacyPlan


@dataclass(frozen=True)
class TaskSums:
    """Sums of a task's fields or blocks.

    Attributes
    ----------
    values : dict of str to float64 array
    deviations : dict of str to float
        Standard deviation of the noise in each number of a block; 0 without a privacy unit.
    survivors : int
        Enterprises whose values are in the sums.
    """

    values: dict[str, np.ndarray]
    deviations: dict[str, float]
    survivors: int


def task_sums(
    session: SecureSumSession,
    config: RunConfig,
    features: FeatureLayout,
    plan: PrivacyPlan | None,
    task: str,
    arrays: ArrayMap,
) -> TaskSums:
    """Sum a task's values over the enterprises; ``plan`` is None without a privacy unit."""
    if plan is None:
        total = session.sum(Task(task, layout_of(task, config, features, 0), arrays))
        sums = dict(total.values)
        return TaskSums(sums, dict.fromkeys(sums, 0.0), len(total.survivors) - total.failed)
    layout = noisy_layout(session, plan, task)
    total = session.sum(Task(task, layout, arrays, counts_failures=False))
    mechanism, survivors = plan.release(task).mechanism, len(total.survivors)
    sharers = mechanism.sharers(plan.honest)
    deviations = {
        block.name: mechanism.sum.noise_deviation(block.name, survivors, sharers)
        for block in mechanism.sum.blocks
    }
    return TaskSums(dict(mechanism.sum.decode(total.values)), deviations, survivors)
