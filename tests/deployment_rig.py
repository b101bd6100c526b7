"""A deployment over the in-process grid: a pinned roster, and a mod with files of its own a node.

Some nodes may be hostile: each is given a function that answers in the mod's place. Nodes beyond
the members are on no roster.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fgcif_flwr.federation import SecureSumMod, SecureSumStrategy
from fgcif_flwr.federation import session as sessions
from fgcif_flwr.federation.envelope import enclosed_type
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.records import (
    reply_from_records,
    reply_to_records,
    request_from_records,
)
from fgcif_flwr.federation.requests import Reply, Request
from fgcif_flwr.secagg.keys import identity_from_seed
from tests.somebody_elses_app import TERMS, reply, start

Honest = Callable[[], Reply]
Hostile = Callable[[Request, Honest], Reply]
"""What a hostile node replies to a request, given what its mod would."""


def trained(message: Message, context: Context) -> Message:
    """A client's training: it moves every parameter by its number / 1000."""
    client = int(context.node_config["partition-id"])
    arrays = {
        key: a.numpy() + np.float32(client / 1000) for key, a in message.content["arrays"].items()
    }
    return reply(message, arrays, num_examples=10, loss=1.0)


class Deployment:
    """Members e000, e001, … on nodes 1000, 1001, …, then nodes of strangers.

    Attributes
    ----------
    sums : list of Sum
        Every slot that was opened, with its survivors.
    """

    def __init__(
        self,
        directory: Path,
        members: int,
        *,
        strangers: int = 0,
        hostile: Mapping[int, Hostile] | None = None,
        absent: Collection[int] = (),
        **faults: Callable[[Message], bool],
    ) -> None:
        self.directory = directory
        self.names = [f"e{i:03d}" for i in range(members)]
        self.identities = [identity_from_seed(os.urandom(32)) for _ in range(members)]
        roster = {n: k.public.hex() for n, k in zip(self.names, self.identities, strict=True)}
        (directory / "roster.json").write_text(json.dumps(roster), encoding="utf-8")
        self.hostile = dict(hostile or {})
        self.mods = {i: self.mod(i) for i in range(members)}
        self.strategy: SecureSumStrategy | None = None
        self.sums: list[sessions.Sum] = []
        app = ClientApp(mods=[self._answer])
        app.train()(trained)
        self.grid = InlineGrid(app, members + strangers, {}, **faults)

    def mod(self, index: int, **changes: Any) -> SecureSumMod:
        """A member's mod, over its files."""
        identity = self.directory / f"identity-{index}"
        identity.write_bytes(self.identities[index].private)
        files = {
            "identity": identity,
            "roster": self.directory / "roster.json",
            "journal": self.directory / f"journal-{index}.sqlite",
            "log": self.directory / f"releases-{index}.jsonl",
        }
        return SecureSumMod(**{**files, **changes})

    def _answer(self, message: Message, context: Context, call_next: Any) -> Message:
        index = int(context.node_config["partition-id"])
        if index not in self.hostile:
            return self.mods[index](message, context, call_next)
        kind = enclosed_type(message)
        assert kind is not None
        request = request_from_records(kind, message.content)

        def honest() -> Reply:
            return said(self.mods[index](message, context, call_next))

        reply = self.hostile[index](request, honest)
        return Message(reply_to_records(reply), reply_to=message)

    def run(self, rounds: int = 1, **settings: Any) -> Any:
        """Run a federation; its sums are kept."""
        inner = FedAvg(fraction_evaluate=0, min_available_nodes=2, min_train_nodes=2)
        roster = self.directory / "roster.json"
        self.strategy = SecureSumStrategy(
            inner, TERMS, **{"roster": roster, "timeout": 5, **settings}
        )
        opened, collect = self.sums, sessions.SecureSumSession.collect

        def collecting(session: sessions.SecureSumSession, replies: Any) -> sessions.Sum:
            opened.append(collect(session, replies))
            return opened[-1]

        session = sessions.SecureSumSession
        session.collect = collecting
        try:
            return start(self.strategy, self.grid, rounds)
        finally:
            session.collect = collect

    @property
    def slots(self) -> list[tuple[int, int]]:
        """Slots that were opened, and how many survived in each."""
        return [(total.slot, len(total.survivors)) for total in self.sums]

    def without(self, *indices: int) -> tuple[str, ...]:
        """All members but these."""
        return tuple(name for i, name in enumerate(self.names) if i not in indices)


def said(message: Message) -> Reply:
    return reply_from_records(message.content)


def at_once(grid: InlineGrid, *messages: Message) -> list[Message]:
    """What processes do that were started together on one node: each has the state as it was when
    it started, and the last to end leaves its own."""
    nodes = grid._nodes
    (number,) = {message.metadata.dst_node_id for message in messages}
    before = nodes._contexts[number]
    contexts = [copy.deepcopy(before) for _ in messages]
    replies = [nodes._app(m, context) for m, context in zip(messages, contexts, strict=True)]
    nodes._contexts[number] = contexts[-1]
    return replies
