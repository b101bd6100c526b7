"""From released sums to centres: quantiles, seeds, Lloyd's step, and the order of segments.

The seeds come from counts on a joint grid, as in the hybrid of Su et al. (*Differentially Private
K-Means Clustering*, CODASPY 2016): a grid counted once, clustered as often as one likes at no
further cost, then few steps of Lloyd's over the rows. No row is ever a seed.

Sums may be noisy: ``deviation`` is the standard deviation of the noise in each number, 0 for exact
ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fgcif_flwr.models.segmentation import CERTAIN, Reals, Space, nearest

CELLS = 64
"""Equal cells of [0, 1] in which a feature's histogram is counted; one more is *missing*."""
MOST_FEATURES = 10
RADIUS = 0.25
"""Distance from the current centre, over the root of the number of features, beyond which a
customer's offset is shortened under a privacy unit."""

_QUANTILES = (0.02, 0.98)
_GRID_CELLS = 1024
_SIDE = 32
_RESTARTS = 20
_STANDS_OUT = 3.0  # standard deviations: of a thousand cells of noise one or two do
_WITHIN = 8  # points of a cell by which it is spread over the grid
_STEPS = 100


def space_of(
    histograms: Sequence[Reals], deviation: float, lower_is_better: Sequence[bool]
) -> Space:
    """Place coordinates 0 and 1 at the 2 % and 98 % quantiles, and missing values at the median.

    Parameters
    ----------
    histograms
        For each feature the counts of its cells, (CELLS + 1,), the last one of missing values.
    lower_is_better
        For which of them less is more value.

    A width is at least one cell: a feature that does not vary says nothing. Where all is noise, 0
    and 1 are the public bounds.
    """
    places = [
        _placed(above_noise(histogram[:CELLS], deviation), reverse)
        for histogram, reverse in zip(histograms, lower_is_better, strict=True)
    ]
    return Space(*np.array(places, np.float64).T)


def _placed(counts: Reals, lower_is_better: bool) -> tuple[float, float, float]:
    """Return one feature's low, width and missing_value."""
    if counts.sum() <= 0:
        return 0.0, 1.0, 0.5
    first, last = (_quantile(counts, share) for share in _QUANTILES)
    wide = max(last - first, 1 / CELLS)
    first = min(first, 1 - wide)
    middle = min(1.0, max(0.0, (_quantile(counts, 0.5) - first) / wide))
    return first, wide, 1 - middle if lower_is_better else middle


def above_noise(counts: Reals, deviation: float) -> Reals:
    """Return counts without those that noise alone could have made."""
    return np.where(counts > CERTAIN * deviation, np.maximum(counts, 0.0), 0.0)


def grid_side(features: int) -> int:
    """Return the cells of a side of the joint grid: the most whose product is at most 1024."""
    side = 2
    while side < _SIDE and (side + 1) ** features <= _GRID_CELLS:
        side += 1
    return side


def grid_points(features: int) -> Reals:
    """Return the middles of the joint grid's cells, (cells, features), in their order."""
    side = grid_side(features)
    axis = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(*[axis] * features, indexing="ij"), axis=-1).reshape(-1, features)


def grid_places(coordinates: Reals) -> np.ndarray:
    """Return each row's cell of the joint grid, int64 (rows,)."""
    features = coordinates.shape[1]
    side = grid_side(features)
    along = np.minimum((coordinates * side).astype(np.int64), side - 1)
    places: np.ndarray = along @ (side ** np.arange(features)[::-1])
    return places


def independence_prior(
    histograms: Sequence[Reals], deviation: float, space: Space, lower_is_better: Sequence[bool]
) -> Reals:
    """Return the joint grid's shares if the features had nothing to do with each other, (cells,).

    Parameters are those of :func:`space_of`, and what it returned. The sum is 1.
    """
    side = grid_side(len(lower_is_better))
    inside = (np.arange(CELLS * _WITHIN) + 0.5) / (CELLS * _WITHIN)
    shares = np.ones(1)
    for feature, (histogram, reverse) in enumerate(zip(histograms, lower_is_better, strict=True)):
        along = np.clip((inside - space.low[feature]) / space.width[feature], 0.0, 1.0)
        along = np.append(1.0 - along if reverse else along, space.missing_value[feature])
        held = above_noise(np.asarray(histogram, np.float64), deviation)
        weights = np.append(np.repeat(held[:CELLS] / _WITHIN, _WITHIN), held[CELLS])
        if weights.sum() <= 0:
            weights[:] = 1.0
        places = np.minimum((along * side).astype(np.int64), side - 1)
        own = np.bincount(places, weights, side) / weights.sum()
        shares = np.outer(shares, own).reshape(-1)
    return shares


def grid_weights(counts: Reals, deviation: float, prior: Reals) -> Reals:
    """Return the joint grid's weights, (cells,), not negative.

    A count that stands out of the noise about ``prior``, what independent features would give, is
    taken as it is, and so is every exact one. Any other is between the two, nearer to the count
    the larger the prior is beside the noise.
    """
    if deviation > 0:
        trust = prior**2 / (prior**2 + deviation**2)
        trust[np.abs(counts - prior) > _STANDS_OUT * deviation] = 1.0
        counts = prior + (counts - prior) * trust
    weights = np.maximum(counts, 0.0)
    return weights if weights.sum() > 0 else np.ones(len(counts))


def initial_centres(weights: Reals, features: int, segments: int, seed: int) -> Reals:
    """Return the best of many clusterings of the weighted grid, (segments, features).

    Each starts from points drawn with probability as their weighted distance from those before
    (k-means++, Arthur and Vassilvitskii 2007). The same weights and seed give the same bits.
    """
    points = grid_points(features)
    random = np.random.default_rng(seed)
    best, least = points[:segments], np.inf
    for _ in range(_RESTARTS):
        centres = _spread(points, weights, segments, random)
        for _ in range(_STEPS):
            moved = _weighted_step(points, weights, centres)
            if np.array_equal(moved, centres):
                break
            centres = moved
        distances = _squared(points, centres).min(axis=1)
        inertia = float(weights @ distances)
        if inertia < least:
            best, least = centres, inertia
    return best


def lloyd_step(
    centres: Reals, offsets: Reals, counts: Reals, least: float
) -> tuple[Reals, list[int]]:
    """Move each centre by its customers' mean offset; return centres, and which are emptied.

    Parameters
    ----------
    offsets : (segments, features)
        Sums of the customers' coordinates minus their centre's.
    counts : (segments,)
    least
        Segments of fewer customers count as emptied; they stay where they were.
    """
    emptied = np.flatnonzero(counts < least)
    moved = centres + offsets / np.maximum(counts, max(least, 1e-9))[:, np.newaxis]
    moved[emptied] = centres[emptied]
    return np.clip(moved, 0.0, 1.0), [int(one) for one in emptied]


def reinitialised(centres: Reals, emptied: Sequence[int], weights: Reals) -> Reals:
    """Put emptied centres where most of the grid's weight is far from all others.

    Nothing is asked of anybody: the grid was counted before.
    """
    points = grid_points(centres.shape[1])
    kept = [one for one in range(len(centres)) if one not in set(emptied)]
    anew = centres.copy()
    for one in emptied:
        others = anew[kept]
        far = _squared(points, others).min(axis=1) if len(others) else np.ones(len(points))
        anew[one] = points[int(np.argmax(weights * far))]
        kept.append(one)
    return anew


def by_value(centres: Reals) -> Reals:
    """Return the centres, most valuable first: by their mean coordinate, then by each in turn."""
    keys = [*(-centres.T[::-1]), -np.round(centres.mean(axis=1), 12)]
    return np.asarray(centres[np.lexsort(keys)])


def _quantile(counts: Reals, share: float) -> float:
    """Return a quantile in [0, 1], spread evenly within its cell."""
    whole = np.concatenate([[0.0], np.cumsum(counts)])
    wanted = share * whole[-1]
    cell = int(np.searchsorted(whole, wanted, side="right")) - 1
    cell = min(max(cell, 0), len(counts) - 1)
    within = (wanted - whole[cell]) / counts[cell] if counts[cell] > 0 else 0.0
    return float((cell + min(1.0, max(0.0, within))) / len(counts))


def _spread(points: Reals, weights: Reals, segments: int, random: np.random.Generator) -> Reals:
    chosen = [int(random.choice(len(points), p=weights / weights.sum()))]
    while len(chosen) < segments:
        far = weights * _squared(points, points[chosen]).min(axis=1)
        if far.sum() <= 0:  # fewer points with weight than segments: any others
            far = np.ones(len(points))
            far[chosen] = 0.0
        chosen.append(int(random.choice(len(points), p=far / far.sum())))
    return np.asarray(points[chosen])


def _weighted_step(points: Reals, weights: Reals, centres: Reals) -> Reals:
    labels = nearest(points, centres)
    held = np.bincount(labels, weights, len(centres))
    moved = centres.copy()
    for feature in range(points.shape[1]):
        sums = np.bincount(labels, weights * points[:, feature], len(centres))
        moved[:, feature] = np.where(held > 0, sums / np.maximum(held, 1e-300), centres[:, feature])
    return moved


def _squared(points: Reals, centres: Reals) -> Reals:
    return np.asarray(((points[:, np.newaxis, :] - centres) ** 2).sum(axis=2))
