"""Which split a customer belongs to: a keyed hash of the customer's id decides.

The hash makes the splits disjoint in customers, not only in rows, and keeps a customer in its
split when the table is extracted again, re-ordered or extended. Releases about the training
rows and about the evaluation rows then concern different customers and compose in parallel.
The key keeps others from telling a known customer's split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgcif_flwr.data.columns import as_text, check_columns
from fgcif_flwr.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from fgcif_flwr.data.schema import Schema

TRAIN, VALIDATION, TEST = 0, 1, 2

KEY_BYTES = 32
_PERSON = b"fgcif-split"


def membership(
    ids: Sequence[str], key: bytes, validation_fraction: float, test_fraction: float
) -> npt.NDArray[np.uint8]:
    """Return the split of every id: ``TRAIN``, ``VALIDATION`` or ``TEST``.

    An id is hashed to ``u``, uniform in [0, 1), by keyed BLAKE2b (RFC 7693; 64 bits, big-endian):
    test where ``u < test_fraction``, validation where ``u`` is below the sum of both fractions,
    training otherwise. Equal ids fall into the same split.

    Parameters
    ----------
    ids
        Customer ids, one per row.
    key
        32 secret bytes of the enterprise; :func:`simulation_key` where nothing is secret.
    validation_fraction, test_fraction
        Expected shares of the customers, each at least 0, together below 1.

    Returns
    -------
    uint8 (rows,)

    Raises
    ------
    ConfigurationError
        If the fractions leave nothing to train on.
    ValueError
        If the key has not 32 bytes.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"the key of the splits has {KEY_BYTES} bytes, not {len(key)}")
    held_out = test_fraction + validation_fraction
    if not (test_fraction >= 0 and validation_fraction >= 0 and held_out < 1):
        raise ConfigurationError(
            "data.validation_fraction and data.test_fraction must each be at least 0 and "
            f"together below 1 (given: {validation_fraction:g} and {test_fraction:g})"
        )
    keyed = hashlib.blake2b(key=key, digest_size=8, person=_PERSON)
    digests = bytearray()
    for identity in ids:
        # A copy of the keyed state is half the price of keying anew for every id.
        state = keyed.copy()
        state.update(identity.encode())
        digests += state.digest()
    uniform = np.frombuffer(bytes(digests), dtype=">u8").astype(np.float64) / 2.0**64
    splits = np.full(len(uniform), TRAIN, dtype=np.uint8)
    splits[uniform < held_out] = VALIDATION
    splits[uniform < test_fraction] = TEST
    return splits


def simulation_key(seed: int) -> bytes:
    """Return the 32-byte key that simulated enterprises share for the run's ``seed``.

    It is no secret: a deployed enterprise draws its own key.
    """
    text = f"fgcif simulation split {seed}".encode()
    return hashlib.blake2b(text, digest_size=KEY_BYTES, person=_PERSON).digest()


def customer_ids(table: pa.Table, schema: Schema) -> list[str]:
    """Return the customer's id of every row, as text.

    Without an ``id_column`` in the schema every row is its own customer and the ids are the
    0-based row numbers. Ids are compared without surrounding blanks, and ``12346.0`` is
    ``12346``: the same customer, however the table was extracted.

    Raises
    ------
    MissingColumnError
        If the table lacks the schema's id column.
    DataError
        If rows have no id, or repeat one: privacy counts on one row per customer. Rows are
        counted, ids never shown.
    """
    if schema.id_column is None:
        return [str(row) for row in range(table.num_rows)]
    check_columns(table, [schema.id_column])
    ids = whole_number_text(as_text(table[schema.id_column], schema.missing, schema.id_column))
    repeated = len(ids) - ids.null_count - len(pc.unique(ids.drop_null()))
    for count, what in ((ids.null_count, "have no id"), (repeated, "repeat an id")):
        if count:
            raise DataError(
                f"column {schema.id_column}: {count} of {len(ids)} rows {what}; every customer "
                "wants one row with an id of its own"
            )
    texts: list[str] = ids.to_pylist()
    return texts


def whole_number_text(text: pa.Array) -> pa.Array:
    """Return the text with whole numbers rid of a trailing ``.0``."""
    return pc.replace_substring_regex(text, r"^(-?[0-9]+)\.0+$", r"\1")
