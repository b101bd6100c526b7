"""Agents that answer signed requests, in this process: whole runs, and what they leave behind."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from fgcif_flwr.config.enterprise import load_enterprise
from fgcif_flwr.enterprise.agent.agent import Agent
from fgcif_flwr.enterprise.agent.limits import AgentState
from fgcif_flwr.enterprise.site import Site
from fgcif_flwr.errors import ConfigurationError, DataError, PolicyError
from fgcif_flwr.federation.agent_body import read_reply, write_request
from fgcif_flwr.federation.agent_call import request_of
from fgcif_flwr.federation.inline_grid import LocalGrid
from fgcif_flwr.federation.records import reply_to_records
from fgcif_flwr.federation.requests import Refusal
from fgcif_flwr.models.artifact import load_model
from fgcif_flwr.models.parameters import named_arrays, to_vector
from fgcif_flwr.reporting.run_directory import RunDirectory
from server_app.stages import run_stages
from tests.agent_rig import consortium

PRIVATE = {
    "training.algorithm": "fedsgd",
    "privacy.unit": "customer",
    "privacy.epsilon": 1.5,
    "privacy.delta": 1e-6,
    "privacy.rows_per_enterprise": 256,
}
POLICY = 'units = ["none", "customer"]\nminimum_colluders = 1\nepsilon_per_run = 2.0\n'


class DirectGrid(LocalGrid):
    """A grid whose nodes are agents of this process, asked as over their sockets."""

    def __init__(self, agents):
        super().__init__(len(agents))
        self.agents = agents

    def deliver(self, messages):
        return [self.ask(message) for message in messages]

    def ask(self, message):
        request = request_of(message.metadata.message_type, message.content)
        agent = self.agents[message.metadata.dst_node_id - 1000]
        outcome = agent.answer(request.path, write_request(request))
        return Message(reply_to_records(read_reply(outcome.reply)), reply_to=message)


@contextmanager
def agents(count=4, **settings):
    with (
        consortium(count, user=os.geteuid(), policy=POLICY, agent=settings) as found,
        ExitStack() as opened,
    ):
        sites = [Site.open(load_enterprise(house.config)) for house in found.houses]
        yield found, sites, [opened.enter_context(Agent(site)) for site in sites]


def run(found, living, output: Path, **settings) -> RunDirectory:
    run_stages(DirectGrid(living), found.settings(**{"run.output": str(output), **settings}))
    return RunDirectory(output)


@pytest.fixture(scope="module")
def after_a_private_run(tmp_path_factory):
    with agents() as (found, sites, living):
        output = tmp_path_factory.mktemp("run")
        files = run(found, living, output, **{"run.rounds": 1, **PRIVATE})
        yield found, sites, living, files


def test_a_private_run_is_charged_written_down_and_kept(after_a_private_run):
    found, sites, _, files = after_a_private_run
    spent = sites[0].open_ledger()
    try:
        assert 0 < spent.spent(1e-6).epsilon <= 1.5
    finally:
        spent.close()
    with AgentState(sites[0].state_path) as state:
        (asked,) = state.runs()
    assert asked.state == "joined"
    assert asked.unit == "customer"
    assert asked.epsilon == pytest.approx(1.5, rel=0.01)
    assert len(sites[0].release_log_path.read_text(encoding="utf-8").splitlines()) >= 3
    kept = load_model(sites[0].models_directory / f"{asked.run}.safetensors")
    joint = load_model(files.model)
    ours, theirs = (to_vector(named_arrays(one.network)) for one in (kept, joint))
    np.testing.assert_array_equal(ours, theirs)
    assert kept.statement["privacy"]["epsilon"] == asked.epsilon
    assert found.houses[0].name == sites[0].name


def test_no_secret_of_a_run_is_on_the_disk(after_a_private_run):
    _, sites, living, _ = after_a_private_run
    party = living[0]._party
    advertised = party.advertised
    assert advertised is not None
    secrets = [advertised.round_key.private, advertised.seed, advertised.own]
    assert party.joined is not None
    secrets += [channel.seal_to for channel in party.joined.channels]
    for path in sites[0].config.directory.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(secret in data or secret.hex().encode() in data for secret in secrets)


def test_rows_are_not_read_at_a_request_and_a_reload_that_fails_changes_nothing(
    after_a_private_run, tmp_path
):
    found, sites, living, _ = after_a_private_run
    table = Path(sites[0].config.data.table.source)
    before = living[0].customers
    data = table.read_bytes()
    table.unlink()
    try:
        with pytest.raises(DataError):
            living[0].reload()
        run(found, living, tmp_path, **{"run.rounds": 1, "data.test_fraction": 0.3})
    finally:
        table.write_bytes(data)
    assert living[0].customers == before
    living[0].reload()
    assert living[0].customers == before


def test_a_refusal_names_no_file_of_this_machine(after_a_private_run, tmp_path, monkeypatch):
    found, sites, living, _ = after_a_private_run

    def fails(*_):
        raise ConfigurationError(f"{sites[0].journal_path} is in use")

    monkeypatch.setattr(living[0]._state, "admit", fails)
    refused = []
    of = Refusal.as_error
    monkeypatch.setattr(
        Refusal, "as_error", lambda self, who: refused.append(self) or of(self, who)
    )
    run(found, living, tmp_path, **{"run.rounds": 1})
    assert {one.code for one in refused} >= {ConfigurationError.exit_code}
    assert not any("/" in one.reason for one in refused)


def test_a_run_waits_until_somebody_here_approves_it(tmp_path):
    with agents(approval=True) as (found, sites, living):
        settings = {"run.rounds": 1, "run.timeout": 1.0}
        with pytest.raises(PolicyError, match="approve"):
            run(found, living, tmp_path / "a", **settings)
        for site in sites:
            with AgentState(site.state_path) as state:
                state.approve(state.runs()[0].terms)
        run(found, living, tmp_path / "b", **settings)
        with pytest.raises(PolicyError, match="approve"):  # each run anew
            run(found, living, tmp_path / "c", **settings)
        assert not sites[0].release_log_path.read_text(encoding="utf-8").count("unknown")


@pytest.fixture
def house():
    with consortium(2, user=os.geteuid()) as found:
        yield found.houses[0]


def test_a_site_that_others_could_use_is_refused(house):
    config = load_enterprise(house.config)
    key = house.state / "identity.pem"
    for path, mode, right in (
        (key, 0o640, 0o600),
        (key, 0o604, 0o600),
        (house.state, 0o750, 0o700),
    ):
        path.chmod(mode)
        with pytest.raises(ConfigurationError, match=f"chmod it to {right:04o}"):
            Site.open(config)
        path.chmod(right)
    assert Site.open(config).name == house.name


def test_a_site_whose_key_is_not_in_the_roster_is_refused(house):
    roster = house.directory.parent / "roster.json"
    keys = json.loads(roster.read_text(encoding="utf-8"))
    keys["e000"], keys["e001"] = keys["e001"], keys["e000"]
    roster.write_text(json.dumps(keys), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="under the name e000"):
        Site.open(load_enterprise(house.config))


@pytest.mark.parametrize("text", ["", "00" * 32, "zz" * 32, "ab" * 31, "é" * 64])
def test_a_coordinators_key_that_is_none_is_refused(house, text):
    (house.directory.parent / "coordinator.pub").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match="no public key of the coordinator"):
        Site.open(load_enterprise(house.config))


def test_a_second_agent_on_the_same_state_is_refused(house):
    site = Site.open(load_enterprise(house.config))
    with Agent(site), pytest.raises(ConfigurationError, match="in use"):
        Agent(site)


def test_what_an_enterprise_does_alone_wants_no_roster_but_no_wrong_one(house):
    config = load_enterprise(house.config)
    config.consortium.coordinator.unlink()
    with pytest.raises(ConfigurationError, match="coordinator"):
        Site.open(config)
    assert Site.open(config, takes_part=False).coordinator == b""
    config.consortium.roster.write_text("{}")
    with pytest.raises(ConfigurationError, match="roster"):
        Site.open(config, takes_part=False)
