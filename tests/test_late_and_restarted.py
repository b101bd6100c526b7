"""Enterprises that lose their keys, or come late, join again and take part."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message

from client_app.app import app as client_app
from fgcif_flwr.config import flatten
from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.errors import (
    NotJoinedError,
)
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.records import (
    reply_from_records,
)
from fgcif_flwr.federation.releases import STATISTICS, layout_of
from fgcif_flwr.federation.requests import (
    Join,
    Refusal,
)
from fgcif_flwr.federation.session import (
    SLOTS_BETWEEN_EPOCHS,
    SecureSumSession,
    SessionSettings,
    Task,
)
from fgcif_flwr.federation.terms import terms_of
from fgcif_flwr.secagg import (
    Participant,
)
from fgcif_flwr.secagg.keys import identity_from_seed
from fgcif_flwr.secagg.participant.snapshot import dump, load
from tests.federation_rig import (
    Finished,
    configured,
    federate,
    identify,
    lost,
    node,
    request_of,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return federate(configured(tmp_path_factory.mktemp("baseline")))


def epochs_and_refusals(into: dict[str, list]):
    """The ClientApp, and on the way what the enterprises were asked to join and refused."""

    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        request, said = request_of(message), reply_from_records(reply.content)
        if isinstance(request, Join):
            into.setdefault("epochs", []).append(request.manifest.epoch)
        if isinstance(said, Refusal):
            into.setdefault("refused", []).append((message.metadata.dst_node_id, said.code))
        return reply

    return app


def restarted(context: Context, *, keeps_identity: bool = True) -> None:
    """Let an enterprise forget everything, or everything but who it is."""
    party = load(context.state["participant"])
    del context.state["participant"]
    if keeps_identity:
        fresh = Participant(party.name, party.identity, semi_honest=True)
        context.state["participant"] = ConfigRecord({**dump(fresh)})


def restarting(app, index: int, in_round: int, **how: bool):
    """The ClientApp, but that one enterprise is restarted as a round's message reaches it."""
    pending = [lost(index, in_round=in_round)]

    def restarts(message: Message, context: Context) -> Message:
        if pending and pending[0](message):
            pending.clear()
            restarted(context, **how)
        return app(message, context)

    return restarts


def test_a_restarted_enterprise_joins_again_in_a_later_epoch_and_takes_part(tmp_path):
    seen: dict[str, list] = {}
    app = restarting(epochs_and_refusals(seen), 2, in_round=2)
    run = federate(configured(tmp_path, {"run.rounds": 11}), app)
    assert run.record["status"] == "completed"
    # Round r is slot r + 1. Joining costs all of them two exchanges, so that it has to wait.
    rejoined = 1 + SLOTS_BETWEEN_EPOCHS
    assert [(row["slot"], row["survivors"], row["dropped"]) for row in run.history] == [
        (slot, 6, 0) if slot < 3 or slot >= rejoined else (slot, 5, int(slot == 3))
        for slot in range(2, 13)
    ]
    assert seen["epochs"] == [1] * 6 + [2] * 6
    assert set(seen["refused"]) == {(node(2), NotJoinedError.exit_code)}


def test_a_restarted_enterprise_joins_again_at_once_where_the_others_are_too_few(
    baseline, tmp_path
):
    seen: dict[str, list] = {}
    app = restarting(epochs_and_refusals(seen), 2, in_round=2)
    run = federate(configured(tmp_path, {"secagg.tolerated_dropouts": 0}), app)
    assert [(row["slot"], row["survivors"]) for row in run.history] == [(2, 6), (4, 6), (5, 6)]
    assert seen["epochs"] == [1] * 6 + [2] * 6
    # New keys and a retried round leave no trace in the model.
    assert run.sha256 == baseline.sha256


def test_an_enterprise_that_lost_its_identity_too_stays_out_and_does_not_end_the_run(tmp_path):
    app = restarting(client_app, 2, in_round=2, keeps_identity=False)
    run = federate(configured(tmp_path, {"run.rounds": 11}), app)
    assert run.record["status"] == "completed"
    assert [row["survivors"] for row in run.history] == [6] + [5] * 10


class Growing(InlineGrid):
    """Some of the nodes connect only later."""

    connected = 5

    def get_node_ids(self) -> Iterable[int]:
        return list(super().get_node_ids())[: self.connected]


def pinned(output: Path, alter: Callable[[list[tuple[str, bytes]]], None] = lambda roster: None):
    """A session over a growing grid with the roster agreed beforehand, and its task."""
    config = configured(output, {"run.timeout": 0.01})
    schema = load_schema(config.data.schema_name)
    grid = Growing(client_app, 6, flatten(config))
    roster = [(one.name, one.public) for one in identify(grid, *map(node, range(6)))]
    alter(roster)
    settings = replace(SessionSettings.of(config), roster=tuple(roster))
    session = SecureSumSession(grid, settings, terms_of(config, schema.hash))
    task = Task(STATISTICS, layout_of(STATISTICS, config, feature_layout(schema), 0), {})
    return grid, session, task


def test_an_enterprise_of_the_roster_that_connects_late_joins_the_next_epoch(tmp_path):
    grid, session, task = pinned(tmp_path)
    assert session.join().holders == tuple(f"enterprise-0{i}" for i in range(5))
    assert len(session.sum(task).survivors) == 5
    grid.connected = 6
    sums = [session.sum(task) for _ in range(SLOTS_BETWEEN_EPOCHS)]
    late = [total.slot for total in sums if "enterprise-05" in total.survivors]
    assert late == [1 + SLOTS_BETWEEN_EPOCHS]
    assert len(sums[-1].survivors) == 6
    assert session.epoch.manifest.epoch == 2


def test_a_node_that_has_a_name_of_the_roster_and_another_key_stays_out(tmp_path, caplog):
    def alter(roster: list[tuple[str, bytes]]) -> None:
        roster[2] = (roster[2][0], identity_from_seed(bytes(32)).public)

    grid, session, task = pinned(tmp_path, alter)
    grid.connected = 6
    assert "enterprise-02" not in session.join().holders
    assert len(session.sum(task).survivors) == 5
    assert "enterprise-02 stays out: it is on no roster" in caplog.text
