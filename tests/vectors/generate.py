"""Write round_of_three.json anew: whole rounds of the secure sum with all drawn bytes fixed.

    python -m tests.vectors.generate

from the repository's root, after a change of the protocol that is meant. Only the rounds are made
by the package itself; the test that reads them holds them against a second implementation, and
all other known answers here were made apart from the package and are not written by anything in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fgcif_flwr.secagg import (
    AdvertiseRequest,
    Field,
    Manifest,
    Participant,
    SlotCollection,
    VectorLayout,
    fix_epoch,
    wire,
)
from fgcif_flwr.secagg.keys import Entropy, identity_from_seed
from tests.secure_sum_rig import RUN, as_integers, stream

FILE = Path(__file__).with_name("round_of_three.json")

ABOUT = (
    "Whole rounds: every message's bytes, in the order in which they are said, and the sum. Bytes "
    "of a message: version 1 (1 byte), the class's name (length in 1 byte), then its fields in "
    "their order: a number as 8 bytes, big-endian, signed; a flag as 1 byte; a text or bytes as "
    "their length (4 bytes, big-endian) and themselves; what may be absent as 0, or 1 and itself; "
    "a list as its count (4 bytes, big-endian) and its items; a pair, or a record in a record, as "
    "its fields. run is what the coordinator drew for the run. An enterprise draws, in this order: "
    "the channel's private key, the graph nonce, the nonce of its join; then for each slot the "
    "round key's private half, the self-mask seed, coefficients for both secrets' shares "
    "(shamir.json; one draw, and another for what was left out), and the salts of its own two "
    "shares. attestation is what it attests when it joins. Signatures are Ed25519 of the canonical "
    "bytes, identity_seed the private key. Points, "
    "keys, contexts, commitments, masks and packing: the other files here. Enterprises and slots "
    "are in the order of names; who is lost gets its ReleaseRequest and says nothing after. Each "
    "Released brings the advertisement of the next slot. In these complete graphs no tags are sent "
    "(tag.json) and nothing is withheld."
)

Case = dict[str, Any]


def play(case: Case, entropy: Mapping[str, Entropy]) -> tuple[list[dict[str, str]], Case]:
    """Run one round of a case; return its messages and its sum.

    Parameters
    ----------
    case
        All but ``messages``, ``sum`` and what enterprises draw.
    entropy
        What each enterprise draws from.
    """
    identities = {
        one["name"]: identity_from_seed(bytes.fromhex(one["identity_seed"]))
        for one in case["enterprises"]
    }
    encoded = {one["name"]: np.array(one["encoded"]) for one in case["enterprises"]}
    messages: list[dict[str, str]] = []

    def say(speaker: str, hearer: str, message: Any) -> None:
        data = wire.encode(message).hex()
        kind = type(message).__name__
        messages.append({"from": speaker, "to": hearer, "message": kind, "bytes": data})

    settings = case["settings"]
    manifest = Manifest(
        bytes.fromhex(case["run"]),
        case["epoch"],
        case["terms"],
        tuple((name, pair.public) for name, pair in identities.items()),
        consistency=settings["consistency"],
    )
    parties = {
        name: Participant(name, pair, entropy=entropy[name]) for name, pair in identities.items()
    }
    say("coordinator", "all", manifest)
    attested = {one["name"]: bytes.fromhex(one["attestation"]) for one in case["enterprises"]}
    joins = tuple(party.join(manifest, attested[name]) for name, party in parties.items())
    for join in joins:
        say(join.name, "coordinator", join)
    epoch = fix_epoch(manifest, joins)
    assert epoch.parameters.threshold == settings["threshold"]
    asked = AdvertiseRequest(case["slot"], joins)
    say("coordinator", "all", asked)
    ads = [party.advertise(asked) for party in parties.values()]
    for ad in ads:
        say(ad.sender, "coordinator", ad)
    fields = tuple(Field(name, size, bound, exact=True) for name, size, bound in case["fields"])
    layout = VectorLayout(fields, case["value_bits"])
    hashed = bytes.fromhex(case["input_hash"])
    slot = SlotCollection(epoch, case["slot"], case["task"], layout, hashed, ads)
    for name, party in parties.items():
        request = slot.release_request(name)
        say("coordinator", name, request)
        if name in case["lost"]:
            continue
        party.open_release(request, hashed)
        released = party.mask(encoded[name], layout)
        say(name, "coordinator", released)
        slot.receive(released)
    closed = slot.close()
    if closed.wants_consents:
        listed = closed.consent_request()
        say("coordinator", "survivors", listed)
        for name in closed.survivors:
            consent = parties[name].consent(listed)
            say(name, "coordinator", consent)
            closed.consent(consent)
    for name in closed.survivors:
        opening = closed.request(name)
        say("coordinator", name, opening)
        reply = parties[name].unmask(opening)
        say(name, "coordinator", reply)
        closed.answer(reply)
    total = closed.finish()
    return messages, {
        "survivors": list(total.survivors),
        "dropped": list(total.dropped),
        "words": as_integers(total, layout).tolist(),
    }


def described(name: str, count: int, lost: list[str], consistency: bool | None) -> Case:
    """Return a case without what is drawn, said and summed."""
    rng = np.random.default_rng(count)
    return {
        "case": name,
        "run": RUN.hex(),
        "epoch": 1,
        "terms": '{"terms": "of a test"}',
        "settings": {"consistency": consistency, "threshold": 3},
        "slot": 1,
        "task": "train",
        "input_hash": bytes(range(32)).hex(),
        "value_bits": 10,
        "fields": [["update", 4, 511.0], ["rows", 1, 100.0]],
        "lost": lost,
        "enterprises": [
            {
                "name": f"e{i:03d}",
                "identity_seed": stream(f"id/e{i:03d}")(32).hex(),
                "attestation": stream(f"attested/e{i:03d}")(40 * i).hex(),  # the first one: none
                "encoded": [*rng.integers(-511, 512, 4).tolist(), int(rng.integers(0, 101))],
            }
            for i in range(count)
        ],
    }


def recording(source: Entropy, drawn: list[str]) -> Callable[[int], bytes]:
    """Draw from a source, and note what was drawn."""

    def draw(count: int) -> bytes:
        octets = source(count)
        drawn.append(octets.hex())
        return octets

    return draw


def generate() -> list[Case]:
    """Run all cases on the rig's deterministic bytes."""
    cases = [
        described("three enterprises", 3, [], None),
        described("four enterprises, one lost at upload", 4, ["e002"], None),
        described("four enterprises with consents, one lost at upload", 4, ["e000"], True),
    ]
    for case in cases:
        for one in case["enterprises"]:
            one["drawn"] = []
        entropy = {
            one["name"]: recording(stream(one["name"]), one["drawn"]) for one in case["enterprises"]
        }
        case["messages"], case["sum"] = play(case, entropy)
    return cases


if __name__ == "__main__":
    text = json.dumps({"about": ABOUT, "cases": generate()}, indent=1)
    FILE.write_text(text + "\n", encoding="utf-8")
