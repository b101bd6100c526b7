"""The one door: the only function through which numbers leave an enterprise.

A release passes, in this order,

0. the very request that was answered before gets the stored reply, and that is all;
1. the enterprise's own policy, which does not take the coordinator's word;
2. the participant's checks of slot and cohort, once the slot is durably spent;
3. the enterprise's privacy ledger, which is charged, durably, before anything is computed;
4. the release log, one line;
5. computing, bounding, encoding as integers, and this enterprise's share of the noise;
6. the mask, so that only the sum over the cohort can be read;
7. the ledger again, which marks the charge as released.

Once the slot is open nothing that depends on rows can be seen from outside. Where computing or
encoding fails, zeros leave. Without a privacy unit a masked word of the vector says so; with one,
noise leaves all the same (zeros where local training fails outside its steps, which no value of a
row decides), and only the enterprise's own log knows. A refusal would tell the
coordinator, who chooses the model, something of one enterprise's rows each time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgcif_flwr.errors import LedgerError, OutOfRangeError, PrivacyError
from fgcif_flwr.privacy.ledger import Ledger
from fgcif_flwr.privacy.noise import cryptographic_generator
from fgcif_flwr.privacy.outcomes import outcome_values, with_outcome
from fgcif_flwr.privacy.plan import PrivacyPlan
from fgcif_flwr.privacy.policy import Policy
from fgcif_flwr.privacy.release_log import LogEntry, ReleaseLog
from fgcif_flwr.privacy.statement import PrivacyStatement
from fgcif_flwr.secagg.encoding import VectorLayout
from fgcif_flwr.secagg.messages import Released, ReleaseRequest
from fgcif_flwr.secagg.participant import Participant

logger = logging.getLogger(__name__)

Integers = npt.NDArray[np.int64]


Compute = Callable[[], Mapping[str, npt.ArrayLike]]
Contributions = Callable[[], Iterable[Mapping[str, npt.NDArray[np.generic]]]]
"""Gives customers' contributions in chunks, as :meth:`NoisySum.encode` takes them."""


@dataclass(frozen=True)
class Door:
    """An enterprise's one door.

    Attributes
    ----------
    participant : Participant
        This enterprise's party in the secure sum.
    policy : Policy
    log : ReleaseLog
    ledger : Ledger or None
        Of the population whose rows are behind the door; without one nothing leaves under a
        privacy unit.
    noise : callable
        Gives the generator of a release's noise; the operating system's randomness but in tests.
    """

    participant: Participant
    policy: Policy
    log: ReleaseLog
    ledger: Ledger | None = None
    noise: Callable[[], np.random.Generator] = cryptographic_generator

    def release(
        self,
        request: ReleaseRequest,
        layout: VectorLayout,
        input_hash: bytes,
        compute: Compute,
        rounding: np.random.Generator,
    ) -> Released:
        """Let one vector out without a privacy unit, or raise before anything is computed.

        The very request that was answered before gets the stored reply, byte for byte: nothing
        is computed or logged again. A refusal by policy leaves the slot unspent, and so does a
        request that is of no open slot; any later one spends it.

        Parameters
        ----------
        request : ReleaseRequest
            As it came from the coordinator.
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
        PolicyError
            Naming the rule of the policy that the request breaks.
        NotJoinedError, SlotSpentError, PhaseError, CohortError, AuthenticationError
            As :meth:`Participant.open_release`.
        """
        whole = with_outcome(layout)

        def encode(seed: bytes) -> Integers:
            return _encode(whole, layout, compute, rounding, seed)

        return self._pass(request, PrivacyStatement(), whole, input_hash, encode)

    def release_noisily(
        self,
        request: ReleaseRequest,
        plan: PrivacyPlan,
        statement: PrivacyStatement,
        layout: VectorLayout,
        input_hash: bytes,
        contributions: Contributions,
    ) -> Released:
        """Let one sum of bounded contributions out, with this enterprise's share of the noise.

        Parameters
        ----------
        request, layout, input_hash
            As :meth:`release`; the layout is that of the task's noisy sum.
        plan : PrivacyPlan
            Of the run, from the manifest that was accepted at join.
        statement : PrivacyStatement
            The run's, for the log.
        contributions
            Gives the contributions; called only when all checks have passed. Where it fails,
            noise leaves alone.

        Raises
        ------
        PrivacyError
            If the task is not in the plan, or the epoch could open a sum over fewer honest
            enterprises than its noise was computed for.
        BudgetExhaustedError
            If the ledger does not cover the release, or the plan's slots are used up.
        PolicyError, and as :meth:`release`
        """
        mechanism = plan.release(request.task).mechanism
        sharers = mechanism.sharers(plan.honest)

        def encode(_: bytes) -> Integers:
            generator = self.noise()
            try:
                return mechanism.sum.encode(contributions(), sharers, generator)
            except Exception:  # whatever it was, nobody outside must see that it was
                logger.exception("noise alone is released: the computation failed")
                return mechanism.sum.encode((), sharers, generator)

        return self._pass(request, statement, layout, input_hash, encode, plan)

    def release_trained(
        self,
        request: ReleaseRequest,
        plan: PrivacyPlan,
        statement: PrivacyStatement,
        layout: VectorLayout,
        input_hash: bytes,
        train: Compute,
        rounding: np.random.Generator,
    ) -> Released:
        """Let values out into which ``train`` has put the whole noise itself (``noise = local``).

        What is beyond its bound is cut to it: the values are private already. Where training
        fails, zeros leave. Parameters and errors are those of the other two.
        """

        if plan.release(request.task).mechanism.noise != "local":
            raise PrivacyError("only what was trained with local noise leaves as trained")

        def encode(seed: bytes) -> Integers:
            try:
                values = _within_bounds(train(), layout)
            except Exception:  # as above
                logger.exception("zeros are released: the training failed")
                values = {field.name: np.zeros(field.size) for field in layout.fields}
            return layout.encode(values, rounding, seed)

        return self._pass(request, statement, layout, input_hash, encode, plan)

    def _pass(
        self,
        request: ReleaseRequest,
        statement: PrivacyStatement,
        layout: VectorLayout,
        input_hash: bytes,
        encode: Callable[[bytes], Integers],
        plan: PrivacyPlan | None = None,
    ) -> Released:
        """Walk the steps of the module's head; ``encode`` is the fifth."""
        stored = self.participant.released_before(request, input_hash)
        if stored is not None:
            return stored
        parameters = self.participant.parameters
        # The unit is that of the plan which is charged, whatever the statement says.
        unit = "none" if plan is None else plan.unit
        self.policy.check(request, unit, layout.size, parameters)
        if plan is not None and parameters.honest_in_any_sum < plan.honest:
            raise PrivacyError(
                f"the noise is computed for sums over at least {plan.honest} honest enterprises; "
                f"this epoch could open one over {parameters.honest_in_any_sum}"
            )
        self.participant.open_release(request, input_hash)
        manifest = self.participant.manifest
        assert manifest is not None, "a slot was opened, so a manifest was accepted"
        try:
            charged = None if plan is None else self._reserve(request, plan)
            self.log.append(
                LogEntry(
                    time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    run=manifest.run.hex()[:16],
                    slot=request.slot,
                    task=request.task,
                    numbers=layout.size,
                    cohort=len(request.cohort),
                    unit=unit,
                    guarantee=statement.in_words(),
                )
            )
            encoded = encode(self.participant.rotation_seed(request.slot, input_hash))
            released = self.participant.mask(encoded, layout)
            if self.ledger is not None and charged is not None:
                self.ledger.commit(charged)
            return released
        finally:
            self.participant.give_up()  # nothing of the slot is open when the door is shut

    def _reserve(self, request: ReleaseRequest, plan: PrivacyPlan) -> int:
        """Charge the ledger for one slot of the plan; it counts from here on, whatever follows."""
        if self.ledger is None:
            raise LedgerError("there is no privacy ledger, so nothing leaves under a privacy unit")
        manifest = self.participant.manifest
        assert manifest is not None, "a slot was opened, so a manifest was accepted"
        run = manifest.run.hex()
        return self.ledger.reserve(
            plan.charges(request.task, run, request.slot),
            self.policy.epsilon_total,
            self.policy.delta_total,
            plan.release(request.task).slots,
        )


def _within_bounds(
    values: Mapping[str, npt.ArrayLike], layout: VectorLayout
) -> dict[str, npt.NDArray[np.float64]]:
    """Cut values to their fields' bounds; what is not a number becomes zero."""
    cut: dict[str, npt.NDArray[np.float64]] = {}
    for field in layout.fields:
        real = np.asarray(values[field.name], np.float64).reshape(-1)
        real = np.nan_to_num(real, nan=0.0, posinf=field.bound, neginf=-field.bound)
        if field.rotated:
            norm = float(np.linalg.norm(real))
            cut[field.name] = real * min(1.0, field.bound / norm) if norm > 0 else real
        else:
            cut[field.name] = np.clip(real, -field.bound, field.bound)
    return cut


def _encode(
    whole: VectorLayout,
    layout: VectorLayout,
    compute: Compute,
    rounding: np.random.Generator,
    rotation_seed: bytes,
) -> Integers:
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
