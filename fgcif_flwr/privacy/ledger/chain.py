"""The chain of a ledger's entries, and what an enterprise shows of it.

Each entry's digest is keyed by the ledger and takes in the one before. What is charged is no secret
from those who plan the runs, so with a plain hash they could try out what a ledger holds of other
runs; without the key a digest tells nothing.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from itertools import pairwise

from fgcif_flwr.errors import PrivacyError
from fgcif_flwr.secagg.transcript import Part, canonical

SHOWN_JOINS = 8
"""Of how many joins, the last ones, an attestation shows the head."""
_DIGEST_BYTES = 32
_MAGIC = b"fgcif/ledger/1\0"
_HEAD = struct.Struct(f">Q{_DIGEST_BYTES}s")
_FIXED = len(_MAGIC) + _DIGEST_BYTES + _HEAD.size


@dataclass(frozen=True)
class Head:
    """Where a chain stands.

    Attributes
    ----------
    length : int
        Number of entries; 0 for a new ledger.
    digest : bytes
        Of the last entry, and so of all of them (32 bytes).
    """

    length: int
    digest: bytes


class Chain:
    """The digests of one ledger.

    Parameters
    ----------
    key
        Of the ledger's own, 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = hmac.digest(key, canonical("ledger/chain"), "sha256")

    def keyed(self, label: str, *parts: Part) -> bytes:
        """Return the keyed digest of ``parts`` under ``label`` (32 bytes)."""
        return hmac.digest(self._key, canonical(f"ledger/{label}", *parts), "sha256")

    def genesis(self, population: str, orders: bytes) -> bytes:
        """Return the digest that an empty ledger has."""
        return self.keyed("genesis", population, orders)

    def after(self, head: Head, kind: str, run: str, task: str, body: bytes) -> Head:
        """Return the head once an entry is appended."""
        number = head.length + 1
        return Head(number, self.keyed("entry", head.digest, number, kind, run, task, body))


@dataclass(frozen=True)
class Attestation:
    """What an enterprise shows of its ledger at each join: lengths and digests, nothing else.

    Attributes
    ----------
    genesis : bytes
        Digest of the ledger when it was empty (32 bytes): tells one ledger from another.
    head : Head
    joins : tuple of Head
        The heads that the chain had right after its last joins, at most SHOWN_JOINS, ascending.

    Raises
    ------
    ValueError
        If the values contradict each other.
    """

    genesis: bytes
    head: Head
    joins: tuple[Head, ...]

    def __post_init__(self) -> None:
        lengths = [0, *(join.length for join in self.joins), self.head.length]
        ascending = all(one < other for one, other in pairwise(lengths[:-1]))
        # A chain has one digest at each length.
        heads = {Head(0, self.genesis), *self.joins, self.head}
        if (
            not ascending
            or lengths[-2] > lengths[-1]
            or len({head.length for head in heads}) != len(heads)
            or len(self.joins) > SHOWN_JOINS
            or any(len(head.digest) != _DIGEST_BYTES for head in heads)
        ):
            raise ValueError("an attestation contradicts itself")

    @property
    def since(self) -> int:
        """The least length from which on every join is shown: 0 where there were few joins."""
        return self.joins[0].length if len(self.joins) == SHOWN_JOINS else 0

    def to_bytes(self) -> bytes:
        """Return the canonical bytes, at most 415."""
        heads = (_HEAD.pack(head.length, head.digest) for head in (self.head, *self.joins))
        return b"".join((_MAGIC, self.genesis, *heads))

    @classmethod
    def from_bytes(cls, data: bytes) -> Attestation:
        """Read an attestation; PrivacyError if it is none."""
        begin = len(_MAGIC) + _DIGEST_BYTES
        try:
            if len(data) < _FIXED or not data.startswith(_MAGIC):
                raise ValueError("this is no attestation")
            head, *joins = (Head(*one) for one in _HEAD.iter_unpack(data[begin:]))
            return cls(data[len(_MAGIC) : begin], head, tuple(joins))
        except (ValueError, struct.error):
            raise PrivacyError("this is no attestation of a privacy ledger") from None

    def contradiction(self, later: Attestation) -> str | None:
        """Say why a later attestation is not of the same ledger, only grown; None if it may be.

        Joins are compared as far back as the later one shows them.
        """
        if later.genesis != self.genesis:
            return "another ledger was put in its place: a new one, or that of other customers"
        if later.head.length < self.head.length:
            return f"it has {later.head.length} entries and had {self.head.length} before"
        if later.head.length == self.head.length and later.head.digest != self.head.digest:
            return f"its {self.head.length} entries are not those that it had before"
        span = range(later.since, self.head.length + 1)
        before, now = ({join for join in one.joins if join.length in span} for one in (self, later))
        if before != now:
            return "joins that it showed before are not among those that it shows now"
        return None
