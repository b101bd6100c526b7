"""Keys of the masks that one enterprise shares with each of its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fgcif_flwr.secagg import keys
from fgcif_flwr.secagg.epoch import SlotContext


def pair_keys(
    private: X25519PrivateKey,
    mine: tuple[str, bytes],
    peers: Sequence[tuple[str, bytes]],
    context: SlotContext,
) -> tuple[list[bytes], list[bytes]]:
    """Return the keys of the masks that ``mine`` adds (towards later names) and subtracts.

    ``mine`` and ``peers`` are (name, round key).
    """
    added: list[bytes] = []
    subtracted: list[bytes] = []
    for peer in peers:
        if mine[0] < peer[0]:
            added.append(keys.agree(private, peer[1], context.pair(mine, peer)))
        else:
            subtracted.append(keys.agree(private, peer[1], context.pair(peer, mine)))
    return added, subtracted
