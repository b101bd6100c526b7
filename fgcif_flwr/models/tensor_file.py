"""Arrays and plain texts in one safetensors file.

Reading one runs no code of its author's, as reading a pickled model would.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fgcif_flwr.errors import DataError

Arrays = dict[str, NDArray[np.generic]]


def write_tensors(
    path: Path, arrays: Mapping[str, NDArray[np.generic]], texts: Mapping[str, str]
) -> None:
    """Write a file whole or not at all; an older one is replaced, its directory must exist."""
    # Written aside and moved, so that a reader never meets half a file.
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(save(dict(arrays), metadata=dict(texts)))
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_tensors(path: Path, what: str) -> tuple[dict[str, str], Arrays]:
    """Read a file's texts and arrays; ``what`` it should be is for the messages.

    Raises
    ------
    DataError
        Where it is absent or no safetensors file.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            texts = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise DataError(f"there is no {what} file {path}") from None
    except (SafetensorError, OSError, TypeError, AttributeError):  # the last two: odd types
        raise DataError(f"{path} is no {what} file (safetensors) or is damaged") from None
    return texts, arrays
