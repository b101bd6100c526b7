"""What releases cost: Rényi differential privacy on fixed orders, and its epsilon at a delta.

A mechanism's *curve* bounds the Rényi divergence between its outputs with and without one
contribution, at each of `ORDERS`. Curves of several releases about the same contribution add up.
"""

from __future__ import annotations

from fgcif_flwr.privacy.accounting.bounds import discrete_gaussian_sum, skellam
from fgcif_flwr.privacy.accounting.calibration import calibrate
from fgcif_flwr.privacy.accounting.conversion import delta_of, epsilon_of
from fgcif_flwr.privacy.accounting.curves import Curve, checked_curve, compose, times, zero_curve
from fgcif_flwr.privacy.accounting.orders import ORDERS
from fgcif_flwr.privacy.accounting.subsampling import poisson_sampled

__all__ = [
    "ORDERS",
    "Curve",
    "calibrate",
    "checked_curve",
    "compose",
    "delta_of",
    "discrete_gaussian_sum",
    "epsilon_of",
    "poisson_sampled",
    "skellam",
    "times",
    "zero_curve",
]
