"""The enterprise's party: a state machine whose illegal transitions are named errors.

    new → joining → joined → advertised(s) → open(s) → masked(s), advertised(s + 1) → …

Every check protects one enterprise against a coordinator that lies; nothing rests on the
coordinator's word but what the manifest said when it was accepted. A slot is marked spent, durably,
before its vector leaves; it gets one unmask answer ever. An identical request gets the stored
reply, byte for byte; any other for that slot is refused.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import CohortError, NotJoinedError, PhaseError, SlotSpentError
from fgcif_flwr.secagg import wire
from fgcif_flwr.secagg.encoding import VectorLayout
from fgcif_flwr.secagg.journal import Journal, MemoryJournal
from fgcif_flwr.secagg.keys import Entropy, KeyPair
from fgcif_flwr.secagg.messages import (
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
from fgcif_flwr.secagg.parameters import SecureSumParameters
from fgcif_flwr.secagg.participant import (
    advertising,
    consenting,
    joining,
    releasing,
    unmasking,
)
from fgcif_flwr.secagg.participant.advertising import Advertised
from fgcif_flwr.secagg.participant.joining import Joined, Joining
from fgcif_flwr.secagg.participant.releasing import Masked, Opened

_RELEASE, _CONSENT, _UNMASK, _REVEAL = "release", "consent", "unmask", "reveal"
_GRAPHS = b"graphs"  # in the journal, where a run's id stands; that has 32 bytes
_LAST_SLOT = 1 << 40
_Reply = TypeVar("_Reply")

Examine = Callable[[Sequence[JoinReply]], None]
"""Looks at who joined and what each attests; raises where it does not accept that."""


class Participant:
    """One enterprise in a run.

    Parameters
    ----------
    name : str
        As in the roster.
    identity : KeyPair
        Ed25519 key pair of the enterprise.
    journal : Journal, optional
        Remembers spent slots and replies; in memory unless given. A deployed enterprise wants
        one on disk: after a restart nothing else keeps a slot from being spent twice.
    semi_honest : bool
        Whether to accept a run that withstands only a coordinator which follows the protocol.
    entropy : callable
        Source of keys and shares; the operating system's generator but in tests.
    examine : callable, optional
        Called with all joins of an epoch, its own included, once their signatures hold and before
        the epoch is begun. What it raises (a PrivacyError) is this enterprise's refusal.
    """

    def __init__(
        self,
        name: str,
        identity: KeyPair,
        *,
        journal: Journal | None = None,
        semi_honest: bool = False,
        entropy: Entropy = os.urandom,
        examine: Examine | None = None,
    ) -> None:
        self.name = name
        self.identity = identity
        self.journal: Journal = MemoryJournal() if journal is None else journal
        self.semi_honest = semi_honest
        self.joining: Joining | None = None
        self.joined: Joined | None = None
        self.advertised: Advertised | None = None
        self.opened: Opened | None = None
        self.masked: Masked | None = None
        self.last_slot = 0
        """Highest slot of the epoch that was advertised; slots only grow."""
        self._entropy = entropy
        self.examine = examine

    @property
    def manifest(self) -> Manifest | None:
        """The manifest accepted last."""
        if self.joining is not None:
            return self.joining.manifest
        return None if self.joined is None else self.joined.epoch.manifest

    @property
    def run_id(self) -> bytes:
        """Hash of the manifest and all nonces of the epoch (32 bytes)."""
        return self._joined().epoch.run_id

    @property
    def parameters(self) -> SecureSumParameters:
        """Of the epoch."""
        return self._joined().epoch.parameters

    def rotation_seed(self, slot: int, input_hash: bytes) -> bytes:
        """Public seed of the rotations of a slot's rotated fields."""
        return self._joined().epoch.rotation_seed(slot, input_hash)

    def join(self, manifest: Manifest, attestation: bytes = b"") -> JoinReply:
        """Accept a manifest: draw nonces and a channel key, sign them.

        Asked again with the same manifest before the epoch began, it says the same again, the
        first attestation included. A later epoch starts anew: all secrets of the earlier one are
        forgotten.

        Parameters
        ----------
        attestation
            What this enterprise's privacy ledger says of itself, signed with the rest and shown to
            all that join; at most 1024 bytes, empty where there is none.

        Raises
        ------
        SlotSpentError
            If this epoch, or a later one, was joined already.
        AuthenticationError, CohortError, SecureSumError
            As :func:`fgcif_flwr.secagg.participant.joining.join`.
        """
        before = self.manifest
        if self.joining is not None and manifest == before:
            return self.joining.said
        if before is not None and manifest.run == before.run and manifest.epoch <= before.epoch:
            raise SlotSpentError(f"epoch {manifest.epoch} was joined already; epochs only grow")
        accepted = joining.join(
            self.name, self.identity, manifest, self.semi_honest, self._entropy, attestation
        )
        if self.joined is not None:
            self.journal.forget(self.joined.epoch.run_id)  # large replies; its slots stay spent
        self.joining, self.joined = accepted, None
        self.advertised = self.opened = self.masked = None
        self.last_slot = 0  # slots are bound to the run id, which no two joins share
        return accepted.said

    def reveal(self, joins: Sequence[JoinReply]) -> GraphNonce:
        """Tell this enterprise's part of the graph's randomness, for one list of joins only.

        Raises
        ------
        NotJoinedError
            If this enterprise has not joined.
        CohortError
            If it has told so for too many graphs, in this run and others.
        PhaseError, AuthenticationError, CohortError
            As :func:`fgcif_flwr.secagg.participant.joining.reveal`.
        """
        before = self._joining()
        self.joining, nonce = joining.reveal(before, joins)
        if not before.revealed_to:
            self._count_graph(_digest(nonce))
        return nonce

    def _count_graph(self, nonce: bytes) -> None:
        """Write down, durably, that one more graph is drawn; over all epochs and runs."""

        def spent(number: int) -> bool:
            try:
                return self.journal.reply(_GRAPHS, number, _REVEAL, nonce) is not None
            except SlotSpentError:
                return True

        most = joining.MOST_GRAPHS
        number = 1 + bisect_left(range(1, most + 1), True, key=lambda n: not spent(n))
        if number > most:
            raise CohortError(
                f"{self.name} took part in {most} graphs, the most that it lets be drawn; give it "
                "a new journal once you know why there were so many"
            )
        self.journal.spend(_GRAPHS, number, _REVEAL, nonce)

    def begin(self, joins: Sequence[JoinReply], graph_nonces: Sequence[GraphNonce] = ()) -> None:
        """Learn who joined; the private half of the channel key is forgotten.

        Raises
        ------
        NotJoinedError
            If this enterprise has not joined.
        AuthenticationError, PhaseError, CohortError
            As :func:`fgcif_flwr.secagg.participant.joining.begin`.
        PrivacyError
            If this enterprise does not accept what another attests: ``examine`` says so. It has
            then not begun the epoch, and may be told other joins.
        """
        joined = joining.begin(self._joining(), joins, graph_nonces)
        if self.examine is not None:
            self.examine(tuple(joins))
        self.joined, self.joining = joined, None

    def advertise(self, request: AdvertiseRequest) -> Advertisement:
        """Draw round key and self-mask seed for a slot and share both with the neighbours.

        Whoever has not heard who joined hears it from the request. Asked again for the same slot
        (the answer may have been lost), it says the same again; there is never a second key for
        a slot. An earlier slot that was advertised and not released is given up.

        Raises
        ------
        SlotSpentError
            If the slot is below the last one advertised, or was released already.
        """
        if self.joined is None and request.joins:
            self.begin(request.joins, request.graph_nonces)
        return self._advertise(request.slot)

    def _advertise(self, slot: int) -> Advertisement:
        joined = self._joined()
        _check_slot(slot)
        if self.advertised is not None and self.advertised.slot == slot:
            return self.advertised.said
        if slot <= self.last_slot:
            raise SlotSpentError(f"slot {slot} was advertised already; slots only grow")
        self.advertised = advertising.advertise(
            self.name, self.identity, joined, slot, self._entropy
        )
        self.last_slot = slot
        return self.advertised.said

    def released_before(self, request: ReleaseRequest, input_hash: bytes) -> Released | None:
        """Return the stored reply where this very request was answered; None where it is new.

        Raises
        ------
        SlotSpentError
            If the slot was spent by another request, or by one whose reply was lost.
        """
        _check_slot(request.slot)
        stored = self.journal.reply(
            request.run_id, request.slot, _RELEASE, _digest(request, input_hash)
        )
        return None if stored is None else wire.decode(Released, stored)

    def open_release(self, request: ReleaseRequest, input_hash: bytes) -> None:
        """Spend the slot, durably, then check the request; before anything is computed for it.

        After this the slot's keys serve :meth:`mask` once; a refusal costs the slot and erases
        its secrets.

        Parameters
        ----------
        input_hash
            Hash of the task's input as this enterprise received it; parties that were sent
            different inputs derive different masks, so their sum is noise.

        Raises
        ------
        NotJoinedError
            If the request is of another epoch.
        SlotSpentError
            If the slot was spent.
        PhaseError
            If the slot was not advertised.
        CohortError, AuthenticationError
            As :func:`fgcif_flwr.secagg.participant.releasing.open_release`.
        """
        joined = self._joined_to(request.run_id)
        secrets = self.advertised
        if secrets is None or secrets.slot != request.slot:
            if request.slot <= self.last_slot:
                raise SlotSpentError(f"slot {request.slot} is spent or was given up")
            raise PhaseError(f"slot {request.slot} was not advertised by {self.name}")
        digest = _digest(request, input_hash)
        self.journal.spend(request.run_id, request.slot, _RELEASE, digest)
        self.advertised = self.opened = self.masked = None
        self.opened = releasing.open_release(self.name, joined, secrets, request, input_hash)

    def mask(self, encoded: npt.NDArray[np.int64], layout: VectorLayout) -> Released:
        """Mask an encoded vector for the slot opened by :meth:`open_release`, once; advertise the
        next slot.

        Parameters
        ----------
        encoded
            Signed integers of shape (layout.size,), each within the layout's value bits.
        """
        joined, opened = self._joined(), self.opened
        if opened is None:
            raise PhaseError(f"{self.name} has no slot open for a vector")
        self.opened = None  # its keys serve no second vector
        words, self.masked = releasing.mask(self.name, joined, opened, encoded, layout)
        following = self._advertise(max(opened.slot, self.last_slot) + 1)
        tags = releasing.tags_of(joined, self.masked)
        released = Released(self.name, opened.slot, words, opened.complaints, tags, following)
        self.journal.keep(joined.epoch.run_id, opened.slot, _RELEASE, wire.encode(released))
        return released

    def give_up(self) -> None:
        """Erase the secrets of an open slot for which there will be no vector; it stays spent."""
        self.opened = None

    def consent(self, request: ConsentRequest) -> Consent:
        """Sign a list of survivors: the only one that is ever answered for in its slot.

        Raises
        ------
        NotJoinedError, SlotSpentError, PhaseError, CohortError
            As :meth:`unmask`, for the list.
        """
        stored = self._answered(_CONSENT, request, Consent)
        if stored is not None:
            return stored
        joined, masked = self._masked(request)
        said, agreed = consenting.consent(self.name, self.identity, joined, masked, request)
        self._spend(_CONSENT, request)
        self.masked = replace(masked, agreed=agreed)
        return self._kept(_CONSENT, request, said)

    def unmask(self, request: UnmaskRequest) -> UnmaskReply:
        """Answer once per slot which shares open the sum; forget them all with the answer.

        A list that is not legal leaves the slot unanswered; consents that do not hold cost it.

        Raises
        ------
        NotJoinedError, SlotSpentError, PhaseError
            If the request is of another epoch, was answered for other lists, or this enterprise
            sent no vector for the slot, or consented to another list.
        CohortError, AuthenticationError
            As :func:`fgcif_flwr.secagg.participant.unmasking.check_unmask` and
            :func:`fgcif_flwr.secagg.participant.unmasking.unmask`.
        """
        stored = self._answered(_UNMASK, request, UnmaskReply)
        if stored is not None:
            return stored
        joined, masked = self._masked(request)
        unmasking.check_unmask(self.name, joined, masked, request)
        self._spend(_UNMASK, request)
        self.masked = None
        reply = unmasking.unmask(self.name, joined, masked, request, self._entropy)
        return self._kept(_UNMASK, request, reply)

    def _answered(
        self, phase: str, request: ConsentRequest | UnmaskRequest, kind: type[_Reply]
    ) -> _Reply | None:
        _check_slot(request.slot)
        stored = self.journal.reply(request.run_id, request.slot, phase, _digest(request))
        return None if stored is None else wire.decode(kind, stored)

    def _masked(self, request: ConsentRequest | UnmaskRequest) -> tuple[Joined, Masked]:
        joined, masked = self._joined_to(request.run_id), self.masked
        if masked is None or masked.slot != request.slot:
            raise PhaseError(f"{self.name} has sent no vector for slot {request.slot}")
        return joined, masked

    def _spend(self, phase: str, request: ConsentRequest | UnmaskRequest) -> None:
        self.journal.spend(request.run_id, request.slot, phase, _digest(request))

    def _kept(self, phase: str, request: ConsentRequest | UnmaskRequest, reply: _Reply) -> _Reply:
        self.journal.keep(request.run_id, request.slot, phase, wire.encode(reply))
        return reply

    def _joining(self) -> Joining:
        if self.joined is not None:
            raise PhaseError("the holders of an epoch are told once")
        if self.joining is None:
            raise NotJoinedError(f"{self.name} has not joined a run")
        return self.joining

    def _joined(self) -> Joined:
        if self.joined is None:
            raise NotJoinedError(f"{self.name} was not told who joined")
        return self.joined

    def _joined_to(self, run_id: bytes) -> Joined:
        joined = self._joined()
        if joined.epoch.run_id != run_id:
            raise NotJoinedError(f"{self.name} holds no keys of the epoch that is asked for")
        return joined


def _check_slot(slot: int) -> None:
    if not 1 <= slot <= _LAST_SLOT:
        raise PhaseError(f"slots are numbered from 1 to {_LAST_SLOT}")


def _digest(request: object, *more: bytes) -> bytes:
    return hashlib.sha256(b"".join((wire.encode(request), *more))).digest()
