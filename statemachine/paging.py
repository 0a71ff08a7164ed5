"""Cursors of lists: the last row that a page looked at, as text."""

from __future__ import annotations

import re
from typing import Final

from statemachine import keys

_GREATEST_BYTES: Final = keys.GREATEST_NAME_BYTES + 8

GREATEST_CURSOR_LENGTH: Final = 2 * _GREATEST_BYTES
"""Of a cursor as text: hexadecimal digits, two a byte."""

_CURSOR: Final = re.compile(r"(?:[0-9a-f]{2})*")
NOT_OURS: Final = "cursor is not one that this list gave out; leave it out to begin anew"


class InvalidCursorError(ValueError):
    """A cursor is none that a list gave out."""


def encode_cursor(position: bytes) -> str:
    return position.hex()


def decode_cursor(cursor: str) -> bytes:
    """Raises: InvalidCursorError"""
    if len(cursor) > GREATEST_CURSOR_LENGTH or _CURSOR.fullmatch(cursor) is None:
        raise InvalidCursorError(NOT_OURS)
    return bytes.fromhex(cursor)
