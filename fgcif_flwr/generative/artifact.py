"""A shared generator as one file: what it learnt, its settings, the schema, the promise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fgcif_flwr
from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import Schema, schema_from_toml
from fgcif_flwr.errors import DataError, FgcifError, SchemaError
from fgcif_flwr.generative.generator import Generator
from fgcif_flwr.generative.marginals.model import MarginalGenerator
from fgcif_flwr.generative.marginals.settings import MarginalSettings
from fgcif_flwr.models.tensor_file import read_tensors, write_tensors

if TYPE_CHECKING:
    from fgcif_flwr.generative.federated_ctgan import FederatedCtganSettings

FORMAT = "fgcif-generator"
FORMAT_VERSION = 1

_FEDERATED_CTGAN = "federated-ctgan"  # FederatedCtgan.kind, whose import is slow


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator file's content.

    ``version`` is that of this package which wrote it, ``statement`` the privacy statement of the
    run that it is from.
    """

    generator: Generator
    schema: Schema
    version: str
    statement: dict[str, Any]


def save_generator(
    path: Path,
    generator: Generator,
    settings: MarginalSettings | FederatedCtganSettings,
    schema: Schema,
    statement: Mapping[str, Any],
) -> None:
    """Write a generator to ``path`` (``.safetensors``), whole or not at all.

    Raises
    ------
    SchemaError
        Where the generator was learnt for another schema.
    """
    if generator.layout != feature_layout(schema):
        raise SchemaError(f"the generator was not learnt for schema {schema.name}")
    texts = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "version": fgcif_flwr.__version__,
        "kind": generator.kind,
        "settings": json.dumps(asdict(settings), sort_keys=True),
        "schema": schema.to_toml(),
        "statement": json.dumps(dict(statement), sort_keys=True),
    }
    write_tensors(path, generator.arrays(), texts)


def load_generator(path: Path) -> LoadedGenerator:
    """Read a file of :func:`save_generator`.

    Raises
    ------
    DataError
        Where the file is absent, no generator of this framework, of a later format, or damaged.
    """
    texts, arrays = read_tensors(path, "generator")
    if texts.get("format") != FORMAT:
        raise DataError(f"{path} is a safetensors file but no generator of this framework")
    if texts.get("format_version") != str(FORMAT_VERSION):
        raise DataError(
            f"{path} has generator format {texts.get('format_version')}, this version reads "
            f"{FORMAT_VERSION}; use the version that wrote it ({texts.get('version', 'unknown')})"
        )
    kind = texts.get("kind")
    if kind is not None and kind not in (MarginalGenerator.kind, _FEDERATED_CTGAN):
        raise DataError(
            f"{path} holds a {kind} generator, which this version does not read; use the version "
            f"that wrote it ({texts.get('version', 'unknown')})"
        )
    generator: Generator
    try:
        schema = schema_from_toml(texts["schema"], str(path))
        settings: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in _object(texts["settings"]).items()
        }
        layout = feature_layout(schema)
        if texts["kind"] == MarginalGenerator.kind:
            generator = MarginalGenerator.from_arrays(layout, MarginalSettings(**settings), arrays)
        else:
            from fgcif_flwr.generative.federated_ctgan import FederatedCtgan, FederatedCtganSettings

            ctgan = FederatedCtganSettings(**settings)
            generator = FederatedCtgan.from_arrays(layout, ctgan, arrays)
        statement = _object(texts["statement"])
    except KeyError as error:
        raise DataError(f"{path} is damaged: it has no {error.args[0]}") from None
    except (FgcifError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {type(error).__name__} while reading it") from None
    return LoadedGenerator(generator, schema, texts.get("version", "unknown"), statement)


def _object(text: str) -> dict[str, Any]:
    read = json.loads(text)
    if not isinstance(read, dict):
        raise ValueError("a JSON object is wanted")
    return read
