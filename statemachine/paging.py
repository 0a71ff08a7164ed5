"""Cursors of lists: the last row that a page looked at, as text."""

from __future__ import annotations

from typing import Final

from statemachine import keys

_GREATEST_BYTES: Final = keys.GREATEST_NAME_BYTES + 8
_NOT_OURS: Final = "cursor is not one that this list gave out; leave it out to begin anew"


class InvalidCursorError(ValueError):
    """A cursor is none that a list gave out."""


def encode_cursor(position: bytes) -> str:
    return position.hex()


def decode_cursor(cursor: str) -> bytes:
    """Raises: InvalidCursorError"""
    try:
        position = bytes.fromhex(cursor)
    except ValueError as error:
        raise InvalidCursorError(_NOT_OURS) from error
    if len(position) > _GREATEST_BYTES:
        raise InvalidCursorError(_NOT_OURS)
    return position
