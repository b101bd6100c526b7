"""CTGAN trained by a federation: no row leaves its enterprise, not even as a sample.

Enterprises train both networks on their rows and updates are averaged (:mod:`.local_training`), or
their customers' gradients of the critic are summed with noise (:mod:`.customers`). The
:mod:`.coordinator` makes the next round's weights.
"""

from __future__ import annotations

from fgcif_flwr.generative.federated_ctgan.coordinator import Coordinator
from fgcif_flwr.generative.federated_ctgan.customers import critic_gradients
from fgcif_flwr.generative.federated_ctgan.diagnosis import Diagnosis, diagnose
from fgcif_flwr.generative.federated_ctgan.local_training import LocalDiagnostics, train_locally
from fgcif_flwr.generative.federated_ctgan.model import FederatedCtgan
from fgcif_flwr.generative.federated_ctgan.networks import (
    SharedNetworks,
    critic_parameter_count,
    load_vector,
    networks_of,
    parameter_count,
    to_vector,
)
from fgcif_flwr.generative.federated_ctgan.settings import FederatedCtganSettings
from fgcif_flwr.generative.federated_ctgan.task_input import check_input, input_shapes

__all__ = [
    "Coordinator",
    "Diagnosis",
    "FederatedCtgan",
    "FederatedCtganSettings",
    "LocalDiagnostics",
    "SharedNetworks",
    "check_input",
    "critic_gradients",
    "critic_parameter_count",
    "diagnose",
    "input_shapes",
    "load_vector",
    "networks_of",
    "parameter_count",
    "to_vector",
    "train_locally",
]
