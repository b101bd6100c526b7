"""Flower's way into an enterprise: messages in, messages out, nothing heavy imported."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fgcif_flwr.federation.client import answer

app = ClientApp()


@app.query("identify")
@app.query("join")
@app.query("advertise")
@app.query("unmask")
@app.train("release")
def handle(message: Message, context: Context) -> Message:
    """Hand every message to the enterprise."""
    return answer(message, context)
