"""The fewest honest enterprises that a lying coordinator can open a sum over.

A lying coordinator chooses a cohort of m members, at least t, among them c colluders, and
tells it to those whose sum it will open; all others it may tell of a larger cohort. To
open a sum over inside - k of the inside = m - c honest members it must learn, for every
one of them, t - c honest shares of its self mask, and for each of the k hidden ones as
many of its round key. An honest enterprise gives one kind of share of each member, and
names as dropped at most d, of those it was told of all but t, and never itself: an opened
one at most ``few`` of the k, a hidden one or one outside at most ``many``. The worst m
and the largest k for which these suffice give h_min.

In the complete graph without the consistency exchange. At the parameters that are chosen by
default it is ``h - floor(h * d / (t - c))`` with h = n - c; with a large d the coordinator does
better than that.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=256)
def fewest_honest(n: int, t: int, d: int, c: int) -> int:
    """Return h_min for n holders, threshold t, d tolerated dropouts and c colluders."""
    least = n
    for members in range(t, n + 1):
        inside, outside = members - c, n - members
        few, many = min(d, members - t), min(d, n - t)
        k = np.arange(inside + 1)
        given = (inside - k) * np.minimum(few, k) + outside * np.minimum(many, k)
        given += k * np.minimum(many, np.maximum(0, k - 1))
        hidden = int(k[given >= (t - c) * k].max())  # not every smaller k is feasible
        least = min(least, max(1, inside - hidden))
    return least
