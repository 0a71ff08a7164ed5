"""Columns of PostgreSQL: all are read and written as text, whose form no setting changes.

Where the text of a type does depend on settings (`TimeZone`, `DateStyle`, `IntervalStyle`,
`extra_float_digits`, `bytea_output`, `lc_monetary`), another expression is read. Of types that are
made of others nothing else can be read, so they are *pinned*: the settings are those of `PINNED`
while such a column is read.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from tidelock.sql.columns import (
    Form,
    Identify,
    Read,
    decimal,
    floating_bits,
    hexadecimal,
    identify_bytes,
    identify_decimal,
    identify_float,
    identify_plain,
    identify_text,
    integer,
    text,
    text_of,
    uuid,
    written,
)
from tidelock.sql.placeholders import MARK
from tidelock.sql.values import Value, Written

PINNED: Final = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
}

_INTEGERS: Final = frozenset({"int2", "int4", "int8", "oid"})
_TEXTS: Final = frozenset({"text", "varchar", "bpchar", "name", "char"})
_PLAIN: Final = frozenset(
    {
        "json", "jsonb", "xml", "inet", "cidr", "macaddr", "macaddr8", "time", "timetz",
        "tsvector", "tsquery", "pg_lsn",
    }
)  # fmt: skip
_CANONICAL: Final = frozenset({"inet", "cidr", "macaddr", "macaddr8", "time", "pg_lsn"})
"""Of these the same value is always the same text."""
_STEADY_ELEMENTS: Final = frozenset(
    {*_INTEGERS, *_TEXTS, *_PLAIN, "numeric", "bool", "uuid", "enum", "bit", "varbit"}
)


def _as_text(column: str) -> str:
    return f"{column}::text"


def _iso(column: str) -> str:
    return f"to_json({column})#>>'{{}}'"


def _iso_utc(column: str) -> str:
    return f"to_json({column} AT TIME ZONE 'UTC')#>>'{{}}'"


def _float(column: str) -> str:
    return f"encode(float8send({column}::float8),'hex')"


def _interval(column: str) -> str:
    return f"encode(interval_send({column}),'hex')"


def _interval_text(raw: Any) -> Value:
    """Write an interval by ISO 8601 from its three parts, which do not convert into each other."""
    microseconds, days, months = struct.unpack(">qii", bytes.fromhex(text_of(raw)))
    whole, fraction = divmod(abs(microseconds), 1_000_000)
    sign = "-" if microseconds < 0 else ""
    return Written("interval", f"P{months}M{days}DT{sign}{whole}.{fraction:06}S")


def _float_text(value: Value) -> str:
    shown = repr(value)
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(shown, shown)


def _truth_text(value: Value) -> str:
    return "true" if value else "false"


def form_of(  # noqa: PLR0912 (a table of types)
    base: str,
    kind: str,
    cast: str,
    *,
    element: str = "",
    is_deterministic: bool = True,
) -> Form | None:
    """Return how values of a type travel.

    `base` is the type's name beneath all domains, `kind` its `typtype` (`b` base, `e` enum, …),
    `cast` the quoted name to which text is cast, `element` the name of an array's element.
    """

    def made(
        read: Read,
        decode: Any,
        encode: Any = text,
        identify: Identify | None = None,
        inner: str = "",
        **more: Any,
    ) -> Form:
        shape = inner or f"{MARK}::text"
        return Form(
            base, read, decode, write=f"({shape})::{cast}", encode=encode, identify=identify, **more
        )

    if kind == "e":
        return made(_as_text, written("enum"), identify=identify_text)
    if base in _INTEGERS:
        return made(_as_text, integer, identify=identify_plain)
    if base in _TEXTS:
        # Nobody can tell here which texts such a collation holds to be equal.
        return made(_as_text, text_of, identify=identify_text if is_deterministic else None)
    if base == "citext":
        return made(_as_text, text_of, key=lambda column: f"lower({column}::text)")
    if base in _PLAIN:
        canonical = identify_text if base in _CANONICAL else None
        return made(_as_text, written(base), identify=canonical)
    match base:
        case "numeric":
            return made(_as_text, decimal, identify=identify_decimal)
        case "bool":
            return made(_as_text, lambda raw: text_of(raw) == "true", _truth_text, identify_plain)
        case "uuid":
            return made(_as_text, uuid, identify=identify_text)
        case "float4" | "float8":
            return made(_float, floating_bits, _float_text, identify_float)
        case "bytea":
            inner = f"decode({MARK}::text,'hex')"
            return made(_hex, _bytes, hexadecimal, identify_bytes, inner)
        case "date":
            return made(_iso, written("date"), identify=identify_text)
        case "timestamp":
            return made(_iso, written("timestamp"), identify=identify_text)
        case "timestamptz":
            inner = f"{MARK}::text::timestamp AT TIME ZONE 'UTC'"
            return made(_iso_utc, written("timestamptz"), text, identify_text, inner)
        case "interval":
            return made(_interval, _interval_text)
        case "money":
            return made(lambda c: f"{c}::numeric::text", decimal, inner=f"{MARK}::text::numeric")
        case "bit" | "varbit":
            # A cast to bit without a length would cut; an assignment from varbit does not.
            return Form(
                base, _as_text, written(base), write=f"{MARK}::text::varbit", encode=text,
                identify=identify_text,
            )  # fmt: skip
    if element:
        return made(_as_text, written("array"), is_pinned=element not in _STEADY_ELEMENTS)
    if kind in {"c", "r", "m", "b"}:
        return made(_as_text, written(base), is_pinned=True)
    return None


def _hex(column: str) -> str:
    return f"encode({column},'hex')"


def _bytes(raw: Any) -> bytes:
    return bytes.fromhex(text_of(raw))
