"""The sections of a run's configuration: names, kinds, bounds and defaults."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)


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
    enterprises' privacy ledgers showed; empty is one for this run alone. ``roster`` and
    ``identity`` are absolute files: of the enterprises' names and keys, as agreed out of band, and
    of the coordinator's private key, by which it signs its requests; simulations have none.
    """

    seed: int = Field(0, ge=0, le=2**32 - 1)
    rounds: int = Field(100, ge=1, le=100_000)
    enterprises: int = Field(50, ge=3, le=10_000)
    output: str = ""
    witness: str = ""
    roster: str = ""
    identity: str = ""
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

    ``noise_multiplier`` and the three others are the standard deviation of the noise on a sum over
    the bound of one contribution; ``auto`` derives them from ``epsilon`` and ``delta``. That of the
    generator is what one release would have that cost as much as all of the generator's.
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
    generator_multiplier: Annotated[float, Field(gt=0, le=1e6)] | Literal["auto"] = "auto"
    evaluation_multiplier: Annotated[float, Field(gt=0, le=1e6)] | Literal["auto"] = "auto"


class GeneratorSection(_Section):
    """The generator of rows, and what its rows are used for.

    ``ratio`` and ``balance`` are for ``augment``, ``rows`` and ``epochs`` for ``warm-start``;
    ``rounds``, ``local_epochs`` and ``clipping_norm`` are a federated CTGAN's, ``steps`` those of
    an enterprise's own; ``local_epochs`` and ``batch_size`` are for training on an enterprise's
    rows, which none does where customers' gradients are summed (``privacy.unit = customer``).
    ``share`` is that of the training rows' privacy budget.
    """

    kind: Literal["none", "ctgan", "federated-ctgan", "marginals"] = "none"
    use: Literal["augment", "warm-start"] = "augment"
    ratio: float = Field(1.0, gt=0, le=100, description="synthetic rows for each own row")
    balance: Literal["none", "classes"] = "none"
    rows: int = Field(20_000, ge=100, le=10_000_000, description="of a warm start")
    epochs: int = Field(5, ge=1, le=1000, description="of a warm start")
    share: float = Field(0.7, gt=0, lt=1)
    rounds: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"] = "auto"
    local_epochs: int = Field(20, ge=1, le=1000)
    steps: int = Field(300, ge=1, le=1_000_000)
    batch_size: int = Field(200, ge=2, le=65_536)
    hidden: Annotated[
        tuple[Annotated[int, Field(ge=1, le=1024)], ...],
        BeforeValidator(_widths),
        Field(min_length=1, max_length=4),
    ] = (128, 128)
    clipping_norm: float = Field(1.0, gt=0, le=1e6, description="of a critic's gradient")


class SegmentationSection(_Section):
    """Segments that the federation learns before it trains: the classes of a learned target.

    ``target`` is the schema's target with ``source = "learned"``; empty where it has none.
    ``features`` are numeric features of the schema, a ``-`` before one of which less is more
    value; none named are those of the rule in docs/segmentation.md. ``share`` is that of the
    training rows' privacy budget, ``multiplier`` what one release would have that cost as much as
    all of the segmentation's; ``auto`` derives it from the share.
    """

    target: str = Field("", max_length=200)
    features: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=201)], ...],
        BeforeValidator(_widths),
        Field(max_length=10),
    ] = ()
    iterations: Annotated[int, Field(ge=1, le=100)] | Literal["auto"] = "auto"
    share: float = Field(0.1, gt=0, lt=1)
    multiplier: Annotated[float, Field(gt=0, le=1e6)] | Literal["auto"] = "auto"


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
    segmentation: SegmentationSection = SegmentationSection()
    evaluation: EvaluationSection = EvaluationSection()
