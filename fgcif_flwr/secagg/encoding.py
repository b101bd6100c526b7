"""Real numbers to integers that can be summed modulo 2^b, and their sum back to real numbers.

A release is one vector of named fields. Each field has a public bound on one enterprise's value;
it is scaled so that the bound fills ``value_bits`` signed bits, and rounded (stochastically, so
that the sum is unbiased). The words of a cohort's sum are wide enough not to wrap
(:mod:`fgcif_flwr.secagg.words`). A *rotated* field bounds the norm of its vector instead, and is
spread over its coordinates before it is rounded (:mod:`fgcif_flwr.secagg.rotation`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import OutOfRangeError, SecureSumError
from fgcif_flwr.secagg.rotation import SEED_BYTES, coordinate_bound, rotate, unrotate
from fgcif_flwr.secagg.transcript import digest
from fgcif_flwr.secagg.words import WordFormat, Words

Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_CHUNK = 1 << 14  # values; with their copies, within a core's second-level cache
_NORM_SLACK = 1e-9  # relative: a vector clipped to its bound may exceed it by floating point


@dataclass(frozen=True)
class Field:
    """A named stretch of the vector.

    Attributes
    ----------
    name : str
    size : int
        Number of words.
    bound : float
        Public bound of |value| at one enterprise, or of the field's Euclidean norm where it is
        rotated; what is beyond it is an error.
    exact : bool
        Whole numbers (counts), sent as they are; otherwise scaled so that the bound fills
        the word.
    rotated : bool
        Rotated by a public seed before it is rounded; not for exact fields.
    """

    name: str
    size: int
    bound: float
    exact: bool = False
    rotated: bool = False

    @property
    def value_bound(self) -> float:
        """What fills the word: the bound of one value, of one coordinate where rotated."""
        return coordinate_bound(self.size, self.bound) if self.rotated else self.bound


@dataclass(frozen=True)
class VectorLayout:
    """The fields of a release, in their order, and the width of one enterprise's value.

    Attributes
    ----------
    fields : tuple of Field
    value_bits : int
        Signed width of one enterprise's value.
    noise : int
        Public bound on the magnitude of the whole cohort's noise, in integer units.
    """

    fields: tuple[Field, ...]
    value_bits: int
    noise: int = 0

    def __post_init__(self) -> None:
        if self.value_bits < 2 or self.noise < 0:
            raise SecureSumError("a layout's value_bits is at least 2, its noise at least 0")
        largest = self.form(1).largest
        for field in self.fields:
            if field.size < 1 or not field.bound > 0 or not np.isfinite(field.bound):
                raise SecureSumError(f"field {field.name}: size and bound must be positive")
            if field.exact and field.rotated:
                raise SecureSumError(f"field {field.name}: whole numbers cannot be rotated")
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

    def form(self, cohort: int) -> WordFormat:
        """Return the words in which ``cohort`` such vectors and their noise are summed."""
        return WordFormat(self.value_bits, cohort, self.noise)

    def hash(self) -> bytes:
        """Digest that binds names, sizes, bounds and widths (bounds by their exact bits)."""
        parts: list[str | int] = [self.value_bits, self.noise]
        for field in self.fields:
            parts += [field.name, field.size, float(field.bound).hex()]
            parts += [int(field.exact), int(field.rotated)]
        return digest("layout", *parts)

    def encode(
        self,
        values: Mapping[str, npt.ArrayLike],
        rng: np.random.Generator,
        rotation_seed: bytes = b"",
    ) -> Integers:
        """Encode one enterprise's values as signed integers, int64 of shape (size,).

        The expectation of an integer is the scaled value within 2^-24 of a step and floating
        point's own error: rounding compares the fraction with a multiple of 2^-24.

        Parameters
        ----------
        values
            One array of ``field.size`` per field.
        rng
            Draws the stochastic rounding; seeded where no privacy unit is stated. The result is
            a function of values, seed and its state.
        rotation_seed
            32 public bytes, drawn independently of the values, and the same for the cohort and
            for :meth:`decode`; needed where a field is rotated.

        Raises
        ------
        OutOfRangeError
            If a value is not finite, is beyond its field's bound, or is not whole where the
            field is exact; or if a rotated field's norm is beyond its bound, or, with probability
            at most 2^-20, one of its coordinates is beyond theirs. The message names field and
            bound, never the value.
        SecureSumError
            If names or sizes are not the layout's, or a rotated field has no seed.
        """
        if set(values) != {field.name for field in self.fields}:
            raise SecureSumError("the values' names are not those of the release's layout")
        out = np.empty(self.size, dtype=np.int64)
        start = 0
        for field in self.fields:
            real = np.asarray(values[field.name]).reshape(-1)
            if real.dtype not in (np.float32, np.float64):  # these two are read as they are
                real = real.astype(np.float64)
            if len(real) != field.size:
                raise SecureSumError(
                    f"field {field.name} has {len(real)} values; its layout says {field.size}"
                )
            part = out[start : start + field.size]
            if field.exact:
                _whole(field, real, part)
            elif field.rotated:
                spread = _rotated(field, real, rotation_seed)
                _rounded(spread, self.form(1).largest, field.value_bound, rng, part)
            else:
                _check_bound(field, real)
                _rounded(real, self.form(1).largest, field.bound, rng, part)
            start += field.size
        return out

    def decode(
        self, words: Words, form: WordFormat, rotation_seed: bytes = b""
    ) -> dict[str, Reals]:
        """Decode the sum over a cohort to real numbers, one array per field.

        Parameters
        ----------
        words
            The sum, shape (size,); bits from b on are dropped.
        form
            The words in which it was summed.
        rotation_seed
            As for :meth:`encode`.
        """
        if len(words) != self.size:
            raise SecureSumError(f"a sum has {len(words)} words; its layout says {self.size}")
        signed = form.signed(words)
        out: dict[str, Reals] = {}
        start = 0
        for field in self.fields:
            part = signed[start : start + field.size]
            real: Reals = part.astype(np.float64)
            if not field.exact:
                real *= field.value_bound / form.largest
            if field.rotated:
                real = unrotate(real, _seed_of(field, rotation_seed))
            out[field.name] = real
            start += field.size
        return out


def _check_bound(field: Field, real: Reals) -> None:
    """Raise OutOfRangeError unless all values are finite and within the bound."""
    for start in range(0, len(real), _CHUNK):
        part = real[start : start + _CHUNK]
        if not (part.min() >= -field.bound and part.max() <= field.bound):  # false for NaN too
            raise OutOfRangeError(
                f"a value of {field.name} is beyond its bound of {field.bound:g} or not finite"
            )


def _whole(field: Field, real: Reals, out: Integers) -> None:
    """Write counts as they are."""
    _check_bound(field, real)
    out[:] = real
    if not np.array_equal(out, real):
        raise OutOfRangeError(f"a count of {field.name} is not a whole number")


def _rotated(field: Field, real: Reals, rotation_seed: bytes) -> Reals:
    """Return a field's coordinates after its rotation, within their bound."""
    seed = _seed_of(field, rotation_seed)
    with np.errstate(over="ignore", invalid="ignore"):  # then it is infinite or NaN, and refused
        filled = np.divide(real, field.bound, dtype=np.float64)
        norm = math.sqrt(np.square(filled, out=filled).sum())
    if not norm <= 1 + _NORM_SLACK:
        raise OutOfRangeError(
            f"the norm of {field.name} is beyond its bound of {field.bound:g} or not finite; "
            "clip it to that"
        )
    spread = rotate(real, seed)
    bound = field.value_bound
    if not max(-spread.min(), spread.max()) <= bound * (1 + _NORM_SLACK):
        raise OutOfRangeError(
            f"a rotated coordinate of {field.name} is beyond {bound:g}, which a norm within its "
            f"bound of {field.bound:g} does once in 2^20 times; try again in another slot"
        )
    return spread


def _rounded(
    real: Reals, largest: int, bound: float, rng: np.random.Generator, out: Integers
) -> None:
    """Write values times ``largest / bound``, rounded up with the probability of the fraction."""
    scaled = np.empty(min(_CHUNK, len(real)))
    uniform = np.empty(len(scaled), dtype=np.float32)
    for start in range(0, len(real), _CHUNK):
        part = real[start : start + _CHUNK]
        words, draws = scaled[: len(part)], uniform[: len(part)]
        np.multiply(part, largest / bound, out=words, dtype=np.float64)
        rng.random(out=draws, dtype=np.float32)
        words += draws
        np.floor(words, out=words)
        np.clip(words, -largest, largest, out=words)  # the bound itself, after floating point
        out[start : start + len(part)] = words


def _seed_of(field: Field, rotation_seed: bytes) -> bytes:
    """Return a field's own seed, so that two fields' rotations have nothing in common."""
    if len(rotation_seed) != SEED_BYTES:
        raise SecureSumError(
            f"field {field.name} is rotated: its rotation's seed is {SEED_BYTES} bytes long, "
            f"not {len(rotation_seed)}"
        )
    return digest("rotation", rotation_seed, field.name)
