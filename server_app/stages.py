"""The stages of a run, as the ServerApp walks them: join, statistics, training, evaluation."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import numpy as np
from flwr.serverapp import Grid

import fgcif_flwr
from fgcif_flwr.config import RunConfig, flatten
from fgcif_flwr.data.encoding import FeatureLayout, feature_layout
from fgcif_flwr.data.schema import Schema, load_schema
from fgcif_flwr.errors import (
    ClassAbsentError,
    ConfigurationError,
    DataError,
    FgcifError,
    SecureSumError,
)
from fgcif_flwr.federation.records import arrays_from_record, arrays_to_record
from fgcif_flwr.federation.releases import STATISTICS, FederationRows, layout_of
from fgcif_flwr.federation.session import SecureSumSession, SessionSettings, Sum, Task
from fgcif_flwr.federation.strategy import RoundReport, SecureFedAvg
from fgcif_flwr.federation.terms import terms_of
from fgcif_flwr.federation.traffic import MeteredGrid, Traffic
from fgcif_flwr.models.artifact import model_sha256, save_model
from fgcif_flwr.models.network import build_network
from fgcif_flwr.models.parameters import load_arrays, named_arrays
from fgcif_flwr.models.training import balanced_class_weights
from fgcif_flwr.privacy.statement import PrivacyStatement
from fgcif_flwr.reporting.model_card import model_card
from fgcif_flwr.reporting.run_directory import RunDirectory
from fgcif_flwr.seeds import seed_for

logger = logging.getLogger(__name__)


def run_stages(grid: Grid, config: RunConfig) -> None:
    """Run a federation over ``grid`` and write its artefacts to ``run.output``.

    Raises
    ------
    FgcifError
        If the run cannot start or does not finish; nothing half-done is written as a result.
    """
    started = time.monotonic()
    directory = RunDirectory(output_directory(config))
    directory.clear()
    schema = load_schema(config.data.schema_name)
    features = feature_layout(schema)
    metered = grid if isinstance(grid, MeteredGrid) else MeteredGrid(grid)
    session = SecureSumSession(metered, SessionSettings.of(config), terms_of(config, schema.hash))
    session.join()
    rows, classes = _statistics(session, config, features, schema)
    network = build_network(features, config.model, seed_for(config, "model"))
    before_training = metered.traffic.copy()
    last = before_training

    def on_round(report: RoundReport) -> None:
        nonlocal last
        moved = metered.traffic.since(last)
        last = metered.traffic.copy()
        directory.append_history(
            asdict(report)
            | _per_enterprise(moved, config.run.enterprises)
            | {"elapsed_seconds": time.monotonic() - started}
        )

    strategy = SecureFedAvg(
        session, config, features, rows, _class_weights(config, classes), on_round
    )
    result = strategy.start(
        metered,
        arrays_to_record(named_arrays(network)),
        num_rounds=config.run.rounds,
        timeout=config.run.timeout,
    )
    load_arrays(network, arrays_from_record(result.arrays))
    metrics = strategy.metrics
    training = last.since(before_training)
    record = _record(config, schema, session, rows)
    record |= {
        "metrics": metrics,
        "communication": {
            **_per_enterprise(training, config.run.enterprises * config.run.rounds),
            "exchanges": metered.traffic.exchanges,
            "total_bytes_up": metered.traffic.bytes_up,
            "total_bytes_down": metered.traffic.bytes_down,
        },
        "model_sha256": model_sha256(named_arrays(network)),
        "seconds": time.monotonic() - started,
    }
    save_model(directory.model, network, schema, {"privacy": record["privacy"], "metrics": metrics})
    directory.write_card(model_card(record, schema))
    directory.write_record(record)  # last: its presence says that the run is complete


def output_directory(config: RunConfig) -> Path:
    """Return where artefacts go: ``run.output``, an absolute path.

    Raises
    ------
    ConfigurationError
        If it is not absolute: the process that writes was started somewhere else.
    """
    if not config.run.output:
        return Path.home() / ".fgcif" / "runs" / f"seed-{config.run.seed}"
    path = Path(config.run.output)
    if not path.is_absolute():
        raise ConfigurationError("run.output wants an absolute directory")
    return path


def write_failure(config: RunConfig, error: FgcifError) -> None:
    """Leave word of a failed run where its artefacts would be."""
    RunDirectory(output_directory(config)).write_failure(error)


def _statistics(
    session: SecureSumSession, config: RunConfig, features: FeatureLayout, schema: Schema
) -> tuple[FederationRows, dict[str, np.ndarray]]:
    """Sum the rows of each split and the classes; ClassAbsentError where there are none."""
    layout = layout_of(STATISTICS, config, features, 0)
    total = session.sum(Task(STATISTICS, layout, {}))
    train, validation, test = (int(count) for count in total.values["rows"])
    classes = _classes(total, features)
    if min(train, validation, test, *(c.min() for c in classes.values())) < 0 or any(
        counts.sum() > train for counts in classes.values()
    ):
        raise SecureSumError("the enterprises' counts of rows and classes contradict each other")
    for count, split in ((train, "training"), (test, "test")):
        if count == 0:
            raise DataError(
                f"there are no {split} rows at any enterprise; use a larger table or change "
                "data.test_fraction"
            )
    for head in features.heads:
        for word, count in zip(head.classes, classes.get(head.name, ()), strict=False):
            if count == 0:
                raise ClassAbsentError(
                    f"target {head.name}: no enterprise has a training row of class {word!r}; "
                    f"correct schema {schema.name} or the table"
                )
    return FederationRows(train, validation, test), classes


def _classes(total: Sum, features: FeatureLayout) -> dict[str, np.ndarray]:
    return {
        head.name: total.values[f"classes/{head.name}"]
        for head in features.heads
        if head.kind != "numeric"
    }


def _class_weights(config: RunConfig, classes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if config.training.class_weighting == "none":
        return {}
    return {name: balanced_class_weights(counts) for name, counts in classes.items()}


def _per_enterprise(traffic: Traffic, shares: int) -> dict[str, float]:
    return {"bytes_up": traffic.bytes_up / shares, "bytes_down": traffic.bytes_down / shares}


def _record(
    config: RunConfig, schema: Schema, session: SecureSumSession, rows: FederationRows
) -> dict[str, object]:
    statement = PrivacyStatement.of(config.privacy)
    parameters = session.epoch.parameters
    return {
        "status": "completed",
        "config": flatten(config),
        "schema": {"name": schema.name, "hash": schema.hash},
        "versions": {
            "fgcif": fgcif_flwr.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("flwr", "torch", "numpy")},
        },
        "seed": config.run.seed,
        "rounds": config.run.rounds,
        "secure_sum": {
            **asdict(parameters),
            "withstands": parameters.withstands,
            "honest_in_any_sum": parameters.honest_in_any_sum,
            "honest_with_consistency": parameters.honest_if(consistency=True),
            "honest_without_consistency": parameters.honest_if(consistency=False),
            "run_id": session.epoch.run_id.hex(),
        },
        "federation_rows": asdict(rows),
        "privacy": {**asdict(statement), "statement": statement.in_words()},
    }
