"""A Flower mod that lets nothing leave a client but its part of a secure sum.

    app = ClientApp(mods=[SecureSumMod(identity="identity.pem", roster="roster.json")])

The app's functions stay as they are: they receive arrays and configuration and return arrays and
metrics. The mod answers the requests of :class:`SecureSumStrategy` itself, calls the app's function
when a vector is due, and sends it masked. Any other message is refused: with the mod in place a
coordinator cannot ask for the plain update instead.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable

from fgcif_flwr.errors import (
    AuthenticationError,
    ConfigurationError,
    FgcifError,
    NotJoinedError,
    SecureSumError,
)
from fgcif_flwr.federation import answering
from fgcif_flwr.federation.envelope import enclosed_type
from fgcif_flwr.federation.records import reply_to_records, request_from_records
from fgcif_flwr.federation.requests import (
    Join,
    Refusal,
    Release,
    Reply,
)
from fgcif_flwr.federation.roster import FilePath, Roster, load_identity, load_roster
from fgcif_flwr.federation.secure_sum_terms import TASKS, Agreement
from fgcif_flwr.federation.task_input import input_hash
from fgcif_flwr.privacy.door import Door
from fgcif_flwr.privacy.policy import Policy
from fgcif_flwr.privacy.release_log import FileLog, LogEntry, ReleaseLog
from fgcif_flwr.secagg import MemoryJournal, Participant, Released, SqliteJournal
from fgcif_flwr.secagg.keys import KeyPair, identity_from_seed
from fgcif_flwr.secagg.messages import Manifest
from fgcif_flwr.secagg.participant.snapshot import dump, load

logger = logging.getLogger(__name__)

_STATE = "fgcif.secure-sum"
_REFUSED = 6  # flwr.common.constant.ErrorCode.MOD_FAILED_PRECONDITION


class SecureSumMod:
    """Answers the requests of a secure sum in place of the app, and refuses everything else.

    Put it first in ``ClientApp(mods=[...])``: mods after it work on the plain messages, within the
    client.

    Parameters
    ----------
    identity : path
        This client's Ed25519 private key: a seed of 32 bytes, or PEM without a password.
    roster : path
        JSON object of all clients' names and public keys (hexadecimal), as agreed out of band. A
        run with any other roster is refused. This client's name is that of its key.
    journal : path
        SQLite file that remembers spent slots and replies, also over restarts: a slot is written
        there before its vector leaves.
    log : path
        File of the release log, one JSON line a release: the record of what left, which alone
        shows a coordinator that asks for the same again and again.
    policy : Policy
        What this client lets out whatever it is asked; by default cohorts of at least 3.
    most_value_bits : int
        Most bits of precision for a value.
    unprotected : iterable of str
        Message types ("query" or "query.…") that are handed to the app, whose reply then leaves
        as it is, in the clear. None by default.
    rounding_seed : int, optional
        Makes the stochastic rounding repeat; the operating system's generator otherwise.

    Raises
    ------
    ConfigurationError
        If identity or roster are missing or wrong, or an unprotected type is not a query.
    """

    def __init__(
        self,
        *,
        identity: FilePath | None = None,
        roster: FilePath | None = None,
        journal: FilePath | None = None,
        log: FilePath | None = None,
        policy: Policy | None = None,
        most_value_bits: int = 32,
        unprotected: Iterable[str] = (),
        rounding_seed: int | None = None,
    ) -> None:
        if identity is None or roster is None or journal is None or log is None:
            raise ConfigurationError(
                "SecureSumMod wants identity= and roster= (files agreed out of band), journal= and "
                "log= (files that it makes); for simulations use SecureSumMod.simulated()"
            )
        for made in (journal, log):
            if not Path(made).absolute().parent.is_dir():
                raise ConfigurationError(f"there is no directory for {made}; make it first")
        self._identity: KeyPair | None = load_identity(identity)
        self._roster: Roster | None = load_roster(roster)
        names = [name for name, public in self._roster if public == self._identity.public]
        if not names:
            raise ConfigurationError(f"the roster {roster} does not hold the key of {identity}")
        self._name: str | None = names[0]
        self._journal: FilePath | None = journal
        self._limit(log, policy, most_value_bits, unprotected, rounding_seed)

    @classmethod
    def simulated(
        cls,
        *,
        log: FilePath | None = None,
        policy: Policy | None = None,
        most_value_bits: int = 32,
        unprotected: Iterable[str] = (),
        rounding_seed: int | None = None,
    ) -> SecureSumMod:
        """Return a mod for simulations: it protects nobody from the coordinator.

        Each client draws a fresh identity, is named after its partition-id, and takes the
        coordinator's word for who the others are. The other parameters are the class's.
        """
        mod = cls.__new__(cls)
        mod._identity = mod._roster = mod._name = mod._journal = None
        if policy is None:
            policy = Policy(minimum_colluders=1, units=frozenset({"none"}))
        mod._limit(log, policy, most_value_bits, unprotected, rounding_seed)
        return mod

    def _limit(
        self,
        log: FilePath | None,
        policy: Policy | None,
        most_value_bits: int,
        unprotected: Iterable[str],
        rounding_seed: int | None,
    ) -> None:
        self._log: ReleaseLog = _LoggerLog() if log is None else FileLog(Path(log))
        # An app of others' releases without a privacy unit: a policy for it must allow that.
        self._policy = Policy(units=frozenset({"none"})) if policy is None else policy
        self._most_value_bits = most_value_bits
        self._unprotected = frozenset(unprotected)
        self._rounding_seed = rounding_seed
        for one in self._unprotected:
            if one.split(".")[0] != "query":
                raise ConfigurationError(f"{one} cannot be unprotected: only queries can")

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Answer a message of the secure sum; refuse any other without calling the app."""
        kind = enclosed_type(message)
        if kind is None:
            if message.metadata.message_type in self._unprotected:
                return call_next(message, context)
            logger.warning("refused a %s outside the secure sum", message.metadata.message_type)
            said = (
                "this ClientApp answers only the secure sum; wrap the strategy in SecureSumStrategy"
            )
            return Message(Error(_REFUSED, said), reply_to=message)
        try:
            reply = self._answer(kind, message, context, call_next)
        except FgcifError as error:
            logger.warning("refused: %s", error)
            reply = Refusal.of(error)
        except Exception:  # its text stays here: Flower would send it to the server
            logger.exception("a request of the secure sum failed")
            reply = Refusal.internal()
        return Message(reply_to_records(reply), reply_to=message)

    def _answer(
        self, kind: str, message: Message, context: Context, call_next: ClientAppCallable
    ) -> Reply:
        request = request_from_records(kind, message.content)
        with ExitStack() as opened:
            party = self._party(context)
            if self._journal is not None:
                party.journal = opened.enter_context(_opened(self._journal))
            try:
                if isinstance(request, Release):
                    return self._release(party, request, message, context, call_next)
                if isinstance(request, Join):
                    self._check(request.manifest)
                    return party.join(request.manifest)
                return answering.answer(party, request)
            finally:  # a refusal changes it too: its slot is spent
                context.state[_STATE] = ConfigRecord({**self._state(party)})

    def _party(self, context: Context) -> Participant:
        """Return this client's party as the last message left it; a new one at first."""
        state = context.state.get(_STATE)
        if isinstance(state, ConfigRecord):
            party = load(state)
            if self._identity is None:
                return party
            if party.identity.public == self._identity.public:
                party.identity = self._identity
                return party
        if self._identity is not None:
            assert self._name is not None
            return Participant(self._name, self._identity)
        if "partition-id" not in context.node_config:
            raise ConfigurationError(
                "SecureSumMod.simulated() is for simulations, whose nodes have a partition-id"
            )
        name = f"client-{int(context.node_config['partition-id']):06d}"
        return Participant(name, identity_from_seed(os.urandom(32)), semi_honest=True)

    def _state(self, party: Participant) -> Mapping[str, int | str | bytes]:
        if self._journal is not None:
            party.journal = MemoryJournal()  # what is on disk is not copied
        if self._identity is not None:
            party.identity = KeyPair(b"", party.identity.public)  # nor what outlives the run
        return dump(party)

    def _check(self, manifest: Manifest) -> None:
        """Refuse a run whose roster is not the pinned one, or whose terms this client declines."""
        if self._roster is not None and manifest.roster != self._roster:
            raise AuthenticationError("the run's roster is not the one agreed out of band")
        self._policy.check_manifest(manifest)
        agreed = Agreement.from_json(manifest.terms)
        if agreed.terms.value_bits > self._most_value_bits:
            raise SecureSumError(
                f"policy: value_bits = {agreed.terms.value_bits} is above this client's most of "
                f"{self._most_value_bits}"
            )

    def _release(
        self,
        party: Participant,
        release: Release,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
    ) -> Released:
        if party.manifest is None:
            raise NotJoinedError(f"{party.name} has not joined a run")
        request, kind = release.request, message.metadata.message_type
        if request.task not in TASKS or kind.split(".")[0] != request.task:
            raise SecureSumError(f"there is no task {request.task!r} for a message of type {kind}")
        agreed = Agreement.from_json(party.manifest.terms)
        received, config = agreed.received(release.arrays, kind)

        def compute() -> Mapping[str, npt.ArrayLike]:
            plain = copy.copy(message)
            plain.content = agreed.content(received, config)
            try:
                reply = call_next(plain, context)
            except SystemExit:  # would end the process, and the coordinator would see that
                raise RuntimeError("the app wanted to exit") from None
            if not reply.has_content():
                raise RuntimeError("the app replied with an error")
            return agreed.values(request.task, received, reply.content)

        hashed = input_hash(release.arrays)
        return Door(party, self._policy, self._log).release(
            request,
            agreed.layout(request.task),
            hashed,
            compute,
            self._rounding(party.name, request.slot, hashed),
        )

    def _rounding(self, name: str, slot: int, hashed: bytes) -> np.random.Generator:
        if self._rounding_seed is None:
            return np.random.default_rng(int.from_bytes(os.urandom(32), "big"))
        purpose = f"rounding\0{self._rounding_seed}\0{name}\0{slot}\0".encode() + hashed
        return np.random.default_rng(int.from_bytes(hashlib.sha256(purpose).digest(), "big"))


def _opened(path: FilePath) -> SqliteJournal:
    try:
        return SqliteJournal(path)
    except FgcifError as error:  # its words name a file of this machine
        logger.warning("%s", error)
        raise SecureSumError(
            "this client's journal cannot be used; its own log says more"
        ) from None


class _LoggerLog:
    """A release log that goes where this module's log goes."""

    def append(self, entry: LogEntry) -> None:
        """Log one line."""
        logger.info("released: %s", entry)
