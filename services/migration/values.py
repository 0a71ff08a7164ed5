"""Values on their way from one database to another: rules, and what makes two of them the same."""

from __future__ import annotations

import datetime
import json
import uuid
from decimal import Decimal, InvalidOperation
from hashlib import blake2b
from typing import Any, Final

from tidelock.services.data_changes import Mapped

_TRUE: Final = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE: Final = frozenset({"0", "f", "false", "n", "no", "off", ""})


class UnconvertibleError(Exception):
    """A value cannot be what the mapping makes of it."""


def converted(mapped: Mapped, value: Any) -> Any:
    """Return what a mapping makes of a value of the source.

    Raises:
        UnconvertibleError
    """
    match mapped.convert:
        case "constant":
            return mapped.value
        case "default":
            return mapped.value if value is None else value
        case _ if value is None:
            return None
        case "trim":
            return str(value).strip()
        case "upper":
            return str(value).upper()
        case "lower":
            return str(value).lower()
        case "cast":
            return _cast(mapped.type or "", value)
        case _:
            return value


def _cast(wanted: str, value: Any) -> Any:
    try:
        match wanted:
            case "integer":
                number = Decimal(str(value).strip()) if not isinstance(value, bool) else value
                if int(number) != number:
                    raise UnconvertibleError(f"{value!r} is no integer")
                return int(number)
            case "decimal":
                return Decimal(str(value).strip())
            case "boolean":
                return _truth(value)
            case "date":
                return _timestamp(value).date()
            case "timestamp":
                return _timestamp(value)
            case _:
                return value.decode() if isinstance(value, bytes) else str(value)
    except (ValueError, ArithmeticError, InvalidOperation) as error:
        raise UnconvertibleError(f"{value!r} cannot be made {wanted}") from error


def _truth(value: Any) -> bool:
    text = str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise UnconvertibleError(f"{value!r} is neither true nor false")


def _timestamp(value: Any) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        return value
    if isinstance(value, datetime.date):
        return datetime.datetime(value.year, value.month, value.day)
    return datetime.datetime.fromisoformat(str(value).strip())


def for_driver(value: Any, dialect: str) -> Any:
    """Return a value as the target's driver takes it."""
    if isinstance(value, dict | list):
        return json.dumps(value)
    if isinstance(value, memoryview):
        return bytes(value)
    if dialect == "mysql":
        if isinstance(value, uuid.UUID):
            return str(value)
        if isinstance(value, datetime.datetime) and value.tzinfo is not None:
            return value.astimezone(datetime.UTC).replace(tzinfo=None)
    elif isinstance(value, datetime.timedelta):
        # What PyMySQL reads from a column of type TIME.
        return (datetime.datetime.min + value).time()
    return value


def digest(value: Any, kind: str) -> int:
    """Return a number that is the same for the same value read from either database."""
    text = _canonical(value, kind)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _canonical(value: Any, kind: str) -> str:
    if value is None:
        return "null"
    if kind == "json" and isinstance(value, str | bytes):
        value = json.loads(value)
    match value:
        case bool() | int() | Decimal():
            return _number(Decimal(value))
        case float():
            return _number(Decimal(repr(value)))
        case datetime.datetime():
            zoned = value if value.tzinfo is None else value.astimezone(datetime.UTC)
            return "at " + zoned.replace(tzinfo=None).isoformat()
        case datetime.timedelta():
            return "time " + (datetime.datetime.min + value).time().isoformat()
        case datetime.time():
            return "time " + value.isoformat()
        case datetime.date():
            return "on " + value.isoformat()
        case bytes() | bytearray() | memoryview():
            return "bytes " + bytes(value).hex()
        case dict() | list():
            return "json " + json.dumps(value, sort_keys=True)
        case _:
            return "text " + str(value)


def _number(number: Decimal) -> str:
    if number.is_zero():
        return "number 0"
    return f"number {number.normalize():f}" if number.is_finite() else f"number {number}"
