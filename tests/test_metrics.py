"""Metrics from sums of counts, against the same metrics computed from all rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as exact

from fgcif_flwr.data.encoding import Head
from fgcif_flwr.errors import RunFailedError
from fgcif_flwr.models.metrics import (
    SCORE_BINS,
    count_predictions,
    count_size,
    fractional_size,
    metrics_from_counts,
    score_bins,
)
from fgcif_flwr.models.numeric_counts import (
    FRACTIONS,
    PREDICTED_BINS,
    TRUE_BINS,
    decile_calibration,
)

Array = np.ndarray[Any, Any]

BINARY = Head("churn", "binary", 1, ("no", "yes"))
CATEGORICAL = Head("segment", "categorical", 4, ("a", "b", "c", "d"))
NUMERIC = Head("value", "numeric", 1, ())
FEW_CLASSES = Head("colour", "categorical", 3, ("a", "b", "c"))
HEADS = (BINARY, CATEGORICAL, NUMERIC)


def metrics(head: Head, outputs: Any, targets: Any) -> dict[str, float]:
    return metrics_from_counts(head, count_predictions(head, np.array(outputs), np.array(targets)))


def drawn_rows(head: Head, rows: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Outputs and targets with about a tenth of the targets missing."""
    missing = rng.random(rows) < 0.1
    if head.kind == "binary":
        targets = np.where(missing, np.nan, rng.integers(0, 2, rows)).astype(np.float32)
        return rng.normal(0, 3, (rows, 1)).astype(np.float32), targets
    if head.kind == "categorical":
        return rng.normal(size=(rows, 4)), np.where(missing, -1, rng.integers(0, 4, rows))
    return rng.normal(0.5, 0.5, (rows, 1)), np.where(missing, np.nan, rng.random(rows))


def test_bin_edge_100_is_exactly_probability_one_half() -> None:
    smallest = np.nextafter(0.0, 1.0)
    assert score_bins([-smallest, -0.0, 0.0, smallest]).tolist() == [99, 100, 100, 100]
    assert score_bins(np.float32([-1e-30, 1e-30])).tolist() == [99, 100]


def test_bins_are_uniform_in_the_logit_and_the_outer_ones_take_all_beyond() -> None:
    middles = -8 + 0.08 * (np.arange(SCORE_BINS) + 0.5)
    assert score_bins(middles).tolist() == list(range(SCORE_BINS))
    assert score_bins([-1e30, -8.5, -8.0, 8.0, 8.5, 1e30]).tolist() == [0, 0, 0, 199, 199, 199]


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.sampled_from(HEADS), st.integers(0, 200), st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_counts_of_all_rows_are_the_sum_of_the_enterprises_counts(
    head: Head, rows: int, cut: int, seed: int
) -> None:
    outputs, targets = drawn_rows(head, rows, np.random.default_rng(seed))
    whole = count_predictions(head, outputs, targets)
    parts = count_predictions(head, outputs[:cut], targets[:cut]) + count_predictions(
        head, outputs[cut:], targets[cut:]
    )
    np.testing.assert_allclose(whole, parts, rtol=1e-12)
    if head.kind != "numeric":
        np.testing.assert_array_equal(whole, parts)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.sampled_from(HEADS), st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_every_entry_lies_between_zero_and_its_public_bound(
    head: Head, rows: int, seed: int
) -> None:
    outputs, targets = drawn_rows(head, rows, np.random.default_rng(seed))
    counts = count_predictions(head, outputs * 100, targets)
    assert counts.shape == (count_size(head),)
    assert counts.dtype == np.float64
    assert np.all((counts >= 0) & (counts <= rows))


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.kind)
def test_rows_with_missing_target_do_not_count(head: Head) -> None:
    outputs, targets = drawn_rows(head, 300, np.random.default_rng(1))
    known = targets >= 0
    assert 0 < known.sum() < 300
    counts = count_predictions(head, outputs, targets)
    np.testing.assert_array_equal(counts, count_predictions(head, outputs[known], targets[known]))
    assert metrics_from_counts(head, counts)["rows"] == known.sum()


@pytest.mark.parametrize("head", [BINARY, NUMERIC], ids=lambda head: head.kind)
def test_one_output_may_be_a_column_or_flat(head: Head) -> None:
    outputs, targets = drawn_rows(head, 50, np.random.default_rng(2))
    np.testing.assert_array_equal(
        count_predictions(head, outputs, targets), count_predictions(head, outputs[:, 0], targets)
    )


def calibrated(base: float, spread: float) -> Callable[[np.random.Generator], tuple[Array, Array]]:
    """Logits around ``base``; labels come out as often as the logits say."""

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        logits = base + spread * rng.standard_normal(20_000)
        return logits, (rng.random(20_000) < 1 / (1 + np.exp(-logits))).astype(np.float64)

    return draw


def separated(
    base: float, spread: float, distance: float, positives: float
) -> Callable[[np.random.Generator], tuple[Array, Array]]:
    """Two normal distributions ``distance`` standard deviations apart, calibrated or not."""

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        labels = (rng.random(20_000) < positives).astype(np.float64)
        return base + spread * (rng.standard_normal(20_000) + distance * labels), labels

    return draw


@settings(deadline=None, max_examples=5, derandomize=True)
@given(st.integers(0, 2**32 - 1))
@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(calibrated(0.0, 1.5), id="calibrated, balanced"),
        pytest.param(calibrated(-2.9, 1.5), id="calibrated, about 10 % positives"),
        pytest.param(calibrated(-2.2, 0.4), id="calibrated, concentrated at the base rate"),
        pytest.param(separated(-0.2, 0.4, 1.2, 0.5), id="concentrated, underconfident"),
        pytest.param(separated(-2.2, 0.4, 1.2, 0.1), id="concentrated, 10 % positives"),
        pytest.param(separated(0.0, 1.0, 0.0, 0.3), id="no better than chance"),
        pytest.param(separated(0.0, 1.0, -0.5, 0.3), id="worse than chance"),
        pytest.param(separated(3.0, 1.0, 1.0, 0.1), id="far off the base rate"),
        pytest.param(separated(-6.0, 3.0, 3.0, 0.1), id="strong, many beyond the outer bins"),
    ],
)
def test_auc_from_bins_is_within_two_thousandths_of_the_exact_auc(
    draw: Callable[[np.random.Generator], tuple[Array, Array]], seed: int
) -> None:
    logits, labels = draw(np.random.default_rng(seed))
    auc = metrics(BINARY, logits, labels)["auc"]
    assert abs(auc - exact.roc_auc_score(labels, logits)) < 0.002


def test_auc_is_exact_for_scores_in_the_middles_of_bins() -> None:
    rng = np.random.default_rng(3)
    logits = -8 + 0.08 * (rng.integers(0, SCORE_BINS, 500) + 0.5)
    labels = rng.integers(0, 2, 500).astype(float)
    auc = metrics(BINARY, logits, labels)["auc"]
    assert auc == pytest.approx(exact.roc_auc_score(labels, logits), abs=1e-12)


def test_auc_of_a_perfect_a_constant_and_a_reversed_model() -> None:
    labels = [0.0, 0.0, 1.0, 1.0]
    assert metrics(BINARY, [-2, -1, 1, 2], labels)["auc"] == 1.0
    assert metrics(BINARY, [0.3] * 4, labels)["auc"] == 0.5
    assert metrics(BINARY, [2, 1, -1, -2], labels)["auc"] == 0.0


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(1, 200), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_binary_metrics_at_one_half_equal_those_from_all_rows(
    rows: int, positives: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < positives).astype(float)
    logits = rng.normal(labels - 0.5, 1.0)
    predicted = logits >= 0
    found = metrics(BINARY, logits, labels)
    precision, recall, f1, _ = exact.precision_recall_fscore_support(
        labels, predicted, average="binary", zero_division=0.0
    )
    expected = {
        "rows": rows,
        "positives": labels.sum(),
        "accuracy": exact.accuracy_score(labels, predicted),
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_categorical_metrics_equal_those_from_all_rows(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, targets = rng.normal(size=(rows, 4)), rng.integers(0, 4, rows)
    found = metrics(CATEGORICAL, logits, targets)
    predicted = logits.argmax(axis=1)
    assert found == pytest.approx(
        {
            "rows": rows,
            "accuracy": exact.accuracy_score(targets, predicted),
            "macro_f1": exact.f1_score(targets, predicted, average="macro", zero_division=0.0),
            "top3_hit_rate": exact.top_k_accuracy_score(targets, logits, k=3, labels=range(4)),
        }
    )


def test_the_top_three_are_counted_where_there_are_more_classes_than_three() -> None:
    rng = np.random.default_rng(5)
    assert "top3_hit_rate" not in metrics(FEW_CLASSES, rng.normal(size=(9, 3)), [0] * 9)
    # Of equal logits the earlier classes are taken for the likelier ones.
    found = metrics(CATEGORICAL, np.zeros((4, 4)), [0, 1, 2, 3])
    assert found["top3_hit_rate"] == 0.75
    assert metrics(CATEGORICAL, np.zeros((2, 4)), [3, -1])["top3_hit_rate"] == 0.0


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(2, 200), st.integers(0, 2**32 - 1))
def test_numeric_metrics_equal_those_of_the_clipped_predictions(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    outputs, targets = rng.normal(0.5, 0.7, rows), rng.random(rows)
    clipped = np.clip(outputs, 0, 1)
    found = metrics(NUMERIC, outputs, targets)
    expected = {
        "rows": rows,
        "mae": exact.mean_absolute_error(targets, clipped),
        "rmse": exact.root_mean_squared_error(targets, clipped),
        "r2": exact.r2_score(targets, clipped),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def binned(values: Array, bins: int) -> Array:
    return np.minimum(np.floor(values * bins), bins - 1)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(3, 300), st.floats(0.01, 0.5), st.integers(0, 2**32 - 1))
def test_spearman_equals_that_of_the_binned_rows(rows: int, spread: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = np.clip(rng.normal(0.4, spread, rows), 0, 1)
    outputs = targets + rng.normal(0, spread, rows)
    bins = binned(np.clip(outputs, 0, 1), PREDICTED_BINS), binned(targets, TRUE_BINS)
    found = metrics(NUMERIC, outputs, targets)["spearman"]
    if min(len(set(bins[0])), len(set(bins[1]))) < 2:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(stats.spearmanr(*bins).statistic, abs=1e-12)


def test_spearman_of_bins_is_near_that_of_all_rows() -> None:
    rng = np.random.default_rng(6)
    targets = np.clip(rng.normal(0.5, 0.15, 20_000), 0, 1)
    outputs = 0.5 + 0.5 * (targets - 0.5) + rng.normal(0, 0.05, 20_000)
    exact_rank = stats.spearmanr(np.clip(outputs, 0, 1), targets).statistic
    assert metrics(NUMERIC, outputs, targets)["spearman"] == pytest.approx(exact_rank, abs=0.01)
    assert metrics(NUMERIC, -outputs, targets)["spearman"] != pytest.approx(exact_rank, abs=0.5)


def test_deciles_compare_mean_predictions_and_mean_targets() -> None:
    # Ten groups of twenty rows, each within a bin of its own: nothing is divided.
    predicted = np.repeat((np.arange(10) + 0.5) / 10, 20)
    targets = np.repeat(np.linspace(0.1, 0.8, 10), 20)
    order = np.random.default_rng(7).permutation(200)
    counts = count_predictions(NUMERIC, predicted[order], targets[order])
    calibration = decile_calibration(counts)
    np.testing.assert_allclose(calibration[:, 0], predicted[::20])
    np.testing.assert_allclose(calibration[:, 1], targets[::20])
    found = metrics_from_counts(NUMERIC, counts)
    gaps = np.abs(predicted - targets)
    assert found["calibration_gap"] == pytest.approx(gaps.max())
    assert found["decile_1_predicted"] == pytest.approx(0.05)
    assert found["decile_10_true"] == pytest.approx(0.8)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_deciles_are_those_of_the_rows_ordered_by_bin(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets, outputs = rng.random(rows), rng.random(rows) ** 2
    bins = binned(outputs, PREDICTED_BINS).astype(int)
    # Ten copies of each row, alike within a bin: then a tenth of them is a whole number of rows.
    means = np.array(
        [[outputs[bins == b].mean(), targets[bins == b].mean()] for b in np.sort(bins)]
    )
    expected = np.repeat(means, 10, axis=0).reshape(10, rows, 2).mean(axis=1)
    found = decile_calibration(count_predictions(NUMERIC, outputs, targets))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_the_histogram_of_a_numeric_head_is_whole_numbers() -> None:
    rng = np.random.default_rng(8)
    counts = count_predictions(NUMERIC, rng.random(100), rng.random(100))
    assert fractional_size(NUMERIC) == FRACTIONS
    np.testing.assert_array_equal(counts[FRACTIONS:], np.rint(counts[FRACTIONS:]))
    assert counts[FRACTIONS:].sum() == 100
    assert fractional_size(BINARY) == fractional_size(CATEGORICAL) == 0


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.kind)
def test_without_rows_metrics_are_zero_or_undefined_and_nothing_warns(head: Head) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics_from_counts(head, np.zeros(count_size(head)))
    zero = {"rows", "positives", "precision", "recall", "f1", "macro_f1"}
    for name, value in found.items():
        assert value == 0.0 if name in zero else np.isnan(value)
        assert type(value) is (int if name in ("rows", "positives") else float)


def test_metrics_of_one_class_only() -> None:
    found = metrics(BINARY, [-1.0, -2.0], [0.0, 0.0])
    assert (found["accuracy"], found["precision"], found["recall"], found["f1"]) == (1, 0, 0, 0)
    assert np.isnan(found["auc"])


def test_r2_of_a_constant_target_is_undefined() -> None:
    found = metrics(NUMERIC, [0.2, 0.4, 0.3], [0.3] * 3)
    assert np.isnan(found["r2"])
    assert found["mae"] == pytest.approx(0.2 / 3)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.kind)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_diverged_model_is_an_error_that_says_what_to_do(head: Head, value: float) -> None:
    outputs, targets = drawn_rows(head, 10, np.random.default_rng(4))
    outputs[3] = value
    with pytest.raises(RunFailedError, match=r"not finite: lower training\.learning_rate"):
        count_predictions(head, outputs, targets)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.kind)
def test_shapes_that_do_not_fit_the_head_are_refused(head: Head) -> None:
    with pytest.raises(ValueError, match="wants outputs of shape"):
        count_predictions(head, np.zeros((5, head.outputs + 1)), np.zeros(5))
    with pytest.raises(ValueError, match="wants counts of shape"):
        metrics_from_counts(head, np.zeros(count_size(head) + 1))
