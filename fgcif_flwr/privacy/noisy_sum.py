"""A sum of clipped contributions as integers, with each enterprise's share of the noise.

One customer's contribution is a vector of named blocks. Each block is clipped to its weight's
share of norm 1, the whole is multiplied by an integer resolution and rounded *on its own*, and only
integers are added: taking one customer out changes the sum by exactly that customer's integers,
whose norm has a bound that is enforced, not estimated. Sums of floating-point numbers have no such
exact bound (Mironov, CCS 2012; Kairouz, Liu and Steinke, ICML 2021).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fgcif_flwr.privacy import accounting
from fgcif_flwr.privacy.noise import check_variance, skellam, skellam_tail
from fgcif_flwr.secagg.encoding import Field, VectorLayout

Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LARGEST_SUM = 2**53
"""Of an enterprise's integers: float64 holds every whole number up to it."""

_CHUNK = 1 << 16  # numbers worked on at once: with their originals within a core's cache


@dataclass(frozen=True)
class Block:
    """A named part of a contribution, clipped on its own.

    Attributes
    ----------
    name : str
    size : int
        Numbers in it.
    weight : float
        Above 0, relative to the other blocks': a block of twice the weight has half the noise.
    """

    name: str
    size: int
    weight: float = 1.0


@dataclass(frozen=True)
class NoisySum:
    """How contributions become integers, how they become real numbers again, and what that costs.

    Adjacency: one contribution is replaced by zero. A contribution that failed must keep its row
    (zeros, or NaN); left out, it would let another in under the cap.

    Attributes
    ----------
    blocks : tuple of Block
        Their names differ.
    contributions : int
        Public cap on the contributions that one enterprise sums, at least 1.
    noise_multiplier : float
        Standard deviation of the noise over :attr:`resolution`, which stands for norm 1; above 0.

    A value outside these ranges is a ValueError.
    """

    blocks: tuple[Block, ...]
    contributions: int
    noise_multiplier: float

    def __post_init__(self) -> None:
        if not self.blocks or len({block.name for block in self.blocks}) != len(self.blocks):
            raise ValueError("a noisy sum has one block or more, of different names")
        for block in self.blocks:
            if block.size < 1 or not 0 < block.weight < math.inf:
                raise ValueError(f"block {block.name}: size and weight must be above 0")
        if self.contributions < 1 or not 0 < self.noise_multiplier < math.inf:
            raise ValueError("contributions are at least 1, the noise multiplier is above 0")
        if self.contributions * math.ceil(self.l2) > LARGEST_SUM:
            raise ValueError(
                f"{self.contributions} contributions of {self.size} numbers cannot be summed "
                "exactly; lower their cap"
            )

    @property
    def size(self) -> int:
        """Numbers in a contribution."""
        return sum(block.size for block in self.blocks)

    @property
    def resolution(self) -> int:
        """Integer steps to norm 1: the least power of two from 1024 and 16 sqrt(size) on.

        Rounding then lengthens a contribution by at most 0.05 % (:attr:`l2`).
        """
        steps = 1024
        while steps * steps < 256 * self.size:
            steps *= 2
        return steps

    @property
    def _squared_l2(self) -> float:
        """Bound on a row's squared norm; of the form n / 4, and exact."""
        return self.resolution**2 + self.size / 4

    @property
    def l2(self) -> float:
        """L2 sensitivity of the integers: each row's norm is at most this."""
        return math.sqrt(self._squared_l2)

    @property
    def l1(self) -> float:
        """L1 sensitivity of the integers: |k| <= k^2 of whole numbers gives the second bound."""
        return min(math.sqrt(self.size) * self.l2, self._squared_l2)

    @property
    def variance(self) -> float:
        """Of the noise in each number over the fewest honest enterprises, in squared steps."""
        return (self.noise_multiplier * self.resolution) ** 2

    def curve(self) -> accounting.Curve:
        """Return the RDP curve of one such sum, opened over the fewest honest or more."""
        return accounting.skellam(self.l2, self.l1, self.variance)

    def scale(self, name: str) -> float:
        """Return the integer steps that norm 1 of a block's own has: resolution times weight.

        The weights are divided by the root of the sum of their squares.
        """
        return self._scales[name]

    @cached_property
    def _scales(self) -> dict[str, float]:
        weights = {block.name: block.weight for block in self.blocks}
        largest = max(weights.values())  # squares of very large or small ones would not be finite
        whole = math.sqrt(math.fsum((weight / largest) ** 2 for weight in weights.values()))
        resolution = self.resolution
        return {name: resolution * (weight / largest / whole) for name, weight in weights.items()}

    def layout(self, cohort: int, honest: int) -> VectorLayout:
        """Return the vector in which a cohort's sums are masked; no word of it can wrap.

        The noise is bounded but with probability 2^-64 (:func:`skellam_tail`); the words hold
        every sum of contributions. :meth:`encode` gives the integers as they are to be masked:
        they are not to pass :meth:`VectorLayout.encode`, whose bounds are without the noise.

        Parameters
        ----------
        cohort : int
            Enterprises that are asked.
        honest : int
            Fewest honest ones that an opened sum covers, from 1 to ``cohort``.

        Raises
        ------
        PrivacyError
            If noise of this variance cannot be drawn.
        CohortError
            If the words would have more than 63 bits.
        """
        _check_honest(honest)
        check_variance(self.variance / honest)
        if cohort < honest:
            raise ValueError(f"a cohort of {cohort} does not hold {honest} honest enterprises")
        bound = self.contributions * math.ceil(self.l2)
        layout = VectorLayout(
            tuple(Field(block.name, block.size, float(bound), exact=True) for block in self.blocks),
            value_bits=bound.bit_length() + 1,
            noise=skellam_tail(self.variance * cohort / honest, self.size),
        )
        layout.form(cohort)  # raises where words cannot be as wide
        return layout

    def encode(
        self,
        chunks: Iterable[Mapping[str, npt.NDArray[np.generic]]],
        honest: int,
        generator: np.random.Generator,
    ) -> Integers:
        """Clip, round and sum contributions, and add this enterprise's share of the noise.

        No value of a contribution raises: a row with a number that is not finite is taken as
        zeros. The noise is added also where there are no rows.

        Parameters
        ----------
        chunks
            Rows of all blocks, (rows, block.size) each, real numbers of any kind; or, where every
            row has a single 1 in each block, its places, integers (rows,): the same sum without
            the zeros. A place outside its block adds nothing to it. The first ``contributions``
            rows over all chunks are summed; no chunk is read after them.
        honest : int
            Fewest honest enterprises that an opened sum covers; the share of the variance is
            one of as many.
        generator
            From :func:`fgcif_flwr.privacy.noise.cryptographic_generator`.

        Returns
        -------
        int64 of shape (size,), the blocks in their order

        Raises
        ------
        ValueError
            If a chunk's blocks, shapes or kinds of number are wrong (before its values are read),
            or ``honest`` is below 1.
        """
        _check_honest(honest)
        total = np.zeros(self.size, dtype=np.int64)
        left = self.contributions
        for chunk in chunks:
            if all(values.ndim == 1 for values in chunk.values()):
                rows = min(left, self._placed_rows(chunk))
                total += self._counted(chunk, rows)
                left -= rows
                if left == 0:
                    break
                continue
            rows = min(left, self._rows(chunk))
            step = max(1, _CHUNK // self.size)
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                own = self._integers({name: rows[start:stop] for name, rows in chunk.items()})
                # whole numbers, whose sum over a step is below LARGEST_SUM: exact in float64
                total += own.sum(axis=0).astype(np.int64)
            left -= rows
            if left == 0:
                break
        total += skellam(self.size, self.variance / honest, generator)
        return total

    def decode(self, values: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, Reals]:
        """Return the sum of the clipped contributions, norm at most 1 each, block by block.

        Without noise it is right within half a step for each contribution, and within one for
        the rare ones that are truncated; a step is 1 / :meth:`scale`.

        ``values`` are the integers of a sum, from :meth:`VectorLayout.decode`.
        """
        return {block.name: values[block.name] / self.scale(block.name) for block in self.blocks}

    def noise_deviation(self, block: str, opened_over: int, honest: int) -> float:
        """Return the standard deviation of :meth:`decode`'s noise, of each number of a block.

        ``opened_over`` enterprises' shares are in the sum, of which ``honest`` make the whole.
        """
        _check_honest(honest)
        return math.sqrt(self.variance * opened_over / honest) / self.scale(block)

    def _rows(self, chunk: Mapping[str, npt.NDArray[np.generic]]) -> int:
        """Return how many rows a chunk has; ValueError unless its form is right."""
        if set(chunk) != {block.name for block in self.blocks}:
            raise ValueError("a chunk's blocks are not those of the noisy sum")
        rows: int = (*chunk[self.blocks[0].name].shape, 0)[0]
        for block in self.blocks:
            values = chunk[block.name]
            if values.shape != (rows, block.size) or values.dtype.kind not in "fiub":
                raise ValueError(
                    f"block {block.name} is {values.dtype} of shape {values.shape}; it must be "
                    f"real numbers of shape ({rows}, {block.size})"
                )
        return rows

    def _placed_rows(self, chunk: Mapping[str, npt.NDArray[np.generic]]) -> int:
        """Return how many rows' places a chunk has; ValueError unless its form is right."""
        if set(chunk) != {block.name for block in self.blocks}:
            raise ValueError("a chunk's blocks are not those of the noisy sum")
        rows = len(chunk[self.blocks[0].name])
        for name, places in chunk.items():
            if len(places) != rows or places.dtype.kind not in "iu":
                raise ValueError(f"block {name}: places must be {rows} integers")
        return rows

    def _counted(self, chunk: Mapping[str, npt.NDArray[np.generic]], rows: int) -> Integers:
        """Return the sum of rows that are 1 at the places: the integers that rounding gives."""
        scales = np.array([self.scale(block.name) for block in self.blocks])
        steps = np.rint(scales)
        if (steps**2).sum() > self._squared_l2:
            steps = np.trunc(scales)
        parts = []
        for block, step in zip(self.blocks, steps, strict=True):
            places = chunk[block.name][:rows].astype(np.int64)
            within = places[(places >= 0) & (places < block.size)]
            parts.append(np.bincount(within, minlength=block.size) * int(step))
        return np.concatenate(parts).astype(np.int64)

    def _integers(self, chunk: Mapping[str, npt.NDArray[np.generic]]) -> Reals:
        """Return each row's whole numbers, float64 (rows, size); no row's depend on another's."""
        count = len(chunk[self.blocks[0].name])
        scaled = np.empty((count, self.size))
        finite = np.ones(count, dtype=np.bool_)
        start = 0
        # rows that are not finite or beyond floating point are met below, each by itself
        with np.errstate(all="ignore"):
            for block in self.blocks:
                part = scaled[:, start : start + block.size]
                finite &= _clip(chunk[block.name], self.scale(block.name), part)
                start += block.size
        scaled[~finite] = 0.0
        whole = np.rint(scaled)
        beyond = np.flatnonzero(_squared(whole) > self._squared_l2)
        while len(beyond):
            # Towards zero no number grows, and neither does the norm: once is enough but where
            # floating point left a row a little longer than it should be.
            whole[beyond] = np.trunc(scaled[beyond])
            scaled[beyond] *= 1 - 2.0**-20
            beyond = beyond[_squared(whole[beyond]) > self._squared_l2]
        return whole


def _clip(values: npt.NDArray[np.generic], scale: float, out: Reals) -> npt.NDArray[np.bool_]:
    """Write rows times ``scale / max(1, their norm)``; return which are finite, (rows,)."""
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    largest = np.maximum(values.max(axis=1), -values.min(axis=1)).astype(np.float64)
    # A power of two makes large numbers small without rounding them, so that no square is
    # infinite; what becomes zero is nothing beside the row's largest. From 2^1000 on numbers
    # stay up to 2^24, and the power itself is an ordinary number.
    shift = np.clip(np.frexp(largest)[1], 0, 1000)
    np.multiply(values, np.ldexp(1.0, -shift)[:, None], out=out, dtype=np.float64)
    norm = np.sqrt(_squared(out))
    out *= (np.minimum(np.ldexp(1.0, shift), 1 / norm) * scale)[:, None]
    return np.isfinite(norm)  # one NaN or infinity in a row is enough


def _squared(rows: Reals) -> Reals:
    """Squared norms of rows, (rows,); exact for whole numbers, whose sums are below 2^53."""
    squared: Reals = np.einsum("ij,ij->i", rows, rows)
    return squared


def _check_honest(honest: int) -> None:
    if honest < 1:
        raise ValueError("an opened sum covers at least 1 honest enterprise")
