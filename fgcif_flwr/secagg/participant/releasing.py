"""Release: check the cohort, then mask one vector for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import AuthenticationError, CohortError, SecureSumError
from fgcif_flwr.secagg import keys
from fgcif_flwr.secagg.encoding import VectorLayout
from fgcif_flwr.secagg.epoch import (
    COMMITMENT_BYTES,
    OPENED_BYTES,
    ROUND_KEY,
    SEALED_BYTES,
    SELF_MASK,
    Epoch,
    SlotContext,
    commit_share,
    share_context,
)
from fgcif_flwr.secagg.masking import masked_words
from fgcif_flwr.secagg.messages import CohortMember, ReleaseRequest
from fgcif_flwr.secagg.pairs import pair_keys
from fgcif_flwr.secagg.participant.advertising import Advertised, with_salts
from fgcif_flwr.secagg.participant.joining import Joined
from fgcif_flwr.secagg.words import WordFormat


@dataclass(frozen=True, repr=False)
class Opened:
    """A slot whose cohort was checked: its secrets serve one vector.

    ``dealers`` are the neighbours in the cohort, itself included; ``held`` has for each two
    shares with their salts, or zeros for those complained of.
    """

    slot: int
    task: str
    cohort: tuple[str, ...]
    dealers: tuple[str, ...]
    round_publics: tuple[bytes, ...]
    held: bytes
    complaints: tuple[str, ...]
    secrets: Advertised
    input_hash: bytes


@dataclass(frozen=True, repr=False)
class Masked:
    """A slot whose vector was masked: nothing is left of it but the shares held for others.

    ``binding`` is what it was masked for; ``agreed`` the list of survivors that was consented to,
    as signed, empty before.
    """

    slot: int
    cohort: tuple[str, ...]
    dealers: tuple[str, ...]
    held: bytes
    binding: bytes
    agreed: bytes = b""


def open_release(
    name: str, joined: Joined, secrets: Advertised, request: ReleaseRequest, input_hash: bytes
) -> Opened:
    """Check the cohort and every round key in it; unseal the shares held for it.

    A share that does not open, or is not what its dealer committed to, is complained of and does
    without: the round key beside it is then proven by its owner's signature, so that whoever
    spoils shares costs the others nothing while enough shares of its secrets fit.

    Raises
    ------
    CohortError
        If the cohort repeats a name, leaves this enterprise out, names one that has not joined,
        or is smaller than allowed; or if ``members`` are not its neighbours in the cohort.
    AuthenticationError
        If a round key was changed on the way.
    """
    epoch = joined.epoch
    cohort = request.cohort
    if cohort != tuple(sorted(set(cohort))):
        raise CohortError("a cohort wants each name once, in order")
    if name not in cohort:
        raise CohortError(f"the cohort of slot {request.slot} leaves out {name}")
    for one in cohort:
        epoch.position(one)
    if len(cohort) < epoch.parameters.smallest_cohort:
        raise CohortError(
            f"a cohort of {len(cohort)} is below the least of {epoch.parameters.smallest_cohort}"
        )
    dealers = tuple(member.name for member in request.members)
    if dealers != epoch.neighbours(name, cohort):
        raise CohortError(f"the members shown to {name} are not its neighbours in the cohort")
    publics = tuple(member.round_public for member in request.members)
    if any(len(public) != keys.KEY_BYTES for public in publics):
        raise AuthenticationError(f"a round key is not {keys.KEY_BYTES} bytes long")
    if len(set(publics)) != len(publics):
        raise AuthenticationError("two members of the cohort show the same round key")
    channels = {channel.peer: channel for channel in joined.channels}
    binding = epoch.slot_binding(request.slot)
    held: list[bytes] = []
    complaints: list[str] = []
    for member in request.members:
        if member.name == name:
            if member.round_public != secrets.round_key.public:
                raise AuthenticationError(f"the round key of {name} was changed")
            held.append(secrets.own)
            continue
        channel = channels[member.name]
        nonce = epoch.share_nonce(request.slot, member.round_public)
        context = share_context(binding, member.name, name, member.round_public, member.commitments)
        pair = _unseal(channel.seal_from, nonce, member, context)
        if pair is None:
            _prove_round_key(epoch, request.slot, member)
            shares = None
        else:
            shares = with_salts(pair, channel.salt_from, nonce)
        if shares is None or not _fits(binding, member, epoch.position(name), shares):
            complaints.append(member.name)
            held.append(bytes(2 * OPENED_BYTES))
        else:
            held.append(b"".join(shares))
    return Opened(
        request.slot,
        request.task,
        cohort,
        dealers,
        publics,
        b"".join(held),
        tuple(complaints),
        secrets,
        input_hash,
    )


def mask(
    name: str, joined: Joined, opened: Opened, encoded: npt.NDArray[np.int64], layout: VectorLayout
) -> tuple[bytes, Masked]:
    """Mask an encoded vector, shape (layout.size,), and return its packed words.

    Raises
    ------
    SecureSumError
        If the vector is not of the layout's size and range.
    """
    form = WordFormat(layout.value_bits, len(opened.cohort), layout.noise)
    limit = form.largest + layout.noise
    if encoded.shape != (layout.size,) or int(encoded.max()) > limit or int(encoded.min()) < -limit:
        raise SecureSumError("the encoded vector does not fit its layout")
    context = SlotContext(
        joined.epoch, opened.slot, opened.task, opened.cohort, layout.hash(), opened.input_hash
    )
    secrets = opened.secrets
    private = keys.load_agreement(secrets.round_key.private)
    mine = (name, secrets.round_key.public)
    peers = [
        peer for peer in zip(opened.dealers, opened.round_publics, strict=True) if peer[0] != name
    ]
    above, below = pair_keys(private, mine, peers, context)
    above.append(keys.derive(secrets.seed, context.own(name)))
    words = masked_words(encoded, form, above, below)
    masked = Masked(opened.slot, opened.cohort, opened.dealers, opened.held, context.binding)
    return words, masked


def tags_of(joined: Joined, masked: Masked) -> bytes:
    """Tell each neighbour in the cohort, and nobody else, what the vector was masked for.

    In a k-regular graph only: there a coordinator could show one enterprise a cohort without most
    of its neighbours, and have the others open its self mask as if it were in theirs. In the
    complete graph the threshold rule keeps it from that.
    """
    if joined.epoch.parameters.complete:
        return b""
    dealers = set(masked.dealers)
    return b"".join(
        keys.authenticate(channel.tag_to, masked.binding)
        for channel in joined.channels
        if channel.peer in dealers
    )


def _unseal(key: bytes, nonce: bytes, member: CohortMember, context: bytes) -> bytes | None:
    if len(member.sealed) != SEALED_BYTES or len(member.commitments) != 2 * COMMITMENT_BYTES:
        return None
    try:
        return keys.unseal(key, nonce, member.sealed, context, member.name)
    except AuthenticationError:
        return None  # complained of, once the round key is proven otherwise


def _fits(binding: bytes, member: CohortMember, position: int, shares: tuple[bytes, bytes]) -> bool:
    committed = b"".join(
        commit_share(binding, member.name, position, kind, shares[kind])
        for kind in (ROUND_KEY, SELF_MASK)
    )
    return committed == member.commitments


def _prove_round_key(epoch: Epoch, slot: int, member: CohortMember) -> None:
    signed = epoch.advertised_bytes(slot, member.name, member.round_public, member.rest)
    keys.verify(epoch.manifest.identities[member.name], member.signature, signed, member.name)
