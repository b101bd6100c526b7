"""The server's step from the mean update (Reddi et al. 2021, "Adaptive Federated Optimization")."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fgcif_flwr.config import TrainingSection
from fgcif_flwr.models.parameters import Arrays, from_vector, to_vector

_ADAM_BETAS = (0.9, 0.99)
_ADAM_FLOOR = 1e-3  # tau of FedAdam: how small a coordinate's scale may be taken


class ServerOptimizer:
    """Applies mean updates to a model; keeps its moments between rounds.

    ``none``: w + lr·u. ``momentum``: m ← βm + u, w + lr·m. ``adam``: FedAdam, without bias
    correction as in the paper. Moments are float64, the model float32.

    Parameters
    ----------
    config : TrainingSection
    learning_rate : float, optional
        In place of ``config.server_learning_rate``, where that is ``auto``.
    """

    def __init__(self, config: TrainingSection, learning_rate: float | None = None) -> None:
        self._config = config
        if learning_rate is None:
            if config.server_learning_rate == "auto":
                raise ValueError("training.server_learning_rate is auto: its value is to be given")
            learning_rate = config.server_learning_rate
        self.learning_rate = learning_rate
        self._first: npt.NDArray[np.float64] | None = None
        self._second: npt.NDArray[np.float64] | None = None

    def step(
        self, arrays: Mapping[str, npt.NDArray[np.float32]], update: npt.NDArray[np.float64]
    ) -> Arrays:
        """Return the model after one step.

        Parameters
        ----------
        arrays
            The model, float32, in the order in which ``update`` joins its arrays.
        update
            Mean update, shape (d,).
        """
        vector = to_vector(arrays).astype(np.float64)
        vector += self.learning_rate * self._direction(update)
        return from_vector(vector, arrays)

    def _direction(self, update: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        kind = self._config.server_optimizer
        if kind == "none":
            return update
        if self._first is None or self._second is None:
            self._first, self._second = np.zeros_like(update), np.zeros_like(update)
        if kind == "momentum":
            self._first = self._config.server_momentum * self._first + update
            return self._first
        beta, gamma = _ADAM_BETAS
        self._first = beta * self._first + (1 - beta) * update
        self._second = gamma * self._second + (1 - gamma) * update**2
        return self._first / (np.sqrt(self._second) + _ADAM_FLOOR)
