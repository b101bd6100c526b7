"""Masks: a 32-byte key expanded to words by AES-256 in counter mode.

Each key is used once, for one vector, from counter zero; at 2^32 blocks (64 GiB) a key would be
far past any vector here. Words are the keystream itself, so they are uniform modulo 2^b for every
b up to the machine word.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fgcif_flwr.secagg.encoding import Words

_CHUNK_BYTES = 1 << 17  # stays in a core's second-level cache
_ZEROS = bytes(_CHUNK_BYTES)


class MaskAdder:
    """Adds or subtracts expanded masks into one vector, through one reused buffer."""

    def __init__(self, total: Words) -> None:
        self.total = total
        self._buffer = bytearray(_CHUNK_BYTES + 15)  # update_into wants a block's slack
        self._stream = np.frombuffer(
            self._buffer, dtype=total.dtype, count=_CHUNK_BYTES // total.itemsize
        )

    def add(self, key: bytes) -> None:
        """Add the mask of ``key``."""
        self._apply(key, np.add)

    def subtract(self, key: bytes) -> None:
        """Subtract the mask of ``key``."""
        self._apply(key, np.subtract)

    def _apply(self, key: bytes, operation: np.ufunc) -> None:
        encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        step = len(self._stream)
        for start in range(0, len(self.total), step):
            part = self.total[start : start + step]
            length = part.nbytes
            encryptor.update_into(memoryview(_ZEROS)[:length], self._buffer)
            operation(part, self._stream[: len(part)], out=part)
