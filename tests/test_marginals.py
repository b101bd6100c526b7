"""From sums to rows: what was counted comes back, and noise alone is not taken for more.

Statistical tests draw from fixed seeds; where a figure is compared with a sample's own spread, the
false alarm over seeds is below 10^-6 (five standard deviations).
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import ConfigurationError, DataError
from fgcif_flwr.generative.marginals import MarginalGenerator, MarginalSettings
from fgcif_flwr.generative.marginals.binning import ordered_bins, unordered_bins
from fgcif_flwr.generative.marginals.denoising import nonnegative, segmented
from fgcif_flwr.generative.marginals.density import CellDensity
from fgcif_flwr.generative.marginals.effects import class_effects
from fgcif_flwr.generative.marginals.grid import GRID, cells_of, grid_codes
from fgcif_flwr.generative.marginals.learning import Learner
from fgcif_flwr.generative.marginals.measurements import (
    CLIQUES,
    MEASUREMENTS,
    ONE_WAY,
    PAIRS,
    blocks,
)
from fgcif_flwr.models.baselines import logistic_regression
from tests.learnable_tables import CHURN, CHURN_ONLY, LAYOUT, learnable_table, with_targets
from tests.test_marginals_measurements import LAYOUTS, learnt, summed, table_of

SETTINGS = MarginalSettings(components=16, steps=100)


def noisily(layout, table, noise, seed=0, settings=SETTINGS):
    """A learner that was given all measurements under Gaussian noise.

    ``noise`` is the multiplier of all releases together, each with its share of the budget.
    """
    random = np.random.default_rng(seed)
    learner = Learner(layout, settings)
    for share, measurement in zip(settings.shares, MEASUREMENTS, strict=True):
        sums = summed(measurement, learner.input(measurement), layout, table, settings)
        deviation = noise * math.sqrt(len(sums) / share)
        noisy = {n: own + deviation * random.standard_normal(len(own)) for n, own in sums.items()}
        learner.add(measurement, noisy, dict.fromkeys(sums, deviation))
    return learner


@pytest.fixture(scope="module")
def table() -> EncodedTable:
    return learnable_table(4000)


@pytest.fixture(scope="module")
def learner(table) -> Learner:
    return learnt(LAYOUT, table, settings=SETTINGS)


@pytest.fixture(scope="module")
def generator(learner) -> MarginalGenerator:
    return learner.generator()


def shares(layout, table) -> list[np.ndarray]:
    codes = grid_codes(layout, table)
    return [
        np.bincount(codes[:, i], minlength=cells) / len(table)
        for i, cells in enumerate(cells_of(layout))
    ]


def test_without_noise_every_column_comes_back_as_it_was(table, generator) -> None:
    rows = 40_000
    sampled = generator.sample(rows, np.random.default_rng(0))
    assert len(sampled) == rows
    for before, after in zip(shares(LAYOUT, table), shares(LAYOUT, sampled), strict=True):
        # total variation; a sample of 4000 of 65 cells is itself 0.05 away
        assert np.abs(before - after).sum() / 2 < 0.06


def test_a_model_of_synthetic_rows_predicts_real_ones(table, generator) -> None:
    test = learnable_table(4000, seed=1)
    synthetic = generator.sample(8000, np.random.default_rng(0))
    real = logistic_regression(table, test, LAYOUT)[1].metrics["churn"]["auc"]
    ours = logistic_regression(synthetic, test, LAYOUT)[1].metrics["churn"]["auc"]
    assert real > 0.95
    assert ours > real - 0.02


def test_columns_that_go_together_do_so_in_synthetic_rows(table, generator) -> None:
    sampled = generator.sample(8000, np.random.default_rng(0))

    def correlation(rows: EncodedTable) -> float:
        known = rows.missing[:, 0] == 0
        return float(np.corrcoef(rows.numeric[known, 0], rows.targets["value"][known])[0, 1])

    assert correlation(table) > 0.9
    assert correlation(sampled) > 0.75
    segments = [sampled.targets["churn"][sampled.targets["segment"] == k].mean() for k in (0, 2)]
    assert segments[0] < 0.15
    assert segments[1] > 0.9


def test_under_much_noise_the_columns_are_still_about_right(table) -> None:
    # noise of a multiplier of 4 (about epsilon 1): 30 to 70 customers in a count of 4000
    sampled = noisily(LAYOUT, table, 4.0).generator().sample(20_000, np.random.default_rng(0))
    for before, after in zip(shares(LAYOUT, table), shares(LAYOUT, sampled), strict=True):
        assert np.abs(before - after).sum() / 2 < 0.15


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("noise", [0.0, 1.0, 1e4])
def test_every_layout_and_any_noise_gives_rows(layout, noise) -> None:
    settings = MarginalSettings(components=3, steps=5)
    learner = noisily(layout, table_of(layout, 200), noise, settings=settings)
    sampled = learner.generator().sample(50, np.random.default_rng(0))
    again = grid_codes(layout, sampled)
    assert (again < np.array(cells_of(layout))).all()
    assert np.isfinite(sampled.numeric).all()
    assert not sampled.numeric[sampled.missing > 0].any()


@pytest.mark.parametrize("kind", ["empty", "one row", "one class", "all missing"])
def test_poor_tables_give_rows(kind) -> None:
    table = learnable_table({"empty": 0, "one row": 1}.get(kind, 50))
    if kind == "one class":
        table = with_targets(table, churn=np.ones(50, np.float32))
    if kind == "all missing":
        table = EncodedTable(
            np.zeros_like(table.numeric),
            np.ones_like(table.missing),
            np.zeros_like(table.categorical),
            {
                "churn": np.full(50, np.nan, np.float32),
                "segment": np.full(50, -1),
                "value": np.full(50, np.nan, np.float32),
            },
        )
    sampled = learnt(LAYOUT, table).generator().sample(300, np.random.default_rng(0))
    assert len(sampled) == 300
    if kind == "one class":
        assert (sampled.targets["churn"] == 1).mean() > 0.99
    if kind == "all missing":
        assert sampled.missing.mean() > 0.99
        assert np.isnan(sampled.targets["churn"]).all()


def test_the_same_sums_and_seeds_give_the_same_rows(table) -> None:
    def drawn(seed: int) -> EncodedTable:
        return noisily(LAYOUT, table, 2.0).generator().sample(100, np.random.default_rng(seed))

    one, same, other = drawn(0), drawn(0), drawn(1)
    assert (one.numeric == same.numeric).all()
    assert (one.categorical == same.categorical).all()
    assert (one.numeric != other.numeric).any()


def test_a_generator_that_is_read_back_draws_the_same_rows(generator) -> None:
    arrays = generator.arrays()
    assert all(own.ndim == 1 for own in arrays.values())
    assert {own.dtype.name for own in arrays.values()} <= {"float32", "int64"}
    again = MarginalGenerator.from_arrays(LAYOUT, SETTINGS, arrays)
    one, other = (own.sample(500, np.random.default_rng(3)) for own in (generator, again))
    assert (one.numeric == other.numeric).all()
    assert (one.categorical == other.categorical).all()
    for name in one.targets:
        np.testing.assert_array_equal(one.targets[name], other.targets[name])
    kept = again.arrays()
    assert all((kept[name] == own).all() for name, own in arrays.items())


@pytest.mark.parametrize(
    "broken",
    [
        lambda arrays: {},
        lambda arrays: arrays | {"mixing": arrays["mixing"][1:]},
        lambda arrays: arrays | {"tables-0": -arrays["tables-0"]},
        lambda arrays: arrays | {"tables-0": 0 * arrays["tables-0"]},
        lambda arrays: arrays | {"class-shares": 0 * arrays["class-shares"]},
        lambda arrays: arrays | {"within-1": arrays["within-1"] + np.float32(np.nan)},
        lambda arrays: arrays | {"bins-0": arrays["bins-0"] + 1000},
    ],
)
def test_arrays_of_something_else_are_refused(generator, broken) -> None:
    with pytest.raises(DataError):
        MarginalGenerator.from_arrays(LAYOUT, SETTINGS, broken(generator.arrays()))


@pytest.mark.parametrize(
    ("target", "wanted"),
    [("churn", [0.5, 0.5]), ("churn", [0.0, 1.0]), ("segment", [0.1, 0.1, 0.8])],
)
def test_classes_have_the_proportions_that_are_asked_for(generator, target, wanted) -> None:
    rows = 20_000
    drawn = generator.sample(rows, np.random.default_rng(0), {target: np.array(wanted)})
    for k, share in enumerate(wanted):
        seen = float((drawn.targets[target] == k).mean())
        assert abs(seen - share) <= 5 * math.sqrt(share * (1 - share) / rows)


def test_a_class_that_is_asked_for_has_its_own_columns(table, generator) -> None:
    """Conditioning on one target moves the others as it does in the rows."""
    asked = {"segment": np.array([1.0, 0.0, 0.0])}
    drawn = generator.sample(8000, np.random.default_rng(0), asked)
    low = table.take(table.targets["segment"] == 0)
    assert abs(drawn.targets["churn"].mean() - low.targets["churn"].mean()) < 0.05
    assert abs(drawn.targets["value"].mean() - low.targets["value"].mean()) < 0.05


@pytest.mark.parametrize(
    "classes",
    [
        {"value": np.array([1.0])},
        {"plan": np.full(4, 0.25)},
        {"churn": np.array([1.0])},
        {"churn": np.array([-1.0, 2.0])},
        {"churn": np.array([0.0, 0.0])},
        {"churn": np.array([np.nan, 1.0])},
        {"churn": np.array([0.5, 0.5]), "segment": np.full(3, 1 / 3)},
    ],
)
def test_proportions_that_are_none_are_refused(generator, classes) -> None:
    with pytest.raises(ConfigurationError):
        generator.sample(10, np.random.default_rng(0), classes)


def test_no_rows_can_be_sampled(generator) -> None:
    assert len(generator.sample(0, np.random.default_rng(0))) == 0


def test_histograms_are_clean_and_of_every_column(table) -> None:
    learner = noisily(LAYOUT, table, 2.0)
    histograms = learner.histograms()
    names = (*LAYOUT.numeric, *LAYOUT.categorical, "churn", "segment", "value")
    assert tuple(histograms) == names
    sums = [own.sum() for own in histograms.values()]
    assert [len(own) for own in histograms.values()] == list(cells_of(LAYOUT))
    assert all((own >= 0).all() for own in histograms.values())
    assert np.allclose(sums, sums[0])
    # six columns tell the customers, a deviation of about 2 sqrt(6 / .3) sqrt(3 * 65 / 6) = 51
    assert abs(sums[0] - len(table)) < 5 * 60


def test_a_class_that_nobody_has_is_not_made_up_from_noise() -> None:
    table = learnable_table(4000)
    drawn = noisily(CHURN_ONLY, table, 2.0).generator().sample(5000, np.random.default_rng(0))
    assert not np.isnan(drawn.targets["churn"]).any()


def test_measurements_come_in_turn_and_once() -> None:
    learner = Learner(LAYOUT, SETTINGS)
    with pytest.raises(ValueError, match="wants marginals-one-way"):
        learner.generator()
    with pytest.raises(ValueError, match="not added"):
        learner.histograms()
    with pytest.raises(ValueError, match="comes after"):
        learner.input(PAIRS)
    with pytest.raises(ValueError, match="none of"):
        learner.input("marginals-all")
    whole = learnt(LAYOUT, learnable_table(20), ONE_WAY)
    sums = summed(ONE_WAY, {}, LAYOUT, learnable_table(20))
    with pytest.raises(ValueError, match="before"):
        whole.add(ONE_WAY, sums, dict.fromkeys(sums, 0.0))


@pytest.mark.parametrize("wrong", ["a block less", "a short block", "no number", "no deviation"])
def test_sums_of_another_form_are_refused(wrong) -> None:
    sums = summed(ONE_WAY, {}, LAYOUT, learnable_table(20))
    deviations = dict.fromkeys(sums, 1.0)
    if wrong == "a block less":
        del sums["column-0"]
    if wrong == "a short block":
        sums["column-0"] = sums["column-0"][1:]
    if wrong == "no number":
        sums["column-0"][0] = np.nan
    if wrong == "no deviation":
        deviations["column-0"] = -1.0
    with pytest.raises(ValueError, match="block"):
        Learner(LAYOUT, SETTINGS).add(ONE_WAY, sums, deviations)


def test_a_generator_can_be_had_from_the_first_sums_alone(table) -> None:
    drawn = learnt(LAYOUT, table, ONE_WAY).generator().sample(4000, np.random.default_rng(0))
    assert abs(drawn.targets["churn"].mean() - table.targets["churn"].mean()) < 0.05


def test_the_pairs_that_are_counted_finely_are_those_that_go_together() -> None:
    random = np.random.default_rng(0)
    codes = random.integers(2, 6, (4000, 6))
    codes[:, 4] = codes[:, 1]
    layout = FeatureLayout((), tuple("abcdef"), (6,) * 6, (CHURN,))
    table = EncodedTable(
        np.zeros((4000, 0), np.float32),
        np.zeros((4000, 0), np.float32),
        codes,
        {"churn": random.integers(0, 2, 4000).astype(np.float32)},
    )
    settings = MarginalSettings(cliques_per_column=0.1, components=2, steps=1)
    assert len(blocks(CLIQUES, layout, settings)) == 1
    # a multiplier of 4: the count of a bin of two columns, about 220, has a deviation of 23
    chosen = noisily(layout, table, 4.0, settings=settings).input(CLIQUES)["pairs"]
    assert chosen.tolist() == [1, 4]


def test_the_nearest_counts_that_are_none_below_zero() -> None:
    assert nonnegative(np.array([5.0, -2.0, 1.0]), 4.0).tolist() == [4.0, 0.0, 0.0]
    assert nonnegative(np.array([5.0, 3.0, 1.0]), 12.0).tolist() == [6.0, 4.0, 2.0]
    assert nonnegative(np.array([-5.0, -5.0]), 4.0).tolist() == [2.0, 2.0]
    assert nonnegative(np.array([5.0, 3.0]), 0.0).tolist() == [0.0, 0.0]


def test_smoothing_keeps_what_stands_out_of_the_noise_and_levels_the_rest() -> None:
    truth = np.concatenate([[900.0], np.full(31, 20.0), np.full(32, 120.0)])
    noisy = truth + 15.0 * np.random.default_rng(0).standard_normal(64)
    smooth = segmented(noisy, 15.0)
    assert np.abs(smooth - truth).sum() < 0.35 * np.abs(noisy - truth).sum()
    assert smooth[0] == pytest.approx(noisy[0])
    assert (segmented(noisy, 0.0) == noisy).all()
    assert len(set(segmented(noisy - truth, 15.0))) == 1


def test_bins_of_ordered_cells_hold_alike_and_full_cells_stand_alone() -> None:
    assert ordered_bins(np.ones(8), 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert ordered_bins(np.array([100.0, 1, 1, 1, 1]), 3).tolist() == [0, 1, 1, 2, 2]
    assert ordered_bins(np.zeros(4), 2).tolist() == [0, 0, 1, 1]
    assert ordered_bins(np.ones(2), 4).tolist() == [0, 1]


def test_bins_of_codes_put_together_what_is_alike_and_waste_none_on_nobody() -> None:
    histogram = np.array([0.0, 10.0, 10.0, 10.0, 10.0])
    assert unordered_bins(histogram, np.zeros(5), 4).tolist() == [0, 0, 1, 2, 3]
    ranked = unordered_bins(histogram, np.array([0.0, 0.9, 0.1, 0.8, 0.2]), 2)
    assert ranked[1] == ranked[3] != ranked[2] == ranked[4]


def test_effects_of_noise_alone_are_taken_for_next_to_nothing() -> None:
    """Of a column that classes do not change, over 200 draws of noise."""
    random = np.random.default_rng(0)
    classes, part = np.array([0.0, 3000.0, 1000.0]), np.full(5, 0.2)
    variance = np.full((3, 5), 1600.0)
    errors, raw = [], []
    for _ in range(200):
        counts = np.outer(classes, part) + 40.0 * random.standard_normal((3, 5))
        effects, _ = class_effects(counts, variance, classes, part)
        assert not effects[0].any()
        errors.append(np.square(effects[1:]).mean())
        raw.append(np.square(counts[1:] / np.outer(classes[1:], part) - 1).mean())
    assert np.mean(errors) < 0.2 * np.mean(raw)


def test_effects_that_stand_out_of_the_noise_stay_as_they_are() -> None:
    classes, part = np.array([3000.0, 1000.0]), np.full(5, 0.2)
    truth = np.outer([-1 / 3, 1.0], [-0.9, 0.6, -0.6, 0.9, 0.0])
    counts = np.outer(classes, part) * (1 + truth)
    effects, spread = class_effects(counts, np.full((2, 5), 100.0), classes, part)
    assert np.abs(effects - truth).max() < 0.05
    assert spread[1] == pytest.approx(3 * spread[0], rel=0.01)  # the rarer class differs more


def test_one_class_alone_has_no_effects() -> None:
    effects, _ = class_effects(np.full((1, 4), 9.0), np.ones((1, 4)), np.array([36.0]), np.ones(4))
    assert not effects.any()


def test_numbers_fill_their_cells_without_steps_and_single_values_stay() -> None:
    random = np.random.default_rng(0)
    rising = CellDensity(np.arange(1.0, GRID + 1))
    for cell in (0, 10, GRID - 1):
        values = rising.values(np.full(2000, cell), random)
        assert (values >= cell / GRID).all()
        assert (values <= (cell + 1) / GRID).all()
    # the density in cell 10 rises by an eleventh over it: the mean is above the middle
    inside = rising.values(np.full(200_000, 10), random) * GRID - 10
    tilt = 1 / 11
    assert inside.mean() == pytest.approx(0.5 + tilt / 12, abs=5 * 0.29 / math.sqrt(200_000))
    spikes = np.zeros(GRID)
    spikes[[0, 20, GRID - 1]] = 100.0
    values = CellDensity(spikes).values(np.array([0, 20, GRID - 1, GRID]), random)
    assert values[:3].tolist() == [0.0, 20.5 / GRID, 1.0]
    assert np.isnan(values[3])


def test_rows_are_no_copies_of_the_customers(table, generator) -> None:
    """A number is drawn anew within its cell."""
    sampled = generator.sample(4000, np.random.default_rng(0))
    same = np.isin(sampled.numeric[sampled.missing == 0], table.numeric)
    assert same.mean() < 0.005  # by chance 7200 of 2^24 numbers meet 8000 in 0.0005
