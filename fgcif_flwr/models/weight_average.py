"""The mean of a training run's late weights.

With noise in every step the last weights are one noisy draw around a good place; the mean of the
late ones lies nearer to it (Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by
Averaging"; for noise that protects, Shejwalkar et al. 2022, "Recycling Scraps"). Weights that are
released already may be averaged freely: it costs no privacy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class WeightAverage:
    """Running mean of weight vectors from a given round on.

    Parameters
    ----------
    first_round
        The first round whose weights count; those of earlier rounds are passed over.
    """

    def __init__(self, first_round: int) -> None:
        self._first_round = first_round
        self._last_round: int | None = None
        self._count = 0
        self._mean: NDArray[np.float64] | None = None

    @property
    def count(self) -> int:
        """Number of rounds in the mean."""
        return self._count

    def add(self, round_number: int, weights: NDArray[np.float32]) -> None:
        """Take in the weights (d,) after a round; rounds come in order, some may be left out.

        Raises
        ------
        ValueError
            For a round that is not later than the one before, or a vector of another length.
        """
        if self._last_round is not None and round_number <= self._last_round:
            raise ValueError(
                f"round {round_number} is not later than round {self._last_round}, "
                "the last one that was added"
            )
        if self._mean is not None and weights.shape != self._mean.shape:
            raise ValueError(f"weights of shape {self._mean.shape} are wanted, not {weights.shape}")
        self._last_round = round_number
        if round_number < self._first_round:
            return
        if self._mean is None:
            self._mean = np.zeros(weights.shape, np.float64)
        self._count += 1
        self._mean += (weights - self._mean) / self._count

    def mean(self) -> NDArray[np.float32] | None:
        """Return the mean, (d,), a copy; None where no round has counted yet."""
        return None if self._mean is None else self._mean.astype(np.float32)
