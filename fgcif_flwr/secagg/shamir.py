"""Shamir's secret sharing of 32-byte secrets over the prime field of 2^31 - 1.

A secret is cut into nine limbs of 30 bits, each the constant term of its own polynomial of
degree t - 1 with uniform coefficients; the holder at the evaluation point x gets the nine values
at x (Shamir 1979). Fewer than t shares are independent of the secret, limb by limb. On the wire a
share is its nine values as little-endian 32-bit integers (36 bytes): ``shares[i, j].tobytes()``.

All arithmetic is vectorised; a product of two field elements fits 62 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import SecureSumError

PRIME = (1 << 31) - 1
SECRET_BYTES = 32
LIMBS = 9
LIMB_BITS = 30
SHARE_BYTES = 4 * LIMBS

Elements = npt.NDArray[np.int64]
Points = Elements | Sequence[int]
Shares = npt.NDArray[np.uint32]
Entropy = Callable[[int], bytes]

_MOST_TERMS = 1 << 16  # of a sum in _product that fits 63 bits
_BATCH = 1 << 16  # elements of combine_each's shares at a time (half a MiB as 64-bit integers)


def split(secrets: Sequence[bytes], threshold: int, points: Points, entropy: Entropy) -> Shares:
    """Share secrets among the holders at ``points``.

    Parameters
    ----------
    secrets
        32-byte secrets.
    threshold
        Shares that rebuild a secret: 1 <= threshold <= len(points).
    points
        Distinct evaluation points, 1 .. 2^31 - 2.
    entropy
        Returns that many uniform bytes; the operating system's generator but in tests.

    Returns
    -------
    ndarray of little-endian uint32, shape (len(points), len(secrets), LIMBS)
    """
    x = np.asarray(points, dtype=np.int64)
    if not 1 <= threshold <= min(len(x), _MOST_TERMS):
        raise ValueError(f"threshold {threshold} is not within 1 .. {len(x)} holders")
    if len(np.unique(x)) != len(x) or x.min() < 1 or x.max() >= PRIME:
        raise ValueError(f"evaluation points must differ and lie within 1 .. {PRIME - 1}")
    constant = _to_limbs(secrets)
    coefficients = _uniform((threshold - 1) * constant.size, entropy)
    rows = coefficients.reshape(threshold - 1, constant.size)
    polynomials = np.concatenate([constant.reshape(1, -1), rows])
    values = _product(_powers(x, threshold), polynomials)
    return values.astype("<u4").reshape(len(x), len(secrets), LIMBS)


def combine(points: Points, shares: Shares) -> list[bytes]:
    """Rebuild secrets that share one set of points.

    Parameters
    ----------
    points
        The t evaluation points, distinct.
    shares
        Shape (t, count, LIMBS).

    Raises
    ------
    SecureSumError
        If points repeat, a share is malformed, or the result cannot be a 32-byte secret (which
        happens, but with probability 2^-23, when shares do not belong together or are too few).
    """
    values = _elements(shares)
    if len(values) != len(points):
        raise SecureSumError("shares do not match the points that they are for")
    if np.any(values >= PRIME):
        raise SecureSumError("a share of a secret is not in the field")
    total = _product(weights(points)[None, :], values.reshape(len(values), -1))
    secrets = _from_limbs(total.reshape(-1, LIMBS))
    whole = [secret for secret in secrets if secret is not None]
    if len(whole) < len(secrets):
        raise SecureSumError("shares of a secret do not belong together")
    return whole


def combine_each(points: Elements, shares: Shares) -> list[bytes | None]:
    """Rebuild secrets that each have their own set of points.

    Parameters
    ----------
    points
        Shape (count, t): the evaluation points of each secret, distinct within a row.
    shares
        Shape (count, t, LIMBS).

    Returns
    -------
    list of bytes or None
        None for a secret of which a share is not in the field, or whose shares do not belong
        together (interpolate to no 32-byte secret): one dealer spoils its own secret only.

    Raises
    ------
    SecureSumError
        If points of one secret repeat, or the shapes are not these.
    """
    points = np.asarray(points, dtype=np.int64)
    if points.ndim != 2 or points.shape != shares.shape[:2]:
        raise SecureSumError("shares do not match the points that they are for")
    secrets: list[bytes | None] = []
    step = max(1, _BATCH // max(1, points.shape[1] * LIMBS))
    for start in range(0, len(points), step):
        values = _elements(shares[start : start + step])
        sets, which = np.unique(points[start : start + step], axis=0, return_inverse=True)
        own = weights(sets)[which.reshape(-1)]  # once for all secrets of one set of holders
        total = _product(own[:, None, :], values % PRIME)
        limbs = total[:, 0, :]
        limbs[np.any(values >= PRIME, axis=(1, 2))] = PRIME  # no secret has such a limb
        secrets += _from_limbs(limbs)
    return secrets


def well_formed(share: bytes) -> bool:
    """Whether a share has the right length and lies in the field."""
    return len(share) == SHARE_BYTES and int(np.frombuffer(share, "<u4").max()) < PRIME


def weights(points: Points) -> Elements:
    """Return Lagrange's weights at zero: ``f(0) = sum_i weight_i f(x_i)`` modulo the prime.

    Parameters
    ----------
    points
        Evaluation points, shape (t,), or (batch, t) for a set in each row.

    Returns
    -------
    ndarray of int64 of the same shape

    Raises
    ------
    SecureSumError
        If points of one set repeat, or lie outside 1 .. 2^31 - 2.
    """
    x = np.asarray(points, dtype=np.int64)
    if x.shape[-1] < 1 or x.shape[-1] > _MOST_TERMS or np.any((x < 1) | (x >= PRIME)):
        raise SecureSumError("shares of a secret must come from holders at points of the field")
    ordered = np.sort(x, axis=-1)
    if np.any(ordered[..., 1:] == ordered[..., :-1]):
        raise SecureSumError("shares of a secret must come from different holders")
    # weight_i = prod_j x_j / (x_i prod_{j != i} (x_j - x_i))
    numerator = np.ones((*x.shape[:-1], 1), dtype=np.int64)
    denominator = x
    for j in range(x.shape[-1]):
        other = x[..., j : j + 1]
        numerator = numerator * other % PRIME
        difference = other - x
        difference[..., j] = 1
        denominator = denominator * difference % PRIME  # within 62 bits, and % gives 0 .. prime - 1
    return numerator * _inverse(denominator) % PRIME


def _inverse(elements: Elements) -> Elements:
    """Return inverses by Fermat's little theorem: powers to the prime - 2, bit by bit."""
    result = elements
    for bit in bin(PRIME - 2)[3:]:
        result = result * result % PRIME
        if bit == "1":
            result = result * elements % PRIME
    return result


def _powers(x: Elements, count: int) -> Elements:
    """Return x^0 .. x^(count - 1), shape (len(x), count), doubling what is known."""
    powers = np.ones((len(x), count), dtype=np.int64)
    known, step = 1, x[:, None]  # step is x^known
    while known < count:
        powers[:, known : 2 * known] = powers[:, : count - known][:, :known] * step % PRIME
        known, step = 2 * known, step * step % PRIME
    return powers


def _product(left: Elements, right: Elements) -> Elements:
    """Return the matrix product modulo the prime, of at most 2^16 terms a sum.

    The left factor goes in halves of 15 and 16 bits, so that sums stay below 2^63.
    """
    high = (left >> 16) @ right % PRIME
    product: Elements = ((high << 16) + (left & 0xFFFF) @ right) % PRIME
    return product


def _uniform(count: int, entropy: Entropy) -> Elements:
    """Draw uniform field elements: 31 bits each, the one value outside the field redrawn."""
    out = np.zeros(0, dtype=np.int64)
    while len(out) < count:
        drawn = np.frombuffer(entropy(4 * (count - len(out))), dtype="<u4") >> np.uint32(1)
        out = np.concatenate([out, drawn[drawn < PRIME].astype(np.int64)])
    return out


def _elements(shares: Shares) -> Elements:
    if shares.ndim != 3 or shares.shape[-1] != LIMBS:
        raise SecureSumError(f"a share of a secret has {LIMBS} limbs of 32 bits")
    return shares.astype(np.int64)


def _to_limbs(secrets: Sequence[bytes]) -> Elements:
    """Cut secrets into limbs, shape (count, LIMBS): limb i is bits 30 i .. 30 i + 29."""
    for secret in secrets:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a secret is {SECRET_BYTES} bytes long, not {len(secret)}")
    words = np.zeros((len(secrets), LIMBS + 1), dtype=np.int64)  # of 32 bits, zeros around them
    words[:, 1:-1] = np.frombuffer(b"".join(secrets), "<u4").reshape(len(secrets), LIMBS - 1)
    i = np.arange(LIMBS)
    limbs: Elements = words[:, :-1] >> (32 - 2 * i) | words[:, 1:] << (2 * i)
    return limbs & ((1 << LIMB_BITS) - 1)


def _from_limbs(limbs: Elements) -> list[bytes | None]:
    """Undo :func:`_to_limbs`; None where limbs (below the prime) are not those of a secret."""
    possible = (limbs >> LIMB_BITS == 0).all(axis=1)
    possible &= limbs[:, -1] >> (8 * SECRET_BYTES - LIMB_BITS * (LIMBS - 1)) == 0
    j = np.arange(LIMBS - 1)
    words = limbs[:, :-1] >> (2 * j) | limbs[:, 1:] << (LIMB_BITS - 2 * j)
    data = (words & 0xFFFFFFFF).astype("<u4")
    return [data[k].tobytes() if possible[k] else None for k in range(len(limbs))]
