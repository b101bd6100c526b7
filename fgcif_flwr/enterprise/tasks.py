"""What an enterprise computes from its rows for each task, before the door bounds and masks it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fgcif_flwr.config import ModelSection, RunConfig
from fgcif_flwr.data.consortium import EnterpriseRows
from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.enterprise.generator_tasks import exact_values, with_synthetic_rows
from fgcif_flwr.enterprise.segmentation_tasks import exact_segment_values, with_learned_labels
from fgcif_flwr.federation.count_words import to_words
from fgcif_flwr.federation.generator_releases import generator_slots
from fgcif_flwr.federation.releases import (
    CLASS_WEIGHTS,
    EVALUATE,
    MODEL,
    STATISTICS,
    TRAIN_EVALUATE,
    classes_of,
)
from fgcif_flwr.federation.segmentation_releases import segmentation_slots
from fgcif_flwr.models.network import MultiTaskNetwork, build_network
from fgcif_flwr.models.parameters import from_vector, load_arrays, named_arrays, to_vector
from fgcif_flwr.models.training import evaluate_counts, mean_gradient, train_locally
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
            ``round``, and, where classes are balanced, ``class_weights/``, where they are learned,
            ``segments/``; it has passed
            :func:`fgcif_flwr.federation.releases.check_input`.
        """
        if task in segmentation_slots(self.config):
            return exact_segment_values(task, arrays, self.config, self.layout, self.rows)
        rows, arrays = with_learned_labels(self.config, self.layout, self.rows, arrays)
        return Tasks(self.config, self.layout, rows)._of_labelled_rows(task, arrays)

    def _of_labelled_rows(self, task: str, arrays: Arrays) -> Values:
        if task == STATISTICS:
            return self._statistics()
        if task in generator_slots(self.config):
            return exact_values(task, arrays, self.config, self.layout, self.rows)
        network = loaded_network(self.layout, self.config.model, arrays[MODEL])
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
        total = int(arrays["rows"][0])
        rows = len(self.rows.train)
        weight = rows / total
        update, loss = local_update(self.config, self.layout, self.rows, network, arrays)
        return {
            "update": weight * update,
            "rows": np.array([rows], np.float64),
            "loss": np.array([weight * loss]),
        }

    def _counts(self, split: str, network: MultiTaskNetwork) -> Values:
        data: EncodedTable = getattr(self.rows, split)
        counts = evaluate_counts(network, data)
        return {
            f"{split}/{head.name}": to_words(head, counts[head.name], self.config.secagg.value_bits)
            for head in self.layout.heads
        }


def local_update(
    config: RunConfig,
    layout: FeatureLayout,
    rows: EnterpriseRows,
    network: MultiTaskNetwork,
    arrays: Arrays,
) -> tuple[npt.NDArray[np.float64], float]:
    """Return one enterprise's update, (d,), and its training loss.

    With ``fedavg`` the update is what local epochs change, with ``fedsgd`` the negative gradient
    of the mean loss. The network starts with the weights it has. Where the configuration augments,
    synthetic rows are beside the enterprise's own, new ones in each round.
    """
    weights = class_weights_in(arrays)
    train = with_synthetic_rows(config, layout, rows, arrays)
    if config.training.algorithm == "fedsgd":
        gradient, loss = mean_gradient(network, train, weights)
        return -gradient, loss
    before = to_vector(named_arrays(network)).astype(np.float64)
    seed = seed_for(config, "train", rows.name, int(arrays["round"][0]))
    summary = train_locally(network, train, config.training, seed, class_weights=weights)
    return to_vector(named_arrays(network)).astype(np.float64) - before, summary.loss


def class_weights_in(arrays: Arrays) -> dict[str, npt.NDArray[np.float64]] | None:
    """Return the class weights of a task's input by head; None where there are none."""
    weights = {
        name.removeprefix(CLASS_WEIGHTS): np.asarray(array, np.float64)
        for name, array in arrays.items()
        if name.startswith(CLASS_WEIGHTS)
    }
    return weights or None


def loaded_network(
    layout: FeatureLayout, config: ModelSection, vector: npt.NDArray[np.generic]
) -> MultiTaskNetwork:
    """Return this process's network with the weights of a vector (d,)."""
    network = _network(layout, config)
    load_arrays(network, from_vector(vector, named_arrays(network)))
    return network


@lru_cache(maxsize=2)
def _network(layout: FeatureLayout, config: ModelSection) -> MultiTaskNetwork:
    """Build the network once in each process; every use loads all of its weights first."""
    return build_network(layout, config, seed=0)
