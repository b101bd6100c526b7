"""The secure sum: pairwise masks, self masks and shared secrets (Bonawitz et al. 2017).

Knows nothing of Flower, of models or of customers: integers in, their sum out. The enterprise's
party is :class:`Participant`; the coordinator's is, for each slot, :class:`SlotCollection` and
then :class:`SlotUnmasking`. What they exchange is in :mod:`fgcif_flwr.secagg.messages`, its bytes
in :mod:`fgcif_flwr.secagg.wire`.
"""

from fgcif_flwr.secagg.coordinator import SlotCollection, SlotSum, SlotUnmasking, valid_joins
from fgcif_flwr.secagg.encoding import Field, VectorLayout
from fgcif_flwr.secagg.epoch import Epoch, fix_epoch
from fgcif_flwr.secagg.journal import Journal, MemoryJournal, SqliteJournal
from fgcif_flwr.secagg.messages import (
    Advertisement,
    AdvertiseRequest,
    Consent,
    ConsentRequest,
    GraphNonce,
    JoinReply,
    Manifest,
    Released,
    ReleaseRequest,
    UnmaskReply,
    UnmaskRequest,
)
from fgcif_flwr.secagg.parameters import SecureSumParameters
from fgcif_flwr.secagg.participant import Participant
from fgcif_flwr.secagg.words import WordFormat

__all__ = [
    "AdvertiseRequest",
    "Advertisement",
    "Consent",
    "ConsentRequest",
    "Epoch",
    "Field",
    "GraphNonce",
    "JoinReply",
    "Journal",
    "Manifest",
    "MemoryJournal",
    "Participant",
    "ReleaseRequest",
    "Released",
    "SecureSumParameters",
    "SlotCollection",
    "SlotSum",
    "SlotUnmasking",
    "SqliteJournal",
    "UnmaskReply",
    "UnmaskRequest",
    "VectorLayout",
    "WordFormat",
    "fix_epoch",
    "valid_joins",
]
