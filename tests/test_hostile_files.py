"""Files from strangers are refused in words, before they cost memory or time."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fgcif_flwr.config import ModelSection
from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import load_schema, schema_from_toml
from fgcif_flwr.errors import DataError, SchemaError
from fgcif_flwr.generative.artifact import load_generator, save_generator
from fgcif_flwr.generative.columns import columns_of
from fgcif_flwr.generative.federated_ctgan import Coordinator, FederatedCtganSettings
from fgcif_flwr.generative.marginals.grid import cells_of
from fgcif_flwr.models.artifact import load_model, save_model
from fgcif_flwr.models.network import build_network, parameter_count


@pytest.fixture
def model(tmp_path: Path) -> Path:
    schema = load_schema("telco")
    path = tmp_path / "model.safetensors"
    save_model(path, build_network(feature_layout(schema), ModelSection(hidden=(8,)), 0), schema)
    return path


def rewritten(path: Path, change) -> Path:
    with safe_open(path, framework="numpy") as file:
        texts = dict(file.metadata())
    arrays = load_file(path)
    change(texts, arrays)
    save_file(arrays, path, metadata=texts)
    return path


def widen(texts, arrays):
    texts["model"] = json.dumps(json.loads(texts["model"]) | {"hidden": [4096, 4096]})


def nan(texts, arrays):
    arrays["heads.bias"] = np.full_like(arrays["heads.bias"], np.nan)


def double(texts, arrays):
    arrays["heads.bias"] = arrays["heads.bias"].astype(np.float64)


def nested(texts, arrays):
    texts["statement"] = "[" * 100_000


def listed(texts, arrays):
    texts["statement"] = "[]"


def unset(texts, arrays):
    texts["settings"] = "[]"


def widen_generator(texts, arrays):
    texts["settings"] = json.dumps(json.loads(texts["settings"]) | {"hidden": [4096, 4096]})


def nan_generator(texts, arrays):
    arrays["generator"] = np.full_like(arrays["generator"], np.nan)


@pytest.mark.parametrize("change", [widen, nan, double, nested])
def test_a_model_file_that_was_tampered_with_is_refused(model: Path, change):
    tracemalloc.start()
    with pytest.raises(DataError, match="damaged"):
        load_model(rewritten(model, change))
    assert tracemalloc.get_traced_memory()[1] < 50e6


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    schema, settings = load_schema("telco"), FederatedCtganSettings(hidden=(8,), critic_hidden=(8,))
    layout = feature_layout(schema)
    counts = {
        column.name: np.ones(cells)
        for column, cells in zip(columns_of(layout), cells_of(layout), strict=True)
    }
    path = tmp_path / "generator.safetensors"
    learnt = Coordinator(layout, settings, counts, seed=0).generator()
    save_generator(path, learnt, settings, schema, {"statement": "none"})
    return path


def test_a_generator_file_is_read_back(generator: Path):
    loaded = load_generator(generator)
    assert loaded.generator.kind == "federated-ctgan"
    assert loaded.statement == {"statement": "none"}
    assert len(loaded.generator.sample(5, np.random.default_rng(0))) == 5


@pytest.mark.parametrize(
    "change", [widen_generator, nan_generator, nested, listed, unset], ids=lambda c: c.__name__
)
def test_a_generator_file_that_was_tampered_with_is_refused(generator: Path, change):
    with pytest.raises(DataError, match="damaged"):
        load_generator(rewritten(generator, change))


def test_a_generator_of_another_versions_kind_is_no_damage_and_says_whose_it_is(generator: Path):
    def rename(texts, arrays):
        texts["kind"] = "diffusion"

    with pytest.raises(DataError, match="diffusion generator, which this version does not read"):
        load_generator(rewritten(generator, rename))
    tracemalloc.stop()


@pytest.mark.parametrize("hidden", [(8,), (64, 32), (5, 4, 3)])
@pytest.mark.parametrize("encoding", ["standardised", "piecewise-linear"])
def test_parameters_are_counted_without_building_the_network(hidden, encoding):
    for name in ("telco", "simulated"):
        layout = feature_layout(load_schema(name))
        config = ModelSection(hidden=hidden, numeric_encoding=encoding)
        built = sum(p.numel() for p in build_network(layout, config, 0).parameters())
        assert parameter_count(layout, config) == built


def test_a_schema_nested_without_end_is_refused():
    with pytest.raises(SchemaError):
        schema_from_toml("a = " + "[" * 100_000, "a stranger's file")
