"""The first stage: how many rows there are, and of which classes."""

from __future__ import annotations

import numpy as np

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.data.schema import Schema
from fgcif_flwr.errors import ClassAbsentError, DataError, SecureSumError
from fgcif_flwr.federation.private_releases import CLASSES, ROWS
from fgcif_flwr.federation.private_strategy import noisy_layout
from fgcif_flwr.federation.releases import STATISTICS, FederationRows, layout_of
from fgcif_flwr.federation.session import SecureSumSession, Sum, Task
from fgcif_flwr.privacy.plan import PrivacyPlan


def exact_statistics(
    session: SecureSumSession, config: RunConfig, features: FeatureLayout, schema: Schema
) -> tuple[FederationRows, dict[str, np.ndarray]]:
    """Sum the rows of each split and the classes; ClassAbsentError where there are none."""
    layout = layout_of(STATISTICS, config, features, 0)
    total = session.sum(Task(STATISTICS, layout, {}))
    train, validation, test = (int(count) for count in total.values["rows"])
    classes = _classes(total, features)
    if min(train, validation, test, *(c.min() for c in classes.values())) < 0 or any(
        counts.sum() > train for counts in classes.values()
    ):
        raise SecureSumError("the enterprises' counts of rows and classes contradict each other")
    for count, split in ((train, "training"), (test, "test")):
        if count == 0:
            raise DataError(
                f"there are no {split} rows at any enterprise; use a larger table or change "
                "data.test_fraction"
            )
    for head in features.heads:
        for word, count in zip(head.classes, classes.get(head.name, ()), strict=False):
            if count == 0:
                raise ClassAbsentError(
                    f"target {head.name}: no enterprise has a training row of class {word!r}; "
                    f"correct schema {schema.name} or the table"
                )
    return FederationRows(train, validation, test), classes


def _classes(total: Sum, features: FeatureLayout) -> dict[str, np.ndarray]:
    return {
        head.name: total.values[f"classes/{head.name}"]
        for head in features.heads
        if head.kind != "numeric"
    }


def noisy_statistics(
    session: SecureSumSession, config: RunConfig, features: FeatureLayout, plan: PrivacyPlan
) -> tuple[float, dict[str, np.ndarray]]:
    """Return the training rows and, where classes are weighted, the classes, both with noise.

    Nothing is released about rows under unit ``enterprise``: the number is 0 then. Noisy counts
    are at least 1, since they are divided by.
    """
    if config.privacy.unit == "enterprise":
        return 0.0, {}
    task = Task(STATISTICS, noisy_layout(session, plan, STATISTICS), {}, counts_failures=False)
    sums = plan.release(STATISTICS).mechanism.sum.decode(session.sum(task).values)
    classes = {
        head.name: np.maximum(sums[CLASSES + head.name], 1.0)
        for head in features.heads
        if CLASSES + head.name in sums
    }
    return max(1.0, float(sums[ROWS][0])), classes
