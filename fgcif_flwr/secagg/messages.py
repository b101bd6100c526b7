"""What coordinator and enterprise say to each other, free of any transport.

==============  ====================================================================
exchange        coordinator says                    enterprise answers
==============  ====================================================================
join            Manifest                            JoinReply
advertise       slot (and, once, all JoinReplies)   Advertisement
release         ReleaseRequest                      MaskedVector + next Advertisement
unmask          UnmaskRequest                       UnmaskReply
==============  ====================================================================

A steady slot is *release* and *unmask*; *advertise* is for the first slot and for enterprises
that come back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from fgcif_flwr.errors import AuthenticationError, CohortError, SecureSumError
from fgcif_flwr.secagg.parameters import SecureSumParameters
from fgcif_flwr.secagg.transcript import canonical, digest, digest_pairs

_LARGEST = 1 << 32
_LIMITS = ("threshold", "tolerated_dropouts", "tolerated_colluders")


@dataclass(frozen=True)
class Manifest:
    """What a run is, as every enterprise accepts it at join.

    Attributes
    ----------
    epoch : int
        Counts the joins of a run; keys of one epoch are never used in another.
    terms : str
        Canonical JSON of everything that decides what will be released: the run's configuration
        and the schema's hash. Requests name tasks; what a task computes comes from here.
    roster : tuple of (name, identity key)
        All who may join, in the order of names.
    threshold, tolerated_dropouts, tolerated_colluders : int or None
        As configured; None is filled in by :meth:`SecureSumParameters.choose` from the length of
        the roster, alike at every party.
    """

    epoch: int
    terms: str
    roster: tuple[tuple[str, bytes], ...]
    threshold: int | None = None
    tolerated_dropouts: int | None = None
    tolerated_colluders: int | None = None

    def __post_init__(self) -> None:
        names = [name for name, _ in self.roster]
        publics = {public for _, public in self.roster}
        if names != sorted(set(names)):
            raise AuthenticationError("a roster wants each name once, in order")
        if len(publics) != len(names) or any(len(public) != 32 for public in publics):
            raise AuthenticationError("a roster wants a key of its own of 32 bytes for each name")
        if not 0 <= self.epoch < _LARGEST:
            raise SecureSumError(f"an epoch is a number from 0 to {_LARGEST - 1}")

    def hash(self) -> bytes:
        """Digest of the whole manifest."""
        optional = [
            -1 if value is None else value
            for value in (self.threshold, self.tolerated_dropouts, self.tolerated_colluders)
        ]
        return digest(
            "manifest", self.epoch, self.terms, digest_pairs("roster", self.roster), *optional
        )

    def to_json(self) -> str:
        """Return the manifest as JSON; undone by :meth:`from_json`."""
        return json.dumps(
            {
                "epoch": self.epoch,
                "terms": self.terms,
                "roster": [[name, public.hex()] for name, public in self.roster],
                "threshold": self.threshold,
                "tolerated_dropouts": self.tolerated_dropouts,
                "tolerated_colluders": self.tolerated_colluders,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest.

        Raises
        ------
        ValueError
            If the text is not a manifest; wrong fields and types are named by their class.
        """
        tree = json.loads(text)
        try:
            roster = tuple((str(name), bytes.fromhex(public)) for name, public in tree["roster"])
            limits = [tree[key] for key in _LIMITS]
            if not all(value is None or type(value) is int for value in limits):
                raise TypeError("limits")
            return cls(int(tree["epoch"]), str(tree["terms"]), roster, *limits)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a manifest ({type(error).__name__})") from None

    def parameters(self, holders: int) -> SecureSumParameters:
        """Return the parameters once so many of the roster have joined.

        Threshold and colluders follow the roster, never the number that is said to have joined:
        else a coordinator could tell each victim that it and a few colluders are all.

        Raises
        ------
        CohortError
            If no parameters hold for the roster, or more of it than may be lost are missing.
        """
        whole = SecureSumParameters.choose(
            len(self.roster), self.threshold, self.tolerated_dropouts, self.tolerated_colluders
        )
        missing = whole.holders - holders
        if missing > whole.tolerated_dropouts:
            raise CohortError(
                f"{holders} of the {whole.holders} enterprises on the roster joined; "
                f"secagg.tolerated_dropouts allows {whole.tolerated_dropouts} to be missing"
            )
        return SecureSumParameters(
            holders,
            whole.threshold,
            min(whole.tolerated_dropouts, holders - whole.threshold),
            whole.tolerated_colluders,
        )


@dataclass(frozen=True)
class JoinReply:
    """An enterprise's signed answer to a manifest: a fresh nonce and its channel key."""

    name: str
    nonce: bytes
    channel_public: bytes
    signature: bytes

    def signed_bytes(self, manifest_hash: bytes) -> bytes:
        """Return what the identity key signs."""
        return canonical("join", manifest_hash, self.name, self.nonce, self.channel_public)


@dataclass(frozen=True)
class Advertisement:
    """A round key for one slot, with shares of its private half and of the self-mask seed.

    ``sealed`` holds one ciphertext per holder in the order of names, empty for the sender.
    ``commitment`` binds the seed, so that a wrong reconstruction is noticed.
    """

    sender: str
    slot: int
    round_public: bytes
    commitment: bytes
    sealed: tuple[bytes, ...]


@dataclass(frozen=True)
class CohortMember:
    """One member of a slot's cohort as shown to another: its round key, its sealed shares."""

    name: str
    round_public: bytes
    sealed: bytes


@dataclass(frozen=True)
class ReleaseRequest:
    """Asks for the masked vector of ``task`` in ``slot``; cohort in the order of names."""

    slot: int
    task: str
    cohort: tuple[CohortMember, ...]


@dataclass(frozen=True)
class MaskedVector:
    """Packed words, uniform to whoever does not know the masks."""

    sender: str
    slot: int
    words: bytes


@dataclass(frozen=True)
class UnmaskRequest:
    """Who of the cohort arrived and who did not; a partition of the cohort."""

    slot: int
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class UnmaskReply:
    """One share per cohort member in the order of names: of the self-mask seed for a survivor,
    of the round key for a dropped one."""

    sender: str
    slot: int
    shares: tuple[bytes, ...]
