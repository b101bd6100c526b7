"""Flower's way into an enterprise: messages in, messages out, nothing heavy imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fgcif_flwr.federation.client import State, answer
from fgcif_flwr.federation.requests import Reply, Request

if TYPE_CHECKING:
    from fgcif_flwr.config import RunConfig

app = ClientApp()


@app.query("identify")
@app.query("join")
@app.query("reveal")
@app.query("advertise")
@app.query("consent")
@app.query("unmask")
@app.train("release")
def handle(message: Message, context: Context) -> Message:
    """Hand every message to the enterprise."""
    return answer(message, context, _simulated)


def _simulated(
    config: RunConfig, index: int, request: Request, state: State
) -> tuple[Reply, Mapping[str, int | str | bytes]]:
    # Imported when the first message comes: torch and the tables are a simulation's matter.
    from fgcif_flwr.enterprise import simulated

    return simulated.answer(config, index, request, state)
