"""Unmask: collect consents, where they are asked for, then shares; open the sum."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from fgcif_flwr.errors import PhaseError, SecureSumError
from fgcif_flwr.secagg import keys
from fgcif_flwr.secagg.coordinator.collected import Collected
from fgcif_flwr.secagg.coordinator.reconstruction import reconstruct
from fgcif_flwr.secagg.encoding import Reals
from fgcif_flwr.secagg.epoch import OPENED_BYTES
from fgcif_flwr.secagg.keys import TAG_BYTES
from fgcif_flwr.secagg.masking import MaskAdder, open_total
from fgcif_flwr.secagg.messages import Consent, ConsentRequest, UnmaskReply, UnmaskRequest
from fgcif_flwr.secagg.pairs import pair_keys


@dataclass(frozen=True)
class SlotSum:
    """The sum over a slot's survivors.

    Attributes
    ----------
    values : mapping of field name to float64 array
    survivors, dropped : tuple of str
        Partition of the cohort.
    blamed : mapping of name to reason
        Enterprises that are proven to have spoilt shares; the sum is right in spite of them.
    """

    values: Mapping[str, Reals]
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]
    blamed: Mapping[str, str]


class SlotUnmasking:
    """A closed slot: consents, where they are asked for, then shares, then the sum."""

    def __init__(self, collected: Collected) -> None:
        self._collected = collected
        self._epoch = collected.context.epoch
        self._slot = collected.context.slot
        cohort, survived = collected.context.cohort, collected.survivors
        self.survivors = tuple(name for name in cohort if name in survived)
        self.dropped = tuple(name for name in cohort if name not in survived)
        self._agreed = self._epoch.consent_bytes(self._slot, cohort, self.survivors, self.dropped)
        self._consents: dict[str, Consent] = {}
        self._answers: dict[str, bytes] = {}
        self._neighbours: dict[str, tuple[str, ...]] = {}
        self._finished = False

    @property
    def complaints(self) -> Mapping[str, frozenset[str]]:
        """For each dealer, who says that its shares or tags do not fit: one side of them lies."""
        return {
            dealer: frozenset(complainers)
            for dealer, complainers in self._collected.complaints.items()
        }

    @property
    def wants_consents(self) -> bool:
        """Whether the consistency exchange comes before the unmask exchange."""
        return self._epoch.parameters.consistency

    def consent_request(self) -> ConsentRequest:
        """Return the list of survivors for all of them to sign."""
        return ConsentRequest(self._epoch.run_id, self._slot, self.survivors, self.dropped)

    def consent(self, consent: Consent) -> None:
        """Take one signature; SecureSumError for strangers, repeats and forged ones."""
        self._check_sender(consent.sender, consent.slot, self._consents)
        identity = self._epoch.manifest.identities[consent.sender]
        keys.verify(identity, consent.signature, self._agreed, consent.sender)
        self._consents[consent.sender] = consent

    def request(self, name: str) -> UnmaskRequest:
        """Return the unmask request for one survivor, with what it wants to be shown.

        Raises
        ------
        SecureSumError
            If too few consented.
        """
        consents: tuple[Consent, ...] = ()
        if self.wants_consents:
            needed = self._epoch.parameters.consents
            if len(self._consents) < needed:
                raise SecureSumError(
                    f"slot {self._slot}: {len(self._consents)} enterprises consented to the list "
                    f"of survivors; {needed} are needed"
                )
            consents = tuple(self._consents[name] for name in sorted(self._consents)[:needed])
        return UnmaskRequest(
            self._epoch.run_id,
            self._slot,
            self.survivors,
            self.dropped,
            consents,
            self._tags_for(name),
        )

    def _near(self, name: str) -> tuple[str, ...]:
        """Return who holds shares of ``name`` in the cohort, in the order of names."""
        if name not in self._neighbours:
            cohort = self._collected.context.cohort
            self._neighbours[name] = self._epoch.neighbours(name, cohort)
        return self._neighbours[name]

    def _tags_for(self, name: str) -> bytes:
        if self._epoch.parameters.complete:
            return b""
        survived = self._collected.survivors
        tags: list[bytes] = []
        for sender in self._near(name):
            if sender != name and sender in survived:
                index = bisect_left(self._near(sender), name)
                start = TAG_BYTES * (index - (sender < name))  # a sender has none for itself
                tags.append(self._collected.tags[sender][start : start + TAG_BYTES])
        return b"".join(tags)

    def answer(self, reply: UnmaskReply) -> None:
        """Take one unmask answer; SecureSumError for strangers, repeats and wrong lengths."""
        self._check_sender(reply.sender, reply.slot, self._answers)
        dealers = self._near(reply.sender)
        if len(reply.shares) != OPENED_BYTES * len(dealers):
            raise SecureSumError(f"{reply.sender} did not answer for every neighbour")
        self._answers[reply.sender] = reply.shares
        for dealer in set(reply.withheld).intersection(dealers) - {reply.sender}:
            self._collected.complaints.setdefault(dealer, set()).add(reply.sender)

    def finish(self) -> SlotSum:
        """Open the masks and return the sum over the survivors.

        Raises
        ------
        SecureSumError
            If too few answered, saying how many are needed, or the sum is spoilt.
        MisbehaviourError
            Naming those whose shares open nothing.
        """
        collected = self._collected
        if self._finished:
            raise PhaseError(f"the sum of slot {self._slot} was opened already")
        secrets, blamed = reconstruct(collected, self._answers)
        self._finished = True  # the masks are taken from the total in place
        adder = MaskAdder(collected.total)
        for name in collected.context.cohort:
            if name in collected.survivors:
                adder.subtract(keys.derive(secrets[name], collected.context.own(name)))
            else:
                self._remove_pair_masks(adder, name, secrets[name])
        words = open_total(collected.total, collected.form, len(self.survivors))
        seed = self._epoch.rotation_seed(self._slot, collected.context.input_hash)
        values = collected.layout.decode(words, collected.form, seed)
        return SlotSum(values, self.survivors, self.dropped, blamed)

    def _check_sender(self, sender: str, slot: int, earlier: Mapping[str, object]) -> None:
        if sender not in self._collected.survivors or slot != self._slot:
            raise SecureSumError(f"an answer of {sender} does not belong to slot {self._slot}")
        if sender in earlier:
            raise SecureSumError(f"{sender} answered twice for slot {self._slot}")

    def _remove_pair_masks(self, adder: MaskAdder, name: str, private: bytes) -> None:
        """Remove what the survivors added for masks shared with one who was lost."""
        context, ads = self._collected.context, self._collected.ads
        peers = [
            (peer, ads[peer].round_public) for peer in self._epoch.neighbours(name, self.survivors)
        ]
        lost = (name, ads[name].round_public)
        added, subtracted = pair_keys(keys.load_agreement(private), lost, peers, context)
        for key in added:  # what the lost one would have added, its peers subtracted
            adder.add(key)
        for key in subtracted:
            adder.subtract(key)
