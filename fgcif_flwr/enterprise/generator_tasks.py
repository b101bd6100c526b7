"""What an enterprise does for a generator, and with one, from its own training rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.consortium import EnterpriseRows
from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.federation.generator_releases import (
    GENERATOR,
    ROWS,
    UPDATE,
    counting_blocks,
    ctgan_settings,
    generator_in,
    marginal_settings,
    networks_input,
)
from fgcif_flwr.generative.augmentation import augmented
from fgcif_flwr.generative.columns import balanced
from fgcif_flwr.generative.generator import Generator
from fgcif_flwr.generative.marginals import measurements
from fgcif_flwr.models.customer_gradients import bounded
from fgcif_flwr.privacy.noise import cryptographic_generator
from fgcif_flwr.seeds import seed_for

Arrays = Mapping[str, npt.NDArray[np.generic]]
Values = dict[str, npt.NDArray[np.float64]]
Rows = Mapping[str, npt.NDArray[np.generic]]


def exact_values(
    task: str, arrays: Arrays, config: RunConfig, layout: FeatureLayout, rows: EnterpriseRows
) -> Values:
    """Return the values of a generator task's fields, where there is no privacy unit."""
    if task != GENERATOR:
        return _counts(task, arrays, config, layout, rows.train)
    weight = len(rows.train) / float(arrays[ROWS][0])
    update = _networks_update(arrays, config, layout, rows)
    return {UPDATE: weight * update, ROWS: np.array([float(len(rows.train))])}


def customer_contributions(
    task: str, arrays: Arrays, config: RunConfig, layout: FeatureLayout, data: EncodedTable
) -> Iterator[Rows]:
    """Yield each customer's part of a generator task, chunk by chunk, bounded to norm 1 a block."""
    if task != GENERATOR:
        yield from measurements.places_of(task, arrays, layout, marginal_settings(config), data)
        return
    from fgcif_flwr.generative import federated_ctgan

    norm = config.generator.clipping_norm
    inputs, settings = networks_input(arrays), ctgan_settings(config)
    secret = cryptographic_generator()
    gradients = federated_ctgan.critic_gradients(inputs, layout, settings, data, secret)
    for part in gradients:
        yield {UPDATE: bounded(part, norm, "fixed")[0]}


def enterprise_contribution(
    task: str, arrays: Arrays, config: RunConfig, layout: FeatureLayout, rows: EnterpriseRows
) -> Rows:
    """Return the enterprise's one contribution: mean counts, or its update of the networks."""
    if task != GENERATOR:
        counts = _counts(task, arrays, config, layout, rows.train)
        return {name: (sums / max(1, len(rows.train)))[np.newaxis] for name, sums in counts.items()}
    update = _networks_update(arrays, config, layout, rows)
    length = float(np.linalg.norm(update))
    return {UPDATE: (update / max(config.generator.clipping_norm, length))[np.newaxis]}


def with_synthetic_rows(
    config: RunConfig, layout: FeatureLayout, rows: EnterpriseRows, arrays: Arrays
) -> EncodedTable:
    """Return the training rows, with synthetic ones where the configuration augments."""
    generator = _generator(config, layout, rows, arrays)
    if generator is None:
        return rows.train
    balance = config.generator.balance == "classes"
    random = np.random.default_rng(_seed(config, rows, arrays))
    return augmented(rows.train, generator, config.generator.ratio, random, balance=balance)


def synthetic_rows(
    config: RunConfig, layout: FeatureLayout, rows: EnterpriseRows, arrays: Arrays, count: int
) -> EncodedTable:
    """Return ``count`` rows of the generator in a training task's input."""
    random = np.random.default_rng(_seed(config, rows, arrays))
    classes = balanced(layout) if config.generator.balance == "classes" else None
    return generator_in(arrays, config, layout).sample(count, random, classes)


def _counts(
    task: str, arrays: Arrays, config: RunConfig, layout: FeatureLayout, data: EncodedTable
) -> Values:
    sums = {name: np.zeros(size) for name, size, _ in counting_blocks(task, config, layout)}
    for chunk in measurements.places_of(task, arrays, layout, marginal_settings(config), data):
        for name, places in chunk.items():
            sums[name] += np.bincount(places, minlength=len(sums[name]))
    return sums


def _networks_update(
    arrays: Arrays, config: RunConfig, layout: FeatureLayout, rows: EnterpriseRows
) -> npt.NDArray[np.float64]:
    from fgcif_flwr.generative import federated_ctgan

    seed = seed_for(config, "generator", rows.name, int(arrays["round"][0]))
    settings = ctgan_settings(config)
    inputs = networks_input(arrays)
    update, _ = federated_ctgan.train_locally(inputs, layout, settings, rows.train, seed)
    return update


def _generator(
    config: RunConfig, layout: FeatureLayout, rows: EnterpriseRows, arrays: Arrays
) -> Generator | None:
    section = config.generator
    if section.kind == "none" or section.use != "augment" or len(rows.train) == 0:
        return None
    if section.kind == "ctgan":
        return _own_ctgan(config, layout, _Own(rows))
    return generator_in(arrays, config, layout)


class _Own:
    """An enterprise's rows as a key: the very same object, which is loaded once in a process."""

    def __init__(self, rows: EnterpriseRows) -> None:
        self.rows = rows

    def __hash__(self) -> int:
        return id(self.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Own) and self.rows is other.rows


def forget_rows() -> None:
    """Let go of generators fitted before, and of the rows that they were fitted to."""
    _own_ctgan.cache_clear()


@lru_cache(maxsize=256)
def _own_ctgan(config: RunConfig, layout: FeatureLayout, own: _Own) -> Generator:
    """Fit an enterprise's own CTGAN once in a process; it never leaves."""
    from fgcif_flwr.generative.ctgan import CtganSettings, fit_ctgan

    section = config.generator
    settings = CtganSettings(
        generator_hidden=section.hidden,
        critic_hidden=section.hidden,
        batch_size=section.batch_size,
        steps=section.steps,
    )
    seed = seed_for(config, "ctgan", own.rows.name)
    return fit_ctgan(layout, own.rows.train, settings, seed)


def _seed(config: RunConfig, rows: EnterpriseRows, arrays: Arrays) -> int:
    return seed_for(config, "augment", rows.name, int(arrays["round"][0]))
