"""The privacy part of ``fgcif plan``: what noise an epsilon needs, or what a noise costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.federation.private_plan import plan_of, with_noise
from fgcif_flwr.federation.private_releases import ROWS, UPDATE, trains_locally
from fgcif_flwr.federation.releases import EVALUATE, STATISTICS, TRAIN
from fgcif_flwr.models.row_counts import COARSE_BINS
from fgcif_flwr.privacy import accounting
from fgcif_flwr.privacy.plan import PlannedRelease, PrivacyPlan
from fgcif_flwr.privacy.policy import Policy
from fgcif_flwr.privacy.statement import PrivacyStatement
from fgcif_flwr.secagg.parameters import SecureSumParameters

_USELESS_ACCURACY = 0.05


def privacy_of(
    config: RunConfig,
    features: FeatureLayout,
    parameters: int,
    secure_sum: SecureSumParameters,
    rows: int,
) -> dict[str, Any] | None:
    """Return the privacy part of a plan; None without a unit.

    Parameters
    ----------
    parameters
        Of the model (d).
    rows
        Rows that an enterprise is expected to have: the errors are relative to them.

    Raises
    ------
    PrivacyError
        If the guarantee cannot be given as asked.
    """
    if config.privacy.unit == "none":
        return None
    config = with_noise(config, features, parameters, secure_sum)
    privacy = config.privacy
    plan = plan_of(config, features, parameters, secure_sum.honest_in_any_sum)
    sharers = plan.honest if plan.noise == "distributed" else 1
    return {
        "unit": plan.unit,
        "noise": plan.noise,
        "epsilon": privacy.epsilon,
        "epsilon_charged": plan.epsilon,
        "delta": plan.delta,
        "rounds": config.run.rounds,
        "spare_slots": privacy.spare_slots,
        "sampling_rate": privacy.sampling_rate,
        "rows_per_enterprise": privacy.rows_per_enterprise,
        "expected_rows_per_enterprise": rows,
        "noise_paid_for_losses_and_colluders": math.sqrt(secure_sum.holders / sharers),
        "releases": [_release(one, plan) for one in plan.releases],
        "expected_error": _errors(config, features, plan, parameters, secure_sum.holders, rows),
        "statement": PrivacyStatement.of(plan, secure_sum).in_words(),
    }


def _release(planned: PlannedRelease, plan: PrivacyPlan) -> dict[str, Any]:
    mechanism = planned.mechanism
    return {
        "task": planned.task,
        "slots": planned.slots,
        "noise_multiplier": mechanism.sum.noise_multiplier,
        "steps": mechanism.steps,
        "numbers": mechanism.sum.size,
        "sensitivity": mechanism.sensitivity,
        "resolution": mechanism.sum.resolution,
        "customers_from": planned.stretches[0][0],
        "customers_to": planned.stretches[-1][1],
        "epsilon_of_one_slot": accounting.epsilon_of(mechanism.curve, plan.delta),
    }


def _errors(
    config: RunConfig,
    features: FeatureLayout,
    plan: PrivacyPlan,
    parameters: int,
    enterprises: int,
    rows: int,
) -> dict[str, float]:
    """Return standard deviations of what is decoded, where all enterprises survive."""
    errors: dict[str, float] = {}

    def deviation(task: str, block: str) -> float:
        mechanism = plan.release(task).mechanism
        sharers = mechanism.sharers(plan.honest)
        return mechanism.sum.noise_deviation(block, enterprises, sharers)

    data = config.data
    rows = min(rows, config.privacy.rows_per_enterprise)  # more are not used
    counted: float
    if plan.unit == "customer":
        train = rows * enterprises * (1 - data.test_fraction - data.validation_fraction)
        errors["number_of_rows"] = deviation(STATISTICS, ROWS)
        if not trains_locally(config):
            # Of the mean clipped contribution, whose own norm is at most 1.
            per_number = deviation(TRAIN, UPDATE) / (train * config.privacy.sampling_rate)
            errors["gradient_number"] = per_number
            errors["gradient_norm"] = per_number * math.sqrt(parameters)
        counted = rows * enterprises * data.test_fraction
    else:
        errors["update_number"] = deviation(TRAIN, UPDATE) / enterprises
        errors["update_norm"] = errors["update_number"] * math.sqrt(parameters)
        counted = enterprises
    binary = next((head.name for head in features.heads if head.kind == "binary"), None)
    if binary is not None:  # half of the cells of its counts are right predictions
        errors["test_accuracy"] = deviation(EVALUATE, binary) * math.sqrt(COARSE_BINS) / counted
    return errors


def privacy_cautions(result: Mapping[str, Any] | None) -> list[str]:
    """Return what a reader of the privacy part should know first."""
    told: list[str] = []
    if result is None:
        return told
    if result["expected_error"].get("test_accuracy", 0.0) > _USELESS_ACCURACY:
        told.append(
            "the noise on the released test accuracy has a standard deviation of "
            f"{result['expected_error']['test_accuracy']:.2g}: it will say little"
        )
    if result["epsilon"] > Policy().epsilon_per_run:
        told.append(
            f"an enterprise with the default policy refuses an epsilon above "
            f"{Policy().epsilon_per_run:g} a run"
        )
    return told


def show_privacy(result: Mapping[str, Any], console: Console) -> None:
    """Print the privacy part for people."""
    lines = {
        "privacy": f"{result['unit']}, noise {result['noise']}: epsilon "
        f"{result['epsilon_charged']:.4g} at delta {result['delta']:.2g}",
        "rounds and spare slots": f"{result['rounds']} + {result['spare_slots']}",
        "noise paid for losses, colluders": (
            f"{result['noise_paid_for_losses_and_colluders']:.3f} times what a trusted centre "
            "would add"
        ),
    }
    for release in result["releases"]:
        steps = f" of {release['steps']} steps" if release["steps"] > 1 else ""
        lines[f"  {release['task']}"] = (
            f"{release['slots']} slots{steps}, noise multiplier {release['noise_multiplier']:g}, "
            f"each alone epsilon {release['epsilon_of_one_slot']:.3g}; rows with hash in "
            f"[{release['customers_from']:.2g}, {release['customers_to']:.2g})"
        )
    for name, value in result["expected_error"].items():
        lines[f"  error of {name.replace('_', ' ')}"] = f"{value:.3g} (standard deviation)"
    for name, text in lines.items():
        console.print(f"{name:<34}{text}", soft_wrap=True, highlight=False)
    console.print(result["statement"])
