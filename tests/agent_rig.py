"""Enterprises with real agents: processes of users of their own, reached over their sockets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from flwr.app import Context, Message, RecordDict

from client_app.app import app as client_app
from fgcif_flwr.config import RunConfig, unflatten
from fgcif_flwr.data.simulator import simulate_customers
from fgcif_flwr.federation.inline_grid import LocalGrid
from fgcif_flwr.secagg.keys import KeyPair, identity_from_seed
from tests.reachable_python import command, reachable

ROOT = Path(__file__).resolve().parent.parent
AGENT, SUPERNODE, STRANGER = 64_101, 64_102, 64_103
"""Users of the tests; no machine needs to know their names."""
POLICY = 'units = ["none", "customer"]\nminimum_colluders = 1\n'
SIMULATOR = {"run.enterprises": 4, "simulator.customers": 60, "model.hidden": "8"}
_PATIENCE = 60.0


def needs_users() -> None:
    """Skip where processes of other users cannot be started, or could not read this checkout."""
    if os.geteuid() != 0:
        pytest.skip("starting processes as other users wants root")
    for path in (Path(__file__), Path(np.__file__)):
        if not reachable(path):
            pytest.skip(f"other users cannot read {path}")


@contextmanager
def place() -> Iterator[Path]:
    """A directory that other users can pass through, and none but root can write in."""
    path = Path(tempfile.mkdtemp(prefix="fgcif-agent-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@dataclass
class House:
    """One enterprise: its files, and its agent's process while that runs."""

    name: str
    directory: Path
    identity: KeyPair
    agent_user: int
    supernode_user: int
    process: subprocess.Popen[str] | None = None

    @property
    def config(self) -> Path:
        return self.directory / "fgcif-client.toml"

    @property
    def shared(self) -> Path:
        return self.directory / "sockets" / "shared" / "agent.sock"

    @property
    def admin(self) -> Path:
        return self.directory / "sockets" / "admin" / "agent.sock"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def log(self) -> list[dict[str, object]]:
        text = (self.state / "agent.log").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def refused(self) -> list[dict[str, object]]:
        return [line for line in self.log() if line.get("outcome") == "refused"]

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the agent's process and wait until its sockets listen."""
        self.process = run_as(
            self.agent_user,
            ["-m", "tests.agent_process", str(self.config)],
            environment=environment,
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if not said.startswith("ready"):
            assert self.process.stderr is not None
            raise AssertionError(said + self.process.stderr.read())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the process, by its id; return its exit code."""
        assert self.process is not None
        process, self.process = self.process, None
        if process.poll() is None:
            process.send_signal(number)
        code = process.wait(_PATIENCE)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
        return code


@dataclass
class Consortium:
    """Enterprises, and the coordinator's key."""

    directory: Path
    coordinator: KeyPair
    houses: list[House] = field(default_factory=list)

    @property
    def roster(self) -> Path:
        return self.directory / "roster.json"

    @property
    def key_file(self) -> Path:
        return self.directory / "coordinator.key"

    def settings(self, **more: object) -> RunConfig:
        """A run's configuration, signed by the coordinator."""
        return unflatten(
            {
                **SIMULATOR,
                "run.enterprises": len(self.houses),
                "run.roster": str(self.roster),
                "run.identity": str(self.key_file),
                "run.timeout": 20.0,
                **more,
            }
        )


def run_as(
    user: int, arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start this Python as another user, in the checkout, with little in its environment."""
    python, wanted = command()
    return subprocess.Popen(
        [python, *arguments],
        cwd=ROOT,
        env={
            "PATH": os.defpath,
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            **wanted,
            **(environment or {}),
        },
        user=user,
        group=user,
        extra_groups=[],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def consortium(
    count: int,
    *,
    supernode: int = SUPERNODE,
    agent: Mapping[str, object] | None = None,
    policy: str = POLICY,
    user: int = AGENT,
) -> Iterator[Consortium]:
    """Enterprises e000, e001, … whose agents have not been started.

    Their files are of ``user``; none but root can make them another's.
    """
    if user != os.geteuid():
        needs_users()
    with place() as directory:
        found = Consortium(directory, _key(directory / "coordinator.key"))
        public = directory / "coordinator.pub"
        public.write_text(found.coordinator.public.hex(), encoding="ascii")
        public.chmod(0o644)
        tables = _tables(count)
        for index in range(count):
            found.houses.append(
                _house(
                    directory / f"e{index:03d}", tables[index], user, supernode, agent or {}, policy
                )
            )
        roster = {house.name: house.identity.public.hex() for house in found.houses}
        found.roster.write_text(json.dumps(roster), encoding="utf-8")
        found.roster.chmod(0o644)
        try:
            yield found
        finally:
            for house in found.houses:
                if house.process is not None:
                    house.stop(signal.SIGKILL)


def _house(
    directory: Path,
    table: object,
    user: int,
    supernode: int,
    agent: Mapping[str, object],
    policy: str,
) -> House:
    directory.mkdir(mode=0o711)
    directory.chmod(0o711)
    for name in ("state", "data"):
        (directory / name).mkdir(mode=0o700)
    identity = _key(directory / "state" / "identity.pem")
    pq.write_table(table, directory / "data" / "customers.parquet")
    (directory / "policy.toml").write_text(policy, encoding="utf-8")
    settings = {
        "user": str(user),
        "supernode_user": str(supernode),
        "release_seconds": 0.0,
        "maximum_request_mb": 2,
        **agent,
    }
    house = House(directory.name, directory, identity, user, supernode)
    house.config.write_text(
        f'[enterprise]\nname = "{directory.name}"\n'
        '[consortium]\nschema = "simulated"\nroster = "../roster.json"\n'
        'coordinator = "../coordinator.pub"\n'
        '[data.table]\nsource = "data/customers.parquet"\n'
        "[agent]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()),
        encoding="utf-8",
    )
    if user != os.geteuid():
        for path in (directory, *directory.rglob("*")):
            os.chown(path, user, user)
    return house


def _key(path: Path) -> KeyPair:
    seed = os.urandom(32)
    pem = Ed25519PrivateKey.from_private_bytes(seed).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    path.write_bytes(pem)
    path.chmod(0o600)
    return identity_from_seed(seed)


def _tables(count: int) -> list[object]:
    simulator = unflatten(SIMULATOR).simulator
    table, _ = simulate_customers(simulator, count, 1)
    names = sorted(set(table["enterprise"].to_pylist()))
    return [
        table.filter(pc.equal(table["enterprise"], name)).drop_columns("enterprise")
        for name in names
    ]


class AgentGrid(LocalGrid):
    """A grid whose nodes are agents, each asked by the real ClientApp in this process."""

    def __init__(self, sockets: Sequence[Path]) -> None:
        super().__init__(len(sockets))
        self._sockets = sockets

    def deliver(self, messages: list[Message]) -> list[Message]:
        return [self.ask(message) for message in messages]

    def ask(self, message: Message) -> Message:
        """Let the node of a message answer."""
        node = message.metadata.dst_node_id
        config = {"agent": str(self._sockets[node - 1000])}
        return client_app(message, Context(1, node, config, RecordDict(), {}))


def wait_until(true, seconds: float = _PATIENCE) -> None:
    """Wait for something to become true."""
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            raise AssertionError("it did not become true in time")
        time.sleep(0.02)
