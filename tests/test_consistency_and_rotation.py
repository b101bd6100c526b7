"""The consistency exchange, and rotated updates, change nothing that they should not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Context, Message

from client_app.app import app as client_app
from fgcif_flwr.errors import (
    SecureSumError,
)
from fgcif_flwr.federation.records import (
    reply_from_records,
)
from fgcif_flwr.secagg import (
    Consent,
)
from tests.federation_rig import (
    Finished,
    configured,
    federate,
    node,
    records_of,
    slot_of,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return federate(configured(tmp_path_factory.mktemp("baseline")))


def test_the_consistency_exchange_costs_one_exchange_a_slot_and_changes_no_model(
    baseline, tmp_path
):
    consented: list[int] = []

    def seen(message: Message) -> bool:
        if message.metadata.message_type == "query.consent":
            consented.append(slot_of(message))
        return False

    run = federate(configured(tmp_path, {"secagg.consistency": True}), lose_before=seen)
    assert run.sha256 == baseline.sha256
    assert run.record["metrics"] == baseline.record["metrics"]
    assert run.record["communication"]["exchanges"] == 3 + 5 * 3
    assert consented == [slot for slot in (1, 2, 3, 4, 5) for _ in range(6)]


def test_fewer_consents_than_the_quorum_fail_the_slot_and_it_is_tried_again(tmp_path):
    # Of six with one colluder, four must sign the same list.
    def silent(message: Message) -> bool:
        return (
            message.metadata.message_type == "query.consent"
            and slot_of(message) == 3
            and message.metadata.dst_node_id in (node(0), node(1), node(2))
        )

    settings = {"secagg.consistency": True}
    run = federate(configured(tmp_path, settings), lose_before=silent)
    assert [row["slot"] for row in run.history] == [2, 4, 5]
    with pytest.raises(SecureSumError, match=r"3 enterprises consented .*; 4 are needed"):
        federate(configured(tmp_path / "no", {**settings, "run.retries": 0}), lose_before=silent)


def test_a_forged_consent_is_left_out_and_the_others_are_enough(tmp_path):
    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        said = reply_from_records(reply.content)
        if isinstance(said, Consent) and message.metadata.dst_node_id == node(1):
            return Message(records_of(replace(said, signature=bytes(64))), reply_to=message)
        return reply

    run = federate(configured(tmp_path, {"secagg.consistency": True}), app)
    assert [row["survivors"] for row in run.history] == [6, 6, 6]


ROTATED = {"secagg.rotation": True, "secagg.value_bits": 16}


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return federate(configured(tmp_path_factory.mktemp("rotated"), ROTATED))


def test_a_run_with_rotated_updates_trains(baseline, rotated):
    assert rotated.record["status"] == "completed"
    assert np.isfinite(rotated.model).all()
    numbers = [
        value
        for split in rotated.record["metrics"].values()
        for metrics in split.values()
        for value in metrics.values()
    ]
    assert numbers
    assert np.isfinite(numbers).all()
    # It is the model of the run without rotation, but for the rounding.
    assert 0 < np.abs(rotated.model - baseline.model).max() < 0.05


def test_a_run_with_rotated_updates_is_deterministic(rotated, tmp_path):
    again = federate(configured(tmp_path, ROTATED))
    assert again.sha256 == rotated.sha256
    assert again.record["metrics"] == rotated.record["metrics"]
