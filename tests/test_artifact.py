"""Model files: what is written is read back, scores tables, and nothing else is taken for one."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from fgcif_flwr.config import ModelSection
from fgcif_flwr.data.encoding import encode, feature_layout
from fgcif_flwr.data.schema import Schema, schema_from_toml
from fgcif_flwr.errors import DataError, FgcifError, MissingColumnError, SchemaError
from fgcif_flwr.models.artifact import load_model, model_sha256, predict, save_model
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import load_arrays, named_arrays

SCHEMA = schema_from_toml(
    """
name = "shop"
id_column = "customer"

[[features]]
name = "age"
kind = "numeric"
lower = 18
upper = 100

[[features]]
name = "plan"
kind = "categorical"
vocabulary = ["basic", "plus"]

[[targets]]
name = "churn"
kind = "binary"
positive = "yes"
negative = "no"

[[targets]]
name = "segment"
kind = "categorical"
classes = ["low", "middle", "high"]

[[targets]]
name = "value"
kind = "numeric"
lower = 10
upper = 1000
log = true
""",
    "this test",
)
MODEL = ModelSection(hidden=(8, 4), embedding_dim=2, numeric_bins=3)
TABLE = pa.table(
    {"customer": ["a", "b", "c"], "age": [20.0, None, 70.0], "plan": ["plus", "basic", "gold"]}
)


@pytest.fixture
def network():
    return build_network(feature_layout(SCHEMA), MODEL, seed=4)


@pytest.fixture
def path(tmp_path, network):
    path = tmp_path / "model.safetensors"
    save_model(path, network, SCHEMA, {"rounds": 100})
    return path


def test_what_is_written_is_read_back(path, network):
    loaded = load_model(path)
    assert loaded.schema == SCHEMA
    assert loaded.model == MODEL
    assert loaded.statement == {"rounds": 100}
    assert model_sha256(named_arrays(loaded.network)) == model_sha256(named_arrays(network))


def test_the_metadata_says_what_the_file_is(path):
    with safe_open(path, framework="numpy") as file:
        texts = file.metadata()
    assert texts["format"] == "fgcif-model"
    assert texts["format_version"] == "1"
    assert texts["schema_hash"] == SCHEMA.hash
    assert json.loads(texts["model"])["embedding_dim"] == 2


def test_predictions_have_the_columns_of_each_kind_of_target(path, network):
    table = predict(load_model(path), TABLE)
    assert table.column_names == [
        "customer",
        "churn_probability",
        "segment",
        "segment_probability",
        "value",
    ]
    outputs = network.outputs(encode(SCHEMA, TABLE, targets=False)).astype(float)
    assert table["customer"].to_pylist() == ["a", "b", "c"]
    np.testing.assert_allclose(table["churn_probability"], 1 / (1 + np.exp(-outputs[:, 0])))
    shares = np.exp(outputs[:, 1:4]) / np.exp(outputs[:, 1:4]).sum(axis=1, keepdims=True)
    likeliest = np.array(["low", "middle", "high"])[shares.argmax(axis=1)]
    assert table["segment"].to_pylist() == likeliest.tolist()
    np.testing.assert_allclose(table["segment_probability"], shares.max(axis=1))


def test_without_the_id_column_the_other_columns_are_predicted(path):
    assert "customer" not in predict(load_model(path), TABLE.drop_columns("customer")).column_names


@pytest.mark.parametrize(
    ("scaled", "value"),
    [(-1.0, 10.0), (0.0, 10.0), (0.5, 9 + np.sqrt(991)), (1.0, 1000.0), (7, 1000)],
)
def test_numeric_predictions_are_in_units_and_within_bounds(path, scaled, value):
    model = load_model(path)
    arrays = {name: np.zeros_like(array) for name, array in named_arrays(model.network).items()}
    arrays["heads.bias"][4] = scaled
    load_arrays(model.network, arrays)
    np.testing.assert_allclose(predict(model, TABLE)["value"], value, rtol=1e-6)


def test_a_feature_column_that_is_not_there_is_named(path):
    with pytest.raises(MissingColumnError, match="plan"):
        predict(load_model(path), TABLE.drop_columns("plan"))


def test_a_network_of_another_schema_is_not_written(tmp_path, network):
    other = Schema(name="other", features=SCHEMA.features[:1], targets=SCHEMA.targets)
    with pytest.raises(SchemaError, match="other"):
        save_model(tmp_path / "m.safetensors", network, other)
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_is_replaced_and_nothing_else_is_left(path):
    other = build_network(feature_layout(SCHEMA), MODEL, seed=5)
    save_model(path, other, SCHEMA)
    assert model_sha256(named_arrays(load_model(path).network)) == model_sha256(named_arrays(other))
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def rewrite(path, arrays=None, **changes):
    with safe_open(path, framework="numpy") as file:
        texts = {**file.metadata(), **changes}
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(arrays or kept, path, metadata={k: v for k, v in texts.items() if v is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": None}, "no model of this framework"),
        ({"format_version": "2"}, "model format 2, this version reads 1"),
        ({"schema": None}, "has no schema"),
        ({"schema": "name = 3"}, "damaged"),
        ({"schema_hash": "0" * 64}, "hash"),
        ({"model": "{}}"}, "metadata cannot be read"),
        ({"model": '{"hidden": [9]}'}, "arrays are not those"),
        ({"statement": "{"}, "metadata cannot be read"),
    ],
)
def test_a_file_that_is_not_our_model_is_refused_saying_why(path, changes, message):
    rewrite(path, **changes)
    with pytest.raises(DataError, match=message):
        load_model(path)


def test_absent_and_foreign_files_are_refused(tmp_path, path):
    with pytest.raises(DataError, match="there is no model file"):
        load_model(tmp_path / "absent.safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match="damaged"):
        load_model(path)
    path.write_text("customer,age\n1,2\n")
    with pytest.raises(FgcifError, match="no model file"):
        load_model(path)


def test_the_model_hash_covers_names_order_shapes_and_values():
    base = {"a": np.zeros((2, 3), np.float32), "b": np.ones(2, np.float32)}
    variants = [
        {"a": base["a"], "c": base["b"]},
        {"b": base["b"], "a": base["a"]},
        {"a": base["a"].reshape(3, 2), "b": base["b"]},
        {"a": base["a"], "b": base["b"] + 1},
        {"a": base["a"], "b": base["b"].astype(np.float64)},
    ]
    hashes = {model_sha256(arrays) for arrays in (base, *variants)}
    assert len(hashes) == 6
    assert model_sha256({name: array.copy() for name, array in base.items()}) in hashes
    big_endian = {name: array.astype(">f4") for name, array in base.items()}
    assert model_sha256(big_endian) == model_sha256(base)
