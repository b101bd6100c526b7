"""Reasons add up to what they explain, and say it in the schema's words."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fgcif_flwr.config import ModelSection
from fgcif_flwr.data.encoding import encode, feature_layout
from fgcif_flwr.errors import RunFailedError
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import load_arrays, named_arrays
from fgcif_flwr.models.reason_words import reason_columns
from fgcif_flwr.models.reasons import (
    attribute,
    mean_baseline,
    neutral_baseline,
    shares,
)
from tests.scored_models import MODEL, SCHEMA, customers, linear, loaded

CHURN = 4
FEATURES = ("recency", "spend", "plan", "town", "newsletter")
STANDARDISED = ModelSection(hidden=(5,), embedding_dim=3, numeric_encoding="standardised")
DEEP = ModelSection(hidden=(6, 5, 4), embedding_dim=1, numeric_bins=2)


def encoded(rows, seed=0):
    return encode(SCHEMA, customers(rows, seed), targets=False)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    st.sampled_from([MODEL, STANDARDISED, DEEP]),
    st.integers(0, 40),
    st.integers(0, 2**16),
    st.integers(0, 5),
)
def test_attributions_add_up_to_the_difference_of_the_outputs(model, rows, seed, output):
    network = loaded(seed, model).network
    data = encoded(rows + 1, seed).take(np.arange(rows))
    found = attribute(network, data, output)
    assert found.features == FEATURES
    assert found.values.shape == (rows, 5)
    np.testing.assert_allclose(
        found.outputs, network.outputs(data)[:, output], rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(found.incompleteness, 0, atol=1e-7)


def integrated(network, data, steps=4000):
    """Integrated gradients by many small steps, in the trunk's own arithmetic."""
    start = torch.tensor(neutral_baseline(network), dtype=torch.float32)
    inputs = network.prepare(data)
    embedded = functional.embedding(inputs.codes, network.embedding.weight).flatten(1)
    ends = torch.cat([inputs.dense, embedded], dim=1).detach()
    parts = []
    for end in ends:
        middles = (torch.arange(steps) + 0.5) / steps
        path = (start + middles[:, None] * (end - start)).requires_grad_()
        hidden = path
        for layer in network.trunk:
            hidden = torch.relu(layer(hidden))
        (slope,) = torch.autograd.grad(network.heads(hidden)[:, CHURN].sum(), path)
        parts.append((slope.mean(dim=0) * (end - start)).numpy())
    return by_feature(network.config, np.array(parts))


def by_feature(model, terms):
    """Add up the terms of the trunk's inputs by feature, in the order of FEATURES."""
    bins, width = (model.numeric_bins, model.embedding_dim)
    bins = bins if model.numeric_encoding == "piecewise-linear" else 1
    first = 2 * bins + 2
    numbers = [
        terms[:, i * bins : (i + 1) * bins].sum(axis=1) + terms[:, 2 * bins + i] for i in (0, 1)
    ]
    words = [terms[:, first + i * width : first + (i + 1) * width].sum(axis=1) for i in range(3)]
    return np.stack([*numbers, *words], axis=1)


@pytest.mark.parametrize(("model", "near"), [(STANDARDISED, 1e-3), (MODEL, 0.02), (DEEP, 0.02)])
def test_attributions_are_integrated_gradients(model, near):
    network = loaded(4, model).network
    data = encoded(12)
    expected = integrated(network, data)
    found = attribute(network, data, CHURN).values
    # Of one hidden layer they are equal; of more the path's pieces are short enough.
    assert np.abs(found - expected).max() <= near * np.abs(expected).max()


@pytest.mark.parametrize("model", [MODEL, STANDARDISED], ids=lambda m: m.numeric_encoding)
def test_of_a_linear_network_the_attributions_are_the_terms_of_the_sum(model):
    network = linear(3, model).network
    data = encoded(50)
    arrays = {name: array.astype(float) for name, array in named_arrays(network).items()}
    weights = [arrays[f"trunk.{i}.weight"] for i in range(len(model.hidden))]
    slope = arrays["heads.weight"][CHURN]
    for layer in reversed(weights):
        slope = slope @ layer
    inputs = network.prepare(data)
    codes = arrays["embedding.weight"][inputs.codes.numpy()].reshape(len(data), -1)
    terms = (np.hstack([inputs.dense.numpy(), codes]) - neutral_baseline(network)) * slope
    expected = by_feature(model, terms)
    np.testing.assert_allclose(attribute(network, data, CHURN).values, expected, atol=1e-6)


def test_a_feature_that_the_network_does_not_use_has_no_part():
    network = loaded().network
    arrays = named_arrays(network)
    arrays["trunk.0.weight"][:, 3:6] = 0  # the bins of spend
    arrays["trunk.0.weight"][:, 7] = 0  # and its missing flag
    load_arrays(network, arrays)
    values = attribute(network, encoded(30), CHURN).values
    assert not values[:, 1].any()
    assert values[:, 0].any()


def test_the_baseline_itself_has_no_reasons():
    network = loaded().network
    data = encoded(1)
    found = attribute(network, data, CHURN, mean_baseline(network, data))
    np.testing.assert_allclose(found.values, 0, atol=1e-12)
    assert found.baseline == pytest.approx(found.outputs[0])
    assert not shares(found).any()
    with pytest.raises(ValueError, match="no rows"):
        mean_baseline(network, data.take([]))


def test_the_neutral_baseline_is_the_middle_and_favours_no_word():
    network = loaded().network
    baseline = neutral_baseline(network)
    np.testing.assert_allclose(baseline[:8], [1, 0.5, 0, 1, 0.5, 0, 0, 0])
    table = named_arrays(network)["embedding.weight"].astype(float)
    np.testing.assert_allclose(baseline[8:10], table[2:4].mean(axis=0))  # basic and plus
    np.testing.assert_allclose(baseline[12:], table[16:18].mean(axis=0))  # no and yes


def test_shares_are_of_all_that_moved_the_score():
    found = shares(attribute(loaded().network, encoded(40), CHURN))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found.min() >= 0


def test_a_row_is_explained_alike_in_any_table():
    network, data = loaded().network, encoded(3000)
    whole = attribute(network, data, CHURN).values
    np.testing.assert_allclose(
        attribute(network, data.take([2999, 5]), CHURN).values, whole[[2999, 5]], atol=1e-9
    )


def test_reasons_are_in_the_schemas_words_and_ordered():
    network = loaded().network
    table = customers(400, 3)
    rows = encode(SCHEMA, table, targets=False)
    found = attribute(network, rows, CHURN)
    columns = reason_columns(SCHEMA, rows, found, "churn", 3)
    assert list(columns) == [
        f"reason_{place}{what}" for place in (1, 2, 3) for what in ("", "_share")
    ]
    strengths = [
        np.abs(columns[f"reason_{p}_share"].to_numpy(zero_copy_only=False)) for p in (1, 2, 3)
    ]
    for stronger, weaker in pairwise(strengths):
        assert (np.nan_to_num(stronger) >= np.nan_to_num(weaker)).all()
    texts = columns["reason_1"].to_pylist()
    signs = columns["reason_1_share"].to_pylist()
    strongest = np.abs(found.values).argmax(axis=1)
    days = table["days"].to_pylist()
    for row, text in enumerate(texts):
        assert text.startswith(FEATURES[strongest[row]])
        assert (
            ("raises churn" in text) == (signs[row] > 0) == (found.values[row, strongest[row]] > 0)
        )
        assert text.endswith(f": {100 * abs(signs[row]):.0f} %")
        if strongest[row] == 0 and not np.isnan(days[row]):
            shown = f"{min(max(days[row], 0), 365):.1f}".rstrip("0").rstrip(".")
            assert text.startswith(f"recency = {shown} days (time since the last purchase) ")
    words = " ".join(texts + columns["reason_2"].to_pylist())
    for phrase in (
        "recency missing (time",
        "plan = plus ",
        "plan missing ",
        "newsletter = yes (reads 5 % of it)",
        "town ",
        "spend = ",
    ):
        assert phrase in words, phrase


def test_a_feature_that_hardly_moved_the_score_is_no_reason():
    network = loaded().network
    arrays = named_arrays(network)
    weights = arrays["trunk.0.weight"]
    weights[:, [6, 7]] = 0
    weights[:, 3:6] = 0
    weights[:, 8:] = 0
    load_arrays(network, arrays)  # recency alone is left
    rows = encode(SCHEMA, customers(20), targets=False)
    columns = reason_columns(SCHEMA, rows, attribute(network, rows, CHURN), "churn", 9)
    assert len(columns) == 2 * len(FEATURES)
    assert columns["reason_2"].null_count == columns["reason_2_share"].null_count == 20
    told = [text for text in columns["reason_1"].to_pylist() if text is not None]
    assert told
    assert all(text.endswith(": 100 %") for text in told)


def test_a_diverged_model_is_said_to_be_one():
    network = build_network(feature_layout(SCHEMA), MODEL, seed=1)
    arrays = {name: array * np.float32(1e30) for name, array in named_arrays(network).items()}
    load_arrays(network, arrays)
    with pytest.raises(RunFailedError, match="diverged"):
        attribute(network, encoded(5), CHURN, np.full(len(neutral_baseline(network)), np.inf))


def test_ten_thousand_customers_take_seconds():
    network = loaded(model=ModelSection()).network
    data = encoded(10_000)
    start = time.process_time()
    attribute(network, data, CHURN)
    assert time.process_time() - start < 20  # about 1 s on a free core
