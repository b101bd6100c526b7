"""A conditional generative adversarial network for one table (CTGAN, Xu et al., NeurIPS 2019)."""

from __future__ import annotations

from fgcif_flwr.generative.ctgan.diagnostics import Check, Diagnostics
from fgcif_flwr.generative.ctgan.generator import Ctgan
from fgcif_flwr.generative.ctgan.settings import CriticPrivacy, CtganSettings
from fgcif_flwr.generative.ctgan.training import fit_ctgan

__all__ = ["Check", "CriticPrivacy", "Ctgan", "CtganSettings", "Diagnostics", "fit_ctgan"]
