"""Collect: a slot from its advertisements to the last masked vector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from fgcif_flwr.errors import MisbehaviourError, PhaseError, SecureSumError
from fgcif_flwr.secagg.coordinator.collected import Collected
from fgcif_flwr.secagg.coordinator.unmasking import SlotUnmasking
from fgcif_flwr.secagg.encoding import VectorLayout
from fgcif_flwr.secagg.epoch import COMMITMENT_BYTES, SEALED_BYTES, Epoch, SlotContext
from fgcif_flwr.secagg.keys import TAG_BYTES
from fgcif_flwr.secagg.masking import CHECK_WORDS
from fgcif_flwr.secagg.messages import Advertisement, CohortMember, Released, ReleaseRequest
from fgcif_flwr.secagg.words import WordFormat


class SlotCollection:
    """One slot of one epoch, until it is closed.

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
        Those received for this slot, each checked by :meth:`Epoch.check_advertisement`; their
        senders are the cohort.

    Raises
    ------
    SecureSumError
        If the advertisements are fewer than needed, repeat a sender, or are for another slot.
    MisbehaviourError
        If two show the same round key, naming both.
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
        ads: dict[str, Advertisement] = {}
        for ad in sorted(advertisements, key=lambda ad: ad.sender):
            epoch.position(ad.sender)
            if ad.slot != slot:
                raise SecureSumError(f"an advertisement of {ad.sender} is for slot {ad.slot}")
            if ad.sender in ads:
                raise SecureSumError(f"{ad.sender} advertised twice for slot {slot}")
            ads[ad.sender] = ad
        self.cohort = tuple(ads)
        self._check_round_keys(ads)
        least = epoch.parameters.smallest_cohort
        if len(self.cohort) < least:
            raise SecureSumError(
                f"slot {slot}: {len(self.cohort)} of {len(epoch.holders)} enterprises advertised; "
                f"{least} are needed"
            )
        form = WordFormat(layout.value_bits, len(self.cohort), layout.noise)
        context = SlotContext(epoch, slot, task, self.cohort, layout.hash(), input_hash)
        total = np.zeros(layout.size + CHECK_WORDS, dtype=form.dtype)
        self._collected = Collected(context, layout, form, ads, total)
        self._rests = {name: ad.rest() for name, ad in ads.items()}
        self._closed = False

    def _check_round_keys(self, ads: Mapping[str, Advertisement]) -> None:
        owners: dict[bytes, list[str]] = {}
        for name, ad in ads.items():
            owners.setdefault(ad.round_public, []).append(name)
        alike = [name for names in owners.values() if len(names) > 1 for name in names]
        if alike:  # everybody else would refuse the slot; fresh keys are never alike
            raise MisbehaviourError(
                f"slot {self.slot}: {', '.join(alike)} advertised the same round key", alike
            )

    @property
    def arrived(self) -> frozenset[str]:
        """Whose vectors are in the running total."""
        return frozenset(self._collected.survivors)

    @property
    def form(self) -> WordFormat:
        """Width of the slot's words."""
        return self._collected.form

    def release_request(self, name: str) -> ReleaseRequest:
        """Return the request for one member of the cohort."""
        epoch, ads = self.epoch, self._collected.ads
        holder = epoch.position(name)
        members: list[CohortMember] = []
        for dealer in epoch.neighbours(name, self.cohort):
            ad = ads[dealer]
            dealer_position = epoch.position(dealer)
            place = epoch.graph.place(dealer_position, holder)
            own = epoch.graph.place(dealer_position, dealer_position)
            sealed_at = SEALED_BYTES * (place - (place > own))
            committed_at = 2 * COMMITMENT_BYTES * place
            members.append(
                CohortMember(
                    dealer,
                    ad.round_public,
                    self._rests[dealer],
                    ad.signature,
                    ad.commitments[committed_at : committed_at + 2 * COMMITMENT_BYTES],
                    b"" if dealer == name else ad.sealed[sealed_at : sealed_at + SEALED_BYTES],
                )
            )
        return ReleaseRequest(epoch.run_id, self.slot, self.task, self.cohort, tuple(members))

    def receive(self, released: Released) -> None:
        """Add one masked vector; SecureSumError for strangers, repeats and late ones."""
        collected = self._collected
        sender = released.sender
        if self._closed:
            raise PhaseError(f"slot {self.slot} is closed; the vector of {sender} is late")
        if sender not in collected.ads or released.slot != self.slot:
            raise SecureSumError(f"a vector of {sender} does not belong to slot {self.slot}")
        if sender in collected.survivors:
            raise SecureSumError(f"{sender} sent two vectors for slot {self.slot}")
        neighbours = set(self.epoch.neighbours(sender, self.cohort)) - {sender}
        tags = 0 if self.epoch.parameters.complete else TAG_BYTES * len(neighbours)
        if len(released.tags) != tags:
            raise SecureSumError(f"{sender} did not tag its vector for every neighbour")
        collected.form.add_packed(collected.total, released.words)
        collected.survivors.add(sender)
        collected.tags[sender] = released.tags
        for dealer in neighbours.intersection(released.complaints):
            collected.complaints.setdefault(dealer, set()).add(sender)

    def close(self) -> SlotUnmasking:
        """Fix survivors and dropped; nothing is received after.

        Raises
        ------
        SecureSumError
            If too few survive or too many are dropped, saying how many were needed.
        """
        if self._closed:
            raise PhaseError(f"slot {self.slot} is closed already")
        self._closed = True
        parameters = self.epoch.parameters
        arrived, asked = len(self._collected.survivors), len(self.cohort)
        if arrived < parameters.smallest_cohort:
            raise SecureSumError(
                f"slot {self.slot}: {arrived} of {asked} vectors arrived; "
                f"{parameters.smallest_cohort} are needed"
            )
        if asked - arrived > parameters.tolerated_dropouts:
            raise SecureSumError(
                f"slot {self.slot}: {asked - arrived} enterprises were lost; "
                f"secagg.tolerated_dropouts allows {parameters.tolerated_dropouts}"
            )
        return SlotUnmasking(self._collected)
