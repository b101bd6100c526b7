"""Who masks with whom and holds whose shares: everybody, or the neighbours on a drawn ring.

The k-regular graph is the Harary graph H(n, k), k even: the holders stand on a ring in an order
drawn from a seed, and each is joined to the k / 2 before and the k / 2 behind it (Bell et al. 2020,
section 3.2). The order is that of ``SHA-256(seed || position as 4 bytes, big-endian)``, ties in the
order of positions, so that every party, in whatever language, draws the same graph.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import CohortError

SEED_BYTES = 32


@dataclass(frozen=True)
class Graph:
    """Neighbourhoods of the holders, by position (0 .. size - 1) in the order of names.

    Attributes
    ----------
    size : int
        Holders (n).
    neighbours : int
        Of every holder, itself not counted (k); ``size - 1`` in a complete graph.
    seed : bytes
        From which the ring was drawn; empty for a complete graph.
    """

    size: int
    neighbours: int
    seed: bytes = b""

    @classmethod
    def complete(cls, size: int) -> Graph:
        """Join every holder to every other."""
        if size < 1:
            raise CohortError("a graph wants at least one holder")
        return cls(size, size - 1)

    @classmethod
    def regular(cls, size: int, neighbours: int, seed: bytes) -> Graph:
        """Join every holder to the ``neighbours`` nearest on a ring drawn from 32 bytes.

        Raises
        ------
        CohortError
            If ``neighbours`` is odd, below 2, or not below ``size - 1``.
        ValueError
            If the seed does not have 32 bytes.
        """
        if neighbours % 2 or not 2 <= neighbours < size - 1:
            raise CohortError(
                f"a k-regular graph of {size} holders wants an even number of neighbours from 2 "
                f"to {size - 2}, not {neighbours}"
            )
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a graph is drawn from {SEED_BYTES} bytes, not {len(seed)}")
        return cls(size, neighbours, seed)

    @property
    def is_complete(self) -> bool:
        """Whether every holder is joined to every other."""
        return self.neighbours == self.size - 1

    @property
    def ring(self) -> npt.NDArray[np.int32]:
        """Positions in the order of the ring; int32 (n,). In a complete graph any order does."""
        return _ring(self.size, self.seed)[0]

    @cached_property
    def receiver_matrix(self) -> npt.NDArray[np.int32]:
        """Row i is ``receivers(i)``; int32 (n, k + 1), read-only."""
        if self.is_complete:
            return np.broadcast_to(self.ring, (self.size, self.size))
        half = self.neighbours // 2
        around = np.concatenate((self.ring[-half:], self.ring, self.ring[:half]))
        windows = np.lib.stride_tricks.sliding_window_view(around, self.neighbours + 1)
        matrix = np.empty((self.size, self.neighbours + 1), np.int32)
        matrix[self.ring] = np.sort(windows, axis=1)
        matrix.flags.writeable = False
        return matrix

    def receivers(self, position: int) -> tuple[int, ...]:
        """Return who holds shares of a holder's secrets: its neighbours and itself, sorted.

        Raises
        ------
        CohortError
            If there is no such position.
        """
        known = self._known.get(position)
        if known is not None:
            return known
        self._check(position)
        if self.is_complete:
            return self._everybody
        # From the ring and not from the matrix, which a single holder has no need of.
        half = self.neighbours // 2
        ring, places = _ring(self.size, self.seed)
        around = np.arange(places[position] - half, places[position] + half + 1) % self.size
        self._known[position] = tuple(sorted(ring[around].tolist()))
        return self._known[position]

    def place(self, dealer: int, holder: int) -> int:
        """Return the index of ``holder`` in ``receivers(dealer)``.

        Raises
        ------
        CohortError
            If it holds no share of that dealer's, or there is no such position.
        """
        self._check(holder)
        if self.is_complete:
            self._check(dealer)
            return holder
        receivers = self.receivers(dealer)
        index = bisect_left(receivers, holder)
        if index == len(receivers) or receivers[index] != holder:
            raise CohortError(f"holder {holder} has no share of holder {dealer}")
        return index

    def adjacent(self, one: int, other: int) -> bool:
        """Return whether two holders are neighbours; nobody is its own.

        Raises
        ------
        CohortError
            If there is no such position.
        """
        self._check(one)
        self._check(other)
        if self.is_complete or one == other:
            return one != other
        _, places = _ring(self.size, self.seed)
        apart = abs(int(places[one]) - int(places[other]))
        return min(apart, self.size - apart) <= self.neighbours // 2

    def starved(self, alive: npt.NDArray[np.bool_], threshold: int) -> tuple[int, ...]:
        """Return the positions of those alive with fewer than ``threshold`` alive receivers.

        Parameters
        ----------
        alive : bool (n,)
        threshold : int
            How many of ``receivers(i)``, i included, must be alive.

        Raises
        ------
        ValueError
            If ``alive`` does not have one entry for every holder.
        """
        if alive.shape != (self.size,):
            raise ValueError(f"alive wants the shape ({self.size},), not {alive.shape}")
        if self.is_complete:
            enough = np.full(self.size, int(alive.sum()) >= threshold)
            return tuple(np.flatnonzero(alive & ~enough).tolist())
        standing = alive[self.ring].astype(np.int64)
        half = self.neighbours // 2
        around = np.concatenate(([0], standing[-half:], standing, standing[:half])).cumsum()
        counts = around[self.neighbours + 1 :] - around[: self.size]
        short = self.ring[(counts < threshold) & (standing == 1)]
        return tuple(sorted(short.tolist()))

    @cached_property
    def _known(self) -> dict[int, tuple[int, ...]]:
        """Receivers that were asked for; the coordinator asks for each a hundred times a slot."""
        return {}

    @cached_property
    def _everybody(self) -> tuple[int, ...]:
        return tuple(range(self.size))

    def _check(self, position: int) -> None:
        if not 0 <= position < self.size:
            raise CohortError(f"there is no holder {position} among {self.size}")


@lru_cache(maxsize=8)  # in a simulation, all parties of a process draw the same ring
def _ring(size: int, seed: bytes) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return who stands at each place of the ring, and the place of each; int32 (n,), read-only."""
    order = list(range(size))
    if seed:
        keys = [hashlib.sha256(seed + one.to_bytes(4, "big")).digest() for one in order]
        order.sort(key=keys.__getitem__)  # stable: ties stay in the order of positions
    ring = np.array(order, dtype=np.int32)
    places = np.empty(size, np.int32)
    places[ring] = np.arange(size, dtype=np.int32)
    ring.flags.writeable = places.flags.writeable = False
    return ring, places
