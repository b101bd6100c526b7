"""What the runs of a method gave, over seeds, and beside those of another method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from fgcif_flwr.reporting.run_directory import RunDirectory

FIGURES = ("accuracy", "f1", "auc")
_CONFIDENCE = 0.95
_NEAR = 0.99


@dataclass(frozen=True)
class MethodRun:
    """One method on one seed.

    Attributes
    ----------
    seed : int
    metrics : mapping
        Of one target on the federation's test rows; exact ones in private runs too.
    released : mapping or None
        In private runs the metrics as they were released, with noise.
    validation_auc : sequence of (rounds, AUC)
        On validation rows after so many rounds, the last model included; empty where none was
        counted exactly.
    rounds, exchanges, bytes_up, bytes_down, seconds
        Of the whole run, bytes for one enterprise on average; None for baselines.
    exchanges_per_round : int or None
        2, or 3 where survivors are signed.
    epsilon, delta : float or None
        None without a privacy unit.
    statement : str or None
        What the run promises, in words; None for baselines.
    directory : str or None
        Of the run's artefacts.
    """

    seed: int
    metrics: Mapping[str, float | None]
    released: Mapping[str, float | None] | None = None
    validation_auc: Sequence[tuple[int, float]] = ()
    rounds: int | None = None
    exchanges: int | None = None
    exchanges_per_round: int | None = None
    bytes_up: float | None = None
    bytes_down: float | None = None
    seconds: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    statement: str | None = None
    directory: str | None = None

    @property
    def rounds_to_near_final(self) -> int | None:
        """Rounds after which validation AUC first was 99 % of the last model's.

        A measure of the method against itself: one that has learnt little is soon there.
        """
        if not self.validation_auc:
            return None
        enough = _NEAR * self.validation_auc[-1][1]
        return next(rounds for rounds, auc in self.validation_auc if auc >= enough)


def run_of(seed: int, result: Mapping[str, Any], directory: RunDirectory) -> MethodRun:
    """Return what one simulation gave.

    Parameters
    ----------
    seed
    result
        As documented for ``fgcif simulate --format json``.
    directory
        Of its artefacts.
    """
    target, metrics, moved = result["target"], result["metrics"], result["communication"]
    holders, private = result["secure_sum"]["holders"], result["privacy"]["unit"] != "none"
    learnt: list[tuple[int, float | None]] = []
    if not private:  # a private run's are noisy, and of the last model that was counted
        rows: Any = directory.read_history()
        last: Any = directory.read_record()
        counted = [(row["round"] - 1, row["received_model"]) for row in rows]
        counted.append((result["rounds"], last["metrics"]["validation"]))
        learnt = [(rounds, heads.get(target, {}).get("auc")) for rounds, heads in counted]
        if learnt[-1][1] is None:
            learnt = []
    return MethodRun(
        seed,
        metrics["federated"],
        released=metrics.get("released"),
        validation_auc=tuple((rounds, auc) for rounds, auc in learnt if auc is not None),
        rounds=result["rounds"],
        exchanges=moved["exchanges"],
        exchanges_per_round=3 if result["secure_sum"]["consistency"] else 2,
        bytes_up=moved["total_bytes_up"] / holders,
        bytes_down=moved["total_bytes_down"] / holders,
        seconds=result["seconds"],
        epsilon=result["privacy"]["epsilon"],
        delta=result["privacy"]["delta"],
        statement=result["privacy"]["statement"],
        directory=str(directory.path),
    )


def summary(runs: Sequence[MethodRun], reference: Sequence[MethodRun]) -> dict[str, Any]:
    """Return a method's figures over its seeds, as documented for ``--format json``.

    Parameters
    ----------
    runs
        One a seed.
    reference
        The runs that ``differences`` are from, on the same seeds in the same order: both share
        rows, division and initial weights by seed, so that their pairwise differences vary less
        than either does.
    """
    return {
        **{name: spread([run.metrics.get(name) for run in runs]) for name in FIGURES},
        "differences": {name: _difference(runs, reference, name) for name in FIGURES},
        "rounds": _mean(runs, lambda run: run.rounds),
        "rounds_to_99_percent": spread([run.rounds_to_near_final for run in runs]),
        "exchanges": _mean(runs, lambda run: run.exchanges),
        "bytes_up": _mean(runs, lambda run: run.bytes_up),
        "bytes_down": _mean(runs, lambda run: run.bytes_down),
        "seconds": _mean(runs, lambda run: run.seconds),
        "epsilon": max((run.epsilon for run in runs if run.epsilon is not None), default=None),
        "runs": [asdict(run) | {"rounds_to_99_percent": run.rounds_to_near_final} for run in runs],
    }


def spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """Return mean and sample standard deviation; absent values and NaN are left out."""
    known = _known(values)
    return {
        "mean": float(np.mean(known)) if known else None,
        "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
    }


def _difference(
    runs: Sequence[MethodRun], reference: Sequence[MethodRun], name: str
) -> dict[str, float | None]:
    """Return the mean pairwise difference and half its 95 % interval (Student's t)."""
    values: list[float | None] = []
    for run, other in zip(runs, reference, strict=True):
        mine, its = run.metrics.get(name), other.metrics.get(name)
        values.append(None if mine is None or its is None else mine - its)
    found, number = spread(values), len(_known(values))
    half = None
    if found["sd"] is not None:
        quantile = float(student.ppf((1 + _CONFIDENCE) / 2, number - 1))
        half = quantile * found["sd"] / math.sqrt(number)
    return {**found, "half_width": half}


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and not math.isnan(value)]


def _mean(runs: Sequence[MethodRun], figure: Callable[[MethodRun], float | None]) -> float | None:
    return spread([figure(run) for run in runs])["mean"]
