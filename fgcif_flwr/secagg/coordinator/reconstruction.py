"""Rebuild the secrets that open a slot, and name whoever spoilt a share.

Every opened share is held against the commitment that its dealer signed, so a wrong one names its
holder; shares that all fit their commitments and yet open nothing name their dealer. A holder that
complained of a dealer at release has no share of its secrets to answer with.
"""

from __future__ import annotations

import hmac
from bisect import bisect_left
from collections.abc import Mapping

import numpy as np

from fgcif_flwr.errors import MisbehaviourError, SecureSumError
from fgcif_flwr.secagg import keys, shamir
from fgcif_flwr.secagg.coordinator.collected import Collected
from fgcif_flwr.secagg.epoch import (
    COMMITMENT_BYTES,
    OPENED_BYTES,
    ROUND_KEY,
    SELF_MASK,
    commit_share,
)
from fgcif_flwr.secagg.shamir import LIMBS, SHARE_BYTES

_AT_A_TIME = 128  # dealers: all of a complete graph, so that its coefficients are computed once


def reconstruct(
    collected: Collected, answers: Mapping[str, bytes]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return each cohort member's opened secret, and who is proven to have spoilt shares and how.

    Parameters
    ----------
    answers
        Opened shares of each who answered, one piece for every neighbour in the cohort.

    Raises
    ------
    SecureSumError
        If fewer than the threshold answered for a secret.
    MisbehaviourError
        If enough answered and yet too few shares fit, naming whom to leave out.
    """
    tolerated = collected.context.epoch.parameters.tolerated_colluders
    blamed = {  # more say so than can be in league
        dealer: "dealt shares that do not fit"
        for dealer, complainers in collected.complaints.items()
        if len(complainers) > tolerated
    }
    dealers = collected.context.cohort
    opened = _Opened(collected, answers)
    secrets: dict[str, bytes] = {}
    for start in range(0, len(dealers), _AT_A_TIME):
        some = dealers[start : start + _AT_A_TIME]
        fitting = [_fitting(collected, dealer, opened.of(dealer), blamed) for dealer in some]
        points = np.array([holders for holders, _ in fitting], dtype=np.int64) + 1
        shares = np.frombuffer(b"".join(b"".join(pieces) for _, pieces in fitting), dtype="<u4")
        rebuilt = shamir.combine_each(points, shares.reshape(*points.shape, LIMBS))
        for dealer, secret in zip(some, rebuilt, strict=True):
            if secret is not None and _is_committed(collected, dealer, secret):
                secrets[dealer] = secret
            else:
                blamed[dealer] = "dealt shares that fit their commitments and open nothing"
    useless = [dealer for dealer in dealers if dealer not in secrets]
    if useless:
        raise MisbehaviourError(
            f"slot {collected.context.slot}: {', '.join(useless)} {blamed[useless[0]]}", useless
        )
    return secrets, blamed


class _Opened:
    """Opened shares as they were answered: one piece of each holder for each of its dealers."""

    def __init__(self, collected: Collected, answers: Mapping[str, bytes]) -> None:
        self._epoch, self._answers = collected.context.epoch, answers
        self._holders = sorted(answers)
        cohort = collected.context.cohort
        self._dealers = {holder: self._epoch.neighbours(holder, cohort) for holder in answers}

    def of(self, dealer: str) -> list[tuple[str, bytes]]:
        """Return (holder, opened share) of a dealer's secret, holders in the order of names."""
        opened: list[tuple[str, bytes]] = []
        for holder in self._epoch.neighbours(dealer, self._holders):
            start = OPENED_BYTES * bisect_left(self._dealers[holder], dealer)
            opened.append((holder, self._answers[holder][start : start + OPENED_BYTES]))
        return opened


def _fitting(
    collected: Collected,
    dealer: str,
    opened: list[tuple[str, bytes]],
    blamed: dict[str, str],
) -> tuple[list[int], list[bytes]]:
    """Return positions and shares of the first holders, as many as the threshold, whose shares
    fit what the dealer committed to."""
    context = collected.context
    epoch, ad = context.epoch, collected.ads[dealer]
    threshold = epoch.parameters.threshold
    kind = SELF_MASK if dealer in collected.survivors else ROUND_KEY
    binding = epoch.slot_binding(context.slot)
    dealer_position = epoch.position(dealer)
    complained = collected.complaints.get(dealer, set())
    holders: list[int] = []
    pieces: list[bytes] = []
    for holder, piece in opened:
        if holder in complained:
            continue
        position = epoch.position(holder)
        start = COMMITMENT_BYTES * (2 * epoch.graph.place(dealer_position, position) + kind)
        committed = ad.commitments[start : start + COMMITMENT_BYTES]
        if commit_share(binding, dealer, position, kind, piece) != committed:
            blamed[holder] = f"opened another share than {dealer} dealt to it"
            continue
        holders.append(position)
        pieces.append(piece[:SHARE_BYTES])
        if len(holders) == threshold:
            return holders, pieces
    if len(opened) < threshold:
        raise SecureSumError(
            f"slot {context.slot}: {len(opened)} enterprises answered for {dealer}; {threshold} "
            "are needed to open the sum"
        )
    raise _too_few_fit(collected, dealer, complained, blamed)


def _too_few_fit(
    collected: Collected, dealer: str, complained: set[str], blamed: dict[str, str]
) -> MisbehaviourError:
    """Name the dealer where more complain than may collude; else it and they are suspect alike."""
    context = collected.context
    proven = len(complained) > context.epoch.parameters.tolerated_colluders
    if not complained:
        said = f"{', '.join(sorted(blamed))} opened other shares than were dealt"
    elif proven:
        said = f"{len(complained)} enterprises say that the shares of {dealer} do not fit"
    else:
        said = (
            f"the shares of {dealer} do not fit, or those who say so lie: "
            f"{', '.join(sorted(complained))}"
        )
    return MisbehaviourError(
        f"slot {context.slot}: {said}; too few are left to open the secrets of {dealer}",
        sorted({dealer, *blamed} if proven else blamed),
    )


def _is_committed(collected: Collected, dealer: str, secret: bytes) -> bool:
    ad, context = collected.ads[dealer], collected.context
    if dealer in collected.survivors:
        expected = context.epoch.seed_commitment(context.slot, dealer, secret)
        return hmac.compare_digest(expected, ad.seed_commitment)
    return keys.agreement_from_seed(secret).public == ad.round_public
