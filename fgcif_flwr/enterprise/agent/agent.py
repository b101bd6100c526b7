"""The agent: one enterprise that answers a coordinator's signed requests, whoever carries them.

A request passes, in this order, and each check that fails ends it:

1. size (before it is read: :mod:`fgcif_flwr.enterprise.agent.shared_app`) and form,
2. the coordinator's signature, by its pinned key,
3. that it is for this enterprise, and newer than all before,
4. for a join: the pinned roster, and this enterprise's limits of runs,
5. :class:`fgcif_flwr.enterprise.enterprise.Enterprise`: schema, policy, budget, the one door.

Secrets of a run are in this process's memory only. What must outlive it (request numbers, runs,
spent slots, stored replies, charges) is on disk before a reply leaves.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from fgcif_flwr.config import RunConfig
from fgcif_flwr.enterprise.agent.customers import Customers
from fgcif_flwr.enterprise.agent.kept_models import keep_model
from fgcif_flwr.enterprise.agent.limits import AgentState
from fgcif_flwr.enterprise.agent.own_log import log_event
from fgcif_flwr.enterprise.agent.runs import (
    RunLimits,
    check_length,
    epsilon_of,
    terms_hash,
)
from fgcif_flwr.enterprise.enterprise import Enterprise
from fgcif_flwr.enterprise.generator_tasks import forget_rows
from fgcif_flwr.enterprise.site import Site
from fgcif_flwr.errors import AuthenticationError, FgcifError, SecureSumError
from fgcif_flwr.federation.agent_body import PATHS, AgentRequest, read_request, write_reply
from fgcif_flwr.federation.private_plan import most_exact_sums
from fgcif_flwr.federation.releases import EVALUATE
from fgcif_flwr.federation.requests import Identify, Join, Refusal, Release, Reply, Request
from fgcif_flwr.federation.signing import ANYBODY
from fgcif_flwr.federation.task_input import input_hash
from fgcif_flwr.federation.terms import config_in
from fgcif_flwr.privacy.ledger import Witness
from fgcif_flwr.privacy.release_log import FileLog
from fgcif_flwr.secagg import Manifest, Participant, SqliteJournal, wire
from fgcif_flwr.secagg.transcript import digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A reply's bytes, and whether rows may have decided when it was ready."""

    reply: bytes
    from_rows: bool = False


class Agent:
    """An enterprise's party in runs, for as long as its process lives.

    :meth:`answer` is called by one thread at a time; :meth:`reload` may be called by another.

    Parameters
    ----------
    site : Site
    clock : callable
        Seconds since 1970.

    Raises
    ------
    FgcifError
        If the enterprise's state cannot be opened or another process has it, or if its data is
        not as its schema says.
    """

    def __init__(self, site: Site, clock: Callable[[], float] = time.time) -> None:
        section = site.config.agent
        self._site = site
        self._limits = RunLimits(section.runs_per_day, section.epsilon_per_day, section.approval)
        with ExitStack() as opened:
            journal = opened.enter_context(SqliteJournal(site.journal_path))
            self._ledger = opened.enter_context(site.open_ledger())
            self._witness = opened.enter_context(Witness(site.witness_path))
            self._state = opened.enter_context(AgentState(site.state_path, clock))
            self._customers = Customers(site, self._ledger.population_key)
            self._opened = opened.pop_all()
        self._log = FileLog(site.release_log_path)
        self._party = Participant(site.name, site.identity, journal=journal)

    def close(self) -> None:
        """Let go of the state; the secrets of the run go with the process."""
        self._opened.close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def customers(self) -> int:
        """How many customers are loaded."""
        return self._customers.count

    @property
    def run(self) -> str | None:
        """The run that was joined last, hexadecimal digits; None before."""
        manifest = self._party.manifest
        return None if manifest is None else manifest.run.hex()

    def reload(self) -> tuple[str, ...]:
        """Load the rows anew; return what was found worth a word.

        Raises
        ------
        DataError
            If they are not as the schema says; the rows of before stay.
        """
        found = self._customers.load()
        forget_rows()  # of customers who may have asked to be erased
        log_event(logger, "reload", outcome="answered")
        return found

    def answer(self, path: str, body: bytes) -> Outcome:
        """Answer the bytes of a request that came to one of the shared socket's paths.

        Whatever goes wrong is a refusal; nothing is raised.
        """
        request: AgentRequest | None = None
        asked: Request | None = None
        try:
            request = read_request(body)
            del body  # a large one is not held while it is worked on
            asked = self._checked(path, request)
            reply = self._answer(asked)
        except FgcifError as error:
            reply, reason = Refusal.of(error), str(error)
        except Exception:  # an answer of no kind would end the socket's handler in words of its own
            logger.exception("the agent failed on a request")
            reply, reason = Refusal.internal(), "internal error"
        else:
            reason = reply.reason if isinstance(reply, Refusal) else ""
        self._write_down(path, request, asked, reply, reason)
        return Outcome(write_reply(self._told_outside(reply)), isinstance(asked, Release))

    def _told_outside(self, reply: Reply) -> Reply:
        """Leave a refusal's words out where they name a file of this machine; the log has them."""
        if isinstance(reply, Refusal) and str(self._site.config.directory) in reply.reason:
            return Refusal(reply.code, Refusal.internal().reason)
        return reply

    def _checked(self, path: str, request: AgentRequest) -> Request:
        """Return what is asked, once it is known to come from the coordinator, now, for us."""
        if request.kind not in PATHS[path]:
            raise SecureSumError(f"a request is malformed: {path} takes no {request.kind}")
        asked = request.read()
        signature = request.signature
        if signature is None:
            raise AuthenticationError(
                "the request is not signed; agents answer only their own "
                "coordinator, which wants run.identity"
            )
        hashed = input_hash(request.arrays)
        signature.verify(self._site.coordinator, request.kind, request.message, hashed)
        wanted = ANYBODY if isinstance(asked, Identify) else self._site.name
        if signature.recipient != wanted:
            raise AuthenticationError(
                f"the request is for another enterprise than {wanted}"
                if wanted
                else "the request wants no recipient"
            )
        said = _digest(request.kind, request.message, hashed)
        self._state.accept_number(signature.number, said)
        return asked

    def _answer(self, asked: Request) -> Reply:
        if isinstance(asked, Join):
            return self._join(asked)
        manifest = self._party.manifest
        config = None if manifest is None else config_in(manifest.terms)
        if isinstance(asked, Release) and manifest is not None and config is not None:
            self._count(asked, manifest, config)
        reply = self._enterprise(config, isinstance(asked, Release)).answer(asked)
        if (
            isinstance(asked, Release)
            and asked.request.task == EVALUATE
            and not isinstance(reply, Refusal)
            and manifest is not None
        ):
            keep_model(self._site, manifest, asked.arrays)
        return reply

    def _count(self, asked: Release, manifest: Manifest, config: RunConfig) -> None:
        """Bound the sums of a run without a privacy unit; those of others the ledger bounds."""
        if config.privacy.unit == "none":
            request = asked.request
            most = most_exact_sums(config, request.task)
            said = _digest("train.release", wire.encode(request), input_hash(asked.arrays))
            self._state.count_sum(manifest.run.hex(), request.task, request.slot, said, most)

    def _join(self, asked: Join) -> Reply:
        manifest = asked.manifest
        if manifest.roster != self._site.roster:
            raise AuthenticationError("the run's roster is not the one agreed out of band")
        check_length(manifest)
        self._state.admit(manifest, epsilon_of(manifest, self._site.schema), self._limits)
        reply = self._enterprise(config_in(manifest.terms), False).answer(asked)
        if isinstance(reply, Refusal):
            self._state.note_refusal(manifest)
        else:
            self._state.count_join(manifest)
        return reply

    def _enterprise(self, config: RunConfig | None, wants_rows: bool) -> Enterprise:
        """Return the enterprise for one request; its rows take part in releases alone."""
        rows = self._customers.none(config)
        if wants_rows and config is not None:
            rows = self._customers.split(config)
        return Enterprise(
            self._site.schema,
            rows,
            self._party,
            self._site.policy,
            self._log,
            self._ledger,
            self._witness,
        )

    def _write_down(
        self,
        path: str,
        request: AgentRequest | None,
        asked: Request | None,
        reply: Reply,
        reason: str,
    ) -> None:
        fields: dict[str, object] = {"path": path}
        if request is not None:
            fields["kind"] = request.kind
            if request.signature is not None:
                fields["number"] = request.signature.number
        if isinstance(asked, Join):
            fields |= {"run": asked.manifest.run.hex(), "epoch": asked.manifest.epoch}
            fields["terms"] = terms_hash(asked.manifest)
        elif isinstance(asked, Release):
            fields |= {"slot": asked.request.slot, "task": asked.request.task}
        elif (slot := getattr(asked, "slot", None)) is not None:
            fields["slot"] = slot
        if isinstance(reply, Refusal):
            log_event(
                logger, "request", outcome="refused", code=reply.code, reason=reason, **fields
            )
        else:
            log_event(logger, "request", outcome="answered", **fields)


def _digest(kind: str, message: bytes, hashed: bytes) -> bytes:
    """Return the digest of a whole request; ``hashed`` is its input's."""
    return digest("asked", kind, message, hashed)
