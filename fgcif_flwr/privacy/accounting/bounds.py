"""Rényi divergences of integer noise that is added to integer vectors."""

from __future__ import annotations

import math

import numpy as np

from fgcif_flwr.errors import PrivacyError
from fgcif_flwr.privacy.accounting.curves import Curve, zero_curve
from fgcif_flwr.privacy.accounting.orders import ORDERS

LEAST_VARIANCE_OF_A_TERM = 0.25
"""The bound for sums of discrete Gaussians is proven from here."""

_ORDERS = np.array(ORDERS, dtype=np.float64)


def skellam(l2: float, l1: float, variance: float) -> Curve:
    """Return the curve of a sum of integer vectors plus Skellam noise.

    Agarwal, Kairouz and Liu, "The Skellam Mechanism for Differentially Private Federated
    Learning", 2021: for integer orders a > 1 and variance m,
    ``a l2² / 2m + min(((2a - 1) l2² + 6 l1) / 4m², 3 l1 / 2m)``.

    Parameters
    ----------
    l2, l1 : float
        Greatest L2 and L1 norm of one contribution, an integer vector; 0 <= l2 <= l1.
    variance : float
        Of the whole noise, in each coordinate; > 0. Shares of several parties add up to it.

    Raises
    ------
    PrivacyError
        If a value is not finite or not in its range.
    """
    _check_sensitivities(l2, l1)
    _check_variance(variance)
    with np.errstate(over="ignore"):
        # Ratios first: the squares alone of a tiny variance are zero, and 0 / 0 no number.
        small, absolute = l2 / variance, l1 / variance
        gaussian = _ORDERS / 2 * small * l2
        smooth = (2 * _ORDERS - 1) / 4 * np.square(small) + 1.5 * absolute / variance
        curve: Curve = gaussian + np.minimum(smooth, 1.5 * absolute)
    return curve


def discrete_gaussian_sum(
    l2: float, l1: float | None, dimensions: int, variance: float, terms: int
) -> Curve:
    """Return the curve of a sum of integer vectors plus several discrete Gaussians.

    Kairouz, Liu and Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning
    with Secure Aggregation", 2021, proposition 14: the divergence is at most the least of
    ``a s² / 2 + t d``, ``a / 2 (s² + 2 r t + t² d)`` and ``a / 2 (s + t sqrt(d))²``, where s and r
    are l2 and l1 over the standard deviation, d the dimensions, and t is ten times the sum over
    k = 1 .. terms - 1 of ``exp(-2 pi² v k / (k + 1))`` with v the variance of one term: a sum of
    discrete Gaussians is none, but close to one. With one term t is 0 and the curve a Gaussian's.

    Parameters
    ----------
    l2 : float
        Greatest L2 norm of one contribution, an integer vector; >= 0.
    l1 : float or None
        Greatest L1 norm, >= l2; None: sqrt(dimensions) times l2.
    dimensions : int
        Coordinates that have noise; >= 1.
    variance : float
        Sum of the terms' variance parameters, in each coordinate; > 0.
    terms : int
        How many discrete Gaussians, of equal variance, each coordinate's noise is the sum of; >= 1.

    Returns
    -------
    Curve
        Infinite if there are several terms of a variance below 1/4, which the bound is not proven
        for.

    Raises
    ------
    PrivacyError
        If a value is not finite or not in its range.
    """
    if dimensions < 1 or terms < 1:
        raise PrivacyError(
            f"noise in {dimensions} dimensions as a sum of {terms} terms was asked for; "
            "both must be at least 1"
        )
    absolute = math.sqrt(dimensions) * l2 if l1 is None else l1
    _check_sensitivities(l2, absolute)
    _check_variance(variance)
    one = variance / terms
    if l2 == 0:
        return zero_curve()
    if terms > 1 and one < LEAST_VARIANCE_OF_A_TERM:
        return np.full(len(ORDERS), np.inf)
    k = np.arange(1, terms, dtype=np.float64)
    gap = 10 * float(np.sum(np.exp(-2 * math.pi**2 * one * k / (k + 1))))
    with np.errstate(over="ignore"):
        deviation = math.sqrt(variance)
        s, r = np.float64(l2) / deviation, np.float64(absolute) / deviation
        once = _ORDERS / 2 * s**2 + gap * dimensions
        by_coordinate = _ORDERS / 2 * (s**2 + 2 * r * gap + gap**2 * dimensions)
        whole = _ORDERS / 2 * (s + gap * math.sqrt(dimensions)) ** 2
    return np.minimum(once, np.minimum(by_coordinate, whole))


def _check_sensitivities(l2: float, l1: float) -> None:
    if not (math.isfinite(l1) and 0 <= l2 <= l1):
        raise PrivacyError(
            f"a contribution cannot have the L2 norm {l2!r} and the L1 norm {l1!r}; "
            "both must be finite, and 0 <= L2 <= L1"
        )


def _check_variance(variance: float) -> None:
    if not (math.isfinite(variance) and variance > 0):
        raise PrivacyError(f"the variance of noise is {variance!r}; it must be finite and above 0")
