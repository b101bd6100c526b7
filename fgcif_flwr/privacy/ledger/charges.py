"""Charges, and what many of them come to for each customer.

A customer's place u in [0, 1) is a keyed hash of the customer's id. A charge concerns the customers
of a stretch of places; what the one at u was charged is the sum over the stretches that hold u.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import BudgetExhaustedError
from fgcif_flwr.privacy.accounting import ORDERS, Curve, checked_curve, epsilon_of, zero_curve
from fgcif_flwr.secagg.transcript import digest

Stretch = tuple[float, float]
UNITS = ("customer", "enterprise")
_EVERYBODY: Stretch = (0.0, 1.0)
_LITTLE = np.dtype("<f8")
_HEADER = struct.Struct("<QB3d")  # slot, unit, delta, lower, upper
_CURVE_BYTES = len(ORDERS) * _LITTLE.itemsize
_CHARGE_BYTES = _HEADER.size + _CURVE_BYTES
ORDERS_DIGEST = digest("ledger/orders", *ORDERS)
"""Names the orders that curves are stored on (32 bytes)."""


@dataclass(frozen=True)
class Charge:
    """What one release costs the customers of one stretch.

    Attributes
    ----------
    run, task : str
        Not empty.
    slot : int
        From 0 to 2⁶³ - 1.
    unit : "customer" or "enterprise"
        Whose contribution is protected. A charge for the enterprise as a whole is a charge for
        each of its customers, whatever the stretch: its guarantee holds for all that it holds.
    curve : tuple of float
        Of length len(ORDERS), each at least 0, inf allowed; any array is taken.
    delta : float
        Probability, in [0, 1), of what the curve does not cover.
    lower, upper : float
        The stretch [lower, upper), 0 <= lower < upper <= 1.

    Raises
    ------
    ValueError
        For other values; PrivacyError for what is no curve.
    """

    run: str
    task: str
    slot: int
    unit: str
    curve: tuple[float, ...]
    delta: float
    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        if not (self.run and self.task):
            raise ValueError("run and task of a charge are not empty")
        if not 0 <= self.slot < 1 << 63:
            raise ValueError(f"slot is {self.slot}; it is from 0 to 2⁶³ - 1")
        if self.unit not in UNITS:
            raise ValueError(f"unit is {self.unit!r}; it is one of {', '.join(UNITS)}")
        if not 0 <= self.delta < 1:
            raise ValueError(f"delta is {self.delta!r}; it is at least 0 and below 1")
        if not 0 <= self.lower < self.upper <= 1:
            raise ValueError(
                f"a stretch from {self.lower!r} to {self.upper!r} is none; it is 0 <= lower < "
                "upper <= 1"
            )
        # One spelling of each value, so that equal charges have equal bytes: no ints, no -0.0.
        for name in ("delta", "lower", "upper"):
            object.__setattr__(self, name, float(getattr(self, name)) + 0.0)
        object.__setattr__(self, "curve", tuple((checked_curve(self.curve) + 0.0).tolist()))

    @property
    def stretch(self) -> Stretch:
        """Whom it is charged to."""
        return _EVERYBODY if self.unit == "enterprise" else (self.lower, self.upper)


@dataclass(frozen=True)
class Total:
    """Sum of charges: curve (len(ORDERS),), tail probability, and how many they are.

    Every addition is rounded up, so that no number of charges adds up to too little.
    """

    curve: Curve
    tail: float = 0.0
    charges: int = 0

    def plus(self, curve: Curve, tail: float, charges: int = 1) -> Total:
        """Return this sum with some charges more."""
        both = self.tail + tail
        if self.tail > 0 and tail > 0:
            both = math.nextafter(both, math.inf)
        return Total(_added(self.curve, curve), both, self.charges + charges)

    def epsilon(self, delta: float) -> float:
        """Return the epsilon at a delta; inf where the tails take up all of it."""
        left = delta - self.tail
        return epsilon_of(self.curve, left) if left > 0 else math.inf


def _added(one: Curve, other: Curve) -> Curve:
    with np.errstate(over="ignore"):  # what is too large for a float is infinite
        total = one + other
    inexact = (one > 0) & (other > 0)
    return np.nextafter(total, np.inf, out=total, where=inexact)


Totals = Mapping[Stretch, Total]


def added(totals: Totals, charges: Iterable[Charge | StoredCharge]) -> dict[Stretch, Total]:
    """Return the totals with some charges more."""
    result = dict(totals)
    for one in charges:
        total = result.get(one.stretch) or Total(zero_curve())
        result[one.stretch] = total.plus(np.asarray(one.curve), one.delta)
    return result


def by_place(totals: Totals) -> list[tuple[Stretch, Total]]:
    """Return what the customers between two neighbouring ends of stretches were charged.

    Ascending; where nothing was charged there is no item.
    """
    ends = sorted({end for stretch in totals for end in stretch})
    found = []
    for lower, upper in pairwise(ends):
        total = Total(zero_curve())
        for (begin, end), part in sorted(totals.items(), key=lambda item: item[0]):
            if begin <= lower and upper <= end:
                total = total.plus(part.curve, part.tail, part.charges)
        if total.charges:
            found.append(((lower, upper), total))
    return found


def greatest_epsilon(totals: Totals, delta: float) -> float:
    """Return the epsilon at a delta of the customers who were charged most; 0 without charges."""
    return max((total.epsilon(delta) for _, total in by_place(totals)), default=0.0)


class Asked:
    """Charges that are asked for, and the limit of all charges together.

    Made before a ledger is locked: it loads the accountant, which takes a second once.

    Raises
    ------
    ValueError
        Unless ``epsilon_total`` is finite and at least 0, and ``delta_total`` in (0, 1).
    """

    def __init__(self, charges: Iterable[Charge], epsilon_total: float, delta_total: float) -> None:
        if not (0 <= epsilon_total < math.inf and 0 < delta_total < 1):
            raise ValueError("a total limit is a finite epsilon, at least 0, and a delta in (0, 1)")
        self._charges = tuple(charges)
        self._limit, self._delta = epsilon_total, delta_total
        self._alone = greatest_epsilon(added({}, self._charges), delta_total)

    def on_top_of(self, before: Totals) -> dict[Stretch, Total]:
        """Return the totals with the charges; BudgetExhaustedError if they pass the limit."""
        after = added(before, self._charges)
        reached = greatest_epsilon(after, self._delta)
        if not reached <= self._limit:
            spent = greatest_epsilon(before, self._delta)
            raise BudgetExhaustedError(
                f"the privacy budget does not cover this: epsilon {spent:.4g} is spent, this alone "
                f"is {self._alone:.4g}, with it {reached:.4g} would be spent, and the total limit "
                f"is {self._limit:.4g}, all at delta {self._delta:.3g}; release nothing more, or "
                "raise the limit knowingly"
            )
        return after


def encode_charges(charges: Iterable[Charge]) -> bytes:
    """Return the bytes of charges of one release; equal charges give equal bytes."""
    return b"".join(
        _HEADER.pack(one.slot, UNITS.index(one.unit), one.delta, one.lower, one.upper)
        + encode_curve(one.curve)
        for one in charges
    )


@dataclass(frozen=True)
class StoredCharge:
    """A charge as it is read from a ledger: what is in its bytes, not looked through again."""

    slot: int
    unit: str
    delta: float
    lower: float
    upper: float
    curve: Curve

    @property
    def stretch(self) -> Stretch:
        return _EVERYBODY if self.unit == "enterprise" else (self.lower, self.upper)


def decode_charges(data: bytes) -> Iterator[StoredCharge]:
    """Yield the charges of one release; struct.error or IndexError if these are no such bytes."""
    for begin in range(0, len(data), _CHARGE_BYTES):
        slot, unit, delta, lower, upper = _HEADER.unpack_from(data, begin)
        curve = decode_curve(data[begin + _HEADER.size : begin + _CHARGE_BYTES])
        yield StoredCharge(slot, UNITS[unit], delta, lower, upper, curve)


def decode_curve(data: bytes) -> Curve:
    """Return a curve from its bytes; struct.error if they are too few or too many."""
    if len(data) != _CURVE_BYTES:
        raise struct.error("these bytes are no curve")
    return np.frombuffer(data, _LITTLE).astype(np.float64, copy=False)


def encode_curve(curve: npt.ArrayLike) -> bytes:
    """Return a curve as 64-bit floats, least byte first, in the order of ORDERS."""
    return np.asarray(curve, _LITTLE).tobytes()
