"""Shamir's secret sharing of 32-byte secrets over the prime field of 2^31 - 1.

A secret is cut into nine limbs of 30 bits, each the constant term of its own polynomial of
degree t - 1 with uniform coefficients; holder i gets the nine values at x = i + 1 (Shamir 1979).
Fewer than t shares are independent of the secret, limb by limb. The arithmetic is vectorised
over receivers and secrets; products of two field elements fit 62 bits.
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
Entropy = Callable[[int], bytes]


def split(
    secrets: Sequence[bytes], threshold: int, holders: int, entropy: Entropy
) -> list[list[bytes]]:
    """Return shares[holder][secret], each SHARE_BYTES long.

    Parameters
    ----------
    secrets
        32-byte secrets.
    threshold, holders
        1 <= threshold <= holders < 2^31 - 1.
    entropy
        Returns that many uniform bytes; the operating system's generator but in tests.
    """
    if not 1 <= threshold <= holders:
        raise ValueError(f"threshold {threshold} is not within 1 .. {holders} holders")
    constant = np.concatenate([_to_limbs(secret) for secret in secrets])
    width = len(constant)
    coefficients = _uniform((threshold - 1) * width, entropy).reshape(threshold - 1, width)
    x = np.arange(1, holders + 1, dtype=np.int64)[:, None]
    values = np.zeros((holders, width), dtype=np.int64)
    for row in coefficients:  # Horner, highest coefficient first
        values = (values + row) * x % PRIME
    values = (values + constant) % PRIME
    packed = values.astype("<u4").reshape(holders, len(secrets), LIMBS)
    return [[packed[i, s].tobytes() for s in range(len(secrets))] for i in range(holders)]


def combine(points: Sequence[int], shares: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Rebuild secrets from shares[k][secret] of the holders at ``points[k]`` (0-based index).

    All secrets share one set of points, so Lagrange's coefficients are computed once.

    Raises
    ------
    SecureSumError
        If points repeat, a share is malformed, or the result cannot be a 32-byte secret (which
        happens when shares do not belong together or are too few).
    """
    if len(set(points)) != len(points) or not points:
        raise SecureSumError("shares of a secret must come from different holders")
    if any(len(share) != SHARE_BYTES for row in shares for share in row):
        raise SecureSumError(f"a share of a secret is not {SHARE_BYTES} bytes long")
    weights = lagrange_at_zero([point + 1 for point in points])
    count = len(shares[0])
    stacked = np.frombuffer(b"".join(b"".join(row) for row in shares), dtype="<u4")
    values = stacked.astype(np.int64).reshape(len(points), count * LIMBS)
    if values.size and int(values.max()) >= PRIME:
        raise SecureSumError("a share of a secret is not in the field")
    total = np.zeros(count * LIMBS, dtype=np.int64)
    for weight, row in zip(weights, values, strict=True):
        total = (total + weight * row) % PRIME
    return [_from_limbs(limbs) for limbs in total.reshape(count, LIMBS)]


def well_formed(share: bytes) -> bool:
    """Whether a share has the right length and lies in the field."""
    return len(share) == SHARE_BYTES and int(np.frombuffer(share, "<u4").max()) < PRIME


def lagrange_at_zero(xs: Sequence[int]) -> list[int]:
    """Return the weights that interpolate a polynomial at zero from its values at ``xs``."""
    weights = []
    for i, x in enumerate(xs):
        numerator = denominator = 1
        for j, other in enumerate(xs):
            if i != j:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - x) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return weights


def _uniform(count: int, entropy: Entropy) -> Elements:
    """Draw uniform field elements: 31 bits each, the one value outside the field redrawn."""
    out = np.zeros(0, dtype=np.int64)
    while len(out) < count:
        drawn = np.frombuffer(entropy(4 * (count - len(out))), dtype="<u4") >> np.uint32(1)
        out = np.concatenate([out, drawn[drawn < PRIME].astype(np.int64)])
    return out


def _to_limbs(secret: bytes) -> Elements:
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret is {SECRET_BYTES} bytes long, not {len(secret)}")
    number = int.from_bytes(secret, "little")
    mask = (1 << LIMB_BITS) - 1
    return np.array([(number >> (LIMB_BITS * i)) & mask for i in range(LIMBS)], dtype=np.int64)


def _from_limbs(limbs: Elements) -> bytes:
    number = 0
    for i, limb in enumerate(limbs.tolist()):
        if limb >> LIMB_BITS:
            raise SecureSumError("shares of a secret do not belong together")
        number |= limb << (LIMB_BITS * i)
    if number >> (8 * SECRET_BYTES):
        raise SecureSumError("shares of a secret do not belong together")
    return number.to_bytes(SECRET_BYTES, "little")
