"""Words modulo 2^b: how wide they are, and how they travel.

The sum over a cohort is a signed integer of magnitude at most ``cohort * largest + noise``; b is
the smallest number of bits in which no such integer wraps. Words are summed in machine words
(modulo 2^32 or 2^64, multiples of 2^b), and travel without gaps: word i is bits
``i * b .. (i + 1) * b - 1`` of a little-endian stream of ``ceil(d * b / 8)`` bytes.

A group of words that fills whole bytes is read and written in one step for all groups at once:
word i of every group lies at one stride, within eight bytes (nine where b > 57).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import CohortError, SecureSumError

Words = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]
Octets = npt.NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview

MOST_BITS = 63  # a sum is read back as a signed 64-bit integer

_CHUNK = 1 << 15  # words; a multiple of every group, and within a core's second-level cache
_SLACK = 72  # bytes that a last, partly filled group may reach past the packed end


@dataclass(frozen=True)
class WordFormat:
    """Width of words for a cohort: ``value_bits`` in, ``bits`` (b) on the wire.

    Attributes
    ----------
    value_bits : int
        Signed width of one enterprise's value, at least 2.
    cohort : int
        Enterprises whose words are added.
    noise : int
        Public bound on the magnitude of the whole cohort's noise, in integer units.

    Raises
    ------
    CohortError
        If such a sum needs more than 63 bits.
    """

    value_bits: int
    cohort: int
    noise: int = 0

    def __post_init__(self) -> None:
        if self.value_bits < 2 or self.cohort < 1 or self.noise < 0:
            raise ValueError("value_bits is at least 2, a cohort at least 1, noise at least 0")
        if self.bits > MOST_BITS:
            raise CohortError(
                f"a sum over {self.cohort} enterprises at secagg.value_bits = {self.value_bits} "
                f"and noise of at most {self.noise} needs words of {self.bits} bits; at most "
                f"{MOST_BITS} are possible; lower secagg.value_bits"
            )

    @property
    def largest(self) -> int:
        """Largest magnitude of one enterprise's value, 2^(value_bits - 1) - 1."""
        return (1 << (self.value_bits - 1)) - 1

    @property
    def bits(self) -> int:
        """The smallest b so that the sum over the cohort, with its noise, cannot wrap."""
        return 1 + (self.cohort * self.largest + self.noise).bit_length()

    @property
    def dtype(self) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
        """Machine word in which sums are computed; wraps at a multiple of 2^b."""
        return np.dtype("<u4") if self.bits <= 32 else np.dtype("<u8")

    @property
    def mask(self) -> int:
        """2^b - 1."""
        return (1 << self.bits) - 1

    def packed_bytes(self, size: int) -> int:
        """Return the length of ``size`` packed words."""
        return (size * self.bits + 7) // 8

    def words(self, encoded: npt.NDArray[np.int64]) -> Words:
        """Return signed integers as machine words; negative ones wrap, as sums do."""
        return encoded.astype(np.uint32) if self.bits <= 32 else encoded.astype(np.uint64)

    def signed(self, words: Words) -> npt.NDArray[np.int64]:
        """Return words as signed integers: the bits from b on are dropped, bit b - 1 is the sign.

        Undoes :meth:`words`, and reads a sum whether or not it was reduced modulo 2^b.
        """
        if self.bits <= 32:
            short = words.astype(np.uint32, copy=False) << np.uint32(32 - self.bits)
            return (short.view(np.int32) >> np.int32(32 - self.bits)).astype(np.int64)
        long = words.astype(np.uint64, copy=False) << np.uint64(64 - self.bits)
        return long.view(np.int64) >> np.int64(64 - self.bits)

    def reduce(self, words: Words) -> Words:
        """Return words modulo 2^b."""
        return words & words.dtype.type(self.mask)

    def pack(self, words: Words) -> bytes:
        """Pack words (taken modulo 2^b) without gaps, little-endian (ceil(d * b / 8) bytes)."""
        packer = Packer(self, len(words))
        for start in range(0, len(words), _CHUNK):
            packer.put(start, self.reduce(words[start : start + _CHUNK]))
        return packer.packed()

    def unpack(self, data: Buffer, size: int) -> Words:
        """Undo :meth:`pack`; SecureSumError if the length does not fit ``size`` words."""
        out = np.empty(size, dtype=self.dtype)
        for start, words in self._chunks(data, size):
            out[start : start + len(words)] = words
        return out

    def add_packed(self, total: Words, data: Buffer) -> None:
        """Add packed words to ``total`` in place, modulo its machine word.

        No second vector is made: words are unpacked and added a cache-sized chunk at a time.

        Raises
        ------
        SecureSumError
            If the length does not fit ``len(total)`` words; nothing has been added then.
        """
        for start, words in self._chunks(data, len(total)):
            total[start : start + len(words)] += words

    def _chunks(self, data: Buffer, size: int) -> Iterator[tuple[int, Words]]:
        """Yield (start, words) along the vector; the words' memory is used again."""
        octets = np.frombuffer(memoryview(data).cast("B"), np.uint8)
        if len(octets) != self.packed_bytes(size):
            raise SecureSumError(
                f"a vector of {size} words of {self.bits} bits is {self.packed_bytes(size)} bytes "
                f"long; this one has {len(octets)}"
            )
        group, width = _group(self.bits)
        buffer = np.empty(min(_CHUNK, size + group), dtype=self.dtype)
        mask = np.uint64(self.mask)
        for start in range(0, size, _CHUNK):
            count = min(_CHUNK, size - start)
            groups = -(-count // group)
            at = start * self.bits // 8
            source = octets[at : at + groups * width + 9]
            if len(source) < groups * width + 9:  # the last words: reads may pass the end
                source = np.concatenate([source, np.zeros(_SLACK, dtype=np.uint8)])
            for i, (low, high, shift) in enumerate(_columns(source, 0, groups, self.bits)):
                words = low >> np.uint64(shift)
                if high is not None:
                    words |= high.astype(np.uint64) << np.uint64(64 - shift)
                words &= mask
                buffer[i : groups * group : group] = words
            yield start, buffer[:count]


class Packer:
    """Packs a vector chunk by chunk into one buffer, for words that are ready in pieces."""

    def __init__(self, form: WordFormat, size: int) -> None:
        self.form = form
        self._length = form.packed_bytes(size)
        self._out = np.zeros(self._length + _SLACK, dtype=np.uint8)

    def put(self, start: int, words: Words) -> None:
        """Pack words below 2^b as those from ``start`` on, once each.

        ``start`` is a multiple of 64, and so is ``len(words)`` but at the vector's end.
        """
        bits = self.form.bits
        group, _ = _group(bits)
        groups = -(-len(words) // group)
        if len(words) % group:
            words = np.concatenate([words, np.zeros(-len(words) % group, dtype=words.dtype)])
        columns = _columns(self._out, start * bits // 8, groups, bits)
        for i, (low, high, shift) in enumerate(columns):
            column = words[i::group].astype(np.uint64)
            low |= column << np.uint64(shift)
            if high is not None:
                high |= (column >> np.uint64(64 - shift)).astype(np.uint8)

    def packed(self) -> bytes:
        """Return what was packed."""
        return self._out[: self._length].tobytes()


def _group(bits: int) -> tuple[int, int]:
    """Return the words of a group and its bytes.

    At least eight bytes, so that the 8-byte views of one column do not overlap each other; of 8,
    16 or 32 words, so that groups fill a chunk.
    """
    octets = 1
    while bits * octets < 8:
        octets *= 2
    return 8 * octets, bits * octets


def _columns(
    octets: Octets, at: int, groups: int, bits: int
) -> Iterator[tuple[npt.NDArray[np.uint64], Octets | None, int]]:
    """Yield, for word i of all groups from byte ``at`` on, where it lies.

    Its low part is an unaligned 64-bit view, shifted by so many bits; its high part is the byte
    after that, where the word reaches so far.
    """
    group, width = _group(bits)
    for i in range(group):
        offset, shift = divmod(i * bits, 8)
        low = np.ndarray((groups,), "<u8", octets, at + offset, (width,))
        high = None
        if shift + bits > 64:
            high = np.ndarray((groups,), np.uint8, octets, at + offset + 8, (width,))
        yield low, high, shift
