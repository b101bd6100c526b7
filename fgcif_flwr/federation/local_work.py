"""How much training a run asks of an enterprise for one release, by its manifest alone.

An enterprise's own number of rows must not decide whether it takes part; the public cap
``privacy.rows_per_enterprise`` stands for it.
"""

from __future__ import annotations

import math

from fgcif_flwr.config import RunConfig


def local_steps(config: RunConfig) -> int:
    """Return the most optimiser steps that one release asks for."""
    privacy, training, generator = config.privacy, config.training, config.generator
    rows = privacy.rows_per_enterprise
    steps = 0
    if training.algorithm == "fedavg":
        batches = math.ceil(rows / training.batch_size)
        if privacy.unit == "customer":
            batches = math.ceil(1 / privacy.sampling_rate)
        steps = training.local_epochs * batches
    if generator.kind == "ctgan":
        steps += generator.steps
    elif generator.kind == "federated-ctgan" and privacy.unit != "customer":
        steps = max(steps, generator.local_epochs * math.ceil(rows / generator.batch_size))
    return steps
