"""A model is personalized where that really helps, and left as it is where it does not."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from fgcif_flwr.config import ModelSection, TrainingSection
from fgcif_flwr.data.consortium import Splits
from fgcif_flwr.data.encoding import encode, feature_layout
from fgcif_flwr.data.schema import schema_from_toml
from fgcif_flwr.errors import DataError
from fgcif_flwr.models.artifact import LoadedModel
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.paired_gain import auc_gain, loss_gain
from fgcif_flwr.models.parameters import named_arrays
from fgcif_flwr.models.personalization import PersonalizationSettings, personalize
from fgcif_flwr.models.segmentation import Segment, Segmentation, Space
from fgcif_flwr.models.training import train_locally

SCHEMA = schema_from_toml(
    """
name = "shop"

[[features]]
name = "a"
kind = "numeric"
lower = -3
upper = 3

[[features]]
name = "b"
kind = "numeric"
lower = -3
upper = 3

[[targets]]
name = "churn"
kind = "binary"
positive = "1"
negative = "0"
""",
    "this test",
)
MODEL = ModelSection(hidden=(16,), numeric_bins=4)


def drawn(rows, seed, slope):
    """Customers whose churn depends on a and b by ``slope``."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, 2))
    churn = rng.random(rows) < 1 / (1 + np.exp(-inputs @ np.array(slope)))
    columns = {"a": inputs[:, 0], "b": inputs[:, 1], "churn": churn.astype(int).astype(str)}
    return encode(SCHEMA, pa.table(columns))


def house(seed, slope, rows=600, validation=300):
    nothing = drawn(2, 0, slope).take([])
    return Splits(drawn(rows, seed, slope), drawn(validation, seed + 1, slope), nothing)


@pytest.fixture(scope="module")
def joint():
    network = build_network(feature_layout(SCHEMA), MODEL, seed=0)
    training = TrainingSection(local_epochs=15, learning_rate=0.01)
    train_locally(network, drawn(3000, 9, (2, 0)), training, seed=0)
    return LoadedModel(network, SCHEMA, MODEL, "0", {})


def test_an_enterprise_unlike_the_others_gets_a_better_model(joint):
    rows = house(20, (-1, 2))
    before = {name: array.copy() for name, array in named_arrays(joint.network).items()}
    settings = PersonalizationSettings(learning_rate=5e-3)
    found = personalize(joint, rows, settings, seed=1)
    assert found.kept
    assert found.target == "churn"
    assert found.epochs > 0
    assert found.after["churn"]["auc"] > found.before["churn"]["auc"] + 0.1
    assert found.gain.lower > 0.1
    labels = rows.validation.targets["churn"]
    exact = [
        roc_auc_score(labels, network.outputs(rows.validation)[:, 0])
        for network in (joint.network, found.network)
    ]
    assert found.gain.gain == pytest.approx(exact[1] - exact[0])
    for name, array in named_arrays(joint.network).items():
        np.testing.assert_array_equal(array, before[name])


def test_an_enterprise_like_the_others_keeps_the_joint_model(joint):
    settings = PersonalizationSettings(epochs=4, learning_rate=5e-3)
    kept = [personalize(joint, house(seed, (2, 0)), settings, seed).kept for seed in range(30, 40)]
    assert sum(kept) <= 2


def test_the_same_seed_gives_the_same_bits(joint):
    rows = house(50, (0, 2))
    first, second = (personalize(joint, rows, seed=3) for _ in range(2))
    assert first.gain == second.gain
    assert first.after == second.after
    other = personalize(joint, rows, seed=4)
    assert other.gain != first.gain


def test_the_validation_rows_do_not_decide_the_weights(joint):
    rows = house(60, (-1, 2))
    other = Splits(rows.train, rows.validation.take(np.arange(150)), rows.test)
    first, second = (personalize(joint, part, seed=5) for part in (rows, other))
    for name, array in named_arrays(first.network).items():
        np.testing.assert_array_equal(array, named_arrays(second.network)[name])


def test_with_few_rows_of_a_class_the_loss_is_compared(joint):
    rows = house(70, (-1, 2))
    churn = rows.validation.targets["churn"]
    stayed = np.flatnonzero(churn == 0)
    few = rows.validation.take(np.concatenate([stayed, np.flatnonzero(churn == 1)[:9]]))
    found = personalize(joint, Splits(rows.train, few, rows.test), seed=0)
    assert found.target is None
    assert found.gain.figure == "loss"


def test_too_few_rows_are_refused(joint):
    rows = house(80, (1, 1), rows=19)
    with pytest.raises(DataError, match="at least 20"):
        personalize(joint, rows)
    with pytest.raises(DataError, match="at least 20"):
        personalize(joint, house(80, (1, 1), validation=19))


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"patience": 0}, {"stopping_fraction": 0.6}, {"confidence": 0.5}],
    ids=str,
)
def test_settings_out_of_their_bounds_are_refused(wrong):
    with pytest.raises(ValueError, match=r"in \(|at least"):
        PersonalizationSettings(**wrong)


def test_a_gain_that_is_none_passes_about_one_time_in_twenty():
    rng = np.random.default_rng(6)
    for rows, positives in ((60, 15), (400, 200)):
        labels = np.repeat([1.0, 0.0], [positives, rows - positives])
        passed = 0
        for _ in range(600):
            common = labels + rng.normal(size=rows)
            before, after = (common + rng.normal(size=rows) for _ in range(2))
            passed += auc_gain(before, after, labels, 0.95).lower > 0
        # 30 are expected; 50 and more have a chance of about 3 in 10,000.
        assert 12 <= passed <= 50


def test_the_variance_of_a_difference_of_aucs_is_that_over_drawings():
    rng = np.random.default_rng(7)
    labels = np.repeat([1.0, 0.0], [80, 160])
    gains, errors = [], []
    for _ in range(800):
        common = labels + rng.normal(size=240)
        found = auc_gain(common + rng.normal(size=240), common, labels, 0.95)
        gains.append(found.gain)
        errors.append((found.gain - found.lower) / stats.norm.ppf(0.95))
    assert np.mean(errors) == pytest.approx(np.std(gains), rel=0.08)


def test_equal_models_gain_nothing_and_missing_labels_do_not_count():
    scores, labels = np.array([1.0, 2, 2, 3, 9]), np.array([0.0, 1, 0, 1, np.nan])
    same = auc_gain(scores, 2 * scores, labels, 0.95)
    assert (same.gain, same.lower, same.rows) == (0, 0, 4)
    better = auc_gain(scores, labels, labels, 0.95)
    assert better.gain == pytest.approx(1 - roc_auc_score(labels[:4], scores[:4]))
    with pytest.raises(ValueError, match="two rows of each class"):
        auc_gain(scores, scores, [0, 0, 0, 1, 0], 0.95)


def test_a_gain_in_loss_has_a_paired_t_bound():
    rng = np.random.default_rng(8)
    before = rng.exponential(size=50)
    after = before - 0.3 + rng.normal(0, 0.5, 50)
    found = loss_gain(before, after, 0.95)
    interval = stats.ttest_rel(before, after).confidence_interval(0.9)
    assert found.lower == pytest.approx(interval.low)
    assert loss_gain(before, before, 0.95).lower == 0
    with pytest.raises(ValueError, match="two rows"):
        loss_gain([1.0], [2.0], 0.95)


def test_a_learned_target_is_tuned_and_compared_by_the_models_segments():
    learned = schema_from_toml(
        SCHEMA.to_toml()
        + """
[[targets]]
name = "group"
kind = "categorical"
source = "learned"
classes = ["high", "low"]
""",
        "this test",
    )
    segments = Segmentation(
        "group",
        (("a", False),),
        Space(np.zeros(1), np.ones(1), np.full(1, 0.5)),
        np.array([[0.7], [0.3]]),
        (Segment("high"), Segment("low")),
    )
    network = build_network(feature_layout(learned), MODEL, seed=0)
    loaded = LoadedModel(network, learned, MODEL, "0", {}, segments)
    rng = np.random.default_rng(3)

    def rows(number):
        a, b = rng.normal(size=(2, number))
        return encode(learned, pa.table({"a": a, "b": b, "churn": ["0"] * number}))

    splits = Splits(rows(400), rows(200), rows(1))
    assert (splits.train.targets["group"] == -1).all()
    settings = PersonalizationSettings(learning_rate=5e-3)
    found = personalize(loaded, splits, settings, seed=1)
    truth = np.where(splits.validation.numeric[:, 0] >= 0.5, 0, 1)
    for tuned, figures in ((network, found.before), (found.network, found.after)):
        assert figures["group"]["rows"] == 200
        hit = tuned.outputs(splits.validation)[:, 1:].argmax(axis=1) == truth
        assert figures["group"]["accuracy"] == pytest.approx(hit.mean())
    assert found.after["group"]["accuracy"] > 0.9
    without = LoadedModel(network, learned, MODEL, "0", {})
    assert personalize(without, splits, settings, seed=1).after["group"]["rows"] == 0
