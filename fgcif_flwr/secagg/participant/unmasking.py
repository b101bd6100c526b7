"""Unmask: open one kind of share for each neighbour, once."""

from __future__ import annotations

import hmac

from fgcif_flwr.errors import PhaseError
from fgcif_flwr.secagg import keys
from fgcif_flwr.secagg.epoch import OPENED_BYTES, Epoch
from fgcif_flwr.secagg.keys import TAG_BYTES, Entropy
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
    every dropped one; in a k-regular graph no share of a survivor that masked for another cohort.

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
    withheld = _unproven(joined, masked, request)
    pieces: list[bytes] = []
    for index, dealer in enumerate(masked.dealers):
        start = 2 * OPENED_BYTES * index + (0 if dealer in dropped else OPENED_BYTES)
        share = masked.held[start : start + OPENED_BYTES]
        pieces.append(bytes(OPENED_BYTES) if dealer in withheld else share)
    return UnmaskReply(name, masked.slot, b"".join(pieces), tuple(sorted(withheld)))


def _unproven(joined: Joined, masked: Masked, request: UnmaskRequest) -> set[str]:
    """Return the surviving neighbours that do not show that they masked for the same cohort."""
    if joined.epoch.parameters.complete:
        return set()
    survivors = set(request.survivors).intersection(masked.dealers)
    shown = [channel for channel in joined.channels if channel.peer in survivors]
    unproven: set[str] = set()
    for index, channel in enumerate(shown):
        tag = request.tags[TAG_BYTES * index : TAG_BYTES * (index + 1)]
        if not hmac.compare_digest(tag, keys.authenticate(channel.tag_from, masked.binding)):
            unproven.add(channel.peer)
    return unproven


def _agreed(epoch: Epoch, masked: Masked, request: UnmaskRequest) -> bytes:
    return epoch.consent_bytes(request.slot, masked.cohort, request.survivors, request.dropped)
