"""Values of a table as the project's types: SQL expressions for DuckDB, nothing guessed.

A value that cannot be of the wanted kind becomes null and is flagged, so that it can be counted.
Names of columns never get into these expressions but quoted, words and formats never but as
escaped literals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from fgcif_flwr.config.crm import TableSource
from fgcif_flwr.data.features import FALSE_WORDS, TRUE_WORDS

Kind = Literal["id", "text", "number", "time", "boolean"]

# What Unicode calls white space, without the space that every comparison below begins with.
_WHITE: Final = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + (
    "".join(map(chr, range(0x2000, 0x200B)))
)
_SPACES: Final = " \xa0\u202f"
_ISO: Final = r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}(:?\d{2})?)?)?"
_ZONED: Final = r"(Z|:\d{2}(\.\d{1,9})?[+-]\d{2}(:?\d{2})?)$"
_FIRST_YEAR: Final = 1800  # a year before is a two-digit year or a slip, not a customer's


@dataclass(frozen=True)
class Wanted:
    """A column that the project wants of a table.

    Attributes
    ----------
    name, own : str
        The project's (or the schema's) name, and the table's own.
    kind : Kind
    missing : tuple of str
        Words that mean missing in this column, all of them.
    words : dict
        The table's own code: what it means.
    meanings : tuple of str or None
        All words that there may be in the end; another one is flagged and becomes null.
    listed : tuple of str or None
        Words that the schema has; another one stays, and counts as unseen.
    bounds : tuple of float or None
        What a number must be in, to be one of this column.
    target : bool
        Whether it is what a model learns.
    true, false : tuple of str
        Words of a boolean, compared without regard to case.
    unit : float or None
        What a number is multiplied by.
    """

    name: str
    own: str
    kind: Kind
    missing: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    meanings: tuple[str, ...] | None = None
    listed: tuple[str, ...] | None = None
    unit: float | None = None
    bounds: tuple[float, float] | None = None
    target: bool = False
    true: tuple[str, ...] = TRUE_WORDS
    false: tuple[str, ...] = FALSE_WORDS


@dataclass(frozen=True)
class RawColumn:
    """Where a table's own column is found: SQL expressions, those that there are.

    ``text`` is VARCHAR, ``number`` is DOUBLE, ``time`` a TIMESTAMP without and ``zoned`` a
    TIMESTAMP with time zone; of one value at most one of them is not null. ``text_of`` is the
    value as VARCHAR whatever it is; where that is all there is, the column is ``opaque``.
    """

    text: str | None = None
    number: str | None = None
    time: str | None = None
    zoned: str | None = None
    text_of: str = "NULL::VARCHAR"

    @property
    def opaque(self) -> bool:
        """Whether values are neither text, numbers nor times: booleans, say."""
        return not (self.text or self.number or self.time or self.zoned)


def identifier(name: str) -> str:
    """Return a name as SQL, quoted."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as SQL, quoted; DuckDB knows no escapes but the doubled quote."""
    return "'" + text.replace("'", "''") + "'"


def trimmed(text: str) -> str:
    """Return the expression without white space around it.

    Trimming many characters is slow, and nearly no value wants it: only those are trimmed whose
    first or last character is a blank, a control or not ASCII.
    """
    ends = (f"({text})[{place}]" for place in (1, -1))
    suspect = " OR ".join(f"{end} <= ' ' OR {end} >= '\x7f'" for end in ends)
    return f"CASE WHEN {suspect} THEN trim({text}, {literal(_WHITE)}) ELSE {text} END"


def known_text(text: str, missing: Iterable[str], words: Mapping[str, str]) -> str:
    """Return trimmed text as what it means: null where missing, codes as their words."""
    gone = {"", *(word.strip() for word in missing)}
    absent = _literals(gone)
    known = f"CASE WHEN {text} IN ({absent}) THEN NULL ELSE {text} END"
    if not words:
        return known
    # A code that is also a word for missing was named on purpose: it is looked up first.
    cases = " ".join(
        f"WHEN {literal(code.strip())} THEN {'NULL' if word in gone else literal(word)}"
        for code, word in words.items()
    )
    return f"CASE {text} {cases} ELSE {known} END"


def number_pattern(decimal: str, thousands: str) -> str:
    """Return the regular expression of a number that is written with these marks."""
    mark = re.escape(decimal)
    plain = rf"[+-]?(\d+({mark}\d*)?|{mark}\d+)([eE][+-]?\d+)?"
    if not thousands:
        return plain
    group = f"[{_SPACES}]" if thousands == " " else re.escape(thousands)
    return rf"{plain}|[+-]?\d{{1,3}}({group}\d{{3}})+({mark}\d*)?"


def parsed_number(text: str, source: TableSource) -> str:
    """Return text as DOUBLE; null where it is no number, or none that 64 bits hold."""
    cleaned = text
    if source.thousands:
        for mark in _SPACES if source.thousands == " " else source.thousands:
            cleaned = f"replace({cleaned}, {literal(mark)}, '')"
    if source.decimal != ".":
        cleaned = f"replace({cleaned}, {literal(source.decimal)}, '.')"
    pattern = literal(number_pattern(source.decimal, source.thousands))
    return f"CASE WHEN regexp_full_match({text}, {pattern}) THEN TRY_CAST({cleaned} AS DOUBLE) END"


def parsed_time(text: str, source: TableSource) -> str:
    """Return text as TIMESTAMP, local time of ``source.timezone``; null where it is no time."""
    zone = literal(source.timezone)
    if source.time_format:
        time = f"try_strptime({text}, {literal(source.time_format)})"
        if carries_zone(source.time_format):
            time = f"timezone({zone}, {time})"
    else:
        time = (
            f"CASE WHEN NOT regexp_full_match({text}, {literal(_ISO)}) THEN NULL "
            f"WHEN {is_zoned(text)} THEN timezone({zone}, TRY_CAST({text} AS TIMESTAMPTZ)) "
            f"ELSE TRY_CAST({text} AS TIMESTAMP) END"
        )
    return time


def carries_zone(time_format: str) -> bool:
    """Whether times of this format say their time zone."""
    return "%z" in time_format or "%Z" in time_format


def is_zoned(text: str) -> str:
    """Return the condition that a time in ISO 8601 says its time zone."""
    return f"regexp_matches({text}, {literal(_ZONED)})"


@dataclass(frozen=True)
class Steps:
    """SQL of one column in four relations, one over the other: alias: expression.

    ``raw`` is over the table, ``known`` over it (missing values gone, codes as words),
    ``parsed`` over that, and ``value``, ``fault`` and ``naive`` over the last. ``fault`` says
    whether there is a value that cannot be of the kind (of a text with ``words``: one that they do
    not list); ``naive``, of a time, whether it says no time zone.
    """

    raw: dict[str, str]
    known: dict[str, str]
    parsed: dict[str, str]
    value: str
    fault: str
    naive: str | None = None


def conversion(place: int, wanted: Wanted, raw: RawColumn, source: TableSource) -> Steps:
    """Return how a column becomes the project's; ``place`` tells its aliases from others'."""
    if wanted.kind in ("number", "time"):
        return _quantity(place, wanted, raw, source)
    s, t, v = f"s{place}", f"t{place}", f"v{place}"
    known = {t: known_text(s, wanted.missing, wanted.words)}
    value, fault = t, "false"
    if wanted.kind == "id":
        value = rf"regexp_replace({t}, '^(-?[0-9]+)\.0+$', '\1')"
    elif wanted.kind == "boolean":
        value, fault = _boolean(t, wanted), f"{t} IS NOT NULL AND {v} IS NULL"
    elif wanted.meanings is not None:
        value = f"CASE WHEN {t} IN ({_literals(wanted.meanings)}) THEN {t} END"
        fault = f"{t} IS NOT NULL AND {v} IS NULL"
    elif wanted.words:
        fault = f"coalesce({t} NOT IN ({_literals(wanted.words.values())}), false)"
    return Steps({s: trimmed(raw.text_of)}, known, {t: t, v: value}, v, fault)


def _quantity(place: int, wanted: Wanted, raw: RawColumn, source: TableSource) -> Steps:
    """A number or a time: of text, or of the type already."""
    s, t, n, v = (f"{letter}{place}" for letter in "stnv")
    other, local, there = f"o{place}", f"m{place}", f"x{place}"
    is_number = wanted.kind == "number"
    zone = literal(source.timezone)
    zoned = f"timezone({zone}, {raw.zoned})" if raw.zoned else "NULL::TIMESTAMP"
    typed = raw.number if is_number else f"coalesce({raw.time or 'NULL::TIMESTAMP'}, {zoned})"
    strange = (raw.time, raw.zoned) if is_number else (raw.number,)
    if raw.opaque:
        strange = (*strange, raw.text_of)
    others = " OR ".join(f"{one} IS NOT NULL" for one in strange if one is not None)
    text = trimmed(raw.text) if raw.text is not None else "NULL::VARCHAR"
    parsed = parsed_number(t, source) if is_number else parsed_time(t, source)
    value = f"coalesce({parsed if raw.text is not None else 'NULL'}, {n})"
    fits = f"isfinite({v})"
    if not is_number:
        fits += f" AND year({v}) >= {_FIRST_YEAR}"
    elif wanted.unit is not None:
        value = f"{value} * {wanted.unit!r}::DOUBLE"
    if wanted.bounds is not None:
        fits += f" AND {v} BETWEEN {wanted.bounds[0]!r} AND {wanted.bounds[1]!r}"
    stand_ins = _stand_ins(wanted)
    gone = [f"isnan({n})"] if is_number else []
    gone += [f"{n} IN ({', '.join(stand_ins)})"] if stand_ins else []
    kept = f"CASE WHEN {' OR '.join(gone)} THEN NULL ELSE {n} END" if gone else n
    known = known_text(s, (*wanted.missing, *(("NaN", "nan") if is_number else ())), wanted.words)
    return Steps(
        {
            s: text,
            n: typed or "NULL::DOUBLE",
            other: others or "false",
            local: f"{raw.time} IS NOT NULL" if raw.time else "false",
        },
        {t: known, n: kept, other: other, local: local},
        {
            t: t,
            v: value,
            there: f"{t} IS NOT NULL OR {n} IS NOT NULL OR {other}",
            local: local,
        },
        f"CASE WHEN {fits} THEN {v} END",
        f"{there} AND NOT coalesce({fits}, false)",
        None if is_number else f"{local} OR coalesce(NOT {is_zoned(t)}, false)",
    )


def _boolean(text: str, wanted: Wanted) -> str:
    # A number among the words: 1.0 of a column of numbers is the word 1.
    plain = rf"regexp_replace(lower({text}), '^([01])\.0+$', '\1')"
    true, false = (_literals(w.lower() for w in words) for words in (wanted.true, wanted.false))
    return f"CASE WHEN {plain} IN ({true}) THEN true WHEN {plain} IN ({false}) THEN false END"


def _stand_ins(wanted: Wanted) -> list[str]:
    """Return the words for missing that are numbers (or times), as SQL of that type."""
    found = []
    for word in wanted.missing:
        try:
            if wanted.kind == "number":
                number = float(word)
                if number - number == 0:
                    found.append(f"{number!r}::DOUBLE")
            else:
                time = datetime.fromisoformat(word.strip())
                if time.tzinfo is None:
                    found.append(f"TIMESTAMP {literal(time.isoformat(' '))}")
        except ValueError:
            continue  # a word that is none: it is compared as text
    return found


def _literals(words: Iterable[str]) -> str:
    return ", ".join(literal(word) for word in sorted(set(words)))
