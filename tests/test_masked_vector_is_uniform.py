"""A masked vector is uniform to all who lack the secrets of one honest pair, whatever it hides.

Enterprises release vectors that are anything but uniform. The masked vector is then held against
the uniform distribution over 2^b words, and against its plain vector: as it arrives; when the
coordinator knows everybody's secrets but those of two honest enterprises, whose one shared mask is
all that is left; and as the sum over all but one honest enterprise. Without that last mask the
plain vector appears, so the tests look at the right words. In the k-regular graph a tag for every
neighbour goes along, which is the same whatever the vector is.

All draws are seeded, so a run does not depend on chance. Were the seeds new each time, a p-value of
truly uniform words would fall outside of (ALPHA, 1 - ALPHA) with a probability of 2 * ALPHA =
2 * 10^-7; the fewer than 300 p-values of this file together then give a false alarm in fewer than
1 of 10^4 runs.
"""

from __future__ import annotations

import copy
import dataclasses
import hmac
from collections.abc import Collection, Iterator
from functools import lru_cache

import numpy as np
import pytest
from scipy.stats import chi2, chi2_contingency, chisquare

from fgcif_flwr.secagg import Field, Released, SlotCollection, VectorLayout, WordFormat, keys
from fgcif_flwr.secagg.epoch import SlotContext
from fgcif_flwr.secagg.journal import MemoryJournal
from fgcif_flwr.secagg.masking import CHECK_WORDS, MaskAdder
from fgcif_flwr.secagg.pairs import pair_keys
from tests.secure_sum_rig import INPUT_HASH, Consortium, stream

ALPHA = 1e-7
WORDS = 60_000
TOP_BITS = 12  # words of more bits are tested by their top and their lowest

# Enterprises, neighbours (None: complete), value_bits, and the bits of a word that come of them.
GRAPHS = [
    pytest.param((5, None, 9, 12), id="complete, 12 bits"),
    pytest.param((5, None, 10, 13), id="complete, 13 bits"),
    pytest.param((5, None, 13, 16), id="complete, 16 bits"),
    pytest.param((5, None, 34, 37), id="complete, 37 bits"),
    pytest.param((110, 60, 10, 17), id="60-regular, 17 bits"),
]
Graph = tuple[int, int | None, int, int]


class Round:
    """One slot in which every member's round secrets were noted before it masked."""

    def __init__(self, graph: Graph) -> None:
        count, neighbours, value_bits, self.bits = graph
        self.consortium = Consortium(count, neighbours=neighbours)
        self.epoch = self.consortium.epoch
        limit = WordFormat(value_bits, 1).largest
        self.layout = VectorLayout((Field("update", WORDS, float(limit), exact=True),), value_bits)
        self.slot: SlotCollection = self.consortium.open_slot(self.layout)
        self.form = self.slot.form
        assert self.form.bits == self.bits
        self.secrets = {}
        for name, party in self.consortium.participants.items():
            assert party.advertised is not None
            self.secrets[name] = party.advertised
        self.context = SlotContext(
            self.epoch, self.slot.slot, "test", self.slot.cohort, self.layout.hash(), INPUT_HASH
        )
        self.victim = self.slot.cohort[1]
        self.near = [n for n in self.epoch.receivers(self.victim) if n != self.victim]
        self.honest = self.near[len(self.near) // 2]
        self.party = copy.copy(self.consortium.participants[self.victim])  # before it masks
        self._limit = limit
        self._released: dict[str, Released] = {}

    def plain(self, name: str) -> np.ndarray:
        """The least uniform of vectors: its extremes and zeros, in long runs."""
        rng = np.random.default_rng(int(name[1:]))
        runs = rng.choice([-self._limit, 0, 0, self._limit], WORDS // 50)
        return np.repeat(runs, 50)

    def released(self, name: str) -> Released:
        if name not in self._released:
            self._released[name] = self.consortium.masked(self.slot, name, self.plain(name))
        return self._released[name]

    def masked(self, name: str) -> bytes:
        return self.released(name).words

    def unpacked(self, packed: bytes) -> np.ndarray:
        return self.form.unpack(packed, WORDS + CHECK_WORDS)

    def without(self, name: str, peers: Collection[str], own: bool = True) -> np.ndarray:
        """A masked vector less its self mask and the masks shared with some peers, as those
        peers, or who holds their secrets, compute them."""
        total = self.unpacked(self.masked(name))
        adder = MaskAdder(total)
        if own:
            adder.subtract(keys.derive(self.secrets[name].seed, self.context.own(name)))
        self._take(adder, name, peers)
        return self.form.reduce(total)

    def _take(self, adder: MaskAdder, name: str, peers: Collection[str]) -> None:
        public = self.secrets[name].round_key.public
        for peer in peers:
            pair = self.secrets[peer].round_key
            private = keys.load_agreement(pair.private)
            added, subtracted = pair_keys(
                private, (peer, pair.public), [(name, public)], self.context
            )
            for key in added:  # what the peer adds, the other subtracted
                adder.add(key)
            for key in subtracted:
                adder.subtract(key)

    def sum_without(self, left_out: str) -> np.ndarray:
        """The sum of all masked vectors but one, less all self masks: what is left are the masks
        that the missing one shares."""
        total = np.zeros(WORDS + CHECK_WORDS, dtype=self.form.dtype)
        adder = MaskAdder(total)
        for name in self.slot.cohort:
            if name != left_out:
                self.form.add_packed(total, self.masked(name))
                adder.subtract(keys.derive(self.secrets[name].seed, self.context.own(name)))
        return self.form.reduce(total)


@lru_cache(maxsize=len(GRAPHS))
def round_of(graph: Graph) -> Round:
    return Round(graph)


def p_values(
    words: np.ndarray, form: WordFormat, plain: np.ndarray, packed: bytes | None = None
) -> Iterator[tuple[str, float]]:
    """How well words are explained as uniform, and as independent of a plain vector."""
    packed = form.pack(words) if packed is None else packed
    bits = form.bits
    top, low = (words >> max(0, bits - TOP_BITS)).astype(int), (words & 0xFFF).astype(int)
    if bits <= 13:
        yield "words", _even(words.astype(int), 1 << bits)
    yield "highest bits of words", _even(top, 1 << min(bits, TOP_BITS))
    yield "lowest bits of words", _even(low, 1 << min(bits, TOP_BITS))
    each = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    each = each[: len(words) * bits].reshape(len(words), bits)
    z = (2 * each.sum(axis=0, dtype=np.int64) - len(words)) / np.sqrt(len(words))
    yield "bits of words", float(chi2.sf((z**2).sum(), bits))
    whole = np.frombuffer(packed, np.uint8)[: len(words) * bits // 8].astype(int)
    yield "bytes of the packing", _even(whole, 256)
    yield "pairs of bytes", _even(16 * (whole[:-1:2] >> 4) + (whole[1::2] >> 4), 256)
    six = (words >> (bits - 6)).astype(int)
    even = len(six) // 2 * 2
    yield "pairs of words", _even(64 * six[:even:2] + six[1:even:2], 4096)
    apart = len(six) // 128 * 128  # words that share a block of the keystream, and that do not
    for step in (2, 64):
        rows = six[:apart].reshape(-1, 2, step)
        yield f"words {step} apart", _even((64 * rows[:, 0] + rows[:, 1]).ravel(), 4096)
    plainly = np.sign(plain).astype(int) + 1
    table = np.zeros((3, 64))
    np.add.at(table, (plainly, six[: len(plain)]), 1)
    yield "plain vector", float(chi2_contingency(table[:, table.any(axis=0)]).pvalue)
    difference = (words[: len(plain)].astype(np.int64) - plain) & form.mask
    yield "difference from the plain vector", _even((difference >> (bits - 6)).astype(int), 64)


def _even(values: np.ndarray, kinds: int) -> float:
    return float(chisquare(np.bincount(values, minlength=kinds)).pvalue)


def assert_uniform(
    words: np.ndarray, form: WordFormat, plain: np.ndarray, packed: bytes | None = None
) -> None:
    strange = {
        name: p for name, p in p_values(words, form, plain, packed) if not ALPHA < p < 1 - ALPHA
    }
    assert not strange


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_masked_vector_is_uniform_and_independent_of_the_plain_one(graph):
    slot = round_of(graph)
    packed = slot.masked(slot.victim)
    assert_uniform(slot.unpacked(packed), slot.form, slot.plain(slot.victim), packed)


@pytest.mark.parametrize("graph", GRAPHS)
def test_it_stays_so_while_one_mask_shared_with_one_honest_peer_is_left(graph):
    slot = round_of(graph)
    colluders = [name for name in slot.near if name != slot.honest]
    assert len(colluders) == (graph[1] or graph[0] - 1) - 1
    left = slot.without(slot.victim, colluders)
    assert_uniform(left, slot.form, slot.plain(slot.victim))


@pytest.mark.parametrize("graph", GRAPHS)
def test_it_stays_so_while_the_self_mask_alone_is_left(graph):
    slot = round_of(graph)
    left = slot.without(slot.victim, slot.near, own=False)
    assert_uniform(left, slot.form, slot.plain(slot.victim))


@pytest.mark.parametrize("graph", GRAPHS)
def test_without_the_last_mask_the_plain_vector_appears(graph):
    slot = round_of(graph)
    left = slot.form.signed(slot.without(slot.victim, slot.near))
    assert np.array_equal(left[:WORDS], slot.plain(slot.victim))
    assert left[WORDS:].tolist() == [1] * CHECK_WORDS


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_sum_over_all_but_one_honest_enterprise_is_uniform_before_it_is_unmasked(graph):
    slot = round_of(graph)
    others = [name for name in slot.slot.cohort if name != slot.honest]
    plain = np.sum([slot.plain(name) for name in others], axis=0)
    assert_uniform(slot.sum_without(slot.honest), slot.form, plain)
    whole = slot.unpacked(slot.masked(slot.honest))
    own = keys.derive(slot.secrets[slot.honest].seed, slot.context.own(slot.honest))
    MaskAdder(whole).subtract(own)
    opened = slot.form.signed(slot.sum_without(slot.honest) + whole)
    assert np.array_equal(opened[:WORDS], plain + slot.plain(slot.honest))


TAGGED = (110, 60, 10, 17)


def words_and_tags_of(vector: np.ndarray, drawn: str) -> tuple[bytes, bytes]:
    """What a victim releases in the k-regular round; ``drawn`` sets what it draws meanwhile."""
    slot = round_of(TAGGED)
    victim = copy.copy(slot.party)
    victim.journal, victim._entropy = MemoryJournal(), stream(drawn)
    victim.open_release(slot.slot.release_request(slot.victim), INPUT_HASH)
    released = victim.mask(vector, slot.layout)
    return released.words, released.tags


def test_tags_are_of_what_the_masks_are_bound_to_and_of_no_vector():
    slot = round_of(TAGGED)
    channels = slot.party.joined.channels
    assert [channel.peer for channel in channels] == slot.near
    expected = b"".join(
        hmac.digest(channel.tag_to, slot.context.binding, "sha256")[:16] for channel in channels
    )
    seen = set()
    for vector in (slot.plain(slot.victim), -slot.plain(slot.victim), 0 * slot.plain(slot.victim)):
        words, tags = words_and_tags_of(vector, drawn=f"other entropy {len(seen)}")
        assert tags == expected
        seen.add(words)
    assert len(seen) == 3
    pieces = {tags[at : at + 16] for at in range(0, len(tags), 16)}
    assert len(pieces) == len(slot.near)  # each neighbour's is another


def test_tags_follow_all_that_the_masks_are_bound_to():
    slot = round_of(TAGGED)
    key = slot.party.joined.channels[0].tag_to
    left_out = next(name for name in slot.slot.cohort if name not in (slot.victim, *slot.near))
    smaller = tuple(name for name in slot.slot.cohort if name != left_out)
    changes = ({"slot": 2}, {"task": "other"}, {"cohort": smaller}, {"layout_hash": bytes(32)})
    bindings = {slot.context.binding}
    for change in (*changes, {"input_hash": b"\1" * 32}):
        bindings.add(dataclasses.replace(slot.context, **change).binding)
    assert len({keys.authenticate(key, binding) for binding in bindings}) == 6


def test_in_the_complete_graph_there_are_no_tags():
    slot = round_of((5, None, 10, 13))
    assert slot.released(slot.victim).tags == b""


def test_the_tests_notice_a_plain_vector_a_lacking_bit_and_a_mask_that_repeats():
    form = WordFormat(10, 5)
    plain = round_of((5, None, 10, 13)).plain("e001")
    rng = np.random.default_rng(1)
    uniform = rng.integers(0, 1 << form.bits, WORDS).astype(np.uint32)
    assert_uniform(uniform, form, plain)
    repeated = np.tile(uniform[: WORDS // 20], 20)
    narrow = uniform & np.uint32(form.mask >> 1)
    faint = np.where(plain > 0, uniform & np.uint32(form.mask >> 1), uniform)
    for strange in (form.reduce(form.words(plain)), repeated, narrow, faint):
        with pytest.raises(AssertionError):
            assert_uniform(strange, form, plain)
