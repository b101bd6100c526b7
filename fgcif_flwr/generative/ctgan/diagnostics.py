"""Whether a generator in training is healthy, and which one to keep when it is not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.generative.transform import TableTransform

Integers = npt.NDArray[np.int64]

_COMMON = 0.01  # share of the rows for a cell to count as one that must be covered
_LARGEST = 1e4  # of the critic's loss; a healthy one is of the order of 1
_COLLAPSED = 0.5  # of the most coverage so far


@dataclass(frozen=True)
class Check:
    """How training stood at one step, over the steps since the check before.

    Attributes
    ----------
    step : int
        Updates of the generator so far.
    critic_loss : float
        Mean, with the gradient penalty. Of a private training, the mean score of generated rows:
        the loss would show real ones.
    critic_gradient_norm, generator_gradient_norm : float
        Largest L2 norm of an update's gradient.
    coverage : float
        Mode coverage in [0, 1]: of the cells that 1 % of the rows or more are in (modes of
        numbers, categories, missing), the share that sampled rows reach.
    distance : float
        Total variation in [0, 1] between the cells of sampled rows and of the table, the mean
        over columns.
    """

    step: int
    critic_loss: float
    critic_gradient_norm: float
    generator_gradient_norm: float
    coverage: float
    distance: float


@dataclass(frozen=True)
class Diagnostics:
    """How a training went.

    Attributes
    ----------
    checks : tuple of Check
    kept_step : int
        The step whose generator was kept: the last healthy one; 0 if that is the untrained one.
    divergence : str or None
        Why training stopped early: ``not finite``, ``critic exploded`` or ``coverage collapsed``.
    epsilon : float or None
        What a private training cost at its delta; None of one that is not private.
    """

    checks: tuple[Check, ...]
    kept_step: int
    divergence: str | None
    epsilon: float | None = None


def coverage_of(transform: TableTransform, cells: Integers) -> tuple[float, float]:
    """Compare sampled rows' cells with those that a transform was fitted to.

    Parameters
    ----------
    transform
    cells
        int64 (rows, columns), from :meth:`TableTransform.codes` or a generator; 1,000 rows or so.

    Returns
    -------
    coverage, distance : float
        As in :class:`Check`.
    """
    common = reached = 0
    distances = []
    for index, coding in enumerate(transform.codings):
        mass = coding.mass.astype(np.float64)
        if not mass.any():
            continue
        share = mass / mass.sum()
        own = np.bincount(cells[:, index], minlength=len(mass)) / max(len(cells), 1)
        common += int((share >= _COMMON).sum())
        reached += int(((share >= _COMMON) & (own > 0)).sum())
        distances.append(0.5 * float(np.abs(own - share).sum()))
    return reached / max(common, 1), float(np.mean(distances or [0.0]))


def divergence_of(check: Check, earlier: list[Check]) -> str | None:
    """Return why a check is not healthy, after the ``earlier`` ones; None if it is."""
    numbers = (check.critic_loss, check.critic_gradient_norm, check.generator_gradient_norm)
    if not all(math.isfinite(number) for number in (*numbers, check.distance)):
        return "not finite"
    if abs(check.critic_loss) > _LARGEST:
        return "critic exploded"
    # Coverage of an untrained generator says little: what falls is looked at, not what is low.
    best = max((one.coverage for one in earlier), default=0.0)
    if check.coverage < _COLLAPSED * best:
        return "coverage collapsed"
    return None
