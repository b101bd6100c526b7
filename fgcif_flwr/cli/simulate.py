"""``fgcif simulate``: a federation of simulated enterprises on one table, beside its bounds."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from fgcif_flwr import errors
from fgcif_flwr.cli.output import Format, emit, ending_on_signals, reporting_errors
from fgcif_flwr.cli.progress import RunProgress
from fgcif_flwr.cli.run_options import (
    AssignmentsOption,
    ConfigOption,
    DataOption,
    EnterprisesOption,
    PartitionOption,
    SchemaOption,
    asked_of,
    resolve,
)
from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.consortium import Consortium
from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.errors import FgcifError, PrivacyError, RunFailedError
from fgcif_flwr.federation.flower import run_with_flower
from fgcif_flwr.federation.inline import run_inline
from fgcif_flwr.logs import logging_to
from fgcif_flwr.models.artifact import load_model
from fgcif_flwr.models.baselines import metrics_on
from fgcif_flwr.reporting.comparison import baselines_apart
from fgcif_flwr.reporting.run_directory import RunDirectory
from fgcif_flwr.reporting.tables import print_simulation


class Engine(StrEnum):
    """What carries the messages."""

    FLOWER = "flower"
    INLINE = "inline"


def simulate(
    data: DataOption = None,
    schema: SchemaOption = None,
    partition: PartitionOption = None,
    enterprises: EnterprisesOption = None,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of training.", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run.", show_default=False)] = None,
    engine: Annotated[
        Engine,
        typer.Option(help="flower: flwr run (Ray); inline: one worker per core."),
    ] = Engine.FLOWER,
    config: ConfigOption = None,
    assignments: AssignmentsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the artefacts (default: a new one)", show_default=False),
    ] = None,
    with_baselines: Annotated[
        bool,
        typer.Option("--baselines/--no-baselines", help="Also train centralized and alone."),
    ] = True,
    form: Annotated[Format, typer.Option("--format", help="text or json.")] = Format.TEXT,
) -> None:
    """Train a federation of simulated enterprises and show it beside its bounds.

    Without --data the built-in CRM simulator gives the customers.

    Example:
    fgcif simulate --data churn.csv --schema telco --partition iid --enterprises 50
    """
    with reporting_errors("simulate", form):
        flags = {
            "data.table": data,
            "data.schema": schema,
            "data.partition": partition,
            "run.enterprises": enterprises,
            "run.rounds": rounds,
            "run.seed": seed,
        }
        asked = asked_of(config, assignments, flags)
        resolved, warnings = resolve(asked, out)
        result = run_simulation(resolved, engine, with_baselines=with_baselines)
        history = RunDirectory(Path(resolved.run.output)).read_history()
        warnings += cautions(history, result["metrics"]) + capped(resolved)
        emit(
            form,
            "simulate",
            result,
            lambda console: print_simulation(result, warnings, console),
            warnings,
        )


def run_simulation(
    config: RunConfig, engine: Engine, *, with_baselines: bool = True
) -> dict[str, Any]:
    """Run the federation, then its bounds; return the result as documented for ``--format json``.

    Raises
    ------
    FgcifError
        As the run, with the reason that the ServerApp left where it has failed.
    """
    started = time.monotonic()
    torch.set_num_threads(1)
    directory = RunDirectory(Path(config.run.output))
    with (
        RunProgress() as progress,
        ending_on_signals(),
        directory.locked(),
        ExitStack() as beside,
    ):
        directory.clear()
        directory.log.unlink(missing_ok=True)
        progress.stage("reading rows")
        consortium = consortium_of(config)  # faults of table and schema show before any start
        progress.done()
        check_delta_against(consortium, config)
        bounding = None
        if with_baselines:
            # A fresh process: a forked one would inherit the thread pools of torch and Arrow.
            spawning = multiprocessing.get_context("spawn")
            pool = beside.enter_context(spawning.Pool(1, _leave_interrupts_to_parent))
            bounding = pool.apply_async(baselines_apart, (config,))
        progress.stage(f"federation ({engine.value})", config.run.rounds)
        status = _run(
            config, engine, directory, lambda: progress.update(len(directory.read_history()))
        )
        bounds: dict[str, Any] = {}
        if bounding is not None:
            progress.stage("centralized and alone")
            bounds = bounding.get()
            progress.done()
    result = _result(directory, consortium, bounds, time.monotonic() - started)
    result["engine"] = {"name": engine.value, "status": status}
    directory.write_record(
        directory.read_record()
        | {name: result[name] for name in ("test_metrics", "engine")}
        | {"comparison": result["metrics"]}
    )
    return result


def check_delta_against(consortium: Consortium, config: RunConfig) -> None:
    """Raise PrivacyError where delta would let a row of the whole consortium be shown.

    Only a simulation knows the number of rows; a deployment has the public cap alone.
    """
    delta, rows = config.privacy.delta, len(consortium.pooled("train"))
    if config.privacy.unit == "customer" and delta != "none" and delta >= 1 / max(1, rows):
        raise PrivacyError(
            f"privacy.delta {delta:g} wants less than 1 / rows = {1 / max(1, rows):.2g}"
        )


def _run(
    config: RunConfig, engine: Engine, directory: RunDirectory, on_poll: Callable[[], None]
) -> str:
    """Run the federation and return what its engine says of it."""
    try:
        if engine is Engine.FLOWER:
            return run_with_flower(config, directory.log, on_poll)
        # The apps are the top of the project; only the inline engine needs them here.
        from server_app.app import app as server

        with logging_to(directory.log):
            run_inline(server, "client_app.app:app", config, on_poll, directory.log)
        return "completed"
    except RunFailedError:
        reason = _failure(directory)
        if reason is None:
            raise
        raise reason from None


def _failure(directory: RunDirectory) -> FgcifError | None:
    """Return the error that the ServerApp left word of, if any."""
    if not directory.failure.exists():
        return None
    left = json.loads(directory.failure.read_text(encoding="utf-8"))
    return errors.by_exit_code(int(left["exit_code"]), str(left["message"]))


def _result(
    directory: RunDirectory, consortium: Consortium, bounds: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    record: dict[str, Any] = directory.read_record()
    heads = {"federated": record["metrics"]["test"], **bounds}
    private = record["privacy"]["unit"] != "none"
    if private:  # what only a simulation can know; the run itself released noisy counts
        model, test = load_model(directory.model), consortium.pooled("test")
        if model.segments is not None:  # labels that the run learnt, and no column holds
            test = model.segments.labelled(consortium.layout, test)
        heads["released"] = heads["federated"]
        heads["federated"] = metrics_on(model.network, test)
    binary = [head.name for head in consortium.layout.heads if head.kind == "binary"]
    target = (binary or [head.name for head in consortium.layout.heads])[0]
    metrics = {name: by_head[target] for name, by_head in heads.items()}
    if consortium.ceiling is not None:
        metrics["ceiling"] = {
            "accuracy": consortium.ceiling.accuracy,
            "auc": consortium.ceiling.auc,
        }
    return {
        "target": target,
        "metrics": metrics,
        "test_metrics": "exact, known to a simulation only" if private else "released",
        "heads": heads,
        "privacy": record["privacy"],
        "generator": record["generator"],
        "secure_sum": record["secure_sum"],
        "communication": record["communication"],
        "model_sha256": record["model_sha256"],
        "rounds": record["rounds"],
        "seconds": record["seconds"],
        "seconds_with_baselines": seconds,
        "artifacts": {
            "directory": str(directory.path),
            "run": str(directory.record),
            "history": str(directory.history),
            "model": str(directory.model),
            "model_card": str(directory.card),
            "log": str(directory.log),
        },
    }


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def capped(config: RunConfig) -> list[str]:
    """Return a warning where the public cap leaves rows out."""
    if config.privacy.unit != "customer":
        return []
    most = config.privacy.rows_per_enterprise
    beyond = sum(len(rows.train) > most for rows in consortium_of(config).enterprises)
    if not beyond:
        return []
    return [f"{beyond} enterprises have more rows than privacy.rows_per_enterprise = {most} uses"]


def cautions(history: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the figures should know first."""
    told = []
    lost = [row for row in history if row["dropped"]]
    if lost:
        worst = max(int(row["dropped"]) for row in lost)
        told.append(f"enterprises were lost in {len(lost)} rounds, at most {worst} at once")
    losses = [float(row["loss"]) for row in history if row["loss"] is not None]
    fifth = max(1, len(losses) // 5)
    late = losses[-2 * fifth : -fifth] or losses[:1]
    if losses and (len(losses) < 5 or sum(late) / len(late) - losses[-1] > 0.02 * losses[-1]):
        told.append(
            "the federation has not converged: the training loss still falls; more --rounds, "
            "training.local_epochs or training.learning_rate would help (centralized and alone "
            "are trained until validation stops improving)"
        )
    if metrics["federated"].get("recall") == 0:
        told.append("the federated model calls no test row positive")
    return told
