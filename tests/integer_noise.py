"""Integer noise by its exact probabilities, and divergences by summing over them."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln, logsumexp


def skellam_log(variance: float, reach: int) -> np.ndarray:
    """Log probabilities of Skellam noise at -reach .. reach, far into the tails.

    By the power series of the Bessel function, whose terms are all positive.
    """
    m = np.arange(int(4 * variance) + 200)[:, None]
    k = np.arange(reach + 1)
    half = logsumexp(
        (2 * m + k) * np.log(variance / 2) - gammaln(m + 1) - gammaln(m + k + 1) - variance, axis=0
    )
    return np.concatenate([half[:0:-1], half])


def discrete_gaussian_sum_log(variance: float, terms: int, reach: int) -> np.ndarray:
    """Log probabilities of the sum of ``terms`` discrete Gaussians, at -reach .. reach."""
    k = np.arange(-reach, reach + 1)
    one = -(k**2) / (2 * variance / terms)
    one = one - logsumexp(one)
    total = one
    for _ in range(terms - 1):
        # Row i holds the first summand's log probability at k[i] - y for every y.
        padded = np.pad(total, reach, constant_values=-np.inf)
        rows = np.lib.stride_tricks.sliding_window_view(padded, len(k))
        total = logsumexp(rows[:, ::-1] + one, axis=1)
    return total


def shifted(log: np.ndarray, by: int) -> tuple[np.ndarray, np.ndarray]:
    """Log probabilities of noise plus ``by`` and of noise alone, at the same places."""
    return log[:-by], log[by:]


def divergence(p: np.ndarray, q: np.ndarray, order: int) -> float:
    """Rényi divergence of p from q, both log probabilities; fails where it is cut off."""
    terms = order * p + (1 - order) * q
    assert max(terms[0], terms[-1]) < terms.max() - 40
    return float(logsumexp(terms)) / (order - 1)


def exact_delta(p: np.ndarray, q: np.ndarray, epsilon: float) -> float:
    """Sum of what p exceeds exp(epsilon) q by."""
    return float(np.sum(np.maximum(np.exp(p) - np.exp(epsilon + q), 0)))
