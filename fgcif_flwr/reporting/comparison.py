"""The federation beside its bounds: all rows in one place, and each enterprise alone.

Only a simulation can compute these: they read rows of all enterprises. All figures are on the
federation's test rows, from counts as the federation's own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.consortium import Consortium, load_consortium
from fgcif_flwr.models.baselines import logistic_regression, train_alone, train_centralized
from fgcif_flwr.seeds import seed_for

Metrics = Mapping[str, Mapping[str, float]]

CENTRALIZED = "centralized"
LOGISTIC = "logistic_regression"
ALONE = "alone"


def baselines_apart(config: RunConfig) -> dict[str, Metrics]:
    """Compute :func:`baselines` in a process of its own, which loads the rows itself."""
    torch.set_num_threads(1)
    return baselines(config, load_consortium(config))


def baselines(config: RunConfig, consortium: Consortium) -> dict[str, Metrics]:
    """Return metrics by head of the pooled network, a pooled logistic regression, and alone.

    ``centralized`` is the federation's own network trained on all training rows together;
    ``alone`` is the mean over enterprises, each with its own rows only; the logistic regression
    is there where the schema has a binary target.
    """
    parties = consortium.enterprises
    seed = seed_for(config, "model")
    _, central = train_centralized(parties, consortium.layout, config.model, config.training, seed)
    results: dict[str, Metrics] = {CENTRALIZED: central.metrics}
    if any(head.kind == "binary" for head in consortium.layout.heads):
        _, logistic = logistic_regression(
            consortium.pooled("train"), consortium.pooled("test"), consortium.layout
        )
        results[LOGISTIC] = logistic.metrics
    results[ALONE] = train_alone(
        parties, consortium.layout, config.model, config.training, seed
    ).metrics
    return results
