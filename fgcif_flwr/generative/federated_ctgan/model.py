"""The generator that a federation has trained, as rows are drawn from it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import DataError
from fgcif_flwr.generative.columns import wanted_proportions
from fgcif_flwr.generative.ctgan.sampling import sample_codes
from fgcif_flwr.generative.ctgan.weights import load_weights, to_weights
from fgcif_flwr.generative.federated_ctgan.class_conditions import Wanted
from fgcif_flwr.generative.federated_ctgan.networks import (
    SharedNetworks,
    generator_parameter_count,
    networks_on,
)
from fgcif_flwr.generative.federated_ctgan.settings import FederatedCtganSettings
from fgcif_flwr.generative.generator import Proportions
from fgcif_flwr.generative.transform import TableTransform
from fgcif_flwr.generative.transform.table_transform import shared_spans


class FederatedCtgan:
    """Samples rows of a layout from a generator network. A :class:`~..generator.Generator`.

    Attributes
    ----------
    kind : str
        ``federated-ctgan``.
    layout : FeatureLayout
    settings : FederatedCtganSettings
    """

    kind = "federated-ctgan"

    def __init__(self, networks: SharedNetworks) -> None:
        self.layout: FeatureLayout = networks.transform.layout
        self.settings: FederatedCtganSettings = networks.settings
        self._networks = networks

    def sample(
        self, rows: int, random: np.random.Generator, classes: Proportions | None = None
    ) -> EncodedTable:
        """Return ``rows`` new rows, targets included; see :class:`~..generator.Generator`.

        Without ``classes`` those of the first target that has classes are drawn by the released
        shares.

        Raises
        ------
        ConfigurationError
            As :func:`~fgcif_flwr.generative.columns.wanted_proportions`.
        """
        wanted = self._wanted(rows, random, classes)
        conditions = self._networks.conditions.vectors(wanted).numpy()
        places, cells = sample_codes(self._networks.generator, conditions, random)
        self._networks.conditions.impose_cells(cells, wanted)
        return self._networks.transform.table(places, cells, random)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the generator's weights (``generator``, float32) and the transform's arrays."""
        return {
            "generator": to_weights(self._networks.generator),
            **self._networks.transform.arrays(),
        }

    @staticmethod
    def from_arrays(
        layout: FeatureLayout,
        settings: FederatedCtganSettings,
        arrays: Mapping[str, npt.NDArray[np.generic]],
    ) -> FederatedCtgan:
        """Return the generator whose :meth:`arrays` these are, made with these settings.

        Raises
        ------
        DataError
            If an array is absent, or cannot be that of a generator of this layout and settings.
        """
        weights, size = arrays.get("generator"), generator_parameter_count(layout, settings)
        # Counted before it is built: a small hostile file could name a network of any size.
        if weights is None or weights.dtype != np.float32 or weights.shape != (size,):
            raise DataError(f"the array 'generator' of this CTGAN must be {size} float32 numbers")
        transform = TableTransform.from_arrays(layout, arrays)
        # What a network makes of a cell grows with the square of the width.
        if transform.spans != shared_spans(layout, settings.max_categories):
            raise DataError("the arrays' transform is not the shared one of this layout")
        networks = networks_on(transform, settings, seed=0)
        try:
            load_weights(networks.generator, np.asarray(weights, np.float32))
        except ValueError as error:
            raise DataError(f"the array 'generator' cannot be used: {error}") from None
        return FederatedCtgan(networks)

    def _wanted(
        self, rows: int, random: np.random.Generator, classes: Proportions | None
    ) -> Wanted:
        conditions = self._networks.conditions
        if classes:
            name, proportions = wanted_proportions(self.layout, classes)
            return conditions.by_proportions(name, proportions, rows, random)
        none = torch.zeros(rows, dtype=torch.int64)
        if not conditions.targets:
            return Wanted(none, none)
        shares = conditions.shares(0)
        return Wanted(none, torch.from_numpy(random.choice(len(shares), rows, p=shares)))
