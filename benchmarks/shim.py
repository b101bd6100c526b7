"""Time from a ClientApp's start to its agent's reply: `python -m benchmarks.shim`.

A deployment starts a process for every message, so what it imports is paid each time. Here a real
agent on its socket answers an unmask; each repetition starts an interpreter, which imports the
ClientApp, passes the message on, and prints the reply. The agent is a thread of this process, of
the same user, which an agent of a deployment never is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import pyarrow.compute as pc
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.app import Message

from fgcif_flwr.config import unflatten
from fgcif_flwr.config.enterprise import load_enterprise
from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.data.simulator import simulate_customers
from fgcif_flwr.enterprise.agent.agent import Agent
from fgcif_flwr.enterprise.agent.protocol import GuardedConfig, QuietServer
from fgcif_flwr.enterprise.agent.shared_app import SharedSocket
from fgcif_flwr.enterprise.agent.sockets import SHARED_MODES, listen
from fgcif_flwr.enterprise.site import Site
from fgcif_flwr.federation.agent_body import read_reply, write_request
from fgcif_flwr.federation.agent_call import request_of
from fgcif_flwr.federation.inline_grid import LocalGrid
from fgcif_flwr.federation.records import REQUEST, reply_to_records
from fgcif_flwr.federation.releases import STATISTICS, layout_of
from fgcif_flwr.federation.session import SecureSumSession, SessionSettings, Task
from fgcif_flwr.federation.terms import terms_of

ENTERPRISES = 4
CHILD = """
import json, sys
from client_app.app import app
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
said = json.load(open(sys.argv[1]))
record = {**said, "message": bytes.fromhex(said["message"])}
record["signature"] = bytes.fromhex(said["signature"])
content = RecordDict({"fgcif.request": ConfigRecord(record)})
message = Message(content, 1000, "query.unmask")
reply = app(message, Context(1, 1000, {"agent": sys.argv[2]}, RecordDict(), {}))
heavy = [name for name in ("torch", "duckdb", "pyarrow") if name in sys.modules]
print(reply.content["fgcif.reply"]["message"][2:13].decode(), heavy)
"""


class Direct(LocalGrid):
    """Agents of this process; the first one's unmask is kept instead of delivered."""

    def __init__(self, agents: list[Agent]) -> None:
        super().__init__(len(agents))
        self.agents = agents
        self.unmask: Message | None = None

    def deliver(self, messages: list[Message]) -> list[Message]:
        """Answer each message but the first agent's unmask, which is lost."""
        replies = []
        for message in messages:
            index = message.metadata.dst_node_id - 1000
            if message.metadata.message_type == "query.unmask" and index == 0:
                self.unmask = message
                continue
            request = request_of(message.metadata.message_type, message.content)
            reply = self.agents[index].answer(request.path, write_request(request)).reply
            replies.append(Message(reply_to_records(read_reply(reply)), reply_to=message))
        return replies

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages at once; a lost one has no reply."""
        sent = list(messages)
        for message in sent:
            message.metadata.__dict__["_message_id"] = str(uuid4())
        for reply in self.deliver(sent):
            self._replies[reply.metadata.reply_to_message_id] = reply
        return [message.metadata.message_id for message in sent]


def make_sites(directory: Path) -> tuple[list[Site], dict[str, object]]:
    """Write the files of some enterprises and of their coordinator; return sites and settings."""
    settings: dict[str, object] = {
        "run.enterprises": ENTERPRISES,
        "simulator.customers": 60,
        "run.roster": str(directory / "roster.json"),
        "run.identity": str(directory / "coordinator.pem"),
    }
    public = make_key(directory / "coordinator.pem")
    (directory / "coordinator.pub").write_text(public, encoding="ascii")
    simulator = unflatten({"simulator.customers": 60}).simulator
    table, _ = simulate_customers(simulator, ENTERPRISES, 1)
    roster, paths = {}, []
    for name in sorted(set(table["enterprise"].to_pylist())):
        home = directory / name
        (home / "state").mkdir(mode=0o700, parents=True)
        roster[name] = make_key(home / "state" / "identity.pem")
        rows = table.filter(pc.equal(table["enterprise"], name)).drop_columns("enterprise")
        pq.write_table(rows, home / "customers.parquet")
        (home / "policy.toml").write_text(
            'units = ["none"]\nminimum_colluders = 1\n', encoding="utf-8"
        )
        paths.append(home / "fgcif-client.toml")
        paths[-1].write_text(
            f'[enterprise]\nname = "{name}"\n[consortium]\nschema = "simulated"\n'
            'roster = "../roster.json"\ncoordinator = "../coordinator.pub"\n'
            '[data.table]\nsource = "customers.parquet"\n',
            encoding="utf-8",
        )
    (directory / "roster.json").write_text(json.dumps(roster), encoding="utf-8")
    return [Site.open(load_enterprise(path)) for path in paths], settings


def make_key(path: Path) -> str:
    """Write a new identity; return the public half in hexadecimal digits."""
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    return key.public_key().public_bytes_raw().hex()


def masked_slot(sites: list[Site], agents: list[Agent], settings: dict[str, object]) -> Message:
    """Let all agents release their statistics; return the first one's unmask request."""
    config = unflatten(settings)
    schema = load_schema(config.data.schema_name)
    grid = Direct(agents)
    session = SecureSumSession(grid, SessionSettings.of(config), terms_of(config, schema.hash))
    session.join()
    task = Task(STATISTICS, layout_of(STATISTICS, config, feature_layout(schema), 0), {})
    session.collect(grid.send_and_receive(session.open(task)))
    assert grid.unmask is not None
    return grid.unmask


@contextmanager
def listening(agent: Agent, path: Path) -> Iterator[None]:
    """Serve an agent on a socket that this process's user may use."""
    with ThreadPoolExecutor(1) as one:
        app = SharedSocket(agent, one, 10**7, 0.0).app()
        server = QuietServer(GuardedConfig(app, "shared", frozenset({os.geteuid()})))
        opened = listen(path, SHARED_MODES)
        thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[opened]),))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield
        finally:
            server.should_exit = True
            thread.join()


def measure(repetitions: int) -> tuple[list[float], float]:
    """Return the seconds of each repetition, and those of a processor that one takes."""
    with tempfile.TemporaryDirectory(prefix="fgcif-shim-") as place, ExitStack() as opened:
        directory = Path(place)
        sites, settings = make_sites(directory)
        agents = [opened.enter_context(Agent(site)) for site in sites]
        record = masked_slot(sites, agents, settings).content.config_records[REQUEST]
        request = directory / "unmask.json"
        request.write_text(
            json.dumps({k: v.hex() if isinstance(v, bytes) else v for k, v in record.items()}),
            encoding="ascii",
        )
        socket = directory / "shared" / "agent.sock"
        opened.enter_context(listening(agents[0], socket))
        seconds = []
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        for _ in range(repetitions):
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", CHILD, str(request), str(socket)],
                capture_output=True,
                text=True,
                check=True,
            )
            seconds.append(time.perf_counter() - began)
            if done.stdout.split() != ["UnmaskReply", "[]"]:
                raise SystemExit(f"not the reply that was wanted: {done.stdout}{done.stderr}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return seconds, used / repetitions


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=10)
    asked = parser.parse_args()
    seconds, processor = measure(asked.repetitions)
    print("Seconds from a process's start to its reply; torch, duckdb and pyarrow not imported:\n")
    print("| repetitions | first | median | slowest | of a processor |")
    print("|---|---|---|---|---|")
    print(
        f"| {len(seconds)} | {seconds[0]:.2f} | {statistics.median(seconds):.2f} "
        f"| {max(seconds):.2f} | {processor:.2f} |"
    )


if __name__ == "__main__":
    main()
