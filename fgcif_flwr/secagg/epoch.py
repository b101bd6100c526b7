"""What all parties of an epoch agree on, and the bytes by which slots are bound to it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from fgcif_flwr.errors import AuthenticationError, CohortError, SecureSumError
from fgcif_flwr.secagg.graph import Graph
from fgcif_flwr.secagg.keys import KEY_BYTES, SIGNATURE_BYTES, TAG_BYTES, contributory, verify
from fgcif_flwr.secagg.messages import (
    LONGEST_ATTESTATION,
    NONCE_BYTES,
    Advertisement,
    GraphNonce,
    JoinReply,
    Manifest,
)
from fgcif_flwr.secagg.parameters import SecureSumParameters
from fgcif_flwr.secagg.shamir import SHARE_BYTES
from fgcif_flwr.secagg.transcript import Part, canonical, digest, digest_pairs, fixed, name_id

SALT_BYTES = 16
COMMITMENT_BYTES = 24
"""Of SHA-256: whoever deals shares would need 2^96 steps to open one commitment in two ways."""
SEALED_BYTES = 2 * SHARE_BYTES + TAG_BYTES
OPENED_BYTES = SHARE_BYTES + SALT_BYTES
ROUND_KEY, SELF_MASK = 0, 1
"""Kinds of secret of a slot, in the order in which their shares are sealed."""


@dataclass(frozen=True)
class Epoch:
    """One join's outcome.

    Attributes
    ----------
    manifest : Manifest
    run_id : bytes
        Hash of the manifest and all nonces, so no two joins share one.
    holders : tuple of str
        Those who joined, in the order of names; each holds shares of its neighbours' secrets.
    holders_hash : bytes
        Of their names and channel keys.
    graph_seed : bytes
        From all holders' randomness, fixed after their commitments; zeros for a complete graph.
    """

    manifest: Manifest
    run_id: bytes
    holders: tuple[str, ...]
    holders_hash: bytes
    graph_seed: bytes

    @cached_property
    def parameters(self) -> SecureSumParameters:
        """Threshold, most dropped, colluders, neighbours."""
        return self.manifest.parameters(len(self.holders))

    @cached_property
    def graph(self) -> Graph:
        """Who masks with whom, and holds whose shares."""
        if self.parameters.complete:
            return Graph.complete(len(self.holders))
        return Graph.regular(len(self.holders), self.parameters.neighbours, self.graph_seed)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.holders)}

    def position(self, name: str) -> int:
        """Index of a holder: its share's evaluation point, less one."""
        try:
            return self._positions[name]
        except KeyError:
            raise CohortError(f"{name} is not among those that joined") from None

    def receivers(self, name: str) -> tuple[str, ...]:
        """Holders of a dealer's shares, itself included, in the order of names."""
        return tuple(self.holders[i] for i in self.graph.receivers(self.position(name)))

    def neighbours(self, name: str, cohort: Sequence[str]) -> tuple[str, ...]:
        """Members of ``cohort`` that hold a share of ``name``'s secrets, in its order."""
        if self.parameters.complete:
            return tuple(cohort)
        near = set(self.receivers(name))
        return tuple(member for member in cohort if member in near)

    def check_advertisement(self, ad: Advertisement) -> None:
        """Raise SecureSumError unless an advertisement is whole, signed, and has a valid key."""
        shares = len(self.graph.receivers(self.position(ad.sender)))
        if (
            len(ad.round_public) != KEY_BYTES
            or len(ad.seed_commitment) != KEY_BYTES
            or len(ad.commitments) != 2 * COMMITMENT_BYTES * shares
            or len(ad.sealed) != SEALED_BYTES * (shares - 1)  # nothing is sealed for oneself
            or len(ad.signature) != SIGNATURE_BYTES
        ):
            raise SecureSumError(f"the advertisement of {ad.sender} is not whole")
        if not contributory(ad.round_public):
            raise SecureSumError(f"the round key of {ad.sender} is not a valid X25519 key")
        signed = self.advertised_bytes(ad.slot, ad.sender, ad.round_public, ad.rest())
        verify(self.manifest.identities[ad.sender], ad.signature, signed, ad.sender)

    def slot_binding(self, slot: int) -> bytes:
        """Digest of everything that all sealed shares of a slot are bound to."""
        return digest("slot", self._binding, slot)

    @cached_property
    def _binding(self) -> bytes:
        return digest(
            "epoch",
            self.run_id,
            self.manifest.epoch,
            self.holders_hash,
            self.graph_seed,
            self.parameters.threshold,
            self.parameters.neighbours,
        )

    def channel_context(self, label: str, sender: str, receiver: str) -> bytes:
        """HKDF info of a channel key from ``sender`` to ``receiver``."""
        return canonical("channel", label, self.run_id, self.manifest.epoch, sender, receiver)

    def advertised_bytes(self, slot: int, sender: str, round_public: bytes, rest: bytes) -> bytes:
        """Return what an advertisement's signature covers."""
        return canonical("advertise", self.slot_binding(slot), sender, round_public, rest)

    def share_nonce(self, slot: int, round_public: bytes) -> bytes:
        """Nonce of all shares of one advertisement.

        It follows the fresh round key, so that even a party whose slot counter was set back
        never seals twice under one key and nonce.
        """
        return digest("nonce", slot, round_public)[:12]

    def seed_commitment(self, slot: int, sender: str, seed: bytes) -> bytes:
        """Commitment to a self-mask seed (hiding because the seed is 32 uniform bytes)."""
        return digest("self-mask", self.run_id, slot, sender, seed)

    def rotation_seed(self, slot: int, input_hash: bytes) -> bytes:
        """Seed of the random rotation of a slot's vectors: public, new in every slot, and not of
        the run's keys, so that equal runs round alike."""
        return digest("slot-rotation", self.manifest.terms, slot, input_hash)

    def consent_bytes(
        self, slot: int, cohort: Sequence[str], survivors: Sequence[str], dropped: Sequence[str]
    ) -> bytes:
        """Return what a consent's signature covers."""
        lists = (digest("names", *cohort), digest("names", *survivors), digest("names", *dropped))
        return canonical("consent", self.slot_binding(slot), *lists)


@dataclass(frozen=True)
class SlotContext:
    """What the masks of one slot are bound to; any difference between parties yields noise."""

    epoch: Epoch
    slot: int
    task: str
    cohort: tuple[str, ...]
    layout_hash: bytes
    input_hash: bytes

    @cached_property
    def binding(self) -> bytes:
        """Digest of everything that all masks of the slot are bound to."""
        return digest(
            "masks",
            self.epoch.slot_binding(self.slot),
            self.task,
            digest("names", *self.cohort),
            self.layout_hash,
            self.input_hash,
        )

    def pair(self, low: tuple[str, bytes], high: tuple[str, bytes]) -> bytes:
        """HKDF info of a pairwise mask; ``low`` and ``high`` are (name, round key)."""
        return fixed("pair", self.binding, name_id(low[0]), low[1], name_id(high[0]), high[1])

    def own(self, name: str) -> bytes:
        """HKDF info of a self mask."""
        return fixed("own", self.binding, name_id(name))


def share_context(
    binding: bytes, sender: str, receiver: str, round_public: bytes, commitments: bytes
) -> bytes:
    """Associated data of a sealed share; ``binding`` is :meth:`Epoch.slot_binding`."""
    return fixed("share", binding, name_id(sender), name_id(receiver), round_public) + commitments


def commit_share(binding: bytes, dealer: str, receiver: int, kind: int, opened: bytes) -> bytes:
    """Commitment to one share for the holder at position ``receiver``.

    ``opened`` is the share followed by its salt, OPENED_BYTES long.
    """
    return hashlib.sha256(
        fixed("commitment", binding, name_id(dealer))
        + receiver.to_bytes(4, "big")
        + bytes([kind])
        + opened
    ).digest()[:COMMITMENT_BYTES]


def graph_commitment(manifest_hash: bytes, name: str, nonce: bytes) -> bytes:
    """Commitment to an enterprise's part of the graph's randomness."""
    return digest("graph-nonce", manifest_hash, name, nonce)


def verify_join(manifest: Manifest, join: JoinReply) -> None:
    """Raise AuthenticationError unless a join is whole and signed by one of the roster."""
    if join.name not in manifest.identities:
        raise AuthenticationError(f"{join.name} joined but is not on the roster")
    lengths = [len(join.nonce), len(join.graph_commitment), len(join.channel_public)]
    if lengths != [NONCE_BYTES, KEY_BYTES, KEY_BYTES]:
        raise AuthenticationError(f"the join of {join.name} is not whole")
    if len(join.attestation) > LONGEST_ATTESTATION:
        raise AuthenticationError(
            f"the join of {join.name} attests {len(join.attestation)} bytes; "
            f"{LONGEST_ATTESTATION} are allowed"
        )
    signed = join.signed_bytes(manifest.hash())
    verify(manifest.identities[join.name], join.signature, signed, join.name)


def fix_epoch(
    manifest: Manifest, joins: Sequence[JoinReply], graph_nonces: Sequence[GraphNonce] = ()
) -> Epoch:
    """Check every join's signature against the roster and return the epoch.

    Raises
    ------
    AuthenticationError
        Naming the enterprise that is not on the roster, is named twice, whose signature does not
        match, or whose nonce is absent or does not open its commitment.
    CohortError
        If the threshold rule cannot hold for so few.
    """
    for join in joins:
        verify_join(manifest, join)
    joins = sorted(joins, key=lambda join: join.name)
    names = tuple(join.name for join in joins)
    if len(set(names)) != len(names):
        raise AuthenticationError("an enterprise is named twice among those that joined")
    parts: list[Part] = [manifest.hash()]
    for join in joins:
        parts += [join.name, join.nonce, join.graph_commitment, join.attestation]
    run_id = digest("run", *parts)
    complete = manifest.parameters(len(names)).complete
    seed = bytes(32) if complete else _graph_seed(manifest, run_id, joins, graph_nonces)
    holders_hash = digest_pairs("holders", [(j.name, j.channel_public) for j in joins])
    return Epoch(manifest, run_id, names, holders_hash, seed)


def opens_commitment(manifest: Manifest, join: JoinReply, nonce: bytes) -> bool:
    """Whether a graph nonce is the one that its owner committed to at join."""
    expected = graph_commitment(manifest.hash(), join.name, nonce)
    return len(nonce) == NONCE_BYTES and expected == join.graph_commitment


def _graph_seed(
    manifest: Manifest, run_id: bytes, joins: Sequence[JoinReply], opened: Sequence[GraphNonce]
) -> bytes:
    nonces = {one.name: one.nonce for one in opened}
    if len(nonces) != len(opened) or set(nonces) != {join.name for join in joins}:
        raise AuthenticationError("the graph wants one nonce from everyone that joined")
    for join in joins:
        if not opens_commitment(manifest, join, nonces[join.name]):
            raise AuthenticationError(f"the graph nonce of {join.name} is not its committed one")
    return digest("graph", run_id, *(nonces[join.name] for join in joins))
