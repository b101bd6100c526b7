"""A canary audit: does a noisy sum really cost no more than the accountant says?

The adversary of the guarantee itself. It sees a sum as it is opened over the fewest honest
enterprises, knows every other contribution, and knows the *canary*: a contribution of the greatest
norm that may or may not be in. It decides by a threshold. Over many repetitions in both worlds its
true and false positive rates bound epsilon from below (:mod:`fgcif_flwr.audit.rates`). A lower
bound above what is charged is a fault in the mechanism, or bad luck, whose probability is stated;
one below it proves nothing.

Sources: Nasr et al., "Adversary Instantiation: Lower Bounds for Differentially Private Machine
Learning", 2021, for the adversary; Jagielski, Ullman and Oprea, "Auditing Differentially Private
Machine Learning: How Private is Private SGD?", 2020, for the bound; Nasr et al., "Tight Auditing of
Differentially Private Machine Learning", 2023, for the one by Gaussian differential privacy.

The contributions, their clipping, the noise and the words are the releases' own: all sums pass
:meth:`NoisySum.encode` and the words of :meth:`NoisySum.layout`. Masks cancel and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.audit.rates import Rates, Scores, deviation_bound, epsilon_bound, gaussian_epsilon
from fgcif_flwr.privacy import accounting
from fgcif_flwr.privacy.noise import cryptographic_generator
from fgcif_flwr.privacy.noisy_sum import NoisySum
from fgcif_flwr.secagg.encoding import VectorLayout

Reals = npt.NDArray[np.float64]
Rows = dict[str, Reals]

OFFERED_NORM = 3.0
"""Norm of a canary's blocks before they are clipped to 1: clipping is under audit too."""


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes
    ----------
    lower_bound : float
        Of epsilon at ``delta``, >= 0, by the rates alone; holds with probability ``confidence``.
    gaussian_bound : float
        Of epsilon at ``delta``, >= 0, with the same probability, if telling the worlds apart is
        telling two normal laws of one variance apart, which Skellam noise of a variance of
        thousands is close to. At small deltas it sees far smaller faults.
    charged : float
        What the accountant charges for the releases, at ``delta``.
    tpr, fpr : float
        Observed shares of canaries held to be in that were, and that were not, at the threshold of
        ``lower_bound``; in [0, 1].
    confidence, delta : float
        In (0, 1).
    repetitions : int
        In each world, that the bounds rest on; the threshold was chosen on as many others.
    releases, honest : int
        Of the same contributions, and enterprises that each opened sum covers.
    """

    lower_bound: float
    gaussian_bound: float
    charged: float
    tpr: float
    fpr: float
    confidence: float
    delta: float
    repetitions: int
    releases: int
    honest: int

    @property
    def fault(self) -> bool:
        """Whether the rates contradict what is charged."""
        return self.lower_bound > self.charged


def audit_release(
    noisy_sum: NoisySum,
    honest: int,
    delta: float,
    repetitions: int,
    *,
    releases: int = 1,
    confidence: float = 0.95,
    canaries: int = 1,
    generators: Callable[[], np.random.Generator] = cryptographic_generator,
) -> AuditResult:
    """Play the adversary against releases of a noisy sum, again and again.

    Parameters
    ----------
    noisy_sum : NoisySum
        The mechanism under audit.
    honest : int
        Enterprises whose shares the opened sums hold, at least 1; the noise is then as small as
        it can be. The canary is in the first one's sum, each other has one row.
    delta : float
        In (0, 1). The charge is a bound at every delta: a larger one than that of a plan shows
        faults of its mechanism with fewer repetitions.
    repetitions : int
        In each world, in all; half choose the threshold. At least ``2 * canaries``, rounded up to
        a multiple of that. No bound exceeds about ``log(repetitions / 7)`` at 95 %.
    releases : int
        Sums that the canary is or is not in, all opened to the same adversary, at least 1.
    confidence : float
        In (0, 1), of each of the two bounds on its own.
    canaries : int
        Independent repetitions in one opened sum, from 1 to the least block's size and to the cap
        on contributions. Each canary has numbers of its own, so that its score and another's
        depend only if the noise of different numbers does. At 1 the confidence presumes nothing
        of the noise within a sum.
    generators
        Called for each enterprise's share of each sum, and once for each pair of worlds.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    PrivacyError
        If delta is.
    """
    charged = accounting.epsilon_of(accounting.times(noisy_sum.curve(), releases), delta)
    most = min(noisy_sum.contributions, *(block.size for block in noisy_sum.blocks))
    if not 1 <= canaries <= most:
        raise ValueError(f"canaries is {canaries}; this sum holds from 1 to {most} of them")
    if honest < 1 or releases < 1 or not 0 < confidence < 1:
        raise ValueError("honest and releases are at least 1, the confidence is in (0, 1)")
    if repetitions < 2 * canaries:
        raise ValueError(f"repetitions is {repetitions}; it must be at least {2 * canaries}")
    half = -(-repetitions // (2 * canaries))
    present, absent = _scores(noisy_sum, honest, releases, canaries, 2 * half, generators)
    chosen = Scores(present[:half].ravel(), absent[:half].ravel())
    tested = Scores(present[half:].ravel(), absent[half:].ravel())

    def bound(rates: Rates) -> Reals:
        return epsilon_bound(rates, delta)

    by_rates = tested.above(chosen.best(bound, confidence), confidence)
    by_normal = tested.above(chosen.best(deviation_bound, confidence), confidence)
    return AuditResult(
        lower_bound=max(0.0, float(bound(by_rates)[0])),
        gaussian_bound=gaussian_epsilon(float(deviation_bound(by_normal)[0]), delta),
        charged=charged,
        tpr=float(by_rates.tpr[0]),
        fpr=float(by_rates.fpr[0]),
        confidence=confidence,
        delta=delta,
        repetitions=half * canaries,
        releases=releases,
        honest=honest,
    )


def _scores(
    noisy_sum: NoisySum,
    honest: int,
    releases: int,
    canaries: int,
    pairs: int,
    generators: Callable[[], np.random.Generator],
) -> tuple[Reals, Reals]:
    """Return the adversary's scores of canaries that were in and were not, (pairs, canaries) each.

    Which canaries are in is drawn for each pair of worlds, and turned round in the second.
    """
    layout = noisy_sum.layout(honest, honest)
    rows = _canaries(noisy_sum, canaries)
    other = {name: values.sum(axis=0, keepdims=True) for name, values in rows.items()}
    present, absent = np.empty((2, pairs, canaries))
    for pair in range(pairs):
        drawn = generators().integers(0, 2, canaries) == 1
        for held in (drawn, ~drawn):
            score = np.zeros(canaries)
            for release in range(releases):
                # A sign that changes costs the adversary nothing, and cancels noise that two
                # releases have in common.
                sign = -1.0 if release % 2 else 1.0
                # one that is not in is replaced by zero: that is the adjacency
                own = {name: sign * held[:, None] * values for name, values in rows.items()}
                contributed = [own, *[other] * (honest - 1)]
                opened = _opened(noisy_sum, layout, contributed, generators)
                score += sign * _projected(noisy_sum, canaries, opened)
            present[pair, held] = score[held]
            absent[pair, ~held] = score[~held]
    return present, absent


def _canaries(noisy_sum: NoisySum, canaries: int) -> Rows:
    """Return the canaries' rows: each has its stretch of every block, of equal numbers in turn.

    Their signs alternate: noise that neighbouring numbers have in common would cancel.
    """
    rows = {}
    for block in noisy_sum.blocks:
        width = block.size // canaries
        values = np.zeros((canaries, block.size))
        for number in range(canaries):
            stretch = slice(number * width, (number + 1) * width)
            values[number, stretch] = OFFERED_NORM / math.sqrt(width) * _signs(width)
        rows[block.name] = values
    return rows


def _signs(width: int) -> Reals:
    return np.where(np.arange(width) % 2, -1.0, 1.0)


def _opened(
    noisy_sum: NoisySum,
    layout: VectorLayout,
    contributed: Sequence[Rows],
    generators: Callable[[], np.random.Generator],
) -> dict[str, Reals]:
    """Return the integers of a sum as it is opened, over the enterprises of these rows."""
    honest = len(contributed)
    form = layout.form(honest)
    total = form.words(np.zeros(noisy_sum.size, dtype=np.int64))
    for rows in contributed:
        total = total + form.words(noisy_sum.encode([rows], honest, generators()))
    return layout.decode(form.reduce(total), form)


def _projected(noisy_sum: NoisySum, canaries: int, opened: dict[str, Reals]) -> Reals:
    """Return the sum's component along each canary, (canaries,): 1 more where it is in.

    Along the integers of a canary, the noise being of one variance everywhere: for normal noise
    no statistic tells more. The others' rows add the same to all.
    """
    scores = np.zeros(canaries)
    for block in noisy_sum.blocks:
        width = block.size // canaries
        numbers = opened[block.name][: canaries * width].reshape(canaries, width)
        share = noisy_sum.scale(block.name) / noisy_sum.resolution**2 / math.sqrt(width)
        scores += share * (numbers @ _signs(width))  # of whole numbers, and exact
    return scores
