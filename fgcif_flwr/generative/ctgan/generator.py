"""A trained CTGAN as a generator of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import DataError
from fgcif_flwr.generative.columns import wanted_proportions
from fgcif_flwr.generative.ctgan.conditions import Conditions, Floats, Integers
from fgcif_flwr.generative.ctgan.diagnostics import Diagnostics
from fgcif_flwr.generative.ctgan.networks import GeneratorNetwork
from fgcif_flwr.generative.ctgan.sampling import sample_codes
from fgcif_flwr.generative.ctgan.weights import load_weights, to_weights
from fgcif_flwr.generative.generator import Proportions
from fgcif_flwr.generative.transform import TableTransform

_TRIES = 8  # for rows whose network does not follow the wanted class at once
_WIDEST = 1 << 14  # layer of a stored network
_ROWS = 1 << 16  # sampled at once, for the memory that their conditions take


@dataclass(frozen=True, eq=False)
class Ctgan:
    """One party's generator; whoever has it can sample rows like that party's.

    Attributes
    ----------
    transform : TableTransform
    network : GeneratorNetwork
    target_share : float
        Of the conditions that it was trained with, :class:`Conditions`.
    diagnostics : Diagnostics or None
        How its training went; None where it was loaded.
    """

    transform: TableTransform
    network: GeneratorNetwork
    target_share: float
    diagnostics: Diagnostics | None = None
    kind: str = "ctgan"

    @property
    def layout(self) -> FeatureLayout:
        """The layout of the rows."""
        return self.transform.layout

    def sample(
        self, rows: int, random: np.random.Generator, classes: Proportions | None = None
    ) -> EncodedTable:
        """Return new rows; see :class:`~fgcif_flwr.generative.generator.Generator`.

        With ``classes`` the target's counts are those proportions of ``rows``, rounded, and no
        label of it is missing. A class that the table had no row of is given as well, with
        features that mean nothing.

        Raises
        ------
        ValueError
            If ``rows`` is below 0.
        ConfigurationError
            As :func:`~fgcif_flwr.generative.columns.wanted_proportions`.
        """
        if rows < 0:
            raise ValueError(f"rows are 0 or more, not {rows}")
        target = _wanted_cells(self.layout, rows, classes, random) if classes else None
        parts = []
        conditions = Conditions(self.transform, self.target_share)
        for start in range(0, rows, _ROWS):
            stop = min(start + _ROWS, rows)
            if target is None:
                vectors = conditions.draw(stop - start, random, evenly=False).vectors
                places, cells = sample_codes(self.network, vectors, random)
            else:
                name, wanted = target
                places, cells = self._of_classes(conditions, name, wanted[start:stop], random)
            parts.append(self.transform.table(places, cells, random))
        if not parts:
            nothing = np.zeros((0, len(self.transform.columns)), np.int64)
            return self.transform.table(
                np.zeros((0, len(self.layout.numeric) + len(self.layout.heads)), np.float32),
                nothing,
                random,
            )
        return EncodedTable.concatenate(parts)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return all that was learnt: float32 or int64 arrays of one dimension, by name."""
        return {
            **self.transform.arrays(),
            "network.target_share": np.array([self.target_share], np.float32),
            "network.widths": np.array([self.network.noise_dim, *self.network.hidden], np.int64),
            "network.weights": to_weights(self.network),
        }

    @staticmethod
    def from_arrays(layout: FeatureLayout, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Ctgan:
        """Return the generator whose :meth:`arrays` these are.

        Raises
        ------
        DataError
            If an array is absent, or they are not those of a generator of this layout.
        """
        transform = TableTransform.from_arrays(layout, arrays)
        found, weights = arrays.get("network.widths"), arrays.get("network.weights")
        if found is None or weights is None or found.dtype != np.int64 or found.ndim != 1:
            raise DataError("the arrays of a ctgan want network.widths and network.weights")
        widths = found.astype(np.int64)
        if len(widths) < 2 or not ((widths >= 1) & (widths <= _WIDEST)).all():
            raise DataError(f"network.widths of a ctgan must be from 1 to {_WIDEST}, two or more")
        given = arrays.get("network.target_share", np.zeros(0))
        if given.dtype != np.float32 or given.shape != (1,) or not 0 <= float(given[0]) <= 1:
            raise DataError("network.target_share of a ctgan must be a float32 from 0 to 1")
        share = float(given[0])
        condition_width = Conditions(transform, share).width
        hidden = [int(width) for width in widths[1:]]
        network = network_of(transform, condition_width, int(widths[0]), hidden, 0)
        size = sum(parameter.numel() for parameter in network.parameters())
        if weights.dtype != np.float32 or weights.shape != (size,):
            raise DataError(f"network.weights of this ctgan must be {size} float32 numbers")
        if not np.isfinite(weights.astype(np.float32)).all():
            raise DataError("network.weights of a ctgan must be finite")
        load_weights(network, weights.astype(np.float32))
        return Ctgan(transform, network, share)

    def _of_classes(
        self, conditions: Conditions, name: str, wanted: Integers, random: np.random.Generator
    ) -> tuple[Floats, Integers]:
        """Return rows in these cells of a target: those that do not follow are made again."""
        index = next(i for i, c in enumerate(self.transform.columns) if c.target and c.name == name)
        if index in conditions.columns:
            vectors = conditions.wanted(index, wanted).vectors
        else:
            # Trained with conditions on features alone: classes come as they are learnt.
            vectors = conditions.draw(len(wanted), random, evenly=False).vectors
        places, cells = sample_codes(self.network, vectors, random)
        for _ in range(_TRIES):
            stray = np.flatnonzero(cells[:, index] != wanted)
            if len(stray) == 0:
                break
            places[stray], cells[stray] = sample_codes(self.network, vectors[stray], random)
        cells[:, index] = wanted
        return places, cells


def network_of(
    transform: TableTransform,
    condition_width: int,
    noise_dim: int,
    hidden: Sequence[int],
    seed: int,
) -> GeneratorNetwork:
    """Return an untrained generator network for a transform."""
    spans = [span for own in transform.spans for span in own]
    return GeneratorNetwork(spans, transform.allowed, condition_width, noise_dim, hidden, seed)


def _wanted_cells(
    layout: FeatureLayout, rows: int, classes: Proportions, random: np.random.Generator
) -> tuple[str, Integers]:
    """Return the target and the cell of each row: proportions, rounded, in a random order."""
    name, shares = wanted_proportions(layout, classes)
    exact = rows * shares / shares.sum()
    counts = np.floor(exact).astype(np.int64)
    left = np.argsort(counts - exact, kind="stable")[: rows - int(counts.sum())]
    counts[left] += 1
    return name, random.permutation(np.repeat(np.arange(len(shares)), counts)) + 1
