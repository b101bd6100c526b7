"""Real numbers to words modulo 2^b and back, without a word that could wrap.

A release is one vector of named fields. Each field has a public bound on one enterprise's value;
it is scaled so that the bound fills ``value_bits`` signed bits, rounded (stochastically, so that
the sum is unbiased), and added modulo 2^b, b being the smallest number of bits that cannot wrap
for the cohort: ``b = 1 + ceil(log2(cohort * (2^(value_bits - 1) - 1) + 1))``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import OutOfRangeError, SecureSumError
from fgcif_flwr.secagg.transcript import digest

Words = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Field:
    """A named stretch of the vector.

    Attributes
    ----------
    name : str
    size : int
        Number of words.
    bound : float
        Public bound of |value| at one enterprise; a value beyond it is an error.
    exact : bool
        Whole numbers (counts), sent as they are; otherwise scaled so that the bound fills
        the word.
    """

    name: str
    size: int
    bound: float
    exact: bool = False


@dataclass(frozen=True)
class WordFormat:
    """Width of words for a cohort: ``value_bits`` in, ``bits`` (b) on the wire."""

    value_bits: int
    cohort: int

    @property
    def largest(self) -> int:
        """Largest magnitude of one enterprise's word."""
        return (1 << (self.value_bits - 1)) - 1

    @property
    def bits(self) -> int:
        """The smallest b so that the sum over the cohort cannot wrap."""
        return 1 + (self.cohort * self.largest).bit_length()

    @property
    def dtype(self) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
        """Machine word in which sums are computed; wraps at a multiple of 2^b."""
        return np.dtype("<u4") if self.bits <= 32 else np.dtype("<u8")

    @property
    def mask(self) -> int:
        """2^b - 1."""
        return (1 << self.bits) - 1

    def words(self, encoded: npt.NDArray[np.int64]) -> Words:
        """Return signed integers as machine words; negative ones wrap, as sums do."""
        wrapped = encoded.astype(np.int64).view(np.uint64)
        return wrapped.astype(np.uint32) if self.bits <= 32 else wrapped

    def reduce(self, words: Words) -> Words:
        """Return words modulo 2^b."""
        return words & words.dtype.type(self.mask)

    def pack(self, words: Words) -> bytes:
        """Pack words of b bits without gaps, little-endian (ceil(d * b / 8) bytes)."""
        octets = words.astype(self.dtype, copy=False).view(np.uint8)
        bits = np.unpackbits(octets.reshape(len(words), -1), axis=1, bitorder="little")
        return np.packbits(bits[:, : self.bits], bitorder="little").tobytes()

    def unpack(self, data: bytes, size: int) -> Words:
        """Undo :meth:`pack`; SecureSumError if the length does not fit."""
        wanted = (size * self.bits + 7) // 8
        if len(data) != wanted:
            raise SecureSumError(
                f"a masked vector of {size} words of {self.bits} bits is {wanted} bytes long; "
                f"this one has {len(data)}"
            )
        flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        bits = np.zeros((size, 8 * self.dtype.itemsize), dtype=np.uint8)
        bits[:, : self.bits] = flat[: size * self.bits].reshape(size, self.bits)
        words: Words = np.packbits(bits, axis=1, bitorder="little").view(self.dtype).reshape(size)
        return words


@dataclass(frozen=True)
class VectorLayout:
    """The fields of a release, in their order, and the width of one enterprise's value."""

    fields: tuple[Field, ...]
    value_bits: int

    def __post_init__(self) -> None:
        largest = (1 << (self.value_bits - 1)) - 1
        for field in self.fields:
            if field.size < 1 or not field.bound > 0 or not np.isfinite(field.bound):
                raise SecureSumError(f"field {field.name}: size and bound must be positive")
            if field.exact and field.bound > largest:
                raise OutOfRangeError(
                    f"counts of {field.name} up to {field.bound:.0f} do not fit "
                    f"secagg.value_bits = {self.value_bits}; raise it to at least "
                    f"{int(field.bound).bit_length() + 1}"
                )

    @property
    def size(self) -> int:
        """Words in the vector."""
        return sum(field.size for field in self.fields)

    def hash(self) -> bytes:
        """Digest that binds names, sizes, bounds and widths (bounds by their exact bits)."""
        parts: list[str | int] = [self.value_bits]
        for field in self.fields:
            parts += [field.name, field.size, float(field.bound).hex(), int(field.exact)]
        return digest("layout", *parts)

    def encode(
        self, values: Mapping[str, npt.ArrayLike], rng: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """Encode one enterprise's values as signed integers, shape (size,).

        Parameters
        ----------
        values
            One array of ``field.size`` per field.
        rng
            Draws the stochastic rounding; seeded where no privacy unit is stated.

        Raises
        ------
        OutOfRangeError
            If a value is not finite, is beyond its field's bound, or is not whole where the
            field is exact. The message names field and bound, never the value.
        """
        largest = (1 << (self.value_bits - 1)) - 1
        if set(values) != {field.name for field in self.fields}:
            raise SecureSumError("the values' names are not those of the release's layout")
        out = np.empty(self.size, dtype=np.int64)
        start = 0
        for field in self.fields:
            real = np.asarray(values[field.name], dtype=np.float64).reshape(-1)
            if len(real) != field.size:
                raise SecureSumError(
                    f"field {field.name} has {len(real)} values; its layout says {field.size}"
                )
            if not np.isfinite(real).all() or np.abs(real).max(initial=0.0) > field.bound:
                mend = (
                    "raise secagg.value_bits"
                    if field.exact
                    else "lower training.learning_rate or raise secagg.value_bound"
                )
                raise OutOfRangeError(
                    f"a value of {field.name} is beyond its bound of {field.bound:g} or not "
                    f"finite; {mend}"
                )
            if field.exact:
                words = np.rint(real)
                if not np.array_equal(words, real):
                    raise OutOfRangeError(f"a count of {field.name} is not a whole number")
            else:
                scaled = real * (largest / field.bound)
                words = np.clip(np.floor(scaled + rng.random(field.size)), -largest, largest)
            out[start : start + field.size] = words
            start += field.size
        return out

    def decode(self, words: Words, form: WordFormat) -> dict[str, Reals]:
        """Decode the sum over a cohort to real numbers, one array per field."""
        signed = words.astype(np.int64)
        signed = np.where(signed >> (form.bits - 1) > 0, signed - (1 << form.bits), signed)
        largest = form.largest
        out: dict[str, Reals] = {}
        start = 0
        for field in self.fields:
            part = signed[start : start + field.size].astype(np.float64)
            out[field.name] = part if field.exact else part * (field.bound / largest)
            start += field.size
        return out
