"""A generator from noisy counts: which columns' values occur together, and how often.

Customers are counted three times (:mod:`.measurements`), the coordinator learns from the sums
(:mod:`.learning`), and rows are drawn from the model of them (:mod:`.model`). Only
:mod:`.learning`, which is for the coordinator, loads torch.
"""

from __future__ import annotations

from fgcif_flwr.generative.marginals import grid, measurements
from fgcif_flwr.generative.marginals.model import MarginalGenerator
from fgcif_flwr.generative.marginals.settings import MarginalSettings

__all__ = ["MarginalGenerator", "MarginalSettings", "grid", "measurements"]
