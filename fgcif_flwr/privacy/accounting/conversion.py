"""From a curve to an epsilon at a delta, or to a delta at an epsilon.

By dp-accounting: Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy",
2020, proposition 12, at the best of the listed orders.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import PrivacyError
from fgcif_flwr.privacy.accounting.curves import checked_curve
from fgcif_flwr.privacy.accounting.orders import ORDERS

_LEAST = 1e-14
"""Added to divergences where dp-accounting takes 1 - exp(-divergence) as a difference."""


def check_epsilon(epsilon: float) -> None:
    """Raise PrivacyError unless an epsilon is finite and above 0."""
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise PrivacyError(f"epsilon is {epsilon!r}; it must be finite and above 0")


def check_delta(delta: float) -> None:
    """Raise PrivacyError unless a delta is in (0, 1)."""
    if not 0 < delta < 1:
        raise PrivacyError(f"delta is {delta!r}; it must be above 0 and below 1")


def epsilon_of(curve: npt.ArrayLike, delta: float) -> float:
    """Return the least epsilon, >= 0, that the curve shows at this delta; inf if it shows none.

    Raises PrivacyError if delta is not in (0, 1), and where `checked_curve` does.
    """
    # Here, since it loads scipy: a process that accounts for nothing starts without.
    from dp_accounting.rdp import compute_epsilon

    values = checked_curve(curve)
    check_delta(delta)
    epsilon, _ = compute_epsilon(ORDERS, values.tolist(), delta)
    return float(epsilon)


def delta_of(curve: npt.ArrayLike, epsilon: float) -> float:
    """Return the least delta, in [0, 1], that the curve shows at this epsilon.

    Raises PrivacyError if epsilon is not finite or not above 0, and where `checked_curve` does.
    """
    from dp_accounting.rdp.rdp_privacy_accountant import compute_delta

    values = checked_curve(curve)
    check_epsilon(epsilon)
    # dp-accounting fails on divergences between 0 and the spacing of floats below 1.
    values = np.where(values > 0, values + _LEAST, 0.0)
    delta, _ = compute_delta(ORDERS, values.tolist(), epsilon)
    return float(delta)
