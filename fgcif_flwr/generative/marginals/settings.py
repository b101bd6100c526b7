"""What decides the releases of counts and the model of them."""

from __future__ import annotations

from dataclasses import dataclass

from fgcif_flwr.errors import ConfigurationError


@dataclass(frozen=True)
class MarginalSettings:
    """Settings of the releases and of the model.

    Attributes
    ----------
    shares : three floats
        Of the privacy budget (as zero-concentrated differential privacy counts it) for each of
        :data:`~fgcif_flwr.generative.marginals.measurements.MEASUREMENTS`, in their order; above
        0, with sum 1.
    pair_bins : int
        Most bins of a column where all pairs of columns are counted, 2 to 16; fewer are used
        where noise would fill them.
    clique_bins : int
        Most bins of a column in the model and in the counts of chosen pairs, ``pair_bins`` to 64;
        fewer are used where noise would fill them.
    cliques_per_column : float
        Chosen pairs over the number of columns, above 0 to 8.
    components : int
        Latent classes of customers in the model, 1 to 256.
    steps : int
        Steps of the fit, 1 to 10,000.
    seed : int
        Of the fit's start; not negative.

    Raises
    ------
    ConfigurationError
        If a setting is out of its range.
    """

    shares: tuple[float, float, float] = (0.4, 0.4, 0.2)
    pair_bins: int = 6
    clique_bins: int = 16
    cliques_per_column: float = 1.0
    components: int = 32
    steps: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.shares) != 3 or not (min(self.shares) > 0 and abs(sum(self.shares) - 1) < 1e-9):
            raise ConfigurationError("shares must be three numbers above 0 with sum 1")
        for name, least, most in (
            ("pair_bins", 2, 16),
            ("clique_bins", self.pair_bins, 64),
            ("components", 1, 256),
            ("steps", 1, 10_000),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigurationError(f"{name} is {value}; it must be from {least} to {most}")
        if not 0 < self.cliques_per_column <= 8:
            raise ConfigurationError(
                f"cliques_per_column is {self.cliques_per_column}; it must be above 0 to 8"
            )
