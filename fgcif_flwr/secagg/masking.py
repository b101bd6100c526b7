"""Masks: a 32-byte key expanded to words by AES-256 in counter mode.

Each key is used once, for one vector, from counter zero; at 2^32 blocks (64 GiB) a key would be
far past any vector here. Words are the keystream itself, little-endian machine words, so they are
uniform modulo 2^b for every b up to the machine word.

An enterprise masks chunk by chunk, all its keys over one chunk before the next, so that the chunk
stays in the cache while dozens of keystreams pass over it. The coordinator takes keys one by one,
as it learns them (:class:`MaskAdder`). Both use the same keystream.

Every masked vector ends in two *check words* of value 1. Their sums are the number of survivors,
or masks did not cancel: some enterprises masked for other inputs, or a share was wrong. A sum
whose masks differ passes with probability 2^-2b.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.secagg.words import Packer, WordFormat, Words

CHECK_WORDS = 2

_CHUNK_BYTES = 1 << 17  # with its keystream, stays in a core's second-level cache
_ZEROS = memoryview(bytes(_CHUNK_BYTES))


class MaskAdder:
    """Adds or subtracts expanded masks into one vector, through one reused buffer."""

    def __init__(self, total: Words) -> None:
        self.total = total
        self._keystream = _Keystream(total.dtype)

    def add(self, key: bytes) -> None:
        """Add the mask of ``key``."""
        self._apply(key, np.add)

    def subtract(self, key: bytes) -> None:
        """Subtract the mask of ``key``."""
        self._apply(key, np.subtract)

    def _apply(self, key: bytes, operation: np.ufunc) -> None:
        context = _open(key)
        step = _CHUNK_BYTES // self.total.itemsize
        for start in range(0, len(self.total), step):
            part = self.total[start : start + step]
            operation(part, self._keystream.next(context, len(part)), out=part)


def masked_words(
    encoded: npt.NDArray[np.int64],
    form: WordFormat,
    additions: Sequence[bytes],
    subtractions: Sequence[bytes],
) -> bytes:
    """Mask an encoded vector, and pack it with its check words.

    Parameters
    ----------
    encoded
        Signed integers, shape (d,), from :meth:`VectorLayout.encode`.
    form
        Width of the words.
    additions, subtractions
        32-byte keys whose masks are added and subtracted; each for this one vector.

    Returns
    -------
    bytes
        ``form.packed_bytes(d + CHECK_WORDS)`` of them.
    """
    size = len(encoded) + CHECK_WORDS
    step = _CHUNK_BYTES // form.dtype.itemsize
    masks: list[tuple[CipherContext, np.ufunc]] = [(_open(key), np.add) for key in additions]
    masks += [(_open(key), np.subtract) for key in subtractions]
    keystream = _Keystream(form.dtype)
    packer = Packer(form, size)
    buffer = np.empty(min(step, size), dtype=form.dtype)
    for start in range(0, size, step):
        part = buffer[: min(step, size - start)]
        own = encoded[start : start + len(part)]
        np.copyto(part[: len(own)], own, casting="unsafe")  # negative ones wrap, as sums do
        part[len(own) :] = 1
        for context, operation in masks:
            operation(part, keystream.next(context, len(part)), out=part)
        packer.put(start, form.reduce(part))
    return packer.packed()


def open_total(total: Words, form: WordFormat, survivors: int) -> Words:
    """Return the words of a sum from which all masks are taken, without its check words.

    Parameters
    ----------
    total
        Sum of masked vectors modulo the machine word, shape (d + CHECK_WORDS,).
    form
        Width of the words; those returned are reduced modulo 2^b.
    survivors
        Enterprises whose vectors the sum holds.

    Raises
    ------
    SecureSumError
        If a check word is not the number of survivors.
    """
    if len(total) <= CHECK_WORDS:
        raise SecureSumError(f"a sum has more than its {CHECK_WORDS} check words")
    if np.any(form.reduce(total[-CHECK_WORDS:]) != survivors):
        raise SecureSumError(
            f"the masks of {survivors} enterprises did not cancel: a share was wrong, or not all "
            "masked for the same inputs; nothing of this sum is used"
        )
    return form.reduce(total[:-CHECK_WORDS])


class _Keystream:
    """One buffer for the next words of any key's keystream."""

    def __init__(self, dtype: np.dtype[np.uint32] | np.dtype[np.uint64]) -> None:
        self._itemsize = dtype.itemsize
        self._buffer = bytearray(_CHUNK_BYTES + 15)  # update_into wants a block's slack
        self._words: Words = np.frombuffer(self._buffer, np.uint8, _CHUNK_BYTES).view(dtype)

    def next(self, context: CipherContext, count: int) -> Words:
        """Return the next ``count`` words of a key; valid until the next call."""
        context.update_into(_ZEROS[: count * self._itemsize], self._buffer)
        return self._words[:count]


def _open(key: bytes) -> CipherContext:
    return Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
