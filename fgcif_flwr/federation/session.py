"""A run's secure sums over Flower's grid: join, then one sum a slot; join again when some return.

The session drives the exchanges; what is computed is a task's own matter. A slot that fails fails
as a whole, and a new slot is tried with those present.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from fgcif_flwr.errors import (
    FgcifError,
    MisbehaviourError,
    OutOfRangeError,
    SecureSumError,
)
from fgcif_flwr.federation.epochs import SLOTS_BETWEEN_EPOCHS, Epochs, Witness
from fgcif_flwr.federation.exchange import Exchange, may_retry
from fgcif_flwr.federation.records import arrays_to_record
from fgcif_flwr.federation.requests import Release
from fgcif_flwr.federation.session_settings import SessionSettings
from fgcif_flwr.federation.task_input import ArrayMap, input_hash
from fgcif_flwr.privacy.outcomes import OUTCOMES, with_outcome
from fgcif_flwr.secagg import (
    Consent,
    Epoch,
    Released,
    SlotCollection,
    SlotSum,
    SlotUnmasking,
    UnmaskReply,
    VectorLayout,
)
from fgcif_flwr.secagg.encoding import Reals

__all__ = ["SLOTS_BETWEEN_EPOCHS", "SecureSumSession", "SessionSettings", "Sum", "Task"]

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Sum:
    """A sum over the survivors of one slot.

    Attributes
    ----------
    values : mapping of field name to float64 array
    survivors, dropped : tuple of str
        Partition of the slot's cohort.
    slot : int
    failed : int
        Survivors that could not compute; they count as zeros, nobody knows which they are.
    """

    values: Mapping[str, Reals]
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]
    slot: int
    failed: int


@dataclass(frozen=True)
class Task:
    """What to sum: a task's name, its vector's layout, its input.

    ``counts_failures``: two words at the vector's head say how many could not compute. Not so
    under a privacy unit, where that would tell of rows.
    """

    name: str
    layout: VectorLayout
    arrays: ArrayMap
    counts_failures: bool = True

    @property
    def released(self) -> VectorLayout:
        """The layout as it leaves."""
        return with_outcome(self.layout) if self.counts_failures else self.layout


class SecureSumSession:
    """Secure sums over the enterprises that a grid reaches.

    Parameters
    ----------
    grid : Grid
    settings : SessionSettings
    terms : str
        The manifest's terms.
    witness : callable, optional
        Shown what each enterprise attests at join (:data:`Witness`).
    released : callable, optional
        Told the names of those whose vectors arrived in a slot: each was charged for it.

    Raises
    ------
    CohortError
        If no parameters of the secure sum hold for so many enterprises.
    """

    def __init__(
        self,
        grid: Grid,
        settings: SessionSettings,
        terms: str,
        witness: Witness | None = None,
        released: Callable[[Iterable[str]], None] | None = None,
    ) -> None:
        self.grid = grid
        self._released = released
        self.settings = settings
        enterprises = len(settings.roster or ()) or settings.enterprises
        self._tolerated = settings.parameters(enterprises).tolerated_dropouts
        self._exchange = Exchange(grid, settings.timeout, self._tolerated, settings.signer)
        self._epochs = Epochs(self._exchange, settings, terms, witness)
        self._open: SlotCollection | None = None
        self.standing: ArrayMap = {}
        """Arrays that every task's input has beside its own, from when they are set on."""

    @property
    def epoch(self) -> Epoch:
        """The epoch joined; NotJoinedError before :meth:`join`."""
        return self._epochs.current

    def join(self) -> Epoch:
        """Wait for the enterprises, agree on the manifest, and collect the first round keys.

        Raises
        ------
        CohortError
            If too few connect in time, or too few join for the threshold rule.
        """
        return self._epochs.join()

    def open(self, task: Task) -> list[Message]:
        """Open the next slot for ``task`` and return its release messages.

        Where too few have a round key, those that are missing are asked again for a while.

        Raises
        ------
        SecureSumError
            If too few have a round key, or join again.
        """
        for left in reversed(range(self.settings.retries + 1)):
            try:
                return self._open_next(task)
            except SecureSumError as error:
                if not left or not may_retry(error):
                    raise
                logger.warning("%s; asking again", error)
                time.sleep(_PAUSE_SECONDS)  # too few are there; they may come back
        raise AssertionError("the loop returns or raises")

    def _open_next(self, task: Task) -> list[Message]:
        number, ads = self._epochs.take()
        arrays = {**task.arrays, **self.standing}
        hashed = input_hash(arrays)
        try:
            slot = SlotCollection(self.epoch, number, task.name, task.released, hashed, ads)
        except MisbehaviourError as error:
            self._epochs.leave_out(error.names, str(error))
            raise
        self._open = slot
        inputs = arrays_to_record(arrays)
        return [
            self._exchange.message(name, Release(slot.release_request(name)), inputs, hashed)
            for name in slot.cohort
        ]

    def collect(self, replies: Iterable[Message]) -> Sum:
        """Close the slot that :meth:`open` opened with these replies, and open its sum.

        Raises
        ------
        SecureSumError
            If the slot fails: too few arrived or answered, or shares that open nothing.
        OutOfRangeError
            If more enterprises than may be lost have values beyond their bounds.
        ConfigurationError, DataError, PrivacyError, …
            If more than that refused because the run itself is wrong, or because a policy or a
            privacy budget says no.
        """
        slot = self._open
        if slot is None:
            raise SecureSumError("no slot is open")
        self._open = None
        for name, released in self._exchange.read(replies, Released).items():
            try:
                slot.receive(released)
            except SecureSumError as error:
                logger.warning("%s counts as lost: %s", name, error)
            self._epochs.keep({name: released.next})
        self._epochs.note_lost(slot.cohort, slot.arrived)
        if self._released is not None:
            self._released(sorted(slot.arrived))
        total = self._opened(slot)
        values = dict(total.values)
        outcomes = {name: int(values.pop(name)[0]) for name in OUTCOMES if name in values}
        self._judge(slot, outcomes, len(total.survivors))
        failed = sum(outcomes.values())
        return Sum(values, total.survivors, total.dropped, slot.slot, failed)

    def sum(self, task: Task, attempts: int | None = None) -> Sum:
        """Open slots for ``task`` until one succeeds; ``retries`` + 1 unless told otherwise.

        Raises
        ------
        SecureSumError
            The last slot's error, when none succeeded.
        """
        left = self.settings.retries + 1 if attempts is None else attempts
        while True:
            left -= 1
            try:
                messages = self._open_next(task)
            except SecureSumError as error:
                if left <= 0 or not may_retry(error):
                    raise
                logger.warning("%s; asking again", error)
                time.sleep(_PAUSE_SECONDS)  # too few are there; they may come back
                continue
            try:
                return self.collect(self._exchange.send(messages))
            except SecureSumError as error:
                if left <= 0 or not may_retry(error):
                    raise
                self._again(error)

    def collect_or_retry(self, task: Task, replies: Iterable[Message]) -> Sum:
        """Collect the replies of the slot that was opened for ``task``; where that fails, open new
        slots for it, as many as there are retries.

        Raises
        ------
        SecureSumError
            The last slot's error, when none succeeded.
        """
        try:
            return self.collect(replies)
        except SecureSumError as error:
            if self.settings.retries == 0 or not may_retry(error):
                raise
            self._again(error)
        return self.sum(task, attempts=self.settings.retries)

    def _again(self, error: FgcifError) -> None:
        logger.warning("%s; trying a new slot", error)
        self._epochs.wait_for_all()

    def _opened(self, slot: SlotCollection) -> SlotSum:
        """Run the exchanges that open a closed slot; whoever spoilt shares is left out later."""
        try:
            closed = self._closed(slot)
            self._epochs.note_complaints(closed.complaints)
            if closed.wants_consents:
                self._collect_consents(closed)
            requests = {name: closed.request(name) for name in closed.survivors}
            answers = self._exchange.ask_each(requests, UnmaskReply)
            for name, answer in answers.items():
                try:
                    closed.answer(answer)
                except SecureSumError as error:
                    logger.warning("the answer of %s is left out: %s", name, error)
            self._epochs.note_complaints(closed.complaints)
            total = closed.finish()
        except MisbehaviourError as error:
            self._epochs.leave_out(error.names, str(error))
            raise
        for name, reason in total.blamed.items():
            self._epochs.leave_out((name,), f"{name} {reason}")
        return total

    def _closed(self, slot: SlotCollection) -> SlotUnmasking:
        """Close the slot; where it fails, say in an enterprise's words why it refused."""
        try:
            return slot.close()
        except SecureSumError as error:
            if not self._exchange.refusals:
                raise
            refused = self._exchange.refusals
            raise SecureSumError(f"{error}; {len(refused)} refused: {refused[0][1]}") from None

    def _collect_consents(self, closed: SlotUnmasking) -> None:
        said = self._exchange.ask(closed.survivors, closed.consent_request(), Consent)
        for name, consent in said.items():
            try:
                closed.consent(consent)
            except SecureSumError as error:
                logger.warning("the consent of %s is left out: %s", name, error)

    def _judge(self, slot: SlotCollection, outcomes: Mapping[str, int], survivors: int) -> None:
        """Fail the slot where more could not compute than may be lost."""
        total = sum(outcomes.values())
        if not outcomes:
            return
        if min(outcomes.values()) < 0 or total > survivors:
            raise SecureSumError(
                f"slot {slot.slot}: the sum is spoilt: more enterprises say that they could not "
                "compute than there are"
            )
        if 0 < total <= self._tolerated:
            logger.warning("slot %d: %s; they count as zeros", slot.slot, outcomes)
        elif outcomes["out_of_range"] > self._tolerated:
            raise OutOfRangeError(
                f"{outcomes['out_of_range']} of {survivors} enterprises have a value for task "
                f"{slot.task} that is beyond its bound or not finite; {self.settings.range_advice}"
            )
        elif total > self._tolerated:
            raise SecureSumError(
                f"{total} of {survivors} enterprises could not compute task {slot.task}; their "
                f"own logs say why{self.settings.failure_advice}"
            )
