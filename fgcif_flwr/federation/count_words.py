"""Counts of predictions as whole words, so that their sum loses nothing that matters.

The sums of a numeric head are fractions, but for its histogram. Scaled to the bound of a whole
federation, one word would round them coarser than a good model's squared error; so each is sent as
two words, its whole part and its fraction in steps of 2^-(value_bits - 2). The words are the whole
parts of all entries, then the fractions of those that have one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.encoding import Head
from fgcif_flwr.models.metrics import count_size, fractional_size

Floats = npt.NDArray[np.float64]


def words_of(head: Head) -> int:
    """Return the number of words of a head's counts."""
    return count_size(head) + fractional_size(head)


def to_words(head: Head, counts: Floats, value_bits: int) -> Floats:
    """Return counts (count_size(head),) as whole numbers (words_of(head),)."""
    fractional = fractional_size(head)
    if fractional == 0:
        return counts
    whole = np.floor(counts)
    fractions = (counts - whole)[:fractional]
    return np.concatenate([whole, np.rint(fractions * _steps(value_bits))])


def from_words(head: Head, words: Floats, value_bits: int) -> Floats:
    """Undo :func:`to_words`, also on a sum of words."""
    fractional = fractional_size(head)
    if fractional == 0:
        return words
    counts = np.array(words[: count_size(head)], dtype=np.float64)
    counts[:fractional] += words[count_size(head) :] / _steps(value_bits)
    return counts


def resolution(value_bits: int, enterprises: int) -> float:
    """Return the largest error of a sum over so many enterprises' words."""
    return 0.5 * enterprises / _steps(value_bits)


def _steps(value_bits: int) -> float:
    return float(1 << (value_bits - 2))
