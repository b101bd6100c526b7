"""One exchange: ask enterprises by name, and read what they answer.

Every message comes from a node that may be hostile. What is malformed, of another kind than asked
for, or in another's name counts as not sent.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from typing import TypeVar

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from fgcif_flwr.errors import (
    AuthenticationError,
    ConfigurationError,
    DataError,
    FgcifError,
    PartitionError,
    PrivacyError,
    SchemaError,
    SecureSumError,
)
from fgcif_flwr.federation.records import reply_from_records, request_to_records, sign_request
from fgcif_flwr.federation.requests import Identify, Identity, Refusal, Request, message_type
from fgcif_flwr.federation.signing import ANYBODY, Signer
from fgcif_flwr.federation.task_input import input_hash

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_POLL_SECONDS = 0.5
_NO_INPUT = input_hash({})

# What an enterprise refuses with because the run itself is wrong, or because its policy or its
# privacy budget says no: no other slot would help.
_FATAL = (ConfigurationError, SchemaError, DataError, PartitionError, PrivacyError)


class Exchange:
    """Enterprises that a grid reaches, by name.

    Parameters
    ----------
    grid : Grid
    timeout : float
        Seconds that a reply is waited for.
    tolerated : int
        Enterprises that may be lost. No single one may end a run that tolerates its loss: that
        the run itself is wrong, or that a policy or a privacy budget says no, must be said by
        more of them than that, and then it is raised.
    signer : Signer, optional
        Signs every request, as enterprises' agents want it.

    Attributes
    ----------
    refusals : list of (name, error)
        Of the last exchange.
    """

    def __init__(
        self, grid: Grid, timeout: float, tolerated: int, signer: Signer | None = None
    ) -> None:
        self.grid = grid
        self._signer = signer
        self.timeout = timeout
        self._tolerated = tolerated
        self.refusals: list[tuple[str, FgcifError]] = []
        self._nodes: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def wait_for(self, wanted: int) -> int:
        """Wait until so many nodes are connected, or the time is over; return how many are."""
        deadline = time.monotonic() + self.timeout
        while (count := len(list(self.grid.get_node_ids()))) < wanted:
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        return count

    def identify(self, roster: dict[str, bytes] | None = None) -> dict[str, bytes]:
        """Ask all nodes that have no name yet; return the names and keys that are new.

        A name goes to the node that proves to have its key, and moves to another one only so.

        Parameters
        ----------
        roster
            Where it is fixed, whoever is not on it with this key stays without a name. Before,
            a name that is claimed with two keys is nobody's.
        """
        unknown = [node for node in self.grid.get_node_ids() if node not in self._names]
        asked = {node: Identify(str(node), os.urandom(32)) for node in unknown}
        messages = [
            self._addressed(request, node, ANYBODY, request_to_records(request), _NO_INPUT)
            for node, request in asked.items()
        ]
        claims: dict[str, dict[int, bytes]] = {}
        replies = self.send(messages) if messages else ()
        strangers = roster is None  # where nobody is known yet, all have a say in the run
        for node, identity in self._replies(replies, Identity, strangers):
            try:
                identity.verify(asked[node])
            except (AuthenticationError, KeyError) as error:
                logger.warning("node %d stays without a name: %s", node, error)
                continue
            claims.setdefault(identity.name, {})[node] = identity.public
        found: dict[str, bytes] = {}
        for name, nodes in claims.items():
            publics = set(nodes.values())
            if roster is not None:
                publics &= {roster.get(name, b"")}
            if len(publics) != 1:  # without a roster, nobody can tell who has the right to a name
                logger.warning("%s stays out: it is on no roster, or claimed with two keys", name)
                continue
            (public,) = publics
            node = max(node for node, key in nodes.items() if key == public)
            found[name] = public
            self._names.pop(self._nodes.get(name, 0), None)  # it came back as another node
            self._nodes[name] = node
            self._names[node] = name
        return found

    def online(self) -> set[str]:
        """Names of those that are connected."""
        return {name for node in self.grid.get_node_ids() if (name := self._names.get(node))}

    def ask(self, names: Iterable[str], request: Request, kind: type[_T]) -> dict[str, _T]:
        """Send ``request`` to the named enterprises and return the replies of ``kind`` by name."""
        return self.read(self.send([self.message(name, request) for name in names]), kind)

    def ask_each(self, requests: Mapping[str, Request], kind: type[_T]) -> dict[str, _T]:
        """As :meth:`ask`, where everyone gets a request of its own."""
        messages = [self.message(name, request) for name, request in requests.items()]
        return self.read(self.send(messages), kind)

    def message(
        self,
        name: str,
        request: Request,
        inputs: ArrayRecord | None = None,
        hashed: bytes = _NO_INPUT,
    ) -> Message:
        """Return the message that asks one enterprise; ``hashed`` is the hash of a task's input."""
        content = request_to_records(request, inputs)
        return self._addressed(request, self._nodes[name], name, content, hashed)

    def _addressed(
        self, request: Request, node: int, recipient: str, content: RecordDict, hashed: bytes
    ) -> Message:
        kind = message_type(request)
        if self._signer is not None:
            sign_request(content, kind, self._signer, recipient, hashed)
        return Message(content, node, kind)

    def send(self, messages: list[Message]) -> Iterable[Message]:
        """Send and return what comes back in time."""
        return self.grid.send_and_receive(messages, timeout=self.timeout)

    def read(self, replies: Iterable[Message], kind: type[_T]) -> dict[str, _T]:
        """Return the replies of ``kind``, each under the name that it comes from and claims."""
        found: dict[str, _T] = {}
        for node, reply in self._replies(replies, kind):
            name = self._names.get(node)
            claimed = getattr(reply, "sender", getattr(reply, "name", None))
            if name is None or claimed != name:
                logger.warning("node %d answered in another's name; it counts as not sent", node)
                continue
            found.setdefault(name, reply)
        return found

    def _replies(
        self, replies: Iterable[Message], kind: type[_T], strangers: bool = False
    ) -> list[tuple[int, _T]]:
        """Return what nodes answered; refusals of ``strangers`` count only where told so."""
        found: list[tuple[int, _T]] = []
        self.refusals = []
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
                refusal = reply.as_error(name)
                logger.warning("refused, counts as lost: %s", refusal)
                if node in self._names or strangers:
                    self.refusals.append((name, refusal))
            elif isinstance(reply, kind):
                found.append((node, reply))
            else:
                logger.warning("%s sent another kind of reply than asked for", name)
        fatal = [error for _, error in self.refusals if not may_retry(error)]
        if len(fatal) > self._tolerated:
            raise fatal[0]
        return found


def may_retry(error: FgcifError) -> bool:
    """Whether a new slot could go better: not where the run itself is wrong, or where a policy or
    a privacy budget says no."""
    return not isinstance(error, _FATAL)
