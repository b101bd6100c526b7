"""Clients with identities, rosters and journals of their own, and the terms that they accept."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fgcif_flwr.errors import CohortError, ConfigurationError
from fgcif_flwr.federation import SecureSumMod
from fgcif_flwr.federation.envelope import enclose
from fgcif_flwr.federation.inline_grid import InlineGrid, node_id, take_server_identity
from fgcif_flwr.federation.records import reply_from_records, request_to_records
from fgcif_flwr.federation.requests import Identify, Refusal, message_type
from fgcif_flwr.federation.roster import load_identity, load_roster
from fgcif_flwr.federation.secure_sum_terms import Agreement
from fgcif_flwr.secagg.keys import KeyPair, identity_from_seed
from tests.somebody_elses_app import (
    CLIENTS,
    TERMS,
    app_of,
    expected,
    moved,
    secure,
    start,
)


def keyed(directory: Path, clients: int = CLIENTS) -> list[KeyPair]:
    """Identities in files, every second one in PEM, and the roster of them all."""
    pairs = []
    for client in range(clients):
        seed = os.urandom(32)
        pair = identity_from_seed(seed)
        if client % 2:
            key = Ed25519PrivateKey.from_private_bytes(seed)
            seed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (directory / f"identity-{client}").write_bytes(seed)
        pairs.append(pair)
    roster = {f"firm {client}": pair.public.hex() for client, pair in enumerate(pairs)}
    (directory / "roster.json").write_text(json.dumps(roster), encoding="utf-8")
    return pairs


def deployed(directory: Path, rosters: Mapping[int, Path] | None = None) -> ClientApp:
    """One app for each client, as each would install it."""
    apps = [
        app_of(
            moved,
            SecureSumMod(
                identity=directory / f"identity-{client}",
                roster=(rosters or {}).get(client, directory / "roster.json"),
                journal=directory / f"spent-{client}.sqlite",
                log=directory / f"releases-{client}.jsonl",
            ),
        )
        for client in range(CLIENTS)
    ]

    def routed(message: Message, context: Context) -> Message:
        return apps[int(context.node_config["partition-id"])](message, context)

    return routed  # type: ignore[return-value]


def test_clients_with_pinned_rosters_run_and_keep_journal_and_log(tmp_path):
    pairs = keyed(tmp_path)
    strategy = secure(roster=tmp_path / "roster.json", clients=None)
    grid = InlineGrid(deployed(tmp_path), CLIENTS, {})
    result = start(strategy, grid, 2)
    np.testing.assert_allclose(result.arrays["w"].numpy(), 2 * expected(), rtol=0, atol=1e-4)
    assert strategy.last.survivors == tuple(f"firm {client}" for client in range(CLIENTS))
    lines = (tmp_path / "releases-0.jsonl").read_text(encoding="utf-8").splitlines()
    assert [(line["slot"], line["task"]) for line in map(json.loads, lines)] == [
        (1, "train"),
        (2, "train"),
    ]
    # The identity's private half is not in what Flower keeps between messages.
    state = grid._nodes._contexts[node_id(0)].state["fgcif.secure-sum"]
    assert not any(isinstance(v, bytes) and pairs[0].private in v for v in state.values())


def test_a_run_with_another_roster_than_the_pinned_one_is_refused(tmp_path, caplog):
    keyed(tmp_path)
    roster = json.loads((tmp_path / "roster.json").read_text(encoding="utf-8"))
    (tmp_path / "other.json").write_text(
        json.dumps({**roster, "firm 6": os.urandom(32).hex()}), encoding="utf-8"
    )
    others = dict.fromkeys(range(3), tmp_path / "other.json")
    with pytest.raises(CohortError):
        start(
            secure(roster=tmp_path / "roster.json"),
            InlineGrid(deployed(tmp_path, others), CLIENTS, {}),
        )
    assert "roster is not the one agreed out of band" in caplog.text
    with pytest.raises(CohortError):  # nor do they join on the coordinator's word
        start(secure(), InlineGrid(deployed(tmp_path, others), CLIENTS, {}))


def test_a_mod_without_roster_identity_or_journal_is_an_error_and_no_simulation(tmp_path):
    keyed(tmp_path)
    for given in (
        {},
        {"identity": tmp_path / "identity-0"},
        {"roster": tmp_path / "roster.json"},
        {"identity": tmp_path / "identity-0", "roster": tmp_path / "roster.json"},
        {
            "identity": tmp_path / "identity-0",
            "roster": tmp_path / "roster.json",
            "log": tmp_path / "releases.jsonl",
        },
    ):
        with pytest.raises(ConfigurationError, match=r"SecureSumMod\.simulated\(\)") as error:
            SecureSumMod(**given)
        assert "\n" not in str(error.value)
    (tmp_path / "stranger").write_bytes(os.urandom(32))
    with pytest.raises(ConfigurationError, match="does not hold the key"):
        SecureSumMod(
            identity=tmp_path / "stranger",
            roster=tmp_path / "roster.json",
            journal=tmp_path / "spent.sqlite",
            log=tmp_path / "releases.jsonl",
        )


def test_a_simulated_mod_serves_simulations_only():
    take_server_identity()
    context = Context(1, node_id(0), {}, RecordDict(), {})
    asked = Identify(str(node_id(0)), os.urandom(32))
    request = Message(request_to_records(asked), node_id(0), message_type(asked))
    answer = app_of(moved)(enclose(request, "train"), context)
    said = reply_from_records(answer.content)
    assert isinstance(said, Refusal)
    assert "partition-id" in said.reason


@pytest.mark.parametrize(
    "content", [b"", b"short", b"-----BEGIN PRIVATE KEY-----\nAAAA\n", os.urandom(33)]
)
def test_an_identity_that_is_no_ed25519_key_is_refused_without_being_shown(tmp_path, content):
    (tmp_path / "identity").write_bytes(content)
    with pytest.raises(ConfigurationError, match="neither an Ed25519 seed"):
        load_identity(tmp_path / "identity")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_identity(tmp_path / "absent")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "5",
        '{"a": 5}',
        '{"a": "zz"}',
        '{"a": "00"}',
        '{"a": "%(k)s", "a": "%(l)s"}',
        '{"a": "%(k)s", "b": "%(k)s"}',
    ],
)
def test_a_roster_that_does_not_give_each_name_a_key_of_its_own_is_refused(tmp_path, content):
    text = content % {"k": "11" * 32, "l": "22" * 32}
    (tmp_path / "roster.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match="hexadecimal digits"):
        load_roster(tmp_path / "roster.json")


# Terms


@pytest.mark.parametrize(
    "wrong",
    [
        {"update_bound": 0.0},
        {"update_bound": float("nan")},
        {"most_examples": 0},
        {"most_examples": 1 << 21},
        {"value_bits": 1},
        {"train_metrics": {"loss": -1.0}},
    ],
)
def test_terms_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigurationError, match="wants"):
        replace(TERMS, **wrong)


def test_terms_are_read_only_as_they_are_written():
    agreed = Agreement(TERMS, "arrays", "config", "num-examples", (("w", (2, 3)), ("b", ())))
    text = agreed.to_json()
    assert Agreement.from_json(text) == agreed
    tree = json.loads(text)
    for other in (
        "{}",
        "[]",
        text + " ",
        json.dumps(tree),
        text.replace('"format":1', '"format":2'),
        text.replace('"value_bits":22', '"value_bits":22.0'),
        text.replace('"most_examples":100', '"most_examples":true'),
        text.replace("[2,3]", '"23"'),
        text.replace('["b",[]]', '["w",[]]'),
    ):
        assert other != text
        with pytest.raises(ConfigurationError):
            Agreement.from_json(other)
