"""Requests and replies of every kind, for tests of their way through Flower's records."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fgcif_flwr.federation.requests import (
    Identify,
    Identity,
    Join,
    Refusal,
    Release,
    Reply,
    Request,
    Reveal,
)
from fgcif_flwr.secagg import wire
from fgcif_flwr.secagg.keys import identity_from_seed
from fgcif_flwr.secagg.messages import (
    Advertisement,
    AdvertiseRequest,
    CohortMember,
    Consent,
    ConsentRequest,
    GraphNonce,
    JoinReply,
    Manifest,
    Released,
    ReleaseRequest,
    UnmaskReply,
    UnmaskRequest,
)
from tests.secure_sum_rig import RUN

FAST = settings(deadline=None, max_examples=60, derandomize=True)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
octets = st.binary(max_size=70)
slots = st.integers(-(2**63), 2**63 - 1)
some_names = st.lists(names, max_size=4).map(tuple)
limits = st.none() | st.integers(0, 2**40)
joins = st.builds(JoinReply, names, octets, octets, octets, octets, octets)
some_joins = st.lists(joins, max_size=4).map(tuple)
nonces = st.builds(GraphNonce, names, octets)
roster_names = st.text(
    st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1, max_size=20
)
KEYS = [identity_from_seed(bytes([index]) * 32).public for index in range(8)]
rosters = st.dictionaries(roster_names, st.sampled_from(KEYS), max_size=4).filter(
    lambda roster: len(set(roster.values())) == len(roster)
)
manifests = st.builds(
    Manifest,
    st.binary(min_size=16, max_size=16),
    st.integers(1, 2**32 - 1),
    names,
    rosters.map(lambda roster: tuple(sorted(roster.items()))),
    limits,
    limits,
    limits,
    st.none() | st.booleans(),
    limits,
)
advertisements = st.builds(Advertisement, names, slots, octets, octets, octets, octets, octets)
arrays = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint32, np.uint64]),
    hnp.array_shapes(max_dims=3, min_side=0, max_side=4),
)
inputs = st.dictionaries(names, arrays, max_size=4)
members = st.builds(CohortMember, names, octets, octets, octets, octets, octets)
releases = st.builds(
    ReleaseRequest, octets, slots, names, some_names, st.lists(members, max_size=4).map(tuple)
)
consents = st.builds(Consent, names, slots, octets)
REQUESTS: dict[type, st.SearchStrategy] = {
    Identify: st.builds(Identify, names, octets),
    Join: st.builds(Join, manifests),
    Reveal: st.builds(Reveal, some_joins),
    AdvertiseRequest: st.builds(
        AdvertiseRequest, slots, some_joins, st.lists(nonces, max_size=4).map(tuple)
    ),
    Release: st.builds(Release, releases, inputs),
    ConsentRequest: st.builds(ConsentRequest, octets, slots, some_names, some_names),
    UnmaskRequest: st.builds(
        UnmaskRequest,
        octets,
        slots,
        some_names,
        some_names,
        st.lists(consents, max_size=4).map(tuple),
        octets,
    ),
}
REPLIES: dict[type, st.SearchStrategy] = {
    Identity: st.builds(Identity, names, octets, octets),
    JoinReply: joins,
    GraphNonce: nonces,
    Advertisement: advertisements,
    Released: st.builds(Released, names, slots, octets, some_names, octets, advertisements),
    Consent: consents,
    UnmaskReply: st.builds(UnmaskReply, names, slots, octets, some_names),
    Refusal: st.builds(Refusal, st.integers(0, 255), names),
}
MEMBER = CohortMember("a", b"p", b"r", b"g", b"c", b"s")
AD = Advertisement("a", 4, b"p" * 32, b"c" * 32, b"k" * 48, b"sealed", b"g" * 64)
SOME_REQUESTS = [
    Identify("7", b"challenge"),
    Join(Manifest(RUN, 1, "{}", (("a", KEYS[0]),))),
    Reveal((JoinReply("a", b"n", b"c", b"g", b"t", b"s"),)),
    AdvertiseRequest(3, (JoinReply("a", b"n", b"c", b"g", b"t", b"s"),), (GraphNonce("a", b"n"),)),
    Release(ReleaseRequest(b"run", 3, "train", ("a", "b"), (MEMBER,)), {"rows": np.ones(3)}),
    ConsentRequest(b"run", 3, ("a",), ("b",)),
    UnmaskRequest(b"run", 3, ("a",), ("b",), (Consent("a", 3, b"g"),), b"tags"),
]
SOME_REPLIES = [
    Identity("a", b"k", b"g"),
    JoinReply("a", b"n", b"c", b"g", b"t", b"s"),
    GraphNonce("a", b"n"),
    AD,
    Released("a", 3, b"words", ("b",), b"tags", AD),
    Consent("a", 3, b"g"),
    UnmaskReply("a", 3, b"shares", ("b",)),
    Refusal(31, "no"),
]
RELEASE = SOME_REQUESTS[4]


def blob_of(message: Request | Reply) -> bytes:
    return wire.encode(message.request if isinstance(message, Release) else message)


assert isinstance(RELEASE, Release)
