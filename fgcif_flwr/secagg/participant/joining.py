"""Join: accept a manifest, learn who else did, agree on channel keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fgcif_flwr.errors import AuthenticationError, CohortError, PhaseError, SecureSumError
from fgcif_flwr.secagg import keys, wire
from fgcif_flwr.secagg.epoch import Epoch, fix_epoch, graph_commitment, verify_join
from fgcif_flwr.secagg.keys import Entropy, KeyPair
from fgcif_flwr.secagg.messages import (
    LONGEST_ATTESTATION,
    NONCE_BYTES,
    GraphNonce,
    JoinReply,
    Manifest,
)
from fgcif_flwr.secagg.transcript import digest

MOST_GRAPHS = 1024
"""Graphs that an enterprise lets be drawn, whatever runs they are for. Each epoch draws anew, also
where a colluder keeps its nonce back because it dislikes the draw; so all of them together are as
secure as one draw less 10 bits."""


@dataclass(frozen=True, repr=False)
class Joining:
    """Between the join reply and the word of who joined.

    ``revealed_to`` is the digest of the joins for which the graph nonce was told; empty before.
    """

    manifest: Manifest
    said: JoinReply
    channel_private: bytes
    graph_nonce: bytes
    revealed_to: bytes = b""


@dataclass(frozen=True, repr=False)
class Channel:
    """Keys shared with one neighbour for an epoch: to seal shares, to salt commitments to them,
    and to tag what a vector was masked for; one of each a direction."""

    peer: str
    seal_to: bytes
    seal_from: bytes
    salt_to: bytes
    salt_from: bytes
    tag_to: bytes
    tag_from: bytes


@dataclass(frozen=True, repr=False)
class Joined:
    """An epoch from one enterprise's side: channels in the order of its neighbours' names."""

    epoch: Epoch
    channels: tuple[Channel, ...]


def join(
    name: str,
    identity: KeyPair,
    manifest: Manifest,
    semi_honest: bool,
    entropy: Entropy,
    attestation: bytes = b"",
) -> Joining:
    """Accept a manifest: draw nonces and a channel key, sign their public halves.

    Parameters
    ----------
    attestation
        As in :class:`JoinReply`.

    Raises
    ------
    AuthenticationError
        If the roster does not hold this enterprise's identity key.
    CohortError
        If its parameters hold for no secure sum, or only against a semi-honest coordinator where
        that was not accepted.
    SecureSumError
        If the attestation is longer than LONGEST_ATTESTATION bytes.
    """
    if manifest.identities.get(name) != identity.public:
        raise AuthenticationError(f"the roster does not hold the identity key of {name}")
    parameters = manifest.parameters(len(manifest.roster))
    if not semi_honest and parameters.withstands != "lying coordinator":
        raise CohortError(
            "secagg.consistency is off in a k-regular graph: a lying coordinator could open the "
            f"vector of a single enterprise; {name} does not accept that"
        )
    if len(attestation) > LONGEST_ATTESTATION:
        raise SecureSumError(
            f"the attestation of {name} has {len(attestation)} bytes; a join holds at most "
            f"{LONGEST_ATTESTATION}"
        )
    channel = keys.agreement_from_seed(entropy(32))
    graph_nonce = entropy(NONCE_BYTES)
    commitment = graph_commitment(manifest.hash(), name, graph_nonce)
    nonce = entropy(NONCE_BYTES)
    unsigned = JoinReply(name, nonce, channel.public, commitment, attestation, b"")
    signature = keys.sign(identity, unsigned.signed_bytes(manifest.hash()))
    return Joining(manifest, replace(unsigned, signature=signature), channel.private, graph_nonce)


def reveal(joining: Joining, joins: Sequence[JoinReply]) -> tuple[Joining, GraphNonce]:
    """Tell this enterprise's part of the graph's randomness, once all joins are fixed.

    Raises
    ------
    PhaseError
        If it was told for other joins already: the graph could be drawn twice.
    AuthenticationError, CohortError
        If the joins do not hold, or this enterprise's own was changed.
    """
    _check_own(joining, joins)
    for one in joins:
        verify_join(joining.manifest, one)
    joining.manifest.parameters(len(joins))
    fixed = _digest(joins)
    if joining.revealed_to not in (b"", fixed):
        raise PhaseError("the graph nonce of an epoch is told for one list of joins only")
    return replace(joining, revealed_to=fixed), GraphNonce(joining.said.name, joining.graph_nonce)


def begin(
    joining: Joining, joins: Sequence[JoinReply], graph_nonces: Sequence[GraphNonce]
) -> Joined:
    """Learn who joined: verify all signatures once, agree on channel keys with the neighbours.

    Raises
    ------
    AuthenticationError
        If a signature is wrong or this enterprise's own join was changed.
    PhaseError
        If the joins are not those for which the graph nonce was told.
    CohortError
        If the threshold rule fails.
    """
    _check_own(joining, joins)
    if joining.revealed_to and joining.revealed_to != _digest(joins):
        raise PhaseError("these are not the joins for which the graph nonce was told")
    epoch = fix_epoch(joining.manifest, joins, graph_nonces)
    name = joining.said.name
    private = keys.load_agreement(joining.channel_private)
    publics = {one.name: one.channel_public for one in joins}
    channels: list[Channel] = []
    for peer in epoch.receivers(name):
        if peer == name:
            continue
        try:
            secret = keys.agree(private, publics[peer], epoch.channel_context("pair", "", ""))
        except AuthenticationError:
            raise AuthenticationError(
                f"the channel key of {peer} is not a valid X25519 key"
            ) from None
        both = [
            keys.derive(secret, epoch.channel_context(label, *direction))
            for label in ("seal", "salt", "tag")
            for direction in ((name, peer), (peer, name))
        ]
        channels.append(Channel(peer, *both))
    return Joined(epoch, tuple(channels))


def _check_own(joining: Joining, joins: Sequence[JoinReply]) -> None:
    if [one for one in joins if one.name == joining.said.name] != [joining.said]:
        raise AuthenticationError(f"the join of {joining.said.name} is missing or was changed")


def _digest(joins: Sequence[JoinReply]) -> bytes:
    # Of all their bytes: a signature alone need not stand for what it signs.
    return digest("joins", *(wire.encode(one) for one in sorted(joins, key=lambda one: one.name)))
