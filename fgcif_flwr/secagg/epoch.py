"""What all parties of an epoch agree on, and the bytes by which slots are bound to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fgcif_flwr.errors import AuthenticationError, CohortError, SecureSumError
from fgcif_flwr.secagg.keys import KEY_BYTES, TAG_BYTES, contributory, verify
from fgcif_flwr.secagg.messages import Advertisement, JoinReply, Manifest
from fgcif_flwr.secagg.parameters import SecureSumParameters
from fgcif_flwr.secagg.shamir import SHARE_BYTES
from fgcif_flwr.secagg.transcript import Part, canonical, digest, digest_pairs, fixed, name_id


@dataclass(frozen=True)
class Epoch:
    """One join's outcome: run id, holders in the order of names, parameters.

    ``run_id`` is the hash of the manifest and all nonces, so no two joins share one.
    """

    run_id: bytes
    number: int
    manifest_hash: bytes
    holders: tuple[str, ...]
    holders_hash: bytes
    parameters: SecureSumParameters

    @classmethod
    def of(cls, manifest: Manifest, joins: Sequence[JoinReply]) -> Epoch:
        """Derive the epoch from verified joins, alike at every party."""
        joins = sorted(joins, key=lambda join: join.name)
        names = tuple(join.name for join in joins)
        if len(set(names)) != len(names):
            raise AuthenticationError("an enterprise is named twice among those that joined")
        parts: list[Part] = [manifest.hash()]
        for join in joins:
            parts += [join.name, join.nonce]
        return cls(
            run_id=digest("run", *parts),
            number=manifest.epoch,
            manifest_hash=manifest.hash(),
            holders=names,
            holders_hash=digest_pairs("holders", [(j.name, j.channel_public) for j in joins]),
            parameters=manifest.parameters(len(names)),
        )

    def position(self, name: str) -> int:
        """Index of a holder: its share's evaluation point, less one."""
        try:
            return self.holders.index(name)
        except ValueError:
            raise CohortError(f"{name} is not among those that joined") from None

    def check_advertisement(self, ad: Advertisement) -> None:
        """Raise SecureSumError unless an advertisement is whole: sizes, receivers, round key."""
        place = self.position(ad.sender)
        sizes = [2 * SHARE_BYTES + TAG_BYTES] * len(self.holders)
        sizes[place] = 0  # nothing is sealed for oneself
        if [len(sealed) for sealed in ad.sealed] != sizes or len(ad.commitment) != KEY_BYTES:
            raise SecureSumError(f"the advertisement of {ad.sender} is not whole")
        if not contributory(ad.round_public):
            raise SecureSumError(f"the round key of {ad.sender} is not a valid X25519 key")

    def slot_binding(self, slot: int) -> bytes:
        """Digest of everything that all sealed shares of a slot are bound to."""
        return digest(
            "slot",
            self.run_id,
            self.number,
            slot,
            self.manifest_hash,
            self.holders_hash,
            self.parameters.threshold,
        )

    def channel_context(self, sender: str, receiver: str) -> bytes:
        """HKDF info of the channel key from ``sender`` to ``receiver``."""
        return canonical("channel", self.run_id, self.number, sender, receiver)

    def share_nonce(self, slot: int, round_public: bytes) -> bytes:
        """Nonce of all shares of one advertisement.

        It follows the fresh round key, so that even a party whose slot counter was set back
        never seals twice under one key and nonce.
        """
        return digest("nonce", slot, round_public)[:12]

    def commitment(self, slot: int, sender: str, seed: bytes) -> bytes:
        """Commitment to a self-mask seed (hiding because the seed is 32 uniform bytes)."""
        return digest("self-mask", self.run_id, slot, sender, seed)


@dataclass(frozen=True)
class SlotContext:
    """What the masks of one slot are bound to; any difference between parties yields noise."""

    epoch: Epoch
    slot: int
    task: str
    cohort_hash: bytes
    layout_hash: bytes
    input_hash: bytes

    @cached_property
    def _binding(self) -> bytes:
        return digest(
            "masks",
            self.epoch.slot_binding(self.slot),
            self.task,
            self.cohort_hash,
            self.layout_hash,
            self.input_hash,
        )

    def pair(self, low: tuple[str, bytes], high: tuple[str, bytes]) -> bytes:
        """HKDF info of a pairwise mask; ``low`` and ``high`` are (name, round key)."""
        return fixed("pair", self._binding, name_id(low[0]), low[1], name_id(high[0]), high[1])

    def own(self, name: str) -> bytes:
        """HKDF info of a self mask."""
        return fixed("own", self._binding, name_id(name))


def share_context(binding: bytes, sender: str, receiver: str, round_public: bytes) -> bytes:
    """Associated data of a sealed share; ``binding`` is :meth:`Epoch.slot_binding`."""
    return fixed("share", binding, name_id(sender), name_id(receiver), round_public)


def cohort_hash(members: Mapping[str, bytes]) -> bytes:
    """Digest of a cohort's names and round keys."""
    return digest_pairs("cohort", members.items())


def valid_joins(
    manifest: Manifest, joins: Sequence[JoinReply]
) -> tuple[list[JoinReply], list[AuthenticationError]]:
    """Return the joins that hold, and what is wrong with the others: a coordinator leaves those
    out, where an enterprise that is shown one refuses (:func:`verify_joins`)."""
    good: list[JoinReply] = []
    wrong: list[AuthenticationError] = []
    for join in joins:
        try:
            _verify_join(manifest, join)
            good.append(join)
        except AuthenticationError as error:
            wrong.append(error)
    return good, wrong


def _verify_join(manifest: Manifest, join: JoinReply) -> None:
    roster = dict(manifest.roster)
    if join.name not in roster:
        raise AuthenticationError(f"{join.name} joined but is not on the roster")
    verify(roster[join.name], join.signature, join.signed_bytes(manifest.hash()), join.name)
    if not contributory(join.channel_public):
        raise AuthenticationError(f"the channel key of {join.name} is not a valid X25519 key")


def verify_joins(manifest: Manifest, joins: Sequence[JoinReply]) -> Epoch:
    """Check every join's signature against the roster and return the epoch.

    Raises
    ------
    AuthenticationError
        Naming the enterprise that is not on the roster or whose signature does not match.
    CohortError
        If the threshold rule cannot hold for so few.
    """
    for join in joins:
        _verify_join(manifest, join)
    return Epoch.of(manifest, joins)
