"""The secure sum: pairwise masks, self masks and shared secrets (Bonawitz et al. 2017).

Knows nothing of Flower, of models or of customers: integers in, their sum out. The coordinator's
party is :class:`SlotCoordinator`, the enterprise's is :class:`Participant`; what they exchange is
in :mod:`fgcif_flwr.secagg.messages`.
"""

from fgcif_flwr.secagg.coordinator import SlotCoordinator, verify_joins
from fgcif_flwr.secagg.encoding import Field, VectorLayout, WordFormat
from fgcif_flwr.secagg.messages import (
    Advertisement,
    JoinReply,
    Manifest,
    MaskedVector,
    ReleaseRequest,
    UnmaskReply,
    UnmaskRequest,
)
from fgcif_flwr.secagg.parameters import SecureSumParameters
from fgcif_flwr.secagg.participant import Participant

__all__ = [
    "Advertisement",
    "Field",
    "JoinReply",
    "Manifest",
    "MaskedVector",
    "Participant",
    "ReleaseRequest",
    "SecureSumParameters",
    "SlotCoordinator",
    "UnmaskReply",
    "UnmaskRequest",
    "VectorLayout",
    "WordFormat",
    "verify_joins",
]
