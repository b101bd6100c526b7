"""What a shared generator's tasks release, and its share of a training task's input.

=================== =============================== ================================ =============
task                unit none                       customer                         enterprise
=================== =============================== ================================ =============
marginals-one-way   counts of rows                  a row's counts                   mean counts
marginals-pairs     counts of rows                  a row's counts                   mean counts
marginals-cliques   counts of rows                  a row's counts                   mean counts
generator           weighted update of both         gradient of the critic's loss    the update of
                    networks, rows                  for a row                        both networks
=================== =============================== ================================ =============

``marginals`` has the first three, ``federated-ctgan`` the first and then one ``generator`` a round.
All are about training rows. A local ``ctgan`` releases nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.errors import ConfigurationError, FgcifError, SecureSumError
from fgcif_flwr.federation.task_input import ArrayMap, input_hash
from fgcif_flwr.generative.generator import Generator
from fgcif_flwr.generative.marginals import measurements
from fgcif_flwr.generative.marginals.model import MarginalGenerator
from fgcif_flwr.generative.marginals.settings import MarginalSettings
from fgcif_flwr.secagg.encoding import Field, VectorLayout

# Networks that generate rows take half a second to import; most runs have none of them.
if TYPE_CHECKING:
    from fgcif_flwr.generative.federated_ctgan import FederatedCtganSettings

GENERATOR = "generator"
"""One round of a federated CTGAN."""
GENERATOR_ARRAY = "generator/"
"""Prefix of the generator's arrays in a training task's input."""
UPDATE, ROWS = "update", "rows"

_HISTOGRAM_SHARE = 0.1  # of the generator's part of the budget: a histogram needs little
_ROUNDS = 16  # of local training
_GENERATOR_STEPS = 1000  # the coordinator's in all rounds, where customers' gradients are summed


def marginal_settings(config: RunConfig) -> MarginalSettings:
    """Return the settings of the counts and of their model."""
    return MarginalSettings()


def ctgan_settings(config: RunConfig) -> FederatedCtganSettings:
    """Return the settings of the two networks and their training."""
    from fgcif_flwr.generative.federated_ctgan import FederatedCtganSettings

    generator = config.generator
    return FederatedCtganSettings(
        generator_steps=math.ceil(_GENERATOR_STEPS / generator_rounds(config)),
        hidden=generator.hidden,
        critic_hidden=generator.hidden,
        batch=generator.batch_size,
        local_epochs=generator.local_epochs,
    )


def generator_settings(config: RunConfig) -> MarginalSettings | FederatedCtganSettings:
    """Return the settings of the configured shared generator."""
    if config.generator.kind == "marginals":
        return marginal_settings(config)
    return ctgan_settings(config)


def generator_rounds(config: RunConfig) -> int:
    """Return the rounds of a federated CTGAN.

    Customers' gradients are those of a fixed function of their rows: one sum of them tells as much
    as many with as much noise in all.
    """
    if config.generator.rounds != "auto":
        return config.generator.rounds
    return 1 if config.privacy.unit == "customer" else _ROUNDS


def is_shared(config: RunConfig) -> bool:
    """Whether all enterprises, and the coordinator, have the same generator."""
    return config.generator.kind in ("marginals", "federated-ctgan")


def generator_slots(config: RunConfig) -> dict[str, int]:
    """Return how often each of the generator's tasks may be released, retries included.

    What is released once has no spare slot: that would cost the noise of another release, and a
    run that loses too many at its beginning is cheaply begun again.
    """
    kind = config.generator.kind
    if kind == "marginals":
        return dict.fromkeys(measurements.MEASUREMENTS, 1)
    if kind == "federated-ctgan":
        rounds = generator_rounds(config)
        return {measurements.ONE_WAY: 1, GENERATOR: rounds + rounds // 20}
    return {}


def generator_shares(config: RunConfig) -> dict[str, float]:
    """Return what part of the generator's budget each of its tasks has; their sum is 1."""
    if config.generator.kind == "marginals":
        shares = marginal_settings(config).shares
        return dict(zip(measurements.MEASUREMENTS, shares, strict=True))
    if config.generator.kind == "federated-ctgan":
        return {measurements.ONE_WAY: _HISTOGRAM_SHARE, GENERATOR: 1 - _HISTOGRAM_SHARE}
    return {}


def generator_layout(task: str, config: RunConfig, features: FeatureLayout) -> VectorLayout:
    """Return the layout of a generator task's vector where there is no privacy unit."""
    bits = config.secagg.value_bits
    whole = float((1 << (bits - 1)) - 1)
    if task == GENERATOR:
        from fgcif_flwr.generative import federated_ctgan

        size = federated_ctgan.parameter_count(features, ctgan_settings(config))
        return VectorLayout(
            (Field(UPDATE, size, config.secagg.value_bound), Field(ROWS, 1, whole, exact=True)),
            bits,
        )
    blocks = counting_blocks(task, config, features)
    fields = (Field(name, size, whole, exact=True) for name, size, _ in blocks)
    return VectorLayout(tuple(fields), bits)


def counting_blocks(
    task: str, config: RunConfig, features: FeatureLayout
) -> tuple[tuple[str, int, float], ...]:
    """Return name, size and weight of each block of counts of a task, in their order."""
    return measurements.blocks(task, features, marginal_settings(config))


def update_size(config: RunConfig, features: FeatureLayout) -> int:
    """Return the size of a ``generator`` task's update under a privacy unit."""
    from fgcif_flwr.generative import federated_ctgan

    settings = ctgan_settings(config)
    if config.privacy.unit == "customer":
        return federated_ctgan.critic_parameter_count(features, settings)
    return federated_ctgan.parameter_count(features, settings)


def check_generator_input(
    task: str, arrays: ArrayMap, config: RunConfig, features: FeatureLayout
) -> None:
    """Check a generator task's input by the manifest alone; SecureSumError if it is not right."""
    if task == GENERATOR:
        from fgcif_flwr.generative import federated_ctgan

        counted = config.privacy.unit == "none"
        if counted:
            rows = arrays.get(ROWS)
            if rows is None or rows.dtype.str != "<i8" or rows.shape != (1,) or rows[0] < 1:
                raise SecureSumError(f"{ROWS} of task {task} wants the number of training rows")
        inputs = networks_input(arrays) if counted else arrays
        federated_ctgan.check_input(inputs, features, ctgan_settings(config))
    else:
        measurements.check_input(task, arrays, features, marginal_settings(config))


def networks_input(arrays: ArrayMap) -> dict[str, np.ndarray]:
    """Return the part of a ``generator`` task's input that the networks are trained by."""
    return {name: array for name, array in arrays.items() if name != ROWS}


def sends_generator(config: RunConfig) -> bool:
    """Whether a training task's input holds the shared generator.

    Gradients of customers hold no synthetic rows: their part is the coordinator's to add.
    """
    gradients = config.privacy.unit == "customer" and config.privacy.noise == "distributed"
    return is_shared(config) and config.generator.use == "augment" and not gradients


def generator_inputs(generator: Generator) -> dict[str, np.ndarray]:
    """Return a generator's arrays as a task's input names them."""
    return {GENERATOR_ARRAY + name: array for name, array in generator.arrays().items()}


def without_generator(arrays: ArrayMap) -> dict[str, np.ndarray]:
    """Return a task's input without the generator's arrays."""
    return {name: array for name, array in arrays.items() if not _is_generators(name)}


def generator_in(arrays: ArrayMap, config: RunConfig, features: FeatureLayout) -> Generator:
    """Return the generator that a training task's input holds.

    Raises
    ------
    SecureSumError
        If its arrays are none of the manifest's kind of generator.
    """
    own = {
        name.removeprefix(GENERATOR_ARRAY): array
        for name, array in arrays.items()
        if _is_generators(name)
    }
    return _read(config, features, _Arrays(own, input_hash(own)))


class _Arrays:
    """Arrays that are equal by their hash."""

    def __init__(self, arrays: Mapping[str, np.ndarray], digest: bytes) -> None:
        self.arrays = arrays
        self._digest = digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Arrays) and self._digest == other._digest


@lru_cache(maxsize=2)  # the same in every round, and for every enterprise of a process
def _read(config: RunConfig, features: FeatureLayout, arrays: _Arrays) -> Generator:
    kind = config.generator.kind
    try:
        generator = read_generator(config, features, arrays.arrays)
    except (FgcifError, KeyError, ValueError) as error:
        reason = type(error).__name__
        raise SecureSumError(f"the input holds no {kind} generator: {reason}") from None
    if set(generator.arrays()) != set(arrays.arrays):
        raise SecureSumError(f"the input holds more than a {kind} generator")
    return generator


def read_generator(
    config: RunConfig, features: FeatureLayout, arrays: Mapping[str, np.ndarray]
) -> Generator:
    """Return the generator of the configured kind that has these arrays."""
    if config.generator.kind == "marginals":
        return MarginalGenerator.from_arrays(features, marginal_settings(config), arrays)
    if config.generator.kind == "federated-ctgan":
        from fgcif_flwr.generative.federated_ctgan import FederatedCtgan

        return FederatedCtgan.from_arrays(features, ctgan_settings(config), arrays)
    raise ConfigurationError(f"generator.kind = {config.generator.kind} is not shared")


def _is_generators(name: str) -> bool:
    return name.startswith(GENERATOR_ARRAY)
