"""The rows of a simulated consortium: a table divided among enterprises, encoded and split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout, encode, feature_layout
from fgcif_flwr.data.membership import (
    TEST,
    TRAIN,
    VALIDATION,
    customer_ids,
    membership,
    simulation_key,
)
from fgcif_flwr.data.partitions import partition_rows
from fgcif_flwr.data.schema import Schema, load_schema
from fgcif_flwr.data.simulator import BayesCeiling, simulate_customers
from fgcif_flwr.data.sources import read_table

SIMULATED = "simulated"
"""The value of ``data.table`` that stands for the built-in simulator."""


@dataclass(frozen=True)
class Splits:
    """One party's encoded rows by split; validation and test may be empty."""

    train: EncodedTable
    validation: EncodedTable
    test: EncodedTable


@dataclass(frozen=True)
class EnterpriseRows(Splits):
    """One enterprise's rows; the fractions are those by which its customers were split."""

    name: str
    validation_fraction: float
    test_fraction: float


@dataclass(frozen=True)
class Consortium:
    """All enterprises of a simulation; ``ceiling`` is known for simulated customers only."""

    schema: Schema
    layout: FeatureLayout
    enterprises: tuple[EnterpriseRows, ...]
    ceiling: BayesCeiling | None

    def pooled(self, split: str) -> EncodedTable:
        """Return one split of all enterprises together: ``train``, ``validation`` or ``test``."""
        return EncodedTable.concatenate([getattr(rows, split) for rows in self.enterprises])


def load_consortium(config: RunConfig) -> Consortium:
    """Read, divide, encode and split the rows that ``config`` names.

    Raises
    ------
    SchemaError, DataError, PartitionError
        As :func:`load_schema`, :func:`read_table`, :func:`encode` and :func:`partition_rows`.
    """
    schema = load_schema(config.data.schema_name)
    table, ceiling = _table(config, schema)
    seed, count = config.run.seed, config.run.enterprises
    partition = partition_rows(config.data.partition, table, schema, count, seed)
    encoded = encode(schema, table)
    fractions = config.data.validation_fraction, config.data.test_fraction
    split = membership(customer_ids(table, schema), simulation_key(seed), *fractions)
    enterprises = []
    for index, name in enumerate(partition.names):
        mine = partition.assignment == index
        train, validation, test = (
            encoded.take(np.flatnonzero(mine & (split == part)))
            for part in (TRAIN, VALIDATION, TEST)
        )
        enterprises.append(EnterpriseRows(train, validation, test, name, *fractions))
    return Consortium(schema, feature_layout(schema), tuple(enterprises), ceiling)


def _table(config: RunConfig, schema: Schema) -> tuple[pa.Table, BayesCeiling | None]:
    if config.data.table != SIMULATED:
        return read_table(config.data.table, schema), None
    return simulate_customers(config.simulator, config.run.enterprises, config.run.seed)
