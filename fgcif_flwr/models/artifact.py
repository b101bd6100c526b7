"""A trained model as one file: weights with all that is needed to score a table.

The file is safetensors: arrays and plain text, so that reading one runs no code of its author's
(a pickled model would). Its metadata holds the schema, the model section and a format number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

import fgcif_flwr
from fgcif_flwr.config import ModelSection
from fgcif_flwr.data.encoding import FeatureLayout, encode, feature_layout
from fgcif_flwr.data.schema import Schema, schema_from_toml
from fgcif_flwr.errors import ConfigurationError, DataError, SchemaError
from fgcif_flwr.models.network import MultiTaskNetwork, build_network, parameter_count
from fgcif_flwr.models.parameters import Arrays, load_arrays, named_arrays
from fgcif_flwr.models.prediction_columns import prediction_columns, with_id
from fgcif_flwr.models.segmentation import Segmentation
from fgcif_flwr.models.tensor_file import read_tensors, write_tensors

FORMAT = "fgcif-model"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class LoadedModel:
    """A model file's content.

    ``version`` is the version of this package that wrote it; ``statement`` is what the writer
    added (run, privacy), as plain JSON values. ``segments`` say what the classes of a learned
    target are, where the schema has one.
    """

    network: MultiTaskNetwork
    schema: Schema
    model: ModelSection
    version: str
    statement: dict[str, object]
    segments: Segmentation | None = None


def save_model(
    path: Path,
    network: MultiTaskNetwork,
    schema: Schema,
    statement: Mapping[str, object] | None = None,
) -> None:
    """Write ``network`` to ``path`` (``.safetensors``), whole or not at all.

    Parameters
    ----------
    path
        File to write; an older one is replaced, its directory must exist.
    network
        Built for ``schema``.
    schema
        Stored as a whole, and checked by its hash when the file is read.
    statement
        What a reader should know of the run (rounds, privacy, figures); JSON values. What it says
        under ``segments`` is :meth:`Segmentation.as_dict`.

    Raises
    ------
    SchemaError
        Where the network was built for another schema.
    """
    if network.layout != feature_layout(schema):
        raise SchemaError(f"the network was not built for schema {schema.name}; nothing is written")
    texts = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "version": fgcif_flwr.__version__,
        "schema": schema.to_toml(),
        "schema_hash": schema.hash,
        "model": network.config.model_dump_json(),
        "statement": json.dumps(dict(statement or {}), sort_keys=True),
    }
    write_tensors(path, named_arrays(network), texts)


def load_model(path: Path) -> LoadedModel:
    """Read a file of :func:`save_model`.

    Raises
    ------
    DataError
        Where the file is absent, no model of this framework, of a later format, or damaged.
    """
    texts, arrays = _read(path)
    if texts.get("format") != FORMAT:
        raise DataError(f"{path} is a safetensors file but no model of this framework")
    if texts.get("format_version") != str(FORMAT_VERSION):
        raise DataError(
            f"{path} has model format {texts.get('format_version')}, this version reads "
            f"{FORMAT_VERSION}; use the version that wrote it ({texts.get('version', 'unknown')})"
        )
    try:
        schema = schema_from_toml(texts["schema"], str(path))
        model = ModelSection.model_validate_json(texts["model"])
        statement = json.loads(texts["statement"])
        if schema.hash != texts["schema_hash"]:
            raise DataError(f"{path} is damaged: its schema has not the hash that it states")
        features = feature_layout(schema)
        # Counted before it is built: a small hostile file could name a network of any size.
        if sum(array.size for array in arrays.values()) != parameter_count(features, model):
            raise DataError(f"{path} is damaged: its arrays are not those of its network")
        network = build_network(features, model, seed=0)
        load_arrays(network, arrays)
        segments = _segments(statement, features)
    except KeyError as error:
        raise DataError(f"{path} is damaged: its metadata has no {error.args[0]}") from None
    except (ValidationError, json.JSONDecodeError, RecursionError):
        raise DataError(f"{path} is damaged: its metadata cannot be read") from None
    except (ConfigurationError, SchemaError) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    version = texts.get("version", "unknown")
    return LoadedModel(network, schema, model, version, statement, segments)


def _segments(statement: object, features: FeatureLayout) -> Segmentation | None:
    """Return the segments of a model's statement, checked against its schema."""
    tree = statement.get("segments") if isinstance(statement, dict) else None
    if tree is None:
        return None
    segments = Segmentation.from_dict(tree)
    classes = {head.name: head.classes for head in features.heads if head.learned}
    if classes.get(segments.target) != tuple(one.word for one in segments.segments):
        raise DataError("the segments are damaged: they are not of the schema's learned target")
    if not {name for name, _ in segments.features} <= set(features.numeric):
        raise DataError("the segments are damaged: they are of features that the schema has not")
    return segments


def predict(model: LoadedModel, table: pa.Table) -> pa.Table:
    """Score ``table``; its target columns are neither needed nor read.

    Returns
    -------
    pyarrow.Table
        Rows as in ``table``: the id column where the table has it, then for a binary target
        ``NAME_probability`` (of the positive class), for a categorical one ``NAME`` (the likeliest
        class) and ``NAME_probability`` (of that class), for a numeric one ``NAME`` in its own
        units, within its bounds.

    Raises
    ------
    MissingColumnError, ValueOutOfKindError
        As :func:`fgcif_flwr.data.encoding.encode`.
    """
    outputs = model.network.outputs(encode(model.schema, table, targets=False))
    columns = prediction_columns(model.network, model.schema, outputs, likeliest=1)
    return with_id(model.schema, table, columns)


def model_sha256(arrays: Mapping[str, NDArray[np.float32]]) -> str:
    """Return the SHA-256 (hex) over names, kinds, shapes and little-endian bytes, in order."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        # Every part is delimited, so that no two different models hash the same bytes.
        digest.update(json.dumps([name, little.dtype.str, list(array.shape)]).encode() + b"\n")
        digest.update(little.tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, str], Arrays]:
    texts, arrays = read_tensors(path, "model")
    if not all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays.values()):
        raise DataError(f"{path} is damaged: its weights are not finite float32 numbers")
    return texts, {name: array.astype(np.float32) for name, array in arrays.items()}
