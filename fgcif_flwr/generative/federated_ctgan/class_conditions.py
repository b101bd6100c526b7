"""Which class a generated row is of: conditions on the targets that have classes.

CTGAN (Xu et al., NeurIPS 2019) conditions on every categorical column, and shows a critic the
condition beside the row. Here only targets are conditioned on, and the class is not asked of the
generator but given to the row that it makes: nothing of the few rounds goes into learning to obey,
the critic needs no condition, and no row of a wrong class can come out.

Where enterprises differ in their shares of the classes (label skew), each draws its real rows by
the federation's shares instead of its own: all train the two networks for the same distribution of
the classes, an enterprise without one for that of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.generative.columns import columns_of
from fgcif_flwr.generative.transform import Span, TableTransform

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Wanted:
    """What rows are to be.

    Attributes
    ----------
    targets : int64 (rows,)
        Place of the conditioned target among :attr:`ClassConditions.targets`.
    cells : int64 (rows,)
        Its cell: 0 missing, else the class and one more.
    """

    targets: Tensor
    cells: Tensor

    def take(self, rows: Tensor) -> Wanted:
        """Return those of some rows."""
        return Wanted(self.targets[rows], self.cells[rows])


class ClassConditions:
    """Draws conditions by released counts, and shapes rows by them.

    A layout none of whose targets has classes has no conditions: their width is 0.

    Parameters
    ----------
    transform : TableTransform
        Shared. Its counts of the targets are how often classes are asked for.

    Attributes
    ----------
    targets : tuple of str
        Names of the targets that have classes.
    width : int
        Numbers in a condition: the cells of these targets.
    """

    def __init__(self, transform: TableTransform) -> None:
        places = target_places(transform.layout)
        self._places = places
        self.targets = tuple(transform.columns[place].name for place in places)
        self.width = sum(transform.codings[place].cells for place in places)
        self._spans = tuple(transform.spans[place][-1] for place in places)
        self._shares = [_shares(transform.codings[place].mass) for place in places]
        self._starts = torch.tensor(
            np.cumsum([0, *(span.size for span in self._spans)]), dtype=torch.int64
        )

    def shares(self, target: int) -> Reals:
        """Return the released shares of a target's cells, (cells,), missing first."""
        return self._shares[target]

    def draw(self, rows: int, generator: torch.Generator) -> Wanted:
        """Draw a target uniformly and its cell by the released counts, for each row."""
        if not self.targets:
            none = torch.zeros(rows, dtype=torch.int64)
            return Wanted(none, none)
        targets = torch.randint(len(self.targets), (rows,), generator=generator)
        drawn = torch.rand(rows, generator=generator, dtype=torch.float64)
        cells = torch.zeros(rows, dtype=torch.int64)
        for place, shares in enumerate(self._shares):
            own = targets == place
            bounds = torch.tensor(shares.cumsum()[:-1])
            cells[own] = torch.searchsorted(bounds, drawn[own], right=True)
        return Wanted(targets, cells)

    def by_proportions(
        self, name: str, proportions: Reals, rows: int, random: np.random.Generator
    ) -> Wanted:
        """Draw rows' classes of one target in given proportions of its classes, (classes,).

        ``name`` is one of :attr:`targets`; the proportions are at least 0, not all 0.
        """
        target = self.targets.index(name)
        cells = 1 + random.choice(len(proportions), rows, p=proportions / proportions.sum())
        return Wanted(torch.full((rows,), target), torch.tensor(cells, dtype=torch.int64))

    def vectors(self, wanted: Wanted) -> Tensor:
        """Return conditions as the generator takes them: one-hot, float32 (rows, width)."""
        vectors = torch.zeros(len(wanted.cells), self.width)
        if self.targets:
            vectors[torch.arange(len(vectors)), self._starts[wanted.targets] + wanted.cells] = 1
        return vectors

    def imposed(self, rows: Tensor, wanted: Wanted) -> Tensor:
        """Return rows (rows, width of the transform) with the wanted classes in their places."""
        shaped = rows
        for place, span in enumerate(self._spans):
            own = wanted.targets == place
            cells = torch.zeros(len(rows), span.size)
            cells[own, wanted.cells[own]] = 1
            kept = torch.where(own[:, None], cells, shaped[:, span.start : span.stop])
            shaped = torch.cat([shaped[:, : span.start], kept, shaped[:, span.stop :]], dim=1)
        return shaped

    def impose_cells(self, cells: npt.NDArray[np.int64], wanted: Wanted) -> None:
        """Write the wanted classes into rows' cells, (rows, columns), in place."""
        rows = np.arange(len(cells))
        if self.targets:
            cells[rows, np.array(self._places)[wanted.targets.numpy()]] = wanted.cells.numpy()

    def cells_of(self, rows: Tensor) -> Tensor:
        """Return real rows' cells of each target, int64 (rows, targets)."""
        cells = [rows[:, span.start : span.stop].argmax(dim=1) for span in self._spans]
        return torch.stack(cells, dim=1) if cells else torch.zeros(len(rows), 0, dtype=torch.int64)


class RealRows:
    """Draws one enterprise's rows as if their classes had the federation's shares.

    Parameters
    ----------
    conditions
    rows
        As the transform makes them, (rows, width); at least one.
    """

    def __init__(self, conditions: ClassConditions, rows: Tensor) -> None:
        self.rows = rows
        self._cells = conditions.cells_of(rows)
        weights = []
        for target in range(len(conditions.targets)):
            own = self._cells[:, target]
            shares = torch.tensor(conditions.shares(target))
            counts = torch.bincount(own, minlength=len(shares))
            weight = shares[own] / counts[own]
            # A class that the released counts do not know (noise hid it) still has its rows.
            weights.append(weight if weight.sum() > 0 else torch.ones(len(rows)))
        self._weights = (
            torch.stack(weights).double()
            if weights
            else torch.ones(1, len(rows), dtype=torch.float64)
        )

    def probabilities(self) -> Tensor:
        """Return how often each row is drawn, float64 (rows,), adding up to 1."""
        shares: Tensor = (self._weights / self._weights.sum(dim=1, keepdim=True)).mean(dim=0)
        return shares

    def draw(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Wanted]:
        """Draw rows with replacement, and the conditions that hold of them.

        A row is drawn for one target, chosen uniformly, by the shares of that target's classes.
        """
        targets = torch.randint(len(self._weights), (rows,), generator=generator)
        chosen = torch.zeros(rows, dtype=torch.int64)
        for target, weights in enumerate(self._weights):
            own = targets == target
            drawn = torch.rand(int(own.sum()), generator=generator, dtype=torch.float64)
            bounds = weights.cumsum(0)
            places = torch.searchsorted(bounds, drawn * bounds[-1], right=True)
            chosen[own] = places.clamp_max(len(self.rows) - 1)
        if self._cells.shape[1] == 0:
            return self.rows[chosen], Wanted(targets, torch.zeros_like(targets))
        return self.rows[chosen], Wanted(targets, self._cells[chosen, targets])


def target_places(layout: FeatureLayout) -> tuple[int, ...]:
    """Return the places, among all columns, of the targets that have classes."""
    return tuple(
        place
        for place, column in enumerate(columns_of(layout))
        if column.target and not column.numeric
    )


def condition_width(layout: FeatureLayout, spans: tuple[tuple[Span, ...], ...]) -> int:
    """Return :attr:`ClassConditions.width` by the layout alone."""
    return sum(spans[place][-1].size for place in target_places(layout))


def _shares(mass: npt.NDArray[np.float32]) -> Reals:
    known = mass.astype(np.float64)
    if known.sum() <= 0:  # nothing was released of it: every class alike
        known = np.ones(len(mass))
        known[0] = 0
    shares: Reals = known / known.sum()
    return shares
