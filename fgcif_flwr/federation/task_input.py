"""What a task is computed from: named arrays, and the hash that binds them into the masks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

ArrayMap = Mapping[str, npt.NDArray[np.generic]]


def input_hash(arrays: ArrayMap) -> bytes:
    """Return SHA-256 over names, types, shapes and bytes of a task's input, in name order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        head = f"{name}\0{array.dtype.str}\0{array.shape}\0".encode()
        digest.update(len(head).to_bytes(4, "big") + head)
        digest.update(array.data)
    return digest.digest()
