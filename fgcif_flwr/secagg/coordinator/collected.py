"""What a coordinator has of a slot."""

from __future__ import annotations

from dataclasses import dataclass, field

from fgcif_flwr.secagg.encoding import VectorLayout
from fgcif_flwr.secagg.epoch import SlotContext
from fgcif_flwr.secagg.messages import Advertisement
from fgcif_flwr.secagg.words import WordFormat, Words


@dataclass
class Collected:
    """A slot's advertisements and what arrived for them.

    ``total`` is the running sum of the masked vectors modulo the machine word: no single vector is
    kept. ``tags`` are what each survivor sent for its neighbours; ``complaints`` has, for each
    dealer, who says that its shares do not fit.
    """

    context: SlotContext
    layout: VectorLayout
    form: WordFormat
    ads: dict[str, Advertisement]
    total: Words
    tags: dict[str, bytes] = field(default_factory=dict)
    survivors: set[str] = field(default_factory=set)
    complaints: dict[str, set[str]] = field(default_factory=dict)
