"""The enterprise's party, one module a phase."""

from fgcif_flwr.secagg.participant.party import Participant

__all__ = ["Participant"]
