"""What coordinator and enterprise say to each other, free of any transport.

===========  ==============================  ==================================================
exchange     coordinator says                enterprise answers
===========  ==============================  ==================================================
join         Manifest                        JoinReply
reveal       all JoinReplies                 GraphNonce (only where the graph is k-regular)
advertise    AdvertiseRequest                Advertisement
release      ReleaseRequest, task's input    Released (with the next slot's Advertisement)
consent      ConsentRequest                  Consent (only with ``secagg.consistency``)
unmask       UnmaskRequest                   UnmaskReply
===========  ==============================  ==================================================

A steady slot is *release* and *unmask* (and *consent* between them, where it is on); *advertise* is
for the first slot and for enterprises that come back. :mod:`fgcif_flwr.secagg.wire` gives each its
bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fgcif_flwr.errors import AuthenticationError, SecureSumError
from fgcif_flwr.secagg.keys import identifies
from fgcif_flwr.secagg.parameters import SecureSumParameters
from fgcif_flwr.secagg.transcript import canonical, digest, digest_pairs

_LARGEST = 1 << 32
RUN_BYTES = 16
NONCE_BYTES = 32
LONGEST_NAME = 64
LONGEST_ATTESTATION = 1024
"""Bytes: every join is told to everyone that joined."""


@dataclass(frozen=True)
class Manifest:
    """What a run is, as every enterprise accepts it at join.

    Attributes
    ----------
    run : bytes
        Drawn by the coordinator for the run, 16 bytes.
    epoch : int
        Counts the joins of a run from 1; keys of one epoch are never used in another.
    terms : str
        What decides the releases of the run, as canonical JSON: opaque here, the same for all.
        Requests name tasks; what a task computes follows from the terms.
    roster : tuple of (name, identity key)
        All who may join, in the order of names.
    threshold, tolerated_dropouts, tolerated_colluders, consistency, neighbours : optional
        As configured; None is filled in by :meth:`SecureSumParameters.choose` from the length of
        the roster, alike at every party.
    """

    run: bytes
    epoch: int
    terms: str
    roster: tuple[tuple[str, bytes], ...]
    threshold: int | None = None
    tolerated_dropouts: int | None = None
    tolerated_colluders: int | None = None
    consistency: bool | None = None
    neighbours: int | None = None

    def __post_init__(self) -> None:
        names = [name for name, _ in self.roster]
        publics = {public for _, public in self.roster}
        if names != sorted(set(names)):
            raise AuthenticationError("a roster wants each name once, in order")
        if not all(0 < len(name) <= LONGEST_NAME and name.isprintable() for name in names):
            raise AuthenticationError(
                f"a roster wants printable names of 1 to {LONGEST_NAME} characters"
            )
        if len(publics) != len(names) or not all(map(identifies, publics)):
            raise AuthenticationError("a roster wants a valid Ed25519 key of its own for each name")
        if not 1 <= self.epoch < _LARGEST:
            raise SecureSumError(f"an epoch is a number from 1 to {_LARGEST - 1}")
        if len(self.run) != RUN_BYTES:
            raise SecureSumError(f"a manifest names its run by {RUN_BYTES} bytes")

    def hash(self) -> bytes:
        """Digest of the whole manifest."""
        return self._hash

    @cached_property
    def identities(self) -> dict[str, bytes]:
        """Identity keys by name."""
        return dict(self.roster)

    @cached_property
    def _hash(self) -> bytes:
        optional = [
            -1 if value is None else int(value)
            for value in (
                self.threshold,
                self.tolerated_dropouts,
                self.tolerated_colluders,
                self.consistency,
                self.neighbours,
            )
        ]
        return digest(
            "manifest",
            self.run,
            self.epoch,
            self.terms,
            digest_pairs("roster", self.roster),
            *optional,
        )

    def parameters(self, holders: int) -> SecureSumParameters:
        """Return the parameters once so many of the roster have joined.

        They follow the roster, never the number that is said to have joined: else a coordinator
        could tell each victim that it and a few colluders are all
        (:meth:`SecureSumParameters.joined`).

        Raises
        ------
        CohortError
            If no parameters hold for the roster, or more of it than may be lost are missing.
        """
        whole = SecureSumParameters.choose(
            len(self.roster),
            self.threshold,
            self.tolerated_dropouts,
            self.tolerated_colluders,
            self.consistency,
            self.neighbours,
        )
        return whole.joined(holders)


@dataclass(frozen=True)
class JoinReply:
    """An enterprise's signed answer to a manifest.

    Attributes
    ----------
    name : str
        As in the roster.
    nonce : bytes
        Fresh, 32 bytes.
    channel_public : bytes
        X25519 public key.
    graph_commitment : bytes
        Binds its part of the randomness from which a k-regular graph is drawn.
    attestation : bytes
        What the enterprise's privacy ledger says of itself, at most LONGEST_ATTESTATION bytes,
        empty where there is none. Opaque here; all that joined see it, and see the same.
    signature : bytes
        Ed25519, over all of the above and the manifest's hash.
    """

    name: str
    nonce: bytes
    channel_public: bytes
    graph_commitment: bytes
    attestation: bytes
    signature: bytes

    def signed_bytes(self, manifest_hash: bytes) -> bytes:
        """Return what the identity key signs."""
        return canonical(
            "join",
            manifest_hash,
            self.name,
            self.nonce,
            self.channel_public,
            self.graph_commitment,
            self.attestation,
        )


@dataclass(frozen=True)
class GraphNonce:
    """Opens the commitment of a join, once all joins are fixed."""

    name: str
    nonce: bytes


@dataclass(frozen=True)
class AdvertiseRequest:
    """Asks for a round key for ``slot``.

    ``joins`` and ``graph_nonces`` tell who joined; whoever heard it already ignores them.
    """

    slot: int
    joins: tuple[JoinReply, ...] = ()
    graph_nonces: tuple[GraphNonce, ...] = ()


@dataclass(frozen=True)
class Advertisement:
    """A round key for one slot, with shares of its private half and of the self-mask seed.

    Attributes
    ----------
    sender, slot
        Who, and for which slot.
    round_public : bytes
        X25519 public key.
    seed_commitment : bytes
        Binds the self-mask seed (32 bytes).
    commitments : bytes
        For every receiver in order, itself included, the commitments to its two shares.
    sealed : bytes
        For every receiver in order, itself left out, its two shares under its channel key.
    signature : bytes
        Ed25519, over all of the above and the slot's binding.
    """

    sender: str
    slot: int
    round_public: bytes
    seed_commitment: bytes
    commitments: bytes
    sealed: bytes
    signature: bytes

    def rest(self) -> bytes:
        """Digest of what is signed besides the round key."""
        return digest("rest", self.seed_commitment, self.commitments, self.sealed)


@dataclass(frozen=True)
class CohortMember:
    """One neighbour's advertisement as shown to another: what concerns that other alone.

    ``rest`` and ``signature`` prove the round key where the sealed shares do not open.
    """

    name: str
    round_public: bytes
    rest: bytes
    signature: bytes
    commitments: bytes
    sealed: bytes


@dataclass(frozen=True)
class ReleaseRequest:
    """Asks for the masked vector of ``task`` in ``slot``.

    Attributes
    ----------
    run_id : bytes
        Of the epoch.
    slot, task
        Which keys to use, and what to compute.
    cohort : tuple of str
        Everybody who takes part, in the order of names.
    members : tuple of CohortMember
        The receiver's neighbours in the cohort, itself included, in the order of names.
    """

    run_id: bytes
    slot: int
    task: str
    cohort: tuple[str, ...]
    members: tuple[CohortMember, ...]


@dataclass(frozen=True)
class Released:
    """Packed words, uniform to whoever does not know the masks; and the next slot's round key.

    Attributes
    ----------
    complaints : tuple of str
        Dealers whose shares for the sender do not open, or are not what they are committed to.
    tags : bytes
        In a k-regular graph, for every neighbour in the cohort but itself a tag by which that one
        knows what this vector was masked for; else empty.
    next : Advertisement
        For the slot after.
    """

    sender: str
    slot: int
    words: bytes
    complaints: tuple[str, ...]
    tags: bytes
    next: Advertisement


@dataclass(frozen=True)
class ConsentRequest:
    """Shows one enterprise who of the cohort arrived and who did not, before anything is opened."""

    run_id: bytes
    slot: int
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class Consent:
    """An enterprise's signature of the one list of survivors that it will ever sign for a slot."""

    sender: str
    slot: int
    signature: bytes


@dataclass(frozen=True)
class UnmaskRequest:
    """Who of the cohort arrived and who did not; a partition of the cohort.

    ``consents`` are as many as :attr:`SecureSumParameters.consents`, where consistency is
    asked for. ``tags`` are, in a k-regular graph, those that the receiver's surviving neighbours
    sent for it.
    """

    run_id: bytes
    slot: int
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]
    consents: tuple[Consent, ...] = ()
    tags: bytes = b""


@dataclass(frozen=True)
class UnmaskReply:
    """One opened share, with its salt, for every neighbour in the cohort in the order of names:
    of the self-mask seed for a survivor, of the round key for a dropped one.

    ``withheld`` names the survivors whose tag does not show that they masked for the same; zeros
    stand for their shares.
    """

    sender: str
    slot: int
    shares: bytes
    withheld: tuple[str, ...] = ()
