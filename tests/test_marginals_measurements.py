"""Every customer adds a single 1 to each block, and nothing else decides the blocks' form."""

from __future__ import annotations

import numpy as np
import pytest

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout, Head
from fgcif_flwr.errors import ConfigurationError, SecureSumError
from fgcif_flwr.generative.marginals import MarginalSettings
from fgcif_flwr.generative.marginals.grid import GRID, cells_of, grid_codes
from fgcif_flwr.generative.marginals.learning import Learner
from fgcif_flwr.generative.marginals.measurements import (
    CLIQUES,
    MEASUREMENTS,
    ONE_WAY,
    PAIRS,
    all_pairs,
    blocks,
    check_input,
    class_column,
    input_shapes,
    rows_of,
)
from tests.learnable_tables import CHURN, CHURN_ONLY, LAYOUT, VALUE, learnable_table, with_targets

SETTINGS = MarginalSettings(components=2, steps=2)
LAYOUTS = {
    "three targets": LAYOUT,
    "one target": CHURN_ONLY,
    "numeric target": FeatureLayout(LAYOUT.numeric, LAYOUT.categorical, (4, 6), (VALUE,)),
    "no target": FeatureLayout(LAYOUT.numeric, LAYOUT.categorical, (4, 6), ()),
    "one column": FeatureLayout(("age",), (), (), ()),
    "a target alone": FeatureLayout((), (), (), (CHURN,)),
    "one column and a target": FeatureLayout((), ("plan",), (4,), (CHURN,)),
}


def table_of(layout: FeatureLayout, rows: int, seed: int = 0) -> EncodedTable:
    whole = learnable_table(rows, seed)
    numeric = [LAYOUT.numeric.index(name) for name in layout.numeric]
    categorical = [LAYOUT.categorical.index(name) for name in layout.categorical]
    return EncodedTable(
        whole.numeric[:, numeric],
        whole.missing[:, numeric],
        whole.categorical[:, categorical],
        {head.name: whole.targets[head.name] for head in layout.heads},
    )


def summed(measurement, arrays, layout, table, settings=SETTINGS):
    sums = {name: np.zeros(size) for name, size, _ in blocks(measurement, layout, settings)}
    for chunk in rows_of(measurement, arrays, layout, settings, table):
        for name, rows in chunk.items():
            sums[name] += rows.sum(axis=0, dtype=np.float64)
    return sums


def learnt(layout, table, upto=MEASUREMENTS[-1], deviation=0.0, settings=SETTINGS):
    """A learner that was given the measurements up to one."""
    learner = Learner(layout, settings)
    for measurement in MEASUREMENTS[: MEASUREMENTS.index(upto) + 1]:
        sums = summed(measurement, learner.input(measurement), layout, table, settings)
        learner.add(measurement, sums, dict.fromkeys(sums, deviation))
    return learner


def test_a_number_is_in_the_cell_that_holds_it_and_a_missing_one_in_the_last() -> None:
    layout = FeatureLayout(("x",), (), (), ())
    numbers = np.array([0.0, 1 / 64, 0.5, np.nextafter(np.float32(1), np.float32(0)), 1.0, 0.3])
    missing = np.array([0, 0, 0, 0, 0, 1])
    table = EncodedTable(
        numbers[:, None].astype(np.float32),
        missing[:, None].astype(np.float32),
        np.zeros((6, 0), np.int64),
        {},
    )
    assert cells_of(layout) == (GRID + 1,)
    assert grid_codes(layout, table)[:, 0].tolist() == [0, 1, 32, 63, 63, 64]


def test_targets_are_columns_with_a_code_for_missing() -> None:
    table = learnable_table(3)
    table = with_targets(
        table,
        churn=np.array([0, 1, np.nan], np.float32),
        segment=np.array([-1, 0, 2]),
        value=np.array([np.nan, 0, 1], np.float32),
    )
    assert cells_of(LAYOUT)[-3:] == (3, 4, GRID + 1)
    assert grid_codes(LAYOUT, table)[:, -3:].T.tolist() == [[1, 2, 0], [0, 1, 3], [GRID, 0, 63]]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_customer_has_a_single_one_in_every_block(layout) -> None:
    table = table_of(layout, 300)
    learner = learnt(layout, table)
    for measurement in MEASUREMENTS:
        arrays = learner.input(measurement)
        shapes = {name: (a.dtype.str, len(a)) for name, a in arrays.items()}
        assert shapes == input_shapes(measurement, layout, SETTINGS)
        rows = 0
        for chunk in rows_of(measurement, arrays, layout, SETTINGS, table):
            sizes = {name: values.shape[1] for name, values in chunk.items()}
            assert sizes == {name: size for name, size, _ in blocks(measurement, layout, SETTINGS)}
            for values in chunk.values():
                assert (values.sum(axis=1) == 1).all()
                assert ((values == 0) | (values == 1)).all()
            rows += len(values)
        assert rows == len(table)


def test_the_blocks_hold_the_class_and_then_the_columns() -> None:
    layout = FeatureLayout((), ("a", "b"), (3, 3), (CHURN,))
    table = EncodedTable(
        np.zeros((1, 0), np.float32),
        np.zeros((1, 0), np.float32),
        np.array([[1, 2]]),
        {"churn": np.array([1.0], np.float32)},
    )
    one_way = summed(ONE_WAY, {}, layout, table)
    assert {name: np.flatnonzero(own).tolist() for name, own in one_way.items()} == {
        "column-0": [2 * 3 + 1],
        "column-1": [2 * 3 + 2],
    }
    bins = np.array([0, 1, 2, 0, 0, 1], "<i8")
    pairs = summed(PAIRS, {"bins": bins}, layout, table)
    assert np.flatnonzero(pairs["pair-0-1"]).tolist() == [(2 * 3 + 1) * 3 + 1]
    cliques = {"bins": bins, "pairs": np.array([0, 1], "<i8")}
    assert np.flatnonzero(summed(CLIQUES, cliques, layout, table)["clique-0"]).tolist() == [
        (2 * 3 + 1) * 3 + 1
    ]


def test_a_target_of_many_classes_is_a_column_like_others() -> None:
    many = Head("agent", "categorical", 40, tuple(map(str, range(40))))
    assert class_column(FeatureLayout(("x",), (), (), (many, CHURN))) == 2
    assert class_column(FeatureLayout(("x",), (), (), (many,))) is None


def test_no_row_gives_no_chunk_and_many_rows_small_ones() -> None:
    assert list(rows_of(ONE_WAY, {}, LAYOUT, SETTINGS, learnable_table(0))) == []
    wide = MarginalSettings(clique_bins=64, cliques_per_column=8.0)
    arrays = learnt(LAYOUT, learnable_table(50), PAIRS, settings=wide).input(CLIQUES)
    chunks = list(rows_of(CLIQUES, arrays, LAYOUT, wide, learnable_table(400)))
    assert len(chunks) > 1
    assert all(sum(own.nbytes for own in chunk.values()) <= 1 << 25 for chunk in chunks)


def good_input(measurement: str) -> dict[str, np.ndarray]:
    return {n: a.copy() for n, a in learnt(LAYOUT, learnable_table(50)).input(measurement).items()}


def changed(arrays, name, place, value):
    arrays[name][place] = value
    return arrays


MALFORMED = {
    "nothing": lambda arrays: {},
    "too much": lambda arrays: arrays | {"more": np.zeros(1, "<i8")},
    "too short": lambda arrays: arrays | {"bins": arrays["bins"][1:]},
    "another type": lambda arrays: arrays | {"bins": arrays["bins"].astype("<i4")},
    "two dimensions": lambda arrays: arrays | {"bins": arrays["bins"][None]},
    "a bin below 0": lambda arrays: changed(arrays, "bins", 3, -1),
    "a bin too many": lambda arrays: changed(arrays, "bins", 3, SETTINGS.clique_bins),
    "a bin beyond the codes": lambda arrays: changed(arrays, "bins", 2 * (GRID + 1), 4),
}
WRONG_PAIRS = {
    "a pair twice": [0, 1, 0, 1],
    "a pair turned": [1, 0],
    "a column with itself": [2, 2],
    "no such column": [0, 6],
    "a negative column": [-1, 2],
}


@pytest.mark.parametrize("measurement", [PAIRS, CLIQUES])
@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_input_is_refused_before_a_row_is_counted(measurement, change) -> None:
    check_input(measurement, good_input(measurement), LAYOUT, SETTINGS)
    arrays = change(good_input(measurement))
    with pytest.raises(SecureSumError):
        check_input(measurement, arrays, LAYOUT, SETTINGS)
    with pytest.raises(SecureSumError):
        next(rows_of(measurement, arrays, LAYOUT, SETTINGS, learnable_table(1)))


@pytest.mark.parametrize("pairs", WRONG_PAIRS.values(), ids=WRONG_PAIRS)
def test_pairs_that_are_none_are_refused(pairs) -> None:
    arrays = changed(good_input(CLIQUES), "pairs", slice(len(pairs)), pairs)
    with pytest.raises(SecureSumError):
        check_input(CLIQUES, arrays, LAYOUT, SETTINGS)


def test_the_first_measurement_takes_no_input() -> None:
    check_input(ONE_WAY, {}, LAYOUT, SETTINGS)
    with pytest.raises(SecureSumError):
        check_input(ONE_WAY, {"bins": np.zeros(1, "<i8")}, LAYOUT, SETTINGS)


def test_there_are_no_other_measurements() -> None:
    for function in (blocks, input_shapes):
        with pytest.raises(ValueError, match="none of"):
            function("marginals-all", LAYOUT, SETTINGS)


def test_the_chosen_pairs_are_as_many_as_the_settings_say() -> None:
    few = MarginalSettings(cliques_per_column=0.01)
    assert len(blocks(CLIQUES, LAYOUT, few)) == 1
    all_of_them = MarginalSettings(cliques_per_column=8.0)
    assert len(blocks(CLIQUES, LAYOUT, all_of_them)) == len(all_pairs(LAYOUT)) == 15


@pytest.mark.parametrize(
    "wrong",
    [
        {"shares": (0.5, 0.5, 0.5)},
        {"shares": (0.0, 0.5, 0.5)},
        {"shares": (0.5, 0.5)},
        {"shares": (float("nan"), 0.5, 0.5)},
        {"pair_bins": 1},
        {"pair_bins": 8, "clique_bins": 6},
        {"components": 0},
        {"steps": 0},
        {"seed": -1},
        {"cliques_per_column": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ConfigurationError):
        MarginalSettings(**wrong)
