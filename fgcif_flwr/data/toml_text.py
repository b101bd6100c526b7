"""Writing the TOML that a schema needs: strings, numbers, dates, lists, and tables of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date


def dump_toml(tree: Mapping[str, object]) -> str:
    """Return ``tree`` as TOML 1.0 text that :mod:`tomllib` reads back as the same tree.

    A mapping becomes a ``[table]``, a sequence of mappings ``[[tables]]``; they follow the plain
    keys, in the order given. One level of nesting is enough for a schema.
    """
    lines = [f"{_key(key)} = {_value(value)}" for key, value in tree.items() if _is_plain(value)]
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{_key(key)}]", *_pairs(value)]
        elif isinstance(value, list | tuple) and not _is_plain(value):
            for item in value:
                lines += ["", f"[[{_key(key)}]]", *_pairs(item)]
    return "\n".join(lines) + "\n"


def _pairs(table: object) -> list[str]:
    if not isinstance(table, Mapping):
        raise TypeError("a list holds tables only, or none")
    return [f"{_key(key)} = {_value(value)}" for key, value in table.items()]


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return not any(isinstance(item, Mapping) for item in value)
    return not isinstance(value, Mapping)


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _text(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    raise TypeError(f"TOML has no form for {type(value).__name__}")


def _text(value: str) -> str:
    # JSON's escapes are TOML's; only DEL is legal bare in the one and not in the other.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
