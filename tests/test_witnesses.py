"""A coordinator's witness of what is attested, and refusals by policy, budget and ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import Context, Message

from client_app.app import app as client_app
from fgcif_flwr.config import flatten
from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.errors import (
    BudgetExhaustedError,
    CohortError,
    LedgerError,
    LedgerRolledBackError,
    PolicyError,
    PrivacyError,
)
from fgcif_flwr.federation import epochs
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.records import reply_from_records, reply_to_records
from fgcif_flwr.federation.releases import STATISTICS, layout_of
from fgcif_flwr.federation.requests import Refusal
from fgcif_flwr.federation.session import SecureSumSession, SessionSettings, Sum, Task
from fgcif_flwr.federation.terms import terms_of
from fgcif_flwr.secagg import JoinReply, Participant
from tests.federation_rig import accused, configured, node

torch.set_num_threads(1)

NAMES = tuple(f"enterprise-{i:02d}" for i in range(6))
"""Six: one may be lost."""
OLD = NAMES[2]
App = Callable[[Message, Context], Message]


class Run:
    """A session over six enterprises, and what it asks them."""

    def __init__(
        self, directory: Path, app: App = client_app, witness: epochs.Witness | None = None
    ) -> None:
        self.asked: list[tuple[str, int]] = []

        def asking(message: Message, context: Context) -> Message:
            self.asked.append((message.metadata.message_type, message.metadata.dst_node_id))
            return app(message, context)

        config = configured(directory)
        schema = load_schema(config.data.schema_name)
        grid = InlineGrid(asking, 6, flatten(config))
        terms = terms_of(config, schema.hash)
        self.session = SecureSumSession(grid, SessionSettings.of(config), terms, witness)
        layout = layout_of(STATISTICS, config, feature_layout(schema), 0)
        self.task = Task(STATISTICS, layout, {})

    def sum(self) -> Sum:
        return self.session.sum(self.task)

    def count(self, kind: str) -> int:
        return sum(one == kind for one, _ in self.asked)


def without(*names: str) -> tuple[str, ...]:
    return tuple(name for name in NAMES if name not in names)


@pytest.fixture
def attesting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every enterprise attests its own name."""
    join = Participant.join

    def named(party, manifest, *_, **__):
        return join(party, manifest, f"of {party.name}".encode())

    monkeypatch.setattr(Participant, "join", named)


def rolled_back(name: str) -> LedgerRolledBackError:
    return LedgerRolledBackError(f"the ledger of {name} is shorter than it was")


# The witness.


@pytest.mark.usefixtures("attesting")
def test_a_witness_is_shown_name_key_and_attestation_of_every_join(tmp_path):
    shown: list[tuple[str, bytes, bytes]] = []
    run = Run(tmp_path, witness=lambda *one: shown.append(one))
    epoch = run.session.join()
    roster = epoch.manifest.identities
    assert shown == [(name, roster[name], f"of {name}".encode()) for name in NAMES]
    assert run.sum().survivors == NAMES


def test_one_whose_attestation_is_contradicted_is_left_out_once_and_the_others_go_on(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(epochs, "SLOTS_BETWEEN_EPOCHS", 1)
    shown: list[str] = []

    def witness(name: str, public: bytes, attestation: bytes) -> None:
        shown.append(name)
        if name == OLD:
            raise rolled_back(name)

    run = Run(tmp_path, witness=witness)
    assert run.session.join().holders == without(OLD)
    assert [run.sum().survivors for _ in range(3)] == [without(OLD)] * 3
    assert accused(caplog) == [OLD]
    assert f"{OLD}; the ledger of {OLD} is shorter" in caplog.text
    assert shown == list(NAMES)  # it is not asked to join again, nor costs the others an epoch


def test_a_join_whose_signature_does_not_hold_is_shown_to_no_witness(tmp_path):
    def forged(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        said = reply_from_records(reply.content)
        if isinstance(said, JoinReply) and said.name == OLD:
            lied = JoinReply(*(b"old" if f == "attestation" else v for f, v in vars(said).items()))
            return Message(reply_to_records(lied), reply_to=message)
        return reply

    shown: list[str] = []
    run = Run(tmp_path, forged, lambda name, public, attestation: shown.append(name))
    run.session.join()
    assert tuple(shown) == without(OLD)


def test_where_more_are_contradicted_than_may_be_lost_nobody_begins(tmp_path, caplog):
    def witness(name: str, public: bytes, attestation: bytes) -> None:
        if name in NAMES[:2]:
            raise rolled_back(name)

    run = Run(tmp_path, witness=witness)
    with pytest.raises(CohortError, match="to be missing"):
        run.session.join()
    assert accused(caplog) == list(NAMES[:2])
    assert run.count("query.advertise") == 0


def test_a_witness_that_cannot_remember_accuses_nobody_and_ends_the_run(tmp_path, caplog):
    def witness(name: str, public: bytes, attestation: bytes) -> None:
        raise LedgerError("the witness's file cannot be written")

    with pytest.raises(LedgerError, match="cannot be written"):
        Run(tmp_path, witness=witness).session.join()
    assert accused(caplog) == []


# Enterprises that examine each other.


def examining(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """These enterprises accept no join of OLD."""
    init = Participant.__init__

    def examine(joins):
        for join in joins:
            if join.name == OLD:
                raise rolled_back(OLD)

    def with_examination(self, name, identity, **rest):
        init(self, name, identity, **{**rest, "examine": examine if name in names else None})

    monkeypatch.setattr(Participant, "__init__", with_examination)


def test_one_that_does_not_accept_anothers_join_costs_itself_alone(tmp_path, monkeypatch, caplog):
    examining(monkeypatch, NAMES[4])
    run = Run(tmp_path)
    run.session.join()
    assert [run.sum().survivors for _ in range(2)] == [without(NAMES[4])] * 2
    assert f"{NAMES[4]}: the ledger of {OLD} is shorter" in caplog.text
    assert accused(caplog) == []


def test_where_more_do_not_accept_it_than_may_be_lost_the_run_ends_with_their_reason(
    tmp_path, monkeypatch
):
    examining(monkeypatch, *NAMES[4:])
    with pytest.raises(LedgerRolledBackError, match=f"the ledger of {OLD} is shorter"):
        Run(tmp_path).session.join()


# Refusals by policy and budget.

NO = [
    PolicyError("the rule epsilon_total says no"),
    BudgetExhaustedError("the budget is spent"),
    LedgerError("/secret/ledger cannot be read"),
]
EACH = pytest.mark.parametrize("error", NO, ids=lambda error: type(error).__name__)


def saying_no(error: PrivacyError, kind: str, *indices: int) -> App:
    """The ClientApp, but that these enterprises refuse one kind of request."""

    def app(message: Message, context: Context) -> Message:
        metadata = message.metadata
        if metadata.message_type == kind and metadata.dst_node_id in map(node, indices):
            return Message(reply_to_records(Refusal.of(error)), reply_to=message)
        return client_app(message, context)

    return app


@EACH
@pytest.mark.parametrize("kind", ["query.join", "query.advertise", "train.release"])
def test_one_that_says_no_costs_itself_and_no_slot(tmp_path, kind, error):
    run = Run(tmp_path, saying_no(error, kind, 3))
    run.session.join()
    totals = [run.sum() for _ in range(2)]
    assert [(t.slot, t.survivors) for t in totals] == [(n, without(NAMES[3])) for n in (1, 2)]


@EACH
def test_more_that_say_no_to_a_release_than_may_be_lost_end_the_run_at_once(tmp_path, error):
    run = Run(tmp_path, saying_no(error, "train.release", 3, 4))
    run.session.join()
    with pytest.raises(type(error), match=f"{NAMES[3]}: ") as caught:
        run.sum()
    assert run.count("train.release") == 6  # no other slot: each would cost the others a budget
    assert "/secret" not in str(caught.value)


@EACH
@pytest.mark.parametrize("kind", ["query.join", "query.advertise"])
def test_more_that_say_no_before_than_may_be_lost_end_the_run_before_any_slot(
    tmp_path, kind, error
):
    run = Run(tmp_path, saying_no(error, kind, 3, 4))
    with pytest.raises(type(error)):
        run.session.join()
    assert run.count(kind) == 6
    assert run.count("train.release") == 0
