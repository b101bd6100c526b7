"""What leaves an enterprise shows nothing of its customers: not in a message, a refusal or a log.

Every message of a run is recorded, and beside it what each enterprise computed before the door
masked it. The same detectors are then run with the masks taken away, and must find everything.

Keys and masks come from the operating system, so the statistical tests below are fresh draws in
every run; each states its false-alarm rate, and all together alarm falsely in less than one run
in 100,000.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto
from scipy.stats import chisquare, norm

from client_app.app import app as client_app
from fgcif_flwr.config import RunConfig, SimulatorSection, flatten, unflatten
from fgcif_flwr.data.simulator import simulate_customers
from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.enterprise.tasks import Tasks
from fgcif_flwr.errors import CohortError, FgcifError, OutOfRangeError, ValueOutOfKindError
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.records import (
    INPUT,
    REPLY,
    REQUEST,
    reply_from_records,
    reply_to_records,
    request_from_records,
)
from fgcif_flwr.federation.releases import CLASS_WEIGHTS, MODEL, TRAIN
from fgcif_flwr.federation.requests import Identity, Refusal, Release, Reply
from fgcif_flwr.federation.traffic import MeteredGrid
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import from_vector, load_arrays, named_arrays, to_vector
from fgcif_flwr.models.training import train_locally
from fgcif_flwr.privacy.door import OUTCOMES, Door, with_outcome
from fgcif_flwr.reporting.run_directory import RunDirectory
from fgcif_flwr.secagg import (
    Advertisement,
    Consent,
    JoinReply,
    Released,
    UnmaskReply,
    VectorLayout,
    WordFormat,
    masking,
    wire,
)
from fgcif_flwr.secagg.masking import CHECK_WORDS
from fgcif_flwr.secagg.shamir import SHARE_BYTES
from fgcif_flwr.seeds import seed_for
from server_app.stages import run_stages, write_failure

torch.set_num_threads(1)

ENTERPRISES = 6
FIRST_NODE = 1000  # of InlineGrid; node 1000 + i is enterprise i
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
    return unflatten(
        {
            "run.enterprises": ENTERPRISES,
            "run.rounds": 3,
            "run.output": str(output),
            "simulator.customers": 40,
            "training.class_weighting": "balanced",
            "model.hidden": "16",
            **(settings or {}),
        }
    )


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

    def recording_release(self, request, statement, layout, input_hash, compute, rounding):
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
            return release(self, request, statement, layout, input_hash, seen, rounding)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Door, "release", recording_release)
        grid = InlineGrid(client_app, ENTERPRISES, flatten(config))
        run_stages(MeteredGrid(grid, recording.observe), config)
    return recording


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recorded(configured(tmp_path_factory.mktemp("masked")))


@pytest.fixture(scope="module")
def unmasked(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """The positive control: the same run, its masks taken away."""
    with pytest.MonkeyPatch.context() as patch:
        # The keystream's buffer is zeros until a cipher writes to it.
        patch.setattr(masking._Keystream, "next", lambda self, context, count: self._words[:count])
        return recorded(configured(tmp_path_factory.mktemp("unmasked")))


# What a reply may hold, and nothing else.


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
        wanted = expected_reply(recording, kind, who, slot_asked(question))
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


def slot_asked(question: Message) -> int:
    request = request_from_records(question.metadata.message_type, question.content)
    return getattr(request.request if isinstance(request, Release) else request, "slot", 0)


def expected_reply(recording: Recording, kind: str, who: str, slot: int) -> Reply:
    """The reply to a question, zeros in place of all of its bytes."""
    if kind == "query.identify":
        return Identity(who, bytes(KEY_BYTES))
    if kind == "query.join":
        nonce, key, commitment = bytes(NONCE_BYTES), bytes(KEY_BYTES), bytes(DIGEST_BYTES)
        return JoinReply(who, nonce, key, commitment, bytes(SIGNATURE_BYTES))
    if kind == "query.advertise":
        return expected_advertisement(who, slot)
    if kind == "train.release":
        size = recording.layouts[slot].size + CHECK_WORDS
        words = bytes(-(-size * recording.form.bits // 8))
        return Released(who, slot, words, (), expected_advertisement(who, slot + 1))
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


def test_a_reply_holds_the_known_fields_of_the_known_sizes_and_nothing_else(run):
    assert findings_of_form(run) == []
    # identify, join, advertise; statistics, three rounds and the evaluation at two each.
    assert len(run.up) == len(run.down) == ENTERPRISES * (3 + 5 * 2)


def test_a_run_with_the_consistency_exchange_and_rotation_says_no_more(tmp_path):
    settings = {"secagg.consistency": True, "secagg.rotation": True, "run.rounds": 1}
    recording = recorded(configured(tmp_path, settings))
    assert findings_of_form(recording) == []
    assert len(recording.up) == ENTERPRISES * (3 + 3 * 3)
    assert len(list(recording.of(Consent))) == ENTERPRISES * 3
    assert set(leaks(recording, recording.up, models=False).values()) == {0}


def in_reply(alter: Callable[[Released], Reply]) -> Callable[[Released], RecordDict]:
    return lambda said: reply_to_records(alter(said))


def in_records(**more: object) -> Callable[[Released], RecordDict]:
    return lambda said: RecordDict({REPLY: ConfigRecord({"message": wire.encode(said), **more})})


def in_blob(alter: Callable[[bytes], bytes]) -> Callable[[Released], RecordDict]:
    return lambda said: RecordDict({REPLY: ConfigRecord({"message": alter(wire.encode(said))})})


def beside_reply(said: Released) -> RecordDict:
    return RecordDict({**reply_to_records(said), "metrics": MetricRecord({"loss": 0.25})})


SMUGGLING: dict[str, Callable[[Released], RecordDict]] = {
    "metrics": beside_reply,
    "num_examples": in_records(num_examples=31),
    "no reply": lambda said: RecordDict({"metrics": MetricRecord({"loss": 0.25})}),
    "a byte more": in_blob(lambda blob: blob + b"\x1f"),
    "slot": in_reply(lambda said: replace(said, slot=31)),
    "sender": in_reply(lambda said: replace(said, sender="31 rows")),
    "sender as long": in_reply(lambda said: replace(said, sender="enterprise-31")),
    "words": in_reply(lambda said: replace(said, words=said.words + b"\x1f")),
    "fewer words": in_reply(lambda said: replace(said, words=said.words[:-1])),
    "complaint": in_reply(lambda said: replace(said, complaints=("31 rows",))),
    "next slot": in_reply(lambda said: replace(said, next=replace(said.next, slot=31))),
    "commitments": in_reply(
        lambda said: replace(said, next=replace(said.next, commitments=bytes(289)))
    ),
    "sealed": in_reply(
        lambda said: replace(said, next=replace(said.next, sealed=said.next.sealed + b"\x1f"))
    ),
    "moved": in_reply(
        lambda said: replace(
            said,
            words=said.words + b"\x1f",
            next=replace(said.next, sealed=said.next.sealed[:-1]),
        )
    ),
    "refusal": lambda said: reply_to_records(Refusal(31, "31 rows")),
}


@pytest.mark.parametrize("smuggle", SMUGGLING.values(), ids=SMUGGLING)
def test_a_field_that_is_smuggled_into_a_reply_is_found(run, smuggle):
    index, message = next(
        (i, message)
        for i, message in enumerate(run.up)
        if message.metadata.message_type == "train.release"
    )
    content = smuggle(reply_from_records(message.content))
    reply = Message(content, reply_to=Message(RecordDict(), FIRST_NODE, "train.release"))
    reply.__dict__["_metadata"] = message.metadata
    up = [*run.up[:index], reply, *run.up[index + 1 :]]
    assert findings_of_form(Recording(run.config, run.down, up, layouts=run.layouts))


# Masked words against plain ones.


def agreements(recording: Recording) -> tuple[int, int]:
    """Return the positions whose masked word is the plain one, and all positions."""
    pairs = list(recording.vectors())
    return (
        sum(int((masked == plain).sum()) for _, masked, plain in pairs),
        sum(len(plain) for _, _, plain in pairs),
    )


def p_values(recording: Recording) -> dict[str, float]:
    """Test masked words against uniform ones: their bytes, and their bits beside the plain bits."""
    packed = b"".join(
        said.words[:-1]
        for _, said in recording.of(Released)  # the last may be padded
    )
    counts = np.bincount(np.frombuffer(packed, np.uint8), minlength=256)
    bits = recording.form.bits
    equal = total = 0
    for _, masked, plain in recording.vectors():
        differing = (masked ^ plain).view(np.uint8)
        equal += len(masked) * bits - int(np.unpackbits(differing).sum())
        total += len(masked) * bits
    z = (equal - total / 2) / np.sqrt(total / 4)
    return {"bytes": chisquare(counts).pvalue, "bits": 2 * norm.sf(abs(z))}


def test_every_enterprise_was_recorded_in_every_slot(run):
    slots = [1, 2, 3, 4, 5]
    assert all(
        [field.name for field in layout.fields[:2]] == list(OUTCOMES)
        for layout in run.layouts.values()
    )
    assert sorted(run.values) == [(i, slot) for i in range(ENTERPRISES) for slot in slots]
    assert sorted(key for key, _, _ in run.vectors()) == sorted(run.values)
    for (_, slot), words in run.encoded.items():
        assert len(words) == run.layouts[slot].size
        assert words[:2].tolist() == [0, 0]  # nobody was out of range, nobody failed


def test_masked_words_are_not_the_plain_words(run):
    # Uniform words agree with the plain ones with probability 2^-b each; two or more agreements
    # have a probability below the square of their expected number: under 1e-5.
    agreeing, positions = agreements(run)
    assert positions > 40_000
    assert (positions / 2**run.form.bits) ** 2 < 1e-5
    assert agreeing <= 1


def test_masked_words_look_uniform_and_their_bits_are_independent_of_the_plain_bits(run):
    # Two tests, each with a false-alarm rate of 1e-6.
    assert min(p_values(run).values()) > 1e-6


def test_no_two_enterprises_or_slots_share_a_mask(run):
    # A mask used twice would show as the difference of two plain vectors. Chance agreement of
    # any pair in two positions or more: pairs x (words x 2^-b)^2, under 1e-5.
    masks = [(masked - plain) & run.form.mask for _, masked, plain in run.vectors()]
    pairs = 0
    for i, one in enumerate(masks):
        for other in masks[:i]:
            size = min(len(one), len(other))
            assert int((one[:size] == other[:size]).sum()) <= 1
            pairs += 1
    largest = max(len(mask) for mask in masks)
    assert pairs * (largest / 2**run.form.bits) ** 2 < 1e-5


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
        slot = slot_asked(message)
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


def test_the_recorded_updates_are_those_that_the_rows_give(run):
    layout = consortium_of(run.config).layout
    for enterprise, rows in enumerate(consortium_of(run.config).enterprises):
        for message, inputs in training_requests(run, enterprise):
            slot = slot_asked(message)
            computed = Tasks(run.config, layout, rows).compute(TRAIN, inputs)
            seen = run.values[enterprise, slot]
            assert all(np.array_equal(seen[name], computed[name]) for name in computed)


def test_no_plaintext_of_eight_bytes_or_more_is_in_a_message_that_leaves_an_enterprise(run):
    # False alarm: (strings sought) x (strings in the messages) x 2^-64, under 1e-6.
    sought = sum(
        len(needles([*plaintext_of(run, key), *rows_of(run, key[0])])) for key in run.values
    )
    assert sought * sum(len(raw(message)) for message in run.up) / 2**64 < 1e-6
    assert set(leaks(run, run.up).values()) == {0}


def test_no_enterprises_update_is_in_a_message_to_another(run):
    # Small numbers and zeros are in any array; so only strings with five different bytes or more.
    hay = np.unique(np.concatenate([windows(p) for message in run.down for p in pieces(message)]))
    for key in run.values:
        sought = needles(plaintext_of(run, key))
        octets = np.sort(sought.view(np.uint8).reshape(-1, NEEDLE_BYTES), axis=1)
        varied = (np.diff(octets, axis=1) != 0).sum(axis=1) >= 4
        assert varied.sum() > 0 or key[1] in (1, 5)
        assert not np.isin(sought[varied], hay).any()


def test_no_customer_id_is_in_any_message(run):
    ids = customer_ids(run.config)
    everything = b"".join(raw(message) for message in (*run.down, *run.up))
    assert not any(one.encode() in everything for one in ids)


def test_a_loss_sent_as_a_number_would_be_found(run):
    loss = float(run.values[2, 3]["loss"][0])
    smuggled = Message(
        RecordDict({"metrics": MetricRecord({"loss": loss})}), FIRST_NODE, "train.release"
    )
    assert leaks(run, [smuggled])["released values of 2"] == 1


def test_an_update_within_a_lawful_reply_would_be_found(run):
    update = run.values[3, 3]["update"]
    update = update[update != 0]
    (_, said), *_ = run.of(Released)
    hidden = replace(said.next, sealed=said.next.sealed[:101] + update[:20].tobytes())
    content = reply_to_records(replace(said, next=hidden))
    smuggled = Message(content, FIRST_NODE, "train.release")
    assert leaks(run, [smuggled])["released values of 3"] >= 20


def test_a_row_sent_as_bytes_would_be_found(run):
    row = consortium_of(run.config).enterprises[4].train.numeric[3]
    smuggled = Message(
        RecordDict({REPLY: ConfigRecord({"message": b"123" + row.tobytes()})}),
        FIRST_NODE,
        "train.release",
    )
    assert leaks(run, [smuggled])["rows of 4"] > 5


def test_without_masks_the_same_detectors_find_every_enterprise(unmasked):
    agreeing, positions = agreements(unmasked)
    assert agreeing == positions
    assert max(p_values(unmasked).values()) < 1e-100
    found = leaks(unmasked, unmasked.up)
    for enterprise in range(ENTERPRISES):
        packed = [
            unmasked.form.pack(plain)
            for key, _, plain in unmasked.vectors()
            if key[0] == enterprise
        ]
        assert found[f"released values of {enterprise}"] >= len(needles(packed)) > 500


def test_masks_change_what_is_sent_and_not_what_is_summed(run, unmasked):
    def model(recording: Recording) -> object:
        return RunDirectory(Path(recording.config.run.output)).read_record()["model_sha256"]

    assert model(run) == model(unmasked)


# Words: refusals, errors, logs.


def customer_ids(config: RunConfig) -> list[str]:
    table, _ = simulate_customers(config.simulator, config.run.enterprises, config.run.seed)
    return table.column("customer_id").to_pylist()


def customer_words(table: pa.Table) -> set[str]:
    """Ids and sums of money of a table as they would be written, rounded or not.

    Shares and counts are left out: figures of a whole federation may equal them by chance.
    """
    words = set(table.column("customer_id").to_pylist())
    for name in ("spend", "average_order", "future_value"):
        for number in table.column(name).drop_null().to_pylist():
            words |= {repr(number), f"{number:.4f}", f"{number:.2f}"}
    return {word for word in words if len(word) >= 6}


def spoken(words: set[str], texts: Iterable[str]) -> list[str]:
    """Return the words that are in the texts; a number within a longer number is not."""
    text = "\n".join(texts)
    return [
        word
        for word in sorted(words)
        if word in text and re.search(rf"(?<![\d.]){re.escape(word)}(?!\d)", text)
    ]


def refusals(messages: Iterable[Message]) -> list[str]:
    replies = [reply_from_records(message.content) for message in messages]
    return [reply.reason for reply in replies if isinstance(reply, Refusal)]


OWN_LOGS = ("fgcif_flwr.enterprise.enterprise", "fgcif_flwr.privacy.door")
"""Loggers of what runs inside an enterprise; its own log is kept there."""


def fail(
    config: RunConfig, caplog: pytest.LogCaptureFixture, *, refused: bool
) -> tuple[FgcifError, list[str]]:
    """Run a federation that fails; return its error and all that was said outside enterprises.

    ``refused`` tells whether an enterprise may refuse anything on the way.
    """
    up: list[Message] = []
    caplog.set_level(logging.DEBUG)
    grid = MeteredGrid(
        InlineGrid(client_app, ENTERPRISES, flatten(config)),
        lambda message: up.append(message) if message.metadata.reply_to_message_id else None,
    )
    with pytest.raises(FgcifError) as caught:
        run_stages(grid, config)
    write_failure(config, caught.value)
    failure = Path(config.run.output, "failure.json").read_text(encoding="utf-8")
    logged = [
        record.getMessage() + repr(record.exc_text)
        for record in caplog.records
        if record.name not in OWN_LOGS
    ]
    assert bool(refusals(up)) == refused
    raw_texts = [raw(message).decode("latin-1") for message in up]
    return caught.value, [str(caught.value), failure, *refusals(up), *logged, *raw_texts]


def simulated_table(config: RunConfig) -> pa.Table:
    return simulate_customers(config.simulator, config.run.enterprises, config.run.seed)[0]


def at_one(enterprise: int, alter: Callable[[dict[str, np.ndarray]], None]):
    """Tasks.compute, but that the values of one enterprise's updates are altered in round 2."""
    compute = Tasks.compute

    def altered(self, task, arrays):
        values = compute(self, task, arrays)
        if self.rows.name.endswith(f"-{enterprise:02d}") and arrays.get("round") == [2]:
            alter(values)
        return values

    return altered


def _too_large(values: dict[str, np.ndarray]) -> None:
    values["update"][3] = 471181525342.25


def _not_finite(values: dict[str, np.ndarray]) -> None:
    values["loss"][:] = np.nan


def _raises(values: dict[str, np.ndarray]) -> None:
    raise ValueError("471181525342.25")


@pytest.mark.parametrize(
    ("alter", "outcome"),
    [(_too_large, "out_of_range"), (_not_finite, "out_of_range"), (_raises, "failed")],
)
def test_what_fails_at_one_enterprise_is_seen_by_nobody_but_as_a_count(
    tmp_path, caplog, monkeypatch, alter, outcome
):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(Tasks, "compute", at_one(2, alter))
    config = configured(tmp_path)
    recording = recorded(config)
    # Every reply has the known fields and sizes, and none is a refusal.
    assert findings_of_form(recording) == []
    assert refusals(recording.up) == []
    # What left is zeros and the count, under masks that are seen to be on.
    told = np.zeros(recording.layouts[3].size, np.int64)
    told[OUTCOMES.index(outcome)] = 1
    assert np.array_equal(recording.encoded[2, 3], told)
    assert all(not words[:2].any() for key, words in recording.encoded.items() if key != (2, 3))
    masked = next(words for key, words, _ in recording.vectors() if key == (2, 3))
    # P(a masked word is 0 or 1) is 2 x 2^-b for each; two or more by chance in under 1e-7 of runs.
    assert (2 * len(masked) / 2**recording.form.bits) ** 2 < 1e-7
    assert int((masked <= 1).sum()) <= 1
    history = RunDirectory(tmp_path).read_history()
    assert [(row["survivors"], row["dropped"]) for row in history] == [(6, 0), (5, 1), (6, 0)]
    # Its release log has the line that any enterprise's has.
    logs = [
        [
            {key: value for key, value in json.loads(line).items() if key != "time"}
            for line in file.read_text(encoding="utf-8").splitlines()
        ]
        for file in sorted((tmp_path / "releases").glob("*.jsonl"))
    ]
    assert len(logs) == ENTERPRISES
    assert all(log == logs[0] for log in logs)
    assert [line["slot"] for line in logs[2]] == [1, 2, 3, 4, 5]
    said = [record.getMessage() for record in caplog.records if record.name not in OWN_LOGS]
    said += [raw(message).decode("latin-1") for message in recording.up]
    assert any(str({**dict.fromkeys(OUTCOMES, 0), outcome: 1}) in text for text in said)
    assert not any("471181525342" in text for text in said)
    warnings = [
        r.getMessage()
        for r in caplog.records
        if r.name.startswith("fgcif_flwr.federation.") and "zeros" in r.getMessage()
    ]
    assert len(warnings) == 1
    assert "enterprise-" not in warnings[0]


def test_values_out_of_range_end_the_run_with_their_number_and_without_a_value(tmp_path, caplog):
    config = configured(tmp_path, {"secagg.value_bound": 1e-6})
    error, texts = fail(config, caplog, refused=False)
    assert isinstance(error, OutOfRangeError)
    assert "6 of 6 enterprises" in str(error)
    assert spoken(customer_words(simulated_table(config)), texts) == []
    # The bound and no other small number is named.
    assert set(re.findall(r"\d\.?\d*e-\d+", str(error))) == {"1e-06"}


def test_a_value_out_of_its_kind_is_refused_without_the_value(tmp_path, caplog):
    table = simulated_table(configured(tmp_path))
    texts = [None if v is None else repr(v) for v in table.column("spend").to_pylist()]
    texts[7] = "SECRET-4711"
    position = table.column_names.index("spend")
    broken = table.set_column(position, "spend", pa.array(texts, pa.string()))
    pq.write_table(broken, tmp_path / "crm.parquet")
    config = configured(tmp_path / "out", {"data.table": str(tmp_path / "crm.parquet")})
    error, said = fail(config, caplog, refused=True)
    assert isinstance(error, ValueOutOfKindError)
    assert spoken(customer_words(table) | {"SECRET-4711"}, said) == []


def test_an_exception_that_quotes_a_row_stays_in_the_enterprises_own_log(
    tmp_path, caplog, monkeypatch
):
    config = configured(tmp_path, {"run.retries": 1})
    table = simulated_table(config)
    quoted = customer_words(table.slice(0, 5))

    def failing(self, task, arrays):
        raise ValueError(f"cannot use {sorted(quoted)}")

    monkeypatch.setattr(Tasks, "compute", failing)
    error, said = fail(config, caplog, refused=False)
    assert error.exit_code == 31
    assert spoken(customer_words(table), said) == []
    own = [r for r in caplog.records if r.name in OWN_LOGS]
    assert own
    assert spoken(quoted, [str(record.exc_info[1]) for record in own if record.exc_info])


def test_a_clientapp_that_raises_tells_the_coordinator_the_kind_of_error_only(tmp_path):
    replies: list[Message] = []

    def raising(message: Message, context: Context) -> Message:
        raise RuntimeError("customer C-1 spent 815.25")

    config = configured(tmp_path)
    grid = InlineGrid(raising, ENTERPRISES, flatten(config))
    with pytest.raises(CohortError):
        run_stages(MeteredGrid(grid, replies.append), config)
    errors = [message.error for message in replies if message.has_error()]
    assert errors
    assert all("815" not in f"{error.code} {error.reason}" for error in errors)


def test_a_run_that_succeeds_says_nothing_of_a_customer(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    config = configured(tmp_path, {"run.rounds": 1})
    run_stages(InlineGrid(client_app, ENTERPRISES, flatten(config)), config)
    said = [record.getMessage() for record in caplog.records]
    said += [
        file.read_text(encoding="utf-8") for file in sorted((tmp_path / "releases").glob("*.jsonl"))
    ]
    assert len(said) > ENTERPRISES
    assert spoken(customer_words(simulated_table(config)), said) == []


def test_words_of_a_customer_would_be_found(tmp_path):
    table, _ = simulate_customers(SimulatorSection(customers=40), ENTERPRISES, 0)
    words = customer_words(table)
    spend = next(value for value in table.column("spend").to_pylist() if value)
    text = f"row of {table.column('customer_id')[3].as_py()} with spend {spend!r}, refused"
    assert len(spoken(words, [text])) >= 2
