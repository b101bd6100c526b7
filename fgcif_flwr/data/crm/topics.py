"""What contacts are about: shares of hashed terms, without a vocabulary that anyone must share.

Terms are hashed as :func:`fgcif_flwr.data.encoding.bucket` does, so a bucket means the same at
every enterprise; different terms share a bucket.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgcif_flwr.data.crm.words_of_texts import split_words
from fgcif_flwr.data.encoding import bucket

SHORTEST_TERM: Final = 4
"""Letters of the shortest word of a text that is a term; shorter ones say little of a topic."""

WHOLE: Final = 1_000_000
"""What a text's shares sum to, but for rounding: whole numbers sum exactly in any order."""


def topic_shares(
    texts: pa.Array, buckets: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return in which buckets the terms of texts are: places of texts, buckets, shares.

    Parameters
    ----------
    texts
        Strings, none of them null.
    buckets
        At least 1.

    Returns
    -------
    three int64 arrays of one length; shares in 1 / :data:`WHOLE`. A text without terms is in
    none.
    """
    words = split_words(texts)
    place = np.array(
        [bucket(w, buckets) if len(w) >= SHORTEST_TERM else -1 for w in words.vocabulary], np.int64
    )[words.code]
    is_term = place >= 0
    cells, counts = np.unique(words.text[is_term] * buckets + place[is_term], return_counts=True)
    text = cells // buckets
    terms = np.bincount(words.text[is_term], minlength=words.texts)
    shares = np.round(WHOLE * counts / terms[text]).astype(np.int64)
    return text, cells % buckets, shares
