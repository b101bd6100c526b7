"""Whether the parts of a configuration fit each other.

A setting without effect is refused, never ignored; so is what would void a guarantee that the same
configuration states. Enterprises check the manifest's configuration by the same functions.
"""

from __future__ import annotations

from fgcif_flwr.config.sections import GeneratorSection, RunConfig
from fgcif_flwr.errors import ConfigurationError, PrivacyError


def check_together(config: RunConfig) -> None:
    """Raise ConfigurationError or PrivacyError, naming the key and what to do.

    Parameters
    ----------
    config : RunConfig
        Each value within its own bounds.
    """
    default = RunConfig()
    if config.training.proximal_mu > 0 and config.training.algorithm == "fedsgd":
        raise ConfigurationError("training.proximal_mu has no effect with fedsgd; remove it")
    # A privacy or generator setting without its unit or kind would have no effect: say so.
    if config.generator.kind != "none":
        _check_generator(config)
    elif config.generator != default.generator:
        raise ConfigurationError(
            "the settings of generator have no effect while generator.kind = none; remove them, or "
            "set generator.kind to marginals, federated-ctgan or ctgan"
        )
    _check_segmentation(config)
    if config.privacy.unit == "none":
        if config.training.server_learning_rate == "auto":
            raise ConfigurationError(
                "training.server_learning_rate = auto goes by the noise of a privacy unit; set a "
                "number, such as 1.0"
            )
        if config.privacy != default.privacy:
            raise ConfigurationError(
                "the settings of privacy have no effect while privacy.unit = none; remove them, or "
                "set privacy.unit to customer or enterprise"
            )
    else:
        _check_privacy(config)


def _check_generator(config: RunConfig) -> None:
    """Raise where the generator does not go with its use, or would void a stated guarantee."""
    generator, default, privacy = config.generator, GeneratorSection(), config.privacy
    if generator.kind == "ctgan" and generator.use == "warm-start":
        raise ConfigurationError(
            "generator.use = warm-start wants a generator that the coordinator has; a ctgan never "
            "leaves its enterprise. Use marginals or federated-ctgan, or augment"
        )
    if generator.kind == "ctgan" and privacy.unit == "customer":
        raise PrivacyError(
            "generator.kind = ctgan learns from customers' rows without noise: what is trained on "
            "its rows would not have the guarantee of privacy.unit = customer; use marginals or "
            "federated-ctgan, whose every release is charged"
        )
    idle: tuple[str, ...] = {
        "augment": ("rows", "epochs"),
        "warm-start": ("ratio", "balance"),
    }[generator.use]
    if generator.kind == "marginals":
        idle += ("rounds", "local_epochs", "steps", "batch_size", "hidden", "clipping_norm")
    if generator.kind == "ctgan":
        idle += ("rounds", "local_epochs", "clipping_norm")
    if generator.kind == "federated-ctgan":
        idle += ("steps",)
        if privacy.unit == "customer":  # one sum of customers' gradients: nobody trains locally
            idle += ("local_epochs", "batch_size")
    if privacy.unit == "none":
        idle += ("clipping_norm",)
    if privacy.unit == "none" or generator.kind == "ctgan":
        idle += ("share",)
    for name in idle:
        if getattr(generator, name) != getattr(default, name):
            raise ConfigurationError(
                f"generator.{name} has no effect with generator.kind = {generator.kind}, "
                f"generator.use = {generator.use} and privacy.unit = {privacy.unit}; remove it"
            )


def _check_segmentation(config: RunConfig) -> None:
    """Raise ConfigurationError for settings of a segmentation that have no effect."""
    segmentation, default = config.segmentation, RunConfig().segmentation
    if not segmentation.target and segmentation != default:
        raise ConfigurationError(
            "the settings of segmentation have no effect without segmentation.target; remove them, "
            "or name the schema's learned target"
        )
    if config.privacy.unit == "none":
        for name in ("share", "multiplier"):
            if getattr(segmentation, name) != getattr(default, name):
                raise ConfigurationError(
                    f"segmentation.{name} has no effect with privacy.unit = none; remove it"
                )
    names = [name.removeprefix("-") for name in segmentation.features]
    if len(set(names)) < len(names):
        raise ConfigurationError("segmentation.features names a feature twice")


def _check_privacy(config: RunConfig) -> None:
    """Raise ConfigurationError where the parts of a private run do not fit each other."""
    privacy, training = config.privacy, config.training
    if privacy.epsilon == "none" and privacy.noise_multiplier == "auto":
        raise ConfigurationError(
            "privacy.epsilon: a privacy unit wants an epsilon, or privacy.noise_multiplier to "
            "compute it from"
        )
    if privacy.delta == "none":
        raise ConfigurationError("privacy.delta: a privacy unit wants a delta, such as 1e-5")
    if privacy.delta >= 1 / privacy.rows_per_enterprise and privacy.unit == "customer":
        raise PrivacyError(
            f"privacy.delta {privacy.delta:g} would allow one customer in {1 / privacy.delta:.0f} "
            f"to be shown; it wants less than 1 / privacy.rows_per_enterprise = "
            f"{1 / privacy.rows_per_enterprise:g}"
        )
    if privacy.unit == "enterprise":
        if privacy.noise == "local":
            raise PrivacyError(
                "privacy.noise = local does not go with privacy.unit = enterprise: each update "
                "would drown; use privacy.noise = distributed"
            )
        if privacy.delta >= 1 / config.run.enterprises:
            raise PrivacyError(
                f"privacy.delta {privacy.delta:g} wants less than 1 / run.enterprises = "
                f"{1 / config.run.enterprises:g}"
            )
    elif privacy.noise == "distributed" and training.algorithm == "fedavg":
        raise PrivacyError(
            "training.algorithm = fedavg does not go with privacy.noise = distributed for "
            "customers: after local steps an update is no sum over customers, so that no shared "
            "noise covers one of them; use fedsgd, or privacy.noise = local"
        )
    elif privacy.noise == "local" and training.algorithm == "fedsgd":
        raise PrivacyError(
            "training.algorithm = fedsgd does not go with privacy.noise = local: each round would "
            "carry every enterprise's whole noise; use privacy.noise = distributed, or fedavg"
        )
    if privacy.clipping == "adaptive" and privacy.noise == "local":
        raise PrivacyError(
            "privacy.clipping = adaptive does not go with privacy.noise = local; use fixed or "
            "automatic"
        )
    if privacy.unit == "enterprise" and privacy.clipping == "automatic":
        raise PrivacyError(
            "privacy.clipping = automatic is for gradients of customers; for an enterprise's "
            "update use fixed or adaptive"
        )
    if privacy.unit == "enterprise" and training.class_weighting != "none":
        raise ConfigurationError(
            "training.class_weighting does not go with privacy.unit = enterprise: no classes are "
            "counted under it; set it to none"
        )
    if privacy.unit == "enterprise" and privacy.sampling_rate < 1:
        raise PrivacyError(
            "privacy.sampling_rate below 1 is for customers: enterprises that take part are seen"
        )
    if training.server_learning_rate == "auto" and (
        privacy.unit != "customer" or privacy.noise != "distributed" or privacy.clipping != "fixed"
    ):
        raise ConfigurationError(
            "training.server_learning_rate = auto is for gradients of customers with fixed "
            "clipping and shared noise; set a number, such as 1.0"
        )
    if privacy.unit == "customer" and config.model.dropout > 0:
        raise ConfigurationError(
            "model.dropout has no effect on gradients of single customers; set it to 0"
        )
