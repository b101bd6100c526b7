"""A table becomes a matrix for a network, and the matrix that table again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout, Head
from fgcif_flwr.errors import ConfigurationError, DataError
from fgcif_flwr.generative.columns import columns_of
from fgcif_flwr.generative.marginals.grid import cells_of, grid_codes
from fgcif_flwr.generative.transform import TableTransform
from fgcif_flwr.generative.transform.modes import MODES, modes_of_histogram, modes_of_values
from fgcif_flwr.generative.transform.table_transform import shared_spans
from tests.learnable_tables import LAYOUT, learnable_table

WIDE = FeatureLayout((), ("product",), (40,), (Head("churn", "binary", 1, ("no", "yes")),))


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def histograms(layout: FeatureLayout, table: EncodedTable) -> dict[str, np.ndarray]:
    codes = grid_codes(layout, table)
    return {
        column.name: np.bincount(codes[:, index], minlength=cells).astype(float)
        for index, (column, cells) in enumerate(
            zip(columns_of(layout), cells_of(layout), strict=True)
        )
    }


def of_numbers(values: np.ndarray) -> EncodedTable:
    """A table of :data:`LAYOUT` whose age is ``values``, NaN where missing."""
    rows = len(values)
    missing = np.stack([np.isnan(values), np.zeros(rows, bool)], axis=1)
    numeric = np.stack([np.nan_to_num(values), np.full(rows, 0.5)], axis=1)
    return EncodedTable(
        numeric.astype(np.float32),
        missing.astype(np.float32),
        np.ones((rows, 2), np.int64),
        {
            "churn": np.zeros(rows, np.float32),
            "segment": np.zeros(rows, np.int64),
            "value": np.full(rows, np.nan, np.float32),
        },
    )


def of_products(codes: np.ndarray) -> EncodedTable:
    nothing = np.zeros((len(codes), 0), np.float32)
    churn = np.zeros(len(codes), np.float32)
    return EncodedTable(nothing, nothing, codes[:, None].astype(np.int64), {"churn": churn})


def assert_equal(one: EncodedTable, other: EncodedTable) -> None:
    np.testing.assert_allclose(one.numeric, other.numeric, atol=2e-7)
    np.testing.assert_array_equal(one.missing, other.missing)
    np.testing.assert_array_equal(one.categorical, other.categorical)
    for name, values in other.targets.items():
        assert one.targets[name].dtype == values.dtype
        np.testing.assert_allclose(one.targets[name], values, atol=2e-7)


def tables() -> st.SearchStrategy[EncodedTable]:
    """Tables of :data:`LAYOUT`, of any values that an encoded one can have."""

    def build(rows: int) -> st.SearchStrategy[EncodedTable]:
        unit = st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.25, 1.0])
        column = arrays.arrays(np.float32, rows, elements=unit | st.just(float("nan")))
        codes = st.integers(0, 3)
        return st.builds(
            _table,
            st.tuples(column, column),
            arrays.arrays(np.int64, (rows, 2), elements=codes),
            arrays.arrays(np.float32, rows, elements=st.sampled_from([0.0, 1.0, float("nan")])),
            arrays.arrays(np.int64, rows, elements=st.integers(-1, 2)),
            column,
        )

    return st.integers(1, 60).flatmap(build)


def _table(numbers, codes, churn, segment, value):
    numeric = np.stack(numbers, axis=1)
    missing = np.isnan(numeric)
    return EncodedTable(
        np.where(missing, 0, numeric).astype(np.float32),
        missing.astype(np.float32),
        codes,
        {"churn": churn, "segment": segment, "value": value},
    )


@settings(max_examples=40, deadline=None)
@given(table=tables(), other=tables(), seed=st.integers(0, 2**63 - 1))
def test_a_matrix_gives_its_table_back_also_of_rows_that_the_fit_did_not_see(table, other, seed):
    transform = TableTransform.fit(LAYOUT, table, seed)
    for rows in (table, other):
        assert_equal(transform.inverse(transform.forward(rows, random(seed))), rows)


@settings(max_examples=20, deadline=None)
@given(table=tables(), other=tables())
def test_a_shared_transform_gives_any_table_back(table, other):
    transform = TableTransform.shared(LAYOUT, histograms(LAYOUT, table))
    assert_equal(transform.inverse(transform.forward(other, random())), other)


def test_a_row_is_places_within_one_and_one_cell_a_column():
    table = learnable_table(500)
    transform = TableTransform.fit(LAYOUT, table, 0)
    matrix = transform.forward(table, random())
    assert matrix.shape == (500, transform.width)
    assert matrix.dtype == np.float32
    stop = 0
    for own in transform.spans:
        for span in own:
            assert span.start == stop
            stop = span.stop
            part = matrix[:, span.start : span.stop]
            if span.activation == "tanh":
                assert np.abs(part).max() <= 1
            else:
                np.testing.assert_array_equal(np.sort(part, axis=1)[:, -1], 1)
                np.testing.assert_array_equal(part.sum(axis=1), 1)
    assert stop == transform.width
    assert matrix[:, ~transform.allowed].sum() == 0


def test_values_that_many_rows_have_come_back_exactly_whatever_the_place():
    zeros = random(1).random(400) < 0.6
    table = of_numbers(np.where(zeros, 0.0, random(2).random(400)).astype(np.float32))
    transform = TableTransform.fit(LAYOUT, table, 0)
    matrix = transform.forward(table, random())
    matrix[:, transform.spans[0][0].start] += 0.3  # a network's tanh is never exactly 0
    np.testing.assert_array_equal(transform.inverse(matrix).numeric[zeros, 0], 0.0)


@pytest.mark.parametrize("values", [[0.3], [0.1, 0.9], list(np.arange(12) / 11)])
def test_of_a_column_of_few_values_no_other_is_made(values):
    drawn = random(3).choice(np.array(values, np.float32), 300)
    transform = TableTransform.fit(LAYOUT, of_numbers(drawn), 0)
    noise = random(4).standard_normal((1000, transform.width)).astype(np.float32)
    noise[:, ~transform.allowed] = -np.inf
    made = transform.inverse(noise)
    assert set(made.numeric[:, 0]) == set(np.array(values, np.float32))
    assert not made.missing[:, 0].any()


def test_a_column_that_is_missing_throughout_stays_so():
    transform = TableTransform.fit(LAYOUT, of_numbers(np.full(20, np.nan)), 0)
    noise = random().standard_normal((50, transform.width)).astype(np.float32)
    noise[:, ~transform.allowed] = -np.inf
    assert transform.inverse(noise).missing[:, 0].all()
    assert np.isnan(transform.inverse(noise).targets["value"]).all()


def test_one_row_is_enough_and_none_is_too_few():
    one = learnable_table(1)
    assert_equal(
        TableTransform.fit(LAYOUT, one, 0).inverse(
            TableTransform.fit(LAYOUT, one, 0).forward(one, random())
        ),
        one,
    )
    with pytest.raises(DataError, match="at least one row"):
        TableTransform.fit(LAYOUT, learnable_table(0), 0)


def test_rare_codes_share_a_cell_and_come_back_by_their_frequencies():
    codes = np.concatenate([np.repeat(np.arange(2, 6), 100), np.repeat([10, 20], [30, 10]), [0]])
    transform = TableTransform.fit(WIDE, of_products(codes), 0, max_categories=6)
    assert transform.spans[0][0].size == 6
    many = of_products(np.full(4000, 10))
    back = transform.inverse(transform.forward(many, random()), random(5)).categorical[:, 0]
    assert set(back) == {10, 20}
    # 3 in 4 are expected: 6 standard deviations, a false alarm in 10^9
    assert abs((back == 10).mean() - 0.75) < 6 * np.sqrt(0.75 * 0.25 / 4000)
    assert_equal(
        transform.inverse(transform.forward(of_products(codes[:400]), random())),
        of_products(codes[:400]),
    )


def test_missing_never_shares_a_cell():
    codes = np.concatenate([np.repeat(np.arange(2, 40), 10), [0]])
    transform = TableTransform.fit(WIDE, of_products(codes), 0, max_categories=4)
    back = transform.inverse(transform.forward(of_products(codes), random()))
    np.testing.assert_array_equal(back.categorical[:, 0] == 0, codes == 0)


def test_a_class_never_shares_a_cell():
    transform = TableTransform.fit(LAYOUT, learnable_table(200), 0, max_categories=3)
    churn, segment = transform.spans[-3], transform.spans[-2]
    assert (churn[0].size, segment[0].size) == (3, 4)


def test_a_cap_below_three_is_refused():
    with pytest.raises(ConfigurationError, match="at least 3"):
        TableTransform.fit(LAYOUT, learnable_table(5), 0, max_categories=2)


def test_the_width_of_a_shared_transform_follows_from_the_layout():
    for seed in (0, 1):
        given = histograms(LAYOUT, learnable_table(100, seed))
        transform = TableTransform.shared(LAYOUT, given)
        assert transform.spans == shared_spans(LAYOUT)
    nothing = {name: np.zeros_like(values) for name, values in given.items()}
    empty = TableTransform.shared(LAYOUT, nothing)
    assert empty.spans == shared_spans(LAYOUT)
    assert all(empty.allowed[s[-1].start : s[-1].stop].any() for s in empty.spans)


def test_a_shared_transform_forbids_what_no_histogram_has():
    given = histograms(LAYOUT, of_numbers(random().random(100)))
    transform = TableTransform.shared(LAYOUT, given)
    missing_age = transform.spans[0][-1].start
    assert not transform.allowed[missing_age]
    plan = transform.spans[2][0]
    np.testing.assert_array_equal(
        transform.allowed[plan.start : plan.stop], [False, True, False, False]
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.pop("age"),
        lambda h: h.update(age=np.ones(1)),
        lambda h: h.update(plan=np.ones(5)),
        lambda h: h.update(plan=np.array([1.0, -1, 1, 1])),
        lambda h: h.update(age=np.full(65, np.nan)),
    ],
)
def test_malformed_histograms_are_refused(change):
    given = histograms(LAYOUT, learnable_table(50))
    change(given)
    with pytest.raises(ConfigurationError, match=r"age|plan"):
        TableTransform.shared(LAYOUT, given)


def test_modes_find_groups_of_values():
    values = np.concatenate(
        [random(6).normal(0.2, 0.02, 600), random(7).normal(0.8, 0.05, 400)]
    ).clip(0, 1)
    cells = np.bincount((values * 64).astype(int).clip(0, 63), minlength=64).astype(float)
    for modes in (modes_of_values(values, 0), modes_of_histogram(cells)):
        near = np.abs(modes.means - 0.2) < 0.1
        assert modes.weights[near].sum() == pytest.approx(0.6, abs=0.03)
        squared = modes.deviations[near] ** 2 + (modes.means[near] - 0.2) ** 2
        whole = np.sqrt(np.average(squared, weights=modes.weights[near]))
        assert 0.015 < whole < 0.03
        far = np.abs(modes.means - 0.8) < 0.2
        assert modes.weights[near | far].sum() == pytest.approx(1, abs=0.01)


def test_a_histogram_has_a_fixed_number_of_modes_on_a_coarse_grid():
    modes = modes_of_histogram(random().random(64))
    assert len(modes.means) == len(modes.weights) == len(modes.deviations) == MODES
    for values in (modes.means, modes.weights, modes.deviations):
        np.testing.assert_array_equal(values * 4096, np.round(values * 4096))


def test_arrays_give_the_same_transform_back():
    table = learnable_table(300)
    for transform in (
        TableTransform.fit(LAYOUT, table, 0),
        TableTransform.shared(LAYOUT, histograms(LAYOUT, table)),
    ):
        stored = transform.arrays()
        assert {a.dtype for a in stored.values()} <= {np.dtype("f4"), np.dtype("i8")}
        assert all(array.ndim == 1 for array in stored.values())
        again = TableTransform.from_arrays(LAYOUT, stored)
        np.testing.assert_array_equal(
            again.forward(table, random()), transform.forward(table, random())
        )
        np.testing.assert_array_equal(again.allowed, transform.allowed)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.pop("transform.0.centres"),
        lambda a: a.update({"transform.0.reaches": np.zeros(2, np.float32)}),
        lambda a: a.update({"transform.0.mass": a["transform.0.mass"][1:]}),
        lambda a: a.update({"transform.0.mass": a["transform.0.mass"].astype(np.float64)}),
        lambda a: a.update({"transform.2.kept": np.array([0, 1, 9], np.int64)}),
        lambda a: a.update({"transform.2.counts": np.full(4, np.nan, np.float32)}),
    ],
)
def test_arrays_of_no_transform_are_refused(change):
    stored = TableTransform.fit(LAYOUT, learnable_table(60), 0).arrays()
    change(stored)
    with pytest.raises(DataError):
        TableTransform.from_arrays(LAYOUT, stored)
