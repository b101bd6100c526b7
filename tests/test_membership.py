"""Splits by keyed hash of the customer id."""

from __future__ import annotations

import hashlib
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgcif_flwr.data.membership import (
    TEST,
    TRAIN,
    VALIDATION,
    customer_ids,
    membership,
    simulation_key,
)
from fgcif_flwr.data.schema import Schema
from fgcif_flwr.errors import ConfigurationError, DataError, MissingColumnError

KEY = simulation_key(0)
IDS = [f"customer-{number}" for number in range(20_000)]


def schema(id_column: str | None) -> Schema:
    return Schema.model_validate(
        {
            "name": "ids",
            "id_column": id_column,
            "features": [{"kind": "boolean", "name": "active"}],
            "targets": [{"kind": "binary", "name": "churn", "positive": "yes"}],
        }
    )


def test_shares_of_the_splits_are_the_fractions_asked_for() -> None:
    splits = membership(IDS, KEY, validation_fraction=0.1, test_fraction=0.2)
    assert splits.dtype == np.uint8
    shares = np.bincount(splits, minlength=3) / len(IDS)
    # Fixed key; a fresh one would be out by 5 standard deviations once in a million.
    for split, share in ((TRAIN, 0.7), (VALIDATION, 0.1), (TEST, 0.2)):
        assert abs(shares[split] - share) < 5 * np.sqrt(share * (1 - share) / len(IDS))


def test_the_split_is_the_documented_hash() -> None:
    digest = hashlib.blake2b(b"42", key=KEY, digest_size=8, person=b"fgcif-split").digest()
    uniform = int.from_bytes(digest, "big") / 2**64
    assert membership(["42"], KEY, 0.0, uniform - 1e-9)[0] == TRAIN
    assert membership(["42"], KEY, 0.0, uniform + 1e-9)[0] == TEST
    assert membership(["42"], KEY, uniform, 1e-9)[0] == VALIDATION


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.text(), max_size=50), st.randoms(use_true_random=False))
def test_a_customer_keeps_its_split_wherever_its_row_stands(ids: list[str], random) -> None:  # type: ignore[no-untyped-def]
    split_of = dict(zip(ids, membership(ids, KEY, 0.2, 0.3), strict=True))
    longer = [*ids, *ids, "another"]
    random.shuffle(longer)
    for identity, split in zip(longer, membership(longer, KEY, 0.2, 0.3), strict=True):
        assert split == split_of.get(identity, split)


def test_a_larger_test_fraction_keeps_every_test_customer() -> None:
    small = membership(IDS, KEY, 0.1, 0.1) == TEST
    large = membership(IDS, KEY, 0.1, 0.2) == TEST
    assert np.all(large[small])


def test_another_key_draws_independent_splits() -> None:
    first = membership(IDS, KEY, 0.0, 0.5) == TEST
    second = membership(IDS, simulation_key(1), 0.0, 0.5) == TEST
    assert abs(np.mean(first == second) - 0.5) < 5 * 0.5 / np.sqrt(len(IDS))


def test_no_ids_have_no_splits() -> None:
    assert membership([], KEY, 0.1, 0.2).shape == (0,)


def test_half_a_million_ids_take_seconds() -> None:
    ids = [str(number) for number in range(500_000)]
    start = time.process_time()
    membership(ids, KEY, 0.1, 0.2)
    # Under 1 s on an idle core; the bound leaves room for slow and shared machines.
    assert time.process_time() - start < 5


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.2), (0.1, -0.2), (0.5, 0.5)])
def test_fractions_that_leave_nothing_to_train_on_are_refused(
    validation: float, test: float
) -> None:
    with pytest.raises(ConfigurationError, match=r"data\.validation_fraction"):
        membership(["1"], KEY, validation, test)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 16"):
        membership(["1"], b"k" * 16, 0.1, 0.2)


def test_simulation_keys_are_32_bytes_and_differ_by_seed() -> None:
    keys = {simulation_key(seed) for seed in range(100)}
    assert len(keys) == 100
    assert {len(key) for key in keys} == {32}


def test_without_an_id_column_row_numbers_are_the_ids() -> None:
    assert customer_ids(pa.table({"churn": ["no", "yes"]}), schema(None)) == ["0", "1"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([12346, 7]),
        pa.array([12346.0, 7.0]),
        pa.array(["12346", " 7 "]),
        pa.array(["12346.0", "7.0"]),
        pa.array(["12346", "7"]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_an_id_is_the_same_text_however_it_was_stored(column: pa.Array) -> None:
    assert customer_ids(pa.table({"id": column}), schema("id")) == ["12346", "7"]


@pytest.mark.parametrize("absent", [None, "", "NA"])
def test_rows_without_an_id_are_counted_and_refused(absent: str | None) -> None:
    table = pa.table({"id": ["secret-1", absent, absent]})
    with pytest.raises(DataError, match="column id: 2 of 3 rows have no id") as refusal:
        customer_ids(table, schema("id"))
    assert "secret" not in str(refusal.value)


def test_rows_that_repeat_an_id_are_counted_and_refused() -> None:
    with pytest.raises(DataError, match="column id: 2 of 3 rows repeat an id") as refusal:
        customer_ids(pa.table({"id": ["secret-1"] * 3}), schema("id"))
    assert "secret" not in str(refusal.value)


def test_a_table_without_the_id_column_is_refused() -> None:
    with pytest.raises(MissingColumnError, match="customer"):
        customer_ids(pa.table({"other": [1]}), schema("customer"))
