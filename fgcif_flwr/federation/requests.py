"""The requests that an enterprise answers and its replies, before they become Flower records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fgcif_flwr import errors
from fgcif_flwr.errors import AuthenticationError, FgcifError
from fgcif_flwr.secagg.keys import KeyPair, identifies, sign, verify
from fgcif_flwr.secagg.messages import (
    LONGEST_NAME,
    Advertisement,
    AdvertiseRequest,
    Consent,
    ConsentRequest,
    GraphNonce,
    JoinReply,
    Manifest,
    Released,
    ReleaseRequest,
    UnmaskReply,
    UnmaskRequest,
)
from fgcif_flwr.secagg.transcript import canonical

Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Identify:
    """Asks who a node is; ``challenge`` is fresh, of 32 bytes, and for this node alone."""

    node: str
    challenge: bytes


@dataclass(frozen=True)
class Identity:
    """Name and Ed25519 public key, and the proof that the node has the private one."""

    name: str
    public: bytes
    signature: bytes

    @classmethod
    def of(cls, name: str, identity: KeyPair, request: Identify) -> Identity:
        """Answer the challenge."""
        return cls(name, identity.public, sign(identity, _proven(name, request)))

    def verify(self, request: Identify) -> None:
        """Raise AuthenticationError unless the challenge is answered with this key, for this node
        and under a name that a roster may hold."""
        name = "".join(c if c.isprintable() else "?" for c in self.name[:LONGEST_NAME])
        if name != self.name or not name or not identifies(self.public):
            raise AuthenticationError(f"node {request.node} has no valid name or key")
        verify(self.public, self.signature, _proven(self.name, request), name)


def _proven(name: str, request: Identify) -> bytes:
    return canonical("identity", name, request.node, request.challenge)


@dataclass(frozen=True)
class Join:
    """Asks an enterprise to accept a manifest."""

    manifest: Manifest


@dataclass(frozen=True)
class Reveal:
    """Asks for the graph nonces, now that all joins are fixed."""

    joins: tuple[JoinReply, ...]


@dataclass(frozen=True)
class Release:
    """Asks for a masked vector; ``arrays`` is the task's input."""

    request: ReleaseRequest
    arrays: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """Says no: the exit code of the error's class and its message (never a customer's value)."""

    code: int
    reason: str

    @classmethod
    def of(cls, error: FgcifError) -> Refusal:
        """Describe an error of ours, by its class alone where its message counts rows."""
        if error.told_outside:
            # A stranger's own words may be in it, which no byte form need be able to write.
            return cls(error.exit_code, _shown(str(error)))
        kind = type(error)
        meaning = (kind.__doc__ or kind.__name__).split(".")[0].split(" (")[0]
        return cls(kind.exit_code, f"{meaning}; this enterprise's own log says more")

    @classmethod
    def internal(cls) -> Refusal:
        """Say only that something failed that is not the asker's matter."""
        return cls(FgcifError.exit_code, "internal error; this enterprise's own log says more")

    def as_error(self, who: str) -> FgcifError:
        """Return the error that was refused with, naming the enterprise."""
        # An enterprise's words go to logs and terminals.
        return errors.by_exit_code(self.code, f"{who}: {_shown(self.reason)}")


def _shown(words: str) -> str:
    """Return words without control characters and lone surrogates, and not too many."""
    return "".join(c if c.isprintable() else "?" for c in words[:500])


Request = Identify | Join | Reveal | AdvertiseRequest | Release | ConsentRequest | UnmaskRequest
Reply = (
    Identity | JoinReply | GraphNonce | Advertisement | Released | Consent | UnmaskReply | Refusal
)

MESSAGE_TYPES: Mapping[str, type[Request]] = {
    "query.identify": Identify,
    "query.join": Join,
    "query.reveal": Reveal,
    "query.advertise": AdvertiseRequest,
    "train.release": Release,
    "query.consent": ConsentRequest,
    "query.unmask": UnmaskRequest,
}
"""Flower's message types that carry a request, by which the ClientApp routes it."""
_TYPES = {kind: name for name, kind in MESSAGE_TYPES.items()}


def message_type(request: Request) -> str:
    """Return the message type of a request."""
    return _TYPES[type(request)]
