"""Texts as their words, laid end to end, for mathematics on whole columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Integers = npt.NDArray[np.int64]

LONGEST_TEXT: Final = 10_000
"""Characters of a text that are looked at, from its beginning: the rest of a longer one says
little more, and a mail with everything quoted would take the memory of thousands."""


@dataclass(frozen=True)
class TextWords:
    """The words of many texts.

    Attributes
    ----------
    text
        int64 (words,): which text each word is of, ascending.
    code
        int64 (words,): the place of each word in ``vocabulary``.
    vocabulary
        Distinct words in lower case.
    texts
        How many texts there are, with and without words.
    """

    text: Integers
    code: Integers
    vocabulary: list[str]
    texts: int


def split_words(texts: pa.Array) -> TextWords:
    """Split texts (none of them null) into words: runs of letters and inner apostrophes."""
    lower = pc.replace_substring(pc.utf8_lower(texts.cast(pa.large_string())), "’", "'")
    blank = pc.replace_substring_regex(lower, r"[^\pL']+", " ")
    lists = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(blank))
    # Splitting an empty text gives one empty word.
    words = pc.utf8_trim(pc.list_flatten(lists), "'")
    parents = np.asarray(pc.list_parent_indices(lists), dtype=np.int64)
    there = np.asarray(pc.not_equal(words, ""), dtype=bool)
    encoded = words.filter(pa.array(there)).dictionary_encode()
    return TextWords(
        parents[there],
        np.asarray(encoded.indices, dtype=np.int64),
        encoded.dictionary.to_pylist(),
        len(texts),
    )
