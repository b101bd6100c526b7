"""Tables as matrices for a generative network, and back."""

from __future__ import annotations

from fgcif_flwr.generative.transform.spans import Span
from fgcif_flwr.generative.transform.table_transform import TableTransform

__all__ = ["Span", "TableTransform"]
