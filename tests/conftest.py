"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Directory of the public tables; tests that need it skip where it is absent."""
    path = Path(os.environ.get("FGCIF_DATA", _DEFAULT_DATA))
    if not path.is_dir():
        pytest.skip("the public tables are not here: set FGCIF_DATA (docs/data.md says how)")
    return path
