"""A small schema, customers of it, and models for tests of scoring."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fgcif_flwr.config import ModelSection
from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import Schema, schema_from_toml
from fgcif_flwr.models.artifact import LoadedModel
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import load_arrays, named_arrays

SCHEMA = schema_from_toml(
    """
name = "shop"
id_column = "customer"

[[features]]
name = "recency"
column = "days"
kind = "numeric"
lower = 0
upper = 365
unit = "days"
description = "time since the last purchase"

[[features]]
name = "plan"
kind = "categorical"
vocabulary = ["basic", "plus"]

[[features]]
name = "spend"
kind = "numeric"
lower = 0
upper = 9999
log = true

[[features]]
name = "town"
kind = "categorical"
buckets = 8

[[features]]
name = "newsletter"
kind = "boolean"
description = "reads 5 % of it"

[[targets]]
name = "segment"
kind = "categorical"
classes = ["low", "middle", "high", "top"]

[[targets]]
name = "churn"
kind = "binary"
positive = "yes"
negative = "no"

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


def customers(rows: int, seed: int = 0) -> pa.Table:
    """Customers with missing and unseen values among them."""
    rng = np.random.default_rng(seed)
    days = rng.uniform(-10, 400, rows)
    days[rng.random(rows) < 0.1] = np.nan
    return pa.table(
        {
            "customer": [f"c{number}" for number in range(rows)],
            "days": days,
            "plan": rng.choice(["basic", "plus", "gold", ""], rows),
            "spend": rng.lognormal(4, 2, rows),
            "town": rng.choice(["Ulm", "Bonn", "Trier", ""], rows),
            "newsletter": rng.choice(["yes", "no", ""], rows),
        }
    )


def loaded(seed: int = 1, model: ModelSection = MODEL, schema: Schema = SCHEMA) -> LoadedModel:
    """Return a model with random weights, large enough that its outputs differ."""
    network = build_network(feature_layout(schema), model, seed)
    arrays = named_arrays(network)
    arrays = {name: 3 * array for name, array in arrays.items()}
    for name in ("heads.weight", "heads.bias"):
        arrays[name][-1] *= 0.1  # the last target of SCHEMA is a number of [0, 1]
    load_arrays(network, arrays)
    return LoadedModel(network, schema, model, "0", {})


def linear(seed: int = 2, model: ModelSection = MODEL) -> LoadedModel:
    """Return a model whose ReLUs all pass whatever row it gets, so that it is linear."""
    found = loaded(seed, model)
    arrays = named_arrays(found.network)
    for layer in range(len(model.hidden)):
        arrays[f"trunk.{layer}.bias"] += 100.0 * 300**layer
    load_arrays(found.network, arrays)
    return found
