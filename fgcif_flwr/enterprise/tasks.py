"""What an enterprise computes from its rows for each task, before the door bounds and masks it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fgcif_flwr.config import ModelSection, RunConfig
from fgcif_flwr.data.consortium import EnterpriseRows
from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.federation.releases import (
    CLASS_WEIGHTS,
    EVALUATE,
    MODEL,
    STATISTICS,
    TRAIN_EVALUATE,
    FederationRows,
    classes_of,
)
from fgcif_flwr.models.metrics import count_shape
from fgcif_flwr.models.network import MultiTaskNetwork, build_network
from fgcif_flwr.models.parameters import from_vector, load_arrays, named_arrays, to_vector
from fgcif_flwr.models.training import evaluate_counts, train_locally
from fgcif_flwr.seeds import seed_for

Values = dict[str, npt.NDArray[np.float64]]
Arrays = Mapping[str, npt.NDArray[np.generic]]


class Tasks:
    """Computes releases from one enterprise's rows, under one run's configuration.

    Parameters
    ----------
    config : RunConfig
        From the manifest that was accepted at join.
    layout : FeatureLayout
    rows : EnterpriseRows
    """

    def __init__(self, config: RunConfig, layout: FeatureLayout, rows: EnterpriseRows) -> None:
        self.config = config
        self.layout = layout
        self.rows = rows

    def compute(self, task: str, arrays: Arrays) -> Values:
        """Return the values of ``task``'s fields, named as in its layout.

        Parameters
        ----------
        arrays
            The task's input: the ``model``'s parameters (d,), ``rows`` of the federation,
            ``round``, and, where classes are balanced, ``class_weights/``.
        """
        if task == STATISTICS:
            return self._statistics()
        network = self._network(arrays)
        if task == EVALUATE:
            return self._counts("validation", network) | self._counts("test", network)
        values = self._counts("validation", network) if task == TRAIN_EVALUATE else {}
        return values | self._train(network, arrays)

    def _statistics(self) -> Values:
        rows = self.rows
        values = {
            "rows": np.array([len(rows.train), len(rows.validation), len(rows.test)], np.float64)
        }
        for head in self.layout.heads:
            if head.kind != "numeric":
                labels = rows.train.targets[head.name]
                known = labels[labels >= 0].astype(np.int64)  # NaN and -1 are missing labels
                values[f"classes/{head.name}"] = np.bincount(
                    known, minlength=classes_of(head)
                ).astype(np.float64)
        return values

    def _train(self, network: MultiTaskNetwork, arrays: Arrays) -> Values:
        total = federation_rows(arrays).train
        before = to_vector(named_arrays(network)).astype(np.float64)
        summary = train_locally(
            network,
            self.rows.train,
            self.config.training,
            seed_for(self.config, "train", self.rows.name, int(_scalar(arrays, "round"))),
            class_weights={
                name.removeprefix(CLASS_WEIGHTS): np.asarray(array, np.float64)
                for name, array in arrays.items()
                if name.startswith(CLASS_WEIGHTS)
            }
            or None,
        )
        weight = summary.rows / total
        after = to_vector(named_arrays(network)).astype(np.float64)
        return {
            "update": weight * (after - before),
            "rows": np.array([summary.rows], np.float64),
            "loss": np.array([weight * summary.loss]),
        }

    def _counts(self, split: str, network: MultiTaskNetwork) -> Values:
        data: EncodedTable = getattr(self.rows, split)
        counts = evaluate_counts(network, data)
        values: Values = {}
        start = 0
        for head in self.layout.heads:
            size = count_shape(head)
            values[f"{split}/{head.name}"] = counts[start : start + size]
            start += size
        return values

    def _network(self, arrays: Arrays) -> MultiTaskNetwork:
        network = _network(self.layout, self.config.model)
        like = named_arrays(network)
        vector = np.asarray(arrays.get(MODEL, ()), np.float32)
        if vector.shape != (sum(array.size for array in like.values()),):
            raise SecureSumError("a task's input does not hold a model of the run's shape")
        load_arrays(network, from_vector(vector, like))
        return network


@lru_cache(maxsize=2)
def _network(layout: FeatureLayout, config: ModelSection) -> MultiTaskNetwork:
    """Build the network once in each process; every use loads all of its weights first."""
    return build_network(layout, config, seed=0)


def federation_rows(arrays: Arrays) -> FederationRows:
    """Read the federation's released rows from a task's input; SecureSumError if not there."""
    rows = np.asarray(arrays.get("rows", ()), np.int64)
    if rows.shape != (3,) or (rows < 0).any():
        raise SecureSumError("a task's input wants rows: three counts of at least 0")
    train, validation, test = rows.tolist()
    if train < 1:
        raise SecureSumError("a task's input says that the federation has no training rows")
    return FederationRows(train, validation, test)


def _scalar(arrays: Arrays, name: str) -> float:
    value = np.asarray(arrays.get(name, ()), np.float64).reshape(-1)
    if len(value) != 1 or not np.isfinite(value[0]):
        raise SecureSumError(f"a task's input wants one finite number under {name}")
    return float(value[0])
