"""The privacy statement that every artefact carries."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fgcif_flwr.privacy.plan import PrivacyPlan
from fgcif_flwr.secagg.parameters import SecureSumParameters

ACCOUNTANT = "RDP at fixed orders, converted by dp-accounting"


@dataclass(frozen=True)
class PrivacyStatement:
    """What is promised about one customer or enterprise, or that nothing is.

    Attributes
    ----------
    unit : str
        ``none``, ``customer`` or ``enterprise``.
    noise : str or None
        Who draws it, ``distributed`` or ``local``; None without a unit, as all that follows.
    epsilon, delta : float or None
        The guarantee, over everything that the run releases.
    adjacency : str or None
        Which two tables it cannot tell apart.
    mechanism, accountant : str or None
    trust : str or None
        Against whom it holds.
    """

    unit: str = "none"
    noise: str | None = None
    epsilon: float | None = None
    delta: float | None = None
    adjacency: str | None = None
    mechanism: str | None = None
    accountant: str | None = None
    trust: str | None = None

    @classmethod
    def of(cls, plan: PrivacyPlan | None, parameters: SecureSumParameters) -> PrivacyStatement:
        """Return the statement of a run: ``plan`` is None where no unit is stated.

        ``parameters`` are those of the roster's secure sum.
        """
        if plan is None:
            return cls()
        sampled = any(planned.mechanism.sampling_rate < 1 for planned in plan.releases)
        return cls(
            unit=plan.unit,
            noise=plan.noise,
            epsilon=plan.epsilon,
            delta=plan.delta,
            adjacency=f"one {plan.unit}'s contribution replaced by zero",
            mechanism="Skellam noise on sums of clipped contributions, as integers"
            + (", Poisson-sampled" if sampled else ""),
            accountant=ACCOUNTANT,
            trust=_trust(plan, parameters),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and the words, for a JSON file."""
        return {**asdict(self), "statement": self.in_words()}

    def in_words(self) -> str:
        """Return a paragraph for people."""
        if self.unit == "none":
            return (
                "No differential privacy is claimed: secure aggregation hides each enterprise's "
                "numbers, but the sums and the model are exact."
            )
        others = {
            "customer": (
                " A customer of k of the enterprises is covered as a group, at k times the epsilon "
                "and k exp((k - 1) epsilon) times the delta."
            ),
            "enterprise": " That an enterprise takes part can be seen.",
        }[self.unit]
        return (
            f"Differential privacy for each {self.unit}: epsilon = {self.epsilon:.4g} at delta = "
            f"{self.delta:.2g} over all that the run releases ({self.adjacency}; {self.mechanism}; "
            f"accountant: {self.accountant}). It holds against {self.trust}.{others} Choosing "
            "settings by looking at the same rows is not covered."
        )


def _trust(plan: PrivacyPlan, parameters: SecureSumParameters) -> str:
    if plan.noise == "local":
        return "everybody outside the enterprise: each adds the whole noise itself"
    exchange = "with" if parameters.consistency else "without"
    return (
        f"readers of the model and a {parameters.withstands} in league with up to "
        f"{parameters.tolerated_colluders} enterprises, {parameters.tolerated_dropouts} of "
        f"{parameters.holders} lost ({exchange} the consistency exchange): the noise is complete "
        f"in any sum over {plan.honest} honest enterprises"
    )
