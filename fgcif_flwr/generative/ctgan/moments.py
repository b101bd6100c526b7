"""How far the second moments of generated rows are from a table's."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_DEVIATION = 0.05
"""Of a place or a one-hot cell: rarer cells weigh no more than those of this deviation."""


class SecondMoments:
    """Means, variances and correlations of all numbers of a transform's rows.

    Matching moments is what a generative moment matching network does with a kernel (Li, Swersky
    and Zemel, ICML 2015); here the kernel is the square of 1 plus the inner product of
    standardised rows.

    Parameters
    ----------
    matrix
        The table, (rows, width); at least one row.
    weights
        How often each row is drawn, (rows,), adding up to 1.
    """

    def __init__(self, matrix: Tensor, weights: Tensor) -> None:
        column = weights[:, None]
        self._mean = (column * matrix).sum(0)
        variance = (column * (matrix - self._mean) ** 2).sum(0)
        self._deviation = variance.sqrt().clamp_min(LEAST_DEVIATION)
        rows = self._standardised(matrix)
        self._moments = (column * rows).T @ rows

    def distance(self, rows: Tensor) -> Tensor:
        """Return the squared distance over the width, a differentiable scalar.

        Each half of ``rows``, (rows, width) with rows >= 2, is an independent sample, so that
        the product of their two errors has the true squared distance as its mean: what chance
        gives to a batch is no reason to make rows of less variety. It may be below 0.
        """
        standardised = self._standardised(rows)
        half = len(rows) // 2
        one, other = (
            part.T @ part / len(part) - self._moments
            for part in (standardised[:half], standardised[half:])
        )
        return (one * other).sum() / rows.shape[1]

    def _standardised(self, rows: Tensor) -> Tensor:
        ones = torch.ones(len(rows), 1)
        return torch.cat([ones, (rows - self._mean) / self._deviation], dim=1)
