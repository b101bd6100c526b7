"""One enterprise's first slot: what it is asked, phase by phase, and what it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np

from fgcif_flwr.secagg import (
    AdvertiseRequest,
    ConsentRequest,
    Field,
    JoinReply,
    Journal,
    Manifest,
    Participant,
    ReleaseRequest,
    UnmaskRequest,
    VectorLayout,
    wire,
)
from fgcif_flwr.secagg.keys import KeyPair
from tests.secure_sum_rig import INPUT_HASH, Consortium, stream

LAYOUT = VectorLayout((Field("update", 37, 4.0), Field("rows", 2, 1000, exact=True)), 22)
WHO = "e001"
PHASES = (
    "new", "joining", "joined", "advertised", "open", "masked", "consented", "answered",
)  # fmt: skip
METHODS = ("join", "reveal", "begin", "advertise", "open", "mask", "consent", "unmask")
STEPS = ("join", "begin", "advertise", "open", "mask", "consent", "unmask")


def encodings(consortium: Consortium, layout: VectorLayout = LAYOUT) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        name: layout.encode(
            {
                f.name: rng.integers(0, int(f.bound), f.size)
                if f.exact
                else rng.uniform(-f.bound, f.bound, f.size)
                for f in layout.fields
            },
            rng,
        )
        for name in consortium.participants
    }


@dataclasses.dataclass(frozen=True)
class Script:
    """What is asked of one enterprise in its first slot, and what it answers.

    The rig's randomness is drawn from names, so that the same enterprise anywhere else gives the
    very same answers.
    """

    identity: KeyPair
    manifest: Manifest
    joins: tuple[JoinReply, ...]
    release: ReleaseRequest
    encoded: np.ndarray
    consent: ConsentRequest
    unmask: UnmaskRequest
    answers: Mapping[str, bytes]

    def party(self, journal: Journal | None = None) -> Participant:
        return Participant(WHO, self.identity, journal=journal, entropy=stream(WHO))

    def ask(self, party: Participant, method: str) -> bytes:
        """Ask as in the first slot; the bytes of the answer, if it gives one."""
        asked: dict[str, Callable[[], object]] = {
            "join": lambda: party.join(self.manifest),
            "reveal": lambda: party.reveal(self.joins),
            "begin": lambda: party.begin(self.joins),
            "advertise": lambda: party.advertise(AdvertiseRequest(1)),
            "open": lambda: party.open_release(self.release, INPUT_HASH),
            "mask": lambda: party.mask(self.encoded, LAYOUT),
            "consent": lambda: party.consent(self.consent),
            "unmask": lambda: party.unmask(self.unmask),
        }
        reply = asked[method]()
        return b"" if reply is None else wire.encode(reply)

    def party_at(self, phase: str, journal: Journal | None = None) -> Participant:
        party = self.party(journal)
        self.run(party, STEPS[: PHASES.index(phase)])
        return party

    def run(self, party: Participant, steps: Sequence[str]) -> None:
        """Take steps; each must give the very bytes of the first time."""
        for step in steps:
            assert self.ask(party, step) == self.answers[step], step


@cache
def script() -> Script:
    consortium = Consortium(4, consistency=True)
    ads = consortium.advertise()
    slot = consortium.collect(LAYOUT, ads)
    encoded = encodings(consortium)
    answers: dict[str, object] = {
        "join": next(join for join in consortium.joins if join.name == WHO),
        "advertise": next(ad for ad in ads if ad.sender == WHO),
    }
    for name in slot.cohort:
        released = consortium.masked(slot, name, encoded[name])
        slot.receive(released)
        if name == WHO:
            answers["mask"] = released
    closed = slot.close()
    consent = closed.consent_request()
    for name in slot.cohort:
        said = consortium.participants[name].consent(consent)
        closed.consent(said)
        if name == WHO:
            answers["consent"] = said
    request = closed.request(WHO)
    answers["unmask"] = consortium.participants[WHO].unmask(request)
    given = {step: wire.encode(reply) for step, reply in answers.items()}
    return Script(
        consortium.identities[WHO],
        consortium.manifest,
        consortium.joins,
        slot.release_request(WHO),
        encoded[WHO],
        consent,
        request,
        {**given, "begin": b"", "open": b""},
    )


def other_releases(told: Script) -> list[tuple[ReleaseRequest, bytes]]:
    request = told.release
    members = (dataclasses.replace(request.members[0], sealed=b""), *request.members[1:])
    return [
        (request, b"\1" * 32),
        (dataclasses.replace(request, task="another"), INPUT_HASH),
        (dataclasses.replace(request, members=members), INPUT_HASH),
        (dataclasses.replace(request, cohort=request.cohort[:3]), INPUT_HASH),
    ]


def other_lists(told: Script) -> list[dict[str, tuple[str, ...]]]:
    cohort = told.release.cohort
    return [
        {"survivors": tuple(n for n in cohort if n != gone), "dropped": (gone,)} for gone in cohort
    ]
