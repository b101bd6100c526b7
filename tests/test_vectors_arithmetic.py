"""Known answers, made apart from this package: what another implementation must agree with."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from fgcif_flwr.secagg.masking import MaskAdder, masked_words
from fgcif_flwr.secagg.shamir import combine, split, weights
from fgcif_flwr.secagg.words import WordFormat

VECTORS = Path(__file__).parent / "vectors"


def cases(name: str) -> list[dict]:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", cases("word_packing"), ids=lambda case: f"{case['bits']} bits")
def test_packed_words(case):
    form = WordFormat(case["value_bits"], case["cohort"], case["noise"])
    assert form.bits == case["bits"]
    signed = np.array(case["signed"], dtype=np.int64)
    words = form.reduce(form.words(signed))
    assert [f"{word:x}" for word in words.tolist()] == case["words"]
    assert form.pack(words).hex() == case["packed"]
    unpacked = form.unpack(bytes.fromhex(case["packed"]), len(signed))
    assert np.array_equal(form.signed(unpacked), signed)


@pytest.mark.parametrize("case", cases("aes_ctr_mask"), ids=lambda case: f"{case['bits']} bits")
def test_masked_vectors(case):
    form = WordFormat(case["value_bits"], case["cohort"])
    assert (form.bits, form.dtype.itemsize) == (case["bits"], case["machine_word_bytes"])
    additions = [bytes.fromhex(key) for key in case["additions"]]
    subtractions = [bytes.fromhex(key) for key in case["subtractions"]]
    encoded = np.array(case["encoded"], dtype=np.int64)
    assert masked_words(encoded, form, additions, subtractions).hex() == case["masked"]
    mask = np.zeros(32 // form.dtype.itemsize, dtype=form.dtype)
    MaskAdder(mask).add([*additions, *subtractions][0])
    assert mask.tobytes().hex() == case["keystream_of_first_key"]


@pytest.mark.parametrize("case", cases("shamir"), ids=lambda case: case["case"])
def test_shared_secrets(case):
    secrets = [bytes.fromhex(secret) for secret in case["secrets"]]
    drawn = io.BytesIO(bytes.fromhex(case["entropy"]))
    shares = split(secrets, case["threshold"], case["points"], drawn.read)
    assert not drawn.read()
    assert [[share.tobytes().hex() for share in row] for row in shares] == case["shares"]
    assert weights(case["combined_points"]).tolist() == case["weights"]
    assert combine(case["combined_points"], shares[-case["threshold"] :]) == secrets
