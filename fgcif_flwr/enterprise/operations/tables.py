"""The table of customers as it is built from the enterprise's data."""

from __future__ import annotations

from datetime import date
from typing import Any, Final

import pyarrow as pa
from pydantic import BaseModel

from fgcif_flwr.data.crm.report import FindingKind
from fgcif_flwr.enterprise.agent.operation import Answer
from fgcif_flwr.enterprise.operations.form import OperationRequest
from fgcif_flwr.enterprise.site import Site

_OF_CUTOFF: Final[tuple[FindingKind, ...]] = ("ends-early",)


class FeaturesRequest(OperationRequest):
    """Asks for the table as of ``cutoff`` (None: the schema's), with targets or without."""

    cutoff: date | None = None
    targets: bool = True


def features(site: Site, request: BaseModel) -> Answer:
    """Return one row for each customer, with the schema's columns."""
    assert isinstance(request, FeaturesRequest)
    table, warnings = read_customers(site, request.cutoff, targets=request.targets)
    result: dict[str, Any] = {
        "rows": table.num_rows,
        "columns": table.column_names,
        "cutoff": cutoff_of(site, request.cutoff),
    }
    return Answer(result, table, warnings)


def read_customers(
    site: Site, cutoff: date | None, *, targets: bool
) -> tuple[pa.Table, tuple[str, ...]]:
    """Return the table and the warnings of its report, in words."""
    table, report = site.customers(cutoff=cutoff, targets=targets)
    return table, tuple(report.sentences("warning"))


def usable_customers(
    site: Site, cutoff: date | None, *, targets: bool
) -> tuple[pa.Table, tuple[str, ...]]:
    """Return the table, and one line if its report has warnings: for what is not about the data.

    What depends on the cut-off that was asked for is said in full.
    """
    table, report = site.customers(cutoff=cutoff, targets=targets)
    of_cutoff = report.sentences("warning", kinds=_OF_CUTOFF)
    others = len(report.sentences("warning")) - len(of_cutoff)
    if not others:
        return table, tuple(of_cutoff)
    count = "a warning" if others == 1 else f"{others} warnings"
    more = f"the data comes with {count}: fgcif-client describe shows what"
    return table, (*of_cutoff, more)


def cutoff_of(site: Site, asked: date | None) -> str | None:
    """Return the day as of which features are built; None where the table is ready as it is."""
    if site.config.data.table is not None:
        return None
    records = getattr(site.schema, "records", None)
    chosen = asked if asked is not None or records is None else records.cutoff
    return None if chosen is None else chosen.isoformat()
