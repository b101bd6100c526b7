"""The one door: the only function through which numbers leave an enterprise.

A release passes, in this order,

1. the enterprise's own policy, which does not take the coordinator's word;
2. its privacy ledger, charged before anything is computed (nothing is charged where no privacy
   unit is stated, and the log says so);
3. bounding and encoding as integers;
4. the mask, so that only the sum over the cohort can be read;
5. the release log, one line, before the vector is handed back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import SecureSumError
from fgcif_flwr.privacy.statement import PrivacyStatement
from fgcif_flwr.secagg.encoding import VectorLayout
from fgcif_flwr.secagg.messages import MaskedVector, ReleaseRequest
from fgcif_flwr.secagg.participant import Participant


@dataclass(frozen=True)
class Policy:
    """What this enterprise lets out, whatever the coordinator asks.

    Attributes
    ----------
    minimum_cohort : int
        Fewest enterprises whose sum may cover this one.
    units : frozenset of str
        Privacy units under which releases are allowed.
    """

    minimum_cohort: int = 3
    units: frozenset[str] = frozenset({"none"})

    def check(self, request: ReleaseRequest, statement: PrivacyStatement) -> None:
        """Raise SecureSumError naming the rule that the request breaks."""
        if len(request.cohort) < self.minimum_cohort:
            raise SecureSumError(
                f"policy: a cohort of {len(request.cohort)} is below this enterprise's minimum "
                f"of {self.minimum_cohort}"
            )
        if statement.unit not in self.units:
            raise SecureSumError(
                f"policy: this enterprise does not release under privacy.unit = {statement.unit}"
            )


@dataclass(frozen=True)
class LogEntry:
    """One line of the release log: what left, when, under which guarantee."""

    time: str
    run: str
    slot: int
    task: str
    numbers: int
    octets: int
    cohort: int
    guarantee: str


class ReleaseLog(Protocol):
    """Where the lines go."""

    def append(self, entry: LogEntry) -> None:
        """Write one line; it must be written when this returns."""


class FileLog:
    """A release log in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: LogEntry) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(entry)) + "\n")


class MemoryLog:
    """A release log for tests."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []

    def append(self, entry: LogEntry) -> None:
        """Keep one line."""
        self.entries.append(entry)


Compute = Callable[[], Mapping[str, npt.ArrayLike]]


@dataclass(frozen=True)
class Door:
    """An enterprise's one door.

    Attributes
    ----------
    participant : Participant
        This enterprise's party in the secure sum.
    policy : Policy
    log : ReleaseLog
    """

    participant: Participant
    policy: Policy
    log: ReleaseLog

    def release(
        self,
        request: ReleaseRequest,
        statement: PrivacyStatement,
        layout: VectorLayout,
        input_hash: bytes,
        compute: Compute,
        rounding: np.random.Generator,
    ) -> MaskedVector:
        """Let one vector out, or raise and let out nothing.

        A refusal by policy leaves the slot unspent (nothing was touched); any later one spends it.

        Parameters
        ----------
        request : ReleaseRequest
            As it came from the coordinator.
        statement : PrivacyStatement
            Under which the run's manifest, accepted at join, puts this release.
        layout : VectorLayout
            Of the vector, from the manifest and the task.
        input_hash : bytes
            Hash of the task's input as received.
        compute
            Computes the values from customers' rows; called only when all checks have passed.
        rounding
            Draws the stochastic rounding.
        """
        self.policy.check(request, statement)
        self.participant.open_release(request)
        encoded = layout.encode(compute(), rounding)
        masked = self.participant.mask(request, encoded, layout, input_hash)
        self.log.append(
            LogEntry(
                time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                run=self.participant.run_id.hex()[:16],
                slot=request.slot,
                task=request.task,
                numbers=layout.size,
                octets=len(masked.words),
                cohort=len(request.cohort),
                guarantee=statement.in_words(),
            )
        )
        return masked
