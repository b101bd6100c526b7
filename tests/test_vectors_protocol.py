"""Known answers of the protocol: its primitives, and whole rounds held against a second maker.

The primitives' answers were made apart from this package. The rounds' were not, so a second
implementation, written here from the descriptions in the files and with nothing of the package,
must say the same messages, byte for byte, from the same draws.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fgcif_flwr.errors import AuthenticationError
from fgcif_flwr.secagg import Epoch, Field, Manifest, VectorLayout, keys
from fgcif_flwr.secagg.epoch import SlotContext, commit_share, graph_commitment, share_context
from fgcif_flwr.secagg.messages import Advertisement, JoinReply
from fgcif_flwr.secagg.participant.advertising import with_salts
from fgcif_flwr.secagg.transcript import canonical, digest, digest_pairs, fixed
from tests.vectors.generate import play

VECTORS = Path(__file__).parent / "vectors"


def known(name: str) -> dict[str, Any]:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def each(name: str) -> pytest.MarkDecorator:
    cases = known(name)["cases"]
    return pytest.mark.parametrize("case", cases, ids=[case["case"] for case in cases])


def octets(text: str) -> bytes:
    return bytes.fromhex(text)


def epoch_of(number: int, run_id: bytes) -> Epoch:
    """An epoch of which nothing matters but its number and run."""
    manifest = Manifest(bytes(16), number, "", (("e000", b"\2" + bytes(31)),))
    return Epoch(manifest, run_id, (), bytes(32), bytes(32))


# --- primitives -----------------------------------------------------------------------------------


@each("hkdf")
def test_derived_keys(case):
    assert keys.derive(octets(case["secret"]), octets(case["info"])).hex() == case["derived"]


@each("x25519_agreement")
def test_agreed_keys(case):
    info = octets(case["info"])
    for mine, theirs in ((0, 1), (1, 0)):
        pair = keys.agreement_from_seed(octets(case["private"][mine]))
        assert pair.public.hex() == case["public"][mine]
        private = keys.load_agreement(pair.private)
        assert keys.agree(private, octets(case["public"][theirs]), info).hex() == case["agreed"]
    assert keys.derive(octets(case["shared"]), info).hex() == case["agreed"]


@pytest.mark.parametrize("public", known("x25519_agreement")["refused"])
def test_a_public_key_without_a_secret_is_refused(public):
    private = keys.load_agreement(bytes(range(32)))
    assert not keys.contributory(octets(public))
    with pytest.raises(AuthenticationError, match="not a valid X25519 key"):
        keys.agree(private, octets(public), b"")


@each("share_encryption")
def test_sealed_shares(case):
    sender, receiver = case["sender"], case["receiver"]
    run_id, binding = octets(case["run_id"]), octets(case["slot_binding"])
    public, commitments = octets(case["round_public"]), octets(case["commitments"])
    secret, nonce = octets(case["pair_secret"]), octets(case["nonce"])
    epoch = epoch_of(case["epoch"], run_id)
    for label in ("seal", "salt"):
        key = keys.derive(secret, epoch.channel_context(label, sender, receiver))
        assert key.hex() == case[f"{label}_key"]
    assert epoch.share_nonce(case["slot"], public) == nonce
    associated = share_context(binding, sender, receiver, public, commitments)
    assert associated.hex() == case["associated"]
    sealed = keys.seal(octets(case["seal_key"]), nonce, octets(case["shares"]), associated)
    assert sealed.hex() == case["sealed"]
    opened = keys.unseal(octets(case["seal_key"]), nonce, sealed, associated, sender)
    assert opened.hex() == case["shares"]


@each("share_commitment")
def test_committed_shares(case):
    pair = b"".join(map(octets, case["shares"]))
    opened = with_salts(pair, octets(case["salt_key"]), octets(case["nonce"]))
    binding = octets(case["slot_binding"])
    for kind in (0, 1):
        assert opened[kind].hex() == case["shares"][kind] + case["salts"][kind]
        committed = commit_share(binding, case["dealer"], case["position"], kind, opened[kind])
        assert committed.hex() == case["commitments"][kind]


@each("tag")
def test_tags_of_what_a_vector_was_masked_for(case):
    epoch = epoch_of(case["epoch"], octets(case["run_id"]))
    info = epoch.channel_context("tag", case["sender"], case["receiver"])
    key = keys.derive(octets(case["pair_secret"]), info)
    assert key.hex() == case["tag_key"]
    assert keys.authenticate(key, octets(case["masks"])).hex() == case["tag"]


def test_identity_keys_that_are_refused():
    known_keys = known("identity_key")
    assert not [key for key in known_keys["refused"] if keys.identifies(octets(key))]
    assert all(keys.identifies(octets(key)) for key in known_keys["accepted"])
    for key in known_keys["refused"]:
        with pytest.raises(AuthenticationError, match="a valid Ed25519 key"):
            Manifest(bytes(16), 1, "", (("e000", octets(key)),))


def part(described: dict[str, Any]) -> bytes | str | int:
    ((kind, value),) = described.items()
    return octets(value) if kind == "bytes" else value


@each("transcript")
def test_canonical_bytes(case):
    parts = [part(one) for one in case["parts"]]
    assert canonical(case["label"], *parts).hex() == case["canonical"]
    assert digest(case["label"], *parts).hex() == case["digest"]


@pytest.mark.parametrize("case", known("transcript")["fixed"], ids=lambda case: case["label"])
def test_fixed_width_bytes(case):
    assert fixed(case["label"], *map(octets, case["parts"])).hex() == case["fixed"]


@pytest.mark.parametrize("case", known("transcript")["pairs"], ids=lambda case: case["label"])
def test_digests_of_pairs(case):
    pairs = [(name, octets(value)) for name, value in case["pairs"]]
    assert digest_pairs(case["label"], pairs).hex() == case["digest"]
    assert digest_pairs(case["label"], reversed(pairs)).hex() == case["digest"]


def test_what_an_epoch_signs_hashes_and_binds():
    case = known("transcript")["epoch"]
    names, slot = tuple(case["names"]), case["slot"]

    def by_name(key: str) -> dict[str, bytes]:
        return dict(zip(names, map(octets, case[key]), strict=True))

    manifest = Manifest(
        octets(case["run"]),
        case["epoch"],
        case["terms"],
        tuple(by_name("identity_keys").items()),
        tolerated_dropouts=case["tolerated_dropouts"],
        consistency=case["consistency"],
    )
    assert manifest.hash().hex() == case["manifest_hash"]
    channels, rounds = by_name("channel_keys"), by_name("round_keys")
    parts = [
        one
        for name in names
        for one in (
            name,
            by_name("nonces")[name],
            by_name("graph_commitments")[name],
            by_name("attestations")[name],
        )
    ]
    run_id = digest("run", manifest.hash(), *parts)
    assert run_id.hex() == case["run_id"]
    holders_hash = digest_pairs("holders", channels.items())
    assert holders_hash.hex() == case["holders_hash"]
    epoch = Epoch(manifest, run_id, names, holders_hash, bytes(32))
    assert epoch.slot_binding(slot).hex() == case["slot_binding"]
    layout = VectorLayout(
        tuple(Field(*field) for field in case["layout"]["fields"]), case["layout"]["value_bits"]
    )
    assert layout.hash().hex() == case["layout_hash"]
    rotation_seed = epoch.rotation_seed(slot, octets(case["input_hash"]))
    assert rotation_seed.hex() == case["rotation_seed"]
    committed = graph_commitment(manifest.hash(), "e000", octets(case["graph_nonce"]))
    assert committed.hex() == case["graph_commitment_of_e000"]
    join = JoinReply(
        "e000",
        by_name("nonces")["e000"],
        channels["e000"],
        by_name("graph_commitments")["e000"],
        by_name("attestations")["e000"],
        b"",
    )
    assert join.signed_bytes(manifest.hash()).hex() == case["signed_join_of_e000"]
    assert epoch.channel_context("seal", "e000", "e001").hex() == case["channel_e000_to_e001"]
    seed_commitment = epoch.seed_commitment(slot, "e000", octets(case["seed"]))
    assert seed_commitment.hex() == case["seed_commitment_of_e000"]
    ad = Advertisement("e000", slot, rounds["e000"], seed_commitment, b"C" * 144, b"S" * 176, b"")
    assert ad.rest().hex() == case["rest_of_e000"]
    signed = epoch.advertised_bytes(slot, "e000", rounds["e000"], ad.rest())
    assert signed.hex() == case["signed_advertisement_of_e000"]
    assert epoch.share_nonce(slot, rounds["e000"]).hex() == case["share_nonce_of_e000"]
    context = SlotContext(
        epoch, slot, case["task"], names, layout.hash(), octets(case["input_hash"])
    )
    assert context.binding.hex() == case["masks"]
    assert context.own("e000").hex() == case["own_mask_of_e000"]
    pair = context.pair(("e000", rounds["e000"]), ("e001", rounds["e001"]))
    assert pair.hex() == case["pair_mask_of_e000_and_e001"]
    consent = epoch.consent_bytes(slot, names, names[:2], names[2:])
    assert consent.hex() == case["signed_consent_without_e002"]


# --- whole rounds ---------------------------------------------------------------------------------


@each("round_of_three")
def test_a_round_says_the_known_messages_and_opens_the_known_sum(case):
    drawn = {one["name"]: iter(one["drawn"]) for one in case["enterprises"]}

    def draws_of(name: str) -> Any:
        def draw(count: int) -> bytes:
            given = octets(next(drawn[name]))
            assert len(given) == count
            return given

        return draw

    messages, total = play(case, {name: draws_of(name) for name in drawn})
    assert messages == case["messages"]
    assert total == case["sum"]
    assert not [name for name, rest in drawn.items() if list(rest)]


@each("round_of_three")
def test_a_second_implementation_says_the_same(case):
    said = list(Second(case).messages())
    kinds = [one["message"] for one in case["messages"]]
    assert [kind for kind, _ in said] == kinds
    for (kind, data), one in zip(said, case["messages"], strict=True):
        assert data.hex() == one["bytes"], f"{kind} from {one['from']} to {one['to']}"


@each("round_of_three")
def test_the_known_sum_is_that_of_the_survivors(case):
    survivors = [one for one in case["enterprises"] if one["name"] not in case["lost"]]
    assert [one["name"] for one in survivors] == case["sum"]["survivors"]
    columns = zip(*(one["encoded"] for one in survivors), strict=True)
    assert case["sum"]["words"] == [sum(column) for column in columns]
    assert case["sum"]["dropped"] == case["lost"]


LABEL = b"fgcif/secagg/1/"
PRIME = 2**31 - 1


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def said(label: str, *parts: bytes | str | int) -> bytes:
    pieces = [LABEL + label.encode()]
    for one in parts:
        if isinstance(one, str):
            pieces.append(one.encode())
        else:
            pieces.append(struct.pack(">q", one) if isinstance(one, int) else one)
    heads = [len(pieces), *map(len, pieces)]
    return b"".join(struct.pack(">Q", head) for head in heads) + b"".join(pieces)


def hashed(label: str, *parts: bytes | str | int) -> bytes:
    return sha(said(label, *parts))


def wide(label: str, *parts: bytes) -> bytes:
    return LABEL + label.encode() + b"/" + b"".join(parts)


def hkdf(secret: bytes, info: bytes) -> bytes:
    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, info + b"\1", "sha256")


def agreed(private: bytes, public: bytes, info: bytes) -> bytes:
    shared = X25519PrivateKey.from_private_bytes(private).exchange(
        X25519PublicKey.from_public_bytes(public)
    )
    return hkdf(shared, info)


def x25519_public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def keystream(key: bytes, count: int) -> list[int]:
    """The mask of a key as 32-bit words: all that the cases here want."""
    stream = (
        Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(4 * count))
    )
    return list(struct.unpack(f"<{count}I", stream))


def framed(kind: str, *values: Any) -> bytes:
    return bytes([1, len(kind)]) + kind.encode() + b"".join(map(field, values))


def field(value: Any) -> bytes:
    if isinstance(value, bool):
        return bytes([value])
    if isinstance(value, int):
        return struct.pack(">q", value)
    if isinstance(value, str):
        return field(value.encode())
    if isinstance(value, bytes):
        return struct.pack(">I", len(value)) + value
    if isinstance(value, list):
        return struct.pack(">I", len(value)) + b"".join(map(field, value))
    if isinstance(value, tuple):  # a record within a record
        return b"".join(map(field, value))
    assert value is None
    return b"\0"


class Second:
    """All parties of a round in the complete graph, by the files' descriptions alone."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case
        self.threshold = case["settings"]["threshold"]
        self.consistency = case["settings"]["consistency"]
        self.parties = {}
        for one in case["enterprises"]:
            identity = Ed25519PrivateKey.from_private_bytes(octets(one["identity_seed"]))
            self.parties[one["name"]] = SimpleNamespace(
                name=one["name"],
                identity=identity,
                public=identity.public_key().public_bytes_raw(),
                draws=iter(map(octets, one["drawn"])),
                attestation=octets(one["attestation"]),
                encoded=one["encoded"],
            )
        self.names = list(self.parties)

    def messages(self) -> Iterator[tuple[str, bytes]]:
        case, names, parties = self.case, self.names, self.parties
        run, epoch, slot = octets(case["run"]), case["epoch"], case["slot"]
        roster = [(p.name, p.public) for p in parties.values()]
        optional = None if self.consistency is None else (True, self.consistency)
        yield (
            "Manifest",
            framed("Manifest", run, epoch, case["terms"], roster, None, None, None, optional, None),
        )
        pairs = [one for pair in roster for one in pair]
        unset = -1 if self.consistency is None else int(self.consistency)
        manifest = hashed(
            "manifest", run, epoch, case["terms"], hashed("roster", *pairs), -1, -1, -1, unset, -1
        )
        joins = [self._join(p, manifest) for p in parties.values()]
        for join in joins:
            yield "JoinReply", framed("JoinReply", *join)
        signed = [
            one
            for name, nonce, _, graph, attestation, _ in joins
            for one in (name, nonce, graph, attestation)
        ]
        self.run_id = hashed("run", manifest, *signed)
        channels = [one for name, _, public, *_ in joins for one in (name, public)]
        self.holders_hash = hashed("holders", *channels)
        yield "AdvertiseRequest", framed("AdvertiseRequest", slot, joins, [])
        ads = {name: self._advertise(parties[name], slot) for name in names}
        for ad in ads.values():
            yield "Advertisement", framed("Advertisement", *ad)
        masks = self._masks(slot)
        survivors = [name for name in names if name not in case["lost"]]
        for name in names:
            yield "ReleaseRequest", self._release_request(name, slot, ads)
            if name in survivors:
                words = self._masked(parties[name], masks)
                following = self._advertise(parties[name], slot + 1)
                yield "Released", framed("Released", name, slot, words, [], b"", following)
        listed = self.run_id, slot, survivors, case["lost"]
        consents: list[tuple[str, int, bytes]] = []
        if self.consistency:
            yield "ConsentRequest", framed("ConsentRequest", *listed)
            signed = said(
                "consent",
                self._binding(slot),
                *(hashed("names", *some) for some in (names, survivors, case["lost"])),
            )
            for name in survivors:
                consents.append((name, slot, parties[name].identity.sign(signed)))
                yield "Consent", framed("Consent", *consents[-1])
            consents = consents[: (len(names) + 1) // 2 + 1]
        for name in survivors:
            yield "UnmaskRequest", framed("UnmaskRequest", *listed, consents, b"")
            shares = b"".join(
                parties[dealer].opened[slot][name][dealer in survivors] for dealer in names
            )
            yield "UnmaskReply", framed("UnmaskReply", name, slot, shares, [])

    def _join(self, party: Any, manifest: bytes) -> tuple[str, bytes, bytes, bytes, bytes, bytes]:
        party.channel, graph_nonce, nonce = (next(party.draws) for _ in range(3))
        party.channel_public = x25519_public(party.channel)
        graph = hashed("graph-nonce", manifest, party.name, graph_nonce)
        parts = party.name, nonce, party.channel_public, graph, party.attestation
        party.rounds, party.opened = {}, {}
        return *parts, party.identity.sign(said("join", manifest, *parts))

    def _binding(self, slot: int) -> bytes:
        neighbours = len(self.names) - 1
        epoch = self.case["epoch"], self.holders_hash, bytes(32), self.threshold, neighbours
        return hashed("slot", hashed("epoch", self.run_id, *epoch), slot)

    def _channel(self, sender: Any, receiver: Any, label: str) -> bytes:
        epoch = self.case["epoch"]
        info = said("channel", "pair", self.run_id, epoch, "", "")
        secret = agreed(sender.channel, receiver.channel_public, info)
        return hkdf(secret, said("channel", label, self.run_id, epoch, sender.name, receiver.name))

    def _shares(self, party: Any, secrets: tuple[bytes, bytes]) -> list[list[bytes]]:
        """Shares [holder][secret], by the description in shamir.json."""
        wanted = (self.threshold - 1) * 18
        coefficients: list[int] = []
        while len(coefficients) < wanted:
            drawn = next(party.draws)
            assert len(drawn) == 4 * (wanted - len(coefficients))
            numbers = (one >> 1 for (one,) in struct.iter_unpack("<I", drawn))
            coefficients += [one for one in numbers if one != PRIME]
        limbs = [
            int.from_bytes(secret, "little") >> 30 * i & (1 << 30) - 1
            for secret in secrets
            for i in range(9)
        ]
        rows = [limbs] + [
            coefficients[18 * power : 18 * power + 18] for power in range(self.threshold - 1)
        ]
        shares = []
        for x in range(1, len(self.names) + 1):
            values = [
                sum(row[i] * x**power for power, row in enumerate(rows)) % PRIME for i in range(18)
            ]
            packed = struct.pack("<18I", *values)
            shares.append([packed[:36], packed[36:]])
        return shares

    def _advertise(self, party: Any, slot: int) -> tuple[Any, ...]:
        private, seed = next(party.draws), next(party.draws)
        public = x25519_public(private)
        shares = self._shares(party, (private, seed))
        party.rounds[slot] = private, public, seed
        party.opened[slot] = {}
        nonce = hashed("nonce", slot, public)[:12]
        binding, me = self._binding(slot), hashed("name", party.name)
        commitments, sealed = b"", b""
        for position, name in enumerate(self.names):
            pair = shares[position]
            if name == party.name:
                both = next(party.draws)
                salts = [both[:16], both[16:]]
            else:
                key = self._channel(party, self.parties[name], "salt")
                salts = [hmac.digest(key, nonce + bytes([k]), "sha256")[:16] for k in (0, 1)]
            opened = [pair[k] + salts[k] for k in (0, 1)]
            party.opened[slot][name] = opened
            context = wide("commitment", binding, me) + struct.pack(">I", position)
            committed = b"".join(sha(context + bytes([k]) + opened[k])[:24] for k in (0, 1))
            commitments += committed
            if name != party.name:
                key = self._channel(party, self.parties[name], "seal")
                bound = wide("share", binding, me, hashed("name", name), public) + committed
                sealed += AESGCM(key).encrypt(nonce, pair[0] + pair[1], bound)
        seed_commitment = hashed("self-mask", self.run_id, slot, party.name, seed)
        rest = hashed("rest", seed_commitment, commitments, sealed)
        signature = party.identity.sign(said("advertise", binding, party.name, public, rest))
        return party.name, slot, public, seed_commitment, commitments, sealed, signature

    def _release_request(self, name: str, slot: int, ads: dict[str, Any]) -> bytes:
        me = self.names.index(name)
        members = []
        for position, dealer in enumerate(self.names):
            _, _, public, seed_commitment, commitments, sealed, signature = ads[dealer]
            rest = hashed("rest", seed_commitment, commitments, sealed)
            mine = commitments[48 * me : 48 * me + 48]
            at = 88 * (me - (me > position))
            share = b"" if dealer == name else sealed[at : at + 88]
            members.append((dealer, public, rest, signature, mine, share))
        task = self.case["task"]
        return framed("ReleaseRequest", self.run_id, slot, task, self.names, members)

    def _masks(self, slot: int) -> bytes:
        case = self.case
        parts: list[str | int] = [case["value_bits"], 0]
        for name, size, bound in case["fields"]:
            parts += [name, size, float(bound).hex(), 1, 0]
        return hashed(
            "masks",
            self._binding(slot),
            case["task"],
            hashed("names", *self.names),
            hashed("layout", *parts),
            octets(case["input_hash"]),
        )

    def _masked(self, party: Any, masks: bytes) -> bytes:
        case, slot = self.case, self.case["slot"]
        bits = 1 + (len(self.names) * (2 ** (case["value_bits"] - 1) - 1)).bit_length()
        assert bits <= 32
        words = [*party.encoded, 1, 1]
        private, public, seed = party.rounds[slot]
        own = hkdf(seed, wide("own", masks, hashed("name", party.name)))
        signed_keys = [(own, 1)]
        for peer in self.parties.values():
            if peer is not party:
                sign = 1 if party.name < peer.name else -1
                both = sorted([(party.name, public), (peer.name, peer.rounds[slot][1])])
                info = wide(
                    "pair", masks, *(one for n, key in both for one in (hashed("name", n), key))
                )
                signed_keys.append((agreed(private, peer.rounds[slot][1], info), sign))
        for key, sign in signed_keys:
            mask = keystream(key, len(words))
            words = [word + sign * more for word, more in zip(words, mask, strict=True)]
        packed = sum(word % 2**bits << bits * i for i, word in enumerate(words))
        return packed.to_bytes((bits * len(words) + 7) // 8, "little")
