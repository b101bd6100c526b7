"""Where in a network's row one column stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Span:
    """Neighbouring numbers of a row that one activation makes.

    Attributes
    ----------
    start : int
    size : int
        1 for ``tanh``.
    activation : {"tanh", "softmax"}
        ``tanh``: a place within a mode, in [-1, 1]. ``softmax``: which of ``size`` cells.
    """

    start: int
    size: int
    activation: Literal["tanh", "softmax"]

    @property
    def stop(self) -> int:
        """One past the last place."""
        return self.start + self.size
