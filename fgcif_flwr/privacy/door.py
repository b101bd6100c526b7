"""The one door: the only function through which numbers leave an enterprise.

A release passes, in this order,

0. the very request that was answered before gets the stored reply, and that is all;
1. the enterprise's own policy, which does not take the coordinator's word;
2. the participant's checks of slot and cohort, once the slot is durably spent;
3. the release log, one line, before anything is computed;
4. computing, bounding, and encoding as integers;
5. the mask, so that only the sum over the cohort can be read.

Once the slot is open nothing that depends on rows can be seen from outside: where computing or
encoding fails, zeros leave, and a masked word of the vector says so. A refusal would tell the
coordinator, who chooses the model, something of one enterprise's rows each time.

No privacy unit is carried out yet, so there is nothing to charge and no noise to add; what states
one is refused by the policy.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import OutOfRangeError, SecureSumError
from fgcif_flwr.privacy.outcomes import outcome_values, with_outcome
from fgcif_flwr.privacy.statement import PrivacyStatement
from fgcif_flwr.secagg.encoding import VectorLayout
from fgcif_flwr.secagg.messages import Manifest, Released, ReleaseRequest
from fgcif_flwr.secagg.parameters import SecureSumParameters
from fgcif_flwr.secagg.participant import Participant

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Policy:
    """What this enterprise lets out, whatever the coordinator asks.

    Attributes
    ----------
    minimum_cohort : int
        Fewest enterprises that may be asked for a sum that covers this one.
    minimum_honest : int
        Fewest honest ones that such a sum must cover against a coordinator as
        :attr:`SecureSumParameters.withstands` says; whether one that only follows the protocol is
        withstood is accepted by the participant, or not.
    minimum_colluders : int or None
        Fewest enterprises whose working with the coordinator a run must withstand; None asks for
        a tenth of the roster, at least 1. The coordinator proposes the number, and a low one
        makes every other promise worth less.
    units : frozenset of str
        Privacy units under which releases are allowed.
    """

    minimum_cohort: int = 3
    minimum_honest: int = 2
    minimum_colluders: int | None = None
    units: frozenset[str] = frozenset({"none"})

    def check_manifest(self, manifest: Manifest) -> None:
        """Raise SecureSumError naming the rule that a manifest breaks, before it is joined."""
        n = len(manifest.roster)
        parameters = manifest.parameters(n)
        wanted = max(1, n // 10) if self.minimum_colluders is None else self.minimum_colluders
        if parameters.tolerated_colluders < wanted:
            raise SecureSumError(
                f"policy: secagg.tolerated_colluders is {parameters.tolerated_colluders}, below "
                f"this enterprise's minimum of {wanted}"
            )
        self._check_honest(parameters)

    def _check_honest(self, parameters: SecureSumParameters) -> None:
        if parameters.honest_in_any_sum < self.minimum_honest:
            raise SecureSumError(
                f"policy: a sum could cover {parameters.honest_in_any_sum} honest enterprises, "
                f"fewer than this enterprise's minimum of {self.minimum_honest}"
            )

    def check(
        self,
        request: ReleaseRequest,
        statement: PrivacyStatement,
        parameters: SecureSumParameters,
    ) -> None:
        """Raise SecureSumError naming the rule that the request breaks."""
        if len(request.cohort) < self.minimum_cohort:
            raise SecureSumError(
                f"policy: a cohort of {len(request.cohort)} is below this enterprise's minimum "
                f"of {self.minimum_cohort}"
            )
        self._check_honest(parameters)
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
    """A release log in memory: for tests, and for simulations that write nothing."""

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
    ) -> Released:
        """Let one vector out, or raise before anything is computed.

        The very request that was answered before gets the stored reply, byte for byte: nothing
        is computed or logged again. A refusal by policy leaves the slot unspent, and so does a
        request that is of no open slot; any later one spends it.

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
            Its failure is a word of the vector
            (:func:`fgcif_flwr.privacy.outcomes.with_outcome`) and the log's matter.
        rounding
            Draws the stochastic rounding.

        Raises
        ------
        SecureSumError
            Naming the rule of the policy that the request breaks.
        NotJoinedError, SlotSpentError, PhaseError, CohortError, AuthenticationError
            As :meth:`Participant.open_release`.
        """
        stored = self.participant.released_before(request, input_hash)
        if stored is not None:
            return stored
        self.policy.check(request, statement, self.participant.parameters)
        self.participant.open_release(request, input_hash)
        whole = with_outcome(layout)
        try:
            self.log.append(
                LogEntry(
                    time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    run=self.participant.run_id.hex()[:16],
                    slot=request.slot,
                    task=request.task,
                    numbers=whole.size,
                    cohort=len(request.cohort),
                    guarantee=statement.in_words(),
                )
            )
            seed = self.participant.rotation_seed(request.slot, input_hash)
            encoded = _encode(whole, layout, compute, rounding, seed)
            return self.participant.mask(encoded, whole)
        finally:
            self.participant.give_up()  # nothing of the slot is open when the door is shut


def _encode(
    whole: VectorLayout,
    layout: VectorLayout,
    compute: Compute,
    rounding: np.random.Generator,
    rotation_seed: bytes,
) -> npt.NDArray[np.int64]:
    try:
        return whole.encode({**compute(), **outcome_values(None)}, rounding, rotation_seed)
    except OutOfRangeError as error:
        logger.warning("zeros are released: %s", error)
        outcome = "out_of_range"
    except Exception:  # whatever it was, the coordinator must not see that it was
        logger.exception("zeros are released: the computation failed")
        outcome = "failed"
    zeros = {field.name: np.zeros(field.size) for field in layout.fields}
    return whole.encode({**zeros, **outcome_values(outcome)}, rounding, rotation_seed)
