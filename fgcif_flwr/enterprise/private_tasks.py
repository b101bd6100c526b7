"""What an enterprise contributes to releases under a privacy unit, before the door bounds it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.consortium import EnterpriseRows
from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.enterprise.generator_tasks import (
    customer_contributions,
    enterprise_contribution,
    synthetic_rows,
)
from fgcif_flwr.enterprise.segmentation_tasks import (
    customer_segment_contributions,
    enterprise_segment_contribution,
    with_learned_labels,
)
from fgcif_flwr.enterprise.tasks import (
    Arrays,
    Values,
    class_weights_in,
    loaded_network,
    local_update,
)
from fgcif_flwr.federation.generator_releases import generator_slots, sends_generator
from fgcif_flwr.federation.private_releases import (
    CLASSES,
    CLIPPING_NORM,
    ROWS,
    UNCLIPPED,
    UPDATE,
    split_of,
)
from fgcif_flwr.federation.releases import MODEL, STATISTICS, TRAIN, classes_of
from fgcif_flwr.federation.segmentation_releases import segmentation_slots
from fgcif_flwr.models.customer_gradients import bounded, customer_gradients
from fgcif_flwr.models.network import MultiTaskNetwork, head_slices
from fgcif_flwr.models.parameters import named_arrays, to_vector
from fgcif_flwr.models.row_counts import row_counts
from fgcif_flwr.privacy.mechanisms import Mechanism
from fgcif_flwr.privacy.noise import cryptographic_generator

logger = logging.getLogger(__name__)

Rows = Mapping[str, npt.NDArray[np.generic]]


class PrivateTasks:
    """Contributions from one enterprise's rows, under one run's configuration.

    Under unit ``customer`` a contribution is a row's; under ``enterprise`` it is the whole
    enterprise's. Sampling is drawn by the operating system's generator: a sample that the
    coordinator could draw too would hide nobody.

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

    def contributions(self, task: str, arrays: Arrays) -> Iterator[Rows]:
        """Yield a task's contributions in chunks, as the door takes them.

        Parameters
        ----------
        arrays
            The task's input; it has passed the checks of
            :mod:`fgcif_flwr.federation.private_releases`.
        """
        if task in segmentation_slots(self.config):
            yield from self._segments(task, arrays)
            return
        rows, arrays = with_learned_labels(self.config, self.layout, self.rows, arrays)
        yield from PrivateTasks(self.config, self.layout, rows)._of_labelled_rows(task, arrays)

    def _segments(self, task: str, arrays: Arrays) -> Iterator[Rows]:
        if self.config.privacy.unit == "enterprise":
            yield enterprise_segment_contribution(task, arrays, self.config, self.layout, self.rows)
        else:
            data = self._capped("train")
            yield from customer_segment_contributions(task, arrays, self.config, self.layout, data)

    def _of_labelled_rows(self, task: str, arrays: Arrays) -> Iterator[Rows]:
        if self.config.privacy.unit == "enterprise":
            yield self._whole(task, arrays)
        elif task in generator_slots(self.config):
            data = self._capped("train")
            yield from customer_contributions(task, arrays, self.config, self.layout, data)
        elif task == STATISTICS:
            yield self._statistics()
        elif task == TRAIN:
            yield from self._gradients(arrays)
        else:
            yield self._counts(task, arrays)

    def train(self, arrays: Arrays, mechanism: Mechanism) -> Values:
        """Train with the whole noise in every step, and return the update.

        ``mechanism`` says how many steps, of which share of the rows, with what noise.
        """
        rows, arrays = with_learned_labels(self.config, self.layout, self.rows, arrays)
        return PrivateTasks(self.config, self.layout, rows)._trained(arrays, mechanism)

    def _trained(self, arrays: Arrays, mechanism: Mechanism) -> Values:
        # Opacus takes a second to import; only these runs need it.
        from fgcif_flwr.models.private_training import train_privately

        public = None
        if sends_generator(self.config):
            wanted = round(self.config.generator.ratio * float(arrays[ROWS][0]))
            public = synthetic_rows(self.config, self.layout, self.rows, arrays, max(1, wanted))
        network = loaded_network(self.layout, self.config.model, arrays[MODEL])
        before = to_vector(named_arrays(network)).astype(np.float64)
        generator, privacy = cryptographic_generator(), self.config.privacy
        assert privacy.clipping != "adaptive"

        def noisy_sum(chunks: Iterable[npt.NDArray[np.float32]]) -> npt.NDArray[np.float64]:
            blocks = ({UPDATE: chunk} for chunk in chunks)
            try:
                encoded = mechanism.sum.encode(blocks, 1, generator)
            except Exception:  # as at the door: that a row made it fail must not show
                logger.exception("a step is made by noise alone: its computation failed")
                encoded = mechanism.sum.encode((), 1, generator)
            return mechanism.sum.decode({UPDATE: encoded.astype(np.float64)})[UPDATE]

        train_privately(
            network,
            self._capped("train"),
            self.config.training,
            steps=mechanism.steps,
            expected_batch=mechanism.sampling_rate * float(arrays[ROWS][0]),
            clipping_norm=privacy.clipping_norm,
            how=privacy.clipping,
            noisy_sum=noisy_sum,
            sample=lambda rows: generator.random(rows) < mechanism.sampling_rate,
            class_weights=class_weights_in(arrays),
            public=public,
            public_weight=self.config.generator.ratio,
        )
        return {UPDATE: to_vector(named_arrays(network)).astype(np.float64) - before}

    def _gradients(self, arrays: Arrays) -> Iterator[Rows]:
        privacy = self.config.privacy
        data = self._capped("train")
        if privacy.sampling_rate < 1:
            drawn = cryptographic_generator().random(len(data)) < privacy.sampling_rate
            data = data.take(drawn)
        adaptive, norm = self._clipping(arrays)
        network = loaded_network(self.layout, self.config.model, arrays[MODEL])
        how = "fixed" if privacy.clipping == "adaptive" else privacy.clipping
        for gradients in customer_gradients(network, data, class_weights_in(arrays)):
            clipped, unclipped = bounded(gradients, norm, how)
            rows: dict[str, npt.NDArray[np.generic]] = {UPDATE: clipped}
            if adaptive:
                rows[UNCLIPPED] = np.where(unclipped, 1.0, -1.0)[:, np.newaxis]
            yield rows

    def _statistics(self) -> Rows:
        data = self._capped("train")
        rows: dict[str, npt.NDArray[np.floating]] = {ROWS: np.ones((len(data), 1))}
        if self.config.training.class_weighting == "none":
            return rows
        for head in self.layout.heads:
            if head.kind != "numeric":
                classes = classes_of(head)
                labels = data.targets[head.name]
                known = (labels >= 0) & (labels < classes)  # NaN and -1 are missing labels
                one_hot = np.zeros((len(data), classes))
                one_hot[np.flatnonzero(known), labels[known].astype(np.int64)] = 1.0
                rows[CLASSES + head.name] = one_hot
        return rows

    def _counts(self, task: str, arrays: Arrays) -> Rows:
        data = self._capped(split_of(task))
        network = loaded_network(self.layout, self.config.model, arrays[MODEL])
        return self._row_counts(network, data)

    def _row_counts(self, network: MultiTaskNetwork, data: EncodedTable) -> Rows:
        outputs = network.outputs(data)
        heads = self.layout.heads
        return {
            head.name: row_counts(head, outputs[:, columns], data.targets[head.name])
            for head, columns in zip(heads, head_slices(heads), strict=True)
        }

    def _whole(self, task: str, arrays: Arrays) -> Rows:
        """Return the enterprise's one contribution: its update, or the mean of its rows' parts."""
        if task in generator_slots(self.config):
            return enterprise_contribution(task, arrays, self.config, self.layout, self.rows)
        network = loaded_network(self.layout, self.config.model, arrays[MODEL])
        if task != TRAIN:
            parts = self._row_counts(network, getattr(self.rows, split_of(task)))
            return {
                name: rows.sum(axis=0, keepdims=True) / max(1, len(rows))
                for name, rows in parts.items()
            }
        update, _ = local_update(self.config, self.layout, self.rows, network, arrays)
        adaptive, norm = self._clipping(arrays)
        length = float(np.linalg.norm(update))
        rows = {UPDATE: (update / max(norm, length))[np.newaxis, :]}
        if adaptive:
            rows[UNCLIPPED] = np.array([[1.0 if length <= norm else -1.0]])
        return rows

    def _capped(self, split: str) -> EncodedTable:
        """Return a split's rows, at most as many as the public cap; the others are not used."""
        data: EncodedTable = getattr(self.rows, split)
        most = self.config.privacy.rows_per_enterprise
        if len(data) <= most:
            return data
        logger.warning(
            "%s: more %s rows than privacy.rows_per_enterprise = %d; the rest is not used",
            self.rows.name,
            split,
            most,
        )
        return data.take(np.arange(most))

    def _clipping(self, arrays: Arrays) -> tuple[bool, float]:
        """Return whether clipping is adaptive, and the norm."""
        privacy = self.config.privacy
        if privacy.clipping == "adaptive":
            return True, float(arrays[CLIPPING_NORM][0])
        return False, privacy.clipping_norm
