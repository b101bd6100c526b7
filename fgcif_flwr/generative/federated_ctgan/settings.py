"""What decides a generative adversarial network that a federation trains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fgcif_flwr.errors import ConfigurationError


@dataclass(frozen=True)
class FederatedCtganSettings:
    """Settings of the two networks, of local training, and of the coordinator's steps.

    Attributes
    ----------
    hidden, critic_hidden : tuple of int
        Widths of the hidden layers of the generator and of the critic; 1 to 8 layers of 1 to 4096.
    noise_dim : int
        Numbers of noise that a row is made from, 1 to 1024.
    max_categories : int
        Most cells of a categorical feature, 3 to 4096.
    temperature : float
        Of the Gumbel softmax in training, above 0 to 10.
    gradient_penalty : float
        Weight of the critic's gradient penalty, above 0 to 1000.
    pac : int
        Rows that the critic judges together, 1 to 20; 1 where customers' gradients are summed.
    released_shares : float
        Weight of the distance from the released shares of every column's cells in the generator's
        loss, 0 to 1000.
    moments : float
        Weight of the distance of second moments in the generator's loss, in local training alone;
        0 to 1000.
    batch : int
        Most rows in a step, 1 to 65,536. An enterprise of fewer rows makes a step of as many as it
        has, but of 32 at least, rows being drawn with replacement.
    local_epochs : int
        Times that an enterprise goes through its rows in a round, 1 to 1000.
    critic_steps : int
        Steps of the critic before each of the generator in local training, 1 to 20.
    generator_learning_rate, critic_learning_rate : float
        Of Adam (betas 0.5 and 0.9) in local training; above 0 to 1.
    adam_epsilon : float
        Of Adam in local training: gradients below it make smaller steps; above 0 to 1.
    server_learning_rate : float
        What the mean update is multiplied by, above 0 to 10.
    server_momentum : float
        0 to below 1; 0 is plain federated averaging.
    averaging : float
        Weight of the past in the moving average of the generator's weights over rounds, 0 to below
        1. Rows are sampled from the average.
    server_critic_learning_rate, server_generator_learning_rate : float
        Of the coordinator's Adam where customers' gradients are summed; above 0 to 1.
    private_critic : {"quadratic", "network"}
        Whose gradients customers send. ``quadratic`` (:mod:`.quadratic_critic`) is far better
        wherever there is noise, or there are few rounds; its gradients have norm 1 at most, so
        that a clipping norm of 1 clips nothing.
    generator_steps : int
        The coordinator's steps of the generator in each round of customers' gradients, 1 to 1000.
        For the critic ``network`` 1 to 5 are enough.
    fakes : int
        Generated rows of each class that the gradients of the critic ``network`` compare customers
        with, 1 to 65,536.

    Raises
    ------
    ConfigurationError
        If a setting is out of its range.
    """

    hidden: tuple[int, ...] = (128, 128)
    critic_hidden: tuple[int, ...] = (128, 128)
    noise_dim: int = 32
    max_categories: int = 64
    temperature: float = 0.2
    gradient_penalty: float = 10.0
    pac: int = 1
    released_shares: float = 1.0
    moments: float = 1.0
    batch: int = 256
    local_epochs: int = 20
    critic_steps: int = 1
    generator_learning_rate: float = 2e-3
    critic_learning_rate: float = 2e-3
    adam_epsilon: float = 1e-8
    server_learning_rate: float = 1.0
    server_momentum: float = 0.0
    averaging: float = 0.8
    server_critic_learning_rate: float = 2e-3
    server_generator_learning_rate: float = 2e-3
    private_critic: Literal["quadratic", "network"] = "quadratic"
    generator_steps: int = 50
    fakes: int = 256

    def __post_init__(self) -> None:
        for name in ("hidden", "critic_hidden"):
            widths = getattr(self, name)
            if not (1 <= len(widths) <= 8 and all(1 <= width <= 4096 for width in widths)):
                raise ConfigurationError(
                    f"{name} is {list(widths)}; it must be 1 to 8 widths from 1 to 4096"
                )
        if self.private_critic not in ("quadratic", "network"):
            raise ConfigurationError(
                f"private_critic is {self.private_critic}; it must be quadratic or network"
            )
        for name, least, most in (
            ("noise_dim", 1, 1024),
            ("max_categories", 3, 4096),
            ("pac", 1, 20),
            ("batch", 1, 65_536),
            ("local_epochs", 1, 1000),
            ("critic_steps", 1, 20),
            ("generator_steps", 1, 1000),
            ("fakes", 1, 65_536),
        ):
            if not least <= getattr(self, name) <= most:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)}; it must be from {least} to {most}"
                )
        for name, bound in (
            ("temperature", 10.0),
            ("gradient_penalty", 1000.0),
            ("generator_learning_rate", 1.0),
            ("critic_learning_rate", 1.0),
            ("adam_epsilon", 1.0),
            ("server_learning_rate", 10.0),
            ("server_critic_learning_rate", 1.0),
            ("server_generator_learning_rate", 1.0),
        ):
            if not 0 < getattr(self, name) <= bound:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)}; it must be above 0 to {bound:g}"
                )
        for name in ("released_shares", "moments"):
            if not 0 <= getattr(self, name) <= 1000:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)}; it must be from 0 to 1000"
                )
        for name in ("server_momentum", "averaging"):
            if not 0 <= getattr(self, name) < 1 or math.isnan(getattr(self, name)):
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)}; it must be from 0 to below 1"
                )
