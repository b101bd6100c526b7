"""A random rotation that spreads a vector's norm evenly over its coordinates.

Rounding to a few bits costs an error in proportion to the bound on one coordinate. Where only the
norm of a vector is bounded, one coordinate may hold all of it; after a randomised Hadamard
transform none holds much more than its part (Ailon and Chazelle 2009; for sums of quantised
vectors, Suresh et al. 2017, section 3). With m the largest power of two within d, two transforms
cover a vector of any length d without padding it:

    x[:m]     <- H D1 x[:m] / sqrt(m)
    x[d - m:] <- H D2 x[d - m:] / sqrt(m)

H is Hadamard's matrix, D1 and D2 diagonals of signs from a public seed. Both steps are
orthonormal, so the norm is kept and the inverse is exact up to floating point.

**Bound of a coordinate.** After the rotation a coordinate is ``sum_j h_j s_j z_j / sqrt(m)``,
h_j = +-1 fixed, s_j independent signs, z of norm at most that of x: x itself where only the first
transform reaches, and else the first one's result, on which the second one's signs do not depend.
By Hoeffding's inequality it is beyond ``kappa * norm / sqrt(m)`` with probability at most
``2 exp(-kappa^2 / 2)``, so any of the d is with at most 2^-20 for
``kappa = sqrt(2 ln(2^21 d))``. The vector must not depend on the seed.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fgcif_flwr.errors import SecureSumError

Reals = npt.NDArray[np.float64]

SEED_BYTES = 32
FAILURE = 2.0**-20


def coordinate_bound(size: int, norm: float) -> float:
    """Return what no coordinate of a rotated vector exceeds, but with probability 2^-20.

    Parameters
    ----------
    size
        Coordinates, at least 1.
    norm
        Bound on the vector's Euclidean norm. It bounds every coordinate with certainty, and is
        returned where it is the lesser (below about 32 coordinates).
    """
    kappa = math.sqrt(2 * math.log(2 * size / FAILURE))
    return norm * min(1.0, kappa / math.sqrt(_span(size)))


def rotate(vector: npt.ArrayLike, seed: bytes) -> Reals:
    """Rotate a vector, shape (d,), by the public 32-byte ``seed``; a new array."""
    x = np.array(vector, dtype=np.float64).reshape(-1)
    m = _span(len(x))
    first, second = _signs(m, seed)
    x[:m] = _transform(x[:m] * first)
    x[-m:] = _transform(x[-m:] * second)
    return x


def unrotate(vector: npt.ArrayLike, seed: bytes) -> Reals:
    """Undo :func:`rotate`; a new array."""
    x = np.array(vector, dtype=np.float64).reshape(-1)
    m = _span(len(x))
    first, second = _signs(m, seed)
    x[-m:] = _transform(x[-m:]) * second  # H is symmetric: with 1 / sqrt(m) its own inverse
    x[:m] = _transform(x[:m]) * first
    return x


def _span(size: int) -> int:
    """Return the largest power of two within ``size``."""
    if size < 1:
        raise ValueError("a vector to rotate has at least one coordinate")
    return 1 << (size.bit_length() - 1)


def _signs(m: int, seed: bytes) -> tuple[Reals, Reals]:
    """Return the diagonals of D1 and D2: bits of AES-256-CTR's keystream, 0 for +1, 1 for -1."""
    if len(seed) != SEED_BYTES:
        raise SecureSumError(f"the seed of a rotation is {SEED_BYTES} bytes long, not {len(seed)}")
    encryptor = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    stream = np.frombuffer(encryptor.update(bytes(-(-m // 4))), np.uint8)
    bits = np.unpackbits(stream, count=2 * m, bitorder="little")
    signs: Reals = np.subtract(1.0, 2.0 * bits, dtype=np.float64)
    return signs[:m], signs[m:]


def _transform(x: Reals) -> Reals:
    """Return H x / sqrt(m), H of order m in Sylvester's order; ``x`` is written over.

    log2(m) equal passes of constant geometry (Pease 1968): neighbours' sums to the first half,
    their differences to the second. Elementwise, so the result has the same bits everywhere.
    """
    m = len(x)
    y, half = np.empty_like(x), m // 2
    for _ in range(m.bit_length() - 1):
        np.add(x[0::2], x[1::2], out=y[:half])
        np.subtract(x[0::2], x[1::2], out=y[half:])
        x, y = y, x
    x *= 1.0 / math.sqrt(m)
    return x
