"""Canonical bytes: what is signed, bound as associated data, or hashed.

Every part is preceded by its length, so that no two different lists of parts give the same
bytes; every use has its own label, so that no signature or key serves two purposes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

Part = bytes | str | int

_LABEL = b"fgcif/secagg/1/"


def canonical(label: str, *parts: Part) -> bytes:
    """Return the unambiguous encoding of ``parts`` under ``label``."""
    pieces = [_LABEL + label.encode()]
    for part in parts:
        if isinstance(part, int):
            part = part.to_bytes(8, "big", signed=True)
        elif isinstance(part, str):
            part = part.encode()
        pieces.append(part)
    return b"".join(len(piece).to_bytes(8, "big") + piece for piece in pieces)


def digest(label: str, *parts: Part) -> bytes:
    """Return SHA-256 of the canonical bytes (32 bytes)."""
    return hashlib.sha256(canonical(label, *parts)).digest()


def digest_pairs(label: str, pairs: Iterable[tuple[str, bytes]]) -> bytes:
    """Hash a set of (name, bytes) pairs independently of their order."""
    parts: list[Part] = []
    for name, value in sorted(pairs):
        parts += [name, value]
    return digest(label, *parts)


def digest_names(label: str, names: Sequence[str]) -> bytes:
    """Hash a set of names independently of their order."""
    return digest(label, *sorted(names))
