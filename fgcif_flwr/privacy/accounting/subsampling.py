"""What it saves that each contribution takes part by chance."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import PrivacyError
from fgcif_flwr.privacy.accounting.curves import Curve, checked_curve
from fgcif_flwr.privacy.accounting.orders import ORDERS

_ORDERS = np.array(ORDERS, dtype=np.float64)
_INTEGERS = np.arange(2, ORDERS[-1] + 1, dtype=np.float64)
_ROUNDING = 1 + 1e-9
"""More than the relative error that sums of logarithms of up to 2048 factors leave."""


def poisson_sampled(curve: npt.ArrayLike, rate: float) -> Curve:
    """Return the curve of a mechanism that each contribution enters independently by chance.

    Zhu and Wang, "Poisson Subsampled Rényi Differential Privacy", 2019, the upper bound for any
    mechanism whose curve holds in both directions: at order a and rate q the divergence is at most
    ``log(A) / (a - 1)`` with ``A = (1 - q)^(a - 1) (1 + (a - 1) q) + sum over l = 2 .. a of
    c(l) binomial(a, l) (1 - q)^(a - l) q^l exp((l - 1) curve(l))``, c(2) = 1 and c(l) = 3 above.
    (The 3 could go for noise whose odd moments are shown to be positive.)

    The sum needs the curve at every integer. Between two listed orders ``(l - 1) curve(l)`` is
    read from the straight line between them: the logarithm of a moment is convex in its order, so
    the line is never below the true value.

    Parameters
    ----------
    curve : Curve
        Of the mechanism that every contribution enters.
    rate : float
        Probability that one enters, in (0, 1]. The rate itself is public; who entered is not.

    Returns
    -------
    Curve
        Never above the given one.

    Raises
    ------
    PrivacyError
        If the rate is not in (0, 1], or where `checked_curve` does.
    """
    whole = checked_curve(curve)
    if not 0 < rate <= 1:
        raise PrivacyError(f"the sampling rate is {rate!r}; it must be above 0 and at most 1")
    if rate == 1:
        return whole.copy()
    exponents = _at_every_integer(whole)
    # The first term of A is one less the binomial weights of l >= 2, so A - 1 is the sum of
    # weight * (c exp(.) - 1): positive terms, which stay exact however close A comes to 1.
    with np.errstate(divide="ignore"):  # the logarithm of an exact zero
        terms = exponents + np.log(3 - np.exp(-exponents))
        terms[0] = exponents[0] + np.log(-np.expm1(-exponents[0]))
    weights = (
        _log_binomials()
        + math.log(rate) * _INTEGERS
        + math.log1p(-rate) * (_ORDERS[:, None] - _INTEGERS)
    )
    with np.errstate(invalid="ignore"):  # -inf + inf, where l is above the order
        logs = np.where(_ORDERS[:, None] < _INTEGERS, -np.inf, weights + terms)
    excess = np.logaddexp.reduce(logs, axis=1)
    sampled: Curve = np.logaddexp(0.0, excess) / (_ORDERS - 1) * _ROUNDING
    least: Curve = np.minimum(sampled, whole)
    return least


def _at_every_integer(curve: Curve) -> npt.NDArray[np.float64]:
    """Return bounds of (l - 1) curve(l) for l = 2 .. the last order."""
    with np.errstate(over="ignore"):  # what is too large for a float is infinite
        moments = (_ORDERS - 1) * curve
    above = np.searchsorted(_ORDERS, _INTEGERS)  # the first listed order that is not below
    below = np.maximum(above - 1, 0)
    share = np.where(
        _ORDERS[above] == _INTEGERS,
        1.0,
        (_INTEGERS - _ORDERS[below]) / np.maximum(_ORDERS[above] - _ORDERS[below], 1.0),
    )
    lower = np.where(share == 1.0, 0.0, moments[below])  # 0 times inf is no number
    at: npt.NDArray[np.float64] = (1 - share) * lower + share * moments[above]
    return at


@cache
def _log_binomials() -> npt.NDArray[np.float64]:
    """Return log binomial(order, l), (orders, integers); -inf where l is above the order."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, ORDERS[-1] + 1)))])
    orders = np.array(ORDERS)[:, None]
    chosen = np.arange(2, ORDERS[-1] + 1)[None, :]
    rest = orders - chosen
    logs: npt.NDArray[np.float64] = (
        factorials[orders] - factorials[chosen] - factorials[np.maximum(rest, 0)]
    )
    logs[rest < 0] = -np.inf
    logs.setflags(write=False)
    return logs
