"""Modes of a numeric column: a mixture of normals, of its values or of a released histogram.

Mode-specific normalisation is that of Xu et al., Modeling tabular data using conditional GAN,
NeurIPS 2019.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture

Reals = npt.NDArray[np.float64]

MODES = 10
"""Most modes of a column."""

_LEAST_WEIGHT = 0.005  # a mode of fewer values is left out
_LEAST_DEVIATION = 1e-4  # of the column's range
_CONCENTRATION = 1e-3  # few modes rather than many
_MOST_VALUES = 4_000  # that a mixture is fitted to; more do not change it much
_STEPS = 100
_GRID = 4096  # steps to 1 that a shared mode's numbers are rounded to


@dataclass(frozen=True)
class Modes:
    """A mixture of normals in [0, 1]: float64 (modes,) each; weights add up to 1."""

    weights: Reals
    means: Reals
    deviations: Reals


def modes_of_values(values: Reals, seed: int) -> Modes:
    """Fit up to :data:`MODES` modes by variational inference (Bishop 2006, chapter 10.2).

    Parameters
    ----------
    values
        (n,), n >= 1, in [0, 1].
    seed
        Decides the start, and which values are used where there are more than 4,000.
    """
    if len(values) > _MOST_VALUES:
        values = np.random.default_rng(seed).choice(values, _MOST_VALUES, replace=False)
    centre, spread = values.mean(), max(values.std(), _LEAST_DEVIATION)
    distinct = len(np.unique(values))
    if distinct < 2:
        return Modes(np.ones(1), np.array([centre]), np.array([_LEAST_DEVIATION]))
    mixture = BayesianGaussianMixture(
        n_components=min(MODES, distinct),
        weight_concentration_prior=_CONCENTRATION,
        max_iter=_STEPS,
        random_state=seed % 2**32,
    )
    with warnings.catch_warnings():
        # A mixture that still moves a little is as good a normalisation.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(((values - centre) / spread)[:, np.newaxis])
    used = mixture.weights_ > min(_LEAST_WEIGHT, mixture.weights_.max() / 2)
    weights = mixture.weights_[used]
    deviations = np.sqrt(mixture.covariances_[used, 0, 0]) * spread
    return Modes(
        weights / weights.sum(),
        np.clip(mixture.means_[used, 0] * spread + centre, 0, 1),
        np.maximum(deviations, _LEAST_DEVIATION),
    )


def modes_of_histogram(histogram: Reals) -> Modes:
    """Fit exactly :data:`MODES` modes to a histogram of [0, 1]; those not needed weigh 0.

    Expectation maximisation from starts at equal shares of the mass; nothing is drawn. The result
    is rounded to 1/4096, so that computers whose last digits differ have the same modes.

    Parameters
    ----------
    histogram
        (cells,), not negative: the mass in cells of equal width.
    """
    cells = len(histogram)
    total = float(histogram.sum())
    if total <= 0:
        return Modes(np.zeros(MODES), np.full(MODES, 0.5), np.full(MODES, 0.125))
    places, share = (np.arange(cells) + 0.5) / cells, histogram / total
    quantiles = (np.arange(MODES) + 0.5) / MODES
    starts = np.unique(np.minimum(np.searchsorted(share.cumsum(), quantiles), cells - 1))
    means, weights = places[starts], np.full(len(starts), 1 / len(starts))
    within = 1 / (12 * cells**2)  # variance of a value within its cell
    variances = np.full(len(starts), max(within, 1 / (4 * MODES**2)))
    for _ in range(_STEPS):
        densities = (
            weights
            * np.exp(-0.5 * (places[:, np.newaxis] - means) ** 2 / variances)
            / np.sqrt(variances)
        )
        belongs = densities / np.maximum(densities.sum(axis=1, keepdims=True), 1e-300)
        belongs *= share[:, np.newaxis]
        weights = belongs.sum(axis=0)
        safe = np.maximum(weights, 1e-12)
        means = places @ belongs / safe
        squared = ((places[:, np.newaxis] - means) ** 2 * belongs).sum(axis=0) / safe
        variances = squared + within
    weights = np.where(weights >= _LEAST_WEIGHT, weights, 0.0)
    unused = MODES - len(starts)
    return Modes(
        _rounded(np.append(weights / weights.sum(), np.zeros(unused))),
        _rounded(np.append(np.clip(means, 0, 1), np.full(unused, 0.5))),
        np.maximum(_rounded(np.append(np.sqrt(variances), np.full(unused, 0.125))), 1 / _GRID),
    )


def _rounded(values: Reals) -> Reals:
    return np.round(values * _GRID) / _GRID
