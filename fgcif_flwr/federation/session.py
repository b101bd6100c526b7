"""A run's secure sums over Flower's grid: join once, then one sum a slot.

The session drives the exchanges; what is computed is a task's own matter. A slot that fails fails
as a whole, and a new slot is tried with those present.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from fgcif_flwr.config import RunConfig, SecAggSection
from fgcif_flwr.errors import (
    CohortError,
    ConfigurationError,
    DataError,
    FgcifError,
    OutOfRangeError,
    PartitionError,
    SchemaError,
    SecureSumError,
)
from fgcif_flwr.federation.records import (
    arrays_to_record,
    message_type,
    reply_from_records,
    request_to_records,
)
from fgcif_flwr.federation.releases import ArrayMap, input_hash
from fgcif_flwr.federation.requests import (
    Advertise,
    Identify,
    Identity,
    Join,
    Refusal,
    Release,
    Released,
    Request,
)
from fgcif_flwr.privacy.door import OUTCOMES, with_outcome
from fgcif_flwr.secagg import (
    Advertisement,
    JoinReply,
    Manifest,
    SlotCoordinator,
    UnmaskReply,
    VectorLayout,
)
from fgcif_flwr.secagg.encoding import Reals
from fgcif_flwr.secagg.epoch import Epoch, valid_joins
from fgcif_flwr.secagg.parameters import SecureSumParameters

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 32  # of SHA-256

_T = TypeVar("_T")

# What an enterprise refuses with because the run itself is wrong: no other slot would help.
_FATAL = (ConfigurationError, SchemaError, DataError, PartitionError, OutOfRangeError)


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
    """What to sum: a task's name, its vector's layout, its input."""

    name: str
    layout: VectorLayout
    arrays: ArrayMap


class SecureSumSession:
    """Secure sums over the enterprises that a grid reaches.

    Parameters
    ----------
    grid : Grid
    config : RunConfig
        ``run.enterprises`` must be connected before the run starts.
    terms : str
        The manifest's terms.
    """

    def __init__(self, grid: Grid, config: RunConfig, terms: str) -> None:
        self.grid = grid
        self.config = config
        self._terms = terms
        self._nodes: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._joins: tuple[JoinReply, ...] = ()
        self._epoch: Epoch | None = None
        self._slot = 1
        self._ads: dict[str, Advertisement] = {}
        self._open: SlotCoordinator | None = None
        self._tolerated = SecureSumParameters.choose(
            config.run.enterprises, *_limits(config.secagg)
        ).tolerated_dropouts

    @property
    def epoch(self) -> Epoch:
        """The epoch joined; SecureSumError before :meth:`join`."""
        if self._epoch is None:
            raise SecureSumError("nobody has joined yet")
        return self._epoch

    def join(self) -> Epoch:
        """Wait for the enterprises, agree on the manifest, and collect the first round keys.

        Raises
        ------
        CohortError
            If fewer than ``run.enterprises`` connect in time, two have one name, or too few
            join for the threshold rule.
        """
        self._wait_for_enterprises()
        identities: dict[str, bytes] = {}
        for node, identity in self._ask_nodes(self.grid.get_node_ids(), Identify(), Identity):
            if identity.name in identities:
                raise CohortError(f"two enterprises call themselves {identity.name}")
            identities[identity.name] = identity.public
            self._nodes[identity.name] = node
            self._names[node] = identity.name
        wanted = self.config.run.enterprises
        if len(identities) < wanted:
            raise CohortError(f"{len(identities)} of {wanted} enterprises answered")
        roster = tuple(sorted(identities.items()))
        manifest = _manifest(self.config.secagg, self._terms, roster)
        joined = self._ask(self._nodes, Join(manifest), JoinReply)
        own = [join for name, join in sorted(joined.items()) if join.name == name]
        good, wrong = valid_joins(manifest, own)
        for error in wrong:
            logger.warning("a join is left out: %s", error)
        self._joins = tuple(good)
        self._epoch = Epoch.of(manifest, self._joins)
        first = Advertise(self._slot, self._joins)
        self._keep(self._ask(self._epoch.holders, first, Advertisement))
        return self._epoch

    def open(self, task: Task) -> list[Message]:
        """Open the next slot for ``task`` and return its release messages.

        Enterprises without a round key for the slot (lost before, now back) are asked for one.

        Raises
        ------
        SecureSumError
            If fewer than the threshold have a round key.
        """
        online = set(self.grid.get_node_ids())
        absent = [
            name
            for name in self.epoch.holders
            if name not in self._ads and self._nodes[name] in online
        ]
        if absent:
            self._keep(self._ask(absent, Advertise(self._slot, self._joins), Advertisement))
        slot = SlotCoordinator(
            self.epoch,
            self._slot,
            task.name,
            with_outcome(task.layout),
            input_hash(task.arrays),
            self._ads.values(),
        )
        self._open = slot
        self._slot += 1
        self._ads = {}
        inputs = arrays_to_record(task.arrays)
        return [
            self._message(name, Release(slot.release_request(name)), inputs) for name in slot.cohort
        ]

    def collect(self, replies: Iterable[Message]) -> Sum:
        """Close the slot that :meth:`open` opened with these replies, and open its sum.

        Raises
        ------
        SecureSumError
            If the slot fails: too few arrived or answered, or shares that open nothing.
        ConfigurationError, DataError, OutOfRangeError, …
            If an enterprise refused because the run itself is wrong.
        """
        slot = self._open
        if slot is None:
            raise SecureSumError("no slot is open")
        self._open = None
        for name, released in self._read(replies, Released).items():
            if released.vector.sender != name or released.next.sender != name:
                logger.warning("%s sent a vector in another's name; it counts as lost", name)
                continue
            try:
                slot.receive(released.vector)
            except SecureSumError as error:
                logger.warning("%s counts as lost: %s", name, error)
            self._keep({name: released.next})
        request = slot.close()
        answers = self._ask(request.survivors, request, UnmaskReply)
        for name, answer in answers.items():
            if answer.sender != name:
                logger.warning("%s answered in another's name; its answer is left out", name)
                continue
            try:
                slot.answer(answer)
            except SecureSumError as error:
                logger.warning("the answer of %s is left out: %s", name, error)
        values = dict(slot.finish())
        outcomes = {name: int(values.pop(name)[0]) for name in OUTCOMES}
        self._judge(slot, outcomes, len(request.survivors))
        failed = sum(outcomes.values())
        return Sum(values, request.survivors, request.dropped, slot.slot, failed)

    def sum(self, task: Task, attempts: int | None = None) -> Sum:
        """Open slots for ``task`` until one succeeds; ``run.retries`` + 1 unless told otherwise.

        Raises
        ------
        SecureSumError
            The last slot's error, when none succeeded.
        """
        left = self.config.run.retries + 1 if attempts is None else attempts
        while True:
            left -= 1
            try:
                return self.collect(self._send(self.open(task)))
            except SecureSumError as error:
                if left <= 0 or not self.may_retry(error):
                    raise
                logger.warning("%s; trying a new slot", error)

    @staticmethod
    def may_retry(error: FgcifError) -> bool:
        """Whether a new slot could go better: not where the run itself is wrong."""
        return not isinstance(error, _FATAL)

    def _wait_for_enterprises(self) -> None:
        wanted = self.config.run.enterprises
        deadline = time.monotonic() + self.config.run.timeout
        while (count := len(list(self.grid.get_node_ids()))) < wanted:
            if time.monotonic() > deadline:
                raise CohortError(
                    f"{count} of {wanted} enterprises connected within "
                    f"{self.config.run.timeout:.0f} s (run.timeout); start the others, or lower "
                    f"run.enterprises"
                )
            time.sleep(0.5)

    def _keep(self, ads: Mapping[str, Advertisement]) -> None:
        """Keep round keys for the next slot; one that is malformed counts as not sent."""
        for name, ad in ads.items():
            if (ad.sender, ad.slot) != (name, self._slot):
                logger.warning("%s advertised for another slot or name; ignored", name)
                continue
            try:
                self.epoch.check_advertisement(ad)
            except SecureSumError as error:
                logger.warning("%s; ignored", error)
            else:
                self._ads.setdefault(name, ad)

    def _ask(self, names: Iterable[str], request: Request, kind: type[_T]) -> dict[str, _T]:
        """Send ``request`` to the named enterprises and return the replies of ``kind`` by name."""
        replies = self._send([self._message(name, request) for name in names])
        return self._read(replies, kind)

    def _ask_nodes(
        self, nodes: Iterable[int], request: Request, kind: type[_T]
    ) -> list[tuple[int, _T]]:
        content = request_to_records(request)
        messages = [Message(content, node, message_type(request)) for node in nodes]
        return self._read_nodes(self._send(messages), kind)

    def _message(self, name: str, request: Request, inputs: ArrayRecord | None = None) -> Message:
        return Message(
            request_to_records(request, inputs), self._nodes[name], message_type(request)
        )

    def _send(self, messages: list[Message]) -> Iterable[Message]:
        return self.grid.send_and_receive(messages, timeout=self.config.run.timeout)

    def _read(self, replies: Iterable[Message], kind: type[_T]) -> dict[str, _T]:
        found: dict[str, _T] = {}
        for node, reply in self._read_nodes(replies, kind):
            found.setdefault(self._names[node], reply)
        return found

    def _read_nodes(self, replies: Iterable[Message], kind: type[_T]) -> list[tuple[int, _T]]:
        """Return the replies of ``kind``; others count as not sent, or end the run."""
        found: list[tuple[int, _T]] = []
        refusals: list[FgcifError] = []
        for message in sorted(replies, key=lambda message: message.metadata.src_node_id):
            node = message.metadata.src_node_id
            name = self._names.get(node, f"node {node}")
            if message.has_error():
                logger.warning("an enterprise was lost: Flower error %d", message.error.code)
                continue
            try:
                reply = reply_from_records(message.content)
            except SecureSumError as error:
                logger.warning("%s counts as lost: %s", name, error)
                continue
            if isinstance(reply, Refusal):
                refusals.append(reply.as_error(name))
            elif isinstance(reply, kind):
                found.append((node, reply))
            else:
                logger.warning("%s sent another kind of reply than asked for", name)
        self._refused(refusals)
        return found

    def _refused(self, refusals: list[FgcifError]) -> None:
        """Let those who refused count as lost, or end the run where the run itself is wrong.

        No single enterprise may end a run that tolerates its loss: what is wrong with the run
        is said by more of them than may be lost.
        """
        for error in refusals:
            logger.warning("refused, counts as lost: %s", error)
        fatal = [error for error in refusals if not self.may_retry(error)]
        if len(fatal) > self._tolerated:
            raise fatal[0]

    def _judge(self, slot: SlotCoordinator, outcomes: Mapping[str, int], survivors: int) -> None:
        """Fail the slot where more could not compute than may be lost."""
        total = sum(outcomes.values())
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
                f"{slot.task} that is beyond its bound or not finite; lower "
                f"training.learning_rate, or raise secagg.value_bound "
                f"({self.config.secagg.value_bound:g}) for updates, secagg.value_bits "
                f"({self.config.secagg.value_bits}) for counts"
            )
        elif total > self._tolerated:
            raise SecureSumError(
                f"{total} of {survivors} enterprises could not compute task {slot.task}; their "
                "own logs say why (where the model diverged: lower training.learning_rate)"
            )


def _limits(secagg: SecAggSection) -> list[int | None]:
    limits = (secagg.threshold, secagg.tolerated_dropouts, secagg.tolerated_colluders)
    return [None if value == "auto" else value for value in limits]


def _manifest(secagg: SecAggSection, terms: str, roster: tuple[tuple[str, bytes], ...]) -> Manifest:
    return Manifest(1, terms, roster, *_limits(secagg))
