"""What a session of secure sums needs to know of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fgcif_flwr.config import RunConfig
from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.federation.roster import load_identity, load_roster
from fgcif_flwr.federation.signing import Signer
from fgcif_flwr.secagg import Manifest, SecureSumParameters


@dataclass(frozen=True)
class SessionSettings:
    """What a session needs to know of a run.

    Attributes
    ----------
    enterprises : int
        How many must be connected before the run starts.
    timeout : float
        Seconds that replies, and at the start enterprises, are waited for.
    retries : int
        New slots that are tried after a failed one.
    threshold, tolerated_dropouts, tolerated_colluders, consistency, neighbours
        As in :class:`Manifest`; None lets the size of the roster decide.
    roster : tuple of (name, identity key), optional
        As agreed out of band, in the order of names. Without one the roster is whoever is
        connected at the start, on the word of each: for simulations.
    signer : Signer, optional
        Signs requests with the coordinator's key, which enterprises' agents have pinned.
    range_advice, failure_advice, waiting_advice : str
        What to do when values do not fit their words, when they cannot be computed, and when too
        few are connected: in the words of whoever made the settings.
    """

    enterprises: int
    timeout: float = 600.0
    retries: int = 2
    threshold: int | None = None
    tolerated_dropouts: int | None = None
    tolerated_colluders: int | None = None
    consistency: bool | None = None
    neighbours: int | None = None
    roster: tuple[tuple[str, bytes], ...] | None = None
    signer: Signer | None = None
    range_advice: str = "raise their bound"
    failure_advice: str = ""
    waiting_advice: str = "wait longer, or ask for fewer"

    @classmethod
    def of(cls, config: RunConfig) -> SessionSettings:
        """Return what a run's configuration says.

        Without ``run.roster`` the roster is whoever is there; without ``run.identity`` nothing is
        signed.

        Raises
        ------
        ConfigurationError
            If these files cannot be read, or the roster is not of ``run.enterprises``.
        """
        secagg, run = config.secagg, config.run
        roster = load_roster(run.roster) if run.roster else None
        if roster is not None and len(roster) != run.enterprises:
            raise ConfigurationError(
                f"run.enterprises is {run.enterprises}, but {run.roster} names {len(roster)}; "
                "they must agree"
            )
        return cls(
            config.run.enterprises,
            config.run.timeout,
            config.run.retries,
            _set(secagg.threshold),
            _set(secagg.tolerated_dropouts),
            _set(secagg.tolerated_colluders),
            None if secagg.consistency == "auto" else secagg.consistency,
            _set(secagg.neighbours),
            roster=roster,
            signer=Signer(load_identity(run.identity)) if run.identity else None,
            range_advice=(
                "lower training.learning_rate, or raise secagg.value_bound "
                f"({secagg.value_bound:g}) for updates, secagg.value_bits ({secagg.value_bits}) "
                "for counts"
            ),
            waiting_advice="raise run.timeout, or lower run.enterprises",
            failure_advice=" (where the model diverged: lower training.learning_rate)",
        )

    def parameters(self, holders: int) -> SecureSumParameters:
        """Return the secure sum's parameters for a roster of so many."""
        return SecureSumParameters.choose(
            holders,
            self.threshold,
            self.tolerated_dropouts,
            self.tolerated_colluders,
            self.consistency,
            self.neighbours,
        )

    def manifest(
        self, run: bytes, epoch: int, terms: str, roster: tuple[tuple[str, bytes], ...]
    ) -> Manifest:
        """Return the manifest of an epoch."""
        return Manifest(
            run,
            epoch,
            terms,
            roster,
            self.threshold,
            self.tolerated_dropouts,
            self.tolerated_colluders,
            self.consistency,
            self.neighbours,
        )


def _set(value: int | Literal["auto"]) -> int | None:
    return None if value == "auto" else value
