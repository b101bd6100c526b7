"""One row's part of the counts is bounded, and noisy sums of such parts tell what they can."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from fgcif_flwr.data.encoding import Head
from fgcif_flwr.models.metrics import count_predictions, count_size, metrics_from_counts
from fgcif_flwr.models.numeric_counts import FRACTIONS, PREDICTED_BINS, TRUE_BINS
from fgcif_flwr.models.row_counts import (
    counts_from_sum,
    nearest_histogram,
    row_count_size,
    row_counts,
)

Array = np.ndarray[Any, Any]

BINARY = Head("churn", "binary", 1, ("no", "yes"))
THREE = Head("colour", "categorical", 3, ("a", "b", "c"))
FIVE = Head("category", "categorical", 5, ("a", "b", "c", "d", "e"))
NUMERIC = Head("value", "numeric", 1, ())
HEADS = (BINARY, THREE, FIVE, NUMERIC)


def drawn_rows(head: Head, rows: int, seed: int, spread: float = 0.3) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    missing = rng.random(rows) < 0.1
    outputs = rng.normal(0.5, spread, (rows, head.outputs))
    if head.kind == "categorical":
        return outputs, np.where(missing, -1, rng.integers(0, head.outputs, rows))
    if head.kind == "binary":
        return outputs, np.where(missing, np.nan, rng.integers(0, 2, rows))
    targets = outputs[:, 0] + rng.normal(0, spread, rows)
    return outputs, np.where(missing, np.nan, targets)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    st.sampled_from(HEADS),
    st.integers(0, 40),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.3, 50.0]),
)
def test_a_rows_part_has_norm_at_most_one(head: Head, rows: int, seed: int, spread: float) -> None:
    outputs, targets = drawn_rows(head, rows, seed, spread)
    parts = row_counts(head, outputs, targets)
    assert parts.shape == (rows, row_count_size(head))
    assert (np.linalg.norm(parts, axis=1) <= 1 + 1e-12).all()
    missing = targets < 0 if head.kind == "categorical" else np.isnan(targets)
    assert not parts[missing].any()
    assert parts[~missing].any(axis=1).all()


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_no_output_and_no_target_breaks_the_bound(head: Head, value: float) -> None:
    outputs, targets = drawn_rows(head, 20, 1)
    outputs[::2] = value
    if head.kind == "numeric":
        targets[::3] = 1e300
    parts = row_counts(head, outputs, targets)
    assert (np.linalg.norm(parts, axis=1) <= 1 + 1e-12).all()


def test_the_bound_of_a_numeric_part_is_reached() -> None:
    part = row_counts(NUMERIC, [[0.0]], np.array([1.0]))
    assert np.linalg.norm(part) == pytest.approx(1)


def test_a_hit_has_the_largest_part_of_a_categorical_head() -> None:
    parts = row_counts(FIVE, np.array([[5.0, 4, 3, 2, 1]] * 2), np.array([2, 4]))
    assert np.linalg.norm(parts, axis=1) == pytest.approx([1, 1 / np.sqrt(1.25)])


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
def test_without_noise_the_sum_gives_the_metrics_of_coarse_bins(head: Head) -> None:
    outputs, targets = drawn_rows(head, 4000, 2)
    counts = counts_from_sum(head, row_counts(head, outputs, targets).sum(axis=0))
    assert counts.shape == (count_size(head),)
    found = metrics_from_counts(head, counts)
    clear = metrics_from_counts(head, count_predictions(head, outputs, targets))
    assert found.keys() == clear.keys()
    for name, value in found.items():
        # Half a coarse bin of the prediction is 1/32 of the range.
        coarse = 0.04 if name.startswith("decile") else 0.02
        assert value == pytest.approx(clear[name], abs=coarse), name


def test_noise_of_a_usual_size_leaves_the_figures_of_a_numeric_head() -> None:
    outputs, targets = drawn_rows(NUMERIC, 10_000, 3, spread=0.15)
    clear = metrics_from_counts(NUMERIC, count_predictions(NUMERIC, outputs, targets))
    total = row_counts(NUMERIC, outputs, targets).sum(axis=0)
    rng = np.random.default_rng(4)
    correlations = []
    for _ in range(40):
        noisy = counts_from_sum(NUMERIC, total + rng.normal(0, 5, total.shape))
        found = metrics_from_counts(NUMERIC, noisy)
        assert found["spearman"] == pytest.approx(clear["spearman"], abs=0.15)
        correlations.append(found["spearman"])
        assert found["mae"] == pytest.approx(clear["mae"], abs=0.01)
        assert found["calibration_gap"] == pytest.approx(clear["calibration_gap"], abs=0.15)
    # Not diluted: cutting noisy cells at zero would give 0.60 in place of 0.68.
    assert np.mean(correlations) == pytest.approx(clear["spearman"], abs=0.03)


def test_the_margins_of_a_noisy_histogram_have_no_negative_count() -> None:
    rng = np.random.default_rng(6)
    for rows in (0.0, 3.0, 500.0):
        total = np.append(rows / np.sqrt(7), rng.normal(0, 20, row_count_size(NUMERIC) - 1))
        counts = counts_from_sum(NUMERIC, total)
        joint = counts[FRACTIONS:].reshape(PREDICTED_BINS, TRUE_BINS)
        for axis in (0, 1):
            assert joint.sum(axis=axis).min() >= -1e-9
        assert joint.sum() == pytest.approx(rows, abs=1e-6)


def test_noise_alone_correlates_nothing_and_raises_nothing() -> None:
    rng = np.random.default_rng(5)
    for head in HEADS:
        for _ in range(50):
            total = rng.normal(0, 20, row_count_size(head))
            found = metrics_from_counts(head, counts_from_sum(head, total))
            assert not np.isinf(list(found.values())).any()
    correlations = [
        metrics_from_counts(
            NUMERIC, counts_from_sum(NUMERIC, np.append(500.0, rng.normal(0, 20, 148)))
        )["spearman"]
        for _ in range(200)
    ]
    assert abs(np.nanmean(correlations)) < 0.05


def test_the_hit_rate_under_noise_is_at_most_one() -> None:
    total = np.zeros(row_count_size(FIVE))
    total[0], total[-1] = 10.0, 400.0
    assert metrics_from_counts(FIVE, counts_from_sum(FIVE, total))["top3_hit_rate"] == 1.0


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(1, 8), st.floats(0.1, 50), st.integers(0, 2**32 - 1))
def test_the_nearest_histogram_is_the_least_squares_one(
    cells: int, total: float, seed: int
) -> None:
    noisy = np.random.default_rng(seed).normal(2, 10, cells)
    found = nearest_histogram(noisy, total)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(total)
    solved = optimize.minimize(
        lambda x: ((x - noisy) ** 2).sum(),
        np.full(cells, total / cells),
        jac=lambda x: 2 * (x - noisy),
        bounds=[(0, None)] * cells,
        constraints={"type": "eq", "fun": lambda x: x.sum() - total},
        method="SLSQP",
    )
    assert ((found - noisy) ** 2).sum() <= solved.fun + 1e-4


def test_no_rows_are_an_empty_histogram() -> None:
    assert not nearest_histogram(np.array([3.0, -1.0]), 0.0).any()
    assert nearest_histogram(np.array([1e6, -1.0]), 1e-20).min() >= 0
