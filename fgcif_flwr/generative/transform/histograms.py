"""Released counts of a column's cells."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.generative.columns import Column


def checked_histogram(
    column: Column, histograms: Mapping[str, npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """Return a column's histogram, float64 (cells,); ConfigurationError if it cannot be one."""
    if column.name not in histograms:
        raise ConfigurationError(f"there is no histogram of column {column.name}")
    histogram = np.asarray(histograms[column.name], dtype=np.float64)
    fits = len(histogram) >= 2 if column.numeric else len(histogram) == column.codes
    if histogram.ndim != 1 or not fits:
        raise ConfigurationError(
            f"the histogram of column {column.name} has shape {histogram.shape}; "
            + ("it must be cells and missing" if column.numeric else f"it has {column.codes} codes")
        )
    if not (np.isfinite(histogram).all() and (histogram >= 0).all()):
        raise ConfigurationError(
            f"the histogram of column {column.name} must be finite and not negative"
        )
    return histogram
