"""Advertise: a round key for one slot, and shares of its secrets for the neighbours."""

from __future__ import annotations

from dataclasses import dataclass

from fgcif_flwr.secagg import keys, shamir
from fgcif_flwr.secagg.epoch import (
    ROUND_KEY,
    SALT_BYTES,
    SELF_MASK,
    commit_share,
    share_context,
)
from fgcif_flwr.secagg.keys import Entropy, KeyPair
from fgcif_flwr.secagg.messages import Advertisement
from fgcif_flwr.secagg.participant.joining import Joined
from fgcif_flwr.secagg.shamir import SHARE_BYTES


@dataclass(frozen=True, repr=False)
class Advertised:
    """Secrets of an advertised slot, and what was said of them.

    ``own`` are the own shares of both secrets, each followed by its salt.
    """

    round_key: KeyPair
    seed: bytes
    own: bytes
    said: Advertisement

    @property
    def slot(self) -> int:
        """The slot that they are for."""
        return self.said.slot


def advertise(
    name: str, identity: KeyPair, joined: Joined, slot: int, entropy: Entropy
) -> Advertised:
    """Draw round key and self-mask seed for ``slot``, share both, commit to every share, sign."""
    epoch = joined.epoch
    round_key = keys.agreement_from_seed(entropy(32))
    seed = entropy(32)
    positions = epoch.graph.receivers(epoch.position(name))
    shares = shamir.split(
        [round_key.private, seed],
        epoch.parameters.threshold,
        [position + 1 for position in positions],
        entropy,
    ).tobytes()
    nonce = epoch.share_nonce(slot, round_key.public)
    binding = epoch.slot_binding(slot)
    channels = iter(joined.channels)
    commitments: list[bytes] = []
    sealed: list[bytes] = []
    own = b""
    for index, position in enumerate(positions):
        start = 2 * SHARE_BYTES * index
        pair = shares[start : start + 2 * SHARE_BYTES]
        mine = epoch.holders[position] == name
        if mine:
            salts = entropy(2 * SALT_BYTES)
            opened = (
                pair[:SHARE_BYTES] + salts[:SALT_BYTES],
                pair[SHARE_BYTES:] + salts[SALT_BYTES:],
            )
        else:
            channel = next(channels)
            opened = with_salts(pair, channel.salt_to, nonce)
        committed = b"".join(
            commit_share(binding, name, position, kind, opened[kind])
            for kind in (ROUND_KEY, SELF_MASK)
        )
        commitments.append(committed)
        if mine:
            own = b"".join(opened)
            continue
        context = share_context(binding, name, channel.peer, round_key.public, committed)
        sealed.append(keys.seal(channel.seal_to, nonce, pair, context))
    unsigned = Advertisement(
        name,
        slot,
        round_key.public,
        epoch.seed_commitment(slot, name, seed),
        b"".join(commitments),
        b"".join(sealed),
        b"",
    )
    signed = epoch.advertised_bytes(slot, name, round_key.public, unsigned.rest())
    said = Advertisement(
        name,
        slot,
        unsigned.round_public,
        unsigned.seed_commitment,
        unsigned.commitments,
        unsigned.sealed,
        keys.sign(identity, signed),
    )
    return Advertised(round_key, seed, own, said)


def with_salts(pair: bytes, salt_key: bytes, nonce: bytes) -> tuple[bytes, bytes]:
    """Return the two shares of ``pair``, each followed by its salt.

    Salts follow from a key that only dealer and holder have, so that they cost nothing on the
    wire until a share is opened.
    """
    return (
        pair[:SHARE_BYTES] + keys.expand_salt(salt_key, nonce, ROUND_KEY, SALT_BYTES),
        pair[SHARE_BYTES:] + keys.expand_salt(salt_key, nonce, SELF_MASK, SALT_BYTES),
    )
