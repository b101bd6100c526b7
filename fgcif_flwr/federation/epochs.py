"""Who takes part: epochs of joined enterprises, and their round keys for the next slot."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from fgcif_flwr.errors import (
    CohortError,
    LedgerError,
    NotJoinedError,
    PrivacyError,
    SecureSumError,
)
from fgcif_flwr.federation.exchange import Exchange
from fgcif_flwr.federation.requests import Join, Reveal
from fgcif_flwr.federation.session_settings import SessionSettings
from fgcif_flwr.secagg import (
    Advertisement,
    AdvertiseRequest,
    Epoch,
    GraphNonce,
    JoinReply,
    Manifest,
    fix_epoch,
    valid_joins,
)
from fgcif_flwr.secagg.epoch import opens_commitment
from fgcif_flwr.secagg.messages import RUN_BYTES

logger = logging.getLogger(__name__)

SLOTS_BETWEEN_EPOCHS = 10
"""Fewest slots before those who returned are let in, unless the others are too few without:
joining costs everyone two exchanges."""
_VAIN_JOINS = 3
"""How often a new epoch is begun for one that then does not join it."""
_NONCES_WITHHELD = 2
"""How often one may join and not tell its graph nonce; each time costs the others an epoch."""
_SLOTS_LOST = 3
_SLOTS_WITHOUT = 10
"""One that advertises and is lost so many slots in a row is left out of so many, so that the others
do not wait for it every time."""

Witness = Callable[[str, bytes, bytes], None]
"""Remembers what enterprises attested (name, identity key, attestation), one call for each join.

Raises LedgerRolledBackError, or another PrivacyError, where what is attested contradicts what was
attested before: that enterprise is left out. A LedgerError says that what the witness remembers
cannot be read or written; that is no enterprise's doing and is raised."""


class Epochs:
    """The epochs of a run, one at a time.

    Parameters
    ----------
    exchange : Exchange
    settings : SessionSettings
    terms : str
        The manifest's terms.
    witness : callable, optional
        Shown what each enterprise attests, once its join is known to be signed by it.

    Attributes
    ----------
    slot : int
        The next slot; slots grow over all epochs.
    """

    def __init__(
        self,
        exchange: Exchange,
        settings: SessionSettings,
        terms: str,
        witness: Witness | None = None,
    ) -> None:
        self.slot = 1
        self._exchange = exchange
        self._settings = settings
        self._terms = terms
        self._witness = witness
        self._roster: tuple[tuple[str, bytes], ...] = settings.roster or ()
        self._epoch: Epoch | None = None
        self._run = os.urandom(RUN_BYTES)
        self._count = 0
        self._begun_at = 0
        self._joins: tuple[JoinReply, ...] = ()
        self._nonces: tuple[GraphNonce, ...] = ()
        self._ads: dict[str, Advertisement] = {}
        self._left_out: set[str] = set()
        self._disputes: defaultdict[str, set[str]] = defaultdict(set)
        self._vain: Counter[str] = Counter()
        self._withheld: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._back_at: dict[str, int] = {}
        self._broken = False

    @property
    def current(self) -> Epoch:
        """The epoch joined; NotJoinedError before :meth:`join`."""
        if self._epoch is None:
            raise NotJoinedError("nobody has joined yet")
        return self._epoch

    def join(self) -> Epoch:
        """Wait for the enterprises, agree on the manifest, and collect the first round keys.

        Raises
        ------
        CohortError
            If too few connect in time, or too few join for the threshold rule.
        """
        settings = self._settings
        wanted = settings.enterprises
        connected = self._exchange.wait_for(wanted)
        least = wanted
        if settings.roster is not None:  # the absent may come later
            least -= settings.parameters(len(settings.roster)).tolerated_dropouts
        if connected < least:
            raise CohortError(
                f"{connected} of {wanted} enterprises connected within {settings.timeout:.0f} s; "
                f"start the others, {settings.waiting_advice}"
            )
        found = self._exchange.identify(dict(self._roster) if self._roster else None)
        if settings.roster is None:
            if len(found) < wanted:
                raise CohortError(
                    f"{len(found)} of {wanted} enterprises answered; start the others, "
                    f"{settings.waiting_advice}"
                )
            self._roster = tuple(sorted(found.items()))
        return self._begin()

    def wait_for_all(self) -> None:
        """Let those be waited for again who were lost again and again: the others are too few."""
        self._back_at.clear()

    def take(self) -> tuple[int, list[Advertisement]]:
        """Return the next slot and the round keys for it, and go on to the slot after.

        Those without a round key (lost before, now back) are asked for one; those that lost all
        keys, or come late, join in a new epoch for all.
        """
        self._exchange.identify(dict(self._roster))
        if self._broken:  # those who joined what did not begin have forgotten their earlier keys
            self._begin()
        returning = self._advertise(self._exchange.online())
        if returning and self._may_begin():
            logger.info("%d enterprises returned or came late: all join anew", len(returning))
            holders = self._begin().holders
            self._vain.update(returning - set(holders))
        ads = {name: ad for name, ad in self._ads.items() if name not in self._left_out}
        waited_for = {n: ad for n, ad in ads.items() if self._back_at.get(n, 0) <= self.slot}
        if len(waited_for) >= self.current.parameters.smallest_cohort:
            ads = waited_for
        slot = self.slot
        self.slot += 1
        self._ads = {}
        return slot, list(ads.values())

    def note_lost(self, cohort: Iterable[str], survivors: Iterable[str]) -> None:
        """Remember who of a cohort was lost, and do without who always is, for a while."""
        arrived = set(survivors)
        for name in cohort:
            self._lost[name] = 0 if name in arrived else self._lost[name] + 1
            if self._lost[name] >= _SLOTS_LOST:
                self._lost[name] = 0
                self._back_at[name] = self.slot + _SLOTS_WITHOUT
                logger.warning(
                    "%s was lost %d slots in a row; it is not waited for in the next %d",
                    name,
                    _SLOTS_LOST,
                    _SLOTS_WITHOUT,
                )

    def keep(self, ads: Mapping[str, Advertisement]) -> None:
        """Keep round keys for the next slot; one that does not hold counts as not sent."""
        for name, ad in ads.items():
            if (ad.sender, ad.slot) != (name, self.slot):
                logger.warning("%s advertised for another slot or name; ignored", name)
                continue
            try:
                self.current.check_advertisement(ad)
            except SecureSumError as error:
                logger.warning("%s; ignored", error)
            else:
                self._ads.setdefault(name, ad)

    def leave_out(self, names: Iterable[str], why: str) -> None:
        """Leave enterprises out of the slots to come; said aloud, since it is an accusation."""
        fresh = set(names) - self._left_out
        self._left_out |= fresh
        if fresh:
            logger.warning("left out from now on: %s; %s", ", ".join(sorted(fresh)), why)

    def note_complaints(self, complaints: Mapping[str, frozenset[str]]) -> None:
        """Remember who disputes whose shares; leave out whoever does so with more than may lie.

        One side of each dispute lies, and no more than the tolerated colluders do: so who has
        disputes with more than that is a liar, were it the dealer or the one who complains.
        """
        for dealer, complainers in complaints.items():
            logger.warning("%s dispute the shares of %s", ", ".join(sorted(complainers)), dealer)
            for complainer in complainers - {dealer}:
                self._disputes[dealer].add(complainer)
                self._disputes[complainer].add(dealer)
        most = self.current.parameters.tolerated_colluders
        for name, others in self._disputes.items():
            if len(others) > most:
                self.leave_out((name,), f"{len(others)} others dispute shares with {name}")

    def _begin(self) -> Epoch:
        """Let all that are online join, under new keys for everything."""
        self._ads = {}
        self._broken = True
        absent: set[str] = set()
        attempts = self._settings.parameters(len(self._roster)).tolerated_dropouts + 1
        for _ in range(attempts):
            self._count += 1
            manifest = self._settings.manifest(self._run, self._count, self._terms, self._roster)
            often = {name for name, times in self._withheld.items() if times >= _NONCES_WITHHELD}
            absent |= self._left_out | often
            present = sorted(self._exchange.online() - absent)
            replies = self._exchange.ask(present, Join(manifest), JoinReply)
            good, wrong = valid_joins(manifest, [replies[name] for name in sorted(replies)])
            for error in wrong:
                logger.warning("a join is left out: %s", error)
            self._joins, self._nonces = tuple(self._witnessed(manifest, good)), ()
            if not manifest.parameters(len(self._joins)).complete:
                names = [join.name for join in self._joins]
                nonces = self._exchange.ask(names, Reveal(self._joins), GraphNonce)
                kept = self._opening(manifest, nonces)
                if len(kept) < len(names):  # the graph wants everyone's: begin without them
                    absent |= set(names) - set(kept)
                    self._withheld.update(set(names) - set(kept))
                    continue
                self._nonces = tuple(kept[name] for name in names)
            self._epoch = fix_epoch(manifest, self._joins, self._nonces)
            self._begun_at = self.slot
            self._broken = False
            self._advertise(set(self._epoch.holders))
            return self._epoch
        raise CohortError(
            f"in {attempts} attempts some joined and then did not draw the graph with the others"
        )

    def _witnessed(self, manifest: Manifest, joins: Iterable[JoinReply]) -> list[JoinReply]:
        """Return the joins whose attestation the witness does not contradict."""
        kept: list[JoinReply] = []
        for join in joins:
            try:
                if self._witness is not None:
                    self._witness(join.name, manifest.identities[join.name], join.attestation)
            except LedgerError:  # what the witness itself remembers: it accuses nobody
                raise
            except PrivacyError as error:
                self.leave_out((join.name,), str(error))
            else:
                kept.append(join)
        return kept

    def _opening(
        self, manifest: Manifest, nonces: Mapping[str, GraphNonce]
    ) -> dict[str, GraphNonce]:
        """Return the graph nonces that open their commitments; who tells another is a liar."""
        joins = {join.name: join for join in self._joins}
        kept: dict[str, GraphNonce] = {}
        for name, nonce in nonces.items():
            if opens_commitment(manifest, joins[name], nonce.nonce):
                kept[name] = nonce
            else:
                self.leave_out((name,), f"{name} told another graph nonce than it committed to")
        return kept

    def _may_begin(self) -> bool:
        """Whether those who returned are let in now."""
        few = len(set(self._ads) - self._left_out) < self.current.parameters.smallest_cohort
        return few or self.slot - self._begun_at >= SLOTS_BETWEEN_EPOCHS

    def _advertise(self, online: set[str]) -> set[str]:
        """Ask those online for missing round keys; return who must join (again) for that."""
        holders = set(self.current.holders)
        asked = sorted((online & holders) - set(self._ads))
        returning = online - holders
        if asked:
            request = AdvertiseRequest(self.slot, self._joins, self._nonces)
            self.keep(self._exchange.ask(asked, request, Advertisement))
            returning |= {
                name for name, why in self._exchange.refusals if isinstance(why, NotJoinedError)
            }
        hopeless = {name for name, times in self._vain.items() if times >= _VAIN_JOINS}
        return returning - self._left_out - hopeless
