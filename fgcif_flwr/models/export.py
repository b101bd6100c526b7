"""A model for use without this package: PyTorch's exported program, and what its inputs mean.

``NAME.pt2`` is a program of ``torch.export``: it needs PyTorch alone, and loading it runs no code
of its author's. It takes the three arrays of :class:`fgcif_flwr.data.encoding.EncodedTable` and
returns the network's outputs. ``NAME.json`` says how a row of a table becomes these arrays, and
what each output is.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import (
    BooleanFeature,
    CategoricalFeature,
    NumericFeature,
    NumericTarget,
)
from fgcif_flwr.errors import DataError
from fgcif_flwr.models.artifact import LoadedModel, model_sha256
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import load_arrays, named_arrays

EXPORT_FORMAT = "fgcif-exported-model"


@dataclass(frozen=True)
class ExportedFiles:
    """The two files of an exported model."""

    program: Path
    encoding: Path


def export_model(loaded: LoadedModel, path: Path) -> ExportedFiles:
    """Write ``path`` (``.pt2``) and beside it the description of its inputs (``.json``).

    Parameters
    ----------
    path
        Its directory must exist; older files are replaced.

    Raises
    ------
    DataError
        Where the name does not end in ``.pt2``, or a file cannot be written.
    """
    if path.suffix != ".pt2":
        raise DataError(f"{path}: an exported model's name ends in .pt2")
    files = ExportedFiles(path, path.with_suffix(".json"))
    program = io.BytesIO()
    torch.export.save(_program(loaded), program)
    text = json.dumps(encoding_description(loaded), indent=2, ensure_ascii=False) + "\n"
    try:
        # The program last: where it lies, its description does.
        _write(files.encoding, text.encode())
        _write(files.program, program.getvalue())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from None
    return files


def encoding_description(loaded: LoadedModel) -> dict[str, Any]:
    """Return what the inputs and outputs of an exported model mean, as plain JSON values."""
    schema, network = loaded.schema, loaded.network
    layout = feature_layout(schema)
    by_name = {feature.name: feature for feature in schema.features}
    targets = {target.name: target for target in schema.targets}
    outputs = []
    for head, where in zip(layout.heads, network.head_slices, strict=True):
        target = targets[head.name]
        entry: dict[str, Any] = {
            "name": head.name,
            "kind": head.kind,
            "columns": list(range(where.start, where.stop)),
            "classes": list(head.classes),
            "meaning": _MEANINGS[head.kind],
        }
        if isinstance(target, NumericTarget):
            entry |= _scale(target.lower, target.upper, target.log) | {"unit": target.unit}
        outputs.append(entry)
    return {
        "format": EXPORT_FORMAT,
        "format_version": 1,
        "schema": schema.name,
        "schema_hash": schema.hash,
        "model_sha256": model_sha256(named_arrays(network)),
        "text": "White space around a value is removed first; the words of `missing` are missing.",
        "missing": list(schema.missing),
        "inputs": {
            "numeric": {
                "type": "float32 (rows, columns), 0 where missing",
                "columns": [_numeric(by_name[name]) for name in layout.numeric],
            },
            "missing": {"type": "float32 (rows, numeric columns), 1 where missing, else 0"},
            "categorical": {
                "type": "int64 (rows, columns): 0 missing, 1 another word, 2.. the words in order",
                "columns": [_categorical(by_name[name]) for name in layout.categorical],
            },
        },
        "outputs": {"type": "float32 (rows, columns)", "heads": outputs},
    }


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


_MEANINGS = {
    "binary": "log odds of the second class: probability = 1 / (1 + exp(-x))",
    "categorical": "a logit for each class: probabilities = softmax(x)",
    "numeric": "the scaled value, to be clipped to [0, 1]",
}


def _program(loaded: LoadedModel) -> torch.export.ExportedProgram:
    layout = loaded.network.layout
    # A trained network's parameters are views of one vector, which is no form to write.
    network = build_network(layout, loaded.model, seed=0)
    load_arrays(network, named_arrays(loaded.network))
    numbers, categories = len(layout.numeric), len(layout.categorical)
    # Two rows: a dimension of size 1 would be taken for a constant.
    example = (
        torch.zeros(2, numbers),
        torch.zeros(2, numbers),
        torch.zeros(2, categories, dtype=torch.int64),
    )
    rows = torch.export.Dim("rows", min=1)
    return torch.export.export(network, example, dynamic_shapes=({0: rows},) * 3)


def _numeric(feature: object) -> dict[str, Any]:
    assert isinstance(feature, NumericFeature)
    scale = _scale(feature.lower, feature.upper, feature.log)
    return {
        "name": feature.name,
        "column": feature.column,
        "unit": feature.unit,
        "missing": list(feature.missing),
        **scale,
    }


def _scale(lower: float, upper: float, log: bool) -> dict[str, Any]:
    shifted = "min(max(value, lower), upper) - lower"
    scaled = f"log1p({shifted}) / log1p(upper - lower)" if log else f"({shifted}) / (upper - lower)"
    return {"lower": lower, "upper": upper, "log": log, "scaled": scaled}


def _categorical(feature: object) -> dict[str, Any]:
    if isinstance(feature, BooleanFeature):
        return {
            "name": feature.name,
            "column": feature.column,
            "codes": "2 for a word of false, 3 for one of true, compared without regard to case",
            "false": list(feature.false),
            "true": list(feature.true),
        }
    assert isinstance(feature, CategoricalFeature)
    entry: dict[str, Any] = {
        "name": feature.name,
        "column": feature.column,
        "missing": list(feature.missing),
    }
    if feature.vocabulary is not None:
        return entry | {"codes": "2 + place in words, from 0", "words": list(feature.vocabulary)}
    return entry | {
        "codes": "2 + BLAKE2b(UTF-8 of the word, 8-byte digest, big-endian) mod buckets",
        "buckets": feature.buckets,
    }
