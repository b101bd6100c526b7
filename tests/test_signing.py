"""The coordinator's signature on a request: who it is for, when, and of what."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from fgcif_flwr.errors import AuthenticationError
from fgcif_flwr.federation.records import REQUEST, request_to_records, sign_request, signature_in
from fgcif_flwr.federation.requests import Release, message_type
from fgcif_flwr.federation.signing import Signer
from fgcif_flwr.federation.task_input import input_hash
from fgcif_flwr.secagg import wire
from fgcif_flwr.secagg.keys import identity_from_seed
from fgcif_flwr.secagg.messages import AdvertiseRequest
from tests.some_messages import RELEASE

COORDINATOR = identity_from_seed(os.urandom(32))
REQUESTED = RELEASE.request
MESSAGE, HASHED = wire.encode(REQUESTED), input_hash({"model": np.zeros(3, np.float32)})


def test_a_signed_request_is_taken_for_the_coordinators_own():
    signature = Signer(COORDINATOR).sign("acme", "train.release", MESSAGE, HASHED)
    signature.verify(COORDINATOR.public, "train.release", MESSAGE, HASHED)


@pytest.mark.parametrize(
    "changed",
    [
        {"recipient": "another"},
        {"number": 7},
        {"number": -1},
        {"signature": bytes(64)},
        {"signature": b""},
    ],
)
def test_nothing_beside_a_signed_request_can_be_changed(changed):
    signature = Signer(COORDINATOR).sign("acme", "train.release", MESSAGE, HASHED)
    with pytest.raises(AuthenticationError):
        replace(signature, **changed).verify(COORDINATOR.public, "train.release", MESSAGE, HASHED)


@pytest.mark.parametrize(
    ("kind", "message", "hashed"),
    [
        ("query.advertise", MESSAGE, HASHED),
        ("train.release", MESSAGE + b"\0", HASHED),
        ("train.release", MESSAGE, input_hash({"model": np.ones(3, np.float32)})),
    ],
)
def test_neither_kind_nor_bytes_nor_input_of_a_signed_request_can_be_changed(kind, message, hashed):
    signature = Signer(COORDINATOR).sign("acme", "train.release", MESSAGE, HASHED)
    with pytest.raises(AuthenticationError):
        signature.verify(COORDINATOR.public, kind, message, hashed)


def test_another_key_signs_for_nobody():
    signature = Signer(identity_from_seed(os.urandom(32))).sign("acme", "k", MESSAGE, HASHED)
    with pytest.raises(AuthenticationError, match="pinned key"):
        signature.verify(COORDINATOR.public, "k", MESSAGE, HASHED)


def test_numbers_grow_though_the_clock_stands_still_or_goes_back():
    times = iter([5, 5, 3, 9])
    signer = Signer(COORDINATOR, clock=lambda: next(times))
    numbers = [signer.sign("acme", "k", MESSAGE, HASHED).number for _ in range(4)]
    assert numbers == [5, 6, 7, 9]


def test_the_signature_travels_beside_the_request():
    request = AdvertiseRequest(1)
    records, kind = request_to_records(request), message_type(request)
    assert signature_in(records) is None
    sign_request(records, kind, Signer(COORDINATOR), "acme")
    signature = signature_in(records)
    assert signature is not None
    signature.verify(COORDINATOR.public, kind, wire.encode(request), input_hash({}))


@pytest.mark.parametrize("key", ["recipient", "number", "signature"])
def test_half_a_signature_is_none(key):
    records = request_to_records(Release(REQUESTED, {}))
    sign_request(records, "train.release", Signer(COORDINATOR), "acme")
    del records.config_records[REQUEST][key]
    assert signature_in(records) is None
