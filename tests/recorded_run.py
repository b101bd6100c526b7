"""A run whose every message is recorded, and what each enterprise held before its masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict
from flwr.common.serde import recorddict_to_proto

from client_app.app import app as client_app
from fgcif_flwr.config import RunConfig, flatten
from fgcif_flwr.data.simulator import simulate_customers
from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.errors import FgcifError
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.records import (
    INPUT,
    REPLY,
    REQUEST,
    reply_from_records,
    request_from_records,
)
from fgcif_flwr.federation.releases import CLASS_WEIGHTS, MODEL
from fgcif_flwr.federation.requests import Identity, Reply
from fgcif_flwr.federation.traffic import MeteredGrid
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import from_vector, load_arrays, named_arrays, to_vector
from fgcif_flwr.models.training import train_locally
from fgcif_flwr.privacy.door import Door
from fgcif_flwr.privacy.outcomes import with_outcome
from fgcif_flwr.secagg import (
    Advertisement,
    Consent,
    JoinReply,
    Released,
    UnmaskReply,
    VectorLayout,
    WordFormat,
    wire,
)
from fgcif_flwr.secagg.masking import CHECK_WORDS
from fgcif_flwr.secagg.shamir import SHARE_BYTES
from fgcif_flwr.seeds import seed_for
from server_app.stages import run_stages
from tests import federation_rig as rig
from tests.federation_rig import FIRST_NODE, slot_of

torch.set_num_threads(1)

ENTERPRISES = 6
NEEDLE_BYTES = 8
KEY_BYTES = NONCE_BYTES = DIGEST_BYTES = 32
SIGNATURE_BYTES = 64
COMMITMENT_BYTES = 24
SEALED_BYTES = 2 * SHARE_BYTES + 16  # two shares and the tag of AES-GCM
OPENED_BYTES = SHARE_BYTES + 16  # a share and its salt

_Kind = TypeVar("_Kind", bound=Reply)
Slot = tuple[int, int]
"""(enterprise, slot)"""


def configured(output: Path, settings: Mapping[str, object] | None = None) -> RunConfig:
    """The federation of six, its messages as full as they get."""
    fuller = {"training.class_weighting": "balanced", "model.hidden": "16"}
    return rig.configured(output, {**fuller, **(settings or {})})


@dataclass
class Recording:
    """A run's messages in both directions, and what each enterprise held before its masks."""

    config: RunConfig
    down: list[Message] = field(default_factory=list)
    up: list[Message] = field(default_factory=list)
    values: dict[Slot, dict[str, np.ndarray]] = field(default_factory=dict)
    encoded: dict[Slot, np.ndarray] = field(default_factory=dict)
    layouts: dict[int, VectorLayout] = field(default_factory=dict)

    def observe(self, message: Message) -> None:
        (self.up if message.metadata.reply_to_message_id else self.down).append(message)

    def of(self, kind: type[_Kind]) -> Iterator[tuple[int, _Kind]]:
        """Replies of one kind, each with the number of its enterprise."""
        for message in self.up:
            said = reply_from_records(message.content)
            if isinstance(said, kind):
                yield message.metadata.src_node_id - FIRST_NODE, said

    @property
    def form(self) -> WordFormat:
        return WordFormat(self.config.secagg.value_bits, ENTERPRISES)

    def plain(self, key: Slot) -> np.ndarray:
        """The words of one vector before its masks, modulo 2^b, with its check words."""
        words = self.encoded[key].view(np.uint64).astype(self.form.dtype)
        return np.append(self.form.reduce(words), np.ones(CHECK_WORDS, self.form.dtype))

    def vectors(self) -> Iterator[tuple[Slot, np.ndarray, np.ndarray]]:
        """Every masked vector beside the plain one, both as words modulo 2^b."""
        for enterprise, said in self.of(Released):
            key = enterprise, said.slot
            plain = self.plain(key)
            yield key, self.form.unpack(said.words, len(plain)), plain


def recorded(config: RunConfig) -> Recording:
    """Run a federation and record it; the door's plaintext is taken where it is computed."""
    recording = Recording(config)
    positions = {rows.name: i for i, rows in enumerate(consortium_of(config).enterprises)}
    release, encode = Door.release, VectorLayout.encode

    def recording_release(self, request, layout, input_hash, compute, rounding):
        key = positions[self.participant.name], request.slot

        def seen():
            values = dict(compute())
            recording.values[key] = {name: np.array(value) for name, value in values.items()}
            return values

        def encode_and_record(layout, values, rng, rotation_seed=b""):
            words = encode(layout, values, rng, rotation_seed)
            recording.encoded[key] = words.copy()
            return words

        recording.layouts[request.slot] = with_outcome(layout)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(VectorLayout, "encode", encode_and_record)
            return release(self, request, layout, input_hash, seen, rounding)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Door, "release", recording_release)
        grid = InlineGrid(client_app, ENTERPRISES, flatten(config))
        run_stages(MeteredGrid(grid, recording.observe), config)
    return recording


def findings_of_form(recording: Recording) -> list[str]:
    """Name everything in a reply that public quantities do not account for.

    A reply is one byte string, and that is a message of the kind that was asked for: its numbers
    the slot asked for, its names the enterprise's own, its byte strings as long as keys, tags,
    shares and packed words of a public layout are. Nothing has room for anything else.
    """
    asked = {message.metadata.message_id: message for message in recording.down}
    names = [rows.name for rows in consortium_of(recording.config).enterprises]
    found = []
    for message in recording.up:
        question = asked[message.metadata.reply_to_message_id]
        who = names[question.metadata.dst_node_id - FIRST_NODE]
        kind = question.metadata.message_type
        wanted = expected_reply(recording, kind, who, slot_of(question))
        if message.has_error() or message.metadata.message_type != kind:
            found.append(f"{kind}: an error or another type")
        elif list(message.content) != [REPLY] or not message.content.config_records:
            found.append(f"{kind}: records other than the reply")
        else:
            found += [f"{kind}: {what}" for what in differences(message, wanted)]
    return found


def differences(message: Message, wanted: Reply) -> list[str]:
    """How a reply differs from what is wanted, besides in what its byte strings hold."""
    values = dict(message.content.config_records[REPLY])
    blob = values.pop("message", None)
    if values or type(blob) is not bytes:
        return [f"fields {sorted(values)} beside the message"]
    found = [] if len(blob) == len(wire.encode(wanted)) else ["length"]
    try:
        said = reply_from_records(message.content)
    except FgcifError as error:
        return [*found, str(error)]
    if type(said) is not type(wanted):
        return [*found, type(said).__name__]
    return found + [
        one.name
        for one in fields(wanted)
        if blank(getattr(said, one.name)) != getattr(wanted, one.name)
    ]


def blank(value: object) -> object:
    """The value with zeros in place of all bytes within it."""
    if isinstance(value, bytes):
        return bytes(len(value))
    if isinstance(value, tuple):
        return tuple(blank(item) for item in value)
    if is_dataclass(value):
        return replace(value, **{f.name: blank(getattr(value, f.name)) for f in fields(value)})
    return value


def expected_reply(recording: Recording, kind: str, who: str, slot: int) -> Reply:
    """The reply to a question, zeros in place of all of its bytes."""
    if kind == "query.identify":
        return Identity(who, bytes(KEY_BYTES), bytes(SIGNATURE_BYTES))
    if kind == "query.join":
        nonce, key, commitment = bytes(NONCE_BYTES), bytes(KEY_BYTES), bytes(DIGEST_BYTES)
        return JoinReply(who, nonce, key, commitment, b"", bytes(SIGNATURE_BYTES))
    if kind == "query.advertise":
        return expected_advertisement(who, slot)
    if kind == "train.release":
        size = recording.layouts[slot].size + CHECK_WORDS
        words = bytes(-(-size * recording.form.bits // 8))
        return Released(who, slot, words, (), b"", expected_advertisement(who, slot + 1))
    if kind == "query.consent":
        return Consent(who, slot, bytes(SIGNATURE_BYTES))
    assert kind == "query.unmask"
    return UnmaskReply(who, slot, bytes(OPENED_BYTES * ENTERPRISES))


def expected_advertisement(who: str, slot: int) -> Advertisement:
    """For each of the others two sealed shares; for oneself too the commitments to them."""
    return Advertisement(
        who,
        slot,
        round_public=bytes(KEY_BYTES),
        seed_commitment=bytes(DIGEST_BYTES),
        commitments=bytes(2 * COMMITMENT_BYTES * ENTERPRISES),
        sealed=bytes(SEALED_BYTES * (ENTERPRISES - 1)),
        signature=bytes(SIGNATURE_BYTES),
    )


# Byte strings of the plaintext anywhere in a message.


def raw(message: Message) -> bytes:
    """The message as it travels: its records and all of its metadata."""
    content = recorddict_to_proto(message.content).SerializeToString()
    return content + repr(message.metadata).encode()


def pieces(message: Message) -> list[bytes]:
    """The byte strings and texts that a message is made of; the whole of what is malformed.

    Between them stand only lengths and numbers, mostly zeros as small numbers of the plaintext
    are too; in a reply those are held to what they must be by :func:`findings_of_form`.
    """
    content = RecordDict(dict(message.content))
    kind = message.metadata.message_type
    record = content.pop(REPLY if REPLY in content else REQUEST, None)
    try:
        said = (
            reply_from_records(message.content)
            if REPLY in message.content
            else request_from_records(kind, message.content)
        )
    except FgcifError:
        return [raw(message)]
    if list(record) != ["message"]:
        return [raw(message)]
    rest = recorddict_to_proto(content).SerializeToString()
    return [*octets_in(said), rest, repr(message.metadata).encode()]


def octets_in(value: object) -> Iterator[bytes]:
    if isinstance(value, bytes | str):
        yield value if isinstance(value, bytes) else value.encode()
    elif isinstance(value, tuple):
        for item in value:
            yield from octets_in(item)
    elif is_dataclass(value):
        for one in fields(value):
            yield from octets_in(getattr(value, one.name))


def windows(data: bytes) -> np.ndarray:
    """All strings of 8 bytes in ``data``, as uint64; none in fewer bytes."""
    starts = range(min(NEEDLE_BYTES, max(0, len(data) - NEEDLE_BYTES + 1)))
    parts = [np.zeros(0, np.uint64)]
    parts += [
        np.frombuffer(data, "<u8", count=(len(data) - start) // NEEDLE_BYTES, offset=start)
        for start in starts
    ]
    return np.concatenate(parts)


def needles(arrays: Iterable[np.ndarray | bytes]) -> np.ndarray:
    """Each array's bytes cut into strings of 8, as uint64; a rest of fewer is left out."""
    parts = [np.zeros(0, np.uint64)]
    for array in arrays:
        data = array if isinstance(array, bytes) else np.ascontiguousarray(array).tobytes()
        parts.append(np.frombuffer(data, "<u8", count=len(data) // NEEDLE_BYTES))
    return np.unique(np.concatenate(parts))


def plaintext_of(recording: Recording, key: Slot) -> list[np.ndarray | bytes]:
    """What the door was given and made for one vector, in every type that might be sent."""
    words = recording.encoded[key]
    reals = list(recording.values[key].values())
    return [
        *reals,
        np.concatenate([real.reshape(-1) for real in reals]).astype(np.float32),
        words,
        words.astype(np.int32),
        recording.plain(key),
        recording.form.pack(recording.plain(key)),
    ]


def rows_of(recording: Recording, enterprise: int) -> list[np.ndarray]:
    """An enterprise's encoded tables: whole arrays, and every row of numbers by itself."""
    arrays: list[np.ndarray] = []
    rows = consortium_of(recording.config).enterprises[enterprise]
    for split in (rows.train, rows.validation, rows.test):
        for array in (split.numeric, split.categorical, *split.targets.values()):
            arrays += [array, array.astype(np.float64), array.astype(np.float32)]
        arrays += [row.copy() for row in split.numeric]
    return arrays


def local_models(recording: Recording, enterprise: int) -> list[np.ndarray]:
    """The models that an enterprise trained on its rows, and their unweighted updates."""
    config = recording.config
    rows = consortium_of(config).enterprises[enterprise]
    arrays: list[np.ndarray] = []
    for message, inputs in training_requests(recording, enterprise):
        network = build_network(consortium_of(config).layout, config.model, 0)
        load_arrays(network, from_vector(inputs[MODEL], named_arrays(network)))
        before = to_vector(named_arrays(network))
        train_locally(
            network,
            rows.train,
            config.training,
            seed_for(config, "train", rows.name, int(inputs["round"][0])),
            class_weights=prefixed(inputs, CLASS_WEIGHTS),
        )
        after = to_vector(named_arrays(network))
        update = after.astype(np.float64) - before
        slot = slot_of(message)
        sent = recording.values[enterprise, slot]["update"]
        weight = len(rows.train) / float(inputs["rows"][0])
        assert np.array_equal(weight * update, sent)
        arrays += [after, update, update.astype(np.float32), after.astype(np.float64)]
    return arrays


def training_requests(
    recording: Recording, enterprise: int
) -> Iterator[tuple[Message, dict[str, np.ndarray]]]:
    for message in recording.down:
        if message.metadata.dst_node_id != FIRST_NODE + enterprise:
            continue
        if message.metadata.message_type != "train.release":
            continue
        record = message.content.array_records[INPUT]
        if "round" in record:
            yield message, {name: array.numpy() for name, array in record.items()}


def prefixed(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def leaks(
    recording: Recording, messages: Iterable[Message], *, models: bool = True
) -> dict[str, int]:
    """Count the plaintext strings of 8 bytes that occur anywhere in what was replied."""
    hay = np.unique(
        np.concatenate([windows(piece) for message in messages for piece in pieces(message)])
    )
    found = {}
    for enterprise in range(ENTERPRISES):
        plain = [
            array
            for key in recording.values
            if key[0] == enterprise
            for array in plaintext_of(recording, key)
        ]
        for what, arrays in {
            "released values": plain,
            "local models": local_models(recording, enterprise) if models else [],
            "rows": rows_of(recording, enterprise),
        }.items():
            found[f"{what} of {enterprise}"] = int(np.isin(needles(arrays), hay).sum())
    return found


def customer_ids(config: RunConfig) -> list[str]:
    table, _ = simulate_customers(config.simulator, config.run.enterprises, config.run.seed)
    return table.column("customer_id").to_pylist()
