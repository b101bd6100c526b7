"""Enterprises of very different rows, and a coordinator that asks them what it likes."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from flwr.app import Message, RecordDict

from client_app.app import app as client_app
from fgcif_flwr.config import RunConfig, flatten
from fgcif_flwr.data.consortium import Consortium as Rows
from fgcif_flwr.data.consortium import EnterpriseRows
from fgcif_flwr.data.encoding import EncodedTable, feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.enterprise import simulated
from fgcif_flwr.enterprise.tasks import Tasks
from fgcif_flwr.errors import (
    OutOfRangeError,
)
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.records import (
    INPUT,
    REPLY,
    REQUEST,
    arrays_to_record,
    reply_from_records,
)
from fgcif_flwr.federation.releases import (
    EVALUATE,
    MODEL,
    STATISTICS,
    layout_of,
)
from fgcif_flwr.federation.requests import Refusal
from fgcif_flwr.federation.session import SecureSumSession, SessionSettings, Task
from fgcif_flwr.federation.terms import terms_of
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import named_arrays, to_vector
from tests import federation_rig as rig

torch.set_num_threads(1)

ENTERPRISES = 6
SCHEMA = load_schema("simulated")
FEATURES = feature_layout(SCHEMA)
LACKING = (5, 7)
"""A categorical feature and a code of it."""

Arrays = dict[str, np.ndarray]


def configured(output: Path, settings: Mapping[str, object] | None = None) -> RunConfig:
    """The federation of six, with rows enough to take some of them away."""
    return rig.configured(output, {"run.rounds": 2, "simulator.customers": 60, **(settings or {})})


CONFIG = configured(Path("/nowhere"))


def splits(rows: EnterpriseRows, choose: Callable[[EncodedTable], EncodedTable]) -> EnterpriseRows:
    return dataclasses.replace(
        rows, **{name: choose(getattr(rows, name)) for name in ("train", "validation", "test")}
    )


def unlabelled(table: EncodedTable) -> EncodedTable:
    targets = {
        name: np.full_like(values, -1 if values.dtype.kind == "i" else np.nan)
        for name, values in table.targets.items()
    }
    return dataclasses.replace(table, targets=targets)


@cache
def uneven() -> Rows:
    """Six enterprises: no rows, one row, no labels, one that lacks a word, two whole."""
    whole = simulated.consortium_of(CONFIG)
    one = list(whole.enterprises)
    one[0] = splits(one[0], lambda table: table.take([]))
    one[1] = splits(one[1], lambda table: table.take([0]))
    one[2] = splits(one[2], unlabelled)
    feature, code = LACKING
    one[3] = splits(whole.enterprises[5], lambda t: t.take(t.categorical[:, feature] != code))
    one[3] = dataclasses.replace(one[3], name=whole.enterprises[3].name)
    return dataclasses.replace(whole, enterprises=tuple(one))


class Coordinator:
    """It joins as agreed, and then sends what inputs it likes."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.grid = InlineGrid(client_app, ENTERPRISES, flatten(config))
        terms = terms_of(config, SCHEMA.hash)
        self.session = SecureSumSession(self.grid, SessionSettings.of(config), terms)
        self.session.join()

    def task(self, name: str, arrays: Mapping[str, np.ndarray]) -> Task:
        size = sum(array.size for array in parts().values())
        return Task(name, layout_of(name, self.config, FEATURES, size), arrays)

    def send(self, messages: list[Message]) -> list[Message]:
        replies = list(self.grid.send_and_receive(messages))
        assert not any(reply.has_error() for reply in replies)
        assert len(replies) == len(messages)
        return replies

    def lines(self) -> list[int]:
        """Lines of each enterprise's release log."""
        directory = Path(self.config.run.output) / "releases"
        files = [directory / f"{index:04d}.jsonl" for index in range(ENTERPRISES)]
        return [
            len(file.read_text(encoding="utf-8").splitlines()) if file.exists() else 0
            for file in files
        ]


def parts() -> Arrays:
    """The network's parameters by name, all zero."""
    network = build_network(FEATURES, CONFIG.model, 0)
    return {name: np.zeros_like(array) for name, array in named_arrays(network).items()}


def model(**changes: Callable[[np.ndarray], None]) -> np.ndarray:
    """A model of zeros with some of its arrays changed; ``__`` in a name stands for a dot."""
    arrays = parts()
    for key, change in changes.items():
        change(arrays[key.replace("__", ".")])
    return to_vector(arrays)


def start() -> np.ndarray:
    return to_vector(named_arrays(build_network(FEATURES, CONFIG.model, 0)))


def row_of(feature: int, code: int) -> int:
    """The row of the shared embedding table that a word has."""
    return int(np.cumsum((0, *FEATURES.cardinalities))[feature]) + code


def asking_for(feature: int, code: int) -> np.ndarray:
    """A finite model that overflows for the rows that hold a word, and for no others."""

    def embedding(array: np.ndarray) -> None:
        array[row_of(feature, code)] = 3e38

    def trunk(array: np.ndarray) -> None:
        array[:] = 0
        width = CONFIG.model.embedding_dim * len(FEATURES.categorical)
        array[:, -width:] = 1e3

    asked = model(embedding__weight=embedding, trunk__0__weight=trunk)
    assert np.isfinite(asked).all()
    return asked


def inputs(name: str, **changes: np.ndarray) -> Arrays:
    """A task's input, whole but for the changes."""
    if name == STATISTICS:
        return {**changes}
    arrays = {"rows": np.array([200, 30, 60]), MODEL: start()}
    if name != EVALUATE:
        arrays["round"] = np.array([1])
    return {**arrays, **changes}


def shape_of(message: Message) -> object:
    """All that can be seen of a reply without keys: the class, its fields, the lengths of those.

    A refusal is seen whole, and so is who complains of whom. Who sent it is known anyway.
    """
    assert list(message.content) == [REPLY]
    assert list(message.content.config_records[REPLY]) == ["message"]
    said = reply_from_records(message.content)
    if isinstance(said, Refusal):
        return said

    def seen(value: object) -> object:
        if dataclasses.is_dataclass(value):
            fields = dataclasses.fields(value)
            told = {field.name: seen(getattr(value, field.name)) for field in fields}
            return {**told, "sender": None, "class": type(value).__name__}
        return len(value) if isinstance(value, bytes) else value

    blob = message.content.config_records[REPLY]["message"]
    return seen(said), len(blob)


def outcomes(name: str, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """How each enterprise would fail on an input, if at all: what the coordinator is after."""
    outcome = []
    layout = layout_of(name, CONFIG, FEATURES, len(start()))
    for rows in uneven().enterprises:
        try:
            values = Tasks(CONFIG, FEATURES, rows).compute(name, arrays)
            layout.encode(values, np.random.default_rng(0))
            outcome.append("")
        except OutOfRangeError:
            outcome.append("out_of_range")
        except Exception:
            outcome.append("failed")
    return outcome


def blob_of(message: Message) -> bytes:
    return message.content.config_records[REPLY]["message"]


def with_inputs(message: Message, arrays: Arrays) -> Message:
    content = RecordDict({REQUEST: message.content[REQUEST], INPUT: arrays_to_record(arrays)})
    return Message(content, message.metadata.dst_node_id, message.metadata.message_type)
