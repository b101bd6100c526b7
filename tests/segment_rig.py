"""Federations that learn segments: a schema with a learned target, and inputs of their tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import FeatureLayout, feature_layout
from fgcif_flwr.data.features import CategoricalTarget
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.federation.segmentation_releases import (
    CENTRES,
    PROFILE,
    ROWS,
    SEGMENT_TASKS,
    SPACE,
    STEP,
)
from tests import federation_rig, private_rig

SEGMENTS = 4
TARGET = "group"


def with_learned(path: Path, segments: int = SEGMENTS) -> Path:
    """Write the simulator's schema with a learned target beside its own; return the file."""
    schema = load_schema("simulated")
    classes = tuple(f"segment-{number}" for number in range(1, segments + 1))
    learned = CategoricalTarget(name=TARGET, classes=classes, source="learned")
    path.mkdir(parents=True, exist_ok=True)
    file = path / "segments.toml"
    agreed = schema.model_copy(update={"targets": (*schema.targets, learned)})
    file.write_text(agreed.to_toml(), encoding="utf-8")
    return file


def settings(path: Path, more: Mapping[str, object] | None = None) -> dict[str, object]:
    file = with_learned(path)
    return {"data.schema": str(file), "segmentation.target": TARGET, **(more or {})}


def segmented(path: Path, more: Mapping[str, object] | None = None) -> RunConfig:
    """A run without a privacy unit."""
    return federation_rig.configured(path / "run", settings(path, more))


def privately_segmented(
    path: Path, mode: Mapping[str, object], more: Mapping[str, object] | None = None
) -> RunConfig:
    return private_rig.private(path / "run", mode, settings(path, more))


def layout_for(config: RunConfig) -> FeatureLayout:
    return feature_layout(load_schema(config.data.schema_name))


def segments(dimensions: int = 3, count: int = SEGMENTS) -> dict[str, np.ndarray]:
    """Lawful arrays of segments, as they travel with every later task."""
    space = np.repeat([0.0, 1.0, 0.5], dimensions)
    centres = np.linspace(0.1, 0.9, count)[:, np.newaxis].repeat(dimensions, axis=1)
    return {SPACE: space, CENTRES: centres.reshape(-1)}


def inputs_of(task: str, config: RunConfig) -> dict[str, np.ndarray]:
    """A lawful input of a segmentation task."""
    arrays: dict[str, np.ndarray] = {}
    if task not in SEGMENT_TASKS[:1]:
        arrays[SPACE] = segments()[SPACE]
    if task in (STEP, PROFILE):
        arrays[CENTRES] = segments()[CENTRES]
        if config.privacy.unit == "none":
            arrays[ROWS] = np.array([200], np.int64)
    return arrays
