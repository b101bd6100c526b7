"""What was found in an enterprise's tables: counts and advice, never a value.

A report is the enterprise's own. It names columns and counts rows; it does not leave the house.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

Severity = Literal["fault", "warning", "note"]
"""A fault stops; a warning says that rows or values were left out; a note stops nothing."""

FindingKind = Literal[
    "unreadable",  # the table itself: absent, broken, refused
    "absent",  # a column that the configuration or the schema names
    "not-mapped",  # nothing says which column holds this
    "wrong-type",  # a column of lists, structures or bytes, or another type than its kind
    "missing-id",
    "missing-time",
    "not-a-time",
    "not-a-number",
    "not-yes-or-no",
    "outside-mapping",  # a code that `words` does not list
    "repeated-id",
    "duplicate-rows",
    "constant",
    "empty",
    "daylight-saving",  # local times that the clock showed twice, or never
    "line-length",  # CSV lines with more or fewer values than the header
    "settings",  # most values look as if a setting of the source were another
    "unlisted-code",  # a code of records that the schema's lists do not have
    "ends-early",  # records end long before the cut-off
    "out-of-bounds",
    "unseen-words",
    "no-class",  # target words that are none of the schema's classes
    "few",  # too few rows or customers of a class to learn from
]


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes
    ----------
    kind : FindingKind
    severity : Severity
    column : str
        As the enterprise's table calls it; empty where it is of no one column.
    what : str
        In words, after the count: "are not numbers"; without one, of the column: "is absent".
    count : int
        Rows (or lines) of which it holds; 0 where it is of no rows.
    advice : str
        What to do.
    """

    kind: FindingKind
    severity: Severity
    column: str
    what: str
    count: int = 0
    advice: str = ""

    def sentence(self, rows: int = 0) -> str:
        """Return it as one line; ``rows`` is the number that ``count`` is out of."""
        advice = f"; {self.advice}" if self.advice else ""
        if not self.count:
            where = f"column {self.column} " if self.column else ""
            return f"{where}{self.what}{advice}"
        where = f"column {self.column}: " if self.column else ""
        of = f" of {rows}" if rows else ""
        return f"{where}{self.count}{of} rows {self.what}{advice}"


@dataclass(frozen=True)
class ComponentReport:
    """What was found in one table.

    Attributes
    ----------
    name : str
        ``table``, or the component's name.
    rows, kept : int
        Rows read, and those of them that are used.
    findings : tuple of Finding
    columns : dict
        The project's (or the schema's) name of a column: the table's own, of those that are read.
    """

    name: str
    rows: int
    kept: int
    findings: tuple[Finding, ...] = ()
    columns: dict[str, str] | None = None

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that stop."""
        return tuple(found for found in self.findings if found.severity == "fault")


@dataclass(frozen=True)
class FeatureReport:
    """One feature of the built table, as shares of the customers in [0, 1].

    ``out_of_bounds`` is of numeric features (values that clipping changes), ``unseen`` of
    categorical ones with a vocabulary; the other is ``None``.
    """

    name: str
    kind: Literal["numeric", "categorical", "boolean"]
    missing: float
    out_of_bounds: float | None = None
    unseen: float | None = None


@dataclass(frozen=True)
class TargetReport:
    """One target of the built table.

    Attributes
    ----------
    name, kind
    missing : int or None
        Customers without it; ``None`` where there are some, but fewer than 10.
    classes : dict
        Customers of each class; ``None`` where there are some, but fewer than 10. Empty for a
        numeric target.
    """

    name: str
    kind: Literal["binary", "categorical", "numeric"]
    missing: int | None
    classes: dict[str, int | None]


@dataclass(frozen=True)
class DataReport:
    """What was found in all tables of an enterprise, and in the customers built from them."""

    customers: int
    components: tuple[ComponentReport, ...] = ()
    features: tuple[FeatureReport, ...] = ()
    targets: tuple[TargetReport, ...] = ()
    findings: tuple[Finding, ...] = ()
    """Of the customers built, and of what no component could say."""

    @property
    def ready(self) -> bool:
        """Whether nothing was found that stops."""
        return not any(found.severity == "fault" for _, found in self.all_findings())

    def all_findings(self) -> Iterator[tuple[str, Finding]]:
        """Yield every finding with its component's name (empty: the built customers)."""
        for component in self.components:
            for found in component.findings:
                yield component.name, found
        for found in self.findings:
            yield "", found

    def sentences(self, *severities: Severity, kinds: Collection[FindingKind] = ()) -> list[str]:
        """Return findings of these severities and kinds (all without any) as lines for people."""
        rows = {component.name: component.rows for component in self.components}
        return [
            (f"{name}: " if name else "") + found.sentence(rows.get(name, self.customers))
            for name, found in self.all_findings()
            if (not severities or found.severity in severities)
            and (not kinds or found.kind in kinds)
        ]
