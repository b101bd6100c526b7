"""Segments by released sums: the mathematics, the same labels everywhere, whole federations."""

from __future__ import annotations

import gc
import json
import math
import weakref

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from fgcif_flwr.config import RunConfig, unflatten
from fgcif_flwr.data.consortium import EnterpriseRows
from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout, Head, encode
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.enterprise import segmentation_tasks
from fgcif_flwr.enterprise.segmentation_tasks import with_learned_labels
from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.errors import ClassAbsentError, ConfigurationError, DataError, PolicyError
from fgcif_flwr.federation.records import INPUT
from fgcif_flwr.federation.segmentation_releases import (
    CENTRES,
    SEGMENT_TASKS,
    SPACE,
    STEP,
    chosen_features,
    segment_inputs,
)
from fgcif_flwr.federation.terms import terms_of
from fgcif_flwr.models import segment_learning as learning
from fgcif_flwr.models.artifact import load_model, save_model
from fgcif_flwr.models.baselines import metrics_on
from fgcif_flwr.models.segment_names import names_of
from fgcif_flwr.models.segmentation import (
    NOWHERE,
    ChosenFeature,
    Segment,
    Segmentation,
    Space,
    assign,
    nearest,
)
from tests.federation_rig import federate
from tests.private_rig import CUSTOMER, ENTERPRISE, LOCAL, counted, ledgers_in, run_private
from tests.segment_rig import SEGMENTS, TARGET, privately_segmented, segmented, with_learned

torch.set_num_threads(1)

ROOMY = {"simulator.customers": 120, "run.rounds": 1}


def blobs(seed: int = 0, rows: int = 300) -> np.ndarray:
    """Four groups of customers in two features, well apart."""
    random = np.random.default_rng(seed)
    middles = np.array([[0.15, 0.2], [0.8, 0.75], [0.2, 0.8], [0.75, 0.2]])
    points = middles[random.integers(0, 4, rows)] + random.normal(0, 0.05, (rows, 2))
    return np.clip(points, 0, 1)


def table_of(numeric: np.ndarray, missing: np.ndarray | None = None) -> EncodedTable:
    absent = np.zeros_like(numeric) if missing is None else missing
    return EncodedTable(
        numeric.astype(np.float32),
        absent.astype(np.float32),
        np.zeros((len(numeric), 0), np.int64),
        {},
    )


TWO = (ChosenFeature("a", 0, False), ChosenFeature("b", 1, False))
PLAIN = Space(np.zeros(2), np.ones(2), np.full(2, 0.5))


def histogram_of(values: np.ndarray, missing: int = 0) -> np.ndarray:
    cells = np.minimum((values * learning.CELLS).astype(int), learning.CELLS - 1)
    counts = np.bincount(cells, minlength=learning.CELLS + 1).astype(float)
    counts[learning.CELLS] = missing
    return counts


def test_the_space_runs_between_released_quantiles_and_turns_what_is_less_value():
    values = np.random.default_rng(0).beta(2, 5, 5000)
    histogram = histogram_of(values, 40)
    space = learning.space_of([histogram, histogram], 0.0, [False, True])
    low, high = np.quantile(values, [0.02, 0.98])
    assert space.low == pytest.approx([low] * 2, abs=0.01)
    assert space.width == pytest.approx([high - low] * 2, abs=0.02)
    middle = (np.median(values) - low) / (high - low)
    assert space.missing_value == pytest.approx([middle, 1 - middle], abs=0.02)
    turned = ChosenFeature("b", 1, True)
    data = table_of(np.array([[low, low], [high, high], [0, 0]]), np.array([[0, 0]] * 2 + [[1, 1]]))
    coordinates, known = space.coordinates((TWO[0], turned), data)
    np.testing.assert_allclose(coordinates[:2], [[0, 1], [1, 0]], atol=0.03)
    np.testing.assert_allclose(coordinates[2], space.missing_value)
    assert known.tolist() == [True, True, False]


@pytest.mark.parametrize("values", [[0.0] * 9, [1.0] * 9, [0.5] * 9, []], ids=str)
def test_a_feature_that_does_not_vary_gives_a_lawful_space(values):
    space = learning.space_of([histogram_of(np.array(values))], 0.0, [False])
    assert 0 < space.width[0] <= 1
    assert 0 <= space.low[0] <= 1
    assert 0 <= space.missing_value[0] <= 1


@given(
    counts=st.lists(st.floats(-50, 1000), min_size=65, max_size=65),
    deviation=st.floats(0, 100),
    less=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_no_noisy_histogram_gives_an_unlawful_space(counts, deviation, less):
    space = learning.space_of([np.array(counts)], deviation, [less])
    segmentation = Segmentation("t", (("a", less),), space, np.array([[0.5]]), ())
    tree = segmentation.as_dict() | {
        "segments": [{"word": "s", "name": "n", "share": 1.0, "means": {}}]
    }
    Segmentation.from_dict(tree)


@given(st.integers(1, learning.MOST_FEATURES))
@settings(max_examples=10, deadline=None)
def test_a_row_is_in_the_cell_of_the_joint_grid_whose_middle_is_nearest(features):
    points = learning.grid_points(features)
    assert len(points) == learning.grid_side(features) ** features <= 1024
    rows = np.random.default_rng(features).random((200, features))
    rows[0], rows[1] = 0.0, 1.0
    np.testing.assert_array_equal(learning.grid_places(rows), nearest(rows, points))
    np.testing.assert_array_equal(learning.grid_places(points), np.arange(len(points)))


def test_independent_features_give_the_grid_the_product_of_their_histograms():
    random = np.random.default_rng(3)
    points = np.stack([random.beta(2, 5, 20_000), random.beta(5, 1, 20_000)], axis=1)
    histograms = [histogram_of(points[:, 0]), histogram_of(points[:, 1])]
    space = learning.space_of(histograms, 0.0, [True, False])
    chosen = (ChosenFeature("a", 0, True), ChosenFeature("b", 1, False))
    coordinates, _ = space.coordinates(chosen, table_of(points))
    size = learning.grid_side(2) ** 2
    counts = np.bincount(learning.grid_places(coordinates), minlength=size)
    shares = learning.independence_prior(histograms, 0.0, space, [True, False])
    assert shares.sum() == pytest.approx(1)
    assert np.abs(shares - counts / len(points)).sum() < 0.2  # of which sampling is most
    noise = random.normal(0, 30, size)
    weights = learning.grid_weights(counts + noise, 30.0, len(points) * shares)
    assert np.abs(weights - counts).sum() < np.abs(np.maximum(counts + noise, 0) - counts).sum() / 2
    np.testing.assert_array_equal(learning.grid_weights(counts * 1.0, 0.0, shares), counts)


def lloyd(points: np.ndarray, segments: int = 4) -> np.ndarray:
    """Centres as the stage learns them from exact sums."""
    size = learning.grid_side(points.shape[1]) ** points.shape[1]
    counts = np.bincount(learning.grid_places(points), minlength=size).astype(float)
    weights = learning.grid_weights(counts, 0.0, np.zeros(size))
    centres = learning.initial_centres(weights, points.shape[1], segments, 7)
    for _ in range(10):
        labels = nearest(points, centres)
        held = np.bincount(labels, minlength=segments)
        offsets = np.zeros_like(centres)
        np.add.at(offsets, labels, points - centres[labels])
        centres, emptied = learning.lloyd_step(centres, offsets, held, 1.0)
        assert not emptied
    return learning.by_value(centres)


def test_sums_find_the_segments_that_pooled_rows_have():
    points = blobs(rows=2000)
    reference = KMeans(4, n_init=10, random_state=0).fit(points)
    centres = lloyd(points)
    assert adjusted_rand_score(reference.labels_, nearest(points, centres)) > 0.999
    ordered = learning.by_value(reference.cluster_centers_)
    np.testing.assert_allclose(centres, ordered, atol=1e-6)


def test_the_order_of_rows_and_of_centres_changes_nothing():
    points = blobs()
    one = lloyd(points)
    again = lloyd(points[np.random.default_rng(1).permutation(len(points))])
    np.testing.assert_allclose(one, again, atol=1e-12)
    np.testing.assert_array_equal(learning.by_value(one[::-1]), one)
    assert (np.diff(one.mean(axis=1)) <= 0).all()


def test_each_seed_is_a_weighted_mean_of_middles_of_cells():
    """Also where a cell holds a single customer: cells are public, and so are their middles."""
    points = blobs(rows=9)
    middles = learning.grid_points(2)
    counts = np.bincount(learning.grid_places(points), minlength=len(middles)).astype(float)
    seeds = learning.initial_centres(counts, 2, 4, 0)
    nearer = nearest(middles, seeds)
    for number, seed in enumerate(seeds):
        weights = np.where(nearer == number, counts, 0.0)
        assert weights.sum() > 0
        np.testing.assert_allclose(seed, weights @ middles / weights.sum(), atol=1e-12)


def test_what_is_within_its_noise_does_not_move_and_what_is_empty_is_reinitialised():
    centres = np.array([[0.2, 0.2], [0.9, 0.9]])
    moved, still = learning.lloyd_step(
        centres, np.array([[5.0, 5.0], [3.0, 3.0]]), np.array([50, 1]), 10
    )
    assert still == [1]
    np.testing.assert_allclose(moved, [[0.3, 0.3], [0.9, 0.9]])
    weights = np.zeros(learning.grid_side(2) ** 2)
    weights[learning.grid_places(np.array([[0.8, 0.1]]))[0]] = 5.0
    anew = learning.reinitialised(moved, still, weights)
    np.testing.assert_array_equal(anew[0], moved[0])
    assert np.abs(anew[1] - [0.8, 0.1]).max() < 1 / learning.grid_side(2)


def test_labels_are_those_of_the_nearest_centre_and_none_where_nothing_is_known():
    points = blobs(rows=50)
    centres = lloyd(blobs())
    missing = np.zeros_like(points)
    missing[3] = 1
    labels = assign(PLAIN, centres, TWO, table_of(points, missing))
    assert labels[3] == NOWHERE
    rest = np.arange(50) != 3
    np.testing.assert_array_equal(labels[rest], nearest(points[rest].astype(np.float32), centres))


def test_names_say_value_and_what_sets_a_segment_apart_and_differ():
    features = ("recency_days", "spend", "tenure_days", "oddity")
    means = np.array([[0.1, 0.9, 0.5, 0.5], [0.9, 0.8, 0.5, 0.5], [0.5, 0.1, 0.1, 0.5]])
    chosen = ("recency_days", "spend")
    values, shares = np.array([0.9, 0.6, 0.2]), np.array([0.4, 0.3, 0.3])
    names = names_of(values, shares, features, chosen, means, np.zeros((3, 4)))
    assert names == ("high value, active", "middle value, cooling down", "low value, new")
    noisy = names_of(values, shares, features, chosen, means, np.full((3, 4), 1.0))
    assert noisy == ("high value, typical", "middle value, typical", "low value, typical")
    same = names_of(np.full(3, 0.5), shares, features, chosen, means[[0, 0, 0]], np.zeros((3, 4)))
    assert len(set(same)) == 3
    unknown = names_of(values, shares, features, chosen, np.full((3, 4), np.nan), np.zeros((3, 4)))
    assert unknown[0] == "high value, typical"


def features_named(names: tuple[str, ...]) -> FeatureLayout:
    return FeatureLayout(names, (), (), (Head("t", "categorical", 2, ("a", "b"), True),))


def test_chosen_features_follow_the_names_or_the_rule():
    def chosen(names: tuple[str, ...], *wanted: str) -> list[tuple[str, bool]]:
        flat = {"segmentation.target": "t", "segmentation.features": ",".join(wanted)}
        return [
            (one.name, one.lower_is_better)
            for one in chosen_features(unflatten(flat), features_named(names))
        ]

    rule = [("recency_days", True), ("spend", False)]
    assert chosen(("spend", "age", "recency_days")) == rule
    assert chosen(("a", "b", "c", "d", "e")) == [(name, False) for name in "abcd"]
    assert chosen(("a", "b"), "-b", "a") == [("b", True), ("a", False)]
    assert chosen(("-b", "b"), "-b") == [("-b", False)]
    with pytest.raises(ConfigurationError, match="no numeric feature"):
        chosen(("a",), "c")
    with pytest.raises(ConfigurationError, match="1 to 10 numeric features"):
        chosen(())


@pytest.mark.parametrize(
    ("flat", "words"),
    [
        ({"segmentation.iterations": 3}, "without segmentation.target"),
        ({"segmentation.target": "t", "segmentation.share": 0.2}, "segmentation.share"),
        ({"segmentation.target": "t", "segmentation.multiplier": 2.0}, "segmentation.multiplier"),
        ({"segmentation.target": "t", "segmentation.features": "a,-a"}, "twice"),
        ({"segmentation.target": "t", "segmentation.iterations": 0}, "segmentation.iterations"),
    ],
)
def test_settings_without_effect_are_refused(flat, words):
    with pytest.raises(ConfigurationError, match=words):
        unflatten(flat)


def test_what_is_released_of_segments_survives_json_and_damage_is_found():
    space = Space(np.array([0.1, 0.0]), np.array([0.5, 1.0]), np.array([0.5, 0.5]))
    tree = Segmentation("t", (("a", False), ("b", True)), space, np.full((2, 2), 0.5), ()).as_dict()
    segment = {"word": "s", "name": "n", "share": 0.5, "means": {"a": 1.0, "b": None}}
    tree["segments"] = [segment, segment]
    read = Segmentation.from_dict(json.loads(json.dumps(tree)))
    assert json.dumps(read.as_dict(), sort_keys=True) == json.dumps(tree, sort_keys=True)
    assert math.isnan(read.segments[0].means["b"])
    assert read.names == ("n", "n")
    for name in tree:
        with pytest.raises(DataError, match="damaged"):
            Segmentation.from_dict({key: value for key, value in tree.items() if key != name})
    for change in (
        {"centres": [[0.5, 0.5]]},
        {"centres": [[0.5, math.nan], [0.5, 0.5]]},
        {"width": [0.0, 1.0]},
        {"low": [-1, 0]},
        {"features": 3},
        {"segments": [segment]},
        {"missing_value": "x"},
    ):
        with pytest.raises(DataError, match="damaged"):
            Segmentation.from_dict({**tree, **change})


def test_segments_without_a_profile_are_called_by_their_class():
    space = Space(np.zeros(1), np.ones(1), np.full(1, 0.5))
    plain = Segmentation(
        "t", (("a", True),), space, np.array([[0.9], [0.1]]), (Segment("x"), Segment("y"))
    )
    read = Segmentation.from_dict(json.loads(json.dumps(plain.as_dict(), allow_nan=False)))
    assert read.names == ("x", "y")
    assert math.isnan(read.segments[0].share)
    assert read.segments[0].means == {}
    bare = plain.as_dict() | {"segments": [{"word": "x"}, {"word": "y"}]}
    assert Segmentation.from_dict(bare).as_dict() == plain.as_dict()


def rows_of(points: np.ndarray) -> EnterpriseRows:
    data = table_of(points)
    return EnterpriseRows(data, data.take([0]), data.take([]), "a", 0.1, 0.1)


def test_labels_are_held_for_two_segmentations_and_not_beyond_the_rows_life():
    config = unflatten({"segmentation.target": "t", "segmentation.features": "a,b"})
    layout = features_named(("a", "b"))
    centres = [np.array([[0.9, 0.9], [low, 0.1]]) for low in (0.1, 0.2, 0.3)]
    inputs = [segment_inputs(PLAIN, each) for each in centres]
    rows = rows_of(blobs())
    before = len(segmentation_tasks._of_rows)
    labelled = [with_learned_labels(config, layout, rows, each)[0] for each in inputs]
    expected = [assign(PLAIN, each, TWO, rows.train) for each in centres]
    for found, labels in zip(labelled, expected, strict=True):
        assert found.train.targets["t"].dtype == np.int64
        np.testing.assert_array_equal(found.train.targets["t"], labels)
        assert found.train.numeric is rows.train.numeric
        assert len(found.test) == 0
    held = segmentation_tasks._of_rows[id(rows)][1]._held
    assert len(held) == 2
    assert {part.dtype for labels, _ in held.values() for part in labels} == {np.dtype(np.int16)}
    assert with_learned_labels(config, layout, rows, inputs[2])[0] is labelled[2]
    assert with_learned_labels(config, layout, rows, inputs[0])[0] is not labelled[0]
    gone = [weakref.ref(one) for one in (rows, rows.train, *labelled)]
    del rows, labelled, found
    gc.collect()
    assert [one() for one in gone] == [None] * len(gone)
    assert len(segmentation_tasks._of_rows) == before


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("segments")
    sent: list[tuple[set[str], bytes]] = []

    def watch(message):
        arrays = message.content.array_records.get(INPUT, {})
        if message.metadata.message_type == "train.release":
            centres = arrays[CENTRES].numpy().tobytes() if CENTRES in arrays else b""
            sent.append((set(arrays), centres))
        return False

    finished = federate(segmented(home, {**ROOMY, "run.rounds": 2}), lose_before=watch)
    return finished, sent


def config_in(run) -> RunConfig:
    return unflatten(run.record["config"] | {"run.output": str(run.files.path)})


def test_a_federation_learns_the_segments_of_the_pooled_rows(run):
    finished, _ = run
    config = config_in(finished)
    consortium = consortium_of(config)
    loaded = load_model(finished.files.model)
    assert loaded.segments is not None
    assert loaded.segments.as_dict() == finished.record["segments"]
    own = loaded.segments.assign(consortium.layout, consortium.pooled("train"))
    chosen = chosen_features(config, consortium.layout)
    coordinates, _ = loaded.segments.space.coordinates(chosen, consortium.pooled("train"))
    pooled = KMeans(SEGMENTS, n_init=20, random_state=0).fit(coordinates)
    assert adjusted_rand_score(pooled.labels_, own) > 0.95
    shares = np.bincount(own[own >= 0], minlength=SEGMENTS) / (own >= 0).sum()
    stated = [one.share for one in loaded.segments.segments]
    np.testing.assert_allclose(stated, shares, atol=1e-9)  # the counts are exact


def test_the_stated_profile_is_that_of_the_rows(run):
    finished, _ = run
    config = config_in(finished)
    consortium = consortium_of(config)
    rows = consortium.pooled("train")
    loaded = load_model(finished.files.model)
    own = loaded.segments.assign(consortium.layout, rows)
    place = consortium.layout.numeric.index("recency_days")
    for number, segment in enumerate(loaded.segments.segments):
        there = (own == number) & (rows.missing[:, place] == 0)
        days = 365 * float(rows.numeric[there, place].mean())
        assert segment.means["recency_days"] == pytest.approx(days, abs=0.01)
    spend = [segment.means["spend"] for segment in loaded.segments.segments]
    assert spend[0] > spend[-1]
    assert len(set(loaded.segments.names)) == SEGMENTS


def test_every_later_task_is_given_the_same_centres(run):
    _, sent = run
    first = next(place for place, (_, centres) in enumerate(sent) if "model" in sent[place][0])
    later = {centres for names, centres in sent[first:]}
    assert len(later) == 1
    assert b"" not in later
    assert all({SPACE, CENTRES} <= names for names, _ in sent[first:])


def test_all_enterprises_read_equal_rows_alike_whatever_table_they_are_in(run):
    finished, _ = run
    config = config_in(finished)
    consortium = consortium_of(config)
    loaded = load_model(finished.files.model).segments
    arrays = segment_inputs(loaded.space, loaded.centres) | {"other": np.zeros(1)}
    whole = loaded.assign(consortium.layout, consortium.pooled("train"))
    parts = []
    for rows in consortium.enterprises:
        labelled, rest = with_learned_labels(config, consortium.layout, rows, arrays)
        again, _ = with_learned_labels(config, consortium.layout, rows, arrays)
        assert again is labelled  # what is fitted to the rows in one round is there in the next
        assert set(rest) == {"other"}
        assert (rows.train.targets[TARGET] == NOWHERE).all()
        parts.append(labelled.train.targets[TARGET])
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_the_head_learns_the_segments_and_the_card_describes_them(tmp_path):
    more = {"run.rounds": 12, "training.learning_rate": 0.01, "training.local_epochs": 5}
    finished = federate(segmented(tmp_path, {**ROOMY, **more}))
    figures = finished.record["metrics"]["test"][TARGET]
    assert figures["rows"] > 0
    assert figures["accuracy"] > 0.8
    card = finished.files.card.read_text(encoding="utf-8")
    assert f"## Segments ({TARGET})" in card
    for segment in finished.record["segments"]["segments"]:
        assert f"| {segment['word']} | {segment['name']} |" in card
    assert "`recency_days` (less is more)" in card


def test_a_segmentation_is_the_same_each_time(run, tmp_path):
    finished, _ = run
    again = federate(segmented(tmp_path, {**ROOMY, "run.rounds": 2}))
    assert again.record["segments"] == finished.record["segments"]
    assert again.sha256 == finished.sha256


def test_a_table_without_the_target_is_encoded_and_its_customers_are_put_into_segments(run):
    finished, _ = run
    loaded = load_model(finished.files.model)
    columns = {feature.column: pa.nulls(2, pa.string()) for feature in loaded.schema.features}
    columns["recency_days"] = pa.array(["3", None])
    table = encode(loaded.schema, pa.table(columns), targets=False)
    found = loaded.segments.assign(loaded.network.layout, table)
    assert 0 <= found[0] < SEGMENTS
    assert found[1] == NOWHERE


def test_a_model_whose_segments_are_not_of_its_schema_is_refused(run, tmp_path):
    finished, _ = run
    loaded = load_model(finished.files.model)
    tree = loaded.segments.as_dict()
    other = [{**one, "word": "other"} for one in tree["segments"]]
    odd = [{"name": "oddity", "lower_is_better": False}, *tree["features"][1:]]
    for change in ({"target": "churn"}, {"segments": other}, {"features": odd}, {"low": []}):
        file = tmp_path / "model.safetensors"
        save_model(file, loaded.network, loaded.schema, {"segments": {**tree, **change}})
        with pytest.raises(DataError, match="segments are damaged"):
            load_model(file)


def test_more_segments_than_customers_can_fill_end_the_run_by_name(tmp_path):
    config = segmented(tmp_path, {"simulator.customers": 10, "run.rounds": 1})
    with pytest.raises(ClassAbsentError, match=f"target {TARGET}: .* fewer than 10 customers"):
        federate(config)


def test_weights_of_classes_and_a_generator_go_by_the_learned_labels(tmp_path):
    more = {"training.class_weighting": "balanced", "generator.kind": "marginals"}
    finished = federate(segmented(tmp_path, {**ROOMY, **more}))
    assert finished.record["status"] == "completed"
    assert finished.record["metrics"]["test"][TARGET]["rows"] > 0


def test_a_step_in_which_an_enterprise_is_lost_goes_on_with_the_others(tmp_path):
    lost: list[str] = []

    def lose_one_step(message):
        request = message.content.config_records
        arrays = message.content.array_records.get(INPUT, {})
        stepping = CENTRES in arrays and "rows" in arrays and "model" not in arrays
        if stepping and message.metadata.dst_node_id == 1003 and not lost and request:
            lost.append(STEP)
            return True
        return False

    finished = federate(segmented(tmp_path, ROOMY), lose_before=lose_one_step)
    assert lost
    assert finished.record["status"] == "completed"
    assert len(finished.record["segments"]["segments"]) == SEGMENTS


@pytest.mark.parametrize(
    "mode", [CUSTOMER, LOCAL, ENTERPRISE], ids=["customer", "local", "enterprise"]
)
def test_a_private_federation_learns_segments_and_charges_each_of_their_sums(tmp_path, mode):
    config = privately_segmented(tmp_path, mode, {"run.rounds": 1})
    finished = run_private(config)
    segments = Segmentation.from_dict(finished.record["segments"])
    assert len(segments.centres) == SEGMENTS
    assert len(set(segments.names)) == SEGMENTS
    charged = [counted(path) for path in ledgers_in(finished.files.path / "ledgers")]
    assert len(charged) == 5
    for house in charged:
        assert [house[task] for task in SEGMENT_TASKS if task != STEP] == [1, 1, 1]
        assert 1 <= house[STEP] <= 4
    stated = finished.record["privacy"]["statement"]
    assert stated in finished.files.card.read_text(encoding="utf-8")
    loaded = load_model(finished.files.model)
    consortium = consortium_of(config)
    test = loaded.segments.labelled(consortium.layout, consortium.pooled("test"))
    assert metrics_on(loaded.network, test)[TARGET]["rows"] > 0


def test_without_a_segmentation_terms_and_results_have_nothing_of_it(tmp_path):
    from tests.federation_rig import configured

    finished = federate(configured(tmp_path, {"run.rounds": 1}))
    assert finished.record["segments"] is None
    assert "segments" not in load_model(finished.files.model).statement
    assert load_model(finished.files.model).segments is None
    assert "Segments" not in finished.files.card.read_text(encoding="utf-8")
    assert '"segmentation.target": ""' in terms_of(configured(tmp_path), "hash")


def test_a_learned_target_reads_no_column_that_a_policy_would_have_to_allow(tmp_path):
    from tests.private_rig import Houses, PrivateJoined, roomy

    config = privately_segmented(tmp_path, CUSTOMER)
    houses = Houses(tmp_path / "houses")
    schema = load_schema(str(with_learned(tmp_path)))
    columns = {feature.column for feature in schema.features}
    columns |= {target.column for target in schema.targets if target.column}
    policy = roomy(config).model_copy(update={"features": frozenset(columns)})
    houses.policies = dict.fromkeys(range(5), policy)
    PrivateJoined(config, houses.app)
    denied = policy.model_copy(update={"features": frozenset(columns - {"spend"})})
    houses.policies = dict.fromkeys(range(5), denied)
    with pytest.raises(PolicyError, match="spend"):
        PrivateJoined(replace_output(config, tmp_path), houses.app)


def replace_output(config: RunConfig, path) -> RunConfig:
    return config.model_copy(
        update={"run": config.run.model_copy(update={"output": str(path / "other")})}
    )
