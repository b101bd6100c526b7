"""What the enterprise's own people can have done: a request of a form, and its answer.

An operation is run by the agent, over its admin socket, or where none runs in the process of the
command itself; both give the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from fgcif_flwr.enterprise.site import Site


@dataclass(frozen=True)
class Answer:
    """What an operation gives.

    Attributes
    ----------
    result : dict
        JSON values, by name.
    table : pyarrow.Table or None
        Rows, where it gives some; they reach whoever may use the admin socket.
    warnings : tuple of str
        What its reader should know, a line each.
    """

    result: dict[str, Any] = field(default_factory=dict)
    table: pa.Table | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes
    ----------
    request : type
        The pydantic model that a request must be (``extra="forbid"`` refuses what it does not
        know).
    run : callable
        Takes the site and a request of that type; raises a FgcifError where it cannot answer.
    """

    request: type[BaseModel]
    run: Callable[[Site, Any], Answer]


Operations = Mapping[str, Operation]
"""Operations by name: lower case words joined by hyphens, each a path of the admin socket."""
