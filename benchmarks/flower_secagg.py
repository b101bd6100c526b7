"""One secure sum by Flower's own SecAgg+, in one process, on given vectors.

The clients run ``flwr.client.mod.secaggplus_mod``, the server runs
``flwr.server.workflow.SecAggPlusWorkflow`` with ``FedAvg``; nothing of the protocol is written
anew. Between them stands `InProcessGrid`, which hands each message, through its wire form, to the
client it is for. What differs from a deployment, none of it in Flower's disfavour:

- messages are turned to bytes and back (Flower's own serialisation) outside all clocks;
- the model that a round sends down is empty, so that bytes down are the protocol's alone;
- a lost client is lost at the upload of its masked vector: SecAgg+ does not outlive one lost
  earlier (its shares' absence is a KeyError in all the others);
- ``TaskIdentity`` is set by hand, as Flower's process does before an app starts.

Nothing of Flower is patched.

Settings are comparable to ours: complete graph, threshold 0.6 n, 22-bit values, a modulus of
2^32, equal weights (``max_weight`` 1, so that a value keeps its whole resolution).
"""

from __future__ import annotations

import gc
import logging
import time
import tracemalloc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import (
    Code,
    FitRes,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.compat.common import recorddict_compat as compat
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.server import LegacyContext, SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.supercore.task_identity import TaskIdentity

from fgcif_flwr.federation.inline_grid import LocalGrid

CLIPPING_RANGE = 8.0
QUANTIZATION_RANGE = 1 << 22
MODULUS_RANGE = 1 << 32
RECONSTRUCTION_THRESHOLD = 0.6
MOST_CLIENTS = MODULUS_RANGE // QUANTIZATION_RANGE - 1
"""Beyond these the sum of the weights, each 2^22, wraps."""


@dataclass(frozen=True)
class Measurement:
    """What one secure sum cost.

    Times and bytes of a client are means over those that survived, over all stages; ``server_s``
    is the time outside clients. ``masks`` is how many masks a client expanded.
    """

    client_ms: float
    server_s: float
    bytes_up_per_param: float
    bytes_down_per_param: float
    masks: int
    server_peak_mb: float | None = None
    """Most that was allocated while the server ran; only where memory was asked for, and then times
    are too long. On Flower's side clients' keys and shares in this process are included, on ours
    neither they nor the shares that the server holds."""
    server_shares_mb: float | None = None
    """Shares that the server holds."""


@dataclass
class Client:
    """One client: its vector, its state between stages, and what it has cost so far."""

    vector: npt.NDArray[np.floating]
    context: Context
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0

    def answer(self, message: Message) -> Message:
        """Run the mod on one message; time in the app that it wraps is not counted."""
        in_app = 0.0

        def app(message: Message, _: Context) -> Message:
            nonlocal in_app
            started = time.perf_counter()
            parameters = ndarrays_to_parameters([self.vector])
            result = FitRes(Status(Code.OK, ""), parameters, num_examples=1, metrics={})
            content = compat.fitres_to_recorddict(result, keep_input=False)
            reply = Message(content, reply_to=message)
            in_app = time.perf_counter() - started
            return reply

        started = time.perf_counter()
        reply = secaggplus_mod(message, self.context, app)
        self.seconds += time.perf_counter() - started - in_app
        return reply


class InProcessGrid(LocalGrid):
    """Hands each message to its client; loses the replies of ``lost`` in the third exchange.

    ``away_s`` is the time spent in here, which is not the server's.
    """

    def __init__(
        self, clients: dict[int, Client], lost: frozenset[int], watch_memory: bool = False
    ) -> None:
        super().__init__(len(clients))
        self.clients = clients
        self.lost = lost
        self.watch_memory = watch_memory
        self.exchanges = 0
        self.away_s = 0.0
        self.peak_bytes = 0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return the replies of all clients, an error in place of each lost one."""
        started = time.perf_counter()
        self.note_peak()
        self.exchanges += 1
        replies = self.deliver(list(messages))
        if self.watch_memory:
            gc.collect()
            tracemalloc.reset_peak()
        self.away_s += time.perf_counter() - started
        return replies

    def deliver(self, messages: list[Message]) -> list[Message]:
        """Send each message through its wire form to its client, and the reply back."""
        return [self._delivered(message) for message in messages]

    def _delivered(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        client = self.clients[node]
        if node in self.lost and self.exchanges >= 3:
            return Message(Error(0, "lost"), reply_to=message)
        down = message_to_proto(message).SerializeToString()
        reply = client.answer(message_from_proto(ProtoMessage.FromString(down)))
        up = message_to_proto(reply).SerializeToString()
        client.bytes_down += len(down)
        client.bytes_up += len(up)
        return message_from_proto(ProtoMessage.FromString(up))

    def note_peak(self) -> None:
        """Keep the most that was allocated since the clients last ran."""
        if self.watch_memory:
            self.peak_bytes = max(self.peak_bytes, tracemalloc.get_traced_memory()[1])


def measure(
    vectors: Sequence[npt.NDArray[np.floating]], lost: int, memory: bool = False
) -> Measurement:
    """Sum ``vectors`` with SecAgg+, losing the first ``lost`` clients at their upload.

    Parameters
    ----------
    vectors : list of n arrays of shape (d,)
        Values within (-8, 8), one vector a client; n at most 1023.
    lost : int
        Clients lost, at most 0.4 n.
    memory : bool
        Watch the server's memory; this lengthens its times.

    Raises
    ------
    ValueError
        If there are too many clients for the modulus, or too many lost for the threshold.
    RuntimeError
        If SecAgg+ halted, or its mean is not that of the survivors within its quantization.
    """
    n, d = len(vectors), len(vectors[0])
    if n > MOST_CLIENTS:
        raise ValueError(f"{n} clients: weights of 22 bits wrap modulo 2^32 beyond {MOST_CLIENTS}")
    if n - lost < round(RECONSTRUCTION_THRESHOLD * n):
        raise ValueError(f"{lost} of {n} clients lost: SecAgg+ needs 0.6 of them here")
    log_level = logging.getLogger("flwr").level
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    nodes = range(1, n + 1)
    clients = {
        node: Client(vector, Context(1, node, {}, RecordDict(), {}))
        for node, vector in zip(nodes, vectors, strict=True)
    }
    grid = InProcessGrid(clients, frozenset(nodes[:lost]), memory)
    workflow = SecAggPlusWorkflow(
        num_shares=1.0,
        reconstruction_threshold=RECONSTRUCTION_THRESHOLD,
        max_weight=1.0,
        clipping_range=CLIPPING_RANGE,
        quantization_range=QUANTIZATION_RANGE,
        modulus_range=MODULUS_RANGE,
    )
    context = server_context(grid, nodes)
    if memory:
        tracemalloc.start()
    try:
        started = time.perf_counter()
        workflow(grid, context)
        server_s = time.perf_counter() - started - grid.away_s
        grid.note_peak()
    finally:
        if memory:
            tracemalloc.stop()
        logging.getLogger("flwr").setLevel(log_level)
    check(context, vectors[lost:])
    survivors = [clients[node] for node in nodes[lost:]]
    return Measurement(
        client_ms=1e3 * sum(client.seconds for client in survivors) / len(survivors),
        server_s=server_s,
        bytes_up_per_param=sum(client.bytes_up for client in survivors) / len(survivors) / d,
        bytes_down_per_param=sum(client.bytes_down for client in survivors) / len(survivors) / d,
        masks=n,
        server_peak_mb=grid.peak_bytes / 1e6 if memory else None,
    )


def server_context(grid: InProcessGrid, nodes: Sequence[int]) -> LegacyContext:
    """What the workflow is called with: FedAvg over all nodes, an empty model, round 1."""
    manager = SimpleClientManager()
    for node in nodes:
        manager.register(GridClientProxy(node, grid, run_id=1))
    strategy = FedAvg(
        fraction_fit=1.0, min_fit_clients=len(nodes), min_available_clients=len(nodes)
    )
    state = RecordDict()
    state[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
    state[MAIN_PARAMS_RECORD] = ArrayRecord()
    return LegacyContext(Context(1, 1, {}, state, {}), strategy=strategy, client_manager=manager)


def check(context: LegacyContext, vectors: Sequence[npt.NDArray[np.floating]]) -> None:
    """Refuse a mean that is off by more than two quanta: rounding is stochastic, in float32."""
    parameters = compat.arrayrecord_to_parameters(
        context.state.array_records[MAIN_PARAMS_RECORD], keep_input=True
    )
    arrays = parameters_to_ndarrays(parameters)
    if not arrays:
        raise RuntimeError("SecAgg+ halted")
    expected = np.zeros(len(vectors[0]))
    for vector in vectors:
        expected += vector
    worst = float(np.abs(arrays[0] - expected / len(vectors)).max())
    quantum = 2 * CLIPPING_RANGE / QUANTIZATION_RANGE
    if worst > 2 * quantum:
        raise RuntimeError(f"SecAgg+'s mean is off by {worst / quantum:.1f} quanta")
