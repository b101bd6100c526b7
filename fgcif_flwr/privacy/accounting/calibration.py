"""How much noise an epsilon and a delta need."""

from __future__ import annotations

from collections.abc import Callable

from fgcif_flwr.errors import PrivacyError
from fgcif_flwr.privacy.accounting.conversion import check_delta, check_epsilon, epsilon_of
from fgcif_flwr.privacy.accounting.curves import Curve

LEAST_DECADE, END_DECADE = -3, 7
"""Multipliers from 0.001 to 9 999 000 are looked at."""

_PER_DECADE = 9000  # 1.000, 1.001, .., 9.999
_LAST = (END_DECADE - LEAST_DECADE) * _PER_DECADE - 1


def calibrate(curve_of: Callable[[float], Curve], epsilon: float, delta: float) -> float:
    """Return the least noise multiplier of four significant digits that an epsilon needs.

    Parameters
    ----------
    curve_of : Callable
        Gives everything's curve at a noise multiplier; must not rise with it. (If it does, the
        multiplier that is returned holds epsilon all the same, and need not be the least.)
    epsilon : float
        Greatest epsilon; finite, > 0.
    delta : float
        At which it is to hold, in (0, 1).

    Returns
    -------
    float
        Multiplier z with ``epsilon_of(curve_of(z), delta) <= epsilon``.

    Raises
    ------
    PrivacyError
        If epsilon or delta is not in its range, or no multiplier up to 9 999 000 is enough.
    """
    check_epsilon(epsilon)
    check_delta(delta)

    def enough(place: int) -> bool:
        return epsilon_of(curve_of(_multiplier(place)), delta) <= epsilon

    if not enough(_LAST):
        raise PrivacyError(
            f"no noise multiplier up to {_multiplier(_LAST):.0f} gives epsilon {epsilon!r} at "
            f"delta {delta!r}; allow a larger epsilon or delta, or release less often"
        )
    below, place = -1, _LAST
    while place - below > 1:
        middle = (below + place) // 2
        if enough(middle):
            place = middle
        else:
            below = middle
    return _multiplier(place)


def _multiplier(place: int) -> float:
    """Return a number of four significant digits, by its place in ascending order."""
    decade, digits = divmod(place, _PER_DECADE)
    return float(f"{digits + 1000}e{decade + LEAST_DECADE - 3}")
