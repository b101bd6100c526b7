"""Scores have a column for every target, and an exported model scores alike."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from fgcif_flwr.data.encoding import bucket, encode
from fgcif_flwr.data.schema import schema_from_toml
from fgcif_flwr.errors import DataError, MissingColumnError, SchemaError
from fgcif_flwr.models.artifact import predict
from fgcif_flwr.models.export import export_model
from fgcif_flwr.models.network import build_network, head_slices
from fgcif_flwr.models.personalization import labelled
from fgcif_flwr.models.scoring import explained_output, score_customers
from fgcif_flwr.models.segmentation import Segment, Segmentation, Space
from fgcif_flwr.models.training import share_one_vector
from tests.scored_models import MODEL, SCHEMA, customers, loaded

SCORES = [
    "customer",
    "segment",
    "segment_probability",
    "segment_2",
    "segment_2_probability",
    "segment_3",
    "segment_3_probability",
    "churn_probability",
    "value",
]


def test_scores_have_the_columns_of_each_target():
    model, table = loaded(), customers(2000)
    scores = score_customers(model, table)
    assert scores.column_names == SCORES
    assert scores["customer"].to_pylist() == table["customer"].to_pylist()
    outputs = model.network.outputs(encode(SCHEMA, table, targets=False)).astype(float)
    np.testing.assert_allclose(scores["churn_probability"], 1 / (1 + np.exp(-outputs[:, 4])))
    shares = np.exp(outputs[:, :4]) / np.exp(outputs[:, :4]).sum(axis=1, keepdims=True)
    words = np.array(["low", "middle", "high", "top"])[np.argsort(-shares, axis=1)]
    for place, name in enumerate(("segment", "segment_2", "segment_3")):
        assert scores[name].to_pylist() == words[:, place].tolist()
        np.testing.assert_allclose(scores[f"{name}_probability"], -np.sort(-shares)[:, place])
    value = scores["value"].to_numpy()
    assert ((value >= 10) & (value <= 1000)).all()
    assert len(np.unique(value)) > 100
    inside = (outputs[:, 5] > 0) & (outputs[:, 5] < 1)
    assert inside.any()
    expected = 10 + np.expm1(outputs[inside, 5] * np.log(991))
    np.testing.assert_allclose(value[inside], expected, rtol=1e-5)


def test_predictions_are_the_first_of_the_scores():
    model, table = loaded(), customers(50)
    scores = score_customers(model, table)
    predictions = predict(model, table)
    assert predictions.equals(scores.select(predictions.column_names))


def test_targets_and_other_columns_are_not_looked_at():
    model, table = loaded(), customers(20)
    more = table.append_column("churn", pa.array(["perhaps"] * 20)).append_column(
        "segment", pa.nulls(20)
    )
    assert score_customers(model, more).equals(score_customers(model, table))
    assert score_customers(model, table.drop_columns("customer")).column_names == SCORES[1:]
    with pytest.raises(MissingColumnError, match="days"):
        score_customers(model, table.drop_columns("days"))


def test_reasons_are_beside_the_scores():
    model, table = loaded(), customers(60)
    scores = score_customers(model, table, explain=2)
    assert scores.column_names == [
        *SCORES,
        "reason_1",
        "reason_1_share",
        "reason_2",
        "reason_2_share",
    ]
    assert scores.select(SCORES).equals(score_customers(model, table))
    assert all(" churn: " in text for text in scores["reason_1"].to_pylist())
    of_value = score_customers(model, table, explain=1, target="value")
    assert all(" value: " in text for text in of_value["reason_1"].to_pylist())
    with pytest.raises(ValueError, match="0 or more"):
        score_customers(model, table, explain=-1)


def test_reasons_may_compare_with_other_customers():
    model, table = loaded(), customers(60)
    one = table.slice(7, 1)
    itself = score_customers(model, one, explain=1, compare_with=one)
    assert itself["reason_1"].to_pylist() == [None]
    assert score_customers(model, one, explain=1, compare_with=table)["reason_1"][0].is_valid


def test_what_cannot_be_explained_is_said():
    network = loaded().network
    assert explained_output(network) == ("churn", 4)
    assert explained_output(network, "value") == ("value", 5)
    with pytest.raises(SchemaError, match="churn, value"):
        explained_output(network, "segment")
    only_words = SCHEMA.model_copy(update={"targets": SCHEMA.targets[:1]})
    with pytest.raises(SchemaError, match="none of this model's"):
        explained_output(loaded(schema=only_words).network)


def test_columns_of_one_name_are_refused_and_not_overwritten():
    twice = schema_from_toml(
        SCHEMA.to_toml().replace('name = "value"', 'name = "segment_2"'), "this test"
    )
    with pytest.raises(SchemaError, match="segment_2"):
        score_customers(loaded(schema=twice), customers(5))
    named = SCHEMA.model_copy(update={"id_column": "churn_probability"})
    table = customers(5).rename_columns({"customer": "churn_probability"})
    with pytest.raises(SchemaError, match="churn_probability"):
        score_customers(loaded(schema=named), table)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = loaded()
    share_one_vector(model.network)  # as after training
    return model, export_model(model, tmp_path_factory.mktemp("exported") / "model.pt2")


def test_an_exported_model_gives_equal_outputs(exported):
    model, files = exported
    program = torch.export.load(files.program).module()
    for rows in (1, 2, 333):
        data = encode(SCHEMA, customers(rows), targets=False)
        arrays = (data.numeric, data.missing, data.categorical)
        outputs = program(*(torch.tensor(array) for array in arrays)).detach().numpy()
        np.testing.assert_allclose(outputs, model.network.outputs(data), atol=1e-6)


def encoded_by_the_description(description, table):
    """Encode a table by the description alone, as a reader without this package would."""
    missing = {word.strip() for word in description["missing"]}
    rows = table.num_rows
    numbers = description["inputs"]["numeric"]["columns"]
    numeric, absent = np.zeros((2, rows, len(numbers)))
    for place, column in enumerate(numbers):
        values = table[column["column"]].to_numpy()
        absent[:, place] = np.isnan(values)
        lower, upper = column["lower"], column["upper"]
        shifted = np.clip(values, lower, upper) - lower
        scaled = (
            np.log1p(shifted) / np.log1p(upper - lower)
            if column["log"]
            else shifted / (upper - lower)
        )
        numeric[:, place] = np.nan_to_num(scaled)
    words = description["inputs"]["categorical"]["columns"]
    codes = np.zeros((rows, len(words)), np.int64)
    for place, column in enumerate(words):
        for row, word in enumerate(table[column["column"]].to_pylist()):
            if word in missing:
                continue
            if "buckets" in column:
                codes[row, place] = 2 + bucket(word, column["buckets"])
            elif "words" in column:
                known = column["words"]
                codes[row, place] = 2 + known.index(word) if word in known else 1
            else:
                codes[row, place] = 3 if word.lower() in column["true"] else 2
    return numeric.astype(np.float32), absent.astype(np.float32), codes


def test_the_description_beside_it_is_enough_to_encode(exported):
    model, files = exported
    description = json.loads(files.encoding.read_text(encoding="utf-8"))
    table = customers(300, seed=5)
    data = encode(SCHEMA, table, targets=False)
    numeric, missing, codes = encoded_by_the_description(description, table)
    np.testing.assert_allclose(numeric, data.numeric, atol=1e-7)
    np.testing.assert_array_equal(missing, data.missing)
    np.testing.assert_array_equal(codes, data.categorical)
    heads = description["outputs"]["heads"]
    assert [head["name"] for head in heads] == ["segment", "churn", "value"]
    slices = head_slices(model.network.layout.heads)
    assert [head["columns"] for head in heads] == [list(range(s.start, s.stop)) for s in slices]
    assert heads[1]["classes"] == ["no", "yes"]
    assert (heads[2]["lower"], heads[2]["upper"], heads[2]["log"]) == (10, 1000, True)


def test_only_whole_files_under_the_wanted_names_are_left(exported, tmp_path):
    _, files = exported
    assert {file.name for file in files.program.parent.iterdir()} == {"model.pt2", "model.json"}
    model = loaded()
    with pytest.raises(DataError, match="pt2"):
        export_model(model, tmp_path / "model.onnx")
    with pytest.raises(DataError, match="cannot be written"):
        export_model(model, tmp_path / "absent" / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_the_exported_network_is_a_copy(exported):
    model, _ = exported
    assert build_network(model.network.layout, MODEL, 0).config == MODEL
    vector = share_one_vector(model.network)
    assert vector.grad is not None


def test_a_learned_segment_is_named_by_the_released_centres():
    learned = schema_from_toml(
        SCHEMA.to_toml().replace(
            'kind = "categorical"\nclasses', 'kind = "categorical"\nsource = "learned"\nclasses'
        ),
        "this test",
    )
    assert learned.targets[0].source == "learned"
    words = ("low", "middle", "high", "top")
    segments = Segmentation(
        target="segment",
        features=(("recency", True),),
        space=Space(*(np.array([value]) for value in (0.0, 1.0, 0.5))),
        centres=np.array([[0.9], [0.6], [0.4], [0.1]]),
        segments=tuple(Segment(word, f"name of {word}", 0.25, {}) for word in words),
    )
    model = replace(loaded(schema=learned), segments=segments)
    table = customers(4).set_column(1, "days", pa.array([0.0, 365.0, None, 210.0]))
    scores = score_customers(model, table, explain=1)
    assert scores["segment_assigned"].to_pylist() == ["low", "top", None, "high"]
    assert scores["segment_name"].to_pylist() == [
        "name of low",
        "name of top",
        None,
        "name of high",
    ]
    rows = labelled(model, encode(learned, table, targets=False))
    assert rows.targets["segment"].tolist() == [0, 3, -1, 2]
