"""Consent: sign the one list of survivors that this enterprise will answer for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fgcif_flwr.errors import AuthenticationError, CohortError, PhaseError
from fgcif_flwr.secagg import keys
from fgcif_flwr.secagg.epoch import Epoch
from fgcif_flwr.secagg.keys import Entropy, KeyPair
from fgcif_flwr.secagg.messages import Consent, ConsentRequest, UnmaskRequest
from fgcif_flwr.secagg.participant.joining import Joined
from fgcif_flwr.secagg.participant.releasing import Masked


def consent(
    name: str, identity: KeyPair, joined: Joined, masked: Masked, request: ConsentRequest
) -> tuple[Consent, bytes]:
    """Check and sign a list of survivors; return the signature and what was signed.

    Raises
    ------
    CohortError
        As :func:`check_survivors`.
    PhaseError
        If the manifest knows no consistency exchange.
    """
    epoch = joined.epoch
    if not epoch.parameters.consistency:
        raise PhaseError("secagg.consistency is off: there is no list to consent to")
    check_survivors(name, epoch, masked, request)
    agreed = epoch.consent_bytes(request.slot, masked.cohort, request.survivors, request.dropped)
    return Consent(name, request.slot, keys.sign(identity, agreed)), agreed


def check_consents(epoch: Epoch, request: UnmaskRequest, agreed: bytes, entropy: Entropy) -> None:
    """Raise unless enough survivors signed ``agreed``.

    Enough is more than half of holders and colluders together, so that any two lists would share
    an honest signer, which signs one list a slot (Bonawitz et al. 2017, section 6). In a k-regular
    graph most of all holders must be shown and a sample of them is verified
    (:attr:`SecureSumParameters.consents_checked`).

    Raises
    ------
    AuthenticationError
        If a signature is not its sender's, or not for this list.
    CohortError
        If one consents twice or is no survivor, or too few do.
    """
    parameters = epoch.parameters
    senders = [one.sender for one in request.consents]
    if len(set(senders)) != len(senders) or not set(senders) <= set(request.survivors):
        raise CohortError("consents to a list of survivors come once from each of them")
    if len(senders) < parameters.consents:
        raise CohortError(
            f"{len(senders)} enterprises consent to the list of survivors; "
            f"{parameters.consents} are needed"
        )
    for one in _drawn(request.consents, parameters.consents_checked, entropy):
        identity = epoch.manifest.identities[one.sender]
        if one.slot != request.slot:
            raise AuthenticationError(f"the consent of {one.sender} is for another slot")
        keys.verify(identity, one.signature, agreed, one.sender)


def _drawn(consents: Sequence[Consent], count: int, entropy: Entropy) -> list[Consent]:
    """Draw ``count`` of the consents, all subsets alike, by sorting under random keys."""
    if count >= len(consents):
        return list(consents)
    ranks = np.frombuffer(entropy(8 * len(consents)), dtype="<u8")
    return [consents[index] for index in np.argsort(ranks)[:count]]


def check_survivors(
    name: str, epoch: Epoch, masked: Masked, request: ConsentRequest | UnmaskRequest
) -> None:
    """Check a list of survivors by what this enterprise masked with.

    Raises
    ------
    CohortError
        If survivors and dropped are not a partition of the cohort, each in the order of names; if
        this enterprise is called dropped; if more than the tolerated number are; if fewer than
        the threshold survive, among all or around any one survivor.
    """
    parameters = epoch.parameters
    survivors, dropped = request.survivors, request.dropped
    if (
        survivors != tuple(sorted(survivors))
        or dropped != tuple(sorted(dropped))
        or tuple(sorted(survivors + dropped)) != masked.cohort
    ):
        raise CohortError("survivors and dropped are not a partition of the cohort")
    if name not in survivors:
        raise CohortError(f"{name} sent its vector and is called dropped")
    if len(dropped) > parameters.tolerated_dropouts:
        raise CohortError(
            f"{len(dropped)} are called dropped; "
            f"secagg.tolerated_dropouts allows {parameters.tolerated_dropouts}"
        )
    if len(survivors) < parameters.smallest_cohort:
        raise CohortError(
            f"{len(survivors)} survivors are below the least of {parameters.smallest_cohort}"
        )
    if not parameters.complete:
        alive = np.zeros(len(epoch.holders), dtype=bool)
        alive[[epoch.position(survivor) for survivor in survivors]] = True
        if len(epoch.graph.starved(alive, parameters.threshold)):
            raise CohortError(
                "a survivor keeps fewer neighbours than the threshold of "
                f"{parameters.threshold}: it could be cut off from the others"
            )
