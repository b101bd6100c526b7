"""How a text sounds: VADER's lexicon and rules (Hutto and Gilbert 2014), on whole columns.

For English. Of VADER's rules these are kept: words that negate or strengthen one of the three
words after them, what stands after "but" weighs more, and marks of exclamation. Left out are
emoticons, capital letters, idioms and marks of question. ``docs/features.md`` says how well it
agrees with people, and with the original.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from vaderSentiment.vaderSentiment import (  # type: ignore[import-untyped]
    BOOSTER_DICT,
    N_SCALAR,
    NEGATE,
)

from fgcif_flwr.data.crm.words_of_texts import split_words

Floats = npt.NDArray[np.float64]

_REACH: Final = 3
_FADING: Final = (1.0, 0.95, 0.9)
_BEFORE_BUT, _AFTER_BUT = 0.5, 1.5
_EXCLAMATION, _MOST_EXCLAMATIONS = 0.292, 4
_ALPHA: Final = 15.0


def sentiment_scores(texts: pa.Array) -> Floats:
    """Return the sentiment of each text, float64 (texts,) from -1 to 1; 0 says nothing.

    Parameters
    ----------
    texts
        Strings, none of them null. A text's score depends on that text alone.
    """
    words = split_words(texts)
    lexicon = _lexicon()
    valence = _by_word(words.vocabulary, lexicon)[words.code]
    boost = _by_word(words.vocabulary, BOOSTER_DICT)[words.code]
    negates = np.array([w in _NEGATIONS or "n't" in w for w in words.vocabulary], bool)[words.code]
    positions = np.arange(len(words.code))
    adjusted = valence.copy()
    sign = np.sign(valence)
    for distance in range(1, _REACH + 1):
        before = np.maximum(positions - distance, 0)
        same = (positions >= distance) & (words.text[before] == words.text)
        # A strong word before (itself of the lexicon) neither strengthens nor negates.
        plain = same & (valence != 0) & (valence[before] == 0)
        adjusted += np.where(plain, sign * boost[before] * _FADING[distance - 1], 0.0)
        adjusted = adjusted * np.where(plain & negates[before], float(N_SCALAR), 1.0)
    is_but = np.array([word == "but" for word in words.vocabulary], bool)[words.code]
    weighted = adjusted * _weights_around_but(words.text, is_but, words.texts)
    total = np.bincount(words.text, weighted, minlength=words.texts).astype(np.float64)
    marks = np.asarray(pc.count_substring(texts.cast(pa.large_string()), "!"), dtype=np.float64)
    total += np.sign(total) * np.minimum(marks, _MOST_EXCLAMATIONS) * _EXCLAMATION
    scores: Floats = total / np.sqrt(total**2 + _ALPHA)
    return scores


_NEGATIONS: Final = frozenset(NEGATE)


@cache
def _lexicon() -> dict[str, float]:
    """Mean rating of each word of VADER's lexicon, from -4 to 4."""
    file = resources.files("vaderSentiment") / "vader_lexicon.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if line.strip())
    return {row[0]: float(row[1]) for row in rows}


def _by_word(vocabulary: list[str], values: dict[str, float]) -> Floats:
    return np.array([values.get(word, 0.0) for word in vocabulary], dtype=np.float64)


def _weights_around_but(
    text: npt.NDArray[np.int64], is_but: npt.NDArray[np.bool_], texts: int
) -> Floats:
    """Return each word's weight by the last "but" of its text, 1 where there is none."""
    places = np.full(texts, -1)
    found = np.flatnonzero(is_but)
    places[text[found]] = found  # of several the last is written last
    place = places[text]
    position = np.arange(len(text))
    after = np.where(position > place, _AFTER_BUT, 1.0)
    weights: Floats = np.where(place < 0, 1.0, np.where(position < place, _BEFORE_BUT, after))
    return weights
