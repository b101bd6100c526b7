"""The federation over Flower; its two ways in for other apps are loaded when they are asked for."""

from __future__ import annotations

from importlib import import_module

_HOMES = {
    "SecureSumMod": "secure_sum_mod",
    "SecureSumStrategy": "secure_sum_strategy",
    "SecureSumTerms": "secure_sum_terms",
}

__all__ = ["SecureSumMod", "SecureSumStrategy", "SecureSumTerms"]


def __getattr__(name: str) -> object:
    # A ClientApp starts in a process of its own for every message: it loads what it uses.
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
