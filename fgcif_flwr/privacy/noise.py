"""Skellam noise: integers whose law is exact enough, from a cryptographic generator.

Skellam noise of variance v is the difference of two independent Poisson variables of mean v/2
each. The sum of independent Skellam variables is one, of the variances' sum, so that enterprises
which do not trust each other can each add a share (Agarwal, Kairouz and Liu, The Skellam mechanism
for differentially private federated learning, NeurIPS 2021).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from randomgen import ChaCha

from fgcif_flwr.errors import PrivacyError

Integers = npt.NDArray[np.int64]

LOG2_TAIL = -64.0
"""log2 of the probability that the noise of a sum leaves its words; charged to delta."""
LARGEST_VARIANCE = 2.0**40
"""Beyond it double precision no longer gives the Poisson law its shape (:func:`skellam`)."""

_KEY_BYTES = 32
_ROUNDS = 20  # the cipher as published; fewer are faster and of less margin
_CHUNK = 1 << 14  # values; both draws of a chunk stay in a core's cache


def cryptographic_generator(
    entropy: Callable[[int], bytes] = os.urandom,
) -> np.random.Generator:
    """Return a generator whose stream is ChaCha20's key stream under a fresh 256-bit key.

    Whoever sees all but one of its values learns nothing of that one, as long as ChaCha20 is a
    pseudorandom function. Draw a new generator for every release, in the process that uses it:
    a generator that a fork copies gives both processes the same values.

    Parameters
    ----------
    entropy
        Returns as many bytes as asked, uniform and secret; the operating system's by default.

    Raises
    ------
    ValueError
        If it returns another number of bytes.
    """
    key = entropy(_KEY_BYTES)
    if len(key) != _KEY_BYTES:
        raise ValueError(f"a generator's key is {_KEY_BYTES} bytes long, not {len(key)}")
    # randomgen writes `key` into the cipher's eight key words as it is, little-endian; only its
    # `seed` would go through SeedSequence, a hash with a pool of 128 bits, and is not used. The
    # counter starts at 0 and has all of words 12 to 15: blocks are those of ChaCha20 with a nonce
    # of zero, never repeated. A test holds the stream against another library's ChaCha20.
    return np.random.Generator(ChaCha(key=int.from_bytes(key, "little"), rounds=_ROUNDS))


def skellam(size: int, variance: float, generator: np.random.Generator) -> Integers:
    """Draw independent Skellam values of mean 0.

    How far from exact: numpy draws a Poisson variable of mean m < 10 by multiplying uniform
    doubles, so that its probabilities are off by multiples of 2^-53; from m = 10 on by transformed
    rejection (Hörmann's PTRS, 1993). Its acceptance compares m, k log m and log k! in double
    precision, which cancel: a Poisson probability is off by a factor of up to about
    1 ± 2 m log(m) 2^-52 (measured: 10^-8 at m = 2^20, 2 * 10^-6 at 2^28, 10^-2 at 2^40). The
    errors change from each k to the next, and most of them cancel in the difference of two
    variables, which is over some sqrt(m) pairs: up to m = 2^28 a Skellam probability computed
    from them is right to 10^-8. No accountant adds these factors to epsilon. Nor is the time
    taken the same for all values drawn.

    Parameters
    ----------
    size : int
        At least 0.
    variance : float
        Above 0, at most :data:`LARGEST_VARIANCE`.
    generator
        From :func:`cryptographic_generator`, but in tests.

    Returns
    -------
    int64 of shape (size,)

    Raises
    ------
    ValueError
        If size or variance are not in their ranges.
    """
    if size < 0 or not 0 < variance <= LARGEST_VARIANCE:
        raise ValueError(
            f"noise is of 0 or more values, of variance above 0 and up to {LARGEST_VARIANCE:g}"
        )
    mean = variance / 2
    out = np.empty(size, dtype=np.int64)
    for start in range(0, size, _CHUNK):
        part = out[start : start + _CHUNK]
        np.subtract(generator.poisson(mean, len(part)), generator.poisson(mean, len(part)), part)
    return out


def check_variance(variance: float) -> None:
    """Raise PrivacyError where noise of this variance cannot be drawn faithfully."""
    if not 0 < variance <= LARGEST_VARIANCE:
        raise PrivacyError(
            f"noise of variance {variance:g} in integer steps cannot be drawn: at most "
            f"{LARGEST_VARIANCE:g} can; ask for a lower noise multiplier or a larger epsilon"
        )


def skellam_tail(variance: float, size: int, log2_failure: float = LOG2_TAIL) -> int:
    """Return a magnitude that none of ``size`` values exceeds but with small probability.

    Chernoff's bound with the Skellam law's own moment generating function, exp(v (cosh t - 1)):
    P(X >= x) <= exp(v (sqrt(1 + (x/v)^2) - 1) - x asinh(x/v)), on both sides, times ``size``.

    Parameters
    ----------
    variance : float
        Above 0, of each value.
    size : int
        Number of values, at least 1; they need not be independent.
    log2_failure : float
        Logarithm to base 2 of the probability, below 0.

    Returns
    -------
    int
        The least magnitude that the bound allows. It grows with ``variance``: the bound for a
        whole cohort's noise holds for that of any survivors.
    """
    if not 0 < variance < math.inf or size < 1 or not log2_failure < 0:
        raise ValueError("variance is above 0, size at least 1, log2_failure below 0")
    wanted = math.log(2 * size) - log2_failure * math.log(2)
    high = 1
    while _exponent(high, variance) < wanted:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if _exponent(middle, variance) < wanted:
            low = middle
        else:
            high = middle
    return high


def _exponent(x: float, variance: float) -> float:
    """Return minus the logarithm of Chernoff's bound on P(X >= x)."""
    u = x / variance
    # v (sqrt(1 + u^2) - 1), without the cancellation
    return x * math.asinh(u) - x * u / (1 + math.hypot(1, u))
