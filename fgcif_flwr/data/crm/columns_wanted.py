"""Which of a table's own columns become which of the project's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from fgcif_flwr.config.crm import COMPONENT_COLUMNS, Component, TableSource
from fgcif_flwr.data.crm.conversion import Kind, Wanted
from fgcif_flwr.data.crm.reading import nearest
from fgcif_flwr.data.crm.report import Finding
from fgcif_flwr.data.features import (
    BinaryTarget,
    BooleanFeature,
    CategoricalFeature,
    CategoricalTarget,
    Feature,
    NumericFeature,
    NumericTarget,
    Target,
)
from fgcif_flwr.data.schema import Schema
from fgcif_flwr.errors import ConfigurationError

_TIMES: Final = ("time", "closed", "since", "contract_end")
_NUMBERS: Final = (
    "amount",
    "quantity",
    "price",
    "pages",
    "dwell_seconds",
    "sentiment",
    "satisfaction",
    "open_hours",
)
_BOOLEANS: Final = ("returned", "discounted", "clicked")

_SHOWN: Final = 12
_VALUE: Final = re.compile(r"^\W*\d|@|\d{4,}")
"""What a name in a header line hardly looks like, and numbers, days and addresses do."""

EVENT_KINDS: Final = ("view", "session", "campaign")


@dataclass(frozen=True)
class Choice:
    """The columns that are read of a table, and what was found in choosing them."""

    columns: tuple[Wanted, ...]
    findings: tuple[Finding, ...]

    def __contains__(self, name: str) -> bool:
        return any(column.name == name for column in self.columns)


def kind_of(name: str) -> Kind:
    """Return the kind of a component's column."""
    if name == "customer":
        return "id"
    if name in _TIMES:
        return "time"
    if name in _NUMBERS:
        return "number"
    return "boolean" if name in _BOOLEANS else "text"


def component_columns(
    component: Component, source: TableSource, missing: Sequence[str], schema: Schema | None
) -> list[Wanted]:
    """Return what is wanted of a component; of ``customers`` the schema's master data too."""
    wanted = [
        Wanted(
            name,
            source.columns.get(name, ""),
            kind_of(name),
            tuple(missing),
            meanings=EVENT_KINDS if (component, name) == ("events", "kind") else None,
            bounds=(-1.0, 1.0) if name == "sentiment" else None,
        )
        for name in COMPONENT_COLUMNS[component]
    ]
    if component != "customers":
        return wanted
    others = [name for name in source.columns if name not in COMPONENT_COLUMNS[component]]
    folded = {name.casefold() for name in COMPONENT_COLUMNS[component]}
    for name in others:
        if name.casefold() in folded:
            raise ConfigurationError(
                f"columns of {component}: {name} differs from another only in capitals; rename it"
            )
        folded.add(name.casefold())
    if schema is not None and schema.records is not None:
        others += list(schema.records.master)
    of_schema = (
        {column.name: column for column in schema_columns(schema, missing)} if schema else {}
    )
    for name in dict.fromkeys(others):
        own = source.columns.get(name, "")
        plain = Wanted(name, own, "number" if name in source.units else "text", tuple(missing))
        wanted.append(replace(of_schema.get(name, plain), own=own))
    return wanted


def schema_columns(schema: Schema, missing: Sequence[str], *, targets: bool = True) -> list[Wanted]:
    """Return the columns of a ready table: the id, features and targets, each column once."""
    found: dict[str, Wanted] = {}
    if schema.id_column is not None:
        found[schema.id_column] = Wanted(schema.id_column, "", "id", tuple(missing))
    for part in (*schema.features, *(schema.targets if targets else ())):
        if part.column is None or part.column in found:
            continue
        found[part.column] = _of_part(part, part.column, missing)
    return list(found.values())


def _of_part(part: Feature | Target, column: str, missing: Sequence[str]) -> Wanted:
    own = getattr(part, "missing", ())
    is_target = isinstance(part, NumericTarget | CategoricalTarget | BinaryTarget)
    plain = Wanted(column, "", "text", (*missing, *own), target=is_target)
    if isinstance(part, NumericFeature | NumericTarget):
        return replace(plain, kind="number")
    if isinstance(part, BooleanFeature):
        return replace(plain, kind="boolean", true=part.true, false=part.false)
    if isinstance(part, CategoricalFeature):
        return replace(plain, listed=part.vocabulary)
    if isinstance(part, CategoricalTarget):
        return replace(plain, meanings=part.classes)
    if isinstance(part, BinaryTarget) and part.negative is not None:
        return replace(plain, meanings=(part.negative, part.positive))
    return plain


def choose(
    wanted: Sequence[Wanted],
    source: TableSource,
    names: Sequence[str],
    demanded: Sequence[str] = (),
    *,
    header: bool = False,
) -> Choice:
    """Find the wanted columns among a table's own ``names``.

    A column is the one that the configuration names; without that, one of the project's own name.
    It is a fault where one that is ``demanded``, or that the configuration names, is not there, and
    where ``words`` maps to a word that the schema does not have. With ``header`` the names are a
    line of a text: findings show none of them where the line may be a customer's.

    Raises
    ------
    ConfigurationError
        For a unit of a column that is no number.
    """
    columns, findings = [], []
    tellable = names if not header or _are_names(names, wanted, source) else None
    for column in wanted:
        own = column.own or source.columns.get(column.name, "") or column.name
        if own not in names:
            if column.name in source.columns or column.name in demanded:
                findings.append(absent(own, tellable))
            continue
        unit = source.units.get(column.name)
        if unit is not None and column.kind != "number":
            raise ConfigurationError(f"units: {column.name} is no number; remove it there")
        chosen = replace(
            column,
            own=own,
            missing=(*column.missing, *source.missing),
            words=source.words.get(column.name, {}),
            unit=unit,
        )
        columns.append(chosen)
        findings += _strange_words(chosen)
    return Choice(tuple(columns), tuple(findings))


def setting_advised(choice: Choice, advice: str) -> list[Finding]:
    """Return what may be why columns are absent; see :attr:`Table.advice`."""
    if not advice or not any(found.kind == "absent" for found in choice.findings):
        return []
    return [Finding("settings", "warning", "", "the columns look wrong", advice=advice)]


def not_mapped(component: Component, choice: Choice) -> list[Finding]:
    """Return what a component lacks that it cannot do without, or hardly."""
    required = ("customer",) if component == "customers" else ("customer", "time")
    findings = [
        Finding(
            "not-mapped",
            "fault",
            "",
            f"nothing says which column holds {name}",
            advice=f"name it in columns of {component}",
        )
        for name in required
        if name not in choice
    ]
    if component != "transactions":
        return findings
    factors = [name for name in ("quantity", "price") if name in choice]
    if "amount" in choice or len(factors) == 2:
        return findings
    what = "nothing says which column holds amount, or quantity and price"
    return [*findings, Finding("not-mapped", "warning", "", what, advice="amounts are missing")]


def absent(own: str, names: Sequence[str] | None) -> Finding:
    """Return the finding that a table has no column ``own``; None: its names may be values."""
    if names is None:
        advice = "see the names in the table, and that its file has a header line"
    elif near := nearest(own, names):
        advice = f"did you mean {near}?"
    else:
        advice = f"the table has {_some(names)}"
    return Finding("absent", "fault", own, "is not in the table", advice=advice)


def _some(words: Sequence[str]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


def _are_names(names: Sequence[str], wanted: Sequence[Wanted], source: TableSource) -> bool:
    """Whether a header line holds names for sure: one that is wanted, and nothing like a value."""
    known = {column.name.casefold() for column in wanted} | {
        own.casefold() for own in (*source.columns, *source.columns.values())
    }
    return any(name.strip().casefold() in known for name in names) and not any(
        _VALUE.search(name) for name in names
    )


def _strange_words(column: Wanted) -> list[Finding]:
    """Return where ``words`` maps to what is none of the schema's words."""
    if column.kind == "boolean":
        listed: tuple[str, ...] | None = (*column.true, *column.false)
    else:
        listed = column.listed if column.meanings is None else column.meanings
    if listed is None:
        return []
    folds = column.kind == "boolean"  # compared without regard to case
    known = {"", *(word.strip() for word in column.missing), *listed}
    known |= {word.lower() for word in listed} if folds else set()
    found = []
    for word in dict.fromkeys(column.words.values()):
        if (word.lower() if folds else word) in known or word in known:
            continue
        near = nearest(word, listed)
        advice = f"did you mean `{near}`?" if near else f"the schema's words are {_some(listed)}"
        what = f"words of {column.name} maps to `{word}`"
        found.append(Finding("settings", "fault", "", what, advice=advice))
    return found


def names_strange_to(wanted: Sequence[Wanted], source: TableSource) -> list[str]:
    """Return names in ``columns``, ``words`` and ``units`` that no wanted column has."""
    named = {*source.columns, *source.words, *source.units}
    return sorted(named - {column.name for column in wanted})
