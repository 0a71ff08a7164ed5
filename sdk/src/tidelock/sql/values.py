"""Values of columns as bytes, exactly: what comes out is what went in, with its type.

The bytes are MessagePack. What it has no type for is an extension, by the codes below; a code never
gets another meaning. Texts and numbers of a database that Python's types cannot hold whole (the
year 0, `infinity`, intervals with months) are kept as the database writes them: `Written`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import partial
from typing import Any, Final, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from msgspec.msgpack import Ext

from tidelock.errors import TidelockError


class ValueFormatError(TidelockError):
    """Bytes that are no value, or an object that none of the types can hold."""


class Written(msgspec.Struct, frozen=True):
    """A value as its database writes it, independent of any setting of a connection."""

    kind: str
    """What it is: `date`, `timestamptz`, `interval`, `json`, `enum`, `array`, …"""
    text: str

    def __str__(self) -> str:
        """Show it as the database does."""
        return self.text


Value: TypeAlias = (
    "bool | int | float | str | bytes | Decimal | date | time | datetime | timedelta | UUID"
    " | Written | list[Value] | None"
)

_BIG: Final = 1
_DECIMAL: Final = 2
_DATE: Final = 3
_TIME: Final = 4
_DATETIME: Final = 5
_DURATION: Final = 6
_UUID: Final = 7
_WRITTEN: Final = 8

_GREATEST: Final = 2**64 - 1
_LEAST: Final = -(2**63)

_PLAIN: Final = frozenset({type(None), bool, float, str, bytes})


def packed(value: Value) -> Any:
    """Return what MessagePack can take of a value.

    Raises: ValueFormatError: it is of a type that is not a `Value`.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is int:
        assert isinstance(value, int)
        return value if _LEAST <= value <= _GREATEST else Ext(_BIG, str(value).encode())
    if kind is list:
        assert isinstance(value, list)
        return [packed(each) for each in value]
    pack = _PACKING.get(kind)
    if pack is None:
        # A driver's own kind of a type: asyncpg has a UUID, for one.
        for base, of_base in _PACKING.items():
            if isinstance(value, base):
                return of_base(value)
        raise ValueFormatError(
            f"{value!r:.80} is of type {kind.__name__}, which undo data cannot keep exactly"
        )
    return pack(value)


def _zone(zone: Any, at: datetime | time) -> str:
    """Name a zone by its key, so that its rules are kept, else by its offset."""
    if zone is None:
        return ""
    key = getattr(zone, "key", None)
    if isinstance(key, str):
        return key
    offset = at.utcoffset()
    if offset is None:
        raise ValueFormatError(f"{at!r}: its zone has no name, and no offset at this time")
    return str(offset // timedelta(microseconds=1))


def _unzoned(name: str) -> Any:
    if not name:
        return None
    if name.lstrip("-").isdecimal():
        offset = timedelta(microseconds=int(name))
        return timezone(offset) if offset else UTC
    return ZoneInfo(name)


def _fields(*fields: object) -> bytes:
    return "|".join(map(str, fields)).encode()


def _pack_datetime(at: datetime) -> Ext:
    text = at.replace(tzinfo=None).isoformat()
    return Ext(_DATETIME, _fields(text, at.fold, _zone(at.tzinfo, at)))


def _pack_time(at: time) -> Ext:
    return Ext(_TIME, _fields(at.replace(tzinfo=None).isoformat(), at.fold, _zone(at.tzinfo, at)))


def _pack_written(value: Written) -> Ext:
    return Ext(_WRITTEN, msgspec.msgpack.encode((value.kind, value.text)))


_PACKING: Final[dict[type, Callable[[Any], Ext]]] = {
    Decimal: lambda value: Ext(_DECIMAL, str(value).encode()),
    datetime: _pack_datetime,
    date: lambda value: Ext(_DATE, value.isoformat().encode()),
    time: _pack_time,
    timedelta: lambda value: Ext(_DURATION, _fields(value.days, value.seconds, value.microseconds)),
    UUID: lambda value: Ext(_UUID, value.bytes),
    Written: _pack_written,
}


def _unpack_datetime(body: bytes) -> datetime:
    text, fold, zone = body.decode().split("|")
    return datetime.fromisoformat(text).replace(tzinfo=_unzoned(zone), fold=int(fold))


def _unpack_time(body: bytes) -> time:
    text, fold, zone = body.decode().split("|")
    return time.fromisoformat(text).replace(tzinfo=_unzoned(zone), fold=int(fold))


def _unpack_duration(body: bytes) -> timedelta:
    days, seconds, microseconds = map(int, body.split(b"|"))
    return timedelta(days, seconds, microseconds)


_UNPACKING: Final[dict[int, Callable[[bytes], Value]]] = {
    _BIG: int,
    _DECIMAL: lambda body: Decimal(body.decode()),
    _DATE: lambda body: date.fromisoformat(body.decode()),
    _TIME: _unpack_time,
    _DATETIME: _unpack_datetime,
    _DURATION: _unpack_duration,
    _UUID: lambda body: UUID(bytes=body),
    _WRITTEN: lambda body: Written(*msgspec.msgpack.decode(body, type=tuple[str, str])),
}


def _unpacked(code: int, body: memoryview) -> Value:
    unpack = _UNPACKING.get(code)
    if unpack is None:
        raise ValueFormatError(f"a value has the code {code}, which this release does not know")
    return unpack(bytes(body))


decode_tree: Final[Callable[[bytes], Any]] = partial(msgspec.msgpack.decode, ext_hook=_unpacked)
"""Decode MessagePack in which values stand, `packed`."""


def encode(value: Value) -> bytes:
    """Return a value as bytes.

    Raises: ValueFormatError
    """
    try:
        return msgspec.msgpack.encode(packed(value))
    except UnicodeEncodeError as error:
        raise ValueFormatError(f"a text is no Unicode text: {error}") from None


def decode(body: bytes) -> Value:
    """Return the value that `encode` made bytes of.

    Raises: ValueFormatError
    """
    try:
        value: Value = decode_tree(body)
    except (msgspec.DecodeError, ValueError, ArithmeticError, KeyError) as error:
        raise ValueFormatError(f"these bytes are no value: {error}") from None
    return value


def same(one: Value, other: Value) -> bool:
    """Say whether two values are the same to the last digit and type: nan is nan, 1.0 is not 1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (float, Decimal, list, datetime, time)):
        return encode(one) == encode(other)
    return one == other
