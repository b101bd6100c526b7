"""What the requests and answers of an enterprise's own operations have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict


class OperationRequest(BaseModel):
    """Base of the requests: frozen, no unknown keys, no values in errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def json_values(values: Mapping[str, object]) -> dict[str, object]:
    """Return values as JSON can hold them: figures that are undefined or infinite become null."""
    return {str(key): _json_value(value) for key, value in values.items()}


def _json_value(value: object) -> object:
    if isinstance(value, Mapping):
        return json_values(value)
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
