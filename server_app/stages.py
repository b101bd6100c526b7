"""The stages of a run, as the ServerApp walks them: join, statistics, training, evaluation."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from flwr.serverapp import Grid

import fgcif_flwr
from fgcif_flwr.config import RunConfig, flatten
from fgcif_flwr.data.encoding import FeatureLayout, feature_layout
from fgcif_flwr.data.schema import Schema, load_schema
from fgcif_flwr.errors import ConfigurationError, FgcifError
from fgcif_flwr.federation.generator_releases import generator_settings
from fgcif_flwr.federation.private_plan import plan_of, with_noise
from fgcif_flwr.federation.private_strategy import PrivateFedOpt
from fgcif_flwr.federation.records import arrays_from_record, arrays_to_record
from fgcif_flwr.federation.releases import FederationRows
from fgcif_flwr.federation.secure_strategy import RoundReport, SecureStrategy
from fgcif_flwr.federation.segmentation_releases import check_learned, segment_inputs
from fgcif_flwr.federation.session import SecureSumSession, SessionSettings
from fgcif_flwr.federation.strategy import SecureFedAvg
from fgcif_flwr.federation.terms import terms_of
from fgcif_flwr.federation.traffic import MeteredGrid, Traffic
from fgcif_flwr.generative.artifact import save_generator
from fgcif_flwr.models.artifact import model_sha256, save_model
from fgcif_flwr.models.network import MultiTaskNetwork, build_network, parameter_count
from fgcif_flwr.models.parameters import load_arrays, named_arrays
from fgcif_flwr.models.segmentation import Segmentation
from fgcif_flwr.models.training import balanced_class_weights
from fgcif_flwr.privacy.ledger import Witness
from fgcif_flwr.privacy.plan import PrivacyPlan
from fgcif_flwr.privacy.statement import PrivacyStatement
from fgcif_flwr.reporting.model_card import model_card
from fgcif_flwr.reporting.run_directory import RunDirectory
from fgcif_flwr.seeds import seed_for
from server_app.generators import LearntGenerator, learn_generator, warm_start
from server_app.segments import learn_segments
from server_app.statistics import exact_statistics, noisy_statistics
from server_app.sums import task_sums

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
    check_learned(config, features)
    settings = SessionSettings.of(config)
    secure_sum = settings.parameters(config.run.enterprises)
    config = with_noise(config, features, parameter_count(features, config.model), secure_sum)
    metered = grid if isinstance(grid, MeteredGrid) else MeteredGrid(grid)
    with ExitStack() as opened:
        terms = terms_of(config, schema.hash)
        if config.privacy.unit == "none":
            session = SecureSumSession(metered, settings, terms)
        else:
            witness = opened.enter_context(Witness(witness_file(config, directory)))
            session = SecureSumSession(
                metered, settings, terms, witness.seen, released=witness.released
            )
        session.join()
        network, record = _trained(session, metered, config, schema, directory, started)
    promised = {name: record[name] for name in ("privacy", "metrics")}
    if record["segments"] is not None:
        promised["segments"] = record["segments"]
    save_model(directory.model, network, schema, promised)
    directory.write_card(model_card(record, schema))
    directory.write_record(record)  # last: its presence says that the run is complete


def _trained(
    session: SecureSumSession,
    metered: MeteredGrid,
    config: RunConfig,
    schema: Schema,
    directory: RunDirectory,
    started: float,
) -> tuple[MultiTaskNetwork, dict[str, Any]]:
    """Walk the stages after the join; return the model and the run's record."""
    features = feature_layout(schema)
    last = metered.traffic.copy()

    def on_round(report: RoundReport) -> None:
        nonlocal last
        moved = metered.traffic.since(last)
        last = metered.traffic.copy()
        directory.append_history(
            asdict(report)
            | _per_enterprise(moved, config.run.enterprises)
            | {"elapsed_seconds": time.monotonic() - started}
        )

    stages = _before_training(session, metered, config, schema)
    strategy = _strategy(session, config, features, stages, on_round)
    before_training = last = metered.traffic.copy()
    network = build_network(features, config.model, seed_for(config, "model"))
    if stages.learnt is not None and config.generator.use == "warm-start":
        warm_start(network, stages.learnt.generator, config)
    result = strategy.start(
        metered,
        arrays_to_record(named_arrays(network)),
        num_rounds=config.run.rounds,
        timeout=config.run.timeout,
    )
    load_arrays(network, arrays_from_record(result.arrays))
    training = last.since(before_training)
    record = _record(config, schema, session, stages.statement)
    if stages.learnt is not None:
        settings = generator_settings(config)
        learnt = stages.learnt.generator
        save_generator(directory.generator, learnt, settings, schema, record["privacy"])
    record |= {
        "federation_rows": stages.counted,
        "generator": stages.generator_record(config),
        "segments": None if stages.segments is None else stages.segments.as_dict(),
        "metrics": strategy.metrics,
        "communication": {
            **_per_enterprise(training, config.run.enterprises * config.run.rounds),
            "exchanges": metered.traffic.exchanges,
            "total_bytes_up": metered.traffic.bytes_up,
            "total_bytes_down": metered.traffic.bytes_down,
        },
        "model_sha256": model_sha256(named_arrays(network)),
        "seconds": time.monotonic() - started,
    }
    return network, record


@dataclass(frozen=True)
class _Stages:
    """What the stages before training gave."""

    rows: FederationRows | None
    noisy_rows: float
    class_weights: dict[str, np.ndarray]
    plan: PrivacyPlan | None
    statement: PrivacyStatement
    segments: Segmentation | None
    learnt: LearntGenerator | None
    exchanges: int
    traffic: dict[str, float]

    @property
    def counted(self) -> dict[str, float]:
        """The rows as released."""
        return {"train": self.noisy_rows} if self.rows is None else dict(asdict(self.rows))

    def generator_record(self, config: RunConfig) -> dict[str, Any]:
        """Return what the run's record says of the generator."""
        if config.generator.kind == "none":
            return {"kind": "none", "exchanges": 0}
        return {
            "kind": config.generator.kind,
            "use": config.generator.use,
            "exchanges": self.exchanges,
            **self.traffic,
            "diagnostics": [] if self.learnt is None else self.learnt.diagnostics,
        }


def _before_training(
    session: SecureSumSession, metered: MeteredGrid, config: RunConfig, schema: Schema
) -> _Stages:
    """Learn the segments, count rows and classes, then let the generator learn."""
    features = feature_layout(schema)
    secure_sum = session.epoch.manifest.parameters(len(session.epoch.manifest.roster))
    plan, rows = None, None
    if config.privacy.unit != "none":
        parameters = parameter_count(features, config.model)
        plan = plan_of(config, features, parameters, secure_sum.honest_in_any_sum)
    summed = partial(task_sums, session, config, features, plan)
    segments = learn_segments(summed, config, schema, plan)
    if segments is not None:  # from here on every label is read by them
        session.standing = segment_inputs(segments.space, segments.centres)
    if plan is None:
        rows, classes = exact_statistics(session, config, features, schema)
        counted = float(rows.train)
    else:
        counted, classes = noisy_statistics(session, config, features, plan)
    weights = _class_weights(config, classes)
    before = metered.traffic.copy()
    learnt = learn_generator(session, config, features, counted, plan)
    moved = metered.traffic.since(before)
    return _Stages(
        rows,
        counted,
        weights,
        plan,
        PrivacyStatement.of(plan, secure_sum),
        segments,
        learnt,
        moved.exchanges,
        _per_enterprise(moved, config.run.enterprises),
    )


def _strategy(
    session: SecureSumSession,
    config: RunConfig,
    features: FeatureLayout,
    stages: _Stages,
    on_round: Callable[[RoundReport], None],
) -> SecureStrategy:
    generator = None if stages.learnt is None else stages.learnt.generator
    weights = stages.class_weights
    if stages.rows is not None:
        return SecureFedAvg(session, config, features, stages.rows, weights, on_round, generator)
    assert stages.plan is not None
    return PrivateFedOpt(
        session, config, features, stages.plan, stages.noisy_rows, weights, on_round, generator
    )


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


def witness_file(config: RunConfig, directory: RunDirectory) -> Path:
    """Return where the coordinator remembers what ledgers showed.

    Raises
    ------
    ConfigurationError
        If ``run.witness`` is not absolute, or is the file that each run makes anew.
    """
    if not config.run.witness:
        return directory.witness
    path = Path(config.run.witness)
    if not path.is_absolute() or path == directory.witness:
        raise ConfigurationError(
            "run.witness wants an absolute file outside run.output, which is cleared for each run"
        )
    return path


def write_failure(config: RunConfig, error: FgcifError) -> None:
    """Leave word of a failed run where its artefacts would be."""
    RunDirectory(output_directory(config)).write_failure(error)


def _class_weights(config: RunConfig, classes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if config.training.class_weighting == "none":
        return {}
    return {name: balanced_class_weights(counts) for name, counts in classes.items()}


def _per_enterprise(traffic: Traffic, shares: int) -> dict[str, float]:
    return {"bytes_up": traffic.bytes_up / shares, "bytes_down": traffic.bytes_down / shares}


def _record(
    config: RunConfig, schema: Schema, session: SecureSumSession, statement: PrivacyStatement
) -> dict[str, Any]:
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
        "privacy": statement.as_dict(),
    }
