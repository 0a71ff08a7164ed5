"""How a column's values come out of a database whole, go back in, and identify rows.

Drivers disagree about types, and applications change how drivers convert them. So a column is read
through an expression whose result every driver returns alike, mostly text; and written through one
that makes of such text what was there.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from tidelock.sql.placeholders import MARK
from tidelock.sql.values import Value, Written

KeyPart = int | str | bool | None

GREATEST_KEY_TEXT: Final = 512
"""Characters of a part of a key that the cluster takes; what is longer is hashed."""

Read = Callable[[str], str]
Decode = Callable[[Any], Value]
Encode = Callable[[Value], Any]
Identify = Callable[[Value], KeyPart]


def as_it_is(expression: str) -> str:
    """Read a column by its name alone."""
    return expression


def unchanged(value: Any) -> Any:
    """Take a value as it is."""
    return value


class Form:
    """How values of one column travel."""

    __slots__ = ("_decode", "_encode", "_identify", "_key", "is_pinned", "kind", "read", "write")

    def __init__(
        self,
        kind: str,
        read: Read = as_it_is,
        decode: Decode = unchanged,
        *,
        write: str = MARK,
        encode: Encode = unchanged,
        identify: Identify | None = None,
        key: Read | None = None,
        is_pinned: bool = False,
    ) -> None:
        self.kind = kind
        """What it is, for people."""
        self.read = read
        """The expression that reads it, of the one that names it."""
        self.write = write
        """The expression that becomes its value, of one value."""
        self.is_pinned = is_pinned
        """It is read under settings that the connection must have for that while."""
        self._decode = decode
        self._encode = encode
        self._identify = identify
        self._key = key

    def decode(self, raw: Any) -> Value:
        """Return the value of what `read` brought."""
        return None if raw is None else self._decode(raw)

    def encode(self, value: Value) -> Any:
        """Return what `write` takes."""
        return None if value is None else self._encode(value)

    @property
    def identifies(self) -> bool:
        """Whether rows can be told apart by such a column, however somebody spells its values."""
        return self._identify is not None

    @property
    def key(self) -> Read | None:
        """The expression that folds a value as the column's collation does, if one is needed. What
        it returns is a text, and the part of the key.
        """
        return self._key

    def part(self, value: Value, folded: Any = None) -> KeyPart:
        """Return a value as a part of a row's key; `folded` is what `key` brought."""
        if value is None:
            return None
        if self._key is not None:
            return bounded(text_of(folded))
        assert self._identify is not None, f"no row is identified by {self.kind}"
        part = self._identify(value)
        if isinstance(part, str):
            return bounded(part)
        is_greater = isinstance(part, int) and not -(2**63) <= part < 2**63
        return f"int:{part}" if is_greater else part


def bounded(text: str) -> str:
    """Return a text that fits a key: itself, or its digest."""
    if len(text) <= GREATEST_KEY_TEXT:
        return text
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def text_of(raw: Any) -> str:
    """Return a text, which some connections bring as bytes."""
    return raw.decode() if isinstance(raw, (bytes, bytearray)) else str(raw)


def bytes_of(raw: Any) -> bytes:
    """Return bytes, which some connections bring as views."""
    return bytes(raw)


def integer(raw: Any) -> int:
    """Return a whole number."""
    return int(text_of(raw)) if isinstance(raw, (str, bytes, bytearray)) else int(raw)


def decimal(raw: Any) -> Decimal:
    """Return a number with all of its digits."""
    return Decimal(text_of(raw))


def floating(raw: Any) -> float:
    """Return a floating-point number from its decimal digits."""
    return float(text_of(raw))


def floating_bits(raw: Any) -> float:
    """Return a floating-point number from the digits of its eight bytes."""
    (value,) = struct.unpack(">d", bytes.fromhex(text_of(raw)))
    assert isinstance(value, float)
    return value


def written(kind: str) -> Decode:
    """Return what keeps a value as the database writes it."""
    return lambda raw: Written(kind, text_of(raw))


def text(value: Value) -> str:
    """Return a value as text, as it is written to the database."""
    return str(value)


def hexadecimal(value: Value) -> str:
    """Return bytes as digits."""
    assert isinstance(value, bytes)
    return value.hex()


def uuid(raw: Any) -> UUID:
    """Return a UUID."""
    return UUID(text_of(raw))


def identify_decimal(value: Value) -> str:
    """Write a number in one way: 1.0 and 1.00 are the same row."""
    assert isinstance(value, Decimal)
    digits = format(value, "f")
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    return f"decimal:{'0' if digits in {'-0', ''} else digits}"


def identify_float(value: Value) -> str:
    """Write a number in one way: 0.0 and -0.0 are the same row."""
    assert isinstance(value, float)
    return f"float:{value + 0.0!r}"


def identify_bytes(value: Value) -> str:
    """Write bytes as digits."""
    return f"bytes:{hexadecimal(value)}"


def identify_plain(value: Value) -> KeyPart:
    """Take a number or a truth value as it is."""
    assert isinstance(value, int)
    return value


def identify_text(value: Value) -> str:
    """Take a text as it is."""
    return str(value)
