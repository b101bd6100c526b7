"""The table of customers that an enterprise trains and scores on, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from fgcif_flwr.config.crm import CrmData
from fgcif_flwr.data.crm.built import feature_reports, target_reports
from fgcif_flwr.data.crm.connection import open_connection
from fgcif_flwr.data.crm.features import build_features
from fgcif_flwr.data.crm.ready_table import read_ready_table
from fgcif_flwr.data.crm.report import ComponentReport, DataReport, Finding, FindingKind
from fgcif_flwr.data.crm.sources import Strictness, attach
from fgcif_flwr.data.schema import Schema
from fgcif_flwr.errors import (
    ConfigurationError,
    DataError,
    FgcifError,
    MissingColumnError,
    ValueOutOfKindError,
)

_ERRORS: Final[dict[FindingKind, type[DataError]]] = {
    "absent": MissingColumnError,
    "not-mapped": MissingColumnError,
    "not-a-time": ValueOutOfKindError,
    "not-a-number": ValueOutOfKindError,
    "not-yes-or-no": ValueOutOfKindError,
    "outside-mapping": ValueOutOfKindError,
    "no-class": ValueOutOfKindError,
}


_LONG_SILENCE: Final = 31
"""Days without any purchase at all before the cut-off from which on it is said."""


def customer_table(
    data: CrmData,
    schema: Schema,
    *,
    cutoff: date | None = None,
    targets: bool = True,
    scratch: Path | None = None,
) -> tuple[pa.Table, DataReport]:
    """Return one row for each customer, and what was found on the way.

    Parameters
    ----------
    data
        A ready table, whose rows keep their order; or components, from which features are built
        by the schema's ``[records]``.
    schema
    cutoff
        Another cut-off than that of ``[records]``; of a ready table there is none.
    targets
        Whether the targets' columns are wanted; without them, features may be of today.
    scratch
        Where DuckDB may put what does not fit the memory; see :func:`open_connection`.

    Returns
    -------
    table : pa.Table
        As :func:`fgcif_flwr.data.encoding.encode` takes it: the id column, each id once, then
        the columns of features and targets.
    report : DataReport
        Rows and values that were left out; without reports of features and targets.

    Raises
    ------
    DataError
        At the first fault (a subclass where there is one): the table, its column, how many rows,
        and what to do. Never a value.
    ConfigurationError
        If a source is described wrongly.
    SchemaError
        If there are components, and the schema has no ``[records]``.
    """
    with open_connection(data, scratch) as connection:
        if data.table is not None:
            _refuse_cutoff(cutoff)
            table, component = read_ready_table(connection, data, schema, targets=targets)
            _refuse_faults(component)
            return table, DataReport(table.num_rows, (component,))
        components = []
        for name, source in data.components.items():
            components.append(
                attach(
                    connection,
                    name,
                    source,
                    schema.missing,
                    schema=schema,
                    strictness=_strictness(data),
                )
            )
            _refuse_faults(components[-1])
        table = build_features(
            connection,
            schema,
            cutoff=cutoff,
            targets=targets,
            complete_until=data.complete_until,
        )
        ends = _purchases_end_early(connection, schema, cutoff, data)
        return table, DataReport(table.num_rows, tuple(components), findings=ends)


def check_data(data: CrmData, schema: Schema, *, scratch: Path | None = None) -> DataReport:
    """Find everything that is wrong with an enterprise's data at once; raises for none of it.

    Beside what :func:`customer_table` finds, the report has every fault, the shares of missing,
    clipped and unknown values of each feature, and the customers of each class.
    """
    with open_connection(data, scratch) as connection:
        table: pa.Table | None = None
        findings: list[Finding] = []
        components: list[ComponentReport] = []
        if data.table is not None:
            try:
                table, component = read_ready_table(connection, data, schema)
            except FgcifError as error:
                component = _unread("table", error)
            components.append(component)
        else:
            for name, source in data.components.items():
                try:
                    component = attach(
                        connection,
                        name,
                        source,
                        schema.missing,
                        schema=schema,
                        strictness=_strictness(data),
                    )
                except FgcifError as error:
                    component = _unread(name, error)
                components.append(component)
            table, findings = _features(connection, data, schema, components)
            if table is not None:
                findings += _purchases_end_early(connection, schema, None, data)
        report = DataReport(0, tuple(components), findings=tuple(findings))
        if table is None or table.num_rows == 0:
            return report
        return _described(report, table, data, schema)


def _features(
    connection: duckdb.DuckDBPyConnection,
    data: CrmData,
    schema: Schema,
    components: Sequence[ComponentReport],
) -> tuple[pa.Table | None, list[Finding]]:
    """Build the features, where every component could be read."""
    if any(one.columns is None for one in components):
        return None, []
    try:
        return build_features(connection, schema, complete_until=data.complete_until), []
    except FgcifError as error:
        return None, [Finding("unreadable", "fault", "", str(error))]


def _purchases_end_early(
    connection: duckdb.DuckDBPyConnection, schema: Schema, cutoff: date | None, data: CrmData
) -> tuple[Finding, ...]:
    """Say where purchases end long before the cut-off: all customers would look as if leaving."""
    day = cutoff or (schema.records.cutoff if schema.records is not None else None)
    if day is None or data.transactions is None:
        return ()
    ((last,),) = connection.execute("SELECT max(time) FROM transactions").fetchall()
    if last is None or (day - last.date()).days <= _LONG_SILENCE:
        return ()
    what = f"transactions end {(day - last.date()).days} days before the cut-off {day}"
    advice = "take an earlier cut-off, or add later lines"
    return (Finding("ends-early", "warning", "", what, advice=advice),)


def _described(report: DataReport, table: pa.Table, data: CrmData, schema: Schema) -> DataReport:
    features, of_features = feature_reports(table, schema)
    targets, of_targets = target_reports(table, schema)
    # What a fault of the table has emptied is not told again of the feature.
    told = {found.column for _, found in report.all_findings() if found.severity == "fault"}
    own = data.table.columns if data.table is not None else {}
    more = [f for f in (*of_features, *of_targets) if own.get(f.column, f.column) not in told]
    return replace(
        report,
        customers=table.num_rows,
        features=features,
        targets=targets,
        findings=(*report.findings, *more),
    )


def _strictness(data: CrmData) -> Strictness:
    return Strictness(data.duplicates, data.unreadable)


def _unread(name: str, error: FgcifError) -> ComponentReport:
    return ComponentReport(name, 0, 0, (Finding("unreadable", "fault", "", str(error)),))


def _refuse_cutoff(cutoff: date | None) -> None:
    if cutoff is not None:
        raise ConfigurationError(
            "a ready table of customers has no cut-off: it is as it was when it was made"
        )


def _refuse_faults(component: ComponentReport) -> None:
    """Raise for the first fault of a table, and say how many there are."""
    if not component.faults:
        return
    first, *others = component.faults
    more = f" ({len(others)} more of this table: see fgcif-client check)" if others else ""
    kind = _ERRORS.get(first.kind, DataError)
    raise kind(f"{component.name}: {first.sentence(component.rows)}{more}")
