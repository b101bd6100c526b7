"""What every customer is counted into: three sums, the later ones by what the earlier ones told.

``marginals-one-way``
    A block for each column: its cell on the grid and the customer's class. The *class* is the first
    target that has classes; a layout without one has a single class.
``marginals-pairs``
    A block for each pair of columns: the bin of each, and the class. The input has each column's
    cells in at most ``pair_bins`` bins.
``marginals-cliques``
    The same of chosen pairs, with up to ``clique_bins`` bins. The input has the bins and the pairs.

A customer has a single 1 in every block, so that a block's norm is 1. Counting the class with
everything costs the budget nothing, and the sums over the classes little. That only counts of few
columns are taken, chosen by noisy counts of their pairs, is after McKenna, Miklau and Sheldon
(*Winning the NIST contest*, JPC 2021).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.generative.columns import columns_of
from fgcif_flwr.generative.marginals.grid import Codes, cells_of, grid_codes
from fgcif_flwr.generative.marginals.settings import MarginalSettings

ONE_WAY, PAIRS, CLIQUES = MEASUREMENTS = (
    "marginals-one-way",
    "marginals-pairs",
    "marginals-cliques",
)

Input = Mapping[str, npt.NDArray[np.generic]]

MOST_CODES = 16
"""A target of more codes (classes, and missing) is a column like others, not the class."""

_CHUNK_BYTES = 1 << 25


def class_column(layout: FeatureLayout) -> int | None:
    """Return the index of the column that everything is counted with; None where there is none."""
    columns = columns_of(layout)
    if len(columns) > 1:
        for i, column in enumerate(columns):
            if column.target and not column.numeric and column.codes <= MOST_CODES:
                return i
    return None


def counted_columns(layout: FeatureLayout) -> tuple[int, ...]:
    """Return the indices of the columns but for the class, in their order."""
    chosen = class_column(layout)
    return tuple(i for i in range(len(columns_of(layout))) if i != chosen)


def class_codes(layout: FeatureLayout) -> int:
    """Return the class's number of codes, missing included; 1 where there is no class."""
    chosen = class_column(layout)
    return 1 if chosen is None else cells_of(layout)[chosen]


def all_pairs(layout: FeatureLayout) -> tuple[tuple[int, int], ...]:
    """Return the pairs of places in :func:`counted_columns`; a lone column is with itself."""
    return tuple(combinations(range(len(counted_columns(layout))), 2)) or ((0, 0),)


def blocks(
    measurement: str, layout: FeatureLayout, settings: MarginalSettings
) -> tuple[tuple[str, int, float], ...]:
    """Return the name, size and weight of each block; by the layout and the settings alone."""
    cells, classes = _counted_cells(layout), class_codes(layout)
    if measurement == ONE_WAY:
        return tuple((f"column-{i}", classes * size, 1.0) for i, size in enumerate(cells))
    if measurement == PAIRS:
        bins = [min(size, settings.pair_bins) for size in cells]
        return tuple(
            (f"pair-{i}-{j}", classes * bins[i] * bins[j], 1.0) for i, j in all_pairs(layout)
        )
    _known(measurement)
    side = min(settings.clique_bins, max(cells))
    count = clique_count(layout, settings)
    return tuple((f"clique-{k}", classes * side * side, 1.0) for k in range(count))


def clique_count(layout: FeatureLayout, settings: MarginalSettings) -> int:
    """Return the number of chosen pairs."""
    wanted = math.ceil(settings.cliques_per_column * len(counted_columns(layout)))
    return min(len(all_pairs(layout)), wanted)


def input_shapes(
    measurement: str, layout: FeatureLayout, settings: MarginalSettings
) -> dict[str, tuple[str, int]]:
    """Return the type and size of each array of a measurement's public input, by its name.

    ``bins``: for each cell of each counted column, one column after another, its bin.
    ``pairs``: two places in :func:`counted_columns` for each clique, the lower one first.
    """
    if measurement == ONE_WAY:
        return {}
    shapes = {"bins": ("<i8", sum(_counted_cells(layout)))}
    if measurement == CLIQUES:
        shapes["pairs"] = ("<i8", 2 * clique_count(layout, settings))
    _known(measurement)
    return shapes


def check_input(
    measurement: str, arrays: Input, layout: FeatureLayout, settings: MarginalSettings
) -> None:
    """Raise SecureSumError unless ``arrays`` can be a measurement's public input."""
    shapes = input_shapes(measurement, layout, settings)
    if set(arrays) != set(shapes):
        raise SecureSumError(f"the input of {measurement} wants exactly {sorted(shapes)}")
    for name, (kind, size) in shapes.items():
        if arrays[name].dtype != np.dtype(kind) or arrays[name].shape != (size,):
            raise SecureSumError(f"{name} in the input of {measurement} must be {size} of {kind}")
    if measurement == ONE_WAY:
        return
    most = settings.pair_bins if measurement == PAIRS else settings.clique_bins
    for size, bins in zip(
        _counted_cells(layout), bins_by_column(arrays["bins"], layout), strict=True
    ):
        if bins.min() < 0 or bins.max() >= min(size, most):
            raise SecureSumError(f"a bin in the input of {measurement} is not one of its column's")
    if measurement == CLIQUES:
        pairs = [(int(i), int(j)) for i, j in arrays["pairs"].reshape(-1, 2)]
        if not set(pairs) <= set(all_pairs(layout)) or len(set(pairs)) < len(pairs):
            raise SecureSumError(f"the input of {measurement} wants different pairs of columns")


def bins_by_column(
    bins: npt.NDArray[np.generic], layout: FeatureLayout
) -> list[npt.NDArray[np.generic]]:
    """Divide the ``bins`` of an input: for each counted column the bin of each cell, (cells,)."""
    return np.split(bins, np.cumsum(_counted_cells(layout))[:-1])


def places_of(
    measurement: str,
    arrays: Input,
    layout: FeatureLayout,
    settings: MarginalSettings,
    table: EncodedTable,
) -> Iterator[dict[str, Codes]]:
    """Yield where each customer's single 1 is in every block, int64 (rows,), chunk by chunk.

    Nothing is yielded of an empty table.

    Raises
    ------
    SecureSumError
        As :func:`check_input`.
    """
    check_input(measurement, arrays, layout, settings)
    names = [name for name, _, _ in blocks(measurement, layout, settings)]
    step = max(1, _CHUNK_BYTES // (8 * len(names)))
    for start in range(0, len(table), step):
        part = table.take(np.arange(start, min(start + step, len(table))))
        places = _places(measurement, arrays, layout, settings, grid_codes(layout, part))
        yield dict(zip(names, places, strict=True))


def rows_of(
    measurement: str,
    arrays: Input,
    layout: FeatureLayout,
    settings: MarginalSettings,
    table: EncodedTable,
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Yield the customers' rows of all blocks, float32 (rows, size) by name, chunk by chunk.

    Each row of a block is zero but for a single 1. A chunk takes at most 32 MB, or is one row.
    Nothing is yielded of an empty table.

    Raises
    ------
    SecureSumError
        As :func:`check_input`.
    """
    sizes = {name: size for name, size, _ in blocks(measurement, layout, settings)}
    step = max(1, _CHUNK_BYTES // (4 * sum(sizes.values())))
    for start in range(0, len(table), step):
        part = table.take(np.arange(start, min(start + step, len(table))))
        for places in places_of(measurement, arrays, layout, settings, part):
            chunk = {}
            for name, place in places.items():
                chunk[name] = np.zeros((len(part), sizes[name]), np.float32)
                chunk[name][np.arange(len(part)), place] = 1.0
            yield chunk


def _places(
    measurement: str,
    arrays: Input,
    layout: FeatureLayout,
    settings: MarginalSettings,
    codes: Codes,
) -> Iterator[Codes]:
    """Yield where the 1 of each row is, (rows,), block by block: class, then the columns."""
    chosen = class_column(layout)
    own = codes[:, chosen] if chosen is not None else np.zeros(len(codes), np.int64)
    counted = codes[:, counted_columns(layout)]
    cells = _counted_cells(layout)
    if measurement == ONE_WAY:
        for i, size in enumerate(cells):
            yield own * size + counted[:, i]
        return
    maps = bins_by_column(arrays["bins"].astype(np.int64), layout)
    bins = [np.asarray(one)[counted[:, i]] for i, one in enumerate(maps)]
    if measurement == PAIRS:
        sides = [min(size, settings.pair_bins) for size in cells]
        for i, j in all_pairs(layout):
            yield (own * sides[i] + bins[i]) * sides[j] + bins[j]
        return
    side = min(settings.clique_bins, max(cells))
    for i, j in arrays["pairs"].reshape(-1, 2).astype(np.int64):
        yield (own * side + bins[i]) * side + bins[j]


def _counted_cells(layout: FeatureLayout) -> tuple[int, ...]:
    cells = cells_of(layout)
    return tuple(cells[i] for i in counted_columns(layout))


def _known(measurement: str) -> None:
    if measurement not in MEASUREMENTS:
        raise ValueError(f"{measurement} is none of {MEASUREMENTS}")
