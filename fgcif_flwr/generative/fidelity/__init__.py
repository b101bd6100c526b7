"""How like real rows synthetic ones are, how useful, and how close to those they learnt from."""

from fgcif_flwr.generative.fidelity.closeness import Closeness
from fgcif_flwr.generative.fidelity.comparison import Fidelity, compare_tables
from fgcif_flwr.generative.fidelity.discriminator import Discriminator
from fgcif_flwr.generative.fidelity.membership import MembershipAttack
from fgcif_flwr.generative.fidelity.pairs import PairTrend
from fgcif_flwr.generative.fidelity.shapes import ColumnShape
from fgcif_flwr.generative.fidelity.utility import ModelUtility

__all__ = [
    "Closeness",
    "ColumnShape",
    "Discriminator",
    "Fidelity",
    "MembershipAttack",
    "ModelUtility",
    "PairTrend",
    "compare_tables",
]
