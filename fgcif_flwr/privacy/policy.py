"""An enterprise's policy: what it lets out, whatever the coordinator asks.

It is a TOML file of the enterprise's own. Every release needs secure aggregation; there is no
setting that turns it off.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fgcif_flwr.config.validation import refusal
from fgcif_flwr.errors import ConfigurationError, PolicyError
from fgcif_flwr.privacy.plan import PrivacyPlan
from fgcif_flwr.secagg.messages import Manifest, ReleaseRequest
from fgcif_flwr.secagg.parameters import SecureSumParameters

Unit = Literal["none", "customer", "enterprise"]


class Policy(BaseModel):
    """The rules of one enterprise. What breaks one is refused before anything is computed.

    Attributes
    ----------
    units
        Privacy units under which releases are allowed. ``none`` is exact sums, which no ledger
        covers: whoever allows it allows them beside all that is charged.
    epsilon_per_run, delta_per_run
        Most that one run may cost a customer.
    epsilon_total, delta_total
        Most that all runs together may; the ledger refuses what would pass it.
    minimum_cohort
        Fewest enterprises that may be asked for a sum that covers this one.
    minimum_honest
        Fewest honest ones that such a sum must cover against a coordinator as
        :attr:`SecureSumParameters.withstands` says; whether one that only follows the protocol is
        withstood is accepted by the participant, or not.
    minimum_threshold
        Fewest shares that open a secret; 0 leaves it to the protocol's own rule.
    minimum_colluders
        Fewest enterprises whose working with the coordinator a run must withstand; None asks for
        a tenth of the roster, at least 1. The coordinator proposes the number, and a low one
        makes every other promise worth less.
    tasks, features
        Names that are allowed; None is all. A feature is a column of the run's schema.
    maximum_release_size
        Most numbers in one release.
    maximum_local_steps
        Most steps of an optimiser that a release may ask for, counted by the run's public cap of
        rows: what is not released is still computed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    units: frozenset[Unit] = frozenset({"customer", "enterprise"})
    epsilon_per_run: float = Field(1.0, gt=0)
    delta_per_run: float = Field(1e-5, gt=0, lt=1)
    epsilon_total: float = Field(10.0, gt=0)
    delta_total: float = Field(1e-4, gt=0, lt=1)
    minimum_cohort: int = Field(3, ge=3)
    minimum_honest: int = Field(2, ge=2)
    minimum_threshold: int = Field(0, ge=0)
    minimum_colluders: int | None = Field(None, ge=0)
    tasks: frozenset[str] | None = None
    features: frozenset[str] | None = None
    maximum_release_size: int = Field(10_000_000, ge=1)
    maximum_local_steps: int = Field(100_000, ge=1)

    def check_manifest(self, manifest: Manifest) -> None:
        """Raise PolicyError naming the rule that a manifest's secure sum breaks, before a join."""
        n = len(manifest.roster)
        parameters = manifest.parameters(n)
        wanted = max(1, n // 10) if self.minimum_colluders is None else self.minimum_colluders
        if parameters.tolerated_colluders < wanted:
            raise PolicyError(
                f"policy: secagg.tolerated_colluders is {parameters.tolerated_colluders}, below "
                f"this enterprise's minimum_colluders of {wanted}"
            )
        if parameters.threshold < self.minimum_threshold:
            raise PolicyError(
                f"policy: secagg.threshold is {parameters.threshold}, below this enterprise's "
                f"minimum_threshold of {self.minimum_threshold}"
            )
        self._check_honest(parameters)

    def check_run(self, plan: PrivacyPlan | None, features: Iterable[str]) -> None:
        """Raise PolicyError naming the rule that a run's privacy or features break.

        Parameters
        ----------
        plan
            Of the run; None where no privacy unit is stated.
        features
            Columns that the run's schema reads, those of its targets too.
        """
        self._check_unit("none" if plan is None else plan.unit)
        denied = [] if self.features is None else sorted(set(features) - self.features)
        if denied:
            raise PolicyError(
                f"policy: features does not allow {', '.join(denied)}, which the run's schema reads"
            )
        if plan is None:
            return
        for planned in plan.releases:
            self._check_task(planned.task)
            self._check_size(planned.mechanism.sum.size)
        if plan.delta > self.delta_per_run:
            raise PolicyError(
                f"policy: privacy.delta is {plan.delta:g}, above this enterprise's delta_per_run "
                f"of {self.delta_per_run:g}"
            )
        if plan.epsilon > self.epsilon_per_run * (1 + 1e-9):
            raise PolicyError(
                f"policy: the run's epsilon is {plan.epsilon:.4g}, above this enterprise's "
                f"epsilon_per_run of {self.epsilon_per_run:g}"
            )

    def check_work(self, steps: int) -> None:
        """Raise PolicyError if a run asks for more training than ``maximum_local_steps``."""
        if steps > self.maximum_local_steps:
            raise PolicyError(
                f"policy: the run asks for {steps} steps of local training, above this "
                f"enterprise's maximum_local_steps of {self.maximum_local_steps}"
            )

    def check(
        self, request: ReleaseRequest, unit: str, size: int, parameters: SecureSumParameters
    ) -> None:
        """Raise PolicyError naming the rule that one release breaks.

        Parameters
        ----------
        unit
            Under which the manifest puts the release.
        size
            Numbers in it.
        """
        if len(request.cohort) < self.minimum_cohort:
            raise PolicyError(
                f"policy: a cohort of {len(request.cohort)} is below this enterprise's "
                f"minimum_cohort of {self.minimum_cohort}"
            )
        self._check_honest(parameters)
        self._check_unit(unit)
        self._check_task(request.task)
        self._check_size(size)

    def _check_honest(self, parameters: SecureSumParameters) -> None:
        if parameters.honest_in_any_sum < self.minimum_honest:
            raise PolicyError(
                f"policy: a sum could cover {parameters.honest_in_any_sum} honest enterprises, "
                f"fewer than this enterprise's minimum_honest of {self.minimum_honest}"
            )

    def _check_unit(self, unit: str) -> None:
        if unit not in self.units:
            raise PolicyError(
                f"policy: this enterprise's units do not allow privacy.unit = {unit}; allowed: "
                f"{', '.join(sorted(self.units))}"
            )

    def _check_task(self, task: str) -> None:
        if self.tasks is not None and task not in self.tasks:
            raise PolicyError(f"policy: this enterprise's tasks do not allow {task!r}")

    def _check_size(self, size: int) -> None:
        if size > self.maximum_release_size:
            raise PolicyError(
                f"policy: a release of {size} numbers is above this enterprise's "
                f"maximum_release_size of {self.maximum_release_size}"
            )


def load_policy(path: Path) -> Policy:
    """Read a policy from TOML.

    Raises
    ------
    ConfigurationError
        If the file is absent or wrong, with the rule and its bound. A policy that cannot be read
        never falls back to another.
    """
    try:
        with path.open("rb") as file:
            tree = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigurationError(f"there is no policy {path}") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from None
    try:
        return Policy.model_validate(tree)
    except ValidationError as error:
        raise refusal(path, Policy, error) from None
