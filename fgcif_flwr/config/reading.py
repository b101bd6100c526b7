"""From TOML, ``--set`` and Flower's dotted keys to a configuration, and back."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fgcif_flwr.config.checks import check_together
from fgcif_flwr.config.sections import RunConfig
from fgcif_flwr.errors import ConfigurationError, UnknownKeyError

Scalar = str | int | float | bool


def known_keys() -> tuple[str, ...]:
    """All dotted keys, in the order of the sections."""
    return tuple(flatten(RunConfig()))


def flatten(config: RunConfig) -> dict[str, Scalar]:
    """Return ``config`` as dotted keys with values that Flower's configuration can hold."""
    flat: dict[str, Scalar] = {}
    for section, values in config.model_dump(by_alias=True).items():
        for key, value in values.items():
            flat[f"{section}.{key}"] = (
                ",".join(str(item) for item in value) if isinstance(value, tuple) else value
            )
    return flat


def unflatten(flat: Mapping[str, object]) -> RunConfig:
    """Build a configuration from dotted keys; keys left out keep their default.

    Raises
    ------
    UnknownKeyError
        For a key that does not exist; the message names the nearest known one.
    ConfigurationError
        For a value outside its kind or bounds, naming key and bound.
    PrivacyError
        For settings whose parts would void the guarantee that they state.
    """
    known = known_keys()
    tree: dict[str, dict[str, object]] = {}
    for key, value in flat.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UnknownKeyError(f"unknown configuration key {key}{hint}")
        section, name = key.split(".", 1)
        tree.setdefault(section, {})[name] = value
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigurationError(_first_error(error)) from None
    check_together(config)
    return config


def read_toml(path: Path) -> dict[str, object]:
    """Read a TOML file as dotted keys."""
    try:
        with path.open("rb") as file:
            tree = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigurationError(f"there is no configuration file {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from None
    flat: dict[str, object] = {}
    for section, values in tree.items():
        if isinstance(values, dict):
            flat.update({f"{section}.{key}": value for key, value in values.items()})
        else:
            flat[section] = values
    return flat


def parse_assignments(assignments: Iterable[str]) -> dict[str, object]:
    """Parse ``section.key=value`` strings; values keep their text where TOML cannot read them."""
    flat: dict[str, object] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigurationError(f"--set wants section.key=value, not {text!r}")
        flat[key.strip()] = _toml_value(value.strip())
    return flat


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    # Unions add the branch's name to the location; only the section and the key are ours.
    key = ".".join(str(part) for part in first["loc"][:2])
    given = first.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{key}: {first['msg'].lower()}{shown}"
