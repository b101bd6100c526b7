"""An app and a strategy that are not ours, and the secure sum put around them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_to_proto
from flwr.serverapp.strategy import FedAvg, Strategy

from fgcif_flwr.federation import SecureSumMod, SecureSumStrategy, SecureSumTerms
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.traffic import MeteredGrid

ROOT = Path(__file__).resolve().parents[1]

CLIENTS = 5
SECRET = "row 17: Ada Lovelace"
TERMS = SecureSumTerms(update_bound=2.0, most_examples=100, train_metrics={"loss": 20.0})

Train = Callable[[Message, Context], Message]


def reply(message: Message, arrays: Mapping[str, np.ndarray], **metrics: float) -> Message:
    records = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(np.asarray(a)) for name, a in arrays.items()}),
            "metrics": MetricRecord({key.replace("_", "-"): v for key, v in metrics.items()}),
        }
    )
    return Message(records, reply_to=message)


def moved(message: Message, context: Context) -> Message:
    """A client's training: it moves every parameter by its number / 10."""
    client = int(context.node_config["partition-id"])
    received = {key: array.numpy() for key, array in message.content["arrays"].items()}
    arrays = {key: array + array.dtype.type(client / 10) for key, array in received.items()}
    return reply(message, arrays, num_examples=10 * (client + 1), loss=float(client))


def app_of(train: Train, mod: SecureSumMod | None = None) -> ClientApp:
    app = ClientApp(mods=[mod or SecureSumMod.simulated()])
    app.train()(train)
    return app


def start(strategy: Strategy, grid: Any, rounds: int = 1, **arrays: np.ndarray) -> Any:
    model = arrays or {"w": np.zeros(4, dtype=np.float32)}
    record = ArrayRecord({name: Array(array) for name, array in model.items()})
    return strategy.start(grid, record, num_rounds=rounds, timeout=5)


def secure(inner: Strategy | None = None, terms: SecureSumTerms = TERMS, **more: Any) -> Strategy:
    strategy = inner or FedAvg(fraction_evaluate=0)
    return SecureSumStrategy(strategy, terms, **{"clients": CLIENTS, "timeout": 5, **more})


def with_errors_shown(app: ClientApp) -> tuple[MeteredGrid, list[Message]]:
    """A grid over the app, and all messages of both directions."""
    seen: list[Message] = []
    return MeteredGrid(InlineGrid(app, CLIENTS, {}), observe=seen.append), seen


def octets(message: Message) -> bytes:
    if message.has_error():
        return str(message.error).encode()
    return recorddict_to_proto(message.content).SerializeToString()


def expected(clients: tuple[int, ...] = tuple(range(CLIENTS))) -> float:
    """The weighted mean of what ``moved`` adds."""
    weights = [10 * (client + 1) for client in clients]
    return sum(w * c / 10 for w, c in zip(weights, clients, strict=True)) / sum(weights)


logging.getLogger("flwr").setLevel(logging.WARNING)
