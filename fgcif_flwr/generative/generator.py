"""What every generator can do, whatever it learnt from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout

Proportions = Mapping[str, npt.NDArray[np.float64]]
"""Wanted proportions of a target's classes, (classes,), by its name; at most one target."""


class Generator(Protocol):
    """Samples rows of a layout. Sampling costs no privacy beyond what learning did."""

    @property
    def kind(self) -> str:
        """``marginals``, ``federated-ctgan`` or ``ctgan``."""
        ...

    @property
    def layout(self) -> FeatureLayout:
        """Of the rows that it samples."""
        ...

    def sample(
        self, rows: int, random: np.random.Generator, classes: Proportions | None = None
    ) -> EncodedTable:
        """Return ``rows`` new rows, targets included.

        Parameters
        ----------
        rows
            At least 0.
        random
            Decides the rows entirely.
        classes
            Proportions to give the classes of one target; as learnt where left out.
        """
        ...

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return all that was learnt: float32 or int64 arrays of one dimension, by name."""
        ...
