"""The enterprise's rows in the agent's memory: loaded at its start and when its people say so.

Never at a request: neither that there is a reply nor when may depend on how the data stands.
"""

from __future__ import annotations

import threading

import pyarrow as pa

from fgcif_flwr.config import DataSection, RunConfig
from fgcif_flwr.data.consortium import EnterpriseRows
from fgcif_flwr.enterprise.site import Site

Fractions = tuple[float, float]


class Customers:
    """An enterprise's customers, split as a run asks.

    Parameters
    ----------
    site : Site
    key : bytes
        The ledger's ``population_key``.

    Raises
    ------
    DataError
        If the rows are not as the schema says.
    """

    def __init__(self, site: Site, key: bytes) -> None:
        self._site = site
        self._key = key
        self._lock = threading.Lock()
        self._table: pa.Table | None = None
        self._split: EnterpriseRows | None = None
        self.load()

    @property
    def count(self) -> int:
        """How many there are."""
        return 0 if self._table is None else int(self._table.num_rows)

    def load(self) -> tuple[str, ...]:
        """Read the rows; what they are split into so far is forgotten. Return warnings."""
        table, report = self._site.customers()
        usual = DataSection()
        # Encoded here, so that what is wrong with a row is said here and to the people here.
        split = self._site.rows(table, self._key, (usual.validation_fraction, usual.test_fraction))
        with self._lock:
            self._table, self._split = table, split
        return tuple(report.sentences("fault", "warning"))

    def split(self, config: RunConfig) -> EnterpriseRows:
        """Return the rows, split by a run's fractions."""
        wanted = _fractions(config)
        with self._lock:
            table, split = self._table, self._split
        assert table is not None
        assert split is not None
        if (split.validation_fraction, split.test_fraction) == wanted:
            return split
        split = self._site.rows(table, self._key, wanted)
        with self._lock:
            if self._table is table:
                self._split = split
        return split

    def none(self, config: RunConfig | None) -> EnterpriseRows:
        """Return no rows, with a run's fractions: for what is answered without any."""
        section = DataSection() if config is None else config.data
        with self._lock:
            split = self._split
        assert split is not None
        nobody = split.train.take([])
        return EnterpriseRows(
            nobody,
            nobody,
            nobody,
            self._site.name,
            section.validation_fraction,
            section.test_fraction,
        )


def _fractions(config: RunConfig) -> Fractions:
    return config.data.validation_fraction, config.data.test_fraction
