"""One secure sum by this package, in one process, on given vectors.

A steady slot is measured: enterprises have joined and advertised before. Messages are turned to
bytes outside all clocks, as on Flower's side, and their bytes are counted; digests and stored
replies, which take the same bytes, are inside the enterprises' clocks.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.flower_secagg import Measurement
from fgcif_flwr.secagg import (
    AdvertiseRequest,
    Field,
    Manifest,
    Participant,
    SlotCollection,
    VectorLayout,
    fix_epoch,
    keys,
    wire,
)
from fgcif_flwr.secagg.keys import identity_from_seed

INPUT_HASH = bytes(32)
RUN = bytes(16)
MOST_LOST = 0.3
"""Share of the enterprises that a complete graph's threshold lets be lost, in every case."""


class Clock:
    """Adds up the time between :meth:`start` and :meth:`stop`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started


class Meter:
    """Bytes of messages, and the server's peak memory where it is watched."""

    def __init__(self, memory: bool) -> None:
        self.bytes_up = 0
        self.bytes_down = 0
        self.peak = 0
        """Most bytes that the server held at once, beside what enterprises sent it."""
        self.shares = 0
        """Bytes of sealed, committed and opened shares that it holds."""
        self._held = 0
        self._before = 0
        self._memory = memory

    def up(self, message: object) -> None:
        """Count a message to the coordinator."""
        self.bytes_up += len(wire.encode(message))

    def down(self, message: object) -> None:
        """Count a message to an enterprise."""
        self.bytes_down += len(wire.encode(message))

    def server_begins(self) -> None:
        """Set what enterprises allocated apart."""
        if self._memory:
            tracemalloc.reset_peak()
            self._before = tracemalloc.get_traced_memory()[0]

    def server_ends(self) -> None:
        """Add what the server allocated since it began and still holds; keep the peak."""
        if self._memory:
            now, peak = tracemalloc.get_traced_memory()
            self.peak = max(self.peak, self._held + peak - self._before)
            self._held += now - self._before


def measure(
    vectors: Sequence[npt.NDArray[np.float32]],
    lost: int,
    *,
    value_bits: int = 22,
    neighbours: int | None = None,
    memory: bool = False,
) -> Measurement:
    """Run one sum and hold it against the survivors' sum in the clear.

    Parameters
    ----------
    vectors
        One of shape (d,) within (-1, 1) for each enterprise.
    lost : int
        How many enterprises are lost at the upload of their masked vector.
    neighbours
        Of an enterprise; None lets the number of enterprises decide.
    memory
        Watch the server's memory; times are too long then.

    Raises
    ------
    AssertionError
        If the sum is not what it must be.
    """
    if memory:
        tracemalloc.start()
    try:
        return _measure(vectors, lost, value_bits, neighbours, memory)
    finally:
        tracemalloc.stop()


def _measure(
    vectors: Sequence[npt.NDArray[np.float32]],
    lost: int,
    value_bits: int,
    neighbours: int | None,
    memory: bool,
) -> Measurement:
    n, d = len(vectors), len(vectors[0])
    layout = VectorLayout((Field("update", d, 1.0),), value_bits)
    parties, manifest = _parties(n, neighbours)
    joins = tuple(party.join(manifest) for party in parties)
    complete = manifest.parameters(n).complete
    nonces = () if complete else tuple(party.reveal(joins) for party in parties)
    epoch = fix_epoch(manifest, joins, nonces)
    for party in parties:
        party.begin(joins, nonces)
    ads = [party.advertise(AdvertiseRequest(1)) for party in parties]
    client, server, meter = Clock(), Clock(), Meter(memory)
    meter.shares = sum(len(ad.commitments) + len(ad.sealed) for ad in ads)
    rng = np.random.default_rng(0)
    gone = {party.name for party in parties[:lost]}
    wanted = np.zeros(d)
    meter.server_begins()
    with server:
        for ad in ads:
            epoch.check_advertisement(ad)
        slot = SlotCollection(epoch, 1, "benchmark", layout, INPUT_HASH, ads)
    meter.server_ends()
    for party, vector in zip(parties, vectors, strict=True):
        if party.name in gone:
            continue
        meter.server_begins()
        with server:
            request = slot.release_request(party.name)
        meter.server_ends()
        meter.down(request)
        with client:
            party.open_release(request, INPUT_HASH)
            encoded = layout.encode({"update": vector}, rng)
            released = party.mask(encoded, layout)
        meter.up(released)
        wanted += encoded
        del encoded
        meter.server_begins()
        del request
        with server:
            slot.receive(released)
        meter.server_ends()
        del released
    meter.server_begins()
    with server:
        closed = slot.close()
    survivors = [party for party in parties if party.name not in gone]
    if closed.wants_consents:
        asked = closed.consent_request()
        for party in survivors:
            meter.down(asked)
            with client:
                consent = party.consent(asked)
            meter.up(consent)
            with server:
                closed.consent(consent)
    meter.server_ends()
    for party in survivors:
        with server:
            unmask = closed.request(party.name)
        meter.down(unmask)
        keys.signed.cache_clear()  # in a deployment no other enterprise shares a process's cache
        with client:
            reply = party.unmask(unmask)
        meter.up(reply)
        meter.shares += len(reply.shares)
        with server:
            closed.answer(reply)
    meter.server_begins()
    with server:
        total = closed.finish()
    meter.server_ends()
    step = 1.0 / (2 ** (value_bits - 1) - 1)
    assert np.allclose(total.values["update"] / step, wanted, atol=1e-3), "the sum is wrong"
    return Measurement(
        client_ms=1e3 * client.seconds / len(survivors),
        server_s=server.seconds,
        bytes_up_per_param=meter.bytes_up / len(survivors) / d,
        bytes_down_per_param=meter.bytes_down / len(survivors) / d,
        masks=epoch.parameters.neighbours + 1,
        server_peak_mb=meter.peak / 1e6 if memory else None,
        server_shares_mb=meter.shares / 1e6 if memory else None,
    )


def _parties(n: int, neighbours: int | None) -> tuple[list[Participant], Manifest]:
    """Enterprises and a manifest; a complete graph tolerates MOST_LOST in every case, so that
    the threshold is the same whoever is lost."""
    names = [f"enterprise-{i:05d}" for i in range(n)]
    identities = [identity_from_seed(os.urandom(32)) for _ in names]
    roster = tuple((name, pair.public) for name, pair in zip(names, identities, strict=True))
    plain = Manifest(RUN, 1, "{}", roster, neighbours=neighbours)
    dropouts = round(MOST_LOST * n) if plain.parameters(n).complete else None
    manifest = Manifest(RUN, 1, "{}", roster, tolerated_dropouts=dropouts, neighbours=neighbours)
    parties = [
        Participant(name, pair, semi_honest=True)
        for name, pair in zip(names, identities, strict=True)
    ]
    return parties, manifest
