"""A participant's secrets between two messages, as flat values that a store can hold.

In a simulation the store is Flower's ``context.state`` (each message may meet another process);
an agent keeps the participant itself in memory and needs none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import lru_cache

from fgcif_flwr.secagg.epoch import Epoch
from fgcif_flwr.secagg.keys import KEY_BYTES, TAG_BYTES, KeyPair
from fgcif_flwr.secagg.messages import Advertisement, Manifest
from fgcif_flwr.secagg.parameters import SecureSumParameters
from fgcif_flwr.secagg.participant import Channel, OpenSlot, Participant, ReleasedSlot
from fgcif_flwr.secagg.shamir import SHARE_BYTES

State = dict[str, int | str | bytes]


def dump(participant: Participant) -> State:
    """Return everything that :func:`load` needs to go on; holds secrets."""
    state: State = {
        "name": participant.name,
        "identity_private": participant.identity.private,
        "identity_public": participant.identity.public,
        "join_nonce": participant.join_nonce,
        "last_slot": participant.last_slot,
    }
    if participant.manifest is not None:
        state["manifest"] = participant.manifest.to_json()
    if participant.channel_key is not None:
        state["channel_private"] = participant.channel_key.private
        state["channel_public"] = participant.channel_key.public
    epoch = participant.epoch
    if epoch is not None:
        peers = [name for name in epoch.holders if name != participant.name]
        state["run_id"] = epoch.run_id
        state["holders"] = json.dumps(epoch.holders)
        state["holders_hash"] = epoch.holders_hash
        state["channels"] = b"".join(
            participant.channels[name].outgoing + participant.channels[name].incoming
            for name in peers
        )
    if participant.advertised is not None:
        opened = participant.advertised
        state["open_slot"] = opened.slot
        state["open_secrets"] = opened.round_key.private + opened.seed + opened.own_shares
        state["open_public"] = opened.said.round_public
        state["open_commitment"] = opened.said.commitment
        state["open_sealed"] = b"".join(opened.said.sealed)
    if participant.released is not None:
        state["released_slot"] = participant.released.slot
        state["released_cohort"] = json.dumps(participant.released.cohort)
        state["released_shares"] = b"".join(participant.released.shares)
        state["released_sent"] = int(participant.released.sent)
    return state


def load(state: Mapping[str, object], entropy: Callable[[int], bytes] = os.urandom) -> Participant:
    """Rebuild a participant from :func:`dump`."""
    participant = Participant(
        _text(state, "name"),
        KeyPair(_octets(state, "identity_private"), _octets(state, "identity_public")),
        entropy,
    )
    participant.join_nonce = _octets(state, "join_nonce")
    participant.last_slot = _number(state, "last_slot")
    if "manifest" in state:
        participant.manifest = _manifest(_text(state, "manifest"))
    if "channel_public" in state:
        participant.channel_key = KeyPair(
            _octets(state, "channel_private"), _octets(state, "channel_public")
        )
    if "run_id" in state and participant.manifest is not None:
        holders = tuple(json.loads(_text(state, "holders")))
        participant.epoch = Epoch(
            _octets(state, "run_id"),
            participant.manifest.epoch,
            _manifest_hash(_text(state, "manifest")),
            holders,
            _octets(state, "holders_hash"),
            _parameters(_text(state, "manifest"), len(holders)),
        )
        peers = [name for name in holders if name != participant.name]
        pieces = _cut(_octets(state, "channels"), 2 * KEY_BYTES)
        participant.channels = {
            name: Channel(piece[:KEY_BYTES], piece[KEY_BYTES:])
            for name, piece in zip(peers, pieces, strict=True)
        }
    if "open_slot" in state and participant.epoch is not None:
        participant.advertised = _open_slot(state, participant.epoch, participant.name)
    if "released_slot" in state:
        participant.released = ReleasedSlot(
            _number(state, "released_slot"),
            tuple(json.loads(_text(state, "released_cohort"))),
            _cut(_octets(state, "released_shares"), 2 * SHARE_BYTES),
            bool(_number(state, "released_sent")),
        )
    return participant


def _open_slot(state: Mapping[str, object], epoch: Epoch, name: str) -> OpenSlot:
    secrets, public = _octets(state, "open_secrets"), _octets(state, "open_public")
    sealed = _cut(_octets(state, "open_sealed"), 2 * SHARE_BYTES + TAG_BYTES)
    sealed.insert(epoch.position(name), b"")  # nothing is sealed for oneself
    said = Advertisement(
        name,
        _number(state, "open_slot"),
        public,
        _octets(state, "open_commitment"),
        tuple(sealed),
    )
    private, seed, own = (
        secrets[:KEY_BYTES],
        secrets[KEY_BYTES : 2 * KEY_BYTES],
        secrets[2 * KEY_BYTES :],
    )
    return OpenSlot(KeyPair(private, public), seed, own, said)


@lru_cache(maxsize=8)
def _manifest(text: str) -> Manifest:
    return Manifest.from_json(text)


@lru_cache(maxsize=8)
def _manifest_hash(text: str) -> bytes:
    return _manifest(text).hash()


@lru_cache(maxsize=8)
def _parameters(text: str, holders: int) -> SecureSumParameters:
    return _manifest(text).parameters(holders)


def _cut(blob: bytes, size: int) -> list[bytes]:
    return [blob[start : start + size] for start in range(0, len(blob), size)]


def _text(state: Mapping[str, object], key: str) -> str:
    value = state[key]
    assert isinstance(value, str), key
    return value


def _octets(state: Mapping[str, object], key: str) -> bytes:
    value = state[key]
    assert isinstance(value, bytes), key
    return value


def _number(state: Mapping[str, object], key: str) -> int:
    value = state[key]
    assert isinstance(value, int), key
    return value
