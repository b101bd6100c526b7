"""The coordinator's party, one module a phase."""

from fgcif_flwr.secagg.coordinator.collecting import SlotCollection
from fgcif_flwr.secagg.coordinator.joining import valid_joins
from fgcif_flwr.secagg.coordinator.unmasking import SlotSum, SlotUnmasking

__all__ = ["SlotCollection", "SlotSum", "SlotUnmasking", "valid_joins"]
