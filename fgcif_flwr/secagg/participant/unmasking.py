"""Unmask: open one kind of share for each neighbour, once."""

from __future__ import annotations

from fgcif_flwr.errors import PhaseError
from fgcif_flwr.secagg.epoch import OPENED_BYTES, Epoch
from fgcif_flwr.secagg.keys import Entropy
from fgcif_flwr.secagg.messages import UnmaskReply, UnmaskRequest
from fgcif_flwr.secagg.participant.consenting import check_consents, check_survivors
from fgcif_flwr.secagg.participant.joining import Joined
from fgcif_flwr.secagg.participant.releasing import Masked


def check_unmask(name: str, joined: Joined, masked: Masked, request: UnmaskRequest) -> None:
    """Raise unless the request's lists may be answered.

    Raises
    ------
    CohortError
        As :func:`fgcif_flwr.secagg.participant.consenting.check_survivors`.
    PhaseError
        If this enterprise has not consented to this list, where consistency is asked for.
    """
    epoch = joined.epoch
    check_survivors(name, epoch, masked, request)
    if epoch.parameters.consistency and masked.agreed != _agreed(epoch, masked, request):
        raise PhaseError(f"{name} has not consented to this list of survivors")


def unmask(
    name: str, joined: Joined, masked: Masked, request: UnmaskRequest, entropy: Entropy
) -> UnmaskReply:
    """Return a share of the self-mask seed of every surviving neighbour, and of the round key of
    every dropped one.

    The consents are checked here, once the slot's answer is spent: where only a sample of them
    is verified, a coordinator must not have a second try.

    Raises
    ------
    CohortError, AuthenticationError
        As :func:`fgcif_flwr.secagg.participant.consenting.check_consents`.
    """
    epoch = joined.epoch
    if epoch.parameters.consistency:
        check_consents(epoch, request, _agreed(epoch, masked, request), entropy)
    dropped = set(request.dropped)
    pieces: list[bytes] = []
    for index, dealer in enumerate(masked.dealers):
        start = 2 * OPENED_BYTES * index + (0 if dealer in dropped else OPENED_BYTES)
        pieces.append(masked.held[start : start + OPENED_BYTES])
    return UnmaskReply(name, masked.slot, b"".join(pieces))


def _agreed(epoch: Epoch, masked: Masked, request: UnmaskRequest) -> bytes:
    return epoch.consent_bytes(request.slot, masked.cohort, request.survivors, request.dropped)
