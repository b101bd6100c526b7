"""The methods that ``fgcif compare`` knows by name: settings over those that all have in common."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fgcif_flwr.config import parse_assignments
from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.reporting.comparison import ALONE, CENTRALIZED, LOGISTIC

Settings = Mapping[str, object]

BASELINES = (CENTRALIZED, LOGISTIC, ALONE)
"""What no federation runs; it needs rows of all enterprises in one place, or of one only."""

_FEDAVG: Settings = {"training.algorithm": "fedavg"}

# docs/private.toml but for its rounds, which a comparison gives to all methods alike.
_PRIVATE: Settings = {
    "training.algorithm": "fedsgd",
    "training.server_optimizer": "none",
    "training.server_learning_rate": "auto",
    "training.average_last": 0.33,
    "model.hidden": "16",
    "model.numeric_encoding": "piecewise-linear",
    "model.numeric_bins": 4,
    "privacy.unit": "customer",
    "privacy.noise": "distributed",
    "privacy.epsilon": 1.0,
    "privacy.delta": 1e-5,
    "privacy.clipping": "fixed",
    "privacy.clipping_norm": 1.5,
}

METHODS: Mapping[str, Settings] = {
    "fedavg": _FEDAVG,
    "fedavg-balanced": {**_FEDAVG, "training.class_weighting": "balanced"},
    "fedprox": {**_FEDAVG, "training.proximal_mu": 0.1},
    # Chosen on validation rows for 20 rounds; momentum as good on Telco fails on other tables.
    "fedsgd": {
        "training.algorithm": "fedsgd",
        "training.server_optimizer": "adam",
        "training.server_learning_rate": 0.05,
    },
    "fedavg+marginals": {**_FEDAVG, "generator.kind": "marginals"},
    "fedavg+ctgan": {**_FEDAVG, "generator.kind": "ctgan"},
    "fedavg+federated-ctgan": {**_FEDAVG, "generator.kind": "federated-ctgan"},
    "private": _PRIVATE,
    "private+marginals": {
        **_PRIVATE,
        "generator.kind": "marginals",
        "generator.use": "warm-start",
    },
    **{name: {} for name in BASELINES},
}

DEFAULT = ("fedavg", "fedavg-balanced", "fedprox", "fedsgd", *BASELINES)


@dataclass(frozen=True)
class Method:
    """A method of a comparison.

    Attributes
    ----------
    label : str
        As it was asked for.
    name : str
        A key of :data:`METHODS`.
    assigned : mapping
        Dotted keys that were set for this method alone.
    """

    label: str
    name: str
    assigned: Settings

    @property
    def baseline(self) -> bool:
        """Whether it is one of :data:`BASELINES`."""
        return self.name in BASELINES

    @property
    def settings(self) -> dict[str, object]:
        """What the method sets, by its name and by what was assigned to it."""
        return {**METHODS[self.name], **self.assigned}

    def over(self, common: Settings) -> dict[str, object]:
        """Return the common settings with the method's own.

        Raises
        ------
        ConfigurationError
            Where a common setting contradicts what the method's name stands for.
        """
        for key, value in METHODS[self.name].items():
            other = common.get(key, value)
            if key not in self.assigned and value != other and str(value) != str(other):
                raise ConfigurationError(
                    f"{key} is {other} for all methods, but {self.name} stands for {value}; remove "
                    f'it, or set it for one method alone: --method "{self.name} {key}={other}"'
                )
        return {**common, **self.settings}


def methods_of(asked: Sequence[str]) -> tuple[Method, ...]:
    """Return the methods that were asked for, in their order: ``NAME [section.key=value ...]``.

    Raises
    ------
    ConfigurationError
        For a name that is not known, an assignment that is none, and a method asked for twice.
    """
    methods: dict[str, Method] = {}
    for text in asked:
        name, *assignments = text.split() or [""]
        if name not in METHODS:
            near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(METHODS)}"
            raise ConfigurationError(f"unknown method {name!r}; {hint}")
        label = " ".join([name, *assignments])
        if label in methods:
            raise ConfigurationError(f"method {label} is asked for twice")
        methods[label] = Method(label, name, parse_assignments(assignments))
    return tuple(methods.values())


def seeds_of(text: str) -> tuple[int, ...]:
    """Return the seeds that ``5`` (the first five, from 0) or ``3,4,8`` (those) stand for.

    Raises
    ------
    ConfigurationError
        If there is none, one is no whole number from 0, or one is there twice.
    """
    parts = [part.strip() for part in text.split(",")]
    listed = len(parts) > 1
    if listed and not parts[-1]:  # "3," is the one seed 3
        parts.pop()
    if not parts or not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigurationError(f"--seeds wants a number (5) or a list (3,4,8), not {text!r}")
    seeds = tuple(int(part) for part in parts) if listed else tuple(range(int(parts[0])))
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigurationError("--seeds wants at least one seed, and none of them twice")
    return seeds
