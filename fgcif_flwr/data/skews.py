"""Drawn divisions of rows among enterprises: even, Dirichlet over classes, skewed positives.

All functions return int64 (rows,), the index of each row's enterprise, and use every row.
``labels`` is int64 (rows,): the class of each row, -1 where the label is missing; such rows are
dealt evenly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import PartitionError

# Below some rows an enterprise has no validation or test customers; NIID-Bench asks for 10 too.
MINIMUM_ROWS = 10

_REDRAWS = 100
# Beyond it the spacing of float64 would show in the sum of a million rows' shares.
_FARTHEST_LOGIT = 1e8

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def deal_evenly(rows: int, enterprises: int, rng: np.random.Generator) -> Indices:
    """Assign ``rows`` rows at random; sizes differ by at most one.

    Raises
    ------
    PartitionError
        If there are fewer rows than enterprises.
    """
    _require_rows(rows, enterprises, minimum=1)
    dealt: Indices = rng.permutation(np.arange(rows, dtype=np.int64) % enterprises)
    return dealt


def dirichlet(
    labels: Indices, concentration: float, enterprises: int, rng: np.random.Generator
) -> Indices:
    """Divide the rows of each class by shares drawn from Dirichlet(``concentration``).

    This is the distribution-based label imbalance of Li et al. 2022 (NIID-Bench, section 4):
    one draw of shares over the enterprises per class. The draw is repeated, up to 100 times,
    until each enterprise has at least 10 rows; if none does, as for small concentrations and
    many enterprises, the last draw is repaired: rows drawn at random from the largest
    enterprise move to the smallest until all have 10.

    Raises
    ------
    PartitionError
        If there are fewer than 10 rows per enterprise, or no labels.
    """
    _require_rows(len(labels), enterprises, MINIMUM_ROWS)
    dealt = _deal_missing(labels, enterprises, rng)
    classes, sizes = np.unique(labels[labels >= 0], return_counts=True)
    if not len(classes):
        raise PartitionError("dirichlet wants rows with a label of the target; all are missing")
    unlabelled = np.bincount(dealt[dealt >= 0], minlength=enterprises)
    for _ in range(_REDRAWS):
        counts = np.array([_dirichlet_counts(n, concentration, enterprises, rng) for n in sizes])
        if (counts.sum(axis=0) + unlabelled).min() >= MINIMUM_ROWS:
            break
    for label, per_enterprise in zip(classes, counts, strict=True):
        members = np.flatnonzero(labels == label)
        dealt[members] = rng.permutation(np.repeat(np.arange(enterprises), per_enterprise))
    _raise_to_minimum(dealt, enterprises, rng)
    return dealt


def label_skew(
    labels: Indices, concentration: float, enterprises: int, rng: np.random.Generator
) -> Indices:
    """Give enterprises of equal size shares of positives from Beta(A p, A (1 - p)).

    ``p`` is the overall share of positives (label 1) and A the ``concentration``: the shares
    have mean p and variance p (1 - p) / (A + 1). Drawn shares do not add up to the positives
    that there are, and every row is to be used, so all shares are shifted by the same amount on
    the logit scale until they do; this keeps their order and keeps them in [0, 1].

    Raises
    ------
    PartitionError
        If there are fewer rows than enterprises, or labels of one class only.
    """
    rows = len(labels)
    _require_rows(rows, enterprises, minimum=1)
    dealt = _deal_missing(labels, enterprises, rng)
    positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    if not (len(positives) and len(negatives)):
        raise PartitionError(
            "label-skew wants rows of both classes; the table has "
            f"{len(positives)} positive and {len(negatives)} negative rows"
        )
    capacity = np.bincount(np.arange(rows) % enterprises, minlength=enterprises)
    capacity -= np.bincount(dealt[dealt >= 0], minlength=enterprises)
    share = len(positives) / (len(positives) + len(negatives))
    logits = _log_gamma(concentration * share, enterprises, rng)
    logits -= _log_gamma(concentration * (1 - share), enterprises, rng)
    counts = _positives_per_enterprise(logits, capacity, len(positives))
    owners = np.arange(enterprises)
    dealt[positives] = rng.permutation(np.repeat(owners, counts))
    dealt[negatives] = rng.permutation(np.repeat(owners, capacity - counts))
    return dealt


def _require_rows(rows: int, enterprises: int, minimum: int) -> None:
    if rows < minimum * enterprises:
        raise PartitionError(
            f"{rows} rows are too few for {enterprises} enterprises of at least {minimum} rows; "
            f"set run.enterprises to at most {rows // minimum}"
        )


def _deal_missing(labels: Indices, enterprises: int, rng: np.random.Generator) -> Indices:
    """Return the assignment with rows of missing label dealt evenly, all others at -1."""
    dealt = np.full(len(labels), -1, dtype=np.int64)
    missing = np.flatnonzero(labels < 0)
    dealt[missing] = rng.permutation(np.arange(len(missing)) % enterprises)
    return dealt


def _dirichlet_counts(
    rows: int, concentration: float, enterprises: int, rng: np.random.Generator
) -> Indices:
    shares = rng.dirichlet(np.full(enterprises, concentration))
    edges: Indices = np.rint(np.minimum(np.cumsum(shares), 1.0) * rows).astype(np.int64)
    edges[-1] = rows
    return np.diff(edges, prepend=0)


def _raise_to_minimum(dealt: Indices, enterprises: int, rng: np.random.Generator) -> None:
    sizes = np.bincount(dealt, minlength=enterprises)
    while sizes.min() < MINIMUM_ROWS:
        small, large = int(sizes.argmin()), int(sizes.argmax())
        moved = min(MINIMUM_ROWS - sizes[small], sizes[large] - MINIMUM_ROWS)
        dealt[rng.choice(np.flatnonzero(dealt == large), moved, replace=False)] = small
        sizes[small] += moved
        sizes[large] -= moved


def _log_gamma(shape: float, size: int, rng: np.random.Generator) -> Floats:
    """Return logarithms of Gamma(``shape``, 1) draws; the ratio of two of them has Beta odds.

    Gamma(a) is Gamma(a + 1) U^(1/a) (Marsaglia and Tsang 2000, section 6). For small shapes the
    draws themselves underflow to equal zeros, and with them the order of the enterprises.
    """
    powers = np.log1p(-rng.random(size)) / max(shape, 1e-100)
    return np.maximum(np.log(rng.standard_gamma(shape + 1, size)) + powers, -_FARTHEST_LOGIT)


def _positives_per_enterprise(logits: Floats, capacity: Indices, positives: int) -> Indices:
    """Return counts, at most ``capacity``, that add up to ``positives``.

    Shares are the logistic function of ``logits`` plus the one shift, found by bisection, at
    which the counts add up; they are then rounded by largest remainders.
    """
    # 60 beyond the farthest logit, every enterprise is full or empty to the last bit.
    high = float(np.abs(logits).max()) + 60.0
    low = -high
    for _ in range(200):
        shift = (low + high) / 2
        wanted = capacity * (1 + np.tanh((logits + shift) / 2)) / 2
        if wanted.sum() < positives:
            low = shift
        else:
            high = shift
    counts: Indices = np.floor(wanted).astype(np.int64)
    remainder = np.where(counts < capacity, wanted - counts, -1.0)
    largest = np.argsort(-remainder, kind="stable")[: positives - int(counts.sum())]
    counts[largest] += 1
    return counts
