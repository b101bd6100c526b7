"""The enterprise's party: a state machine whose illegal transitions are named errors.

    new → joined → advertised(s) → released(s), advertised(s + 1) → unmasked(s) → …

Every check here protects one enterprise against a coordinator that lies; nothing rests on the
coordinator's word but what the manifest said when it was accepted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import (
    AuthenticationError,
    CohortError,
    SecureSumError,
    SlotSpentError,
)
from fgcif_flwr.secagg import keys, shamir
from fgcif_flwr.secagg.encoding import VectorLayout, WordFormat
from fgcif_flwr.secagg.epoch import (
    Epoch,
    SlotContext,
    cohort_hash,
    share_context,
    verify_joins,
)
from fgcif_flwr.secagg.keys import KeyPair
from fgcif_flwr.secagg.masking import MaskAdder
from fgcif_flwr.secagg.messages import (
    Advertisement,
    JoinReply,
    Manifest,
    MaskedVector,
    ReleaseRequest,
    UnmaskReply,
    UnmaskRequest,
)

Entropy = Callable[[int], bytes]


@dataclass(repr=False)
class Channel:
    """Keys shared with one peer for an epoch, one a direction."""

    outgoing: bytes
    incoming: bytes


@dataclass(repr=False)
class OpenSlot:
    """Secrets of an advertised slot (round key, self-mask seed, own shares of both), and what
    was said of them."""

    round_key: KeyPair
    seed: bytes
    own_shares: bytes
    said: Advertisement

    @property
    def slot(self) -> int:
        """The slot that they are for."""
        return self.said.slot


@dataclass(repr=False)
class ReleasedSlot:
    """Shares held for the cohort of a slot, until its one unmask answer.

    ``sent`` tells whether this enterprise's own vector was masked; before that it has no say in
    what the cohort opens.
    """

    slot: int
    cohort: tuple[str, ...]
    shares: list[bytes] = field(default_factory=list)
    sent: bool = False


class Participant:
    """One enterprise in one epoch of a run.

    Parameters
    ----------
    name : str
        As in the roster.
    identity : KeyPair
        Ed25519 key pair of the enterprise.
    entropy : callable
        Source of keys and shares; the operating system's generator but in tests.
    """

    def __init__(self, name: str, identity: KeyPair, entropy: Entropy = os.urandom) -> None:
        self.name = name
        self.identity = identity
        self.manifest: Manifest | None = None
        self.epoch: Epoch | None = None
        self.channel_key: KeyPair | None = None
        self.join_nonce = b""
        self.channels: dict[str, Channel] = {}
        self.advertised: OpenSlot | None = None
        self.released: ReleasedSlot | None = None
        self.last_slot = 0
        """Highest slot that was ever advertised; slots only grow."""
        self._entropy = entropy

    def join(self, manifest: Manifest) -> JoinReply:
        """Accept a manifest: draw a nonce and a channel key, sign both.

        A later manifest starts anew: all secrets of the earlier epoch are forgotten.
        """
        if self.manifest is not None and manifest.epoch <= self.manifest.epoch:
            raise SlotSpentError(f"epoch {manifest.epoch} was joined already; epochs only grow")
        if dict(manifest.roster).get(self.name) != self.identity.public:
            raise AuthenticationError(f"the roster does not hold the identity key of {self.name}")
        channel_key = keys.agreement_from_seed(self._entropy(32))
        nonce = self._entropy(16)
        unsigned = JoinReply(self.name, nonce, channel_key.public, b"")
        signature = keys.sign(self.identity, unsigned.signed_bytes(manifest.hash()))
        self.manifest = manifest
        self.epoch = None
        self.channels = {}
        self.advertised = self.released = None
        self.last_slot = 0  # slots are bound to the run id, which no two joins share
        self.channel_key, self.join_nonce = channel_key, nonce
        return JoinReply(self.name, nonce, channel_key.public, signature)

    def begin(self, joins: Sequence[JoinReply]) -> None:
        """Learn who joined: verify all signatures once, agree on channel keys.

        Raises
        ------
        SecureSumError
            If this enterprise has not joined, or the epoch has begun already.
        AuthenticationError
            If a signature is wrong or this enterprise's own join was changed.
        CohortError
            If the threshold rule fails.
        """
        if self.manifest is None or self.channel_key is None:
            raise SecureSumError(f"{self.name} has not joined a run")
        if self.epoch is not None:
            raise SecureSumError("the holders of an epoch are told once")
        mine = [join for join in joins if join.name == self.name]
        if len(mine) != 1 or (mine[0].nonce, mine[0].channel_public) != (
            self.join_nonce,
            self.channel_key.public,
        ):
            raise AuthenticationError(f"the join of {self.name} is missing or was changed")
        epoch = verify_joins(self.manifest, joins)
        private = keys.load_agreement(self.channel_key.private)
        channels: dict[str, Channel] = {}
        for join in joins:
            if join.name == self.name:
                continue
            secret = keys.agree(private, join.channel_public, epoch.channel_context("", ""))
            channels[join.name] = Channel(
                keys.derive(secret, epoch.channel_context(self.name, join.name)),
                keys.derive(secret, epoch.channel_context(join.name, self.name)),
            )
        self.channels = channels
        self.channel_key = KeyPair(b"", self.channel_key.public)  # no longer needed
        self.epoch = epoch

    def advertise(self, slot: int) -> Advertisement:
        """Draw round key and self-mask seed for ``slot`` and share both with all holders.

        Asked again for the same slot (its answer may have been lost), it says the same again;
        there is never a second key for a slot.

        Raises
        ------
        SlotSpentError
            If the slot is below the last one advertised, or was released already.
        """
        epoch = self._epoch()
        unspent = self.released is None or self.released.slot < slot
        if self.advertised is not None and self.advertised.slot == slot and unspent:
            return self.advertised.said
        if slot <= self.last_slot:
            raise SlotSpentError(f"slot {slot} was advertised already; slots only grow")
        round_key = keys.agreement_from_seed(self._entropy(32))
        seed = self._entropy(32)
        shares = shamir.split(
            [round_key.private, seed],
            epoch.parameters.threshold,
            len(epoch.holders),
            self._entropy,
        )
        nonce = epoch.share_nonce(slot, round_key.public)
        binding = epoch.slot_binding(slot)
        sealed: list[bytes] = []
        own = b""
        for holder, pair in zip(epoch.holders, shares, strict=True):
            if holder == self.name:
                own = b"".join(pair)
                sealed.append(b"")
                continue
            context = share_context(binding, self.name, holder, round_key.public)
            sealed.append(keys.seal(self.channels[holder].outgoing, nonce, b"".join(pair), context))
        self.last_slot = slot
        commitment = epoch.commitment(slot, self.name, seed)
        said = Advertisement(self.name, slot, round_key.public, commitment, tuple(sealed))
        self.advertised = OpenSlot(round_key, seed, own, said)
        return said

    def open_release(self, request: ReleaseRequest) -> None:
        """Check a release request and spend its slot, before anything is computed for it.

        After this the slot's keys serve :meth:`mask` once; a second request for the slot is
        refused whatever becomes of the first.

        Raises
        ------
        SlotSpentError
            If the slot was spent, or never advertised by this enterprise.
        CohortError
            If the cohort repeats a name, leaves this enterprise out, names one that has not
            joined, or is smaller than the threshold.
        AuthenticationError
            If a round key, or a share sealed for this enterprise, was changed on the way.
        """
        epoch = self._epoch()
        opened = self.advertised
        if opened is None or request.slot != opened.slot:
            raise SlotSpentError(f"slot {request.slot} is spent or was not advertised")
        if self.released is not None and self.released.slot >= request.slot:
            raise SlotSpentError(f"slot {request.slot} is spent")
        # Spent from here on: a refusal below costs the slot and erases its secrets.
        self.released = ReleasedSlot(request.slot, ())
        self.advertised = None
        names = tuple(member.name for member in request.cohort)
        if names != tuple(sorted(set(names))):
            raise CohortError("a cohort wants each name once, in order")
        if self.name not in names:
            raise CohortError(f"the cohort of slot {request.slot} leaves out {self.name}")
        if len(names) < epoch.parameters.smallest_cohort:
            raise CohortError(
                f"a cohort of {len(names)} is below the threshold of {epoch.parameters.threshold}"
            )
        publics = [member.round_public for member in request.cohort]
        if any(len(public) != keys.KEY_BYTES for public in publics):
            raise AuthenticationError(f"a round key is not {keys.KEY_BYTES} bytes long")
        if len(set(publics)) != len(publics):
            raise AuthenticationError("two members of the cohort show the same round key")
        binding = epoch.slot_binding(request.slot)
        shares: list[bytes] = []
        for member in request.cohort:
            epoch.position(member.name)
            if member.name == self.name:
                if member.round_public != opened.round_key.public:
                    raise AuthenticationError(f"the round key of {self.name} was changed")
                shares.append(opened.own_shares)
                continue
            pair = keys.unseal(
                self.channels[member.name].incoming,
                epoch.share_nonce(request.slot, member.round_public),
                member.sealed,
                share_context(binding, member.name, self.name, member.round_public),
                member.name,
            )
            if len(pair) != 2 * shamir.SHARE_BYTES:
                raise AuthenticationError(f"the shares from {member.name} are malformed")
            shares.append(pair)
        self.released = ReleasedSlot(request.slot, names, shares)
        self.advertised = opened

    def mask(
        self,
        request: ReleaseRequest,
        encoded: npt.NDArray[np.int64],
        layout: VectorLayout,
        input_hash: bytes,
    ) -> MaskedVector:
        """Mask an encoded vector for the slot opened by :meth:`open_release`; once.

        Parameters
        ----------
        encoded
            Signed integers of shape (layout.size,), each within the layout's value bits.
        input_hash
            Hash of the task's input as this enterprise received it; parties that were sent
            different inputs derive different masks, so their sum is noise.
        """
        epoch = self._epoch()
        opened, released = self.advertised, self.released
        if (
            opened is None
            or released is None
            or opened.slot != request.slot
            or released.slot != request.slot
            or not released.cohort
        ):
            raise SlotSpentError(f"slot {request.slot} is not open for a release")
        self.advertised = None  # the keys below serve no second vector
        form = WordFormat(layout.value_bits, len(released.cohort))
        if encoded.shape != (layout.size,) or np.abs(encoded).max(initial=0) > form.largest:
            raise SecureSumError("the encoded vector does not fit its layout")
        members = {member.name: member.round_public for member in request.cohort}
        context = SlotContext(
            epoch, request.slot, request.task, cohort_hash(members), layout.hash(), input_hash
        )
        total = form.words(encoded)
        adder = MaskAdder(total)
        adder.add(keys.derive(opened.seed, context.own(self.name)))
        private = keys.load_agreement(opened.round_key.private)
        mine = (self.name, opened.round_key.public)
        for peer in members.items():
            if peer[0] == self.name:
                continue
            if self.name < peer[0]:
                adder.add(keys.agree(private, peer[1], context.pair(mine, peer)))
            else:
                adder.subtract(keys.agree(private, peer[1], context.pair(peer, mine)))
        released.sent = True
        return MaskedVector(self.name, request.slot, form.pack(form.reduce(total)))

    def unmask(self, request: UnmaskRequest) -> UnmaskReply:
        """Answer once per slot which shares open the sum; forget them all with the answer.

        Raises
        ------
        SlotSpentError
            If this enterprise sent no vector for the slot, or answered already.
        CohortError
            If survivors and dropped are not a partition of the cohort that was masked with, if
            this enterprise is called dropped, if more than the tolerated number are, or if
            fewer than the threshold survive.
        """
        parameters = self._epoch().parameters
        released = self.released
        if released is None or released.slot != request.slot or not released.sent:
            raise SlotSpentError(f"slot {request.slot} was not released or is answered already")
        both = request.survivors + request.dropped
        if tuple(sorted(both)) != released.cohort or len(set(both)) != len(both):
            raise CohortError("survivors and dropped are not a partition of the cohort")
        if self.name not in request.survivors:
            raise CohortError(f"{self.name} sent its vector and is called dropped")
        if len(request.dropped) > parameters.tolerated_dropouts:
            raise CohortError(
                f"{len(request.dropped)} are called dropped; "
                f"secagg.tolerated_dropouts allows {parameters.tolerated_dropouts}"
            )
        if len(request.survivors) < parameters.threshold:
            raise CohortError(
                f"{len(request.survivors)} survivors are below the threshold of "
                f"{parameters.threshold}"
            )
        dropped = set(request.dropped)
        size = shamir.SHARE_BYTES
        shares = tuple(
            pair[:size] if name in dropped else pair[size:]
            for name, pair in zip(released.cohort, released.shares, strict=True)
        )
        self.released = ReleasedSlot(request.slot, ())
        return UnmaskReply(self.name, request.slot, shares)

    @property
    def run_id(self) -> bytes:
        """Hash of the manifest and all nonces of the epoch (32 bytes)."""
        return self._epoch().run_id

    def _epoch(self) -> Epoch:
        if self.epoch is None:
            raise SecureSumError(f"{self.name} was not told who joined")
        return self.epoch
