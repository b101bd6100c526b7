"""``fgcif compare``: methods beside each other, on the same seeds of one table."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from fgcif_flwr.cli.methods import DEFAULT, METHODS, Method, Settings, methods_of, seeds_of
from fgcif_flwr.cli.output import Format, emit, ending_on_signals, reporting_errors, write_text
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
from fgcif_flwr.cli.simulate import Engine, capped, cautions, run_simulation
from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import FeatureLayout, feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.enterprise.simulated import consortium_of
from fgcif_flwr.errors import ConfigurationError, FgcifError, SchemaError
from fgcif_flwr.reporting.comparison import LOGISTIC, Metrics, baselines
from fgcif_flwr.reporting.method_runs import MethodRun, run_of, summary
from fgcif_flwr.reporting.method_table import print_comparison
from fgcif_flwr.reporting.run_directory import RunDirectory, dumps


class Equal(StrEnum):
    """What all federations of a comparison have as many of."""

    ROUNDS = "rounds"
    EXCHANGES = "exchanges"


def compare(
    data: DataOption = None,
    schema: SchemaOption = None,
    partition: PartitionOption = None,
    enterprises: EnterprisesOption = None,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of training.", show_default=False)
    ] = None,
    seeds: Annotated[str, typer.Option(help="5 for seeds 0 to 4, or a list: 3,4,8.")] = "5",
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"'NAME [section.key=value ...]'; may be repeated. Names: {', '.join(METHODS)}.",
            show_default=False,
        ),
    ] = None,
    equal: Annotated[
        Equal,
        typer.Option(help="exchanges: the cheaper federations get more rounds for as many."),
    ] = Equal.ROUNDS,
    engine: Annotated[
        Engine, typer.Option(help="flower: flwr run (Ray); inline: one worker per core.")
    ] = Engine.INLINE,
    config: ConfigOption = None,
    assignments: AssignmentsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of all artefacts (default: a new one)", show_default=False),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="text or json.")] = Format.TEXT,
) -> None:
    """Run methods on the same seeds of one table and show their figures beside each other.

    A seed decides rows, division, splits and initial weights alike for all methods. Differences are
    from the method that is named first.

    Example:
    fgcif compare --data churn.csv --schema telco --partition label-skew:0.5 --rounds 20 \\
        --method fedavg --method fedsgd --method centralized
    """
    with reporting_errors("compare", form):
        flags = {
            "data.table": data,
            "data.schema": schema,
            "data.partition": partition,
            "run.enterprises": enterprises,
            "run.rounds": rounds,
        }
        comparison = Comparison(
            methods_of(method or DEFAULT),
            seeds_of(seeds),
            asked_of(config, assignments, flags),
            equal,
            engine,
        )
        comparison.check()
        directory = Path(out if out is not None else tempfile.mkdtemp(prefix="fgcif-compare-"))
        result = comparison.run(directory.expanduser().resolve())
        warnings = comparison.warnings()
        emit(
            form,
            "compare",
            result,
            lambda console: print_comparison(result, warnings, console),
            warnings,
        )


class Comparison:
    """Methods, seeds and what they have in common.

    Parameters
    ----------
    methods : sequence of Method
        Differences are from the first.
    seeds : sequence of int
    common : mapping
        Dotted keys of the run's configuration for all methods; ``run.seed`` is not for it.
    equal : Equal
    engine : Engine
    """

    def __init__(
        self,
        methods: Sequence[Method],
        seeds: Sequence[int],
        common: Settings,
        equal: Equal,
        engine: Engine = Engine.INLINE,
    ) -> None:
        self.methods = methods
        self.seeds = seeds
        self.common = common
        self.equal = equal
        self.engine = engine
        self._rounds: dict[str, int] = {}  # by label, where they are others than asked for
        self._told: dict[tuple[str, int], list[str]] = {}  # by label and seed

    def check(self) -> None:
        """Raise what would keep any run from its start, before the first one takes its time."""
        for method in self.methods:
            with _named(method):
                if "run.seed" in {**self.common, **method.assigned}:
                    raise ConfigurationError("run.seed: the seeds of a comparison are --seeds")
                # A directory is named only so that none is made: nothing is written to it.
                config, _ = self._resolved(method, self.seeds[0], Path())
                kinds = {head.kind for head in _layout(config).heads}
                if method.name == LOGISTIC and "binary" not in kinds:
                    raise SchemaError("there is no binary target for a logistic regression")

    def run(self, directory: Path) -> dict[str, Any]:
        """Run everything; return the result as documented for ``--format json``.

        Raises
        ------
        FgcifError
            As the first run that fails: a comparison is whole or not at all.
        """
        began = time.monotonic()
        torch.set_num_threads(1)
        runs: dict[str, list[MethodRun]] = {method.label: [] for method in self.methods}
        for seed in self.seeds:
            bounds: dict[str, Mapping[str, Metrics]] = {}
            for method in self.methods:
                with _named(method):
                    if method.baseline:
                        run = self._baseline(method, seed, directory, bounds)
                    else:
                        run = self._federation(method, seed, directory)
                runs[method.label].append(run)
            if seed == self.seeds[0] and self.equal is Equal.EXCHANGES:
                self._equalise(runs, directory)
        first = self.methods[0]
        result = {
            "target": _target(self._resolved(first, self.seeds[0], directory)[0]),
            "seeds": list(self.seeds),
            "equal": self.equal.value,
            "engine": self.engine.value,
            "reference": first.label,
            "methods": {
                method.label: {"settings": method.settings}
                | summary(runs[method.label], runs[first.label])
                for method in self.methods
            },
            "seconds": time.monotonic() - began,
            "directory": str(directory),
        }
        file = directory / "comparison.json"
        write_text(dumps(result, indent=2) + "\n", file, make_directory=True)
        return result

    def warnings(self) -> list[str]:
        """Return what a reader of the figures should know first: of whom, and on which seeds."""
        labels: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
        for label in dict.fromkeys(label for label, _ in self._told):
            seeds: dict[str, list[int]] = defaultdict(list)
            for seed in self.seeds:
                for text in self._told.get((label, seed), ()):
                    seeds[text].append(seed)
            for text, on in seeds.items():
                labels[text, tuple(on)].append(label)
        return [
            ("" if len(whose) == len(self.methods) else f"{', '.join(whose)}: ")
            + text
            + ("" if len(on) == len(self.seeds) else f" (only on seeds {', '.join(map(str, on))})")
            for (text, on), whose in labels.items()
        ]

    def _resolved(self, method: Method, seed: int, directory: Path) -> tuple[RunConfig, list[str]]:
        asked = method.over(self.common) | {"run.seed": seed}
        if method.label in self._rounds:
            asked["run.rounds"] = self._rounds[method.label]
        return resolve(asked, directory)

    def _federation(self, method: Method, seed: int, directory: Path) -> MethodRun:
        place = directory / f"{self.methods.index(method) + 1:02d}-{method.name}" / f"seed-{seed}"
        config, assumed = self._resolved(method, seed, place)
        _announce(method, seed)
        result = run_simulation(config, self.engine, with_baselines=False)
        history = RunDirectory(place).read_history()
        told = cautions(history, result["metrics"]) + capped(config)
        self._told[method.label, seed] = assumed + told
        return run_of(seed, result, RunDirectory(place))

    def _baseline(
        self,
        method: Method,
        seed: int,
        directory: Path,
        bounds: dict[str, Mapping[str, Metrics]],
    ) -> MethodRun:
        """Return a baseline's figures; all three come from one computation, kept in ``bounds``."""
        config, self._told[method.label, seed] = self._resolved(method, seed, directory)
        settings = dumps(method.settings)
        if settings not in bounds:
            _announce(method, seed)
            with ending_on_signals():
                bounds[settings] = baselines(config, consortium_of(config))
        return MethodRun(seed, dict(bounds[settings][method.name][_target(config)]))

    def _equalise(self, runs: dict[str, list[MethodRun]], directory: Path) -> None:
        """Give the cheaper federations the rounds that the first seed shows room for; run these.

        What a method exchanges beside its rounds is known only when it has run.
        """
        federations = [method for method in self.methods if not method.baseline]
        most = max((runs[method.label][0].exchanges or 0 for method in federations), default=0)
        for method in federations:
            (done,) = runs[method.label]
            assert done.rounds is not None
            assert done.exchanges is not None
            assert done.exchanges_per_round is not None
            more = (most - done.exchanges) // done.exchanges_per_round
            if more > 0:
                self._rounds[method.label] = done.rounds + more
                with _named(method):
                    runs[method.label] = [self._federation(method, self.seeds[0], directory)]


def _layout(config: RunConfig) -> FeatureLayout:
    return feature_layout(load_schema(config.data.schema_name))


def _target(config: RunConfig) -> str:
    """Return the target of the figures, as ``fgcif simulate`` chooses it."""
    heads = _layout(config).heads
    return next((head for head in heads if head.kind == "binary"), heads[0]).name


def _announce(method: Method, seed: int) -> None:
    typer.echo(f"{method.label}, seed {seed}", err=True)


@contextmanager
def _named(method: Method) -> Iterator[None]:
    """Say of which method an error is."""
    try:
        yield
    except FgcifError as error:
        raise type(error)(f"method {method.label}: {error}") from None
