"""One column of a table as text or as numbers, whatever type the file gave it.

CSV gives text only; Parquet keeps its types. Both must encode alike, so conversion happens here,
by the kind that the schema asks for, and counts what it cannot convert. Arrow's own messages
quote values; none of them is passed on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgcif_flwr.errors import DataError, MissingColumnError, ValueOutOfKindError

# A number as plain decimal text, or a word that means "not a number".
_NUMBER = r"^([+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[nN][aA][nN])$"


def check_table(table: pa.Table) -> None:
    """Raise :class:`DataError` for a table without rows or with two columns of one name."""
    names = table.column_names
    places = [place for place, name in enumerate(names, 1) if names.count(name) > 1]
    if places:
        # Places, not names: of a table without a header line the "names" are a customer's values.
        raise DataError(
            f"columns {', '.join(map(str, places))} of {len(names)} share a name with another; "
            "rename all but one of each, and see that the table has a header line"
        )
    if table.num_rows == 0:
        raise DataError("the table has no rows")


def check_columns(table: pa.Table, wanted: Iterable[str]) -> None:
    """Raise :class:`MissingColumnError` naming every wanted column that the table lacks."""
    have = set(table.column_names)
    absent = list(dict.fromkeys(name for name in wanted if name not in have))
    if absent:
        folded = {name.strip().casefold() for name in table.column_names}
        near = [name for name in absent if name.strip().casefold() in folded]
        hint = f" (there with other case or blanks: {', '.join(near)})" if near else ""
        raise MissingColumnError(
            f"the table lacks {len(absent)} column(s) of the schema: {', '.join(absent)}{hint}; "
            "add them, or write their names in the schema's `column`"
        )


def as_text(column: pa.ChunkedArray, missing: Iterable[str], name: str) -> pa.Array:
    """Return a column as one ``large_string`` array, (rows,), null where missing.

    White space around a value is removed first. Missing are null, NaN and the words ``missing``.

    Raises
    ------
    ValueOutOfKindError
        For a column of lists, structures or bytes.
    """
    values = _plain(column)
    kind = values.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise ValueOutOfKindError(
            f"column {name} holds {kind}, which is neither text nor a number; convert it"
        )
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, kind), values)
    if pa.types.is_null(kind):
        return pa.nulls(len(values), pa.large_string())
    text = pc.utf8_trim_whitespace(values.cast(pa.large_string()))
    words = pa.array(sorted({word.strip() for word in missing}), pa.large_string())
    is_missing = pc.is_in(text, value_set=words)
    return pc.if_else(is_missing, pa.scalar(None, pa.large_string()), text)


def as_numbers(
    column: pa.ChunkedArray, missing: Iterable[str], name: str
) -> npt.NDArray[np.float64]:
    """Return a column as numbers, float64 (rows,), NaN where missing.

    Text must be plain decimal numbers (``12``, ``-0.5``, ``1e3``), without separators or units.
    A word of ``missing`` that is a number means missing in columns of numbers too.

    Raises
    ------
    ValueOutOfKindError
        If values are no numbers or are infinite (with their count), or the column's type is
        neither text, number nor boolean.
    """
    words = list(missing)
    values = _plain(column)
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        values = _parsed(as_text(column, words, name), name)
    elif not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    ):
        raise ValueOutOfKindError(
            f"column {name} holds {kind}, which is no number; convert it, or give it another kind"
        )
    if pa.types.is_boolean(kind):
        values = values.cast(pa.uint8())
    numbers = np.array(
        pc.fill_null(values.cast(pa.float64(), safe=False), float("nan")), dtype=np.float64
    )
    infinite = int(np.isinf(numbers).sum())
    if infinite:
        raise ValueOutOfKindError(
            f"column {name}: {infinite} of {len(numbers)} rows are infinite or beyond 64-bit "
            "numbers; leave them empty if they are unknown"
        )
    stand_ins = _numbers_among(words)
    if stand_ins:
        numbers[np.isin(numbers, stand_ins)] = np.nan
    return numbers


def _plain(column: pa.ChunkedArray) -> Any:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    return column.combine_chunks()


def _parsed(text: pa.Array, name: str) -> pa.Array:
    fits = pc.match_substring_regex(text, _NUMBER)
    wrong = len(text) - text.null_count - int(pc.sum(fits).as_py() or 0)
    if wrong:
        raise ValueOutOfKindError(
            f"column {name}: {wrong} of {len(text)} rows are not numbers; write plain decimal "
            "numbers, or name the words that mean missing in the schema's `missing`"
        )
    return text.cast(pa.float64())


def _numbers_among(words: Iterable[str]) -> list[float]:
    numbers = []
    for word in words:
        try:
            number = float(word)
        except ValueError:
            continue
        if np.isfinite(number):
            numbers.append(number)
    return numbers
