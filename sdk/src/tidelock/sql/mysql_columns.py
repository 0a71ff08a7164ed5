"""Columns of MySQL and MariaDB.

Texts rely on the connection's character set being utf8mb4, which is looked at once a connection.
Values of TIMESTAMP are kept in seconds since the epoch, since what is shown depends on a zone.
"""

from __future__ import annotations

from typing import Final

from tidelock.sql.columns import (
    Form,
    Read,
    as_it_is,
    bytes_of,
    decimal,
    floating,
    identify_bytes,
    identify_decimal,
    identify_plain,
    identify_text,
    integer,
    text,
    text_of,
    written,
)
from tidelock.sql.placeholders import MARK
from tidelock.sql.values import Value, Written

_INTEGERS: Final = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint", "year"})
_TEXTS: Final = frozenset(
    {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set"}
)
_BYTES: Final = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
_WRITTEN: Final = frozenset({"date", "datetime", "time", "uuid", "inet4", "inet6"})
_GEOMETRIES: Final = frozenset(
    {
        "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring",
        "multipolygon", "geometrycollection", "geomcollection",
    }
)  # fmt: skip


def _as_text(expression: str) -> str:
    return f"CAST({expression} AS CHAR)"


def _seconds(expression: str) -> str:
    return f"CAST(UNIX_TIMESTAMP({expression}) AS CHAR)"


def _geometry(expression: str) -> str:
    return f"CONCAT(ST_SRID({expression}), ':', HEX(ST_AsWKB({expression})))"


def _bits(raw: object) -> int:
    return int(text_of(raw) or "0", 16)


def _pads(collation: str) -> bool:
    """Say whether blanks at the end make no difference."""
    return "nopad" not in collation and "_0900_" not in collation


def _identify_padded(value: Value) -> str:
    return str(value).rstrip(" ")


def _weight(collation: str) -> Read:
    """Return the expression of what a collation compares by: equal texts have equal weights."""
    pads = _pads(collation)

    def weight(expression: str) -> str:
        compared = f"TRIM(TRAILING ' ' FROM {expression})" if pads else expression
        return f"HEX(WEIGHT_STRING({compared}))"

    return weight


_FROM_SECONDS: Final = (
    "(SELECT IF(s = 0, '0000-00-00 00:00:00', FROM_UNIXTIME(s)) FROM "
    f"(SELECT CAST({MARK} AS DECIMAL(20, 6)) AS s) AS instant)"
)
_FROM_GEOMETRY: Final = (
    "(SELECT ST_GeomFromWKB(UNHEX(SUBSTRING_INDEX(g, ':', -1)), "
    f"CAST(SUBSTRING_INDEX(g, ':', 1) AS UNSIGNED)) FROM (SELECT {MARK} AS g) AS shape)"
)


def form_of(data_type: str, collation: str | None) -> Form | None:  # noqa: PLR0912 (a table of types)
    """Return how values of a type travel; None when there is no exact way."""
    if data_type in _INTEGERS:
        return Form(data_type, as_it_is, integer, identify=identify_plain)
    if data_type in _TEXTS:
        if collation is None:
            return Form(data_type, as_it_is, text_of, identify=identify_text)
        if collation.endswith("_bin"):
            identify = _identify_padded if _pads(collation) else identify_text
            return Form(data_type, as_it_is, text_of, identify=identify)
        return Form(data_type, as_it_is, text_of, key=_weight(collation))
    if data_type in _BYTES:
        return Form(data_type, as_it_is, bytes_of, identify=identify_bytes)
    if data_type in _WRITTEN:
        return Form(data_type, _as_text, written(data_type), encode=text, identify=identify_text)
    match data_type:
        case "decimal":
            # Given as text it would be compared as a double.
            return Form(data_type, _as_text, decimal, identify=identify_decimal)
        case "double":
            return Form(data_type, _as_text, floating)
        case "float":
            # Shown with six digits; as a double it is shown with all.
            return Form(data_type, lambda column: f"CAST({column} + 0E0 AS CHAR)", floating)
        case "timestamp":
            return Form(
                data_type, _seconds, written("timestamp"), write=_FROM_SECONDS, encode=text,
                identify=_identify_seconds,
            )  # fmt: skip
        case "bit":
            return Form(data_type, lambda column: f"HEX({column})", _bits, identify=identify_plain)
        case "json":
            return Form(data_type, _as_text, written("json"), encode=text)
    if data_type in _GEOMETRIES:
        return Form(data_type, _geometry, written("geometry"), write=_FROM_GEOMETRY, encode=text)
    return None


def _identify_seconds(value: Value) -> str:
    assert isinstance(value, Written)
    seconds, _, fraction = value.text.partition(".")
    fraction = fraction.rstrip("0")
    return f"timestamp:{seconds}.{fraction}" if fraction else f"timestamp:{seconds}"
