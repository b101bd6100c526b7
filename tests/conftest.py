"""Fixtures that several test files share."""

from __future__ import annotations

import os

# Gradient boosting's threads wait for each other where other tests share the cores. Before any
# import that reads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path

import pytest

_DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def public() -> Callable[[str], Path]:
    """Find a public table by its path under FGCIF_DATA; the test skips where it is absent."""
    directory = Path(os.environ.get("FGCIF_DATA", _DEFAULT_DATA))

    def find(name: str) -> Path:
        path = directory / name
        if not path.is_file():
            pytest.skip(f"the public table {name} is not here: set FGCIF_DATA (see docs/data.md)")
        return path

    return find
