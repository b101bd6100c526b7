"""The privacy statement that every artefact carries."""

from __future__ import annotations

from dataclasses import dataclass

from fgcif_flwr.config import PrivacySection


@dataclass(frozen=True)
class PrivacyStatement:
    """What is promised about one customer or enterprise, or that nothing is.

    Attributes
    ----------
    unit : str
        ``none``, ``customer`` or ``enterprise``.
    noise : str or None
        Who draws it; None without a unit.
    epsilon, delta : float or None
        The guarantee; None without a unit.
    """

    unit: str = "none"
    noise: str | None = None
    epsilon: float | None = None
    delta: float | None = None

    @classmethod
    def of(cls, section: PrivacySection) -> PrivacyStatement:
        """Return the statement of a configured run."""
        if section.unit == "none":
            return cls()
        raise AssertionError("units other than none are refused when a configuration is read")

    def in_words(self) -> str:
        """Return one sentence for people."""
        if self.unit != "none":
            raise ValueError(f"there are no words for privacy.unit = {self.unit} in this version")
        return (
            "No differential privacy is claimed: secure aggregation hides each enterprise's "
            "numbers, but the sums and the model are exact."
        )
