"""The strongest adversary of the secure sum: a coordinator that lies, in league with enterprises.

It sees every message, says whatever it wants to whomever it wants, and holds the whole state of
its colluders. It does not merely look for refusals: it gathers shares, interpolates secrets,
expands masks and takes them off, so that a test can tell what it learns from what it may ask.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.secagg import (
    Advertisement,
    Consent,
    ConsentRequest,
    Field,
    SlotCollection,
    UnmaskRequest,
    VectorLayout,
    keys,
    shamir,
)
from fgcif_flwr.secagg.epoch import (
    COMMITMENT_BYTES,
    OPENED_BYTES,
    ROUND_KEY,
    SEALED_BYTES,
    SELF_MASK,
    SlotContext,
    share_context,
)
from fgcif_flwr.secagg.keys import TAG_BYTES
from fgcif_flwr.secagg.masking import MaskAdder, open_total
from fgcif_flwr.secagg.parameters import SecureSumParameters
from fgcif_flwr.secagg.shamir import SHARE_BYTES
from tests.secure_sum_rig import INPUT_HASH, Consortium, sum_of_encodings

LAYOUT = VectorLayout((Field("update", 24, 4.0),), 16)


class NotOpenedError(Exception):
    """What the adversary lacks to open a sum."""


@dataclass
class Told:
    """What one enterprise was told when it masked, and what it sent."""

    slot: SlotCollection
    context: SlotContext
    words: bytes
    tags: bytes


@dataclass
class LyingCoordinator:
    """A coordinator with the full state of its colluders, for one slot of one epoch.

    Attributes
    ----------
    shares
        By dealer and kind of secret: what was learnt of it, by the holder's position.
    told
        By enterprise: the release that it answered.
    """

    consortium: Consortium
    colluders: Collection[str]
    layout: VectorLayout
    ads: dict[str, Advertisement] = field(default_factory=dict)
    shares: dict[tuple[str, int], dict[int, bytes]] = field(default_factory=dict)
    known: dict[tuple[str, int], bytes] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.epoch = self.consortium.epoch
        self.honest = tuple(n for n in self.epoch.holders if n not in self.colluders)

    def advertise(self) -> None:
        """Collect round keys; open, with the colluders' channel keys, what is sealed for them."""
        for ad in self.consortium.advertise():
            self.ads[ad.sender] = ad
        for name in self.colluders:
            secrets = self.consortium.participants[name].advertised
            self.known[name, ROUND_KEY] = secrets.round_key.private
            self.known[name, SELF_MASK] = secrets.seed
            for channel in self.consortium.participants[name].joined.channels:
                self._unseal(name, channel.peer, channel.seal_from)

    def _unseal(self, holder: str, dealer: str, key: bytes) -> None:
        epoch, ad = self.epoch, self.ads[dealer]
        at, mine = epoch.position(holder), epoch.position(dealer)
        place = epoch.graph.place(mine, at)
        sealed_at = SEALED_BYTES * (place - (place > epoch.graph.place(mine, mine)))
        commitments = ad.commitments[2 * COMMITMENT_BYTES * place :][: 2 * COMMITMENT_BYTES]
        pair = keys.unseal(
            key,
            epoch.share_nonce(ad.slot, ad.round_public),
            ad.sealed[sealed_at : sealed_at + SEALED_BYTES],
            share_context(
                epoch.slot_binding(ad.slot), dealer, holder, ad.round_public, commitments
            ),
            dealer,
        )
        for kind in (ROUND_KEY, SELF_MASK):
            self.learn(dealer, kind, at, pair[SHARE_BYTES * kind :][:SHARE_BYTES])

    def learn(self, dealer: str, kind: int, position: int, share: bytes) -> None:
        """Keep one share of a secret."""
        self.shares.setdefault((dealer, kind), {})[position] = share

    def slot_for(
        self, cohort: Sequence[str], task: str = "test", input_hash: bytes = INPUT_HASH
    ) -> SlotCollection:
        """A slot as told to some: any cohort, task and input."""
        ads = [self.ads[name] for name in cohort]
        return SlotCollection(self.epoch, ads[0].slot, task, self.layout, input_hash, ads)

    def ask_release(
        self,
        name: str,
        slot: SlotCollection,
        encoded: np.ndarray,
        input_hash: bytes = INPUT_HASH,
    ) -> None:
        """Have one enterprise mask its vector for what it alone is told."""
        released = self.consortium.masked(slot, name, encoded, input_hash)
        context = SlotContext(
            self.epoch, slot.slot, slot.task, slot.cohort, slot.layout.hash(), input_hash
        )
        self.told[name] = Told(slot, context, released.words, released.tags)

    def ask_consent(self, name: str, dropped: Collection[str]) -> Consent:
        """Have one enterprise sign a list of its own."""
        told = self.told[name]
        alive = tuple(n for n in told.slot.cohort if n not in dropped)
        return self.consortium.participants[name].consent(
            ConsentRequest(self.epoch.run_id, told.slot.slot, alive, tuple(sorted(dropped)))
        )

    def ask_consent_of_colluder(self, name: str, dropped: Collection[str]) -> Consent:
        """Have a colluder sign any list, with the identity key that it gave away."""
        slot = self.ads[name].slot
        holders = self.epoch.holders
        alive = tuple(one for one in holders if one not in dropped)
        agreed = self.epoch.consent_bytes(slot, holders, alive, tuple(sorted(dropped)))
        return Consent(name, slot, keys.sign(self.consortium.identities[name], agreed))

    def ask_unmask(
        self, name: str, dropped: Collection[str], consents: Sequence[Consent] = ()
    ) -> None:
        """Have one enterprise open its shares for a list of its own, and keep them."""
        told = self.told[name]
        cohort = told.slot.cohort
        alive = tuple(n for n in cohort if n not in dropped)
        reply = self.consortium.participants[name].unmask(
            UnmaskRequest(
                self.epoch.run_id,
                told.slot.slot,
                alive,
                tuple(sorted(dropped)),
                tuple(consents),
                self.tags_for(name, alive),
            )
        )
        for index, dealer in enumerate(self.epoch.neighbours(name, cohort)):
            if dealer in reply.withheld:
                continue
            share = reply.shares[OPENED_BYTES * index :][:SHARE_BYTES]
            kind = ROUND_KEY if dealer in dropped else SELF_MASK
            self.learn(dealer, kind, self.epoch.position(name), share)

    def tags_for(self, name: str, alive: Collection[str]) -> bytes:
        """What is shown to one enterprise of the survivors around it: the tags that they sent for
        it, and whatever it wants to see of colluders."""
        if self.epoch.parameters.complete:
            return b""
        near = [one for one in self.epoch.neighbours(name, sorted(alive)) if one != name]
        return b"".join(self._tag(one, name) for one in near)

    def _tag(self, sender: str, receiver: str) -> bytes:
        if sender in self.colluders:
            channels = self.consortium.participants[sender].joined.channels
            (key,) = (channel.tag_to for channel in channels if channel.peer == receiver)
            return keys.authenticate(key, self.told[receiver].context.binding)
        told = self.told.get(sender)
        if told is None or receiver not in told.slot.cohort:
            return bytes(TAG_BYTES)  # there is none
        near = self.epoch.neighbours(sender, told.slot.cohort)
        index = [one for one in near if one != sender].index(receiver)
        return told.tags[TAG_BYTES * index :][:TAG_BYTES]

    def secret(self, dealer: str, kind: int) -> bytes:
        """A secret, known or interpolated from what was learnt of it."""
        if (dealer, kind) not in self.known:
            have = sorted(self.shares.get((dealer, kind), {}).items())
            threshold = self.epoch.parameters.threshold
            what = "round key" if kind == ROUND_KEY else "self mask"
            threshold = min(threshold, len(have))  # it tries all the same with fewer
            if not have:
                raise NotOpenedError(f"{what} of {dealer}: no share")
            points = [position + 1 for position, _ in have[:threshold]]
            stacked = np.frombuffer(b"".join(s for _, s in have[:threshold]), "<u4")
            try:
                (found,) = shamir.combine(points, stacked.reshape(threshold, 1, -1))
            except SecureSumError:
                raise NotOpenedError(f"{what} of {dealer}: {len(have)} shares") from None
            ad = self.ads[dealer]
            right = (
                keys.agreement_from_seed(found).public == ad.round_public
                if kind == ROUND_KEY
                else self.epoch.seed_commitment(ad.slot, dealer, found) == ad.seed_commitment
            )
            if not right:
                raise NotOpenedError(f"{what} of {dealer}: {len(have)} shares")
            self.known[dealer, kind] = found
        return self.known[dealer, kind]

    def open(self, names: Collection[str]) -> np.ndarray:
        """The sum of exactly these enterprises' encodings, or NotOpenedError.

        Pairwise masks among ``names`` cancel where both were told the same; all others are taken
        off with the round key of either side, and every self mask with its seed.
        """
        names = sorted(names)
        first = self.told[names[0]]
        form = first.slot.form
        total = np.zeros(self.layout.size + 2, dtype=form.dtype)
        adder = MaskAdder(total)
        for name in names:
            told = self.told[name]
            form.add_packed(total, told.words)
            adder.subtract(keys.derive(self.secret(name, SELF_MASK), told.context.own(name)))
            for peer in self.epoch.neighbours(name, told.slot.cohort):
                same = peer in names and self.told[peer].context == told.context
                if peer != name and not same:
                    self._remove_pair(adder, name, peer, told.context)
        try:
            return form.signed(open_total(total, form, len(names)))
        except SecureSumError as error:
            raise NotOpenedError(str(error)) from None

    def _remove_pair(self, adder: MaskAdder, name: str, peer: str, context: SlotContext) -> None:
        publics = {n: self.ads[n].round_public for n in (name, peer)}
        low, high = sorted((name, peer))
        info = context.pair((low, publics[low]), (high, publics[high]))
        try:
            private, public = self.secret(peer, ROUND_KEY), publics[name]
        except NotOpenedError:
            private, public = self.secret(name, ROUND_KEY), publics[peer]
        key = keys.agree(keys.load_agreement(private), public, info)
        if name == low:
            adder.subtract(key)
        else:
            adder.add(key)


@dataclass(frozen=True)
class Split:
    """The best that different lists open without the consistency exchange.

    ``inside`` are told a cohort of ``members`` and their sum is opened; ``hidden`` belong to that
    cohort but are told, like everybody else, that all holders take part: so they may call more
    of one another dropped. ``lists`` says whom each enterprise is told was dropped.
    """

    cohort: tuple[str, ...]
    inside: tuple[str, ...]
    hidden: tuple[str, ...]
    lists: Mapping[str, tuple[str, ...]]


def most_hidden(parameters: SecureSumParameters, members: int) -> int:
    """Most honest members of a cohort of ``members`` whom the sum opened can leave out.

    Each of k hidden ones' round keys wants t - c honest shares. Those inside call at most
    ``members - t`` dropped, all others ``n - t``, and nobody itself; shares go round evenly, so
    the count of them decides.
    """
    n, t = parameters.holders, parameters.threshold
    d, c = parameters.tolerated_dropouts, parameters.tolerated_colluders
    few, many = min(d, members - t), min(d, n - t)
    honest = members - c
    return max(  # not all of them: a sum covers somebody
        k
        for k in range(honest)
        if (honest - k) * min(few, k) + k * min(many, max(0, k - 1)) + (n - members) * min(many, k)
        >= k * (t - c)
    )


def fewest_honest(parameters: SecureSumParameters) -> int:
    """Fewest honest enterprises that a sum opened by different lists covers."""
    p = parameters
    return min(
        m - p.tolerated_colluders - most_hidden(p, m) for m in range(p.threshold, p.holders + 1)
    )


def best_split(
    parameters: SecureSumParameters,
    holders: Sequence[str],
    colluders: Sequence[str],
    more: int = 0,
) -> Split:
    """The cohort and the lists with which fewest honest ones are covered.

    ``more`` hides that many more than the bookkeeping allows.
    """
    p = parameters
    n, t, d = p.holders, p.threshold, p.tolerated_dropouts
    honest = [name for name in holders if name not in colluders]

    def covered(members: int) -> int:
        return members - len(colluders) - most_hidden(p, members)

    members = min(range(t, n + 1), key=covered)
    left = covered(members) - more
    inside, rest = honest[:left], honest[left:]
    hidden = rest[: members - len(colluders) - left]
    few, many = min(d, members - t), min(d, n - t)
    lists: dict[str, tuple[str, ...]] = {}
    turn = 0
    for name in honest:
        count = min(few if name in inside else many, len(hidden))
        if name in hidden:
            at = hidden.index(name)
            count = min(count, len(hidden) - 1)
            chosen = [hidden[(at + 1 + i) % len(hidden)] for i in range(count)]
        else:
            chosen = [hidden[(turn + i) % len(hidden)] for i in range(count)]
            turn += count
        lists[name] = tuple(sorted(chosen))
    cohort = tuple(sorted([*inside, *hidden, *colluders]))
    return Split(cohort, tuple(inside), tuple(hidden), lists)


def forged_sum(split: Split, attacker: LyingCoordinator, encoded: Mapping[str, np.ndarray]) -> None:
    """Carry a split out: tell each its cohort, then its list."""
    small = attacker.slot_for(split.cohort)
    large = attacker.slot_for(attacker.epoch.holders)
    for name in attacker.honest:
        attacker.ask_release(name, small if name in split.inside else large, encoded[name])
    for name in attacker.honest:
        attacker.ask_unmask(name, split.lists[name])


def resigned(consortium: Consortium, ad: Advertisement, **changed: bytes) -> Advertisement:
    """An advertisement changed and signed by its own dealer, who does not keep to the protocol."""
    ad = replace(ad, **changed)  # type: ignore[arg-type]
    epoch = consortium.epoch
    signed = epoch.advertised_bytes(ad.slot, ad.sender, ad.round_public, ad.rest())
    return replace(ad, signature=keys.sign(consortium.identities[ad.sender], signed))


def adversary(consortium: Consortium, colluders: int = 1) -> LyingCoordinator:
    """A coordinator with the last so many enterprises, after it collected round keys."""
    attacker = LyingCoordinator(consortium, sorted(consortium.participants)[-colluders:], LAYOUT)
    attacker.advertise()
    return attacker


def vectors(consortium: Consortium) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    return {name: rng.integers(-9000, 9000, LAYOUT.size) for name in consortium.participants}


def release_all(attacker: LyingCoordinator, encoded: Mapping[str, np.ndarray]) -> None:
    slot = attacker.slot_for(attacker.epoch.holders)
    for name in attacker.honest:
        attacker.ask_release(name, slot, encoded[name])


def exactly(opened: np.ndarray, encoded: Mapping[str, np.ndarray], names: tuple[str, ...]) -> bool:
    return np.array_equal(opened, sum_of_encodings([encoded[name] for name in names]))
