"""From a run's configuration to its privacy plan, and the noise that its epsilon needs.

The coordinator fills in what is ``auto`` (:func:`with_noise`); the manifest then holds numbers, and
every enterprise computes from them for itself what the run would cost (:func:`plan_of`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.errors import PrivacyError
from fgcif_flwr.federation.generator_releases import generator_shares, generator_slots
from fgcif_flwr.federation.private_releases import VALIDATE, blocks_of, trains_locally
from fgcif_flwr.federation.releases import EVALUATE, STATISTICS, TASKS, TRAIN, TRAIN_EVALUATE
from fgcif_flwr.federation.segmentation_releases import (
    segmentation_shares,
    segmentation_slots,
)
from fgcif_flwr.privacy import accounting
from fgcif_flwr.privacy.accounting import Curve
from fgcif_flwr.privacy.mechanisms import Mechanism
from fgcif_flwr.privacy.noisy_sum import NoisySum
from fgcif_flwr.privacy.plan import EVERYBODY, PlannedRelease, PrivacyPlan, Stretch
from fgcif_flwr.secagg.parameters import SecureSumParameters

_SLACK = 1e-9  # relative: two platforms' floating point


def validation_rounds(config: RunConfig) -> tuple[int, ...]:
    """Return the rounds after which a private run counts validation rows; the last one always."""
    if config.data.validation_fraction == 0:
        return ()
    every, last = config.evaluation.every, config.run.rounds
    if every in ("auto", 0):
        return (last,)
    return tuple(sorted({*range(int(every), last + 1, int(every)), last}))


def with_noise(
    config: RunConfig, features: FeatureLayout, parameters: int, secure_sum: SecureSumParameters
) -> RunConfig:
    """Return the configuration with every multiplier, spare slots and epsilon as numbers.

    Parameters
    ----------
    parameters
        Number of the model's parameters (d).
    secure_sum
        For the whole roster.

    Raises
    ------
    PrivacyError
        If the secure sum withstands only a coordinator that follows the protocol while the noise
        is shared; if no noise gives the epsilon; if the multipliers that were set cost more.
    """
    privacy = config.privacy
    if privacy.unit == "none":
        return config
    check_secure_sum(config, secure_sum)
    rounds = config.run.rounds
    spare = max(1, rounds // 20) if privacy.spare_slots == "auto" else privacy.spare_slots
    config = _replaced(config, spare_slots=spare)
    if privacy.epsilon == "none":
        config = _from_multiplier(config)
    else:
        config = _from_epsilon(config, features, parameters)
    plan = plan_of(config, features, parameters, secure_sum.honest_in_any_sum)
    if config.privacy.epsilon == "none":
        return _replaced(config, epsilon=_up(plan.epsilon))
    check_epsilon(config, plan)
    return config


def check_secure_sum(config: RunConfig, secure_sum: SecureSumParameters) -> None:
    """Raise PrivacyError where shared noise would be a single enterprise's against a liar."""
    if config.privacy.noise == "distributed" and secure_sum.withstands != "lying coordinator":
        raise PrivacyError(
            "privacy.noise = distributed in a k-regular graph wants secagg.consistency: without it "
            "a lying coordinator could open the vector of one enterprise, with its small share of "
            "the noise"
        )


def check_epsilon(config: RunConfig, plan: PrivacyPlan) -> None:
    """Raise PrivacyError where a run's plan costs more than its configuration says."""
    stated = config.privacy.epsilon
    if stated == "none":
        raise PrivacyError("privacy.epsilon of a manifest wants a number")
    if not plan.epsilon <= stated * (1 + _SLACK):
        raise PrivacyError(
            f"privacy.epsilon is {stated:g}, but the multipliers that were set cost "
            f"{plan.epsilon:.4g}; raise it or them, or leave one of the two out"
        )


def tasks_of(config: RunConfig) -> tuple[str, ...]:
    """Return the tasks that a run's manifest allows."""
    if config.privacy.unit == "none":
        return TASKS + tuple(generator_slots(config) | segmentation_slots(config))
    return tuple(_slots(config))


def most_exact_sums(config: RunConfig, task: str) -> int:
    """Return how many slots of a task a run without a privacy unit can need, retries included."""
    slots = {
        STATISTICS: 1,
        EVALUATE: 1,
        TRAIN: config.run.rounds,
        TRAIN_EVALUATE: config.run.rounds,
    }
    slots |= generator_slots(config) | segmentation_slots(config)
    return slots.get(task, 0) * (1 + config.run.retries)


@lru_cache(maxsize=8)
def plan_of(
    config: RunConfig, features: FeatureLayout, parameters: int, honest: int
) -> PrivacyPlan:
    """Return the plan of a run whose multipliers are numbers; ``honest`` is its h_min.

    Raises
    ------
    PrivacyError
        If a multiplier, or the number of spare slots, is still ``auto``.
    """
    privacy = config.privacy
    if privacy.unit == "none" or privacy.delta == "none":
        raise PrivacyError("a run without a privacy unit has no privacy plan")
    releases = [
        PlannedRelease(
            task,
            slots,
            _mechanism(task, config, features, parameters, _multiplier(config, task)),
            (_stretch(task, config),),
        )
        for task, slots in _slots(config).items()
    ]
    return PrivacyPlan(privacy.unit, privacy.noise, privacy.delta, honest, tuple(releases))


def _slots(config: RunConfig) -> dict[str, int]:
    """Return how often each task may be released, retries included."""
    spare = config.privacy.spare_slots
    if spare == "auto":
        raise PrivacyError("privacy.spare_slots of a manifest wants a number")
    once = 1 + min(1, spare)
    slots = {STATISTICS: once} if config.privacy.unit == "customer" else {}
    slots |= segmentation_slots(config)
    slots |= generator_slots(config)
    slots[TRAIN] = config.run.rounds + spare
    counted = len(validation_rounds(config))
    if counted:
        slots[VALIDATE] = counted + min(1, spare)
    slots[EVALUATE] = once
    return slots


def _stretch(task: str, config: RunConfig) -> Stretch:
    if config.privacy.unit == "enterprise":
        return EVERYBODY
    test = config.data.test_fraction
    held_out = test + config.data.validation_fraction
    return {VALIDATE: (test, held_out), EVALUATE: (0.0, test)}.get(task, (held_out, 1.0))


def _mechanism(
    task: str, config: RunConfig, features: FeatureLayout, parameters: int, multiplier: float
) -> Mechanism:
    privacy = config.privacy
    assert privacy.unit != "none"
    contributions = 1 if privacy.unit == "enterprise" else privacy.rows_per_enterprise
    noisy = NoisySum(blocks_of(task, config, features, parameters), contributions, multiplier)
    if task != TRAIN:
        return Mechanism(privacy.unit, privacy.noise, noisy)
    steps = 1
    if trains_locally(config):
        steps = config.training.local_epochs * math.ceil(1 / privacy.sampling_rate)
    return Mechanism(privacy.unit, privacy.noise, noisy, privacy.sampling_rate, steps)


def _multiplier(config: RunConfig, task: str) -> float:
    if task in segmentation_slots(config):
        return _segmentation_multiplier(config, task)
    shares = generator_shares(config)
    others = "generator" if task in shares else "evaluation"
    name = {TRAIN: "noise", STATISTICS: "statistics"}.get(task, others) + "_multiplier"
    value = getattr(config.privacy, name)
    if value == "auto":
        raise PrivacyError(f"privacy.{name} of a manifest wants a number")
    if task in shares:
        return float(value) * math.sqrt(generator_slots(config)[task] / shares[task])
    return float(value)


def _segmentation_multiplier(config: RunConfig, task: str) -> float:
    multiplier = config.segmentation.multiplier
    if multiplier == "auto":
        raise PrivacyError("segmentation.multiplier of a manifest wants a number")
    slots, share = segmentation_slots(config)[task], segmentation_shares(config)[task]
    return float(multiplier) * math.sqrt(slots / share)


def _from_epsilon(config: RunConfig, features: FeatureLayout, parameters: int) -> RunConfig:
    """Fill in the multipliers that an epsilon allows: least noise for training, after a share of
    the same rows' budget for what else is released about them."""
    privacy = config.privacy
    assert privacy.epsilon != "none"
    assert privacy.delta != "none"
    slots = _slots(config)
    tails = (
        slots[task] * _mechanism(task, config, features, parameters, 1.0).tail for task in slots
    )
    epsilon, delta = privacy.epsilon, privacy.delta - math.fsum(tails)
    if delta <= 0:
        raise PrivacyError(
            f"privacy.delta {privacy.delta:g} is taken up by the noise's tail; raise it"
        )

    def curve(task: str, multiplier: float) -> Curve:
        return slots[task] * _mechanism(task, config, features, parameters, multiplier).curve

    def shared(task: str, among: int) -> float:
        """Multiplier at which ``among`` slots of a task take their share of the budget."""
        once = calibrated(lambda z: curve(task, z) / slots[task])
        return _up(once * math.sqrt(among / privacy.statistics_share))

    def calibrated(curve_of: Callable[[float], Curve]) -> float:
        try:
            return accounting.calibrate(curve_of, epsilon, delta)
        except PrivacyError:
            raise PrivacyError(
                f"privacy.epsilon {epsilon:g} at privacy.delta {privacy.delta:g} wants more noise "
                "than can be drawn; raise one of them, or a multiplier that was set, or lower "
                "run.rounds"
            ) from None

    def fitting(spent: Callable[[float], Curve], before: Curve) -> float:
        return calibrated(lambda z: before + spent(z))

    evaluated = [task for task in (VALIDATE, EVALUATE) if task in slots]
    before = accounting.zero_curve()
    if privacy.unit == "enterprise":  # all releases are about the same enterprises
        if privacy.evaluation_multiplier == "auto":
            counted = sum(slots[task] for task in evaluated)
            config = _replaced(config, evaluation_multiplier=shared(EVALUATE, counted))
        for task in evaluated:
            before = before + curve(task, _multiplier(config, task))
    else:
        if privacy.evaluation_multiplier == "auto":
            most = max(evaluated, key=slots.__getitem__)
            config = _replaced(
                config,
                evaluation_multiplier=fitting(lambda z: curve(most, z), accounting.zero_curve()),
            )
        if privacy.statistics_multiplier == "auto":
            config = _replaced(config, statistics_multiplier=shared(STATISTICS, slots[STATISTICS]))
        before = curve(STATISTICS, _multiplier(config, STATISTICS))
    if segmenting := segmentation_shares(config):
        if config.segmentation.multiplier == "auto":
            first = next(iter(segmenting))
            once = calibrated(lambda z: curve(first, z) / slots[first])
            config = _segmented(config, _up(once / math.sqrt(config.segmentation.share)))
        for task in segmenting:
            before = before + curve(task, _multiplier(config, task))
    if generating := generator_shares(config):
        if privacy.generator_multiplier == "auto":
            first = next(iter(generating))
            once = calibrated(lambda z: curve(first, z) / slots[first])
            multiplier = _up(once / math.sqrt(config.generator.share))
            config = _replaced(config, generator_multiplier=multiplier)
        for task in generating:
            before = before + curve(task, _multiplier(config, task))
    if privacy.noise_multiplier == "auto":
        config = _replaced(config, noise_multiplier=fitting(lambda z: curve(TRAIN, z), before))
    if config.privacy.statistics_multiplier == "auto":  # no such release; the manifest wants one
        config = _replaced(config, statistics_multiplier=config.privacy.noise_multiplier)
    if config.privacy.generator_multiplier == "auto":  # likewise
        config = _replaced(config, generator_multiplier=config.privacy.noise_multiplier)
    return config


def _from_multiplier(config: RunConfig) -> RunConfig:
    """Fill in the others so that they keep the shares that an epsilon would give them."""
    privacy, slots = config.privacy, _slots(config)
    assert privacy.noise_multiplier != "auto"
    share = privacy.statistics_share
    generating = config.generator.share if generator_shares(config) else 0.0
    segmenting = config.segmentation.share if segmentation_shares(config) else 0.0
    if share + generating + segmenting >= 1:
        raise PrivacyError(
            "privacy.statistics_share, generator.share and segmentation.share leave nothing for "
            "training; lower one"
        )
    whole = slots[TRAIN] / privacy.noise_multiplier**2 / (1 - share - generating - segmenting)
    if segmenting and config.segmentation.multiplier == "auto":
        config = _segmented(config, _up(math.sqrt(1 / (segmenting * whole))))
    once = math.sqrt(slots.get(STATISTICS, slots[EVALUATE]) / (share * whole))
    counted = [slots[task] for task in (VALIDATE, EVALUATE) if task in slots]
    if privacy.unit == "enterprise":
        evaluation = math.sqrt(sum(counted) / (share * whole))
    else:
        evaluation = math.sqrt(max(counted) / whole)
    others = {
        "statistics_multiplier": _up(once),
        "evaluation_multiplier": _up(evaluation),
        "generator_multiplier": _up(math.sqrt(1 / ((generating or share) * whole))),
    }
    return _replaced(
        config,
        **{name: value for name, value in others.items() if getattr(privacy, name) == "auto"},
    )


def _up(value: float) -> float:
    """Round up to four significant digits."""
    step = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{math.ceil(value / step) * step:.6g}")


def _segmented(config: RunConfig, multiplier: float) -> RunConfig:
    segmentation = config.segmentation.model_copy(update={"multiplier": multiplier})
    return config.model_copy(update={"segmentation": segmentation})


def _replaced(config: RunConfig, **values: object) -> RunConfig:
    privacy = config.privacy.model_copy(update=values)
    return config.model_copy(update={"privacy": privacy})
