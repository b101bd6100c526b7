"""The run's configuration: one pydantic tree, three spellings.

The same names are used in TOML (``[training] learning_rate = 0.001``), on the command line
(``--set training.learning_rate=0.001``) and, flattened to dotted keys, in Flower's
``[tool.flwr.app.config]`` and ``flwr run -c``. Flower's configuration holds only strings,
integers, floats and booleans, so lists are written ``"64,32"`` there and an absent number is
the word ``"none"`` or ``"auto"``.

What a later version brings is refused with :class:`NotAvailableError`, never ignored.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from fgcif_flwr.errors import (
    ConfigurationError,
    NotAvailableError,
    PrivacyError,
    UnknownKeyError,
)

Scalar = str | int | float | bool


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[str(info.field_name)]
        kinds = (field.annotation, *get_args(field.annotation))
        if isinstance(value, bool) and bool not in kinds:
            raise ValueError("wants a number or a word, not true or false")
        return value


def _widths(value: object) -> object:
    """Accept ``"64,32"`` and ``16`` where a tuple of widths is meant."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


class RunSection(_Section):
    """What run this is. ``output`` is an absolute directory for the run's artefacts.

    ``witness`` is an absolute file in which the coordinator remembers, from run to run, what the
    enterprises' privacy ledgers showed; empty is one for this run alone.
    """

    seed: int = Field(0, ge=0, le=2**32 - 1)
    rounds: int = Field(100, ge=1, le=100_000)
    enterprises: int = Field(50, ge=3, le=10_000)
    output: str = ""
    witness: str = ""
    retries: int = Field(2, ge=0, le=20)
    timeout: float = Field(600.0, gt=0, description="seconds that one exchange may take")


class DataSection(_Section):
    """Which rows, and how they are divided among enterprises and into splits."""

    table: str = "simulated"
    schema_name: str = Field("simulated", alias="schema")
    partition: str = "column:enterprise"
    validation_fraction: float = Field(0.1, ge=0, lt=0.5)
    test_fraction: float = Field(0.2, gt=0, lt=0.5)


class SimulatorSection(_Section):
    """Dials of the built-in CRM simulator (used where ``data.table = "simulated"``)."""

    customers: int = Field(1000, ge=10, le=1_000_000, description="mean per enterprise")
    label_skew: float = Field(0.3, ge=0, le=3)
    covariate_shift: float = Field(0.3, ge=0, le=3)
    size_skew: float = Field(0.3, ge=0, le=2)
    missingness: float = Field(0.02, ge=0, le=0.5)


class ModelSection(_Section):
    """The multi-task network: widths of the shared trunk, input encodings."""

    hidden: Annotated[
        tuple[Annotated[int, Field(ge=1, le=4096)], ...],
        BeforeValidator(_widths),
        Field(min_length=1, max_length=8),
    ] = (64, 32)
    embedding_dim: int = Field(4, ge=1, le=64)
    numeric_encoding: Literal["standardised", "piecewise-linear"] = "piecewise-linear"
    numeric_bins: int = Field(8, ge=2, le=64)
    dropout: float = Field(0.0, ge=0, lt=1)


class TrainingSection(_Section):
    """Local training and the server's step; defaults are Table 2 of the paper."""

    algorithm: Literal["fedavg", "fedsgd"] = "fedavg"
    local_epochs: int = Field(2, ge=1, le=1000)
    batch_size: int = Field(32, ge=1, le=1_000_000)
    learning_rate: float = Field(0.001, gt=0, le=10)
    weight_decay: float = Field(0.0, ge=0, le=10)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    class_weighting: Literal["none", "balanced"] = "none"
    proximal_mu: float = Field(0.0, ge=0, le=1000)
    server_optimizer: Literal["none", "momentum", "adam"] = "none"
    server_learning_rate: Annotated[float, Field(gt=0, le=100)] | Literal["auto"] = 1.0
    server_momentum: float = Field(0.9, ge=0, lt=1)
    average_last: float = Field(0.0, ge=0, le=1, description="share of the rounds, from the end")


class SecAggSection(_Section):
    """The secure sum. ``value_bits`` is the signed width of one enterprise's word.

    With ``rotation`` the update is rotated (randomised Hadamard), so that few bits suffice, and
    ``value_bound`` bounds its L2 norm.
    """

    value_bits: int = Field(22, ge=8, le=32)
    value_bound: float = Field(4.0, gt=0, le=1e6, description="bound of |weighted update|")
    threshold: Annotated[int, Field(ge=2)] | Literal["auto"] = "auto"
    tolerated_dropouts: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    tolerated_colluders: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    consistency: bool | Literal["auto"] = "auto"
    neighbours: Annotated[int, Field(ge=2)] | Literal["auto"] = "auto"
    rotation: bool = False


class PrivacySection(_Section):
    """The privacy unit, its guarantee, and what the noise is computed from.

    ``noise_multiplier`` and the two others are the standard deviation of the noise on a sum over
    the bound of one contribution; ``auto`` derives them from ``epsilon`` and ``delta``.
    """

    unit: Literal["none", "customer", "enterprise"] = "none"
    noise: Literal["distributed", "local"] = "distributed"
    epsilon: Annotated[float, Field(gt=0, le=1000)] | Literal["none"] = "none"
    delta: Annotated[float, Field(gt=0, lt=1)] | Literal["none"] = "none"
    clipping: Literal["fixed", "automatic", "adaptive"] = "fixed"
    clipping_norm: float = Field(1.0, gt=0, le=1e6, description="of a gradient or an update")
    target_unclipped: float = Field(0.5, gt=0, lt=1, description="where clipping is adaptive")
    rows_per_enterprise: int = Field(4096, ge=1, le=10_000_000, description="a public cap")
    sampling_rate: float = Field(1.0, gt=0, le=1)
    spare_slots: Annotated[int, Field(ge=0, le=10_000)] | Literal["auto"] = "auto"
    statistics_share: float = Field(0.03, gt=0, lt=1, description="of the training rows' budget")
    noise_multiplier: Annotated[float, Field(gt=0, le=1e6)] | Literal["auto"] = "auto"
    statistics_multiplier: Annotated[float, Field(gt=0, le=1e6)] | Literal["auto"] = "auto"
    evaluation_multiplier: Annotated[float, Field(gt=0, le=1e6)] | Literal["auto"] = "auto"


class GeneratorSection(_Section):
    """The generator of rows (kinds other than none come with a later version)."""

    kind: Literal["none", "ctgan", "federated-ctgan", "marginals"] = "none"
    use: Literal["augment", "warm-start"] = "augment"
    ratio: float = Field(1.0, gt=0, le=100)


class EvaluationSection(_Section):
    """How often validation rows are counted: every so many rounds; 0 is the last one only.

    ``auto`` is every round without a privacy unit, and the last one only with one.
    """

    every: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"


class RunConfig(_Section):
    """Everything that decides a run, but for keys, masks and noise."""

    run: RunSection = RunSection()
    data: DataSection = DataSection()
    simulator: SimulatorSection = SimulatorSection()
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    secagg: SecAggSection = SecAggSection()
    privacy: PrivacySection = PrivacySection()
    generator: GeneratorSection = GeneratorSection()
    evaluation: EvaluationSection = EvaluationSection()


def known_keys() -> tuple[str, ...]:
    """All dotted keys, in the order of the sections."""
    return tuple(flatten(RunConfig()))


def flatten(config: RunConfig) -> dict[str, Scalar]:
    """Return ``config`` as dotted keys with values that Flower's configuration can hold."""
    flat: dict[str, Scalar] = {}
    for section, values in config.model_dump(by_alias=True).items():
        for key, value in values.items():
            flat[f"{section}.{key}"] = (
                ",".join(str(item) for item in value) if isinstance(value, tuple) else value
            )
    return flat


def unflatten(flat: Mapping[str, object]) -> RunConfig:
    """Build a configuration from dotted keys; keys left out keep their default.

    Raises
    ------
    UnknownKeyError
        For a key that does not exist; the message names the nearest known one.
    ConfigurationError
        For a value outside its kind or bounds, naming key and bound.
    NotAvailableError
        For a setting that this version does not carry out.
    """
    known = known_keys()
    tree: dict[str, dict[str, object]] = {}
    for key, value in flat.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UnknownKeyError(f"unknown configuration key {key}{hint}")
        section, name = key.split(".", 1)
        tree.setdefault(section, {})[name] = value
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigurationError(_first_error(error)) from None
    _refuse_what_is_not_there(config)
    return config


def read_toml(path: Path) -> dict[str, object]:
    """Read a TOML file as dotted keys."""
    try:
        with path.open("rb") as file:
            tree = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigurationError(f"there is no configuration file {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from None
    flat: dict[str, object] = {}
    for section, values in tree.items():
        if isinstance(values, dict):
            flat.update({f"{section}.{key}": value for key, value in values.items()})
        else:
            flat[section] = values
    return flat


def parse_assignments(assignments: Iterable[str]) -> dict[str, object]:
    """Parse ``section.key=value`` strings; values keep their text where TOML cannot read them."""
    flat: dict[str, object] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigurationError(f"--set wants section.key=value, not {text!r}")
        flat[key.strip()] = _toml_value(value.strip())
    return flat


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    # Unions add the branch's name to the location; only the section and the key are ours.
    key = ".".join(str(part) for part in first["loc"][:2])
    given = first.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{key}: {first['msg'].lower()}{shown}"


def _refuse_what_is_not_there(config: RunConfig) -> None:
    default = RunConfig()
    if config.generator.kind != "none":
        raise NotAvailableError(
            f"generator.kind = {config.generator.kind} is not there yet in this version"
        )
    if config.training.proximal_mu > 0 and config.training.algorithm == "fedsgd":
        raise ConfigurationError("training.proximal_mu has no effect with fedsgd; remove it")
    # A privacy or generator setting without its unit or kind would have no effect: say so.
    if config.generator != default.generator:
        raise ConfigurationError(
            "generator.use and generator.ratio have no effect while generator.kind = none; "
            "remove them"
        )
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
