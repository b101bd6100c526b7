"""What leaves an enterprise shows nothing of its customers: not in a message, a refusal or a log.

Every message of a run is recorded, and beside it what each enterprise computed before the door
masked it. The same detectors are then run with the masks taken away, and must find everything.

Keys and masks come from the operating system, so the statistical tests below are fresh draws in
every run; each states its false-alarm rate, and all together alarm falsely in less than one run
in 100,000.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from scipy.stats import chisquare, norm

from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.enterprise.tasks import Tasks
from fgcif_flwr.federation.records import (
    REPLY,
    reply_to_records,
)
from fgcif_flwr.federation.releases import TRAIN
from fgcif_flwr.privacy.outcomes import OUTCOMES
from fgcif_flwr.reporting.run_directory import RunDirectory
from fgcif_flwr.secagg import (
    Released,
    masking,
)
from tests.federation_rig import FIRST_NODE, slot_of
from tests.recorded_run import (
    ENTERPRISES,
    NEEDLE_BYTES,
    Recording,
    configured,
    customer_ids,
    leaks,
    needles,
    pieces,
    plaintext_of,
    raw,
    recorded,
    rows_of,
    training_requests,
    windows,
)

torch.set_num_threads(1)


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
    # Uniform words agree with the plain ones with probability 2^-b each; three or more agreements
    # have a probability below the cube of their expected number: under 1e-5.
    agreeing, positions = agreements(run)
    assert positions > 40_000
    assert (positions / 2**run.form.bits) ** 3 < 1e-5
    assert agreeing <= 2


def test_masked_words_look_uniform_and_their_bits_are_independent_of_the_plain_bits(run):
    # Two tests, each with a false-alarm rate of 1e-6.
    assert min(p_values(run).values()) > 1e-6


def test_no_two_enterprises_or_slots_share_a_mask(run):
    # A mask used twice would show as the difference of two plain vectors. Chance agreement of
    # any pair in three positions or more: pairs x (words x 2^-b)^3, under 1e-5.
    masks = [(masked - plain) & run.form.mask for _, masked, plain in run.vectors()]
    pairs = 0
    for i, one in enumerate(masks):
        for other in masks[:i]:
            size = min(len(one), len(other))
            assert int((one[:size] == other[:size]).sum()) <= 2
            pairs += 1
    largest = max(len(mask) for mask in masks)
    assert pairs * (largest / 2**run.form.bits) ** 3 < 1e-5


def test_the_recorded_updates_are_those_that_the_rows_give(run):
    layout = consortium_of(run.config).layout
    for enterprise, rows in enumerate(consortium_of(run.config).enterprises):
        for message, inputs in training_requests(run, enterprise):
            slot = slot_of(message)
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
