"""Counts sent as whole words give the same metrics as counts in the clear."""

from __future__ import annotations

import numpy as np
import pytest

from fgcif_flwr.data.encoding import Head
from fgcif_flwr.federation.count_words import from_words, resolution, to_words, words_of
from fgcif_flwr.models.metrics import count_predictions, count_size, metrics_from_counts

HEADS = (
    Head("churn", "binary", 1, ("no", "yes")),
    Head("segment", "categorical", 3, ("a", "b", "c")),
    Head("value", "numeric", 1, ()),
    Head("category", "categorical", 5, ("a", "b", "c", "d", "e")),
)


def counted(head: Head, rows: int, rng: np.random.Generator, spread: float) -> np.ndarray:
    outputs = rng.normal(0.5, spread, (rows, head.outputs))
    if head.kind == "numeric":
        targets = np.clip(outputs[:, 0] + rng.normal(0, 0.005, rows), 0, 1).astype(np.float32)
    else:
        targets = rng.integers(0, max(2, head.outputs), rows)
    return count_predictions(head, outputs.astype(np.float32), targets)


@pytest.mark.parametrize("value_bits", [16, 22, 32])
@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
def test_metrics_of_a_sum_of_words_are_those_of_the_sum(head: Head, value_bits: int):
    rng = np.random.default_rng(3)
    parties = [counted(head, 200, rng, 0.01) for _ in range(50)]
    words = [to_words(head, counts, value_bits) for counts in parties]
    assert all(np.array_equal(word, np.rint(word)) for word in words)
    assert all(word.shape == (words_of(head),) for word in words)
    assert max(float(word.max()) for word in words) <= 2 ** (value_bits - 1) - 1
    total = from_words(head, np.sum(words, axis=0), value_bits)
    exact = np.sum(parties, axis=0)
    error = resolution(value_bits, 50)
    assert np.abs(total - exact).max() <= (error if head.kind == "numeric" else 0)
    clear, sent = metrics_from_counts(head, exact), metrics_from_counts(head, total, error)
    for name, value in clear.items():
        assert sent[name] == pytest.approx(value, rel=0.01, nan_ok=True), name
    assert sent["rows"] == clear["rows"]


def test_a_spread_that_drowns_in_the_rounding_gives_no_r2():
    value = HEADS[2]
    sums = np.zeros(count_size(value))
    sums[:5] = 100.0, 0.1, 0.001, 50.0, 25.0001
    assert np.isfinite(metrics_from_counts(value, sums)["r2"])
    assert np.isnan(metrics_from_counts(value, sums, resolution(8, 50))["r2"])
