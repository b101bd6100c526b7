"""A critic that needs few releases: a quadratic form of the row, best by sums over customers.

Of a critic ``D(x) = x^T W x`` a customer's gradient by W is ``-x x^T`` whatever W is. So every
release tells the same sum anew, their mean loses noise as one release of the whole budget would,
and the best W against a generator is known without asking again: what generated rows' second
moments lack. The distance to them is that of a polynomial kernel (Li, Swersky and Zemel,
"Generative moment matching networks", 2015); releasing a kernel's mean once instead of gradients of
a network many times is after Harder, Adamczewski and Park, "DP-MERF", 2021. Products of one-hot
cells are the counts of all pairs of columns.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgcif_flwr.generative.ctgan.moments import LEAST_DEVIATION
from fgcif_flwr.generative.transform import TableTransform

_NOISE_WEIGHT = 4.0  # of the noise's variance beside the moment's own in what a moment weighs


def moment_count(width: int) -> int:
    """Return the number of second moments of rows of this width, each once."""
    return width * (width + 1) // 2


class SecondMomentSums:
    """How customers' products are released, and what generated rows lack of them.

    Parameters
    ----------
    transform : TableTransform
        Shared.

    Attributes
    ----------
    size : int
        Numbers in a contribution: :func:`moment_count` of the width.
    """

    def __init__(self, transform: TableTransform) -> None:
        width = transform.width
        self._first, self._second = (torch.from_numpy(i) for i in np.triu_indices(width))
        self.size = len(self._first)
        scale = np.ones(width, np.float32)
        shares = np.zeros(width)
        is_cell, span_of = np.zeros(width, np.bool_), np.zeros(width, np.int64)
        bound, heavier = 0.0, _target_weight(transform)
        for place, (column, coding, spans) in enumerate(
            zip(transform.columns, transform.codings, transform.spans, strict=True)
        ):
            weight = heavier if column.target else 1.0
            cells = slice(spans[-1].start, spans[-1].stop)
            scale[spans[0].start : cells.stop] = weight
            total = float(coding.mass.sum())
            shares[cells] = coding.mass / total if total > 0 else 0.0
            is_cell[cells], span_of[spans[0].start : cells.stop] = True, place
            bound += weight**2 * len(spans)
        # No row is longer: one cell of each column, and the places of numeric ones.
        self._scale, self._bound = torch.from_numpy(scale), bound
        self._factors = torch.where(self._first == self._second, 1.0, math.sqrt(2.0)) / bound
        # Cells of one column exclude each other; a cell that no row is in has no pairs.
        same = span_of[:, None] == span_of[None, :]
        both = is_cell[:, None] & is_cell[None, :]
        useful = ~(same & both) & ((shares > 0) | ~is_cell)[:, None]
        self._useful = torch.from_numpy((useful & useful.T).astype(np.float32))
        scaled = np.outer(scale, scale)
        highest = np.where(both, np.minimum.outer(shares, shares), 1.0)
        lowest = np.where(both, np.maximum(np.add.outer(shares, shares) - 1, 0.0), -1.0)
        self._highest = torch.from_numpy(scaled * highest).float()
        self._lowest = torch.from_numpy(scaled * lowest).float()
        own = np.where(is_cell, np.maximum(shares * (1 - shares), LEAST_DEVIATION**2), 0.1)
        self._variance = torch.from_numpy(scaled**2 * np.outer(own, own)).float()
        self._sum = np.zeros(self.size)
        self._noise = 0.0
        self._count = 0

    def contributions(self, rows: Tensor) -> Tensor:
        """Return each row's gradient, less its products, (rows, size), of norm at most 1.

        Parameters
        ----------
        rows
            As the transform makes them, (rows, width).
        """
        scaled = rows * self._scale
        return -(scaled[:, self._first] * scaled[:, self._second]) * self._factors

    def add(self, mean: npt.NDArray[np.float64], deviation: float) -> None:
        """Take a release's mean of contributions, and its noise's standard deviation."""
        self._sum += mean
        self._noise += deviation**2
        self._count += 1
        mean_of_all = torch.from_numpy(-self._sum / self._count).float() / self._factors
        noise = math.sqrt(self._noise) / self._count
        moments = torch.zeros(len(self._scale), len(self._scale))
        moments[self._first, self._second] = mean_of_all
        moments[self._second, self._first] = mean_of_all
        # No pair of cells is more frequent than either of them.
        self._moments = torch.minimum(torch.maximum(moments, self._lowest), self._highest)
        of_noise = (noise * self._bound) ** 2 / 2
        weights = self._useful / (self._variance + _NOISE_WEIGHT * of_noise)
        self._weights = weights / len(self._scale)

    def pull(self, rows: Tensor) -> Tensor:
        """Return the gradient by generated rows, (rows, width), of the moments' squared distance.

        Each half is pulled by what the other one lacks: what chance gives to a batch pulls nothing.
        """
        half = len(rows) // 2
        scaled = rows * self._scale
        pull = torch.zeros_like(rows)
        for own, other in ((slice(half), slice(half, None)), (slice(half, None), slice(half))):
            there, here = scaled[other], scaled[own]
            lacking = self._weights * (there.T @ there / len(there) - self._moments)
            pull[own] = 2 * (here @ lacking) * self._scale / len(here)
        return pull


def _target_weight(transform: TableTransform) -> float:
    """Return what targets' cells are multiplied by: targets then have half of a row's length.

    What ties features to targets has less noise for it than what ties features to one another.
    """
    targets = sum(column.target for column in transform.columns)
    return max(1.0, math.sqrt((len(transform.columns) - targets) / max(targets, 1)))
