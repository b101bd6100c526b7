"""What every enterprise answers alike: the exchanges in which nobody's rows take part."""

from __future__ import annotations

from fgcif_flwr.federation.requests import Identify, Identity, Reply, Reveal
from fgcif_flwr.secagg import Participant
from fgcif_flwr.secagg.messages import AdvertiseRequest, ConsentRequest, UnmaskRequest


def answer(
    party: Participant,
    request: Identify | Reveal | AdvertiseRequest | ConsentRequest | UnmaskRequest,
) -> Reply:
    """Let a party answer; joins and releases are for the caller, who has rows and a policy.

    Raises
    ------
    SecureSumError
        As the party's method.
    """
    if isinstance(request, Identify):
        return Identity.of(party.name, party.identity, request)
    if isinstance(request, Reveal):
        return party.reveal(request.joins)
    if isinstance(request, AdvertiseRequest):
        return party.advertise(request)
    if isinstance(request, ConsentRequest):
        return party.consent(request)
    return party.unmask(request)
