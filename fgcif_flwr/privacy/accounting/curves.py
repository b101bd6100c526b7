"""Curves of Rényi differential privacy, and their sums."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import PrivacyError
from fgcif_flwr.privacy.accounting.orders import ORDERS

Curve: TypeAlias = npt.NDArray[np.float64]
"""Of shape (len(ORDERS),): the divergence in nats at each order is at most this. Not negative;
inf where nothing is claimed; never NaN."""


def checked_curve(curve: npt.ArrayLike) -> Curve:
    """Return a curve as float64.

    Raises
    ------
    PrivacyError
        If its shape is another, or a value is negative or NaN: such a curve would cost too little
        or make every comparison false.
    """
    values = np.asarray(curve, dtype=np.float64)
    if values.shape != (len(ORDERS),):
        raise PrivacyError(
            f"a privacy curve has {len(ORDERS)} values, one for each order, and this one has the "
            f"shape {values.shape}; compute it with this version's orders"
        )
    if not np.all(values >= 0):
        raise PrivacyError(
            "a privacy curve has a value that is negative or not a number; "
            "every value must be at least 0"
        )
    return values


def zero_curve() -> Curve:
    """Return the curve of a release that tells nothing about anybody."""
    return np.zeros(len(ORDERS))


def compose(*curves: npt.ArrayLike) -> Curve:
    """Return the curve of several releases together, chosen adaptively or not: their sum.

    Raises PrivacyError where `checked_curve` does.
    """
    total = zero_curve()
    with np.errstate(over="ignore"):  # what is too large for a float is infinite
        for curve in curves:
            total += checked_curve(curve)
    return total


def times(curve: npt.ArrayLike, count: int) -> Curve:
    """Return the curve of ``count`` (0 or more) releases that have this curve each.

    Raises PrivacyError for a negative count, and where `checked_curve` does.
    """
    values = checked_curve(curve)
    if count < 0:
        raise PrivacyError(f"the count of releases is {count}; it must be at least 0")
    if count == 0:  # 0 times inf is no number
        return zero_curve()
    with np.errstate(over="ignore"):
        return values * float(count)
