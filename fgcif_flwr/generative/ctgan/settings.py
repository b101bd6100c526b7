"""How a CTGAN is trained."""

from __future__ import annotations

from dataclasses import dataclass

from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.generative.ctgan.conditions import TARGET_SHARE
from fgcif_flwr.generative.transform.table_transform import MOST_CATEGORIES


@dataclass(frozen=True)
class CriticPrivacy:
    """Differential privacy of one customer's row, for all that training shows of the table.

    Attributes
    ----------
    noise_multiplier : float
        Above 0: standard deviation of the noise in a sum of the critic's gradients, over the
        norm that each customer's is clipped to.
    clipping_norm : float
        Above 0, of one customer's gradient of the critic's loss.
    delta : float
        In (0, 1): of the epsilon that is stated.
    histogram_multiplier : float
        Above 0: the same for the one sum of all columns' histograms, from which the transform and
        the conditions are made.
    """

    noise_multiplier: float
    clipping_norm: float = 1.0
    delta: float = 1e-5
    histogram_multiplier: float = 10.0

    def __post_init__(self) -> None:
        for name in ("noise_multiplier", "clipping_norm", "histogram_multiplier"):
            _check(f"privacy.{name}", getattr(self, name), 0, float("inf"), open_below=True)
        _check("privacy.delta", self.delta, 0, 1, open_below=True)


@dataclass(frozen=True)
class CtganSettings:
    """Networks and training.

    Attributes
    ----------
    steps : int
        Updates of the generator, at least 1. (CTGAN's reference: 300 epochs of rows / 500 steps.)
    batch_size : int
        Rows of an update, at least ``pac`` and a multiple of it.
    critic_steps : int
        Updates of the critic to one of the generator, at least 1.
    noise_dim : int
        Numbers that a row is made from, at least 1.
    generator_hidden, critic_hidden : tuple of int
        Widths of hidden layers.
    pac : int
        Rows that the critic judges together, at least 1; with privacy it is 1. CTGAN's 10 learns
        slower here, and covers no more.
    generator_learning_rate, critic_learning_rate : float
        Adam's learning rates, above 0.
    weight_decay : float
        Of the generator, at least 0.
    dropout : float
        Share of the critic's hidden outputs that are left out, in [0, 1); none with privacy.
    gradient_penalty : float
        Weight of the gradient penalty, at least 0.
    moments : float
        Weight of the distance of second moments in the generator's loss, at least 0; not used
        with privacy, where the generator sees no row.
    temperature : float
        Of the Gumbel softmax, above 0.
    target_share : float
        Of the conditions that are on a target, in [0, 1].
    averaging : float
        Share of the averaged generator that a step keeps, in [0, 1); sampling uses the average
        of about the last 1 / (1 - averaging) steps.
    max_categories : int
        Most cells of a categorical feature, at least 3.
    check_every : int
        Steps from one look at the generator's health to the next, at least 1.
    privacy : CriticPrivacy or None
    """

    steps: int = 3000
    batch_size: int = 200
    critic_steps: int = 1
    noise_dim: int = 64
    generator_hidden: tuple[int, ...] = (128, 128)
    critic_hidden: tuple[int, ...] = (128, 128)
    pac: int = 1
    generator_learning_rate: float = 1e-3
    critic_learning_rate: float = 1e-3
    weight_decay: float = 1e-6
    dropout: float = 0.0
    gradient_penalty: float = 10.0
    moments: float = 1.0
    temperature: float = 0.2
    target_share: float = TARGET_SHARE
    averaging: float = 0.995
    max_categories: int = MOST_CATEGORIES
    check_every: int = 100
    privacy: CriticPrivacy | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "critic_steps", "noise_dim", "pac", "check_every"):
            _check(name, getattr(self, name), 1, float("inf"))
        for name in ("generator_learning_rate", "critic_learning_rate", "temperature"):
            _check(name, getattr(self, name), 0, float("inf"), open_below=True)
        for name in ("weight_decay", "gradient_penalty", "moments"):
            _check(name, getattr(self, name), 0, float("inf"))
        for name in ("dropout", "averaging"):
            _check(name, getattr(self, name), 0, 1)
        if not 0 <= self.target_share <= 1:
            raise ConfigurationError(
                f"ctgan.target_share is {self.target_share}; it must be from 0 to 1"
            )
        _check("max_categories", self.max_categories, 3, float("inf"))
        for name in ("generator_hidden", "critic_hidden"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ConfigurationError(
                    f"ctgan.{name} is {getattr(self, name)}; it must be one width or more, each "
                    "at least 1"
                )
        if self.batch_size < 1 or self.batch_size % self.pac:
            raise ConfigurationError(
                f"ctgan.batch_size is {self.batch_size}; it must be a multiple of pac, {self.pac}"
            )
        if self.privacy is not None and (self.pac != 1 or self.dropout != 0):
            raise ConfigurationError(
                "a private critic judges each row by itself and whole: set ctgan.pac to 1 and "
                f"ctgan.dropout to 0, not {self.pac} and {self.dropout}"
            )


def _check(name: str, value: float, lower: float, upper: float, open_below: bool = False) -> None:
    """Raise ConfigurationError unless lower <= value < upper (lower < value if open below)."""
    if not (lower < value if open_below else lower <= value) or not value < upper:
        raise ConfigurationError(
            f"ctgan.{name} is {value}; it must be {'above' if open_below else 'at least'} {lower} "
            f"and below {upper}"
        )
