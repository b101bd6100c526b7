"""What was released about an enterprise's customers, over all runs, and what that adds up to.

There is one ledger for each population of customers, however often its table is renamed or
extracted anew. A release is charged, durably, before it is computed, and what is charged is never
given back: a process that ends in between has charged too much, never too little.

Entries form a chain of keyed hashes. At each join an enterprise shows where its chain stands, which
tells a length and digests, nothing of what was released; who saw it before, a :class:`Witness`,
notices when an older or another ledger was put in its place.
"""

from __future__ import annotations

from fgcif_flwr.privacy.ledger.chain import Attestation, Head
from fgcif_flwr.privacy.ledger.charges import Charge
from fgcif_flwr.privacy.ledger.rules import Entry, Ledger, Spent, StretchSpent
from fgcif_flwr.privacy.ledger.sqlite import SqliteLedger
from fgcif_flwr.privacy.ledger.witness import Witness

__all__ = [
    "Attestation",
    "Charge",
    "Entry",
    "Head",
    "Ledger",
    "Spent",
    "SqliteLedger",
    "StretchSpent",
    "Witness",
]
