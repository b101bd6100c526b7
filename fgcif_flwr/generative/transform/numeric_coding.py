"""One numeric column as a cell and a place within it.

The cells, in their order: missing; the *atoms*, values that many rows have exactly; the modes;
and one mode as wide as [0, 1], for what no other one reaches. The place is 0 for missing and for
atoms, and (value - centre) / reach in a mode, whose reach is four standard deviations: it never
leaves [-1, 1], and gives the value back whatever mode was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fgcif_flwr.generative.transform.modes import MODES, Modes, modes_of_histogram, modes_of_values

Floats = npt.NDArray[np.float32]
Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

SHARED_CELLS = 1 + MODES + 1
"""Of a shared numeric column: missing, the modes, the wide one. It has no atoms."""

_MOST_ATOMS = 32
_ATOM_SHARE = 0.03  # of the known values, for one value to be an atom
_REACH = 4.0  # standard deviations


@dataclass(frozen=True, eq=False)
class NumericCoding:
    """Cells of one column.

    Attributes
    ----------
    atoms : float32 (atoms,), ascending
    centres, reaches, weights : float32 (modes,)
        The last mode is the wide one. By the weights a value's mode is drawn among those that
        reach it.
    mass : float32 (1 + atoms + modes,)
        Rows in each cell; one of 0 is not to be generated.
    """

    atoms: Floats
    centres: Floats
    reaches: Floats
    weights: Floats
    mass: Floats

    @staticmethod
    def fit(values: Reals, seed: int) -> NumericCoding:
        """Fit to a column's values, (rows,) in [0, 1] with NaN where missing."""
        known = values[~np.isnan(values)].astype(np.float32)
        distinct, counts = np.unique(known, return_counts=True)
        if len(distinct) <= _MOST_ATOMS:
            atoms = distinct
        else:
            often = np.argsort(-counts, kind="stable")[:_MOST_ATOMS]
            often = often[counts[often] >= max(2.0, _ATOM_SHARE * len(known))]
            atoms = distinct[np.sort(often)]
        others = known[~np.isin(known, atoms)].astype(np.float64)
        none = Modes(np.zeros(0), np.zeros(0), np.zeros(0))
        modes = modes_of_values(others, seed) if len(others) else none
        coding = _coding(atoms, modes)
        _, cells = coding.forward(values, np.random.default_rng(seed))
        mass = np.bincount(cells, minlength=coding.cells)
        return replace(coding, mass=mass.astype(np.float32))

    @staticmethod
    def shared(histogram: Reals) -> NumericCoding:
        """Fit to released counts: cells of [0, 1] of equal width, then missing."""
        modes = modes_of_histogram(histogram[:-1])
        known = modes.weights * histogram[:-1].sum()
        # Of a column that nothing is known of, numbers anywhere are generated.
        anywhere = 0.0 if histogram.sum() > 0 else 1.0
        mass = np.concatenate([histogram[-1:], known, [anywhere]])
        return replace(_coding(np.zeros(0, np.float32), modes), mass=mass.astype(np.float32))

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(self.mass)

    def is_whole(self, codes: int) -> bool:
        """Return whether the arrays fit one another; ``codes`` is 0 of a numeric column."""
        modes = len(self.centres)
        return (
            codes == 0
            and modes >= 1
            and len(self.reaches) == len(self.weights) == modes
            and len(self.mass) == 1 + len(self.atoms) + modes
            and bool((self.reaches > 0).all() and (np.diff(self.atoms) > 0).all())
            and bool((self.weights >= 0).all() and (self.mass >= 0).all())
        )

    def forward(self, values: Reals, random: np.random.Generator) -> tuple[Floats, Integers]:
        """Return the places, float32 (rows,) in [-1, 1], and the cells, int64 (rows,)."""
        missing = np.isnan(values)
        known = np.where(missing, 0.0, values)
        alone = known.astype(np.float32)
        atom = np.searchsorted(self.atoms, alone)
        first = 1 + len(self.atoms)
        cells = first + self._modes_of(known, random)
        place = (known - self.centres[cells - first]) / self.reaches[cells - first]
        if len(self.atoms):
            nearest = np.minimum(atom, len(self.atoms) - 1)
            is_atom = self.atoms[nearest] == alone
            cells = np.where(is_atom, 1 + nearest, cells)
            place = np.where(is_atom, 0.0, place)
        cells = np.where(missing, 0, cells)
        place = np.where(missing, 0.0, place)
        return np.clip(place, -1, 1).astype(np.float32), cells

    def inverse(self, places: Floats, cells: Integers) -> Reals:
        """Return the values, float64 (rows,) in [0, 1], NaN where missing."""
        still = np.zeros(1 + len(self.atoms))
        centres = np.concatenate([[np.nan], self.atoms, self.centres]).astype(np.float64)
        reaches = np.concatenate([still, self.reaches]).astype(np.float64)
        # An atom has a reach of 0: its place, that a network does not make 0, is not looked at.
        return np.clip(centres[cells] + np.clip(places, -1, 1) * reaches[cells], 0, 1)

    def _modes_of(self, values: Reals, random: np.random.Generator) -> Integers:
        """Draw each value's mode in proportion to its density, among those that reach it."""
        distance = (values[:, np.newaxis] - self.centres) / self.reaches
        density = self.weights * np.exp(-0.5 * (_REACH * distance) ** 2) / self.reaches
        density = np.where(np.abs(distance) <= 1, density, 0.0)
        # The wide mode is for what no other one reaches.
        density[:, -1] = np.where(density[:, :-1].sum(axis=1) > 0, 0.0, 1.0)
        bounds = density.cumsum(axis=1)
        drawn = random.random(len(values)) * bounds[:, -1]
        chosen: Integers = (drawn[:, np.newaxis] >= bounds[:, :-1]).sum(axis=1)
        return chosen


def _coding(atoms: Floats, modes: Modes) -> NumericCoding:
    """Return a coding with these atoms and modes, and no mass yet."""
    return NumericCoding(
        atoms.astype(np.float32),
        np.append(modes.means, 0.5).astype(np.float32),
        np.append(_REACH * modes.deviations, 0.5).astype(np.float32),
        np.append(modes.weights, 0.0).astype(np.float32),
        np.zeros(1 + len(atoms) + len(modes.means) + 1, np.float32),
    )
