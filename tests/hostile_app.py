"""A ClientApp that the coordinator sends to steal what it can, run as the SuperNode's user.

    python -m tests.hostile_app KIT ATTACK...

It has everything that may be in wrong hands at once: the coordinator's key and the identity keys of
all other enterprises. Each attack returns what came of it, in words; ``None`` is printed as that.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import pickle
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fgcif_flwr.config import RunConfig, unflatten
from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.federation import answering
from fgcif_flwr.federation.agent_body import (
    CONTENT_TYPE,
    AgentRequest,
    read_reply,
    write_request,
)
from fgcif_flwr.federation.agent_http import (
    BrokenOffError,
    HttpAnswer,
    NobodyAnswersError,
    post,
)
from fgcif_flwr.federation.inline_grid import LocalGrid, take_server_identity
from fgcif_flwr.federation.records import (
    INPUT,
    REQUEST,
    arrays_from_record,
    reply_to_records,
    request_from_records,
)
from fgcif_flwr.federation.releases import STATISTICS, layout_of
from fgcif_flwr.federation.requests import Identify, Join, Refusal, Release, Reply, Request
from fgcif_flwr.federation.session import SecureSumSession, SessionSettings, Task
from fgcif_flwr.federation.signing import ANYBODY, RequestSignature, Signer
from fgcif_flwr.federation.task_input import input_hash
from fgcif_flwr.federation.terms import terms_of
from fgcif_flwr.privacy.ledger import SqliteLedger
from fgcif_flwr.privacy.outcomes import with_outcome
from fgcif_flwr.secagg import Participant, Released, wire
from fgcif_flwr.secagg.keys import identity_from_seed

app = ClientApp()
_EMPTY = input_hash({})
_PTRACE_ATTACH = 16


@app.query("steal")
def steal(message: Message, context: Context) -> Message:
    """What the coordinator's code does when the SuperNode starts it."""
    kit = Kit(**json.loads(str(context.node_config["kit"])))
    names = str(context.node_config["attacks"]).split(",")
    said = {name: tried(ATTACKS[name], kit) for name in names}
    print(json.dumps(said), flush=True)
    return Message(RecordDict(), reply_to=message)


def tried(attack: Callable[[Kit], str], kit: Kit) -> str:
    try:
        return attack(kit)
    except (OSError, BrokenOffError, NobodyAnswersError) as error:
        return f"{type(error).__name__}"


@dataclass
class Kit:
    """What the attacker knows.

    ``other_seeds`` are the identity seeds of all other enterprises, by name.
    """

    socket: str
    admin: str
    state: str
    data: str
    process: int
    victim: str
    victim_public: str
    coordinator_seed: str
    other_seeds: dict[str, str]
    config: dict[str, object]

    @cached_property
    def signer(self) -> Signer:
        return Signer(identity_from_seed(bytes.fromhex(self.coordinator_seed)))

    @cached_property
    def ledgers(self) -> dict[str, SqliteLedger]:
        directory = Path(tempfile.mkdtemp(prefix="fgcif-hostile-"))
        atexit.register(shutil.rmtree, directory)
        return {name: SqliteLedger(directory / name, name) for name in self.other_seeds}

    @cached_property
    def settings(self) -> RunConfig:
        return unflatten(self.config)

    def post(self, path: str, body: bytes) -> HttpAnswer:
        return post(self.socket, path, body, CONTENT_TYPE, 60)

    def said(self, path: str, body: bytes) -> str:
        """What the agent replies, in words."""
        answer = self.post(path, body)
        return words(read_reply(answer.body))

    def ask(self, kind: str, message: bytes, arrays=None, **changes: object) -> str:
        """Ask with a right signature, but for ``changes``."""
        return words(self.reply(kind, message, arrays, **changes))

    def reply(self, kind: str, message: bytes, arrays=None, **changes: object) -> Reply:
        arrays = arrays or {}
        said = self.signer.sign(
            str(changes.get("recipient", self.victim)), kind, message, input_hash(arrays)
        )
        request = AgentRequest(kind, message, said, arrays)
        if "signature" in changes:
            request = replace(request, signature=changes["signature"])
        answer = self.post(request.path, write_request(request))
        return read_reply(answer.body)

    def run(self) -> Run:
        return Run(self)


def words(reply: Reply) -> str:
    if isinstance(reply, Refusal):
        return f"refused {reply.code}: {reply.reason}"
    return f"answered {type(reply).__name__}"


class Run(LocalGrid):
    """A run of the real agent with enterprises that are all the attacker's."""

    def __init__(self, kit: Kit, **changes: object) -> None:
        config = kit.settings
        super().__init__(config.run.enterprises)
        self.kit = kit
        names = sorted([kit.victim, *kit.other_seeds])
        self.names = {1000 + index: name for index, name in enumerate(names)}
        self.parties = {
            name: Participant(name, identity_from_seed(bytes.fromhex(seed)))
            for name, seed in kit.other_seeds.items()
        }
        self.config = config
        self.schema = load_schema(config.data.schema_name)
        self.features = feature_layout(self.schema)
        settings = replace(
            SessionSettings.of(config),
            roster=tuple(
                sorted(
                    [(name, party.identity.public) for name, party in self.parties.items()]
                    + [(kit.victim, bytes.fromhex(kit.victim_public))]
                )
            ),
            signer=kit.signer,
        )
        self.session = SecureSumSession(self, settings, terms_of(config, self.schema.hash))

    def deliver(self, messages: list[Message]) -> list[Message]:
        return [
            Message(reply_to_records(self.answer(message)), reply_to=message)
            for message in messages
        ]

    def answer(self, message: Message) -> Reply:
        name = self.names[message.metadata.dst_node_id]
        if name == self.kit.victim:
            return self.pass_on(message)
        request = request_from_records(message.metadata.message_type, message.content)
        return self.play(self.parties[name], request)

    def pass_on(self, message: Message) -> Reply:
        record = message.content.config_records[REQUEST]
        inputs = message.content.get(INPUT)
        arrays = {} if inputs is None else arrays_from_record(inputs)
        said = RequestSignature(record["recipient"], record["number"], record["signature"])
        request = AgentRequest(message.metadata.message_type, record["message"], said, arrays)
        return read_reply(self.kit.post(request.path, write_request(request)).body)

    def play(self, party: Participant, request: Request) -> Reply:
        if isinstance(request, Join):
            ledger = self.kit.ledgers[party.name]
            ledger.record_join(request.manifest.run.hex())
            return party.join(request.manifest, ledger.attestation())
        if not isinstance(request, Release):
            return answering.answer(party, request)
        hashed = input_hash(request.arrays)
        party.open_release(request.request, hashed)
        layout = with_outcome(layout_of(request.request.task, self.config, self.features, 0))
        return party.mask(np.zeros(layout.size, np.int64), layout)

    def opened(self) -> tuple[Message, Release]:
        """Join, and return the release request that is the victim's turn in slot 1."""
        self.session.join()
        layout = layout_of(STATISTICS, self.config, self.features, 0)
        messages = self.session.open(Task(STATISTICS, layout, {}))
        (mine,) = [m for m in messages if self.names[m.metadata.dst_node_id] == self.kit.victim]
        request = request_from_records(mine.metadata.message_type, mine.content)
        assert isinstance(request, Release)
        return mine, request


ATTACKS: dict[str, Callable[[Kit], str]] = {}


def attack(function: Callable[[Kit], str]) -> Callable[[Kit], str]:
    ATTACKS[function.__name__] = function
    return function


@attack
def read_rows(kit: Kit) -> str:
    return str(len(Path(kit.data, "customers.parquet").read_bytes()))


@attack
def read_state(kit: Kit) -> str:
    names = ("identity.pem", "ledger.db", "journal.db", "agent.db", "agent.log", "releases.jsonl")
    for name in names:
        try:
            return str(len(Path(kit.state, name).read_bytes()))
        except PermissionError:
            continue
    return str(os.listdir(kit.state))


@attack
def read_process(kit: Kit) -> str:
    for name in ("mem", "environ", "maps", "auxv", "io", "stack"):
        try:
            with open(f"/proc/{kit.process}/{name}", "rb") as file:
                return f"read {name} {len(file.read(1))}"
        except PermissionError:
            continue
    for name in ("cwd", "exe", "root"):
        try:
            return os.readlink(f"/proc/{kit.process}/{name}")
        except PermissionError:
            continue
    return str(os.listdir(f"/proc/{kit.process}/fd"))


@attack
def trace_process(kit: Kit) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(_PTRACE_ATTACH, kit.process, 0, 0) == 0:
        return "attached"
    raise OSError(ctypes.get_errno(), "")


@attack
def kill_agent(kit: Kit) -> str:
    os.kill(kit.process, 9)
    return "killed"


@attack
def use_admin_socket(kit: Kit) -> str:
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(kit.admin)
        return "connected"


@attack
def replace_socket(kit: Kit) -> str:
    try:
        os.unlink(kit.socket)
    except PermissionError:
        os.rename(kit.socket, kit.socket + ".old")
    return "replaced"


@attack
def plant_beside_socket(kit: Kit) -> str:
    with socket.socket(socket.AF_UNIX) as mine:
        mine.bind(str(Path(kit.socket).with_name("other.sock")))
        return "bound"


@attack
def other_paths(kit: Kit) -> str:
    names = ("/v1/score", "/v1/status", "/v1/reload", "/v1/plain", "/", "/v1/release/../score")
    return " ".join(str(kit.post(name, b"{}").status) for name in names)


@attack
def wrong_path_for_kind(kit: Kit) -> str:
    said = kit.signer.sign(kit.victim, "train.release", b"", _EMPTY)
    body = write_request(AgentRequest("train.release", b"", said, {}))
    return kit.said("/v1/join", body)


@attack
def unsigned(kit: Kit) -> str:
    return kit.ask("query.identify", wire.encode(Identify("n", bytes(32))), signature=None)


@attack
def signed_by_another(kit: Kit) -> str:
    message = wire.encode(Identify("n", bytes(32)))
    signer = Signer(identity_from_seed(os.urandom(32)))
    said = signer.sign(ANYBODY, "query.identify", message, _EMPTY)
    return kit.ask("query.identify", message, signature=said)


@attack
def altered_message(kit: Kit) -> str:
    message = wire.encode(Identify("n", bytes(32)))
    said = kit.signer.sign(ANYBODY, "query.identify", message, _EMPTY)
    other = wire.encode(Identify("m", bytes(32)))
    return kit.ask("query.identify", other, signature=said)


@attack
def for_another_enterprise(kit: Kit) -> str:
    _, request = kit.run().opened()
    return kit.ask("train.release", wire.encode(request.request), recipient="e001")


@attack
def replayed(kit: Kit) -> str:
    messages = [wire.encode(Identify(str(n), bytes(32))) for n in range(2)]
    said = [kit.signer.sign(ANYBODY, "query.identify", one, _EMPTY) for one in messages]
    for message, signature in zip(messages, said, strict=True):
        assert kit.ask("query.identify", message, signature=signature).startswith("answered")
    again = kit.ask("query.identify", messages[1], signature=said[1])
    return f"{again}; {kit.ask('query.identify', messages[0], signature=said[0])}"


@attack
def from_the_future(kit: Kit) -> str:
    seed = bytes.fromhex(kit.coordinator_seed)
    signer = Signer(identity_from_seed(seed), lambda: (1 << 63) - 1)
    message = wire.encode(Identify("n", bytes(32)))
    said = signer.sign(ANYBODY, "query.identify", message, _EMPTY)
    refused = kit.ask("query.identify", message, signature=said)
    return f"{refused}; then {kit.ask('query.identify', message, recipient=ANYBODY)}"


@attack
def another_roster(kit: Kit) -> str:
    run = kit.run()
    config = run.config
    mine = tuple(
        sorted(
            [(kit.victim, bytes.fromhex(kit.victim_public))]
            + [(f"e{n:03d}", identity_from_seed(os.urandom(32)).public) for n in range(1, 4)]
        )
    )
    settings = SessionSettings.of(config)
    manifest = settings.manifest(os.urandom(16), 1, terms_of(config, run.schema.hash), mine)
    return kit.ask("query.join", wire.encode(Join(manifest)))


@attack
def cohort_of_one(kit: Kit) -> str:
    _, request = kit.run().opened()
    alone = [member for member in request.request.members if member.name == kit.victim]
    changed = replace(request.request, cohort=(kit.victim,), members=tuple(alone))
    return kit.ask("train.release", wire.encode(changed))


@attack
def the_same_slot_twice(kit: Kit) -> str:
    run = kit.run()
    mine, request = run.opened()
    first = run.pass_on(mine)
    assert not isinstance(first, Refusal), words(first)
    again = run.pass_on(mine)
    renumbered = kit.reply("train.release", wire.encode(request.request))
    same = wire.encode(first) == wire.encode(again) == wire.encode(renumbered)
    first_member, *rest = request.request.members
    changed = replace(first_member, round_public=os.urandom(32))
    other = replace(request.request, members=(changed, *rest))
    refused = kit.ask("train.release", wire.encode(other))
    fewer = replace(request.request, cohort=request.request.cohort[:-1])
    return f"same bytes: {same}; {refused}; {kit.ask('train.release', wire.encode(fewer))}"


@attack
def plain_vector(kit: Kit) -> str:
    """The masked words of a sum of counts, read as if nothing hid them."""
    run = kit.run()
    mine, _ = run.opened()
    reply = run.pass_on(mine)
    assert isinstance(reply, Released), words(reply)
    numbers = np.frombuffer(reply.words[: len(reply.words) // 4 * 4], np.uint32)
    small = float(np.mean(numbers < 1 << 16))
    return f"small words: {small:.3f}"


@attack
def announced_too_large(kit: Kit) -> str:
    head = b"POST /v1/release HTTP/1.1\r\nhost: a\r\ncontent-length: 8000000000\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(20)
        raw.connect(kit.socket)
        raw.sendall(head)
        return raw.recv(64).split(b"\r\n")[0].decode()


@attack
def a_billion_elements(kit: Kit) -> str:
    said = kit.signer.sign(kit.victim, "train.release", b"x", _EMPTY)
    body = write_request(AgentRequest("train.release", b"x", said, {"a": np.zeros(1)}))
    length = int.from_bytes(body[:4], "big")
    head = json.loads(body[4 : 4 + length])
    head["arrays"][0]["shape"] = [1_000_000_000]
    text = json.dumps(head).encode()
    grown = len(text).to_bytes(4, "big") + text + body[4 + length :]
    return kit.said("/v1/release", grown)


@attack
def body_too_large(kit: Kit) -> str:
    return str(kit.post("/v1/release", bytes(3_000_000)).status)


@attack
def endless_body(kit: Kit) -> str:
    head = b"POST /v1/release HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(20)
        raw.connect(kit.socket)
        raw.sendall(head)
        return raw.recv(64).split(b"\r\n")[0].decode()


class Evil:
    def __reduce__(self):
        return os.mkdir, (f"/tmp/fgcif-pickled-{os.getpid()}",)


@attack
def pickled(kit: Kit) -> str:
    body = pickle.dumps(Evil())
    framed = len(body).to_bytes(4, "big") + body
    return f"{kit.said('/v1/release', body)}; {kit.said('/v1/release', framed)}"


@attack
def a_hundred_runs(kit: Kit) -> str:
    run = kit.run()
    settings, config = run.session.settings, run.config
    joined, last = 0, ""
    for _ in range(100):
        manifest = settings.manifest(
            os.urandom(16), 1, terms_of(config, run.schema.hash), settings.roster
        )
        last = kit.ask("query.join", wire.encode(Join(manifest)))
        joined += last.startswith("answered")
    return f"joined {joined}; {last}"


def main(kit: str, attacks: str) -> None:
    take_server_identity()
    config = {"kit": kit, "attacks": attacks}
    message = Message(RecordDict(), 1000, "query.steal")
    app(message, Context(1, 1000, config, RecordDict(), {}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
