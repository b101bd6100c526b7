"""The orders that every curve is given at."""

from __future__ import annotations

ORDERS: tuple[int, ...] = (
    *range(2, 129),
    *(octave + octave // 8 * step for octave in (128, 256, 512, 1024) for step in range(1, 9)),
)
"""Every integer from 2 to 128, then eight to the octave up to 2048; ascending.

Integers, since the bound for Skellam noise is proven for these alone. Fixed for all time: ledgers
hold curves at these orders.

For a Gaussian, epsilon from .02 to 10 and delta from 1e-5 to 1e-9, leaving integers out raises
epsilon by at most .15 %; where the best order is within 128 nothing is lost. That there are
integers only asks for at most .3 % more noise up to epsilon 6, and 1.5 % up to 10.
"""
