"""How likely a drawn k-regular graph fails, and the smallest one that fails rarely enough.

The graph is a ring of all ``n`` holders in an order drawn at random, each joined to the ``k / 2``
on either side (:mod:`fgcif_flwr.secagg.graph`). ``c`` of them collude with the coordinator, at most
``d`` are absent or lost, and ``t`` of the ``k + 1`` shares of a neighbourhood open a secret. Three
things can go wrong with a draw; each is bounded over all ``n`` neighbourhoods (union bound):

*Cut, by a coordinator that lies.* It chooses who is dropped after it has seen the graph, but all
honest enterprises give shares for one list only, the same for all (``secagg.consistency``), in
which every survivor has at least ``t`` alive in its neighbourhood, itself included. Honest
survivors at a distance of up to ``k / 2`` on the ring share a mask. So the ring breaks only where
``k / 2`` consecutive holders are dropped or collude, and the survivor just before such a break has
alive at most itself, the ``k / 2`` on its other side, and the colluders ``x`` among those in the
break: ``t <= 1 + k / 2 + x``. A break therefore needs ``x >= t - 1 - k / 2`` colluders in one half
of a neighbourhood::

    n * P[Hypergeometric(n - 1, c, k / 2) >= t - 1 - k / 2] <= 2^-40

Without a break all honest survivors are one component, and any sum that is opened covers all of
them. The condition also gives ``2t > (k + 1) + colluders`` for every neighbourhood, so a lying
coordinator gets no two disjoint sets of honest holders to open both secrets of one enterprise.

*Opened or cut, by a coordinator that follows the protocol.* Colluders open a neighbour's secrets if
``t`` of them are in one neighbourhood; those lost are lost by chance, so a break has probability at
most ``n ((c + d) / n)^(k / 2)``. The sum of the two is bounded by 2^-40.

*Not opened.* More than ``k - t`` of somebody's neighbours are lost, so that its secret cannot be
rebuilt and the slot fails (and is tried again)::

    n * P[Hypergeometric(n - 1, d, k) > k - t] <= 2^-20

The first two hold also where up to ``d`` holders were absent before the draw: the tails are taken
over ``n - d`` holders. All probabilities are exact fractions, so that every party, in whatever
language it is written, finds the same ``k`` and ``t``.

Sources: Bell, Bonawitz, Gascón, Lepoint, Raykova, *Secure Single-Server Aggregation with
(Poly)Logarithmic Overhead* (CCS 2020), sections 3 and 4, whose condition against a coordinator that
lies, ``2t > k + colluders`` alone, is :func:`least_threshold_ignoring_cuts`; it leaves cuts to a
graph that the coordinator cannot see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Literal

SECURITY = Fraction(1, 2**40)
"""Most that a draw of the graph may fail to keep a vector in a sum."""
CORRECTNESS = Fraction(1, 2**20)
"""Most that a slot in which the tolerated number is lost may fail to open."""
LARGEST_SEARCHED = 1024
"""Most neighbours that are searched for; where more are needed, the graph is complete."""

Coordinator = Literal["lying coordinator", "semi-honest coordinator"]
Rule = Callable[[int, int, int, int], int | None]


def log2_tail(population: int, marked: int, drawn: int, at_least: int) -> float:
    """Return log2 P[X >= at_least], X hypergeometric; -inf where that cannot be.

    Parameters
    ----------
    population : int
        Size of the whole.
    marked : int
        How many of the whole are marked.
    drawn : int
        How many are drawn without replacement.
    at_least : int
        How many marked ones among those drawn.

    Raises
    ------
    ValueError
        If more are marked or drawn than there are.
    """
    tail = upper_tail(population, marked, drawn, at_least)
    return math.log2(tail.numerator) - math.log2(tail.denominator) if tail else -math.inf


@lru_cache(maxsize=1024)
def upper_tail(population: int, marked: int, drawn: int, at_least: int) -> Fraction:
    """Return P[X >= at_least] exactly; parameters and errors as :func:`log2_tail`."""
    _check(population, marked, drawn)
    ways = 0
    for count, term in _terms(population, marked, drawn):
        if count < at_least:
            break
        ways += term
    return Fraction(ways, math.comb(population, drawn))


@lru_cache(maxsize=8192)
def smallest_rare(population: int, marked: int, drawn: int, times: int, bound: Fraction) -> int:
    """Return the smallest ``a`` for which ``times * P[X >= a] <= bound``, X hypergeometric.

    Raises
    ------
    ValueError
        If more are marked or drawn than there are, or the bound is not in [0, 1).
    """
    _check(population, marked, drawn)
    if not 0 <= bound < 1 <= times:
        raise ValueError("a bound of a probability wants to be in [0, 1), over at least one draw")
    allowed = math.comb(population, drawn) * bound.numerator
    ways = 0
    for count, term in _terms(population, marked, drawn):
        ways += term
        if times * ways * bound.denominator > allowed:
            return count + 1
    raise AssertionError("all ways together are more than a bound below 1 allows")


def least_threshold_lying(n: int, d: int, c: int, k: int) -> int:
    """Return the smallest t with which a coordinator that lies cuts nobody off."""
    return 1 + k // 2 + smallest_rare(n - d - 1, c, k // 2, n, SECURITY)


def least_threshold_semi_honest(n: int, d: int, c: int, k: int) -> int | None:
    """Return the smallest t against one that follows the protocol; None if k is too small."""
    rest = SECURITY - _cut_by_chance(n, d, c, k)
    return smallest_rare(n - d - 1, c, k, n, rest) if rest > 0 else None


def least_threshold_ignoring_cuts(n: int, d: int, c: int, k: int) -> int:
    """Return the smallest t with ``2t > k + colluders`` in all neighbourhoods.

    For comparison only: whoever sees the graph and chooses who is dropped can still cut it.
    """
    return (k + smallest_rare(n - d - 1, c, k, n, SECURITY) + 1) // 2


def largest_threshold(n: int, d: int, k: int) -> int:
    """Return the largest t with which a slot opens although d are lost."""
    return k + 1 - smallest_rare(n - 1, d, k, n, CORRECTNESS)


RULES: dict[Coordinator, Rule] = {
    "lying coordinator": least_threshold_lying,
    "semi-honest coordinator": least_threshold_semi_honest,
}


def thresholds(n: int, d: int, c: int, k: int, rule: Rule) -> range:
    """Return the thresholds that k neighbours allow; empty where none does."""
    least = rule(n, d, c, k)
    return range(0) if least is None else range(least, largest_threshold(n, d, k) + 1)


@lru_cache(maxsize=256)
def smallest_neighbourhood(
    n: int, d: int, c: int, rule: Rule, threshold: int | None = None
) -> tuple[int, int] | None:
    """Return the smallest even k that will do, and its least t, or the one asked for.

    None where no k below a complete graph (also of ``n - d`` holders) and up to
    :data:`LARGEST_SEARCHED` will.
    """
    for k in range(2, min(n - d - 2, LARGEST_SEARCHED) + 1, 2):
        allowed = thresholds(n, d, c, k, rule)
        if allowed and (threshold is None or threshold in allowed):
            return k, allowed.start if threshold is None else threshold
    return None


def log2_insecure(n: int, d: int, c: int, k: int, t: int, coordinator: Coordinator) -> float:
    """Return log2 of the bound of a draw's failing to keep every vector in a sum."""
    if coordinator == "lying coordinator":
        failing = n * upper_tail(n - d - 1, c, k // 2, t - 1 - k // 2)
    else:
        failing = n * upper_tail(n - d - 1, c, k, t) + _cut_by_chance(n, d, c, k)
    return math.log2(failing.numerator) - math.log2(failing.denominator) if failing else -math.inf


def log2_unopened(n: int, d: int, k: int, t: int) -> float:
    """Return log2 of the bound of a slot's failing to open where d are lost."""
    return math.log2(n) + log2_tail(n - 1, d, k, k - t + 1)


def _cut_by_chance(n: int, d: int, c: int, k: int) -> Fraction:
    return n * Fraction(c + d, n) ** (k // 2)


def _check(population: int, marked: int, drawn: int) -> None:
    if not (0 <= marked <= population and 0 <= drawn <= population):
        raise ValueError(f"of {population}, {marked} cannot be marked and {drawn} drawn")


def _terms(population: int, marked: int, drawn: int) -> Iterator[tuple[int, int]]:
    """Yield (count, ways to draw it) from the largest count down to the smallest."""
    unmarked = population - marked
    count = min(marked, drawn)
    ways = math.comb(marked, count) * math.comb(unmarked, drawn - count)
    while ways:
        yield count, ways
        # The ratio of neighbouring terms; the division leaves no rest.
        ways = ways * count * (unmarked - drawn + count)
        ways //= (marked - count + 1) * (drawn - count + 1)
        count -= 1
