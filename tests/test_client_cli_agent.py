"""``fgcif-client`` beside a running agent: the same answers as without one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from fgcif_flwr.enterprise.agent.state_lock import state_lock
from fgcif_flwr.privacy.accounting import ORDERS
from fgcif_flwr.privacy.ledger import Charge, SqliteLedger
from fgcif_flwr.privacy.release_log import FileLog, LogEntry
from tests.client_rig import RUN, Client, customers, enterprise, error_line, write_csv

ROOT = Path(__file__).resolve().parent.parent
FRACTIONS = ("--validation-fraction", "0.1", "--test-fraction", "0.2")
ALIKE = (
    ("budget",),
    ("log",),
    ("policy", "show"),
    ("describe",),
    ("runs", "list"),
    ("evaluate", *FRACTIONS),
    ("personalize", *FRACTIONS),
)


class Agent:
    """``fgcif-client serve`` in a process of its own."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        code = "from fgcif_flwr.cli.client.main import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", "--config", str(self.client.config)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if line.startswith("ready"):
                return
        raise AssertionError("".join(lines))

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.process = None
        return code


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    # Not pytest's directory: the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="fgcif-") as directory:
        made = enterprise(Path(directory))
        other = "nobody" if os.geteuid() != 65534 else "daemon"
        made.edit('# supernode_user = ""', f'supernode_user = "{other}"')
        made.keep_model()
        curve = tuple(0.001 * order for order in ORDERS)
        with SqliteLedger(made.state / "ledger.db", "acme") as ledger:
            ledger.reserve([Charge(RUN, "train", 0, "customer", curve, 0.0)], 10.0, 1e-4)
        entry = LogEntry("2026-03-01T00:00:00Z", RUN[:16], 0, "train", 10, 4, "customer", "private")
        FileLog(made.state / "releases.jsonl").append(entry)
        yield made


@pytest.fixture(scope="module")
def answers(client: Client) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What the commands say without an agent, and with one that runs on."""
    alone = everything(client, "alone")
    agent = Agent(client)
    agent.start()
    try:
        yield alone, everything(client, "agent")
    finally:
        if agent.process is not None:
            agent.stop()


def everything(client: Client, where: str) -> dict[str, Any]:
    """The whole output of each command, and the tables that some write."""
    told: dict[str, Any] = {}
    for command in ALIKE:
        told[" ".join(command)] = json.loads(client.run(*command, "--format", "json").stdout)
    told["status"] = client.told("status")
    told["check"] = client.told("check")
    for command in (
        ["features"],
        ["score", "--explain", "1"],
        ["synthesize", "--rows", "20", "--steps", "2"],
    ):
        out = client.directory / f"{where}-{command[0]}.parquet"
        said = client.told(*command, "--out", str(out), "--overwrite")
        told[command[0]] = {key: value for key, value in said.items() if key != "out"}
        told[f"{command[0]} table"] = pyarrow.parquet.read_table(out)
    out = client.directory / "exported.pt2"
    client.told("export-model", "--out", str(out), "--overwrite")
    told["export"] = out.with_suffix(".json").read_bytes()
    model = str(client.state / "models" / f"{RUN}.safetensors")
    handed = client.told("evaluate", *FRACTIONS, "--model", model)
    told["evaluate a file"] = handed["heads"]
    return told


def test_an_agent_and_the_command_itself_say_the_same(answers: Any):
    alone, agent = answers
    assert alone.keys() == agent.keys()
    for name, said in alone.items():
        if name not in ("status", "check"):
            assert agent[name] == said, name
    assert alone["score table"].num_rows == 300


def test_status_and_check_tell_that_the_agent_runs(answers: Any):
    alone, agent = answers
    assert alone["status"]["agent"] is None
    assert agent["status"]["agent"]["customers"] == 300
    same = set(alone["status"]) - {"agent", "models", "kept_models"}
    assert {key: alone["status"][key] for key in same} == {
        key: agent["status"][key] for key in same
    }
    states = {one["name"]: one["state"] for one in agent["check"]["checks"]}
    assert states["agent"] == "ok"
    assert {one["name"]: one["state"] for one in alone["check"]["checks"]}["agent"] == "warning"


def test_errors_of_the_agent_are_one_line_with_their_exit_code(client: Client, answers: Any):
    refused = client.run("evaluate", "--model", "ffff")
    assert refused.exit_code == 21
    assert "ffff is neither a file" in error_line(refused)
    refused = client.run("runs", "approve", "12" * 16)
    assert refused.exit_code == 51
    assert error_line(refused).startswith("fgcif-client: ")


def test_reload_reads_the_data_anew(client: Client, answers: Any):
    table = client.directory / "customers.csv"
    before = table.read_bytes()
    try:
        write_csv(table, customers(310))
        assert client.told("status")["agent"]["customers"] == 300
        assert client.told("reload") == {"customers": 310}
        assert client.told("status")["agent"]["customers"] == 310
    finally:
        table.write_bytes(before)
        client.told("reload")


def test_reload_without_an_agent_says_so(tmp_path: Path):
    alone = enterprise(tmp_path)
    refused = alone.run("reload")
    assert refused.exit_code == 60
    assert "fgcif-client serve" in error_line(refused)


def test_while_an_agent_starts_the_state_is_left_alone(tmp_path: Path):
    alone = enterprise(tmp_path)
    with state_lock(alone.state):
        refused = alone.run("budget")
    assert refused.exit_code == 10
    assert "nothing answers" in error_line(refused)


def test_an_agent_of_one_user_with_its_supernode_does_not_start(tmp_path: Path):
    refused = enterprise(tmp_path).run("serve")
    assert refused.exit_code == 51
    assert "agent.supernode_user" in error_line(refused)


def test_join_refuses_one_user_for_agent_and_supernode_and_wants_an_address(tmp_path: Path):
    alone = enterprise(tmp_path)
    assert "supernode.address" in error_line(alone.run("join"))
    alone.edit("[supernode]", '[supernode]\naddress = "127.0.0.1:1"\ninsecure = true')
    refused = alone.run("join")
    assert refused.exit_code == 51
    assert "one user" in error_line(refused)
