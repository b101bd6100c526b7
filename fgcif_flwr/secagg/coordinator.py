"""The coordinator's party for one slot: collect, then unmask the sum and nothing else.

open → released → unmasking → done, or failed as a whole
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping

import numpy as np

from fgcif_flwr.errors import AuthenticationError, SecureSumError
from fgcif_flwr.secagg import keys, shamir
from fgcif_flwr.secagg.encoding import Reals, VectorLayout, WordFormat, Words
from fgcif_flwr.secagg.epoch import Epoch, SlotContext, cohort_hash, verify_joins
from fgcif_flwr.secagg.masking import MaskAdder
from fgcif_flwr.secagg.messages import (
    Advertisement,
    CohortMember,
    MaskedVector,
    ReleaseRequest,
    UnmaskReply,
    UnmaskRequest,
)

__all__ = ["SlotCoordinator", "verify_joins"]


class SlotCoordinator:
    """One slot of one epoch, from advertisements to the sum.

    Parameters
    ----------
    epoch : Epoch
    slot : int
    task : str
        What the enterprises are asked to compute.
    layout : VectorLayout
        Of the task's vector.
    input_hash : bytes
        Hash of the task's input as sent to all.
    advertisements
        Those received for this slot; their senders are the cohort.

    Raises
    ------
    SecureSumError
        If the advertisements are fewer than the threshold, repeat a sender, or are malformed.
    """

    def __init__(
        self,
        epoch: Epoch,
        slot: int,
        task: str,
        layout: VectorLayout,
        input_hash: bytes,
        advertisements: Iterable[Advertisement],
    ) -> None:
        self.epoch = epoch
        self.slot = slot
        self.task = task
        self.layout = layout
        self._ads: dict[str, Advertisement] = {}
        for ad in sorted(advertisements, key=lambda ad: ad.sender):
            epoch.position(ad.sender)
            if ad.slot != slot:
                raise SecureSumError(f"an advertisement of {ad.sender} is for slot {ad.slot}")
            if ad.sender in self._ads:
                raise SecureSumError(f"{ad.sender} advertised twice for slot {slot}")
            epoch.check_advertisement(ad)
            self._ads[ad.sender] = ad
        self.cohort = tuple(self._ads)
        if len(self.cohort) < epoch.parameters.threshold:
            raise SecureSumError(
                f"slot {slot}: {len(self.cohort)} of {len(epoch.holders)} enterprises advertised; "
                f"{epoch.parameters.threshold} are needed"
            )
        self.form = WordFormat(layout.value_bits, len(self.cohort))
        publics = {name: ad.round_public for name, ad in self._ads.items()}
        self._context = SlotContext(
            epoch, slot, task, cohort_hash(publics), layout.hash(), input_hash
        )
        self._vectors: dict[str, Words] = {}
        self._answers: dict[str, UnmaskReply] = {}
        self._survivors: tuple[str, ...] | None = None

    def release_request(self, name: str) -> ReleaseRequest:
        """Return the request for one member of the cohort."""
        position = self.epoch.position(name)
        members = tuple(
            CohortMember(ad.sender, ad.round_public, ad.sealed[position])
            for ad in self._ads.values()
        )
        return ReleaseRequest(self.slot, self.task, members)

    def receive(self, vector: MaskedVector) -> None:
        """Take one masked vector; SecureSumError for strangers, repeats and late ones."""
        if self._survivors is not None:
            raise SecureSumError(
                f"slot {self.slot} is closed; the vector of {vector.sender} is late"
            )
        if vector.sender not in self._ads or vector.slot != self.slot:
            raise SecureSumError(f"a vector of {vector.sender} does not belong to slot {self.slot}")
        if vector.sender in self._vectors:
            raise SecureSumError(f"{vector.sender} sent two vectors for slot {self.slot}")
        self._vectors[vector.sender] = self.form.unpack(vector.words, self.layout.size)

    def close(self) -> UnmaskRequest:
        """Fix survivors and dropped; SecureSumError when too few survive or too many dropped."""
        parameters = self.epoch.parameters
        survivors = tuple(name for name in self.cohort if name in self._vectors)
        dropped = tuple(name for name in self.cohort if name not in self._vectors)
        if len(survivors) < parameters.threshold:
            raise SecureSumError(
                f"slot {self.slot}: {len(survivors)} of {len(self.cohort)} vectors arrived; "
                f"{parameters.threshold} are needed"
            )
        if len(dropped) > parameters.tolerated_dropouts:
            raise SecureSumError(
                f"slot {self.slot}: {len(dropped)} enterprises were lost; "
                f"secagg.tolerated_dropouts allows {parameters.tolerated_dropouts}"
            )
        self._survivors = survivors
        return UnmaskRequest(self.slot, survivors, dropped)

    def answer(self, reply: UnmaskReply) -> None:
        """Take one unmask answer; SecureSumError for strangers, repeats and wrong lengths."""
        if self._survivors is None:
            raise SecureSumError(f"slot {self.slot} is not closed yet")
        if reply.sender not in self._survivors or reply.slot != self.slot:
            raise SecureSumError(f"an answer of {reply.sender} does not belong to slot {self.slot}")
        if reply.sender in self._answers:
            raise SecureSumError(f"{reply.sender} answered twice for slot {self.slot}")
        if len(reply.shares) != len(self.cohort):
            raise SecureSumError(f"{reply.sender} did not answer for every member of the cohort")
        if not all(shamir.well_formed(share) for share in reply.shares):
            raise SecureSumError(f"{reply.sender} answered with what is no share")
        self._answers[reply.sender] = reply

    def finish(self) -> Mapping[str, Reals]:
        """Open the masks and return the sum over the survivors, one array per field.

        Raises
        ------
        SecureSumError
            If fewer than the threshold answered, or their shares do not open what was committed.
        """
        threshold = self.epoch.parameters.threshold
        if self._survivors is None or len(self._answers) < threshold:
            raise SecureSumError(
                f"slot {self.slot}: {len(self._answers)} enterprises answered; "
                f"{threshold} are needed to open the sum"
            )
        responders = sorted(self._answers)[:threshold]
        secrets = shamir.combine(
            [self.epoch.position(name) for name in responders],
            [self._answers[name].shares for name in responders],
        )
        total = sum_words(self._vectors, self.form, self.layout.size)
        adder = MaskAdder(total)
        for name, secret in zip(self.cohort, secrets, strict=True):
            if name in self._vectors:
                self._remove_self_mask(adder, name, secret)
            else:
                self._remove_pair_masks(adder, name, secret)
        return self.layout.decode(self.form.reduce(total), self.form)

    def _remove_self_mask(self, adder: MaskAdder, name: str, seed: bytes) -> None:
        expected = self._ads[name].commitment
        if not hmac.compare_digest(expected, self.epoch.commitment(self.slot, name, seed)):
            raise AuthenticationError(
                f"slot {self.slot}: shares of the self mask of {name} do not open its commitment"
            )
        adder.subtract(keys.derive(seed, self._context.own(name)))

    def _remove_pair_masks(self, adder: MaskAdder, name: str, private: bytes) -> None:
        """Remove what the survivors added for masks shared with one who was lost."""
        pair = keys.agreement_from_seed(private)
        if pair.public != self._ads[name].round_public:
            raise AuthenticationError(
                f"slot {self.slot}: shares of the round key of {name} do not open its key"
            )
        loaded = keys.load_agreement(private)
        lost = (name, pair.public)
        for survivor in self._vectors:
            peer = (survivor, self._ads[survivor].round_public)
            if survivor < name:
                adder.subtract(keys.agree(loaded, peer[1], self._context.pair(peer, lost)))
            else:
                adder.add(keys.agree(loaded, peer[1], self._context.pair(lost, peer)))


def sum_words(vectors: Mapping[str, Words], form: WordFormat, size: int) -> Words:
    """Add masked vectors modulo the machine word, shape (size,)."""
    total = np.zeros(size, dtype=form.dtype)
    for vector in vectors.values():
        total += vector
    return total
