"""The coordinator's signature on each request, which an enterprise's agent wants.

What is signed: for whom, a number that only grows, the kind of message, its bytes, and the hash of
the task's input. The code that carries a request (SuperLink, SuperNode, ClientApp) can thus neither
make one up nor change one, and an old one has an old number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from fgcif_flwr.errors import AuthenticationError
from fgcif_flwr.secagg.keys import KeyPair, sign, signed
from fgcif_flwr.secagg.transcript import canonical

ANYBODY = ""
"""Recipient of a request to a node whose name is not known yet."""
_SIGNATURE_BYTES = 64


@dataclass(frozen=True)
class RequestSignature:
    """What comes beside a signed request.

    Attributes
    ----------
    recipient : str
        Name of the enterprise, or :data:`ANYBODY`.
    number : int
        Greater than that of every earlier request of the same coordinator.
    signature : bytes
        Ed25519 (RFC 8032), 64 bytes.
    """

    recipient: str
    number: int
    signature: bytes

    def verify(self, coordinator: bytes, kind: str, message: bytes, hashed: bytes) -> None:
        """Raise AuthenticationError unless the coordinator signed this very request.

        Parameters
        ----------
        coordinator
            The pinned Ed25519 public key, 32 bytes.
        kind
            Flower's message type.
        message
            The request's bytes (:mod:`fgcif_flwr.secagg.wire`).
        hashed
            :func:`fgcif_flwr.federation.task_input.input_hash` of the arrays beside it; that of
            none where there are none.
        """
        if len(self.signature) != _SIGNATURE_BYTES or not 0 <= self.number < 1 << 63:
            raise AuthenticationError("the request's signature is malformed")
        said = _said(self.recipient, self.number, kind, message, hashed)
        if not signed(coordinator, self.signature, said):
            raise AuthenticationError("the request is not signed by the coordinator's pinned key")


class Signer:
    """Signs a coordinator's requests.

    Parameters
    ----------
    identity : KeyPair
        The coordinator's Ed25519 key pair.
    clock : callable
        Nanoseconds; numbers follow it, so that they grow over restarts too.
    """

    def __init__(self, identity: KeyPair, clock: Callable[[], int] = time.time_ns) -> None:
        self._identity = identity
        self._clock = clock
        self._last = 0

    def sign(self, recipient: str, kind: str, message: bytes, hashed: bytes) -> RequestSignature:
        """Sign one request, under the next number."""
        self._last = max(self._last + 1, self._clock())
        said = _said(recipient, self._last, kind, message, hashed)
        return RequestSignature(recipient, self._last, sign(self._identity, said))


def _said(recipient: str, number: int, kind: str, message: bytes, hashed: bytes) -> bytes:
    return canonical("request", recipient, number, kind, message, hashed)
