"""The terms of a run: what the manifest says besides who takes part."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from fgcif_flwr.config import RunConfig, flatten, unflatten
from fgcif_flwr.errors import ConfigurationError, SchemaError

# Where artefacts and keys lie, and which rows stand behind an enterprise's name, are each party's
# own matter: they decide nothing of what is released. The schema is named by its hash.
_PRIVATE = (
    "run.output",
    "run.witness",
    "run.roster",
    "run.identity",
    "data.table",
    "data.schema",
    "data.partition",
)


def terms_of(config: RunConfig, schema_hash: str) -> str:
    """Return the canonical JSON of what decides the releases of a run."""
    shared = {key: value for key, value in flatten(config).items() if key not in _PRIVATE}
    return json.dumps({"config": shared, "schema": schema_hash}, sort_keys=True)


@lru_cache(maxsize=8)
def config_in(terms: str) -> RunConfig:
    """Return the configuration that the terms hold."""
    config = _read(terms).get("config")
    if not isinstance(config, dict):
        raise ConfigurationError("the manifest's terms hold no configuration")
    return unflatten(config)


def check_schema(terms: str, schema_hash: str) -> None:
    """Raise SchemaError unless the terms name this schema."""
    named = _read(terms).get("schema")
    if named != schema_hash:
        raise SchemaError(
            f"the run's schema {str(named)[:12]} is not this enterprise's {schema_hash[:12]}; "
            "all must use the same schema file"
        )


def _read(terms: str) -> dict[str, Any]:
    try:
        tree = json.loads(terms)
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        raise ConfigurationError("the manifest's terms are not a JSON object")
    return tree
