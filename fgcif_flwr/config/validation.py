"""What is wrong with a file that was read into a model, in one line and without its values."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ValidationError

from fgcif_flwr.errors import ConfigurationError, UnknownKeyError


def refusal(path: Path, model: type[BaseModel], error: ValidationError) -> ConfigurationError:
    """Return the error to raise for a file that its model refused: key and what is wanted.

    Of a key that does not exist it is :class:`UnknownKeyError`, with the nearest one that does.
    """
    first = error.errors(include_url=False, include_input=False)[0]
    place = [part for part in first["loc"] if isinstance(part, str)]
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        known = _keys(model, place[:-1])
        near = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
        hint = ".".join([*place[:-1], near[0]]) if near else ""
        return UnknownKeyError(
            f"{path}: {key}: there is no such key"
            + (f"; did you mean {hint}?" if hint else f"; there are {', '.join(known)}")
        )
    if first["type"] == "missing":
        return ConfigurationError(f"{path}: {key}: is wanted and not there")
    reason = first["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    return ConfigurationError(f"{path}: {f'{key}: ' if key else ''}{reason}")


def _keys(model: type[BaseModel], place: Sequence[str]) -> list[str]:
    """Return the keys that a section of a model has, as a file writes them."""
    for part in place:
        field = next(one for name, one in model.model_fields.items() if part in (name, one.alias))
        model = next(
            one
            for one in (field.annotation, *get_args(field.annotation))
            if isinstance(one, type) and issubclass(one, BaseModel)
        )
    return [one.alias or name for name, one in model.model_fields.items()]
